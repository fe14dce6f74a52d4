"""The console as a process, and people who use it: forms filled in and sent as a browser does."""

from __future__ import annotations

import html
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from keyauthority import Client
from keyauthority.token import parse
from tests.service.processes import STOP_SECONDS, Outcome, ServerProcess, environment

READY: Final = re.compile(r"keyauthority console ready on (https?://\S+)\n")
PURPOSE: Final = "nightly export"

_HIDDEN: Final = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)"')
_FIELD: Final = re.compile(r'<(?:input|textarea) id="([^"]+)" name="[^"]+"([^>]*)>\n?([^<]*)')
_SECRET: Final = re.compile(r'id="secret-key"[^>]*>([^<]+)<')
_MARK: Final = re.compile(r'<img src="([^"]+)"')


@dataclass
class ConsoleProcess:
    """A running console."""

    process: subprocess.Popen[str]
    url: str
    link: str
    """The one-time link; empty with --sign-in."""
    log: Path

    def stop(self) -> Outcome:
        """End the console as systemd does."""
        self.process.terminate()
        output, _ = self.process.communicate(timeout=STOP_SECONDS)
        return Outcome(self.process.returncode, output, self.log.read_text(encoding="utf-8"))


def start_console(
    folder: Path,
    address: str,
    operator_key: str | None,
    *flags: str,
    settings: Mapping[str, str] | None = None,
    listen: str = "127.0.0.1:0",
) -> ConsoleProcess:
    """Start a console and wait until it is ready."""
    variables = {"KEYAUTHORITY_ADDRESS": address, **(settings or {})}
    if operator_key is not None:
        variables["KEYAUTHORITY_OPERATOR_KEY"] = operator_key
    log = folder / f"console-{uuid.uuid4()}.log"
    with log.open("w", encoding="utf-8") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "keyauthority.cli", "console", "--listen", listen, *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_file,
            env=environment(variables),
            text=True,
        )
    assert process.stdout
    ready = READY.fullmatch(process.stdout.readline())
    assert ready, log.read_text(encoding="utf-8")
    link = "" if "--sign-in" in flags else process.stdout.readline().strip()
    return ConsoleProcess(process, ready[1], link, log)


@contextmanager
def running_console(folder: Path, server: ServerProcess, *flags: str) -> Iterator[ConsoleProcess]:
    """Run a console of a server's first operator for the duration of the context."""
    console = start_console(folder, server.address, server.operator_key, *flags)
    try:
        yield console
    finally:
        console.stop()


class Person:
    """A person with a browser that runs no script."""

    def __init__(self, url: str, **client: Any) -> None:
        self.url = url
        once = httpx.Limits(max_keepalive_connections=0)  # so that nothing is left to close
        self.browser = httpx.Client(base_url=url, timeout=20, limits=once, **client)

    def sign_in(self, operator_key: str) -> httpx.Response:
        """Sign in with an operator key."""
        answer = self.submit("/sign-in", operator_key=operator_key)
        assert (answer.status_code, answer.headers["location"]) == (303, "/projects"), answer.text
        return answer

    def get(self, path: str) -> httpx.Response:
        """Load a page."""
        return self.browser.get(path)

    def page(self, path: str) -> str:
        """Load a page that must be there; return its text as a reader sees it."""
        answer = self.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return readable(answer.text)

    def form(self, path: str) -> dict[str, str]:
        """Load a form; return its hidden fields."""
        return hidden_fields(self.get(path).text)

    def post(self, path: str, fields: Mapping[str, str]) -> httpx.Response:
        """Send fields as a page of the console does."""
        return self.browser.post(path, data=dict(fields), headers={"origin": self.url})

    def submit(self, path: str, **fields: str) -> httpx.Response:
        """Load the form of a path, fill it in and send it."""
        return self.post(path, {**self.form(path), **fields})

    def new_project(self, name: str = "Shop") -> str:
        """Create a project; return its id."""
        answer = self.submit("/projects", display_name=name)
        assert answer.status_code == 303, answer.text
        return answer.headers["location"].removeprefix("/projects/")

    def new_key(self, project_id: str, **fields: str) -> httpx.Response:
        """Create a key, by default a restricted test key; return the page with its secret."""
        given = {"mode": "test", "kind": "restricted", "purpose": PURPOSE} | fields
        if given["kind"] != "secret":
            given.setdefault("permissions", "orders:read")
        answer = self.submit(f"/projects/{project_id}/keys/new", **given)
        assert answer.status_code == 200, answer.text
        return answer


def hidden_fields(text: str) -> dict[str, str]:
    """Return the hidden fields of the forms of a page."""
    return {name: html.unescape(value) for name, value in _HIDDEN.findall(text)}


def field_texts(text: str) -> dict[str, str]:
    """Return the texts of the fields of a form."""
    values = {}
    for name, attributes, content in _FIELD.findall(text):
        value = re.search(r'value="([^"]*)"', attributes)
        values[name] = html.unescape(value[1] if value else content)
    return values


def readable(text: str) -> str:
    """Return the text of a page without its tags, in single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def secret_of(answer: httpx.Response) -> str:
    """Return the secret that a page shows."""
    (secret,) = _SECRET.findall(answer.text)
    return str(secret)


def mark_of(answer: httpx.Response) -> str:
    """Return the path of the image that a page with a secret loads."""
    (path,) = _MARK.findall(answer.text)
    return str(path)


def access_key_of(answer: httpx.Response) -> str:
    """Return the access key of a new key."""
    token = parse(secret_of(answer))
    assert token is not None
    return token.access_key


def revision(client: Client, project_id: str) -> int:
    """Return the revision of the store."""
    return client.update_project(project_id, suspended=False).revision
