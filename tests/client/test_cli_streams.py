"""The command line on full, closed, broken or non-Unicode standard streams."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from keyauthority import convert
from keyauthority.results import Page
from tests.client.fake_authority import FakeAuthority
from tests.client.records import KEY, OPERATOR_KEY, VALID_ANSWER

PROGRAM = f"{sys.executable} -m keyauthority.cli"


def _run(
    authority: FakeAuthority, line: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a line of shell with the program as `$K`."""
    return subprocess.run(  # the line is this file's own
        ["/bin/sh", "-c", line],
        env=os.environ
        | {"K": PROGRAM, "KEYAUTHORITY_ADDRESS": authority.address}
        | {"KEYAUTHORITY_OPERATOR_KEY": OPERATOR_KEY}
        | environment,
        input="token\n",
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize("line", ["$K verify", "$K --help", "$K keys list --json"])
def test_unwritable_output_is_one_line_and_exit_code_3(authority: FakeAuthority, line: str) -> None:
    """A full disk is neither valid nor denied."""
    authority.will(convert.key_page_to_proto(Page((KEY,))) if "list" in line else VALID_ANSWER)

    ended = _run(authority, f"{line} > /dev/full")

    expected = "keyauthority: cannot write the answer: No space left on device\n"
    assert (3, expected) == (ended.returncode, ended.stderr)


def test_exit_code_is_kept_without_any_writable_stream(authority: FakeAuthority) -> None:
    """Python itself would exit with 120, as it tries to flush again."""
    authority.will(VALID_ANSWER)

    assert 3 == _run(authority, "$K verify > /dev/full 2> /dev/full").returncode


def test_closed_standard_output_sends_nothing(authority: FakeAuthority) -> None:
    """A secret shown once must not be created where it cannot be shown."""
    ended = _run(authority, "$K keys create --kind secret >&-")

    assert (2, "") == (ended.returncode, ended.stdout)
    assert ended.stderr == "keyauthority: standard output is closed: open it to see the result\n"
    assert authority.seen == []


def test_closed_pipe_ends_the_command_silently(authority: FakeAuthority) -> None:
    """Piped into `head`, it prints no error and does not exit as denied."""
    authority.will(VALID_ANSWER)

    ended = _run(authority, "{ $K verify; echo $? >&2; } | true")

    assert "141\n" == ended.stderr


def test_unencodable_text_is_escaped(authority: FakeAuthority) -> None:
    """A script in a limited locale gets the whole answer."""
    authority.will(convert.key_page_to_proto(Page((replace(KEY, purpose="K\u00e4se"),))))

    ended = _run(authority, "$K keys list", PYTHONIOENCODING="ascii")

    assert (0, "") == (ended.returncode, ended.stderr)
    assert "K\\xe4se" in ended.stdout


def test_grpc_log_is_not_on_standard_error(authority: FakeAuthority) -> None:
    """A mistake is one line; gRPC's handshake messages are suppressed."""
    ended = _run(authority, "$K keys list --tls; $K keys list --tls 2>&-")

    assert (3, 1) == (ended.returncode, ended.stderr.count("\n"))
