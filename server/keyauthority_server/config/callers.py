"""`[[callers]]`: client certificates that identify operators, with their permissions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from keyauthority.permissions import is_grant
from keyauthority.text import DNS_NAME, UUID4
from keyauthority_server.rights import not_rights

SAN_MAX: Final = 200  # characters, as of a purpose: the longest actor that ListEvents filters by
LIST_MAX: Final = 100  # permissions or projects, as for an operator key

_FIELDS: Final = frozenset({"san", "permissions", "projects"})
_URI: Final = re.compile(r"[a-z][a-z0-9+.-]*:[!-~]+", re.ASCII)
_EMAIL: Final = re.compile(r"[!-?A-~]+@[!-?A-~]+", re.ASCII)
_ACTORS: Final = frozenset({"machine", "restore", "secret", "setup"})  # other actors in the log


class SanKind(StrEnum):
    """The type of a subject alternative name; names of different types never match."""

    DNS = "dns"
    URI = "uri"
    EMAIL = "email"


@dataclass(frozen=True, slots=True)
class CertificateCaller:
    """An operator identified by a name in the client certificate."""

    kind: SanKind
    san: str
    permissions: tuple[str, ...]
    projects: tuple[str, ...] = ()
    """Projects that the operator is confined to; empty means all."""

    def table(self) -> Mapping[str, str | list[str]]:
        """Return the entry as its table in the file."""
        table: dict[str, str | list[str]] = {
            "san": self.san,
            "permissions": list(self.permissions),
        }
        return table | ({"projects": list(self.projects)} if self.projects else {})


@dataclass(frozen=True, slots=True)
class Callers:
    """All entries; their text form is a JSON list of the file's tables."""

    entries: tuple[CertificateCaller, ...] = ()

    def __iter__(self) -> Iterator[CertificateCaller]:
        return iter(self.entries)

    def __str__(self) -> str:
        return json.dumps([dict(entry.table()) for entry in self.entries])

    @classmethod
    def parse(cls, text: str) -> Callers:
        """Parse the text; raises ValueError that names the invalid entry."""
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
        raise ValueError(
            f"{unknown[0]!a} is not a field of a caller: use san, permissions, projects"
        )
    kind, san = _san(table.get("san"))
    permissions = _texts(table, "permissions")
    for permission in permissions:
        if not is_grant(permission):
            raise ValueError(f"{permission!a} is not a permission, such as keys:verify")
    for index, reason in not_rights(permissions):
        raise ValueError(f"{permissions[index]!a} is {reason}")
    if not permissions:
        raise ValueError("permissions must list at least one")
    projects = _texts(table, "projects")
    for project_id in projects:
        if not UUID4.fullmatch(project_id):
            raise ValueError(f"{project_id!a} is not a project_id: use a lower-case UUID version 4")
    if "projects" in table and not projects:
        raise ValueError("projects must list at least one; leave it out to permit all")
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
    if not DNS_NAME.fullmatch(name) or name in _ACTORS:
        raise ValueError(f"san {san!a} is not a DNS name, URI or email that can identify a caller")
    return SanKind.DNS, name


def _texts(table: Mapping[str, Any], field: str) -> tuple[str, ...]:
    texts = table.get(field, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{field} must be a list of strings")
    if len(texts) > LIST_MAX or len(set(texts)) < len(texts):
        raise ValueError(f"{field} must list up to {LIST_MAX}, each once")
    return tuple(texts)
