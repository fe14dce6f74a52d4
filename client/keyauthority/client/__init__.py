"""The client for programs that wait. `aio` has the same names, awaited."""

from __future__ import annotations

from keyauthority.client.audit import AuditCalls
from keyauthority.client.connection import Listing, Watch
from keyauthority.client.keys import KeyCalls
from keyauthority.client.projects import ProjectCalls
from keyauthority.client.tokens import TokenCalls
from keyauthority.client.usage import UsageCalls
from keyauthority.client.watch import WatchCalls

__all__ = ["Client", "Listing", "Watch"]


class Client(ProjectCalls, KeyCalls, TokenCalls, UsageCalls, AuditCalls, WatchCalls):
    """Calls the authority at an address: `host:port` or `unix:/path`.

    Several servers of one authority are `10.0.0.1:50051,10.0.0.2:50051`, or a name that has them
    all, `dns:///name:50051`, which is also how they are reached with TLS. Calls take turns over
    those that serve, as their health service tells.

    Safe to share between threads; make one, and close it in the end (it is a context manager). In a
    forked process it connects again by itself. Under gevent call
    `grpc.experimental.gevent.init_gevent()` first.
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
