"""Server configuration: file < environment < flags, checked once, then frozen.

It opens no file, socket or database that a setting names, except settings files, and prints no
value that may contain a password. Begin with `settings.load`; `values`, `store_url` and `callers`
parse the single values.
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
