"""How the folders of runs and evaluations are written and read: one writer at a time, and no half-written file.

- A lock on the file ``lock`` is held from :meth:`FolderWriter.acquire` to :meth:`FolderWriter.close`, or until the
  process ends, however it ends. The file says who holds it.
- A file, or a folder, is written beside its place, brought to the disk and renamed, so that a reader finds the old
  content or the new, after a crash of the machine too.
- Lines are appended by one write and are on the disk when it returns. A crash can only tear the last one, which then
  has no end; readers leave it out.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vqr1.errors import UserError, show

LOCK = "lock"
NEW, OLD = ".new", ".old"  # endings of what is being written, and of a folder that it replaces
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what a file system without locks answers
WITHOUT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)  # one that brings no folder to the disk

_held: set[FolderWriter] = set()


def _forget_in_child() -> None:
    """A forked child must not keep a lock that its parent lost by being killed.

    Closing is enough: the lock stays with the parent, whose file is still open. Children that are executed do not get
    the file at all (O_CLOEXEC).
    """
    for writer in _held:
        if writer._lock is not None:
            os.close(writer._lock)
            writer._lock = None
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)


class FolderWriter:
    """Writes into one folder, which may have to be made first."""

    def __init__(self, path: Path, other: str):
        """``other`` is the setting that names another folder, for messages."""
        self.path = path
        self._other = other
        self._lock: int | None = None

    def refuse_held(self) -> None:
        """Raises UserError where another process holds the folder; leaves no trace in it."""
        try:
            file = os.open(self.path / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            self._flock(file)
        finally:
            os.close(file)

    def acquire(self) -> None:
        """Make the folder and hold it. Raises UserError, naming the holder, where another process does.

        Where the file system has no locks it warns and goes on without.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            locked = self._flock(file)
            os.ftruncate(file, 0)
            os.pwrite(file, f"{this_process()}\n".encode(), 0)
        except BaseException:
            os.close(file)
            raise
        self._lock = file
        _held.add(self)
        if not locked:
            show(
                f"warning: the file system of {self.path} has no locks; see to it that nothing else writes there",
                file=sys.stderr,
                flush=True,
            )

    @property
    def held(self) -> bool:
        return self in _held

    def close(self) -> None:
        """Let the folder go. Without effect where it is not held."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        _held.discard(self)

    def _flock(self, file: int) -> bool:
        """Whether the lock is held now; False where the file system has none. Raises UserError if another has it."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = (self.path / LOCK).read_text(errors="replace").strip() or "another process"
            raise UserError(
                f"{self.path} is being written by {holder}; wait until it has ended, or give another {self._other}="
            ) from error
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            return False
        return True

    def write_text(self, name: str, text: str) -> None:
        """A whole file, at once or not at all."""
        with replaced(self.path / name) as new:
            new.write_text(text)

    def append(self, name: str, lines: str) -> None:
        """Whole lines at the end of a file. Raises OSError, and leaves the file as it was, where the disk is full."""
        content = lines.encode()
        with named(self.path / name):
            file = os.open(self.path / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                size = os.fstat(file).st_size
                try:
                    while content:  # of a disk that fills a part is taken, and the next write says why no more
                        content = content[os.write(file, content) :]
                except OSError:
                    os.ftruncate(file, size)
                    raise
                os.fsync(file)
            finally:
                os.close(file)


def is_held(folder: Path) -> bool:
    """Whether a process of this machine writes into ``folder``, for those who only read it; False where it cannot be
    known: on a file system without locks, or where the lock may not be read."""
    try:
        file = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    finally:
        os.close(file)
    return False


def this_process() -> str:
    """Host, job and process, for whoever finds the folder held."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"process {os.getpid()} on {socket.gethostname()}" + (f", job {job}" if job else "")


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Let an OSError that names no file, as of a write that fails, name ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path beside ``path`` for a new file, which takes its place when the block ends without an error."""
    new = path.with_name(path.name + NEW)
    remove(new)
    with named(path):
        yield new
        put_in_place(path)


def put_in_place(path: Path, written: Path | None = None) -> None:
    """Bring what was ``written``, by default beside ``path``, to the disk and rename it to ``path``."""
    written = written or path.with_name(path.name + NEW)
    sync(written)
    if path.is_dir():  # a folder cannot be renamed over another
        old = path.with_name(path.name + OLD)
        remove(old)
        path.rename(old)
    written.replace(path)
    _sync(path.parent)
    remove(path.with_name(path.name + OLD))


def sync(path: Path) -> None:
    """Return when a file, or a folder with all in it, is on the disk."""
    if path.is_dir():
        for inner in path.iterdir():
            sync(inner)
    _sync(path)


def _sync(path: Path) -> None:
    with named(path):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        except OSError as error:
            if error.errno not in WITHOUT_SYNC:
                raise
        finally:
            os.close(file)


def remove(path: Path) -> None:
    """A file, or a folder with all in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def whole_lines(content: bytes) -> list[bytes]:
    """The lines of a file without a last one that has no end: the writer was stopped in the middle of it."""
    return content[: content.rfind(b"\n") + 1].splitlines()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, without a torn last one; none where there is no file.

    Raises UserError, with file and line, for any other line that cannot be read.
    """
    rows = []
    for number, line in enumerate(whole_lines(path.read_bytes()) if path.is_file() else [], 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); restore the line or delete it") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: {str(row)[:80]!r} is not an object; restore the line or delete it")
        rows.append(row)
    return rows
