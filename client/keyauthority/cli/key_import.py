"""`keyauthority keys import`: move keys in from another system, by their stored hashes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
from rich.console import Console
from rich.progress import track

from keyauthority import convert
from keyauthority.cli import parameters
from keyauthority.cli.failures import REFUSED
from keyauthority.cli.import_sources import (
    SOURCES,
    Defaults,
    Row,
    Source,
    Unusable,
    as_unusable,
    rows_of,
)
from keyauthority.cli.output import print_rows, say, show
from keyauthority.cli.session import connected, settings, wants_json
from keyauthority.client import Client
from keyauthority.model import ImportScheme, ImportSet, KeyKind, KeyMode, TokenPart
from keyauthority.requests import ImportedKey

_AT_ONCE: Final = 1000  # keys in one call
_CALL_SECONDS: Final = 60.0  # unless --timeout is longer: a call of 1000 keys takes some seconds


class _Refusal(NamedTuple):
    line: int
    reason: str
    message: str


class _Report(NamedTuple):
    imported: int
    repeated: int
    refused: list[_Refusal]


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--from", "source", type=click.Choice(list(SOURCES)), required=True, help="Source of the file."
)
@click.option("--import-set", "name", required=True, metavar="NAME", help="Name of the set.")
@click.option("--project-id", default="", help="Project of rows without one.")
@click.option("--mode", type=parameters.choice(KeyMode), help="Mode of rows without one.")
@click.option("--kind", type=parameters.choice(KeyKind), help="Kind of rows without one.")
@click.option(
    "--scheme", type=parameters.choice(ImportScheme), help="Form of the digests; csv and jsonl."
)
@click.option("--token-part", type=parameters.choice(TokenPart), help="Digested part of a token.")
@click.option("--token-prefix", help="Text that all tokens begin with.")
@click.option("--token-length-min", type=int, help="Least length of a token, in characters.")
@click.option("--token-length-max", type=int, help="Greatest length of a token, in characters.")
@click.option("--dry-run", is_flag=True, help="Check the whole file, and write nothing.")
@settings
@click.pass_context
def import_(
    context: click.Context,
    /,
    file: Path,
    source: str,
    name: str,
    project_id: str,
    mode: str | None,
    kind: str | None,
    dry_run: bool,
    **shape: Any,
) -> None:
    """Import keys by the hashes that another system stores.

    Their tokens go on verifying. FILE is CSV with a header, JSON lines or a JSON array. The whole
    file is checked before the first key is written, rows that cannot be imported are reported by
    line, and the command can be repeated. Exit code 1 if a row was refused.
    """
    reader = SOURCES[source]
    wanted = _import_set(name, reader.shape, shape)
    defaults = Defaults(
        project_id, KeyMode(mode) if mode else None, KeyKind(kind) if kind else None
    )
    next(_keys(file, reader, defaults), None)  # a file of another kind is told before connecting
    with connected() as authority:
        checked = _run(authority, wanted, _keys(file, reader, defaults), "Checking", dry_run=True)
        report = checked
        if not dry_run:
            refused = {refusal.line for refusal in checked.refused}
            good = (each for each in _keys(file, reader, defaults) if each[0] not in refused)
            report = _run(authority, wanted, good, "Importing", dry_run=False)
            report = report._replace(refused=checked.refused + report.refused)
    _print(report, dry_run=dry_run)
    context.exit(REFUSED if report.refused else 0)


def _import_set(name: str, usual: Mapping[str, Any], given: Mapping[str, Any]) -> ImportSet:
    """Return the import set: the usual shape of the source, with the parts that are given."""
    parts = {**usual, **{part: value for part, value in given.items() if value is not None}}
    if not parts.keys() >= {"scheme", "token_length_min", "token_length_max"}:
        raise click.UsageError("csv and jsonl need --scheme, --token-length-min and -max")
    parts["scheme"] = ImportScheme(parts["scheme"])
    parts["token_part"] = TokenPart(parts.get("token_part", TokenPart.WHOLE))
    return ImportSet(name=name, **parts)


def _keys(
    file: Path, source: Source, defaults: Defaults
) -> Iterator[tuple[int, ImportedKey | Unusable]]:
    """Yield line number and key of each row. UsageError for a file that cannot be read."""
    try:
        for line, row in rows_of(file, source.columns):
            yield line, row if isinstance(row, Unusable) else _key(row, source, defaults)
    except (OSError, Unusable, UnicodeDecodeError) as error:
        raise click.UsageError(f"{file}: {error}") from None


def _key(row: Row, source: Source, defaults: Defaults) -> ImportedKey | Unusable:
    try:
        with as_unusable():
            key = source.read(row)
            convert.imported_key_to_proto(key)  # half a character or 1e30 could not be sent
    except Unusable as unusable:
        return unusable
    return replace(
        key,
        project_id=key.project_id or defaults.project_id,
        mode=key.mode or defaults.mode,
        kind=key.kind or defaults.kind,
    )


def _run(
    authority: Client,
    wanted: ImportSet,
    keys: Iterable[tuple[int, ImportedKey | Unusable]],
    title: str,
    *,
    dry_run: bool,
) -> _Report:
    """Send all keys in calls of `_AT_ONCE`, and sum up the outcomes."""
    imported = repeated = 0
    refused: list[_Refusal] = []
    seen: set[str] = set()  # a check writes nothing, so calls do not see the keys of earlier ones
    console = Console(stderr=True)
    for batch in track(_batches(keys), title, console=console, disable=not sys.stderr.isatty()):
        good = [(line, key) for line, key in batch if isinstance(key, ImportedKey)]
        refused += [
            _Refusal(line, "unusable", str(key)) for line, key in batch if isinstance(key, Unusable)
        ]
        if not good:
            continue
        answer = authority.import_keys(
            wanted, [key for _, key in good], validate_only=dry_run, timeout=_CALL_SECONDS
        )
        for (line, key), result in zip(good, answer.results, strict=True):
            if result.error is not None:
                refused.append(_Refusal(line, result.error.reason or "", result.error.message))
            elif result.created and key.digest not in seen:
                imported += 1
            else:
                repeated += 1
            if dry_run:
                seen.add(key.digest)
    return _Report(imported, repeated, refused)


def _batches(
    keys: Iterable[tuple[int, ImportedKey | Unusable]],
) -> Iterator[list[tuple[int, ImportedKey | Unusable]]]:
    remaining = iter(keys)
    while batch := list(islice(remaining, _AT_ONCE)):
        yield batch


def _print(report: _Report, *, dry_run: bool) -> None:
    refused = sorted(report.refused)
    if wants_json():
        listed = [refusal._asdict() for refusal in refused]
        show(json.dumps({**report._asdict(), "refused": listed, "dryRun": dry_run}, indent=2))
        return
    if refused:
        print_rows(
            ("line", "reason", "message"),
            [(str(refusal.line), refusal.reason, refusal.message) for refusal in refused],
        )
    done = "would be imported" if dry_run else "imported"
    say(f"{report.imported} {done}, {report.repeated} repeated, {len(refused)} refused")
