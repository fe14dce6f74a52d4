"""Ownership, modes and links of the server's files, as platforms provide them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from keyauthority_server import private_files
from keyauthority_server.private_files import UnsafeFile, check_private, make_folder, open_private
from tests.service.forkserver import shared
from tests.service.processes import Outcome, command, environment

USER: Final = 64_001  # of no user: any number will do
GROUP: Final = 64_002

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files and processes to other users")


@pytest.fixture
def volume(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that other users reach."""
    folder = Path("/tmp") / f"keyauthority-{os.getpid()}-{tmp_path_factory.mktemp('v').name}"  # noqa: S108
    folder.mkdir(mode=0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which all is made."""
    data = tmp_path_factory.mktemp("initialised") / "data"
    assert 0 == shared().run("init", "--data", str(data)).code
    return data


@pytest.fixture
def data(initialised: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(initialised, tmp_path / "data"))


_BECOME: Final = """
import os, tempfile
from keyauthority_server import commands
with tempfile.TemporaryDirectory() as folder:  # now, while all that is imported can be read
    commands.cli.main(["init", "--data", folder], standalone_mode=False)
os.setgroups(_GROUPS)
os.setgid(_USER)
os.setuid(_USER)
commands.main()
"""


def run_as(*arguments: str, groups: list[int]) -> Outcome:
    """Run the program as a user without rights who is in these groups."""
    done = subprocess.run(  # the interpreter may be one that only root reaches: it changes itself
        [sys.executable, "-c", f"_USER, _GROUPS = {USER}, {groups}\n{_BECOME}", *arguments],
        capture_output=True,
        check=False,
        env=environment(),
        text=True,
        timeout=90,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def fs_group(folder: Path) -> None:
    """Hand a folder over as Kubernetes does for `fsGroup`: by the group, with any owner."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 0, GROUP)
        path.chmod(0o2770 if path.is_dir() else path.stat().st_mode | 0o660)


@as_root
def test_group_owned_volume_is_used_with_a_warning(volume: Path) -> None:
    """A folder root:GID 2770 is initialized, and used again with all files at 0660."""
    data = volume / "data"
    data.mkdir()
    fs_group(data)
    warning = f"warning open_to_group gid={GROUP} logger=keyauthority_server path={data}"
    outcome = run_as("init", "--data", str(data), groups=[GROUP])
    assert (0, True) == (outcome.code, warning in outcome.log), outcome.log
    fs_group(data)
    (data / "audit.key").chmod(0o440)  # a mounted Secret
    outcome = run_as("init", "--data", str(data), groups=[GROUP])
    assert (0, True) == (outcome.code, f"{warning}/pepper" in outcome.log), outcome.log


@as_root
@pytest.mark.parametrize("name", ["", "pepper", "audit.key", "operator.key", "keyauthority.db"])
def test_file_of_another_user_is_refused(data: Path, name: str) -> None:
    """The other user could have chosen the content of the private file."""
    os.chown(data / name, USER, GROUP)
    outcome = shared().run("init", "--data", str(data))
    assert 2 == outcome.code
    belongs = f"{data / name} belongs to another user, uid {USER}: if you trust it, chown 0"
    assert outcome.log.startswith(f"keyauthority-server: {belongs}")


@as_root
def test_foreign_group_is_refused(data: Path) -> None:
    """Another group may contain any user."""
    os.chown(data / "pepper", 0, GROUP)
    (data / "pepper").chmod(0o640)
    outcome = shared().run("init", "--data", str(data))
    assert (2, True) == (outcome.code, "pepper is open to others" in outcome.log)


NAMES: Final = (
    *("pepper", "audit.key", "operator.key", "supervisor.lock", "workers.lock"),
    *(f"keyauthority.db{end}" for end in ("", "-wal", "-journal", ".head", ".reserve", ".lock")),
    *("keyauthority.db.gate", "keyauthority-counters.db", "keyauthority-counters.db.lock"),
)


@pytest.mark.parametrize("name", NAMES)
def test_symbolic_link_is_not_followed(data: Path, tmp_path: Path, name: str) -> None:
    """This holds for existing targets and for creating a file at the target."""
    path, target = data / name, tmp_path / "elsewhere"
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    outcome = shared().run("init", "--data", str(data))
    assert (2, False, 1) == (outcome.code, target.exists(), outcome.log.count("\n"))
    assert f"{path} is a symbolic link: replace it with the file itself" in outcome.log


def test_dangling_link_at_a_new_key_file_is_refused(tmp_path: Path) -> None:
    """A first start creates no key through a link of another user."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "pepper").symlink_to(tmp_path / "elsewhere")
    assert 2 == shared().run("init", "--data", str(data)).code
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("make", [lambda path: os.mkfifo(path, 0o600), lambda path: path.mkdir()])
def test_special_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Opening a FIFO would block the start."""
    make(tmp_path / "pepper")
    with pytest.raises(OSError, match=r"is not a regular file|Is a directory"):
        open_private(tmp_path / "pepper", os.O_RDWR | os.O_CREAT)
    with pytest.raises(UnsafeFile, match="is not a regular file"):
        check_private(tmp_path / "pepper")


def test_files_are_created_private_for_any_umask(tmp_path: Path) -> None:
    """Files and folders are private from their creation."""
    before = os.umask(0)
    try:
        os.close(open_private(tmp_path / "lock", os.O_RDWR | os.O_CREAT))
        make_folder(tmp_path / "folder")
    finally:
        os.umask(before)
    modes = [oct((tmp_path / name).stat().st_mode & 0o777) for name in ("lock", "folder")]
    assert ["0o600", "0o700"] == modes


def test_mounted_key_link_is_followed_when_requested(tmp_path: Path) -> None:
    """Kubernetes Secrets and certbot mount files as links into an exchanged folder."""
    (tmp_path / "there").touch(mode=0o440)
    (tmp_path / "tls.key").symlink_to(tmp_path / "there")
    os.close(open_private(tmp_path / "tls.key", follow=True, group=private_files.GROUP_READS))
    with pytest.raises(UnsafeFile, match="is a symbolic link"):
        open_private(tmp_path / "tls.key")


_APART: Final = ("unshare", "--map-root-user", "--mount", "sh", "-c")
_READ_ONLY: Final = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


@pytest.mark.parametrize(
    ("mounted", "words", "named"),
    [
        ("keyauthority.db", "operator create --permission keys:verify", "keyauthority.db is on a"),
        ("", "init", "supervisor.lock: Read-only"),
        ("", "audit verify", "keyauthority.db is on a"),
    ],
)
def test_read_only_file_system_is_one_line_with_path_and_remedy(
    data: Path, mounted: str, words: str, named: str
) -> None:
    """The database alone, as a mounted file, or its folder: exit code 2: a retry cannot help."""
    tried = [*_APART, _READ_ONLY, str(data / mounted), "true"]
    if shutil.which("unshare") is None or subprocess.run(tried, check=False).returncode:
        pytest.skip("no mount namespace here")
    command_line = command(*words.split(), "--data", str(data))
    done = subprocess.run(
        [*_APART, _READ_ONLY, str(data / mounted), *command_line],
        capture_output=True,
        check=False,
        env=environment(),
        text=True,
        timeout=90,
    )
    assert (2, 1) == (done.returncode, done.stderr.count("\n")), done.stderr
    assert f"{data}/{named}" in done.stderr
    assert done.stderr.endswith("; mount it writable\n")
