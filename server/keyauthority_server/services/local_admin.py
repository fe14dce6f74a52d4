"""The local administrator: access to the data folder grants every permission."""

from __future__ import annotations

from typing import Final

from keyauthority.clock import LONG_AGO
from keyauthority.model import Key, KeyKind, KeyMode
from keyauthority.permissions import EVERYTHING
from keyauthority.requests import NewKey
from keyauthority.results import CreatedKey
from keyauthority_server.keyring import Keyring
from keyauthority_server.records import RecordCache, Uncached
from keyauthority_server.services.context import ServiceContext
from keyauthority_server.services.keys import Keys
from keyauthority_server.services.principal import Principal
from keyauthority_server.services.rehash import Rehasher
from keyauthority_server.store.clocks import clock_of
from keyauthority_server.store.interface import Store

MACHINE: Final = "machine"
"""The actor of changes made on the machine itself; their peer is empty."""

_CALLER: Final = Principal(
    Key(
        access_key=MACHINE,
        project_id="",
        mode=KeyMode.LIVE,
        kind=KeyKind.OPERATOR,
        permissions=EVERYTHING,
        create_time=LONG_AGO,
        update_time=LONG_AGO,
        revision=0,
    ),
    peer="",
    certified=True,  # as with a certificate, the key is not in the store
)


async def create_operator(
    store: Store, peppers: Keyring, new: NewKey, token_prefix: str = ""
) -> CreatedKey:
    """Create an operator key; its token has the prefix of the deployment.

    NotFound for an absent project, InvalidArgument for an expiry after the year 9999.
    """
    rehasher = Rehasher(store, peppers)
    records = RecordCache(store, Uncached(), peppers)
    context = ServiceContext(store, await clock_of(store), rehasher, records, token_prefix)
    keys = Keys(context)
    return await rehasher.with_current_peppers(keys.create, _CALLER, new, b"")
