"""Webhooks: delivers changes and advisories to a receiver. Requires the extra `notify`.

A client of the API: it watches changes through `AsyncClient` and signs each event as Standard
Webhooks 1.0 says. It must not lose an event, send a secret, or connect to an address that has not
been checked. Begin with `sender`, which runs the others: `follow` and `advisories` read the
authority, `outbox` holds the events that are not delivered, `journal` is its file, `webhook` makes
one attempt.
"""
