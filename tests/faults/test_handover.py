"""A copy hands the authority to one named target once: never two stores on one log."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyauthority_server.config import ConfigError, TransientError
from keyauthority_server.runtime import bootstrap
from keyauthority_server.store import transfer
from keyauthority_server.store.interface import StoreUnavailable
from tests.faults.copies import Kept, place, rows_of, run_copy, served, settings, sqlite
from tests.faults.copies import filled as filled  # the fixture
from tests.faults.copies import polite as polite  # the fixture
from tests.postgres import Cluster

Elsewhere = Callable[[str], str]


@pytest.fixture(params=["sqlite", "postgres"])
def source(
    request: pytest.FixtureRequest, filled: tuple[Path, Kept], data: Path, cluster: Cluster
) -> str:
    """The URL of a filled store of each engine."""
    shutil.copytree(filled[0], data)
    if request.param == "sqlite":
        return sqlite(data)
    url = cluster.create()
    run_copy(data, "--from", sqlite(data), "--to", url)
    return url


@pytest.fixture
def elsewhere(source: str, data: Path, cluster: Cluster) -> Elsewhere:
    """Make the URL of an empty target of the other engine."""

    def make(name: str) -> str:
        return cluster.create() if source.startswith("sqlite") else sqlite(data, name)

    return make


class Killed(BaseException):
    """The process ended here."""


def killed_before(step: str, *arguments: str, data: Path) -> None:
    """Run a copy that ends before one of its steps."""
    with pytest.MonkeyPatch.context() as patched:

        def end(*_: Any) -> None:
            raise Killed

        patched.setattr(transfer, step, end)
        with pytest.raises(Killed):
            run_copy(data, *arguments)


def closed(*urls: str) -> list[bool]:
    """Whether each store is closed."""
    found = []
    for url in urls:
        with place(url) as opened:
            found.append(bool(transfer.head_of(opened).closed))
    return found


def test_finished_copy_cannot_be_repeated_to_a_second_target(
    source: str, data: Path, elsewhere: Elsewhere
) -> None:
    """The source is closed permanently: no other copy and no abandoning."""
    first, second = elsewhere("first.db"), elsewhere("second.db")
    run_copy(data, "--from", source, "--to", first)
    for target in (second, first):
        with pytest.raises(ConfigError, match=r"handed over to .* for good|a finished copy"):
            run_copy(data, "--from", source, "--to", target)
    killed_arguments = ("--abandon", "--from", source)
    for extra in ((), ("--to", second), ("--to", first)):
        with pytest.raises(
            ConfigError, match=r"copy was finished|no copy of this source|nothing to abandon"
        ):
            run_copy(data, *killed_arguments, *extra)
    assert [True, False] == closed(source, first)
    with pytest.raises(ConfigError, match="copied to another store and closed"):
        asyncio.run(bootstrap.prepare(settings(data, source)))


def test_unfinished_copy_resumes_to_its_own_target_only(
    source: str, data: Path, elsewhere: Elsewhere
) -> None:
    """Killed after closing the source, it accepts no other target, not even to abandon."""
    first, second = elsewhere("first.db"), elsewhere("second.db")
    killed_before("copy_rows", "--from", source, "--to", first, data=data)
    with pytest.raises(ConfigError, match="continue that copy, or abandon it"):
        run_copy(data, "--from", source, "--to", second)
    with pytest.raises(ConfigError, match="no copy of this source"):
        run_copy(data, "--abandon", "--from", source, "--to", second)
    assert [True, True, False] == closed(source, first, second)
    run_copy(data, "--from", source, "--to", first)
    with place(source) as one, place(first) as other:
        assert rows_of(one) == rows_of(other)


async def test_copy_killed_between_handover_and_opening_is_resumable(
    source: str, data: Path, elsewhere: Elsewhere, filled: tuple[Path, Kept]
) -> None:
    """Neither store takes changes then; only the same copy opens the target."""
    first = elsewhere("first.db")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(transfer, "_OPEN", "no statement")
        with pytest.raises(TransientError):
            run_copy(data, "--from", source, "--to", first)
    assert [True, True] == closed(source, first)
    with pytest.raises(ConfigError, match="copy was finished"):
        run_copy(data, "--abandon", "--from", source)
    run_copy(data, "--from", source, "--to", first)
    async with served(data, first) as running:
        await running.create(filled[1].project_id)


async def test_copy_abandoned_during_its_completion_has_one_outcome(
    source: str, data: Path, elsewhere: Elsewhere, filled: tuple[Path, Kept]
) -> None:
    """The copy is refused, and the source takes spends and changes again."""
    first, real = elsewhere("first.db"), transfer.finish

    def abandoned(one: Any, other: Any, head: Any) -> None:
        with place(source) as opened:
            transfer.reopen_source(opened, None)
        real(one, other, head)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(transfer, "finish", abandoned)
        with pytest.raises(ConfigError, match="abandoned meanwhile"):
            run_copy(data, "--from", source, "--to", first)
    assert [False, True] == closed(source, first)
    async with served(data, source) as running:
        await running.create(filled[1].project_id)
        assert "valid" == await running.verdict(filled[1].limited)


async def test_second_run_of_a_copy_leaves_a_target_in_use_unchanged(
    source: str, data: Path, elsewhere: Elsewhere, filled: tuple[Path, Kept]
) -> None:
    """The slower of two runs finds the target complete and keeps its rows and counters."""
    first, real = elsewhere("first.db"), transfer.copy_rows
    kept = filled[1]
    seen: list[Any] = []

    def overtaken(one: Any, other: Any, head: Any) -> None:
        patched.undo()
        run_copy(data, "--from", source, "--to", first)
        seen.append(asyncio.run(spend()))
        with place(first) as opened:
            seen.append((transfer.head_of(opened), rows_of(opened)))
        real(one, other, head)

    async def spend() -> str:
        async with served(data, first) as running:
            await running.create(kept.project_id)
            return str(await running.verdict(kept.limited))

    patched = pytest.MonkeyPatch()
    patched.setattr(transfer, "copy_rows", overtaken)
    with pytest.raises(ConfigError, match="finished meanwhile"):
        run_copy(data, "--from", source, "--to", first)
    with place(first) as opened:
        assert ["valid", (transfer.head_of(opened), rows_of(opened))] == seen


async def test_spends_at_the_source_end_when_its_counters_are_transferred(
    source: str, data: Path, elsewhere: Elsewhere, filled: tuple[Path, Kept]
) -> None:
    """None is lost: earlier ones count at the target, later ones are unavailable."""
    kept, first = filled[1], elsewhere("first.db")
    async with served(data, source) as running:
        killed_before("copy_counters", "--from", source, "--to", first, data=data)
        assert "valid" == await running.verdict(kept.limited)
        run_copy(data, "--from", source, "--to", first)
        with pytest.raises(StoreUnavailable):
            await running.verdict(kept.limited)
        assert "valid" == await running.verdict(kept.asked)
    async with served(data, first) as running:
        assert "quota_exceeded" == await running.verdict(kept.limited)
