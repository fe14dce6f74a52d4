"""Tables of the command line on terminals of any width, and in pipes."""

from __future__ import annotations

import csv
import io
from contextlib import redirect_stdout

import click
import pytest

from keyauthority.cli import parameters
from keyauthority.cli.formats import print_listing
from keyauthority.cli.output import print_rows, rate_limit_text
from keyauthority.v1.key_pb2 import Project

TIME = "2030-01-31T12:00:00Z"
KEY = "KA7Q2M9X4T8B3N6W5R1P"
NAMES = ("access_key", "state", "mode", "kind", "purpose", "expire_time", "last_used_time")
ROW = (KEY, "active", "live", "restricted", "nightly export of all orders", TIME, TIME)


class Terminal(io.StringIO):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        """A terminal says that it is one."""
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 80 columns without colours."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def show(terminal: Terminal, rows: list[tuple[str, ...]]) -> str:
    """Return all that the terminal shows after the rows were printed."""
    with redirect_stdout(terminal):
        print_rows(NAMES, rows)
    return terminal.getvalue()


def test_wide_table_becomes_a_block_per_row(terminal: Terminal) -> None:
    """Ids and times are complete, and no line exceeds the terminal."""
    text = show(terminal, [ROW, (KEY, "revoked", "live", "secret", "word " * 40, "", "")])

    assert f"access_key      {KEY}\n" in text
    assert 2 == text.count(TIME)
    assert max(map(len, text.splitlines())) <= 80
    assert "expire_time" not in text.split("\n\n")[1]


def test_fitting_table_has_a_line_per_row(terminal: Terminal) -> None:
    """Empty columns are omitted, and prose wraps before blocks are used."""
    row = (KEY, "active", "live", "secret")

    lines = show(terminal, [(*row, "short", "", ""), (*row, "word " * 9, "", "")]).splitlines()

    assert ["access_key", "state", "mode", "kind", "purpose"] == lines[0].split()
    assert [f"{KEY}  active  live  secret  short"] == [lines[1].rstrip()]
    assert max(map(len, lines)) <= 80


def test_bold_is_omitted_without_colours(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_COLOR requests plain text, TERM=dumb requires it."""
    assert "\x1b" not in show(terminal, [ROW])

    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[1m" in show(terminal, [ROW])


def test_piped_table_uses_tabs_without_padding(capsys: pytest.CaptureFixture[str]) -> None:
    """`cut -f 1` and `sort` can read it; tabs in text are escaped."""
    print_rows(NAMES, [ROW, (KEY, "", "", "", "a\tb\n", "", "")])

    expected = ["\t".join(NAMES), "\t".join(ROW), f"{KEY}\t\t\t\ta\\tb\\n\t\t"]
    assert expected == capsys.readouterr().out.splitlines()


def test_rate_limit_is_shown_as_it_is_given() -> None:
    """`--rate-limit 100/1m` comes back as 100/1m, not 100/60s."""
    for text in ("100/1m", "5/90s", "1000/1d", "7/2h"):
        assert text == rate_limit_text(parameters.rate_limit(text))


def test_csv_is_exact_also_where_a_spreadsheet_sees_a_formula(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A quote in front would be read back as a part of the value."""
    row = ('=HYPERLINK("x")', "+1", "-1", "@x", 'a,"b')
    with click.Context(click.Command("x")) as context:
        context.meta["keyauthority.output"] = "csv"
        print_listing(Project(), "labels", NAMES[:5], [row])

    header, *rows = csv.reader(io.StringIO(capsys.readouterr().out, newline=""))
    assert [list(NAMES[:5]), list(row)] == [header, *rows]
