"""Sidecar for proxies: it admits requests whose key has the rights that the proxy requires.

It serves Envoy's external authorization over gRPC, and forward authentication over HTTP for nginx,
Traefik and Caddy. One `AsyncVerifier` gives all verdicts. It must not let a request pass without a
verdict: every failure is a 503. Requirements come from the proxy's configuration, never from the
client. Begin with `check`, which both ends call; `envoy` and `forward_auth` are the ends, `sidecar`
runs them, `authority` is the connection behind them.
"""
