"""Ceiling of delegation: an operator cannot create a key that exceeds its own."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from keyauthority.decision import grants_of
from keyauthority.model import Key
from keyauthority.permissions import covers
from keyauthority.restrictions import ips_within


class Ceiling(NamedTuple):
    """The permissions, projects, client addresses and expiry of an operator key."""

    permissions: tuple[str, ...]
    projects: tuple[str, ...]
    """Empty means all."""
    allowed_ips: tuple[str, ...]
    """Empty means all."""
    expire_time: datetime | None

    def violation(self, own: Ceiling) -> str:
        """Return a message for the caller that names the excess over `own`; empty if none."""
        for permission in self.permissions:
            if not any(covers(grant, permission) for grant in own.permissions):
                return f"permission {permission} exceeds the permissions of your own key"
        if own.projects and not (self.projects and set(self.projects) <= set(own.projects)):
            return "operator_projects exceeds the projects of your own key"
        if own.allowed_ips and not ips_within(self.allowed_ips, own.allowed_ips):
            return "restrictions.allowed_ips exceeds the addresses of your own key"
        if own.expire_time is not None and (
            self.expire_time is None or self.expire_time > own.expire_time
        ):
            return "the key would expire after your own key; set an earlier expire_time"
        return ""


def ceiling_of(key: Key) -> Ceiling:
    """Return the ceiling of an operator key."""
    return Ceiling(
        grants_of(key), key.operator_projects, key.restrictions.allowed_ips, key.expire_time
    )


def widens(old: Key, new: Key) -> bool:
    """True if an update extends an operator key, prolongs it or enables it again."""
    return (old.disabled and not new.disabled) or bool(ceiling_of(new).violation(ceiling_of(old)))
