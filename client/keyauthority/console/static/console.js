// Enhancements of pages that work without them: copying, checks while typing, live tables.
"use strict";

const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function enableCopy() {
  const status = document.getElementById("copied");
  for (const button of all("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const element = document.getElementById(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(element.textContent);
        status.textContent = "Copied.";
      } catch {
        getSelection().selectAllChildren(element);
        status.textContent = "Selected: press Ctrl+C.";
      }
    });
  }
  for (const button of all("[data-download]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const text = document.getElementById(button.dataset.download).textContent;
      const line = `${button.dataset.name}=${text}\n`;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([line], { type: "text/plain" }));
      link.download = "key.env";
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }
}

// A page with a secret never comes back from the memory of the browser.
function forgetSecret() {
  const secret = document.getElementById("secret-key");
  if (!secret) return;
  addEventListener("pagehide", () => secret.replaceChildren());
  addEventListener("pageshow", (event) => event.persisted && location.reload());
}

function enableChecks() {
  const token = document.querySelector("main input[name=csrf_token]")?.value;
  for (const field of all("[data-check]")) {
    let timer;
    field.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => check(field, token), 300);
    });
  }
}

async function check(field, token) {
  const text = field.value;
  const body = new URLSearchParams({ csrf_token: token, [field.name]: text });
  const response = await fetch("/check", { method: "POST", body }).catch(() => null);
  if (!response?.ok || field.value !== text) return;
  const errors = (await response.json())[field.name] ?? [];
  const list = document.createElement("ul");
  list.className = "error";
  list.id = `${field.name}-error`;
  list.append(...errors.map((error) => Object.assign(document.createElement("li"), { textContent: error })));
  document.getElementById(`${field.name}-problems`).replaceChildren(...(errors.length ? [list] : []));
  if (errors.length) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
}

// Replaces the parts of the page that show records; forms and the place of the reader stay.
async function renew() {
  const regions = all("[data-live]");
  if (regions.some((region) => region.contains(getSelection().anchorNode) && !getSelection().isCollapsed)) return;
  const headers = { "x-live-update": "1" };
  const response = await fetch(location.href, { headers }).catch(() => null);
  if (!response?.ok || response.redirected) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const region of regions) {
    const successor = fresh.getElementById(region.id);
    if (!successor || successor.innerHTML === region.innerHTML) continue;
    const focused = region.contains(document.activeElement) && document.activeElement.getAttribute("href");
    const opened = all("details", region).map((details) => details.open);
    const before = new Set(all("tr .main", region).map((link) => link.getAttribute("href")));
    all("details", successor).forEach((details, place) => { details.open = opened[place] ?? false; });
    region.replaceChildren(...successor.childNodes);
    for (const link of all("tr .main", region)) {
      if (before.size && !before.has(link.getAttribute("href"))) link.closest("tr").classList.add("fresh");
    }
    if (focused) all("a", region).find((link) => link.getAttribute("href") === focused)?.focus();
  }
}

function enableLive() {
  const project = document.body.dataset.watch;
  if (project === undefined) return;
  const pause = 1000; // milliseconds between two renewals
  let source, timer, opened = false;
  const later = () => { timer ??= setTimeout(() => { timer = undefined; renew(); }, pause); };
  const open = () => {
    source = new EventSource(`/changes?project_id=${encodeURIComponent(project)}`);
    source.addEventListener("change", later);
    source.addEventListener("open", () => { if (opened) later(); opened = true; });
  };
  // A browser has few connections for one host: only the visible page holds one.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) source?.close();
    else open();
  });
  if (!document.hidden) open();
}

// A search reads a part of the keys; go on until a page is full or all are read.
async function continueSearch() {
  const more = document.querySelector("a[data-continue]");
  const body = document.querySelector("table.keys tbody");
  if (!more || (body && body.rows.length >= 50)) return;
  const response = await fetch(more.href, { headers: { "x-live-update": "1" } }).catch(() => null);
  if (!response?.ok || response.redirected) return;
  const next = new DOMParser().parseFromString(await response.text(), "text/html");
  const region = document.getElementById("live-keys");
  const found = next.getElementById("live-keys");
  const rows = all("table.keys tbody tr", found);
  if (body) {
    body.append(...rows);
    region.querySelector(".pages").replaceWith(found.querySelector(".pages"));
  } else {
    region.replaceChildren(...found.childNodes);
  }
  continueSearch();
}

enableCopy();
forgetSecret();
enableChecks();
enableLive();
continueSearch();
