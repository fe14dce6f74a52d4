"""The documentation site: every link has a target, and no other host is asked."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Final
from urllib.parse import unquote, urlsplit

import pytest

from tests.console.browser import needs_chromium, running_browser
from tests.contract.documents import ROOT

TOOLS: Final = ROOT / ".venv-docs" / ".tools"
BUILD_SECONDS: Final = 120

pytestmark = pytest.mark.xdist_group("site")
needs_builder = pytest.mark.skipif(  # in continuous integration it fails instead
    not TOOLS.exists() and "SITE_REQUIRED" not in os.environ,
    reason="the builder of the site is not installed (make site)",
)


class Page(HTMLParser):
    """The addresses in a page: those that a reader may follow, and those that a browser loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.followed: list[str] = []
        self.loaded: list[str] = []
        self.anchors = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the addresses and the anchor of an element."""
        for name, value in attrs:
            match name:
                case "id" | "name":
                    self.anchors.add(value or "")
                case "href" if tag == "a":
                    self.followed.append(value or "")
                case "href" | "src" | "srcset" | "data" | "poster" | "action":
                    self.loaded.append(value or "")
                case "style":
                    self.loaded += urls(value or "")
                case _:
                    pass


def urls(style: str) -> list[str]:
    """Return the addresses that a style sheet loads."""
    found = re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""", style)
    return [url for url in found if not url.startswith(("data:", "#"))]


def run_make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in the repository."""
    return subprocess.run(
        ["/usr/bin/env", "make", "--silent", *arguments],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=BUILD_SECONDS,
    )


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    assert TOOLS.exists(), "the builder of the site is required: make .venv-docs/.tools"
    folder = tmp_path_factory.mktemp("site")
    # Tools older than the Makefile serve, since a test installs nothing.
    done = run_make(f"--old-file={TOOLS.relative_to(ROOT)}", "site", f"SITE={folder}")
    assert 0 == done.returncode, done.stdout + done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(html: Path) -> list[Page]:
    """All built pages."""
    return [Page(path) for path in sorted(html.rglob("*.html"))]


def test_every_document_is_in_the_navigation_once() -> None:
    """A page outside the navigation is found by search only."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ +- .*?: (\S+\.md)$", text, re.MULTILINE)
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert sorted(str(path.relative_to(ROOT)) for path in documents) == sorted(listed)


@needs_builder
def test_site_loads_nothing_from_other_hosts(html: Path, pages: list[Page]) -> None:
    """Neither a page nor a style sheet names a file of another host."""
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md")))
    sheets = {sheet: urls(sheet.read_text(encoding="utf-8")) for sheet in html.rglob("*.css")}
    assert sheets
    loaded = {**{page.path: page.loaded for page in pages}, **sheets}
    assert [] == [
        (str(path.relative_to(html)), url)
        for path, found in loaded.items()
        for url in found
        if urlsplit(url).netloc
    ]


@needs_builder
def test_site_links_lead_to_pages_and_anchors(html: Path, pages: list[Page]) -> None:
    """The builder checks links between documents; this checks files and folders as well."""
    anchors = {page.path: page.anchors for page in pages}
    dead = []
    for page in pages:
        for url in (*page.followed, *page.loaded):
            parts = urlsplit(url)
            if parts.scheme or parts.netloc or page.path.name == "404.html":
                continue
            target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            if not target.is_file() or (target in anchors and anchor not in anchors[target]):
                dead.append((str(page.path.relative_to(html)), url))
    assert [] == dead


@needs_builder
def test_builder_refuses_a_dead_link(tmp_path: Path) -> None:
    """`make site` fails: a dead link does not pass as a warning."""
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "README.md").write_text("# Start\n\n[gone](gone.md)\n", encoding="utf-8")
    (tmp_path / "mkdocs.yml").write_text("site_name: test\ndocs_dir: pages\nsite_dir: html\n")
    recipe = run_make(
        "--dry-run", f"--old-file={TOOLS.relative_to(ROOT)}", "site", f"SITE={tmp_path}"
    )
    done = subprocess.run(
        ["/bin/sh", "-c", recipe.stdout.splitlines()[-1]],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=BUILD_SECONDS,
    )
    assert 0 != done.returncode
    assert "page does not exist" in done.stdout + done.stderr


@pytest.fixture
def address(html: Path) -> Iterator[str]:
    """The address of a web server on loopback that serves the site."""
    handler = functools.partial(_Quiet, directory=html)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing."""


@needs_builder
@needs_chromium
def test_search_finds_a_page_without_a_request_to_other_hosts(address: str) -> None:
    """A reader types a word, follows the first result, and the browser asked this server only."""
    asked: list[str] = []
    with running_browser() as browser:
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.locator("dialog").wait_for(state="attached")  # the search listens from then on
        page.get_by_role("button", name="Search").first.click()
        page.get_by_role("combobox", name="Search").fill("pgbouncer")
        page.get_by_role("option", name="The connection string").click()
        page.wait_for_url(re.compile("/docs/postgresql/.*#the-connection-string"))
    assert [] == [url for url in asked if not url.startswith((address, "data:", "blob:"))]
