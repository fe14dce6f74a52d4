"""The console in a real browser: with and without a script, by keyboard, narrow, dark, attacked."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Page,
    Request,
    expect,
)

from keyauthority import Client, VerdictCode
from tests.console.browser import needs_chromium, running_browser
from tests.console.people import PURPOSE, ConsoleProcess, Person, access_key_of, revision
from tests.console.test_attacks import HOSTILE, HOSTILE_LABELS
from tests.console.test_pages import ABSENT_KEY, report
from tests.proofs import PROVE
from tests.service.processes import ServerProcess, wait_until

pytestmark = [needs_chromium, pytest.mark.xdist_group("console")]

WAIT: Final = 20_000  # milliseconds, on a busy machine
STORED: Final = """async () => JSON.stringify([
    {...localStorage}, {...sessionStorage}, document.cookie,
    await indexedDB.databases(), await caches.keys(), history.state, location.href,
])"""
"""All that a page can keep in a browser."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser of all tests."""
    with running_browser() as running:
        yield running


@pytest.fixture
def context(
    browser: Browser, console: ConsoleProcess, person: Person, request: pytest.FixtureRequest
) -> Iterator[BrowserContext]:
    """A browser window of a person who has signed in; a script fault fails the test."""
    one = browser.new_context(base_url=console.url, **getattr(request, "param", {}))
    one.set_default_timeout(WAIT)
    _sign_in(one, person)
    faults: list[str] = []
    one.on("weberror", lambda fault: faults.append(str(fault.error)))
    yield one
    one.close()
    assert faults == []


def _sign_in(window: BrowserContext, person: Person) -> None:
    """Give a window the session of a person."""
    jar = person.browser.cookies.jar
    window.add_cookies(
        [{"name": one.name, "value": one.value or "", "url": person.url} for one in jar]
    )


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """A tab."""
    return context.new_page()


SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
PAGES_SHORT: Final = 6
WIDE: Final = 1200
WITHOUT_SCRIPT: Final = {"java_script_enabled": False}


def create_project(page: Page, name: str) -> str:
    """Create a project by its form; return its path."""
    page.goto("/projects")
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Create project").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    return re.sub(r"^https?://[^/]+", "", page.url)


def fill_in_key(page: Page, purpose: str = PURPOSE) -> None:
    """Fill in the form of a new key."""
    page.get_by_role("link", name="New key").click()
    page.locator("#purpose").fill(purpose)
    page.locator("#permissions").fill("orders:read")
    page.locator("#ttl").fill("90d")


@pytest.mark.parametrize("context", [{}, WITHOUT_SCRIPT], indirect=True, ids=["script", "none"])
def test_flow_to_a_revoked_key_shows_the_secret_once(
    page: Page, context: BrowserContext, client: Client
) -> None:
    """Back, Forward, Reload, a second tab and the browser's storage never show it again."""
    create_project(page, "Shop")
    fill_in_key(page)
    page.get_by_role("button", name="Create key").click()
    secret = page.locator("#secret-key").inner_text()
    address = page.url
    assert client.verify(secret, permissions=["orders:read"]).valid
    if page.get_by_role("button", name="Copy").is_visible():
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_role("button", name="Copy").click()
        expect(page.locator("#copied")).to_have_text("Copied.")
        assert secret == page.evaluate("navigator.clipboard.readText()")
        with page.expect_download() as downloaded:
            page.get_by_role("button", name="Download").click()
        assert downloaded.value.path().read_text() == f"API_KEY={secret}\n"
        assert secret not in page.evaluate(STORED)

    page.get_by_role("link", name="Go to the key").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(PURPOSE)
    seen = [page.content()]
    for step in (page.go_back, page.go_back, page.go_forward, page.reload, page.go_forward):
        with suppress(Error):  # the browser asks before it sends the form again
            step(wait_until="commit")
        wait_until(partial(_is_complete, page))
        seen.append(page.evaluate("document.documentElement.outerHTML"))
    second = context.new_page()
    second.goto(address)
    seen.append(second.content())
    assert [text for text in seen if secret in text] == []

    page.goto(f"/keys/{secret[8:28]}")
    page.get_by_role("link", name="Revoke").click()
    page.get_by_label("Reason").select_option("leaked")
    page.get_by_label("Note").fill("found in a ticket")
    page.get_by_role("button", name="Revoke key").click()
    expect(page.get_by_role("status").first).to_contain_text("Key revoked.")
    assert client.verify(secret).code is VerdictCode.REVOKED


def _is_complete(page: Page) -> bool:
    """Return whether a page is there; `wait_for_function` needs frames, which Back may not draw."""
    with suppress(Error):  # it is being replaced
        return bool(page.evaluate("document.readyState") == "complete")
    return False


def test_reloaded_secret_page_says_already_shown(page: Page) -> None:
    """A reload sends the form again, and the image has marked the secret as shown."""
    create_project(page, "Reload")
    fill_in_key(page)
    with page.expect_response("**/secret-shown/*"):
        page.get_by_role("button", name="Create key").click()
    secret = page.locator("#secret-key").inner_text()
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Already shown")
    assert secret not in page.content()


def test_key_is_created_by_keyboard_alone(page: Page, client: Client) -> None:
    """Every control is reached by Tab, and the focus is visible."""
    path = create_project(page, "Keyboard")
    page.goto(f"{path}/keys/new")
    page.keyboard.press("Tab")
    assert "Skip to content" in _focused(page)
    page.keyboard.press("Enter")
    for name, text in (("purpose", "by keyboard"), ("permissions", "orders:read"), ("ttl", "7d")):
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.name") == name:
                break
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", name
        page.keyboard.type(text)
    page.keyboard.press("Enter")
    expect(page.locator("#secret-key")).to_be_visible()
    assert ["by keyboard"] == [key.purpose for key in client.list_keys(path.split("/")[-1])]


def _focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.textContent"))


def test_typed_permission_is_checked_and_table_renewed_while_typing(
    page: Page, client: Client
) -> None:
    """An error appears beside its field; a change by another person leaves the input alone."""
    path = create_project(page, "Live")
    page.goto(f"{path}/keys/new")
    page.locator("#permissions").fill("orders")
    expect(page.locator("#permissions-error")).to_contain_text("not a permission")
    page.locator("#permissions").fill("orders:read")
    expect(page.locator("#permissions-error")).to_have_count(0)

    page.goto(path)
    search = page.get_by_label("Search")
    with page.expect_response("**/changes?*"):
        page.reload()
    search.press_sequentially("half a wo")
    project_id = path.split("/")[-1]
    key = client.create_key(project_id, mode="test", kind="secret", purpose="by another").key
    expect(page.get_by_role("link", name="by another")).to_be_visible(timeout=WAIT)
    expect(search).to_have_value("half a wo")
    expect(search).to_be_focused()
    client.revoke_key(key.access_key)
    expect(page.locator("#live-keys .state")).to_have_text("revoked", timeout=WAIT)


def test_every_page_is_accessible_and_fits_its_width(
    browser: Browser,
    console: ConsoleProcess,
    person: Person,
    client: Client,
    project_id: str,
) -> None:
    """No serious finding of axe-core and no sideways scrolling at 360 pixels; light and dark.

    The short form looks at the first pages, each in one scheme.
    """
    paths = _all_pages(person, client, project_id)
    for place, scheme in enumerate(SCHEMES):
        with browser.new_context(base_url=console.url, color_scheme=scheme) as window:
            tab = window.new_page()
            _sign_in(window, person)
            for path in paths if PROVE else paths[place:PAGES_SHORT:2]:
                tab.goto(path)
                _look(tab, path)


def _look(page: Page, path: str) -> None:
    """Look at one page: its width on a phone and a desk, and the findings of axe-core."""
    for width, height in ((360, 740), (WIDE, 800)):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        if PROVE or width == WIDE:
            found = Axe().run(page).response["violations"]
            serious = [one for one in found if one["impact"] in ("serious", "critical")]
            assert serious == [], (path, width, serious)


def _all_pages(person: Person, client: Client, project_id: str) -> list[str]:
    """Return the paths of all pages, with records of every kind on them."""
    access_key = access_key_of(person.new_key(project_id, labels="team=payments"))
    report(client, access_key, {"valid": 700, "rate_limited": 20, "expired": 3})
    rotated = access_key_of(person.new_key(project_id, purpose=""))
    client.rotate_key(rotated)
    revoked = client.create_key(
        project_id, mode="live", kind="publishable", permissions=["a:b"]
    ).key
    client.revoke_key(revoked.access_key, reason="other", note="x" * 200)
    long = client.create_key(project_id, mode="live", kind="secret", purpose="w" * 200).key
    project = f"/projects/{project_id}"
    return [
        *(project, f"/keys/{rotated}/revoke", f"{project}/keys/new", f"/keys/{access_key}"),
        *("/operators", f"/usage?project_id={project_id}", "/audit", "/projects"),
        *(f"/advisories?project_id={project_id}", "/advisories?type=odd", "/advisories?type=old"),
        *(f"{project}?mode=live", f"{project}?q=absent&state=odd", "/usage?start_time=odd"),
        *(f"{project}/edit", f"{project}/suspend", f"{project}/resume", f"/keys/{ABSENT_KEY}"),
        *(f"/keys/{one}" for one in (rotated, revoked.access_key, long.access_key)),
        *(f"/keys/{access_key}/{name}" for name in ("edit", "rotate", "disable", "enable")),
    ]


@pytest.mark.prove
def test_secret_and_refused_pages_are_accessible(page: Page) -> None:
    """The answers to forms, and the page of those who have not signed in."""
    create_project(page, "Accessible")
    fill_in_key(page)
    page.locator("#ttl").fill("soon")
    page.get_by_role("button", name="Create key").click()
    expect(page.locator("#ttl-error")).to_be_visible()
    _look(page, "refused")
    page.locator("#ttl").fill("")
    page.get_by_role("button", name="Create key").click()
    expect(page.locator("#secret-key")).to_be_visible()
    _look(page, "secret")
    page.context.clear_cookies()
    page.goto("/sign-in")
    _look(page, "/sign-in")


def test_hostile_texts_run_no_script(page: Page, person: Person, client: Client) -> None:
    """In every field that can be shown; nothing outside of the console is loaded."""
    outside: list[str] = []
    refusals: list[str] = []

    def note(one: Request) -> None:
        if not one.url.startswith(person.url):
            outside.append(one.url)

    def read(one: ConsoleMessage) -> None:
        if "Content Security" in one.text:
            refusals.append(one.text)

    page.on("dialog", lambda dialog: dialog.dismiss())
    page.on("dialog", lambda dialog: outside.append(dialog.message))
    page.on("request", note)
    page.on("console", read)
    project_id = client.create_project(HOSTILE, labels=HOSTILE_LABELS).project_id
    access_key = access_key_of(person.new_key(project_id, purpose=HOSTILE))
    client.update_key(access_key, labels=HOSTILE_LABELS)
    for path in (f"/projects/{project_id}", f"/keys/{access_key}/edit", f"/keys/{access_key}"):
        page.goto(path)
    client.revoke_key(access_key, note=HOSTILE)
    page.goto(f"/audit?project_id={project_id}")
    page.goto(f"/projects/{project_id}/keys/new")
    page.locator("#ttl").fill(HOSTILE)
    page.get_by_role("button", name="Create key").click()
    expect(page.locator("#ttl")).to_have_value(HOSTILE)
    page.goto("/projects")
    assert outside == []
    assert refusals == []


ATTACK: Final = """<!doctype html><title>attacker</title>
<iframe id="framed" src="{url}/projects"></iframe>
<form id="forged" method="post" action="{url}{path}" target="_self">
<input name="csrf_token" value="{token}"><input name="reason" value="other"></form>"""


@pytest.fixture
def attacker() -> Iterator[ThreadingHTTPServer]:
    """Another site on another port, which for cookies is the same site."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = getattr(self.server, "text", "").encode()
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def test_other_site_neither_frames_nor_posts(
    page: Page,
    person: Person,
    console: ConsoleProcess,
    console_server: ServerProcess,
    client: Client,
    project_id: str,
    attacker: ThreadingHTTPServer,
) -> None:
    """Not even with the right form token, from a port of the same host, with the cookie."""
    access_key = access_key_of(person.new_key(project_id))
    token = person.form("/projects")["csrf_token"]
    before = revision(client, project_id)
    path = f"/keys/{access_key}/revoke"
    attacker.text = ATTACK.format(url=console.url, path=path, token=token)  # type: ignore[attr-defined]
    page.goto(f"http://127.0.0.1:{attacker.server_port}/")
    framed = page.frame_locator("#framed")
    expect(framed.get_by_role("heading", name="Projects")).to_have_count(0)
    with page.expect_response(f"**{path}") as answered:
        page.evaluate("document.getElementById('forged').submit()")
    assert answered.value.status == 403
    page.wait_for_url(f"{console.url}{path}")
    assert revision(client, project_id) == before
