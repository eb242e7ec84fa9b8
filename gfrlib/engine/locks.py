"""Locks between processes, by `filelock`: the operating system's own, on a file.

Such a lock ends with the process that holds it, whatever ends that, and a process that
is stopped keeps it. Its file stays where it is: whoever removed it might part two
processes that wait for it. Between hosts a lock is worth what their common file system
makes of it.
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
) -> Iterator[None]:
    """Hold the lock file `path`, in a folder that is there.

    While another process holds it, wait, after the notice `waiting`, until the lock is
    free or `needless()` is true. Where the file system knows no locks, say so once and
    go on alone. Raises UserError where the file cannot be written.
    """
    lock, said, taken = filelock.FileLock(path), False, False
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
        yield
    finally:
        if taken:
            lock.release()


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
            "free some space and run the same command again."
        ) from problem
    if isinstance(lock, filelock.SoftFileLock):
        lock.release()
        return None
    return True


def _tell_alone(path: Path, notice: Callable[[str], None]) -> None:
    place = path.parent.parent
    if place not in _told:
        _told.add(place)
        notice(
            f"The file system of '{place}' knows no locks: this process goes on alone. "
            "Do not start a second one there, it would train the same stages again."
        )
