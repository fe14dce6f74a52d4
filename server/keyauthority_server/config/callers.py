"""`[[callers]]`: the client certificates that stand for an operator, and what each may do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from keyauthority.permissions import is_grant
from keyauthority_server.rights import not_rights

SAN_MAX: Final = 200  # characters, as of a purpose: ListEvents finds an actor by no more
LIST_MAX: Final = 100  # permissions, projects: as an operator key has

_FIELDS: Final = frozenset({"san", "permissions", "projects"})
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DNS: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_URI: Final = re.compile(r"[a-z][a-z0-9+.-]*:[!-~]+", re.ASCII)
_EMAIL: Final = re.compile(r"[!-?A-~]+@[!-?A-~]+", re.ASCII)
_PROJECT_ID: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII
)
_ACTORS: Final = frozenset({"machine", "restore", "secret", "setup"})  # who else the log knows


class SanKind(StrEnum):
    """What kind of name a SAN is; a name of one kind never stands for one of another."""

    DNS = "dns"
    URI = "uri"
    EMAIL = "email"


@dataclass(frozen=True, slots=True)
class CertificateCaller:
    """An operator who is known by a name in his certificate."""

    kind: SanKind
    san: str
    permissions: tuple[str, ...]
    projects: tuple[str, ...] = ()
    """The projects that he is confined to; empty means all."""

    def table(self) -> Mapping[str, str | list[str]]:
        """Return it as it stands in the file."""
        table: dict[str, str | list[str]] = {
            "san": self.san,
            "permissions": list(self.permissions),
        }
        return table | ({"projects": list(self.projects)} if self.projects else {})


@dataclass(frozen=True, slots=True)
class Callers:
    """All of them. As text they are JSON: a list of the file's tables."""

    entries: tuple[CertificateCaller, ...] = ()

    def __iter__(self) -> Iterator[CertificateCaller]:
        return iter(self.entries)

    def __str__(self) -> str:
        return json.dumps([dict(entry.table()) for entry in self.entries])

    @classmethod
    def parse(cls, text: str) -> Callers:
        """Read the text; ValueError says what is wrong in which entry."""
        try:
            tables = json.loads(text)
        except ValueError:
            raise ValueError("must be a list of tables: [[callers]]") from None
        if not isinstance(tables, list):
            raise ValueError("must be a list of tables: [[callers]]")
        entries: dict[tuple[SanKind, str], CertificateCaller] = {}
        for number, table in enumerate(tables):
            try:
                entry = _entry(table)
                if (entry.kind, entry.san) in entries:
                    raise ValueError(f"{entry.san} has an entry already")
            except ValueError as error:
                raise ValueError(f"entry {number + 1}: {error}") from None
            entries[entry.kind, entry.san] = entry
        return cls(tuple(entries.values()))


def _entry(table: object) -> CertificateCaller:
    if not isinstance(table, dict):
        raise ValueError("must be a table with san, permissions and projects")
    unknown = sorted(str(name) for name in table.keys() - _FIELDS)
    if unknown:
        raise ValueError(f"{unknown[0]!a} is no field of a caller")
    kind, san = _san(table.get("san"))
    permissions = _texts(table, "permissions")
    for permission in permissions:
        if not is_grant(permission):
            raise ValueError(f"{permission!a} is not a permission, such as keys:verify")
    for place, why in not_rights(permissions):
        raise ValueError(f"{permissions[place]!a} is {why}")
    if not permissions:
        raise ValueError("permissions must list at least one")
    projects = _texts(table, "projects")
    for project_id in projects:
        if not _PROJECT_ID.fullmatch(project_id):
            raise ValueError(f"{project_id!a} is no project_id: a lower-case UUID version 4")
    if "projects" in table and not projects:
        raise ValueError("projects must list at least one; without it they are all his")
    return CertificateCaller(kind, san, permissions, projects)


def _san(san: object) -> tuple[SanKind, str]:
    if not isinstance(san, str) or not san or len(san) > SAN_MAX:
        raise ValueError(
            f"san must be a DNS name, a URI or an email, of up to {SAN_MAX} characters"
        )
    if _URI.fullmatch(san):
        return SanKind.URI, san
    if _EMAIL.fullmatch(san):
        return SanKind.EMAIL, san
    name = san.lower()  # RFC 4343
    if not _DNS.fullmatch(name) or name in _ACTORS:
        raise ValueError(f"san {san!a} is no DNS name, URI or email that can be a caller")
    return SanKind.DNS, name


def _texts(table: Mapping[str, Any], field: str) -> tuple[str, ...]:
    texts = table.get(field, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{field} must be a list of strings")
    if len(texts) > LIST_MAX or len(set(texts)) < len(texts):
        raise ValueError(f"{field} must list up to {LIST_MAX}, each once")
    return tuple(texts)
