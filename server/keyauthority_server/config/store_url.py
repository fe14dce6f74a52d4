"""The store URL: parsed by the rules of its engine, printed without secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote

from keyauthority_server.config.values import ConfigError

# Secret parameters of libpq that it does not mark as secret (`*`) itself.
_SECRET: Final = frozenset({"password", "sslpassword", "scram_client_key", "scram_server_key"})
_MARKED_SECRET: Final = b"*"

# The only form in which no part of a password can be misread. libpq by itself reads the `/` of
# postgresql://user:pass/word@host/db as the end of the hosts.
_POSTGRES: Final = re.compile(
    r"postgres(?:ql)?://(?:(?P<user>[^\s:@/?#\[\]]*)(?::[^\s@/?#\[\]]*)?@)?"
    r"(?P<hosts>[^\s@/?#]*)(?P<database>/[^\s@/?#]*)?(?:\?(?P<query>[^\s@#]*))?"
)
_SQLITE: Final = re.compile(r"sqlite:///+([^?#]+)")


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Location of the store; only `reveal` returns it with its password."""

    _url: str = field(repr=False)
    _shown: str
    has_password: bool = False
    """True if the URL contains a password."""

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"StoreUrl('{self}')"

    def reveal(self) -> str:
        """Return the complete URL, password included."""
        return self._url

    @property
    def is_postgres(self) -> bool:
        """True for a PostgreSQL database, False for an SQLite file."""
        return self._url.startswith("postgres")

    @property
    def engine(self) -> str:
        """The engine's name: `sqlite` or `postgresql`."""
        return "postgresql" if self.is_postgres else "sqlite"

    @property
    def sqlite_path(self) -> Path:
        """The database file of an SQLite store; raises ConfigError for PostgreSQL."""
        if self.is_postgres:
            raise ConfigError(f"this command needs an SQLite store, not {self}")
        return Path(unquote(self._url.removeprefix("sqlite://")))

    @classmethod
    def sqlite(cls, path: Path) -> Self:
        """Return the URL of an SQLite file."""
        url = path.absolute().as_uri().replace("file", "sqlite", 1)
        return cls(url, url)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `sqlite:///ABSOLUTE/PATH`, or `postgresql://…` as libpq reads it.

        The message of a ValueError quotes no part of the text: a URL that cannot be parsed may
        contain a password anywhere.
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
        shown = "&".join(
            parameter
            for parameter in parameters
            if unquote(parameter.partition("=")[0]) not in secret
        )
        user = f"{found['user']}@" if found["user"] else ""
        base = f"postgresql://{user}{found['hosts']}{found['database'] or ''}"
        return cls(text, f"{base}?{shown}" if shown else base, not secret.isdisjoint(settings))


def _read_by_libpq(url: str) -> tuple[dict[str, str], frozenset[str]]:
    """Parse a URL with libpq; return its settings and the names of secret parameters."""
    try:
        from psycopg import OperationalError, pq
    except ImportError:
        raise ValueError(
            "PostgreSQL needs a driver that is not installed: pip install 'keyauthority[postgres]'"
        ) from None
    try:
        options = pq.Conninfo.parse(url.encode())
        settings = {
            option.keyword.decode(): option.val.decode()
            for option in options
            if option.val is not None
        }
    except OperationalError as error:
        if str(error).startswith("invalid URI query parameter"):
            raise ValueError("has a parameter unknown to libpq") from None
        raise ValueError("is malformed according to libpq") from None
    except UnicodeError:
        raise ValueError("is not UTF-8") from None
    ports = settings.get("port", "").split(",")
    if not all(re.fullmatch(r"[0-9]{0,5}", port, re.ASCII) for port in ports):
        raise ValueError("has a port that is not a number: is @HOST missing?")
    marked = {option.keyword.decode() for option in options if option.dispchar == _MARKED_SECRET}
    return settings, _SECRET | marked
