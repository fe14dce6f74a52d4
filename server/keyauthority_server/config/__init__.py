"""What the server was told to do: file < environment < flags, checked once, then frozen.

Nothing in here touches what it names, and no value that may hold a password is ever printed.
"""

from keyauthority_server.config.callers import Callers, CertificateCaller, SanKind
from keyauthority_server.config.settings import SETTINGS, Config, load, parse
from keyauthority_server.config.store_url import StoreUrl
from keyauthority_server.config.values import (
    ConfigError,
    HostPort,
    Listen,
    LogFormat,
    LogLevel,
    Span,
    TlsFiles,
    TransientError,
    Transport,
    UnixPath,
    refusal,
)

__all__ = [
    "SETTINGS",
    "Callers",
    "CertificateCaller",
    "Config",
    "ConfigError",
    "HostPort",
    "Listen",
    "LogFormat",
    "LogLevel",
    "SanKind",
    "Span",
    "StoreUrl",
    "TlsFiles",
    "TransientError",
    "Transport",
    "UnixPath",
    "load",
    "parse",
    "refusal",
]
