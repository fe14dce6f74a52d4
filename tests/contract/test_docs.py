"""The how-to pages: every example in them is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.contract.documents import ROOT, Reader, blocks, install_commands
from tests.service.forkserver import shared

MIGRATIONS = sorted((ROOT / "docs").glob("coming-from-*.md"))
PAGES = [
    *MIGRATIONS,
    *sorted((ROOT / "docs").glob("protect-a-*.md")),
    ROOT / "docs" / "first-key.md",
    ROOT / "docs" / "leaked-keys.md",
    ROOT / "docs" / "advisories.md",
    ROOT / "docs" / "import.md",
    ROOT / "docs" / "command-line.md",
]
DRILLS = [ROOT / "docs" / "backup-drill.md", ROOT / "docs" / "rotate-everything.md"]
"""Pages of some twenty commands each."""


def test_each_supported_system_has_a_page() -> None:
    """Eight systems have a migration page, and the README links to each."""
    styles = ("google", "razorpay", "scaleway", "stripe")
    sources = ("better-auth", "djangorestframework-api-key", "litellm", "unkey")
    expected = sorted(f"coming-from-{name}.md" for name in (*styles, *sources))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert expected == [page.name for page in MIGRATIONS]
    assert [name for name in expected if f"(docs/{name})" not in readme] == []


@pytest.mark.parametrize(
    "page",
    [*PAGES, *(pytest.param(page, marks=pytest.mark.prove) for page in DRILLS)],
    ids=lambda page: page.stem,
)
def test_documented_examples_work(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block of the page is run and gives the shown result."""
    install_commands(tmp_path)
    server = shared().start(tmp_path / "keyauthority-data")
    monkeypatch.chdir(tmp_path)
    try:
        reader = Reader(page, server.address)
        for block in blocks(page):
            reader.run(block)
    finally:
        server.stop()


@pytest.mark.parametrize("page", [*PAGES, *DRILLS], ids=lambda page: page.stem)
def test_documented_blocks_are_all_run(page: Path) -> None:
    """A fence with another spelling would be skipped silently."""
    fences = re.findall(r"^ *(?:```|~~~)", page.read_text(encoding="utf-8"), re.MULTILINE)

    assert len(fences) == 2 * len(blocks(page))


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.name
)
def test_documented_modules_exist(page: Path) -> None:
    """A page names a module by its path below the repository, a package or `tests/`."""
    tops = ("", "tests", "client/keyauthority", "server/keyauthority_server")
    named = re.findall(r"`([\w./]+/\w+\.py)`", page.read_text(encoding="utf-8"))

    assert [name for name in named if not any((ROOT / top / name).exists() for top in tops)] == []


def test_architecture_page_names_every_package() -> None:
    """Its table is how a newcomer finds a room."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tops = ("client/keyauthority", "server/keyauthority_server", "tests")
    packages = {path.parent.name for top in tops for path in (ROOT / top).glob("*/*.[jp]*")}
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", text))))

    assert packages - named - {"__pycache__"} == set()
