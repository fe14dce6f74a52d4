// Make keys with better-auth's API key plugin; print them and the rows of its table as JSON.
import { apiKey } from "@better-auth/api-key";
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";

const tables = { user: [], session: [], account: [], verification: [], apikey: [] };
const auth = betterAuth({
  baseURL: "http://127.0.0.1:1",
  database: memoryAdapter(tables),
  emailAndPassword: { enabled: true },
  logger: { disabled: true },
  plugins: [apiKey()],
  secret: "of no importance, since nothing is served",
  telemetry: { enabled: false },
});
const { user } = await auth.api.signUpEmail({
  body: { email: "a@example.com", name: "a", password: "of no importance" },
});

const kinds = {
  plain: {},
  full: {
    expiresIn: 30 * 86400,
    permissions: { orders: ["read", "write"] },
    prefix: "acme_",
    rateLimitEnabled: true,
    rateLimitMax: 10,
    rateLimitTimeWindow: 60_000,
    refillAmount: 100,
    refillInterval: 86_400_000,
    remaining: 5,
  },
  disabled: {},
};
const keys = {};
for (const [name, fields] of Object.entries(kinds)) {
  const made = await auth.api.createApiKey({ body: { name, userId: user.id, ...fields } });
  if (name === "disabled") {
    await auth.api.updateApiKey({ body: { enabled: false, keyId: made.id, userId: user.id } });
  }
  const { valid } = await auth.api.verifyApiKey({ body: { key: made.key } });
  if (valid !== (name !== "disabled")) throw new Error(`${name}: valid is ${valid}`);
  keys[name] = made.key;
}
console.log(JSON.stringify({ keys, rows: tables.apikey }));
