"""Locks between processes, by `filelock`: the operating system's own, on a file.

Such a lock ends with the process that holds it, whatever ends that, and a process that
is stopped keeps it. Its file stays where it is: whoever removed it might part two
processes, one of which holds the lock of the removed file, the other that of a new one
of the same name. Only where nothing is left to be done behind the lock does that harm
nobody, and the holder may remove the file (store.Stage). Between hosts a lock is worth
what their common file system makes of it.
"""

import contextlib
import errno
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

with warnings.catch_warnings():  # without fcntl it says what `held` says, too
    warnings.simplefilter("ignore")
    import filelock

from gfrlib.config import UserError

POLL = 0.5  # seconds between two looks at a lock that another process holds
# How a file system says that it knows no locks.
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
# How a system says that a place is not ours to write.
NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)
_told: set[Path] = set()  # folders without locks that were named already


def _silent(text: str) -> None:
    """A notice that nobody asked for."""


@contextlib.contextmanager
def held(
    path: Path,
    *,
    waiting: str = "",
    notice: Callable[[str], None] | None = None,
    needless: Callable[[], bool] = lambda: False,
) -> Iterator[bool]:
    """Hold the lock file `path`, in a folder that is there; whether it is held.

    While another process holds it, wait, after the notice `waiting`, until the lock is
    free or `needless()` is true. Where the file system knows no locks, say so once and
    go on alone. Raises UserError where the file cannot be written.
    """
    lock, said, taken = _lock(path), False, False
    while not taken and not needless():
        taken = _take(lock)
        if taken is None:
            _tell_alone(path, notice or warnings.warn)
            break
        if not taken:
            if not said:
                (notice or _silent)(waiting)
                said = True
            time.sleep(POLL)
    try:
        yield bool(taken)
    finally:
        if taken:
            lock.release()


@contextlib.contextmanager
def tried(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` if that can be had at once; whether it is held."""
    lock, taken = _lock(path), False
    with contextlib.suppress(UserError):
        taken = _take(lock)
    try:
        yield bool(taken)
    finally:
        if taken:
            lock.release()


def _lock(path: Path) -> filelock.BaseFileLock:
    """Another user may wait for it, too; the file has no content to be changed."""
    return filelock.FileLock(path, mode=0o666)


def _take(lock: filelock.BaseFileLock) -> bool | None:
    """Whether the lock is ours now; None where there are no locks.

    Where the system knows none, filelock takes the mere existence of a file for one. It
    would outlive a killed process, so it is not used.
    """
    if isinstance(lock, filelock.SoftFileLock):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lock.acquire(timeout=0)
    except filelock.Timeout:
        return None if isinstance(lock, filelock.SoftFileLock) else False
    except NotImplementedError:
        return None
    except OSError as problem:
        if problem.errno in NO_LOCKS:
            return None
        raise UserError(
            f"The lock '{lock.lock_file}' could not be written ({problem.strerror}); "
            f"{advice(problem)}, and run the same command again."
        ) from problem
    if isinstance(lock, filelock.SoftFileLock):
        lock.release()
        return None
    return True


def advice(problem: OSError) -> str:
    """What to do where a file could not be written."""
    if problem.errno in NOT_OURS:
        return (
            "it is another user's or read-only: set GFR_CACHE to a folder of yours "
            "(GFR_HOME where data are packed)"
        )
    return "free some space or choose another folder"


def _tell_alone(path: Path, notice: Callable[[str], None]) -> None:
    place = path.parent.parent
    if place not in _told:
        _told.add(place)
        notice(
            f"The file system of '{place}' knows no locks: this process goes on alone. "
            "Do not start a second one there, it would train the same stages again."
        )
