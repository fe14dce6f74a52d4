"""Limits on open calls, by class and by peer, and on the time until their messages arrive.

It counts, and must not know a transport, an RPC or a credential. Begin with `open_calls`: a
transport asks `OpenCalls` before it serves a call, and `PendingMessages` while it waits for the
message.
"""

from keyauthority_server.overload.addresses import address_of, network_of, peer_name
from keyauthority_server.overload.open_calls import OpenCalls
from keyauthority_server.overload.pending import Pending, PendingMessages

__all__ = ["OpenCalls", "Pending", "PendingMessages", "address_of", "network_of", "peer_name"]
