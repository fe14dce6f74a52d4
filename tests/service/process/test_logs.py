"""The log: one line per event for any content."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from keyauthority_server import logs
from keyauthority_server.config import LogFormat, LogLevel

FORGED = 'a\nb\r\x1b[31m\x00\u2028\u202e\x85\ud800 = "c"'


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Give logging back as it was found."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.mark.parametrize("log_format", list(LogFormat))
def test_hostile_text_stays_on_its_line(
    log_format: LogFormat, capfd: pytest.CaptureFixture[str]
) -> None:
    """No event, value or traceback breaks a line or sends a control character."""
    logs.configure(log_format, LogLevel.INFO, worker=1)
    structlog.get_logger("one").info(FORGED, value=FORGED)
    logging.getLogger("two").error("%s", FORGED)
    try:
        raise ValueError(FORGED)
    except ValueError:
        structlog.get_logger("three").exception("failed")
    written = capfd.readouterr().err
    assert 3 == written.count("\n") == len(written.splitlines())
    assert written.replace("\n", "").isprintable()
    assert 3 == written.count("worker")


def test_json_log_preserves_text_exactly(capfd: pytest.CaptureFixture[str]) -> None:
    """Escaped text reads back unchanged."""
    logs.configure(LogFormat.JSON, LogLevel.INFO)
    structlog.get_logger("one").info("event", value=FORGED)
    assert FORGED == json.loads(capfd.readouterr().err)["value"]


def test_log_level_drops_less_severe_events(capfd: pytest.CaptureFixture[str]) -> None:
    """Only events of the level and above are written."""
    logs.configure(LogFormat.TEXT, LogLevel.WARNING)
    structlog.get_logger("one").info("quiet")
    logging.getLogger("two").info("quiet")
    structlog.get_logger("one").warning("loud")
    assert "loud" in capfd.readouterr().err.split("\n")[0]
