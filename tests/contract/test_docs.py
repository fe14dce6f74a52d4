"""The pages that show how something is done: every example in them is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.contract.documents import ROOT, Reader, blocks, install_commands
from tests.service.processes import start

MIGRATIONS = sorted((ROOT / "docs").glob("coming-from-*.md"))
PAGES = [*MIGRATIONS, *sorted((ROOT / "docs").glob("protect-a-*.md"))]


def test_there_is_a_page_for_each_system() -> None:
    """Each of the four systems that users come from has its page, and the README leads to it."""
    expected = [f"coming-from-{name}.md" for name in ("google", "razorpay", "scaleway", "stripe")]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert expected == [page.name for page in MIGRATIONS]
    assert [name for name in expected if f"(docs/{name})" not in readme] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_holds_what_it_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An example that is not run is not written: every block of the page does what it says."""
    install_commands(tmp_path)
    monkeypatch.chdir(tmp_path)
    server = start(tmp_path / "keyauthority-data")
    try:
        reader = Reader(page, server.address)
        for block in blocks(page):
            reader.run(block)
    finally:
        server.stop()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_no_block_that_is_not_run(page: Path) -> None:
    """A fence that is spelt otherwise would pass unseen."""
    fences = re.findall(r"^ *(?:```|~~~)", page.read_text(encoding="utf-8"), re.MULTILINE)

    assert len(fences) == 2 * len(blocks(page))
