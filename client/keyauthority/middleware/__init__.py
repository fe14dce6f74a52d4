"""Services that protect themselves with keys: one framework, one module, none needed at install.

`asgi`, `wsgi`, `fastapi` and `grpc` take a `Verifier` or `Client`, `AsyncVerifier` or
`AsyncClient`. The key is taken from `authorization: Bearer`, `x-api-key` or `x-auth-token`; the
client's address from the connection, or behind proxies from what the trusted ones have written.
"""
