"""The kinds of values that settings have: each reads its own text, and prints no password."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from keyauthority_server.private_files import PASSING, explain


class ConfigError(Exception):
    """The server must not start like this; the message is one line for whoever starts it."""


class TransientError(Exception):
    """It cannot be done now, though another try may succeed; the message is one line."""


def refusal(error: OSError, failed: str) -> ConfigError | TransientError:
    """Return the end of a start after an error of the system; `failed` names what was tried."""
    line = explain(error, failed)
    return TransientError(line) if error.errno in PASSING else ConfigError(line)


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
class TlsFiles:
    """The files that TLS is served with, in PEM."""

    cert: Path
    """The server's certificate, and those between it and its authority's."""
    key: Path
    client_ca: Path | None
    """The authorities of client certificates, which are demanded then."""

    def paths(self) -> tuple[Path, ...]:
        """Return all that there are."""
        return tuple(path for path in (self.cert, self.key, self.client_ca) if path)


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time; `str` gives it in whole milliseconds, as `parse` reads it."""

    milliseconds: int

    def __str__(self) -> str:
        return f"{self.milliseconds}ms"

    @property
    def seconds(self) -> float:
        """The same in seconds."""
        return self.milliseconds / 1000

    @classmethod
    def parse(cls, text: str) -> Span:
        """Read a whole number and its unit, `s` or `ms`; ValueError says what is wrong."""
        found = re.fullmatch(r"([0-9]{1,9})(s|ms)", text, re.ASCII)
        if found is None:
            raise ValueError("must be a whole number with its unit, as 1s or 500ms")
        return cls(int(found[1]) * (1000 if found[2] == "s" else 1))
