"""Value types of settings; each parses its own text."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from keyauthority_server.private_files import PASSING, explain


class ConfigError(Exception):
    """The configuration or environment prevents a start; the message is one line."""


class TransientError(Exception):
    """A failure that may pass, so that a retry may succeed; the message is one line."""


def refusal(error: OSError, failed: str) -> ConfigError | TransientError:
    """Return the exception for an OSError; `failed` names the attempted operation."""
    line = explain(error, failed)
    return TransientError(line) if error.errno in PASSING else ConfigError(line)


class Transport(StrEnum):
    """The gRPC implementation that serves the calls."""

    AUTO = "auto"
    NATIVE = "native"
    GRPCIO = "grpcio"


class LogFormat(StrEnum):
    """The format of log lines."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least severe level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class HostPort:
    """A TCP address; `str` returns it in gRPC's form, with IPv6 in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """True for loopback addresses and the name `localhost`."""
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            return self.host.lower() == "localhost"  # RFC 6761, section 6.3
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (mapped or address).is_loopback

    @classmethod
    def parse(cls, text: str) -> HostPort:
        """Parse `HOST:PORT` or `[IPV6]:PORT`; raises ValueError."""
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
    """A unix socket; `str` returns it in gRPC's form."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"

    is_local = True


Listen = HostPort | UnixPath


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Certificate and key files for TLS, in PEM."""

    cert: Path
    """The server's certificate, then the intermediate certificates."""
    key: Path
    client_ca: Path | None
    """CA certificates for client certificates; if set, these are mandatory."""

    def paths(self) -> tuple[Path, ...]:
        """Return the paths that are set."""
        return tuple(path for path in (self.cert, self.key, self.client_ca) if path)


@dataclass(frozen=True, slots=True)
class Span:
    """A duration; `str` returns it in whole milliseconds, in the form of `parse`."""

    milliseconds: int

    def __str__(self) -> str:
        return f"{self.milliseconds}ms"

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return self.milliseconds / 1000

    @classmethod
    def parse(cls, text: str) -> Span:
        """Parse a whole number with the unit `s` or `ms`; raises ValueError."""
        found = re.fullmatch(r"([0-9]{1,9})(s|ms)", text, re.ASCII)
        if found is None:
            raise ValueError("must be a whole number with its unit, such as 1s or 500ms")
        return cls(int(found[1]) * (1000 if found[2] == "s" else 1))
