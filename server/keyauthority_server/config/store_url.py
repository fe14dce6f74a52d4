"""The URL of the store: read by the rules of its engine, shown without what is secret."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote

from keyauthority_server.config.values import ConfigError

# Parameters of libpq whose value is a secret. It marks some of them itself, as `*`; not these.
_SECRET: Final = frozenset({"password", "sslpassword", "scram_client_key", "scram_server_key"})
_MARKED_SECRET: Final = b"*"

# The only form in which nobody can take a password for something else. libpq alone would read the
# `/` of postgresql://user:pass/word@host/db as the end of the hosts.
_POSTGRES: Final = re.compile(
    r"postgres(?:ql)?://(?:(?P<user>[^\s:@/?#\[\]]*)(?::[^\s@/?#\[\]]*)?@)?"
    r"(?P<hosts>[^\s@/?#]*)(?P<database>/[^\s@/?#]*)?(?:\?(?P<query>[^\s@#]*))?"
)
_SQLITE: Final = re.compile(r"sqlite:///+([^?#]+)")


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Where the store is. Only `reveal` gives the whole of it; what is printed has no password."""

    _url: str = field(repr=False)
    _shown: str
    has_password: bool = False
    """True if whoever reads the URL can use a password."""

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"StoreUrl('{self}')"

    def reveal(self) -> str:
        """Return the URL with all that it holds."""
        return self._url

    @property
    def is_postgres(self) -> bool:
        """True if it names a database of PostgreSQL, else a file of SQLite."""
        return self._url.startswith("postgres")

    @property
    def sqlite_path(self) -> Path:
        """The database file of an SQLite store; ConfigError if it is none."""
        if self.is_postgres:
            raise ConfigError(f"this is done to a file of SQLite, not to {self}")
        return Path(unquote(self._url.removeprefix("sqlite://")))

    @classmethod
    def sqlite(cls, path: Path) -> Self:
        """Return the URL of an SQLite file."""
        url = path.absolute().as_uri().replace("file", "sqlite", 1)
        return cls(url, url)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `sqlite:///ABSOLUTE/PATH`, or `postgresql://…` as libpq reads it.

        ValueError says what is wrong, and repeats nothing of the text: what could not be split may
        hold a password anywhere.
        """
        if re.match(r"postgres(?:ql)?://", text):
            return cls._postgres(text)
        if not text.startswith("sqlite:"):
            raise ValueError("must be sqlite:///PATH or postgresql://USER@HOST/DATABASE")
        found = _SQLITE.fullmatch(text)
        if found is None or not found[1].strip("/") or "\0" in unquote(text):
            raise ValueError("must be sqlite:///PATH, with an absolute path and nothing else")
        url = "sqlite:///" + found[1]
        return cls(url, url)

    @classmethod
    def _postgres(cls, text: str) -> Self:
        found = _POSTGRES.fullmatch(text)
        if found is None:
            raise ValueError(
                "is ambiguous: in user, password, database and parameters write @ as %40, / as "
                "%2F, ? as %3F, # as %23, [ as %5B, ] as %5D and a space as %20"
            )
        settings, secret = _read_by_libpq(text)
        if not (settings.keys() & {"dbname", "service"}):
            raise ValueError("must be postgresql://USER@HOST/DATABASE")
        parameters = (found["query"] or "").split("&")
        shown = "&".join(one for one in parameters if unquote(one.partition("=")[0]) not in secret)
        user = f"{found['user']}@" if found["user"] else ""
        place = f"postgresql://{user}{found['hosts']}{found['database'] or ''}"
        return cls(text, f"{place}?{shown}" if shown else place, not secret.isdisjoint(settings))


def _read_by_libpq(url: str) -> tuple[dict[str, str], frozenset[str]]:
    """Return what libpq reads in a URL, and the names of its parameters that are secret."""
    try:
        from psycopg import OperationalError, pq
    except ImportError:
        raise ValueError(
            "PostgreSQL needs a driver that is not installed: pip install 'keyauthority[postgres]'"
        ) from None
    try:
        options = pq.Conninfo.parse(url.encode())
        settings = {
            one.keyword.decode(): one.val.decode() for one in options if one.val is not None
        }
    except OperationalError as error:
        if str(error).startswith("invalid URI query parameter"):
            raise ValueError("has a parameter that libpq does not know") from None
        raise ValueError("is malformed for libpq") from None
    except UnicodeError:
        raise ValueError("is not UTF-8") from None
    ports = settings.get("port", "").split(",")
    if not all(re.fullmatch(r"[0-9]{0,5}", port, re.ASCII) for port in ports):
        raise ValueError("has a port that is not a number: is @HOST missing?")
    marked = {one.keyword.decode() for one in options if one.dispchar == _MARKED_SECRET}
    return settings, _SECRET | marked
