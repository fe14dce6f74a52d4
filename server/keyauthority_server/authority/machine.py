"""Who works on the machine itself, with the data folder: nothing is beyond him."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from keyauthority.model import Key, KeyKind, KeyMode
from keyauthority.permissions import EVERYTHING
from keyauthority.requests import NewKey
from keyauthority.results import CreatedKey
from keyauthority_server.authority.callers import Caller
from keyauthority_server.authority.desk import Desk
from keyauthority_server.authority.keys import Keys
from keyauthority_server.authority.redigesting import Redigesting
from keyauthority_server.peppers import Keyring
from keyauthority_server.records import RecordCache, Uncached
from keyauthority_server.store.base import Store
from keyauthority_server.store.clocks import clock_of

MACHINE: Final = "machine"
"""The actor of what was done with the data folder. There is no peer then."""

_EVER: Final = datetime.min.replace(tzinfo=UTC)
_CALLER: Final = Caller(
    Key(
        access_key=MACHINE,
        project_id="",
        mode=KeyMode.LIVE,
        kind=KeyKind.OPERATOR,
        permissions=EVERYTHING,
        create_time=_EVER,
        update_time=_EVER,
        revision=0,
    ),
    peer="",
    certified=True,  # as with a certificate, his key is in no store
)


async def create_operator(store: Store, peppers: Keyring, new: NewKey) -> CreatedKey:
    """Make an operator key.

    NotFound for a project that there is not, InvalidArgument for an end after the year 9999.
    """
    redigesting = Redigesting(store, peppers)
    records = RecordCache(store, Uncached(), peppers)
    keys = Keys(Desk(store, await clock_of(store), redigesting, records))
    return await redigesting.learned(lambda: keys.create(_CALLER, new, b""))
