"""The asyncio client: the methods of `client`, awaited.

One module per group of RPCs, each a mixin of `AsyncClient`. They hold no rules of their own:
requests are built in `_requests` and translated in `convert`. Begin with `connection`, which makes
every call.
"""

from __future__ import annotations

from keyauthority.aio.advisories import AsyncAdvisoryCalls
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
    AsyncAdvisoryCalls,
    AsyncWatchCalls,
):
    """Client of the authority at an address: `host:port` or `unix:/path`.

    For several servers of one authority list their addresses, `10.0.0.1:50051,10.0.0.2:50051`, or
    use a DNS name that resolves to all of them, `dns:///name:50051`; TLS requires the name. Calls
    are balanced round-robin over the servers whose health service reports SERVING.

    Create one client, share it between tasks, and close it when done (it is an async context
    manager). It may be created outside an event loop; each loop that uses it has its own
    connection. A process forked while it is connected cannot use asyncio with gRPC: fork before
    the first call, or start processes by spawn.

    `operator_key` is the caller's credential; without it only `get_project_id`, and `revoke_key`
    by secret, can be called. `timeout` is the default timeout of a call, in seconds.

    `tls` is True to trust gRPC's default roots, or a `Tls` with explicit certificates; a client
    certificate registered with the authority replaces the operator key. Without TLS an address
    outside this machine raises InvalidArgument, since keys would cross the network in plaintext;
    `allow_plaintext=True` permits it, for networks that are encrypted at a lower layer.

    Every failed call raises a `KeyAuthorityError`: the authority's error, or Unavailable or
    DeadlineExceeded if no response arrived. A call that fails with Unavailable is retried, up to 4
    attempts within the timeout, if it is safe to repeat:

    - reads and verifications. A verification whose response was lost may spend from its
      limits twice;
    - create_key, rotate_key and create_project: all attempts carry the same request_id, generated
      unless passed, and create one key or project. Pass your own request_id to repeat the call
      yourself after DeadlineExceeded, within 24 hours; it returns the same secret;
    - revoke_key, which is idempotent, and report_usage, which counts each batch_id once.

    update_key and update_project are not retried: if the first attempt was committed, a second one
    would fail on its etag or, without an etag, overwrite a concurrent change.
    """
