"""The kinds of values that settings have: each reads its own text, and prints no password."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit


class ConfigError(Exception):
    """The server must not start like this; the message is one line for whoever starts it."""


class Transport(StrEnum):
    """What carries the calls."""

    AUTO = "auto"
    NATIVE = "native"
    GRPCIO = "grpcio"


class LogFormat(StrEnum):
    """How a log line is written."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least severe log line that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class HostPort:
    """A TCP address; `str` gives it as gRPC writes it, an IPv6 address in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """True if only this machine can reach it. Of names, that is known of `localhost` alone."""
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            return self.host.lower() == "localhost"  # RFC 6761, section 6.3
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (mapped or address).is_loopback

    @classmethod
    def parse(cls, text: str) -> HostPort:
        """Read `HOST:PORT` or `[IPV6]:PORT`; ValueError says what is wrong."""
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if not (colon and host) or (":" in host) != bracketed:
            raise ValueError("must be HOST:PORT, an IPv6 address in brackets")
        if not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or int(port) > 65535:
            raise ValueError("must end in a port from 0 to 65535")
        return cls(host, int(port))


@dataclass(frozen=True, slots=True)
class UnixPath:
    """A unix socket; `str` gives it as gRPC writes it."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"

    is_local = True


Listen = HostPort | UnixPath


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Where the store is. Only `reveal` gives the whole of it; what is printed has no password."""

    _url: SplitResult = dataclasses.field(repr=False)

    def __str__(self) -> str:
        host = self._url.netloc.rpartition("@")[2]
        return f"{self._url.scheme}://{host}{self._url.path}"

    def __repr__(self) -> str:
        return f"StoreUrl('{self}')"

    def reveal(self) -> str:
        """Return the URL with all that it holds."""
        return self._url.geturl()

    @property
    def sqlite_path(self) -> Path:
        """The database file of an SQLite store."""
        return Path(unquote(self._url.path))

    @classmethod
    def sqlite(cls, path: Path) -> StoreUrl:
        """Return the URL of an SQLite file."""
        return cls(urlsplit(path.absolute().as_uri().replace("file", "sqlite", 1)))

    @classmethod
    def parse(cls, text: str) -> StoreUrl:
        """Read `sqlite:///ABSOLUTE/PATH`; ValueError says what is wrong, without the URL."""
        try:
            url = urlsplit(text)
        except ValueError:
            raise ValueError("is no URL") from None
        if url.scheme in ("postgresql", "postgres"):
            raise ValueError("this build has no PostgreSQL engine; sqlite:///PATH is what it has")
        if url.scheme != "sqlite":
            raise ValueError("must be sqlite:///PATH")
        if url.netloc or url.query or url.fragment or not url.path.strip("/"):
            raise ValueError("must be sqlite:///PATH, with an absolute path and nothing else")
        return cls(urlsplit("sqlite:///" + url.path.lstrip("/")))
