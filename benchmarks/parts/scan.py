"""The scan for leaked tokens: files and a git history, beside grep and another scanner."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Final

from benchmarks.authority import Authority, serving
from benchmarks.figures import Part
from benchmarks.run import LeftOut, Measure, Run, take_turns
from keyauthority import TOKEN_PATTERN
from keyauthority.scan import RULES
from tests.scan.samples import near_misses, new_token
from tests.service.processes import environment

_ROUNDS: Final = 3  # at most: a round reads some gigabytes
_TOKENS: Final = 100  # in the tree, and as many in the history
_MISSES: Final = 10_000  # texts in the tree that nearly are tokens
_CHANGE: Final = 4_000  # bytes of the file that a commit replaces
_SAMPLE: Final = 1  # MB for a scanner that takes many seconds for each
_OURS: Final = "keyauthority scan"
_GREP: Final = "grep -rP"
_DETECT: Final = "detect-secrets, a part of the tree"
_HISTORY: Final = "keyauthority scan --git"
_LOG: Final = "git log -p | grep -P"
_ONLY_LOG: Final = "git log -p alone"
_PATTERN: Final = TOKEN_PATTERN.pattern
_LEAK: Final = "from scan --revoke to its end"
_TEXT: Final = f"""\
A tree of source files, copies of Python's library, with {_TOKENS} tokens and {_MISSES:,} texts that
nearly are tokens, and a history whose commits change a file of it each, with {_TOKENS} tokens. The
scan must find these tokens and no other text. It uses all cores for files and one beside git's
for a history; the others use one, grep with the expression of the tokens, which cannot compute
their check digits. All read from memory. detect-secrets has its usual plugins and ours. The last
figures are the way of a leaked key: the command scans a file, asks for the key and revokes it."""


def measure(run: Run) -> Part:
    """Scan the tree and the history, all in turn; then revoke a leaked key."""
    if shutil.which("git") is None:
        raise LeftOut("git is not installed")
    part = Part("Scan for leaked tokens", _TEXT)
    rounds = min(run.rounds, _ROUNDS)
    tree, repository = run.folder / "tree", run.folder / "repository"
    megabytes = _plant(tree, run.megabytes) / 1e6
    log_megabytes = _commit(repository, tree, run.commits) / 1e6
    sample = run.folder / "sample"
    sample_megabytes = _plant(sample, _SAMPLE, near=0) / 1e6
    grep = ("grep", "-rIPo", "-e", _PATTERN)
    sides: dict[str, Measure] = {
        _OURS: lambda: megabytes / _scan(tree, ".", found=_TOKENS),
        _GREP: lambda: megabytes / _seconds(tree, *grep, "."),
    }
    part.add("MB/s", take_turns(sides, rounds))
    part.add("MB/s", {_DETECT: [sample_megabytes / _detect_secrets(sample)]})
    log = ("git", "log", "-p", "--all", "-U0")
    piped = f"git log -p --all -U0 | grep -aPo -e '{_PATTERN}'"
    sides = {
        _HISTORY: lambda: log_megabytes / _scan(repository, "--git", found=_TOKENS),
        _LOG: lambda: log_megabytes / _seconds(repository, "sh", "-c", piped),
        _ONLY_LOG: lambda: log_megabytes / _seconds(repository, *log),
    }
    part.add("MB/s", take_turns(sides, rounds))
    part.add("MB", {"tree": [megabytes], f"log of {run.commits:,} commits": [log_megabytes]})
    part.compare("files: scan to grep", _OURS, _GREP)
    part.compare("history: scan to grep", _HISTORY, _LOG)
    part.compare("history: scan to reading the log", _HISTORY, _ONLY_LOG)
    with serving(run, "leak") as authority:
        part.add("s", {_LEAK: [_leak(authority, run.folder / "leak.env") for _ in range(rounds)]})
    return part


def _files(megabytes: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of so many MB of source files."""
    library = Path(sysconfig.get_path("stdlib"))
    sources = sorted(path for path in library.rglob("*.py") if path.is_file())
    size = 0
    for number, path in enumerate(cycle(sources)):
        if size >= megabytes * 1_000_000:
            return
        content = path.read_bytes()
        size += len(content)
        name = path.relative_to(library)
        yield f"copy-{number // len(sources)}/{name}", content


def _plant(tree: Path, megabytes: int, near: int = _MISSES) -> int:
    """Write a tree, its tokens and near misses evenly over it; return its bytes."""
    files = list(_files(megabytes))
    texts = [new_token() for _ in range(_TOKENS)] + near_misses(near, random.Random(1))  # noqa: S311
    planted: dict[int, list[str]] = {}
    for number, text in enumerate(texts):
        planted.setdefault(number * 7_919 % len(files), []).append(text)
    size = 0
    for number, (name, content) in enumerate(files):
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(f'KEY = "{text}"\n' for text in planted.get(number, ()))
        size += path.write_bytes(content + b"\n" + lines.encode())
    return size


def _commit(repository: Path, tree: Path, commits: int) -> int:
    """Make a repository with a file of the tree changed in each commit; return its log's bytes."""
    repository.mkdir()
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    git = ("git", "-C", str(repository))
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True, env=environment(settings))
    texts = [path.read_bytes() for path in islice(sorted(tree.rglob("*.py")), 200)]
    every = max(commits // _TOKENS, 1)
    with subprocess.Popen(
        [*git, "fast-import", "--quiet"], env=environment(settings), stdin=subprocess.PIPE
    ) as importing:
        assert importing.stdin is not None
        for number in range(commits):
            text = texts[(number * 31 + number // len(texts)) % len(texts)][:_CHANGE]
            kept = b"".join(line for line in text.splitlines(True) if b"_KA" not in line)
            if number % every == 0:
                kept += f'KEY = "{new_token()}"\n'.encode()
            importing.stdin.write(
                b"commit refs/heads/main\ncommitter a <a@example.com> %d +0000\n" % number
                + b"data 1\nx\nM 100644 inline %d.py\n" % (number % len(texts))
                + b"data %d\n" % len(kept)
                + kept
                + b"\n"
            )
    assert importing.returncode == 0
    log = subprocess.run(
        [*git, "log", "-p", "--all", "-U0"], check=True, stdout=subprocess.PIPE
    ).stdout
    return len(log)


def _seconds(folder: Path, *command: str) -> float:
    """Return how long a command takes that finds something, or has nothing to find."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def _scan(folder: Path, *what: str, found: int) -> float:
    """Return how long the scan takes; it must find so many tokens."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "keyauthority.cli", "scan", *what, "--json"]
    done = subprocess.run(command, check=False, cwd=folder, stdout=subprocess.PIPE)
    seconds = time.perf_counter() - begun
    assert (done.returncode, len(json.loads(done.stdout))) == (1, found)
    return seconds


def _detect_secrets(folder: Path) -> float:
    """Return how long detect-secrets takes; it must find the tokens too."""
    plugin = folder.with_name("keyauthority_tokens.py")
    plugin.write_text(RULES["detect-secrets"])
    options = ("--all-files", "--no-verify", "--plugin", str(plugin))
    disabled = ("--disable-filter", "detect_secrets.filters.heuristic.is_likely_id_string")
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "detect_secrets", "scan", *options, *disabled, "."],
        check=True,
        cwd=folder,
        stdout=subprocess.PIPE,
    )
    seconds = time.perf_counter() - begun
    results: dict[str, Sequence[dict[str, str]]] = json.loads(done.stdout)["results"]
    names = [one["type"] for found in results.values() for one in found]
    assert names.count("Key Authority token") == _TOKENS
    return seconds


def _leak(authority: Authority, file: Path) -> float:
    """Leak a key into a file, and return how long its revocation takes from there."""
    made = authority.create()
    token = made.secret_key.reveal()
    file.write_text(f"KEY={token}\n")
    assert authority.client.verify(token).valid
    settings = {
        "KEYAUTHORITY_ADDRESS": authority.server.address,
        "KEYAUTHORITY_OPERATOR_KEY_FILE": str(authority.server.data / "operator.key"),
    }
    command = [sys.executable, "-m", "keyauthority.cli", "scan", str(file), "--revoke", "--yes"]
    begun = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, env=environment(settings))
    seconds = time.perf_counter() - begun
    assert done.returncode == 1, done.stderr
    assert authority.client.verify(token).code == "revoked"
    events = authority.client.list_events(access_key=made.key.access_key)
    assert [event.type for event in events] == ["key_created", "key_revoked"]
    assert authority.client.get_key(made.key.access_key).revoke_reason == "leaked"
    return seconds
