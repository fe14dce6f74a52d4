"""A story for each type of advisory: a key, and whether it has the advisory as time passes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from keyauthority.model import (
    CANARY_LABEL,
    AdvisoryType,
    KeyKind,
    KeyMode,
    Restrictions,
    VerdictCode,
)
from tests.store.advisory_world import DAY, HOUR, World
from tests.store.factories import SECOND

LIMITED: Final = Restrictions(allowed_ips=("192.0.2.0/24",))
CANARY: Final = {CANARY_LABEL: "vault"}

Story = AsyncIterator[tuple[str, bool]]
"""Yields, as time passes, a key and whether it has the advisory then."""


async def dormant(world: World) -> Story:
    """Not used for 90 days; any presentation is a use."""
    name = await world.create(restrictions=LIMITED)
    await world.present(name, client_ip="192.0.2.7")
    world.after(90 * DAY - SECOND)
    yield name, False
    world.after(SECOND)
    yield name, True
    assert VerdictCode.IP_NOT_ALLOWED is await world.present(name, client_ip="10.0.0.1")
    yield name, False


async def never_used(world: World) -> Story:
    """Created 90 days ago, and never presented."""
    name = await world.create(restrictions=LIMITED)
    world.after(90 * DAY - SECOND)
    yield name, False
    world.after(SECOND)
    yield name, True
    await world.present(name)
    yield name, False


async def expiring(world: World) -> Story:
    """Expires within 30 days, until it is extended or rotated."""
    name = await world.create(restrictions=LIMITED, expire_time=world.now + 31 * DAY)
    yield name, False
    world.after(DAY)
    yield name, True
    await world.update(name, expire_time=world.now + 30 * DAY + SECOND)
    yield name, False
    world.after(SECOND)
    yield name, True
    await world.rotate(name, 2 * DAY)
    yield name, False


async def overlap_ending_in_use(world: World) -> Story:
    """Superseded within 24 hours, and presented in the last hour, after its rotation."""
    name = await world.create(restrictions=LIMITED)
    await world.present(name, client_ip="192.0.2.7")
    successor = await world.rotate(name, 26 * HOUR)
    world.after(HOUR)
    await world.present(name, client_ip="192.0.2.7")
    yield name, False
    world.after(HOUR)
    await world.present(name, client_ip="192.0.2.7")
    yield name, True
    yield successor, False
    world.after(HOUR + SECOND)
    yield name, False
    await world.present(name, client_ip="192.0.2.7")
    yield name, True
    world.after(23 * HOUR)
    await world.present(name)
    yield name, False  # it is superseded: USED_AFTER_END


async def used_after_end(world: World) -> Story:
    """Presented since it was revoked, superseded or expired; no longer once it is extended."""
    name = ""
    for end in ("revoke", "supersede", "expire"):
        name = await world.create(expire_time=world.now + DAY)
        await world.present(name)
        if end == "revoke":
            await world.revoke(name)
        elif end == "supersede":
            await world.rotate(name, HOUR)
        world.after(2 * DAY)
        yield name, False
        await world.present(name, access_key="KA000000000000000000")
        yield name, True
    await world.update(name, expire_time=world.now + DAY)
    yield name, False
    world.after(DAY)
    yield name, False  # the presentations before belong to its former end
    await world.present(name)
    yield name, True
    await world.revoke(name)
    yield name, True


async def canary_used(world: World) -> Story:
    """Presented while it has the label, with any verdict."""
    name = await world.create(restrictions=LIMITED)
    await world.present(name)
    await world.update(name, labels=CANARY)
    yield name, False
    assert VerdictCode.IP_NOT_ALLOWED is await world.present(name, client_ip="10.0.0.1")
    yield name, True
    await world.update(name, labels={})
    yield name, False


async def unrestricted(world: World) -> Story:
    """A live SECRET key without restriction."""
    for fields in (
        {"mode": KeyMode.TEST},
        {"kind": KeyKind.RESTRICTED, "permissions": ("orders:read",)},
        {"kind": KeyKind.PUBLISHABLE},
        {"restrictions": LIMITED},
    ):
        yield await world.create(**fields), False
    name = await world.create()
    yield name, True
    await world.update(name, restrictions=LIMITED)
    yield name, False


async def old(world: World) -> Story:
    """365 days without rotation."""
    name = await world.create(restrictions=LIMITED)
    world.after(365 * DAY - SECOND)
    await world.present(name, client_ip="192.0.2.7")
    yield name, False
    world.after(SECOND)
    yield name, True
    yield await world.rotate(name, DAY), False
    yield name, False


async def unused_permissions(world: World) -> Story:
    """Granted for 90 days, and not asked for on these days."""
    permissions = ("orders:read", "billing.*:read", "billing.invoices:write")
    name = await world.create(kind=KeyKind.RESTRICTED, permissions=permissions)
    await world.present(name, *permissions[::2], "billing.refunds:read")
    world.after(90 * DAY)
    await world.present(name)
    yield name, False  # the first day counts whole
    world.after(DAY)
    yield name, True
    await world.present(name, "orders:read", "billing.invoices.lines:read")
    await world.present(name, "billing.invoices:read")
    yield name, False
    await world.update(name, permissions=("orders:read", "orders:write"))
    yield name, False  # granted just now
    for _ in range(91):
        world.after(DAY)
        await world.present(name, "orders:read")
    yield name, True
    await world.update(name, permissions=("orders:read",))
    yield name, False


STORIES: Final[dict[AdvisoryType, Callable[[World], Story]]] = {
    AdvisoryType.DORMANT: dormant,
    AdvisoryType.NEVER_USED: never_used,
    AdvisoryType.EXPIRING: expiring,
    AdvisoryType.OVERLAP_ENDING_IN_USE: overlap_ending_in_use,
    AdvisoryType.USED_AFTER_END: used_after_end,
    AdvisoryType.CANARY_USED: canary_used,
    AdvisoryType.UNRESTRICTED: unrestricted,
    AdvisoryType.OLD: old,
    AdvisoryType.UNUSED_PERMISSIONS: unused_permissions,
}
