"""Tokens in real git repositories."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from keyauthority.scan import ScanError, scan_history, scan_paths
from keyauthority.scan.history import MESSAGE
from tests.scan.samples import new_token

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


class Repository:
    """A repository of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str) -> str:
        """Run git without the settings of the user."""
        own = {
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            **{f"GIT_{who}_NAME": "a" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "a@example.com" for who in ("AUTHOR", "COMMITTER")},
        }
        ended = subprocess.run(
            ["git", "-C", str(self.folder), *arguments],  # noqa: S607 - the user's own
            env={**os.environ, **own},
            capture_output=True,
            check=True,
            text=True,
        )
        return ended.stdout.strip()

    def commit(self, message: str = "x", **files: str) -> str:
        """Write files, commit everything, and return the commit."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def found(self, commits: str = "") -> set[tuple[str, int, str, str]]:
        """Return file, line, token and commit of each finding."""
        return {
            (each.file, each.line, each.token.reveal(), each.commit)
            for each in scan_history(commits, str(self.folder))
        }


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """An empty repository."""
    return Repository(tmp_path)


def test_removed_tokens_are_found_where_they_were_added(repository: Repository) -> None:
    """File, line and commit; in the first commit, in a later one, on every ref."""
    first, second, third = (new_token() for _ in range(3))
    one = repository.commit(**{"a b.env": f"x\nKEY={first}\n"})
    two = repository.commit(**{"a b.env": "x\n", "dir/c": f"1\n2\n3\n{second}"})
    repository.git("checkout", "-q", "-b", "side")
    three = repository.commit(**{"dir/c": f"1\n{third}\n2\n3\n"})
    repository.git("checkout", "-q", "main")
    added = {("a b.env", 2, first, one), ("dir/c", 4, second, two), ("dir/c", 2, third, three)}
    assert added == repository.found()
    assert {("dir/c", 4, second, two)} == repository.found(f"{one}..main")


def test_messages_and_merges_are_searched(repository: Repository) -> None:
    """A token in a message, and one that only the merge itself has added."""
    told, merged = new_token(), new_token()
    one = repository.commit(f"use {told}", a="1\n")
    repository.git("checkout", "-q", "-b", "side")
    repository.commit(b="1\n")
    repository.git("checkout", "-q", "main")
    repository.commit(c="1\n")
    repository.git("merge", "-q", "--no-commit", "--no-ff", "side")
    two = repository.commit("merge", a=f"1\n{merged}\n")
    assert {(MESSAGE, 1, told, one), ("a", 2, merged, two)} == repository.found()


def test_lines_that_look_like_headers_do_not_confuse_the_places(repository: Repository) -> None:
    """Added lines such as `++ b/x` and `@@ -1 +1 @@`, quotes in names, no final newline."""
    tokens = [new_token() for _ in range(3)]
    text = f"++ b/other\n@@ -1 +9 @@\n{tokens[0]}\n+++ b/third\n{tokens[1]}"
    name = 'quoted "name"\té'
    commit = repository.commit(**{name: text, "next": f"-- a/x\n{tokens[2]}\n"})
    assert {
        (name, 3, tokens[0], commit),
        (name, 5, tokens[1], commit),
        ("next", 2, tokens[2], commit),
    } == repository.found()


def test_settings_of_the_user_do_not_change_the_result(repository: Repository) -> None:
    """Prefixes, colours, renames, external tools and signatures of a configuration."""
    token = new_token()
    commit = repository.commit(a=f"{token}\n")
    for name, value in (
        *(("diff.noprefix", "true"), ("diff.mnemonicPrefix", "true"), ("color.ui", "always")),
        *(("log.showSignature", "true"), ("diff.external", "false"), ("log.showRoot", "false")),
        *(("diff.context", "9"), ("log.decorate", "full"), ("format.pretty", "oneline")),
        *(("core.bigFileThreshold", "1"), ("i18n.logOutputEncoding", "UTF-16")),
    ):
        repository.git("config", name, value)
    assert {("a", 1, token, commit)} == repository.found()


def test_commits_are_read_that_the_repository_replaces(repository: Repository) -> None:
    """By a replace ref or a graft, it could put a harmless commit in the place of another."""
    token = new_token()
    harmless = repository.commit(a="x")
    replaced = repository.commit(a=f"{token}\n")
    top = repository.commit(a="y")
    repository.git("replace", replaced, harmless)
    assert {("a", 1, token, replaced)} == repository.found()
    repository.git("replace", "-d", replaced)
    grafts = repository.folder / ".git/info/grafts"
    grafts.write_text(f"{top} {harmless}\n")
    assert {("a", 1, token, replaced)} == repository.found()


@pytest.mark.parametrize("place", [".", "dir", "linked"])
def test_attributes_of_the_work_tree_hide_no_file(repository: Repository, place: str) -> None:
    """A token in a file that .gitattributes calls binary, read from each kind of work tree."""
    token = new_token()
    attributes = {".gitattributes": "*.env -diff\nb.lock binary\n"}
    commit = repository.commit(**attributes, **{"a.env": token, "b.lock": token, "dir/c": ""})
    repository.git("worktree", "add", "-q", "--detach", "linked")
    found = scan_history("HEAD", str(repository.folder / place))
    seen = [(each.file, each.token.reveal(), each.commit) for each in found]
    assert [(name, token, commit) for name in ("a.env", "b.lock")] == seen


@pytest.mark.parametrize(
    "settings",
    [
        {"core.fsmonitor": "{program}"},
        {"remote.origin.url": "ext::{program}", "protocol.ext.allow": "always"},
        {"remote.origin.url": "{folder}", "remote.origin.uploadpack": "{program}"},
        {"remote.origin.url": "ssh://host/x", "core.sshCommand": "{program}"},
    ],
)
def test_scan_runs_no_program_that_a_repository_names(
    repository: Repository, settings: dict[str, str]
) -> None:
    """Neither a monitor of files nor a command to fetch an object that is missing."""
    ran = repository.folder / ".git" / "ran"
    program = repository.folder / ".git" / "program"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o700)
    repository.commit(a="1\n")
    blob = repository.git("rev-parse", "HEAD:a")
    (repository.folder / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    partial = {"core.repositoryFormatVersion": "1", "extensions.partialClone": "origin"}
    for name, value in {**partial, "remote.origin.promisor": "true", **settings}.items():
        text = value.format(program=program, folder=repository.folder)
        repository.git("config", name, text)
    with pytest.raises(ScanError):
        repository.found()
    assert [] == list(scan_paths([repository.folder], pytest.fail))
    assert not ran.exists()


@pytest.mark.parametrize("commits", ["absent", "--output=stolen", "a..b"])
def test_wrong_range_is_an_error_and_never_an_option(repository: Repository, commits: str) -> None:
    """The range cannot become an option of git."""
    repository.commit(a="1\n")
    with pytest.raises(ScanError, match="git: "):
        repository.found(commits)
    assert not (repository.folder / "stolen").exists()


def test_folder_without_a_repository_is_an_error(tmp_path: Path) -> None:
    """The message is git's."""
    with pytest.raises(ScanError, match="not a git repository"):
        list(scan_history("", str(tmp_path)))
