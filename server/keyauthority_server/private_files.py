"""One access rule for the files and folders that the server creates or trusts.

The owner is the process's user or root, other users have no access, and the name is not a symbolic
link: otherwise another user of the machine could plant, read or redirect keys. A group of the
process may have access, since Kubernetes mounts volumes that way.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path
from typing import Final

OTHERS: Final = 0o007  # mode bits
GROUP: Final = 0o070
GROUP_READS: Final = 0o040
OWNER_ONLY: Final = 0o600

# System errors that may pass: no space, no descriptors, an unresponsive network file system, an
# address in use or not assigned yet.
PASSING: Final = frozenset(
    {
        *(errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EAGAIN, errno.EBUSY, errno.EDQUOT),
        *(errno.EIO, errno.EMFILE, errno.ENETDOWN, errno.ENETUNREACH, errno.ENFILE, errno.ENOMEM),
        *(errno.ENOSPC, errno.ESTALE, errno.ETIMEDOUT),
    }
)

NO_LOCKS: Final = "cannot lock {}, move it to a file system with locks, such as a local disk"


class UnsafeFile(PermissionError):
    """A file or folder breaks the rule; `str` names it, the breach and the remedy."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EPERM, reason)

    def __str__(self) -> str:
        return str(self.strerror)


def explain(failure: OSError, failed: str) -> str:
    """Return one line for a failure; `failed` names the operation and the path."""
    if isinstance(failure, UnsafeFile):
        return str(failure)
    remedy = "; mount it writable" if failure.errno == errno.EROFS else ""
    return f"{failed}: {failure.strerror}{remedy}"


def unwritable(path: Path) -> str | None:
    """Return one line with cause and remedy if a file or folder cannot be written, else None."""
    if os.access(path, os.W_OK, effective_ids=True):
        return None
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"{path} is on a read-only file system; mount it writable"
    return f"{path} cannot be written; make it writable by the server's user"


def open_private(
    path: Path,
    flags: int = os.O_RDONLY,
    *,
    follow: bool = False,
    group: int = GROUP,
    any_group: bool = False,
) -> int:
    """Open a regular file and return its descriptor; O_CREAT creates it with mode 0600.

    Raises UnsafeFile if it breaks the rule, else OSError. `follow` permits a symbolic link, for
    files that an administrator names: Kubernetes and certbot create such links. `group` are the
    permitted mode bits for a group of the process, or for every group with `any_group`.
    """
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)  # a FIFO would block
    try:
        descriptor = os.open(path, flags, OWNER_ONLY)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise UnsafeFile(_LINK.format(path)) from error
        raise
    try:
        check_status(path, os.fstat(descriptor), group=group, any_group=any_group)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_private(path: Path) -> str:
    """Return the ASCII text of a private file; raises OSError or UnicodeDecodeError."""
    with os.fdopen(open_private(path), encoding="ascii") as file:
        return file.read()


def write_private(path: Path, text: str, *, replace: bool = False) -> None:
    """Create a durable file of mode 0600 atomically.

    Raises OSError; FileExistsError if it exists, unless `replace` is set.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    handle = os.open(draft, flags, OWNER_ONLY)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            draft.replace(path)
        else:
            os.link(draft, path)  # unlike a rename, it never replaces a file
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_private(path: Path) -> int | None:
    """Return the group with access to a file; None without one, or without the file.

    For files that a library opens by name. Raises UnsafeFile if it breaks the rule, else OSError.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(status.st_mode):
        raise UnsafeFile(_LINK.format(path))
    return check_status(path, status)


def make_folder(path: Path) -> int | None:
    """Create a folder of mode 0700, or check an existing one; see `check_private`.

    An empty folder that the process's user owns is made private: it is a new volume.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()  # the folder may be a link: systemd creates such links
    is_own = status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode)
    if is_own and _is_open(status, GROUP) and next(path.iterdir(), None) is None:
        path.chmod(0o700)
        status = path.stat()
    return check_status(path, status, kind=stat.S_IFDIR)


def check_status(
    path: Path,
    status: os.stat_result,
    *,
    kind: int = stat.S_IFREG,
    group: int = GROUP,
    any_group: bool = False,
) -> int | None:
    """Return the group with access, or None; raises UnsafeFile. See `open_private`."""
    mode = status.st_mode
    if stat.S_IFMT(mode) != kind:
        raise UnsafeFile(f"{path} is not a {'regular file' if kind == stat.S_IFREG else 'folder'}")
    if status.st_uid not in (os.geteuid(), 0):
        raise UnsafeFile(
            f"{path} belongs to another user, uid {status.st_uid}: if you trust it, "
            f"chown {os.geteuid()} {path}"
        )
    if _is_open(status, group, any_group=any_group):
        private = "700" if kind == stat.S_IFDIR else "600"
        raise UnsafeFile(f"{path} is open to others; make it private: chmod {private} {path}")
    return status.st_gid if mode & GROUP else None


def _is_open(status: os.stat_result, group: int, *, any_group: bool = False) -> bool:
    own = any_group or status.st_gid in (os.getegid(), *os.getgroups())
    return bool(status.st_mode & (OTHERS | GROUP & ~(group if own else 0)))


_LINK: Final = "{} is a symbolic link: replace it with the file itself"
