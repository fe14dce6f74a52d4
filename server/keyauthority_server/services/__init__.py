"""The use cases of the authority: keys, projects, verification, usage, audit and watch.

Services work on the interfaces of the store, the counters, the meter and the clock; they must not
know a wire format or contain SQL. Begin with `Authority`, which lists the services, and with
`context`, which every service uses to authenticate a caller and to commit a change.
"""

from __future__ import annotations

from contextlib import suppress

from keyauthority.clock import ClockJumped, SystemClock
from keyauthority.model import LogId
from keyauthority_server.audit import DenialLog
from keyauthority_server.change_feed import Feed, ReplayBuffer
from keyauthority_server.metering.usage import Meter
from keyauthority_server.records import RecordCache
from keyauthority_server.services.advisories import Advisories
from keyauthority_server.services.audit import Audit
from keyauthority_server.services.context import ServiceContext
from keyauthority_server.services.key_import import KeyImport
from keyauthority_server.services.key_rotation import KeyRotation
from keyauthority_server.services.key_updates import Updates
from keyauthority_server.services.keys import Keys
from keyauthority_server.services.principal import CertificateIdentity, Credential, Principal
from keyauthority_server.services.projects import Projects
from keyauthority_server.services.rehash import Rehasher
from keyauthority_server.services.usage import Usage
from keyauthority_server.services.verification import Verification
from keyauthority_server.services.watch import Authenticate, Update, Watch
from keyauthority_server.store.counters import Counters, CountersHandedOver
from keyauthority_server.store.interface import Store, StoreError

__all__ = ["Authenticate", "Authority", "CertificateIdentity", "Credential", "Principal", "Update"]


class Authority:
    """All use cases on one store."""

    def __init__(
        self,
        store: Store,
        counters: Counters,
        meter: Meter,
        clock: SystemClock,
        rehasher: Rehasher,
        denials: DenialLog,
        feed: Feed,
        records: RecordCache,
        token_prefix: str = "",
    ) -> None:
        context = ServiceContext(store, clock, rehasher, records, token_prefix)
        self.records = records
        self.clock = clock
        self._store = store
        self._counters = counters
        self.log_id: LogId = store.log_id
        self.authenticate = context.authenticate
        self.reject_forged = context.reject_forged
        self.with_current_peppers = rehasher.with_current_peppers
        self.keys_under_old_peppers = context.keys_under_old_peppers
        self.keys = Keys(context)
        self.key_import = KeyImport(context)
        self.projects = Projects(context)
        self.key_rotation = KeyRotation(context)
        self.updates = Updates(context)
        self.audit = Audit(context, denials)
        self.advisories = Advisories(context)
        self.verification = Verification(context, counters, meter)
        self.usage = Usage(context, self.verification.slices)
        self.watch = Watch(context, ReplayBuffer(feed))

    @property
    def can_change(self) -> bool:
        """False once this process can commit no change until it is restarted."""
        try:
            self._store.check_writer()
        except StoreError:
            return False
        return True

    async def can_answer(self) -> bool:
        """True if the server could answer a Verify of any key now, with limits or without."""
        try:
            self.clock.now()
            self.records.check_fresh()
            await self._store.check()
            with suppress(CountersHandedOver):  # the other records can be verified
                await self._counters.check()
        except (StoreError, ClockJumped):
            return False
        return True
