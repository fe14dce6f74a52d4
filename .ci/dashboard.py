"""Writes the Grafana dashboard, `deploy/grafana/keyauthority.json`: `make docs`.

`--check` writes nothing and exits 1 if the file is not as it would be written.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

FILE: Final = Path(__file__).resolve().parent.parent / "deploy" / "grafana" / "keyauthority.json"
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
ON: Final = 'job=~"$job",instance=~"$instance"'
PROGRAMS: Final = '__name__=~"keyauthority_build_info|keyauthority_notify_revision"'
RATE: Final = "$__rate_interval"
WIDTH: Final = 24  # of a row, in Grafana's units


class Panel(NamedTuple):
    """One panel: a number, or lines over time."""

    title: str
    query: str
    legend: str = ""
    unit: str = "short"
    text: str = ""
    is_number: bool = False


ROWS: Final[Sequence[tuple[str, Sequence[Panel]]]] = (
    (
        "State",
        (
            Panel("Servers", f"count(keyauthority_build_info{{{ON}}})", is_number=True),
            Panel("Workers", f"sum(keyauthority_workers{{{ON}}})", is_number=True),
            Panel(
                "Failed calls",
                f'sum(rate(grpc_server_handled_total{{{ON},grpc_type="unary",'
                f'grpc_code=~"UNAVAILABLE|INTERNAL"}}[{RATE}])) / '
                f'sum(rate(grpc_server_handled_total{{{ON},grpc_type="unary"}}[{RATE}]))',
                unit="percentunit",
                is_number=True,
            ),
            Panel(
                "Verify, 99 % within",
                "histogram_quantile(0.99, sum by (le) (rate(grpc_server_handling_seconds_bucket"
                f'{{{ON},grpc_method="Verify"}}[{RATE}])))',
                unit="s",
                is_number=True,
            ),
            Panel(
                "Certificate expires in",
                f"min(keyauthority_certificate_expire_time_seconds{{{ON}}}) - time()",
                unit="s",
                is_number=True,
            ),
            Panel(
                "Keys under old peppers",
                f"max(keyauthority_keys_under_old_peppers{{{ON}}})",
                is_number=True,
            ),
        ),
    ),
    (
        "Verifications",
        (
            Panel(
                "Verifications by verdict",
                f"sum by (verdict) (rate(keyauthority_verifications_total{{{ON}}}[{RATE}])) > 0",
                "{{verdict}}",
                "ops",
            ),
            Panel(
                "Answered from memory",
                f'sum(rate(keyauthority_record_cache_total{{{ON},event="hit"}}[{RATE}])) / '
                f'sum(rate(keyauthority_record_cache_total{{{ON},event=~"hit|miss"}}[{RATE}]))',
                "from memory",
                "percentunit",
                "Share of proven tokens found in memory; each miss is a read of the store.",
            ),
            Panel(
                "Age of the records behind an answer",
                f"keyauthority_staleness_seconds{{{ON}}}",
                "{{instance}}",
                "s",
                "0 on SQLite. Beyond --max-staleness the server answers UNAVAILABLE.",
            ),
        ),
    ),
    (
        "Calls",
        (
            Panel(
                "Calls by method",
                f"sum by (grpc_method) (rate(grpc_server_handled_total{{{ON}}}[{RATE}])) > 0",
                "{{grpc_method}}",
                "ops",
            ),
            Panel(
                "Calls by status",
                f"sum by (grpc_code) (rate(grpc_server_handled_total{{{ON}}}[{RATE}]))",
                "{{grpc_code}}",
                "ops",
            ),
            Panel(
                "Duration, 99 % within",
                "histogram_quantile(0.99, sum by (le, grpc_method) (rate("
                f'grpc_server_handling_seconds_bucket{{{ON},grpc_type="unary"}}[{RATE}]))) > 0',
                "{{grpc_method}}",
                "s",
            ),
            Panel(
                "Refused as overloaded",
                f"sum by (ground) (rate(keyauthority_refusals_total{{{ON}}}[{RATE}]))",
                "{{ground}}",
                "ops",
                "waiting: too long a queue. lane: too many at once. peer: failures of an address.",
            ),
            Panel(
                "Closed TLS connections",
                f"sum by (ground) (rate(keyauthority_connections_closed_total{{{ON}}}[{RATE}]))",
                "{{ground}}",
                "ops",
            ),
            Panel("Watches", f"keyauthority_watchers{{{ON}}}", "{{instance}}"),
        ),
    ),
    (
        "Keys",
        (
            Panel(
                "Advisories",
                f"max by (type) (keyauthority_advisories{{{ON}}})",
                "{{type}}",
                text="Keys that need attention: `keyauthority advisories` lists them.",
            ),
            Panel("Cached keys", f"keyauthority_cached_keys{{{ON}}}", "{{instance}}"),
        ),
    ),
    (
        "Webhooks",
        (
            Panel(
                "Attempts by outcome",
                f"sum by (outcome) (rate(keyauthority_notify_attempts_total{{{ON}}}[{RATE}]))",
                "{{outcome}}",
                "ops",
                "Of `keyauthority notify`. given_up: the event is lost.",
            ),
            Panel(
                "Pending events",
                f"sum by (state) (keyauthority_notify_pending_events{{{ON}}})",
                "{{state}}",
                text="retry: with a failed attempt.",
            ),
            Panel(
                "Age of the oldest pending event",
                f"keyauthority_notify_oldest_pending_seconds{{{ON}}}",
                "{{instance}}",
                "s",
            ),
        ),
    ),
    (
        "Processes",
        (
            Panel(
                "Processor time",
                f"rate(process_cpu_seconds_total{{{ON}}}[{RATE}])",
                "{{instance}} {{process}}",
                text="Cores in use by each process.",
            ),
            Panel(
                "Resident memory",
                f"process_resident_memory_bytes{{{ON}}}",
                "{{instance}} {{process}}",
                "bytes",
            ),
            Panel(
                "Open descriptors",
                f"process_open_fds{{{ON}}} / process_max_fds{{{ON}}}",
                "{{instance}} {{process}}",
                "percentunit",
            ),
            Panel(
                "Restarted workers",
                f"increase(keyauthority_worker_restarts_total{{{ON}}}[1h])",
                "{{instance}}",
            ),
            Panel(
                "Free disk space",
                f"keyauthority_disk_free_bytes{{{ON}}}",
                "{{instance}}",
                "bytes",
                "SQLite only.",
            ),
            Panel(
                "Reserve for revocations",
                f"keyauthority_disk_reserve_bytes{{{ON}}}",
                "{{instance}}",
                "bytes",
                "SQLite only: shrinks while the disk is full.",
            ),
            Panel(
                "Store ahead of the clock",
                f"keyauthority_clock_ahead_seconds{{{ON}}}",
                "{{instance}}",
                "s",
            ),
        ),
    ),
)


def built() -> str:
    """Return the dashboard as JSON."""
    made = (
        dashboard.Dashboard("Key Authority")
        .uid("keyauthority")
        .tags(["keyauthority"])
        .time("now-3h", "now")
        .refresh("30s")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
    )
    for name in ("job", "instance"):
        query = f"label_values({{{PROGRAMS}}}, {name})"
        made = made.with_variable(
            dashboard.QueryVariable(name)
            .datasource(SOURCE)
            .query(query)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".+")
        )
    numbers = count(1)
    for title, panels in ROWS:
        made = made.with_row(dashboard.Row(title).id(next(numbers)))
        width = WIDTH // min(len(panels), 6 if panels[0].is_number else 3)
        for panel in panels:
            made = made.with_panel(_panel(panel, next(numbers), width))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _panel(panel: Panel, number: int, width: int) -> stat.Panel | timeseries.Panel:
    target = prometheus.Dataquery().ref_id("A").expr(panel.query)
    target = target.legend_format(panel.legend or "__auto")
    made: stat.Panel | timeseries.Panel
    if panel.is_number:
        made = (
            stat.Panel().height(4).reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        )
    else:
        made = timeseries.Panel().height(8).legend(common.VizLegendOptions().show_legend(True))
    made = made.id(number).title(panel.title).description(panel.text).unit(panel.unit)
    return made.span(width).datasource(SOURCE).with_target(target)


def main() -> int:
    """Write or check the file; return the exit status."""
    text = built()
    if "--check" not in sys.argv:
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(text, encoding="utf-8")
    elif not FILE.exists() or FILE.read_text(encoding="utf-8") != text:
        print(f"{FILE.name} is not as .ci/dashboard.py writes it: run `make docs`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
