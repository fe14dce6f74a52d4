"""The use cases: what the authority does, told in the contract's words.

It takes Store, Counters, Meter, Clock and the peppers in use, and knows no wire and no SQL.
"""

from __future__ import annotations

from keyauthority.clock import ClockJumped, SystemClock
from keyauthority.model import LogId
from keyauthority_server.audit import Refusals
from keyauthority_server.authority.audit import Audit
from keyauthority_server.authority.callers import Caller, Certified, Credential
from keyauthority_server.authority.desk import Desk
from keyauthority_server.authority.keys import Keys
from keyauthority_server.authority.projects import Projects
from keyauthority_server.authority.redigesting import Redigesting
from keyauthority_server.authority.rotating import Rotating
from keyauthority_server.authority.updating import Updating
from keyauthority_server.authority.usage import Usage
from keyauthority_server.authority.verification import Verification
from keyauthority_server.authority.watching import Admit, Update, Watching
from keyauthority_server.feed import Feed, Recent
from keyauthority_server.records import RecordCache
from keyauthority_server.store.base import Store, StoreError
from keyauthority_server.store.counters import Counters
from keyauthority_server.usage import Meter

__all__ = ["Admit", "Authority", "Caller", "Certified", "Credential", "Update"]


class Authority:
    """All use cases on one store."""

    def __init__(
        self,
        store: Store,
        counters: Counters,
        meter: Meter,
        clock: SystemClock,
        redigesting: Redigesting,
        refusals: Refusals,
        feed: Feed,
        records: RecordCache,
    ) -> None:
        desk = Desk(store, clock, redigesting, records)
        self.records = records
        self.clock = clock
        self._store = store
        self.log_id: LogId = store.log_id
        self.admit = desk.admit
        self.learned = redigesting.learned
        self.keys_under_old_peppers = desk.keys_under_old_peppers
        self.keys = Keys(desk)
        self.projects = Projects(desk)
        self.rotating = Rotating(desk)
        self.updating = Updating(desk)
        self.usage = Usage(desk)
        self.audit = Audit(desk, refusals)
        self.verification = Verification(desk, counters, meter)
        self.watching = Watching(desk, Recent(feed))

    async def can_answer(self) -> bool:
        """True if a Verify of any key could be answered now; it takes one look at the store."""
        try:
            self.clock.now()
            self.records.check_fresh()
            await self._store.look(None, None)
        except (StoreError, ClockJumped):
            return False
        return True
