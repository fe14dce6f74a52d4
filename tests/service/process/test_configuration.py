"""Server configuration: its sources, their precedence, and the values it rejects."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest

from keyauthority_server import config
from keyauthority_server.config import (
    Config,
    ConfigError,
    HostPort,
    LogFormat,
    LogLevel,
    Span,
    StoreUrl,
    Transport,
    UnixPath,
)
from keyauthority_server.transport.server import choose
from tests.service.forkserver import shared

_TLS = {"tls_cert": "c", "tls_key": "k"}


def load(
    flags: dict[str, str] | None = None, environ: dict[str, str] | None = None
) -> config.Config:
    """Load a configuration from the arguments alone."""
    return config.load(flags or {}, environ or {})


def refusal(flags: dict[str, str] | None = None, environ: dict[str, str] | None = None) -> str:
    """The one line that a configuration is refused with."""
    with pytest.raises(ConfigError) as refused:
        load(flags, environ)
    return str(refused.value)


def test_configuration_without_settings_uses_documented_defaults() -> None:
    """The default is one process on loopback with SQLite in ./keyauthority-data."""
    data = Path.cwd() / "keyauthority-data"
    assert (
        Config(
            data=data,
            store=StoreUrl.parse(f"sqlite://{data}/keyauthority.db"),
            listen=HostPort("127.0.0.1", 50051),
            workers=1,
            transport=Transport.AUTO,
            allow_plaintext=False,
            metrics=None,
            no_reflection=False,
            log_format=LogFormat.TEXT,
            log_level=LogLevel.INFO,
        )
        == load()
    )


@pytest.mark.parametrize(("text", "span"), [("1s", 1_000), ("500ms", 500), ("60s", 60_000)])
def test_staleness_is_a_number_with_a_unit(text: str, span: int) -> None:
    """Seconds and milliseconds are accepted and survive serialization."""
    settings = load({"max_staleness": text})
    assert Span(span) == settings.max_staleness
    assert settings == config.parse(settings.settings())


@pytest.mark.parametrize("text", ["", "1", "1m", "-1s", "1.5s", "499ms", "61s", "9" * 30 + "s"])
def test_staleness_out_of_range_is_rejected(text: str) -> None:
    """Below 0.5 s one late heartbeat would end service; over a minute is a typing error."""
    assert "--max-staleness" in refusal({"max_staleness": text})


def test_configuration_precedence_is_flag_environment_file(tmp_path: Path) -> None:
    """A flag overrides the environment, which overrides the file."""
    file = tmp_path / "server.toml"
    file.write_text(
        'listen = "127.0.0.1:1"\nworkers = 3\nno_reflection = true\nmetrics = "[::1]:9"'
    )
    settings = load(
        {"config": str(file), "listen": "127.0.0.1:3"},
        {"KEYAUTHORITY_LISTEN": "127.0.0.1:2", "KEYAUTHORITY_WORKERS": "2"},
    )
    assert (HostPort("127.0.0.1", 3), 2, True, HostPort("::1", 9)) == (
        settings.listen,
        settings.workers,
        settings.no_reflection,
        settings.metrics,
    )


def test_false_in_the_environment_overrides_the_file(tmp_path: Path) -> None:
    """A higher layer can switch a boolean off."""
    file = tmp_path / "server.toml"
    file.write_text("no_reflection = true")
    environ = {"KEYAUTHORITY_CONFIG": str(file), "KEYAUTHORITY_NO_REFLECTION": "false"}
    assert load({}, environ).no_reflection is False


def test_store_flag_overrides_store_file_below(tmp_path: Path) -> None:
    """The settings store and store_file are one: the higher layer of either wins."""
    file = tmp_path / "store-url"
    file.write_text("sqlite:///srv/from-file.db\n")
    below = {"KEYAUTHORITY_STORE_FILE": str(file)}
    assert Path("/srv/from-file.db") == load({}, below).store.sqlite_path
    above = {"store": "sqlite:////srv/from-flag.db"}
    assert Path("/srv/from-flag.db") == load(above, below).store.sqlite_path


def test_configuration_roundtrips_to_a_worker(tmp_path: Path) -> None:
    """The settings that the supervisor sends to a worker equal its own."""
    told = load({"data": str(tmp_path / "ä b%20c"), "metrics": "127.0.0.1:0", "workers": "4"})
    assert told == config.parse(json.loads(json.dumps(told.settings())))
    assert told.data / "keyauthority.db" == told.store.sqlite_path


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("POSTGRESQL_SERVICE_HOST", "10.0.0.1"),
        ("POSTGRESQL_SERVICE_PORT", "5432"),
        ("POSTGRESQL_SERVICE_PORT_TCP_POSTGRESQL", "5432"),
        ("METRICS_PORT", "tcp://10.0.0.1:9464"),
        ("HEADLESS_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
        ("HEADLESS_PORT_50051_TCP_PROTO", "tcp"),
        ("DNS_PORT_53_UDP_ADDR", "10.0.0.1"),
    ],
)
def test_kubernetes_service_links_are_ignored(variable: str, text: str) -> None:
    """Kubernetes sets such variables for Services whose names begin with keyauthority."""
    assert load() == load({}, {f"KEYAUTHORITY_{variable}": text})


def test_client_and_kubernetes_variables_are_ignored() -> None:
    """The client's variables, and those that Kubernetes sets for a Service, are no settings."""
    foreign = (
        "KEYAUTHORITY_ADDRESS",
        "KEYAUTHORITY_OPERATOR_KEY",
        "KEYAUTHORITY_OPERATOR_KEY_FILE",
        "KEYAUTHORITY_TLS",
        "KEYAUTHORITY_TLS_CA",
        "KEYAUTHORITY_TLS_CLIENT_CERT",
        "KEYAUTHORITY_TLS_CLIENT_KEY",
        "KEYAUTHORITY_SERVICE_HOST",
        "KEYAUTHORITY_SERVICE_PORT_GRPC",
        "KEYAUTHORITY_PORT",
        "KEYAUTHORITY_PORT_50051_TCP_ADDR",
    )
    assert load() == load({}, dict.fromkeys(foreign, "x"))


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"listen": "50051"}, "--listen: must be HOST:PORT, an IPv6 address in brackets"),
        ({"listen": "::1:50051"}, "--listen: must be HOST:PORT, an IPv6 address in brackets"),
        ({"listen": ":50051"}, "--listen: must be HOST:PORT, an IPv6 address in brackets"),
        ({"listen": "127.0.0.1:65536"}, "--listen: must end in a port from 0 to 65535"),
        ({"listen": "127.0.0.1:+1"}, "--listen: must end in a port from 0 to 65535"),
        ({"listen": "unix:"}, "--listen: must be a path"),
        ({"listen": "unix:/" + 107 * "x"}, "--listen: the path of a unix socket has at most 107"),
        ({"workers": "-1"}, "--workers: must be a number from 0 to 256"),
        ({"workers": "257"}, "--workers: must be a number from 0 to 256"),
        ({"workers": "two"}, "--workers: must be a number from 0 to 256"),
        ({"transport": "tonic"}, "--transport: must be one of auto, native, grpcio"),
        ({"log_format": "xml"}, "--log-format: must be one of text, json"),
        ({"store": "sqlite://host/x"}, "--store: must be sqlite:///PATH"),
        ({"store": "mysql://u:hidden@h/d"}, "--store: must be sqlite:///PATH"),
        ({"store": "postgresql://u:hidden@h"}, "--store: must be postgresql://USER@HOST/DATABASE"),
        ({"data": "/\udcff"}, "--data: must be a path in UTF-8"),
        ({"store": "sqlite:///a", "store_file": "/dev/null"}, "store and store_file"),
        ({"store_file": "/absent/file"}, "--store-file: cannot read /absent/file"),
        ({"config": "/absent/file"}, "cannot read /absent/file"),
        ({"listen": "unix:/tmp/s", "workers": "2"}, "a unix socket takes one worker, not 2"),
        ({"tls_cert": "c"}, "--tls-cert and --tls-key belong together"),
        ({"tls_key": "k"}, "--tls-cert and --tls-key belong together"),
        ({"tls_client_ca": "a"}, "--tls-client-ca needs --tls-cert and --tls-key"),
        (_TLS | {"listen": "unix:/tmp/s"}, "a unix socket is served in plaintext"),
        ({"listen": "0.0.0.0:0"}, "0.0.0.0:0 is not loopback"),
        ({"listen": "[::]:0"}, "[::]:0 is not loopback"),
        ({"listen": "example.com:0"}, "example.com:0 is not loopback"),
        (
            {"listen": "0.0.0.0:0", "allow_plaintext": "true", "transport": "native"},
            "the native transport serves plaintext on loopback and unix sockets only",
        ),
    ],
)
def test_invalid_settings_are_rejected_with_a_reason(flags: dict[str, str], reason: str) -> None:
    """The error names the wrong value and never shows a password."""
    line = refusal(flags)
    assert line.startswith(reason)
    assert "\n" not in line
    assert "hidden" not in line


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1"]
)
def test_plaintext_on_loopback_needs_no_permission(listen: str) -> None:
    """IPv4, IPv6 and mapped loopback addresses and localhost are all local."""
    assert listen == str(load({"listen": listen}).listen)


def test_tls_on_a_public_address_needs_no_permission() -> None:
    """With TLS the native transport serves every address; grpcio can be chosen."""
    public = _TLS | {"listen": "0.0.0.0:1"}
    assert Transport.NATIVE is choose(load(public))
    assert Transport.NATIVE is choose(load(_TLS))
    assert Transport.GRPCIO is choose(load(public | {"transport": "grpcio"}))
    permitted = {"listen": "0.0.0.0:1", "allow_plaintext": "true"}
    assert Transport.GRPCIO is choose(load(permitted))


def test_plaintext_on_a_public_address_needs_allow_plaintext() -> None:
    """--allow-plaintext permits an address that other machines reach."""
    allowed = load({"listen": "0.0.0.0:1", "allow_plaintext": "true"})
    assert HostPort("0.0.0.0", 1) == allowed.listen  # noqa: S104 - nothing is bound


def test_unix_socket_path_becomes_absolute() -> None:
    """A relative path is resolved against the working directory."""
    assert UnixPath(Path.cwd() / "s") == load({"listen": "unix:s"}).listen


def test_workers_0_is_one_per_core() -> None:
    """0 workers means one for each core that the process may use."""
    assert len(os.sched_getaffinity(0)) == load({"workers": "0"}).workers


@pytest.mark.parametrize(
    "variable",
    ["KEYAUTHORITY_WORKER", "KEYAUTHORITY_TLS_CERTIFICATE", "KEYAUTHORITY_METRICS_PORT"],
)
def test_unknown_variable_is_rejected(variable: str) -> None:
    """A setting that the server does not know is an error, not ignored."""
    assert f"{variable} is not a server setting: see serve --help" == refusal({}, {variable: "1"})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("worker = 1", "worker in {} is not a server setting: see serve --help"),
        ("config = 'x'", "config in {} is not a server setting: see serve --help"),
        ("workers = [1]", "workers in {} must be a string, a number, true or false"),
        ("workers = 1.5", "workers in {} must be a string, a number, true or false"),
        ("workers = 999", "workers in {}: must be a number from 0 to 256"),
        ("workers =", "{} is not valid TOML: "),
        pytest.param("workers = " + "9" * 5_000, "{} is not valid TOML: ", id="long number"),
        pytest.param("a = " + "[" * 50_000, "{} is not valid TOML: ", id="deep nesting"),
    ],
)
def test_invalid_file_is_rejected_with_a_reason(tmp_path: Path, text: str, reason: str) -> None:
    """The error names the setting and the file."""
    file = tmp_path / "server.toml"
    file.write_text(text)
    assert refusal({"config": str(file)}).startswith(reason.format(file))


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
@pytest.mark.parametrize(
    "url", ["postgresql://u:hidden@h/d", "postgresql://u@h/d?sslmode=require&password=hidden"]
)
def test_file_with_a_password_open_to_others_is_rejected(
    tmp_path: Path, url: str, mode: int
) -> None:
    """This holds for store file and configuration; owner and group may read them."""
    store, server = tmp_path / "store", tmp_path / "server.toml"
    store.write_text(url)
    server.write_text(f"store = '{url}'")
    for flags, file in (({"store_file": str(store)}, store), ({"config": str(server)}, server)):
        file.chmod(mode)
        line = refusal(flags)
        assert line.endswith(f"{file} is open to others; make it private: chmod 600 {file}")
        assert "hidden" not in line
        file.chmod(0o640)
        assert url == load(flags).store.reveal()


def test_file_without_a_password_may_be_open(tmp_path: Path) -> None:
    """A password that libpq reads from elsewhere is not in the file."""
    store = tmp_path / "store"
    store.write_text("postgresql://u@h/d")
    store.chmod(0o644)
    assert load({"store_file": str(store)}).store.is_postgres


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--workers", "two"),
        ("serve", "--no-such-flag"),
        ("serve", "--listen"),
        ("no-such-command",),
        ("serve", "--listen", "0.0.0.0:0"),
        ("serve", "--tls-cert", "/absent", "--tls-key", "/absent"),
        ("serve", "--data", "/dev/null/data"),
        ("serve", "--store", "postgresql://user:hid/den@127.0.0.1:1/database"),
    ],
)
def test_invalid_command_line_exits_2_with_one_line(arguments: tuple[str, ...]) -> None:
    """Every usage error is one line on standard error and exit code 2."""
    outcome = shared().run(*arguments)
    assert (2, "", 1) == (outcome.code, outcome.output, outcome.log.count("\n"))
    assert outcome.log.startswith("keyauthority-server: ")
    assert "hidden" not in outcome.log


def test_config_show_output_is_an_equivalent_configuration(tmp_path: Path) -> None:
    """The output of `config show` can be used as the configuration file."""
    flags = ("--data", f"{tmp_path}/ä\x7f\N{KEY}", "--listen", "[::1]:0", "--no-reflection")
    tls = ("--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a")
    callers = {"KEYAUTHORITY_CALLERS": '[{"san": "a", "permissions": ["keys:verify"]}]'}
    first = shared().run("config", "show", *flags, *tls, settings=callers)
    assert 0 == first.code
    assert 'san = "a"' in first.output
    shown = tomllib.loads(first.output)
    assert (1, True, False) == (shown["workers"], shown["no_reflection"], shown["allow_plaintext"])
    file = tmp_path / "server.toml"
    file.write_text(first.output)
    assert first.output == shared().run("config", "show", "--config", str(file)).output
