"""Settings by name, their three sources, and the rules between them.

Every setting is one text in each source: `workers` in the file is `KEYAUTHORITY_WORKERS` in the
environment and `--workers` on the command line. An unknown name or an invalid value raises
ConfigError with one line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from keyauthority.token import TOKEN_PREFIX_PATTERN
from keyauthority_server.config.callers import Callers
from keyauthority_server.config.store_url import StoreUrl
from keyauthority_server.config.values import (
    ConfigError,
    HostPort,
    Listen,
    LogFormat,
    LogLevel,
    Span,
    TlsFiles,
    Transport,
    UnixPath,
)
from keyauthority_server.private_files import GROUP_READS, UnsafeFile, check_status

WORKERS_MAX: Final = 256  # beyond any useful number of processes: a typing error
STALENESS_MIN: Final = Span(500)  # a fifth is for the proof; a commit may take half of that
STALENESS_MAX: Final = Span(60_000)  # beyond this, revocations take effect too late
STALENESS_DEFAULT: Final = Span(1_000)
LISTEN_DEFAULT: Final = HostPort("127.0.0.1", 50051)
UNIX_PATH_MAX: Final = 107  # bytes in sockaddr_un without the closing NUL (unix(7))

_PREFIX: Final = "KEYAUTHORITY_"
_CLIENT: Final = frozenset(
    {
        "ADDRESS",
        "OPERATOR_KEY",
        "OPERATOR_KEY_FILE",
        "TLS",
        "TLS_CA",
        "TLS_CLIENT_CERT",
        "TLS_CLIENT_KEY",
    }
)
# Kubernetes describes each Service of a namespace to each pod in such variables: `keyauthority`,
# `keyauthority-metrics` and so on.
_SERVICE_LINK: Final = re.compile(
    r"(?:.+_)?SERVICE_(?:HOST|PORT(?:_.+)?)|(?:.+_)?PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_.+)?|PORT",
    re.ASCII,
)
_LINKED_PORT: Final = re.compile(r".+_PORT=(?:tcp|udp|sctp)://.*", re.ASCII)
_BOOLEANS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A validated configuration; validation opens no file, socket or database."""

    data: Path
    store: StoreUrl
    listen: Listen = LISTEN_DEFAULT
    workers: int = 1
    transport: Transport = Transport.AUTO
    allow_plaintext: bool = False
    metrics: HostPort | None = None
    no_reflection: bool = False
    log_format: LogFormat = LogFormat.TEXT
    log_level: LogLevel = LogLevel.INFO
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    callers: Callers = field(default_factory=Callers)
    must_exist: bool = False
    """Never create a new authority: folder and store must be initialised already."""
    http: HostPort | None = None
    """Address for JSON over HTTP; None for none."""
    socket_mode: str = "0666"
    """Mode of a unix socket, in octal digits."""
    max_staleness: Span = STALENESS_DEFAULT
    """Maximum age of an answer on PostgreSQL; answers on SQLite are always current."""
    token_prefix: str = ""
    """Prefix of new tokens, without its underscore; empty for none. Older tokens stay valid."""

    def __post_init__(self) -> None:
        self._check_tls()
        if isinstance(self.listen, UnixPath) and self.workers > 1:
            raise ConfigError(f"a unix socket takes one worker, not {self.workers}")
        if not self.listen.is_local and self.transport is Transport.NATIVE and self.tls is None:
            raise ConfigError(
                f"the native transport serves plaintext on loopback and unix sockets only, "
                f"not on {self.listen}: use --tls-cert or --transport grpcio"
            )
        for address in (self.listen, self.http):
            if address and not (address.is_local or self.allow_plaintext or self.tls):
                raise ConfigError(
                    f"{address} is not loopback: keys would cross the network in plaintext; "
                    f"use --tls-cert, or permit plaintext with --allow-plaintext"
                )

    def _check_tls(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("--tls-cert and --tls-key belong together: give both")
        if self.callers.entries and self.tls_client_ca is None:
            raise ConfigError("callers are identified by client certificates: set --tls-client-ca")
        if self.tls_client_ca and self.tls_cert is None:
            raise ConfigError("--tls-client-ca needs --tls-cert and --tls-key")
        if self.tls is None:
            return
        if isinstance(self.listen, UnixPath):
            raise ConfigError("a unix socket is served in plaintext: leave out --tls-cert")

    @property
    def tls(self) -> TlsFiles | None:
        """The certificate and key files; None for plaintext."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_client_ca)

    def settings(self) -> dict[str, str]:
        """Return each setting as text for `parse`, passwords included."""
        texts = {
            field.name: _text(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        }
        return texts | {"store": self.store.reveal()}

    def displayed(self) -> dict[str, str | int | bool]:
        """Return the settings as typed in the file, without callers and passwords."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: value if isinstance(value, int) else str(value)
            for name, value in values.items()
            if value is not None and name != "callers"
        }


def load(flags: Mapping[str, str], environ: Mapping[str, str]) -> Config:
    """Return the configuration of a process; raises ConfigError that names the setting.

    `flags` are the settings given on the command line, by name.
    """
    environment = _environment(environ)
    file = flags.get("config") or environment.get("config")
    layers = [
        _file(Path(file)) if file else {},
        _parsed(environment, lambda name: _PREFIX + name.upper()),
        _parsed(flags, lambda name: "--" + name.replace("_", "-")),
    ]
    return _merged(layers)


def parse(settings: Mapping[str, str]) -> Config:
    """Rebuild the configuration from `Config.settings`; raises ConfigError."""
    return _merged([_parsed(settings, str)])


def _merged(layers: list[dict[str, object]]) -> Config:
    settings: dict[str, object] = {"data": Path("keyauthority-data").absolute()}
    for layer in layers:
        if "store_file" in layer:
            layer["store"] = layer.pop("store_file")
        settings |= layer
    settings.pop("config", None)
    if "store" not in settings:
        settings["store"] = StoreUrl.sqlite(Path(str(settings["data"])) / "keyauthority.db")
    return Config(**settings)  # type: ignore[arg-type]  # each value has passed its own parser


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    settings = {}
    for variable, text in environ.items():
        name = variable.removeprefix(_PREFIX)
        if name == variable or name in _CLIENT or _is_service_link(name, text):
            continue
        if name != name.upper() or name.lower() not in SETTINGS:
            raise ConfigError(f"{_printable(variable)} is not a server setting: see serve --help")
        if text:  # an empty variable counts as unset
            settings[name.lower()] = text
    return settings


def _is_service_link(name: str, text: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(name) or _LINKED_PORT.fullmatch(f"{name}={text}"))


def _file(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            table, status = tomllib.load(file), os.fstat(file.fileno())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also of a number or a nesting without end
        raise ConfigError(f"{path} is not valid TOML: {_printable(str(error))}") from error
    for name, value in table.items():
        if name not in SETTINGS or name == "config":
            raise ConfigError(
                f"{_printable(name)} in {path} is not a server setting: see serve --help"
            )
        if name == "callers":
            table[name] = json.dumps(value, default=str)
        elif name == "socket_mode" and not isinstance(value, str):
            raise ConfigError(f'{name} in {path} must be a string, such as "0660"')
        elif not isinstance(value, str | bool | int):
            raise ConfigError(f"{name} in {path} must be a string, a number, true or false")
    texts = {name: _text(value) for name, value in table.items()}
    layer = _parsed(texts, lambda name: f"{name} in {path}")
    store = layer.get("store")
    if isinstance(store, StoreUrl):
        try:
            _refuse_open_password(store, path, status)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    return layer


def _parsed(layer: Mapping[str, str], label: Callable[[str], str]) -> dict[str, object]:
    if "store" in layer and "store_file" in layer:
        raise ConfigError("store and store_file exclude each other: set one of them")
    settings = {}
    for name, text in layer.items():
        try:
            settings[name] = SETTINGS[name](text)
        except ValueError as error:
            raise ConfigError(f"{label(name)}: {error}") from error
    return settings


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _printable(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("must be a path")
    try:
        text.encode()
    except UnicodeEncodeError:  # neither the store's URL nor the file could represent it
        raise ValueError("must be a path in UTF-8") from None
    return Path(text).absolute()


def _store_file(text: str) -> StoreUrl:
    path = _path(text)
    try:
        with path.open(encoding="utf-8") as file:
            url, status = file.read().strip(), os.fstat(file.fileno())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ValueError(f"{path} must contain the store URL as UTF-8 text") from None
    try:
        store = StoreUrl.parse(url)
    except ValueError as error:
        raise ValueError(f"the URL in {path}: {error}") from None
    _refuse_open_password(store, path, status)
    return store


def _refuse_open_password(store: StoreUrl, path: Path, status: os.stat_result) -> None:
    if not store.has_password:
        return
    try:
        check_status(path, status, group=GROUP_READS, any_group=True)
    except UnsafeFile as error:
        raise ValueError(f"{path} holds a password: {error}") from None


def _listen(text: str) -> Listen:
    if not text.startswith("unix:"):
        return HostPort.parse(text)
    path = _path(text.removeprefix("unix:"))
    if len(os.fsencode(path)) > UNIX_PATH_MAX:
        raise ValueError(f"the path of a unix socket has at most {UNIX_PATH_MAX} bytes")
    return UnixPath(path)


def _workers(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) or int(text) > WORKERS_MAX:
        raise ValueError(f"must be a number from 0 to {WORKERS_MAX}")
    return int(text) or len(os.sched_getaffinity(0))


def _staleness(text: str) -> Span:
    span = Span.parse(text)
    if not STALENESS_MIN.milliseconds <= span.milliseconds <= STALENESS_MAX.milliseconds:
        raise ValueError(f"must be from {STALENESS_MIN} to {STALENESS_MAX}")
    return span


def _token_prefix(text: str) -> str:
    if text and not TOKEN_PREFIX_PATTERN.fullmatch(text):
        raise ValueError(
            "must be 2 to 16 lower-case letters and digits, a letter first, not sk, rk, pk or op"
        )
    return text


def _mode(text: str) -> str:
    if not re.fullmatch(r"0?[0-7]{3}", text, re.ASCII):
        raise ValueError("must be a mode in octal digits, such as 0660")
    return text.zfill(4)


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise ValueError("must be true or false")
    return _BOOLEANS[text.lower()]


def _one_of(choices: type[StrEnum]) -> Callable[[str], StrEnum]:
    def choose(text: str) -> StrEnum:
        if text not in list(choices):
            raise ValueError(f"must be one of {', '.join(choices)}")
        return choices(text)

    return choose


SETTINGS: Final[Mapping[str, Callable[[str], object]]] = {
    "config": _path,
    "data": _path,
    "store": StoreUrl.parse,
    "store_file": _store_file,
    "listen": _listen,
    "workers": _workers,
    "transport": _one_of(Transport),
    "token_prefix": _token_prefix,
    "tls_cert": _path,
    "tls_key": _path,
    "tls_client_ca": _path,
    "callers": Callers.parse,
    "allow_plaintext": _boolean,
    "metrics": HostPort.parse,
    "http": HostPort.parse,
    "max_staleness": _staleness,
    "must_exist": _boolean,
    "no_reflection": _boolean,
    "socket_mode": _mode,
    "log_format": _one_of(LogFormat),
    "log_level": _one_of(LogLevel),
}
"""The parser of each setting; raises ValueError with the reason."""
