"""The use cases: what the authority does, told in the contract's words.

It takes Store, Counters, Meter, Clock and Peppers, and knows no wire and no SQL.
"""

from __future__ import annotations

from keyauthority.clock import Clock
from keyauthority.model import LogId
from keyauthority_server.authority.callers import Caller, Credential
from keyauthority_server.authority.desk import Desk
from keyauthority_server.authority.keys import Keys
from keyauthority_server.authority.projects import Projects
from keyauthority_server.authority.rotating import Rotating
from keyauthority_server.authority.updating import Updating
from keyauthority_server.authority.usage import Usage
from keyauthority_server.authority.verification import Verification
from keyauthority_server.peppers import Keyring
from keyauthority_server.store.base import Store
from keyauthority_server.store.counters import Counters
from keyauthority_server.usage import Meter

__all__ = ["Authority", "Caller", "Credential"]


class Authority:
    """All use cases on one store."""

    def __init__(
        self, store: Store, counters: Counters, meter: Meter, clock: Clock, peppers: Keyring
    ) -> None:
        desk = Desk(store, clock, peppers)
        self.log_id: LogId = store.log_id
        self.admit = desk.admit
        self.keys = Keys(desk)
        self.projects = Projects(desk)
        self.rotating = Rotating(desk)
        self.updating = Updating(desk)
        self.usage = Usage(desk)
        self.verification = Verification(desk, counters, meter)
