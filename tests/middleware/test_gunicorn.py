"""The page's application under gunicorn: with threads, with gevent, and preloaded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from keyauthority import Client, RateLimit
from keyauthority.testing import Authority
from tests.contract.documents import ROOT, blocks
from tests.middleware.web_servers import running
from tests.ports import free_port
from tests.service.processes import wait_until

PAGE: Final = ROOT / "docs" / "run-a-protected-service.md"
WORKERS: Final = ("--worker-class=sync", "--threads=8", "--worker-class=gevent")
REQUESTS: Final = 60


def write_examples(folder: Path) -> None:
    """Write the page's two files into a folder."""
    texts = [block.text for block in blocks(PAGE) if block.language == "python"]
    for name, text in zip(("wsgi.py", "gunicorn.conf.py"), texts, strict=False):
        (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("worker", "preload"),
    [
        pytest.param(
            worker,
            preload,
            id=f"{worker[2:]}{'-preload' if preload else ''}",
            marks=[pytest.mark.prove] if worker == WORKERS[0] or not preload else [],
        )
        for worker in WORKERS
        for preload in (False, True)
    ],
)
def test_documented_application_serves_and_counts(
    key_authority: Authority, client: Client, tmp_path: Path, worker: str, preload: bool
) -> None:
    """No caller is taken for another, and the last verdicts are reported at the end."""
    write_examples(tmp_path)
    projects = [client.create_project().project_id for _ in range(3)]
    limits = [None, None, RateLimit(REQUESTS, timedelta(days=1))]
    created = [
        client.create_key(
            project, mode="test", kind="restricted", permissions=["orders:read"], rate_limit=limit
        )
        for project, limit in zip(projects, limits, strict=True)
    ]
    secrets = [key.secret_key.reveal() for key in created]
    port = free_port()
    command = ["gunicorn", "--bind", f"127.0.0.1:{port}", "--no-control-socket", worker]
    command += ["--preload", "wsgi:app"] if preload else ["wsgi:app"]
    with (
        running(command, port, key_authority, tmp_path),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as browser,
        ThreadPoolExecutor(12) as pool,
    ):

        def seen(number: int) -> Any:
            return browser.get("/orders", headers={"x-api-key": secrets[number % 3]}).json()

        answers = list(pool.map(seen, range(REQUESTS)))
        refused = browser.get("/orders").json()
    assert [{"of": project} for project in projects] * (REQUESTS // 3) == answers
    assert {"error": "no_key"} == refused
    wait_until(lambda: all(_count(client, project) == REQUESTS // 3 for project in projects))


def _count(client: Client, project_id: str) -> int:
    return sum(row.count for row in client.get_usage(project_id))
