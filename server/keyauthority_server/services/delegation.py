"""How far an operator key reaches, and which of two reaches beyond the other."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from keyauthority.decision import grants_of
from keyauthority.model import Key
from keyauthority.permissions import covers
from keyauthority.restrictions import ips_within


class Ceiling(NamedTuple):
    """What an operator may do, where, from where and until when."""

    permissions: tuple[str, ...]
    projects: tuple[str, ...]
    """Empty means all."""
    allowed_ips: tuple[str, ...]
    """Empty means all."""
    expire_time: datetime | None

    def beyond(self, own: Ceiling) -> str:
        """Return where this goes beyond a caller's own, a sentence for him; empty if nowhere."""
        for one in self.permissions:
            if not any(covers(grant, one) for grant in own.permissions):
                return f"the permission {one} is beyond your own"
        if own.projects and not (self.projects and set(self.projects) <= set(own.projects)):
            return "its projects are beyond your own"
        if own.allowed_ips and not ips_within(self.allowed_ips, own.allowed_ips):
            return "the addresses that it may be used from are beyond your own"
        if own.expire_time is not None and (
            self.expire_time is None or self.expire_time > own.expire_time
        ):
            return "it would outlive your own key"
        return ""


def ceiling_of(key: Key) -> Ceiling:
    """Return the bounds of an operator key."""
    return Ceiling(
        grants_of(key), key.operator_projects, key.restrictions.allowed_ips, key.expire_time
    )


def widens(old: Key, new: Key) -> bool:
    """True if an operator key reaches further than before: more, longer, or again."""
    return (old.disabled and not new.disabled) or bool(ceiling_of(new).beyond(ceiling_of(old)))
