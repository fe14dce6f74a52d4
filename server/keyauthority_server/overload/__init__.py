"""How many calls may be open, by class and by peer, and how long their messages may take.

It counts; it knows no transport, no RPC and no credential. A transport asks `OpenCalls` before it
serves a call and `PendingMessages` while it waits for the message. Begin with `open_calls`.
"""

from keyauthority_server.overload.addresses import address_of, network_of
from keyauthority_server.overload.open_calls import OpenCalls
from keyauthority_server.overload.pending import Pending, PendingMessages

__all__ = ["OpenCalls", "Pending", "PendingMessages", "address_of", "network_of"]
