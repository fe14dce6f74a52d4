"""`keyauthority scan`: find leaked tokens, ask for their state, and revoke them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from keyauthority import __version__
from keyauthority import scan as scanner
from keyauthority.cli.failures import CANNOT_TELL, MISUSED, REFUSED
from keyauthority.cli.output import print_rows, say, show, word
from keyauthority.cli.session import connected, settings, wants_json
from keyauthority.errors import NotFound
from keyauthority.model import KeyKind, KeyState, RevokeReason
from keyauthority.scan import Finding, ScanError
from keyauthority.text import one_line

_STANDARD_INPUT: Final = "-"
_ALL_REFS: Final = ""
_UNKNOWN: Final = "unknown"
_LIVE: Final = frozenset({KeyState.ACTIVE, KeyState.DISABLED, KeyState.EXPIRED})
"""States from which a key is or can become valid; every other is final."""


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option(
    "--git",
    "commits",
    is_flag=False,
    flag_value=_ALL_REFS,
    default=None,
    metavar="[RANGE]",
    help="Search the history of the repository here: main..HEAD (default: all refs).",
)
@click.option("--check", is_flag=True, help="Ask the authority for the state of each key.")
@click.option("--revoke", is_flag=True, help="Revoke keys that are not ended, reason leaked.")
@click.option("--yes", is_flag=True, help="Revoke without confirmation.")
@click.option("--sarif", is_flag=True, help="Print SARIF 2.1.0, for code scanning.")
@click.option(
    "--rules",
    type=click.Choice(sorted(scanner.RULES)),
    help="Print a rule file for another scanner, and end.",
)
@settings
@click.pass_context
def scan(
    context: click.Context,
    paths: tuple[str, ...],
    commits: str | None,
    check: bool,
    revoke: bool,
    yes: bool,
    sarif: bool,
    rules: str | None,
) -> None:
    """Find tokens in files, folders and git histories.

    A PATH of - is standard input. A token counts if its check digits are right. Prints places and
    access keys, never a secret. In a git work tree, files that git ignores are skipped. Exit codes:
    0 none found, 1 found, 2 wrong usage or not confirmed, 3 failed.
    """
    if rules is not None:
        show(scanner.RULES[rules].rstrip("\n"))
        return
    if sarif and wants_json():
        raise click.UsageError("give --json or --sarif, not both")
    failures: list[str] = []
    findings = _found(paths, commits, failures)
    states: dict[str, str] = {}
    try:
        if findings and (check or revoke):
            states = _states(findings)
    finally:
        _report(findings, states, sarif=sarif)
        for line in failures:
            say(f"keyauthority scan: {one_line(line)}")
    if revoke:
        _revoke(findings, states, confirmed=yes)
    context.exit(REFUSED if findings else CANNOT_TELL if failures else 0)


def _found(paths: Sequence[str], commits: str | None, failures: list[str]) -> list[Finding]:
    if bool(paths) == (commits is not None):
        raise click.UsageError("name what to search: PATH..., - or --git")
    if _STANDARD_INPUT in paths and len(paths) > 1:
        raise click.UsageError("give paths or -, not both")
    try:
        if commits is not None:
            return list(scanner.scan_history(commits))
        if paths == (_STANDARD_INPUT,):
            if sys.stdin is None:
                raise click.UsageError("standard input is closed")
            return list(scanner.scan_stream(sys.stdin.buffer, _STANDARD_INPUT))
        return list(scanner.scan_paths(map(Path, paths), failures.append))
    except (ScanError, OSError) as error:
        failures.append(str(error))
        return []


def _states(findings: Sequence[Finding]) -> dict[str, str]:
    """Return the state of the key of each token, by token."""
    states: dict[str, str] = {}
    with connected(verifying=True) as authority:
        for token in dict.fromkeys(finding.token.reveal() for finding in findings):
            try:
                states[token] = word(authority.lookup_key(token).key.state)
            except NotFound:
                states[token] = _UNKNOWN
    return states


def _report(findings: Sequence[Finding], states: dict[str, str], *, sarif: bool) -> None:
    rows = [(finding, states.get(finding.token.reveal(), "")) for finding in findings]
    if sarif:
        show(json.dumps(scanner.sarif_report(rows, __version__), indent=2))
    elif wants_json():
        show(json.dumps([_record(*row) for row in rows], indent=2))
    elif rows:
        names = ("file", "line", "kind", "mode", "access_key", "state", "commit")
        print_rows(names, [_cells(*row) for row in rows])


def _record(finding: Finding, state: str) -> dict[str, str | int | None]:
    record: dict[str, str | int | None] = {
        "file": finding.file,
        "line": finding.line,
        "kind": finding.kind,
        "mode": finding.mode,
        "accessKey": finding.access_key,
        "state": state or None,
    }
    return record | ({"commit": finding.commit} if finding.commit else {})


def _cells(finding: Finding, state: str) -> tuple[str, ...]:
    return (
        finding.file,
        str(finding.line),
        finding.kind,
        finding.mode,
        finding.access_key,
        state,
        finding.commit[:12],
    )


def _revoke(findings: Sequence[Finding], states: dict[str, str], *, confirmed: bool) -> None:
    """Revoke the keys that are not ended, after a confirmation."""
    live = {
        finding.access_key: finding
        for finding in findings
        if states[finding.token.reveal()] in _LIVE
    }
    if not live:
        return
    if not confirmed and not _confirm(len(live)):
        raise _NotConfirmed
    with connected(verifying=True) as authority:
        for access_key, finding in live.items():
            secret = None if finding.kind is KeyKind.PUBLISHABLE else finding.token
            authority.revoke_key(access_key, secret_key=secret, reason=RevokeReason.LEAKED)
            say(f"revoked {access_key}")


class _NotConfirmed(click.ClickException):
    exit_code = MISUSED

    def __init__(self) -> None:
        super().__init__("not confirmed, nothing was revoked; confirm with --yes")


def _confirm(count: int) -> bool:
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    keys = "key" if count == 1 else "keys"
    return click.confirm(f"Revoke {count} leaked {keys}?", err=True)
