"""The client for asyncio: the names of `client`, awaited."""

from __future__ import annotations

from keyauthority.aio.audit import AsyncAuditCalls
from keyauthority.aio.connection import AsyncListing, AsyncWatch
from keyauthority.aio.keys import AsyncKeyCalls
from keyauthority.aio.projects import AsyncProjectCalls
from keyauthority.aio.tokens import AsyncTokenCalls
from keyauthority.aio.usage import AsyncUsageCalls
from keyauthority.aio.watch import AsyncWatchCalls

__all__ = ["AsyncClient", "AsyncListing", "AsyncWatch"]


class AsyncClient(
    AsyncProjectCalls,
    AsyncKeyCalls,
    AsyncTokenCalls,
    AsyncUsageCalls,
    AsyncAuditCalls,
    AsyncWatchCalls,
):
    """Calls the authority at an address: `host:port` or `unix:/path`.

    Several servers of one authority are `10.0.0.1:50051,10.0.0.2:50051`, or a name that has them
    all, `dns:///name:50051`, which is also how they are reached with TLS. Calls take turns over
    those that serve, as their health service tells.

    Make one anywhere, and close it in the end (it is an async context manager). Any number of tasks
    may share it; each event loop that uses it has a connection of its own. A process that is forked
    while it is connected cannot use asyncio with gRPC: fork first, or start processes by spawn.
    `operator_key` is the caller's credential; without one only `get_project_id`, and `revoke_key`
    by secret, can be called. `timeout` is in seconds, for every call that names none itself.

    `tls` is True for TLS with an authority that a public issuer vouches for, or a `Tls` with your
    own; a client certificate that the authority knows stands in for the operator key. Without TLS
    an address beyond this machine raises InvalidArgument, since keys would cross the network in
    plaintext; `allow_plaintext=True` permits it, for networks that encrypt by themselves.

    Each call raises a `KeyAuthorityError`: what the authority answered, or Unavailable and
    DeadlineExceeded if no answer came. A call that ends with Unavailable is repeated a few times
    within the timeout, if a second attempt does no harm:

    - reads, verifications among them; one whose answer was lost may so be drawn from its limits
      twice;
    - create_key, rotate_key and create_project: all attempts carry one request_id, a fresh one
      unless you give yours, and make one key or project. With your own the call can be repeated
      after DeadlineExceeded too, within 24 hours, and gives the same secret;
    - revoke_key, since a key is revoked once, and report_usage, whose batch_id counts once.

    update_key and update_project are not repeated: after an attempt that succeeded unseen the next
    would be refused for its etag, or, without one, undo what somebody else has changed since.
    """
