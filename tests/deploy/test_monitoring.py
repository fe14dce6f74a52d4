"""Alert rules and the dashboard, with the real Prometheus on a real server."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import yaml

import keyauthority
from keyauthority.testing import Authority
from tests.conftest import Start
from tests.contract.documents import ROOT
from tests.deploy.prometheus import (
    PROMTOOL,
    RULES,
    alerts,
    needs_prometheus,
    prometheus,
    selectors,
)
from tests.notify.conftest import SECRET
from tests.notify.processes import Notify
from tests.notify.receiver import Answer, Receiver, Reply, receiver
from tests.service.certificates import LOOPBACK, Issuer
from tests.service.metrics import metrics_address, scrape
from tests.service.processes import ServerProcess, kill, wait_until

UNIT_TESTS: Final = sorted(RULES.parent.glob("*.test.yaml"))
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "keyauthority.json"
PAGE: Final = ROOT / "docs" / "monitoring.md"
ONE_REPEAT: Final = "from keyauthority.notify import outbox\noutbox.DELAYS = (0.05,)"
VARIABLES: Final = {"$job": "keyauthority", "$instance": ".+", "$__rate_interval": "1m"}


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard that show data."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str, str]]:
    """Return title, query and legend of each panel, with values for the variables."""
    for panel in panels():
        for target in panel["targets"]:
            query = target["expr"]
            for name, text in VARIABLES.items():
                query = query.replace(name, text)
            yield panel["title"], query, target["legendFormat"]


@needs_prometheus
def test_each_alert_fires_and_stays_silent_in_its_unit_tests() -> None:
    """Promtool runs them; each alert has a case of both sorts."""
    done = subprocess.run(
        [PROMTOOL, "test", "rules", *UNIT_TESTS], capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    cases = [
        (case["alertname"], bool(case.get("exp_alerts")))
        for path in UNIT_TESTS
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]
        for case in test["alert_rule_test"]
    ]
    assert sorted(cases) == sorted((name, fires) for name in alerts() for fires in (True, False))


def test_documentation_lists_each_alert_with_its_severity() -> None:
    """The page has a row of each alert and no other."""
    rows = re.findall(r"^\| `(KeyAuthority\w+)` \| (\w+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert {name: rule["labels"]["severity"] for name, rule in alerts().items()} == dict(rows)


@needs_prometheus
def test_rules_and_panels_have_data_and_real_faults_raise_their_alerts(
    start_server: Start, tmp_path: Path
) -> None:
    """Every selector and panel has data on a live server; faults raise their alerts only."""
    issuer = Issuer()
    cert, key = issuer.issue(*LOOPBACK).write(tmp_path, "server")
    server = start_server(
        *("--metrics", "127.0.0.1:0", "--tls-cert", str(cert), "--tls-key", str(key))
    )
    lint = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=scrape(server), text=True, check=False
    )
    assert 0 == lint.returncode
    tls = keyauthority.Tls(ca=issuer.pem)
    with (
        notifying(server, issuer, tmp_path) as (notify_address, hooks),
        prometheus(tmp_path / "prometheus", metrics_address(server), notify_address) as running,
        keyauthority.Client(server.address, operator_key=server.operator_key, tls=tls) as authority,
    ):
        secret_key = use(authority)
        expected = {"KeyAuthorityCertificateExpires"}  # it is valid for two days
        wait_until(lambda: expected == running.firing())
        wait_until(lambda: not [title for title, *_ in lacking(running, queries())])
        for name, rule in alerts().items():
            for selector in selectors(rule["expr"]):
                assert running.query(selector), (name, selector)
        hooks.answer = refusal_of_all()
        authority.create_project("to be given up")
        authority.create_project("to be repeated")
        expected |= {"KeyAuthorityDeliveriesFail", "KeyAuthorityEventsGivenUp"}
        wait_until(lambda: expected == running.firing())
        cause_faults(server, authority, secret_key)
        expected |= {"KeyAuthorityWorkersRestart", "KeyAuthorityUnavailable"}
        wait_until(lambda: expected == running.firing())
        assert {"ok"} == {rule["health"] for rule in running.rules()}
        server.kill()
        wait_until(lambda: "KeyAuthorityAbsent" in running.firing())


@contextmanager
def notifying(
    server: ServerProcess, issuer: Issuer, folder: Path
) -> Iterator[tuple[str, Receiver]]:
    """Give the address of the metrics of `notify`, which sends events twice, and its receiver."""
    (folder / "ca.pem").write_bytes(issuer.pem)
    (folder / "notify").mkdir()
    with (
        receiver() as hooks,
        closing(
            Notify(
                authority=Authority(server.address, server.operator_key),
                folder=folder / "notify",
                url=hooks.url,
                secrets=[SECRET],
                flags=("--allow-private", "--metrics", "127.0.0.1:0"),
                shims=ONE_REPEAT,
                settings={"KEYAUTHORITY_TLS_CA": str(folder / "ca.pem")},
            )
        ) as notify,
    ):
        notify.start()
        (address,) = re.findall(r"metrics are served on (\S+)", notify.log)
        yield address, hooks


def refusal_of_all() -> Answer:
    """Return answers by which the first event is given up, and others wait for an hour."""
    seen: list[str] = []

    def answer(event_id: str, _: int) -> Reply:
        seen.append(event_id)
        return Reply(500, {} if event_id == seen[0] else {"retry-after": "3600"})

    return answer


def use(authority: keyauthority.Client) -> str:
    """Create a key and verify it; return its secret."""
    project = authority.create_project("Shop")
    created = authority.create_key(project.project_id, mode="test", kind="secret")
    secret_key = created.secret_key.reveal()
    for _ in range(5):
        assert authority.verify(secret_key).valid
    return secret_key


def lacking(
    running: Any, expressions: Iterator[tuple[str, str, str]]
) -> Sequence[tuple[str, str, str]]:
    """Return the queries without a number, or without a label that their legend names."""

    def has_data(query: str, legend: str) -> bool:
        found = running.query(query)
        labels = re.findall(r"{{(\w+)}}", legend)
        return bool(found) and all(
            math.isfinite(float(one["value"][1]))
            and all(one["metric"].get(label) for label in labels)
            for one in found
        )

    return [
        (title, query, legend)
        for title, query, legend in expressions
        if not has_data(query, legend)
    ]


def cause_faults(server: ServerProcess, authority: keyauthority.Client, secret_key: str) -> None:
    """Let the worker die three times, then take its database away."""
    for deaths in range(1, 4):
        kill(server.worker_pids()[0])
        wait_until(partial(has_started, server, deaths + 1))
    (server.data / "keyauthority.db").rename(server.data / "gone")
    failed = 0
    while failed < 3:
        with suppress(keyauthority.Unavailable):
            authority.verify(secret_key)
            continue
        failed += 1


def has_started(server: ServerProcess, times: int) -> bool:
    """Return whether workers have started so many times."""
    return server.log_text().count("worker_serves") == times
