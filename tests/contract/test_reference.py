"""The reference pages are those that the code describes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest

from keyauthority.cli.app import authority as client_cli
from keyauthority_server.commands import cli as server_cli
from tests.contract.documents import ROOT


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module that `make docs` and `make check` run."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(ROOT / ".ci")
    import reference

    yield reference
    for name in ("reference", "commands_page", "proto_files", "rpc_page", "python_api"):
        if name not in before:
            sys.modules.pop(name, None)


def test_check_names_each_page_that_differs(
    reference: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The committed pages pass; an altered page and a missing one fail, and stay as they are."""
    monkeypatch.setattr(sys, "argv", ["reference.py", "--check"])
    assert 0 == reference.main()

    (tmp_path / "docs").mkdir()
    for name in reference.PAGES:
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        (tmp_path / "docs" / name).write_text(text, encoding="utf-8")
    (tmp_path / "docs/settings.md").write_text("# Settings\n")
    (tmp_path / "docs/rpcs.md").unlink()
    monkeypatch.setattr(reference, "ROOT", tmp_path)

    assert 1 == reference.main()
    assert "rpcs.md, settings.md do not match the code: run `make docs`" in capsys.readouterr().out
    assert not (tmp_path / "docs/rpcs.md").exists()


def test_reason_without_a_remedy_is_refused(reference: ModuleType) -> None:
    """Each comment in the proto has status, text, example and remedy."""
    with pytest.raises(ValueError, match="STALE must read: UNAVAILABLE: … Example: … Remedy: …"):
        reference._reason("ERROR_REASON_STALE", "UNAVAILABLE: too old. Example: a lost database.")


@pytest.mark.parametrize(
    ("program", "group"), [("keyauthority", client_cli), ("keyauthority-server", server_cli)]
)
def test_help_of_each_command_fits_80_columns(program: str, group: click.Command) -> None:
    """Click cuts off a long summary, leaving dots, and never folds a metavar."""
    waiting = [(program, group)]
    while waiting:
        name, command = waiting.pop()
        text = command.get_help(click.Context(command, info_name=name, terminal_width=78))
        lines = text.splitlines()
        assert [] == [line for line in lines[1:] if line.endswith("...") or len(line) > 80]
        if isinstance(command, click.Group):
            waiting += [(f"{name} {word}", each) for word, each in command.commands.items()]
