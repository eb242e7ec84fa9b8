"""Stages on disk: named by content, locked, checksummed; where everything lies.

data/cache/    the stages of all runs, shared by those that begin alike (git ignores it)
"""

import contextlib
import glob
import hashlib
import io
import os
import stat
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from gfrlib.config import UserError
from gfrlib.engine import locks, paths
from gfrlib.engine.source import GFRLIB, code_digest

CHECKPOINT_EVERY = 15.0  # seconds of training between checkpoints,
# and up to four times as many where one takes longer than this to write: a GPU waits
QUICKLY_SAVED, LESS_OFTEN = 0.3, 4.0
LOCK, CHECKPOINT, DONE = "lock", "checkpoint.pt", "done.pt"
UNFINISHED_AFTER = 3600.0  # seconds after which a temporary file is a killed process's


def root() -> Path:
    """The repository: $GFR_HOME if set, else the book's folder above gfrlib.

    Where gfrlib is installed alone, the working folder.
    """
    if os.environ.get("GFR_HOME"):
        return Path(os.environ["GFR_HOME"]).expanduser()
    above = GFRLIB.parent
    is_book = any((above / name).exists() for name in ("_toc.yml", "pyproject.toml"))
    return above if is_book else Path.cwd()


def cache() -> Path:
    """Where stages and this machine's own records lie: data/cache, or $GFR_CACHE.

    Name a folder that survives the machine, such as Google Drive's: all new records go
    there, too. Raises UserError where that is not mounted.
    """
    named = os.environ.get("GFR_CACHE")
    if not named:
        return root() / "data" / "cache"
    place = Path(named).expanduser()
    paths.check_mounted(place, "The folder for checkpoints and records (GFR_CACHE)")
    return place


def write_atomically(path: Path, content: bytes, advice: str = "") -> None:
    """All or nothing: a temporary file beside it, then a rename.

    Raises UserError where the disk refuses, with `advice` on what to do, or the one for
    what lies in our own folders.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        _remove_unfinished(path, UNFINISHED_AFTER)
    except OSError as problem:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise UserError(
            f"'{path}' could not be written ({problem.strerror}); nothing was lost: "
            f"{advice or locks.advice(problem)}, and run the same command again."
        ) from problem


def _remove_unfinished(path: Path, after: float = 0.0) -> None:
    """Remove temporary files of `path` that killed processes have left.

    A younger one than `after` seconds may be that of a process at work.
    """
    with contextlib.suppress(OSError):
        for left in path.parent.glob(f".{glob.escape(path.name)}-*"):
            if time.time() - left.stat().st_mtime >= after:
                left.unlink()


class NoStore:
    """Keeps nothing, so that every stage is trained. It is its own stage, too."""

    code, path = "", None

    @contextlib.contextmanager
    def stage(self, key: str) -> Iterator["NoStore"]:
        yield self

    def result(self) -> None:
        return None

    checkpoint = result

    def due(self) -> bool:
        return False

    def save(self, state: dict) -> None:
        pass

    finish = save


class Store:
    """Stages on disk, shared by all runs and processes that use the same folder."""

    def __init__(
        self, place: Path | None = None, notice: Callable[[str], None] | None = None
    ):
        self.place = place or cache() / "stages"
        self.code = code_digest()
        self.notice = notice

    @contextlib.contextmanager
    def stage(self, key: str) -> Iterator["Stage"]:
        """Waits while another process trains it; one that is done needs no lock.

        Raises UserError where the folder cannot be written.
        """
        folder = self.place / key
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise UserError(
                f"The cache folder '{self.place}' cannot be written "
                f"({problem.strerror}); {locks.advice(problem)}."
            ) from problem

        def is_done() -> bool:
            return os.path.exists(folder / DONE)

        with locks.held(
            folder / LOCK,
            waiting=f"waiting for another process that trains stage {key}",
            notice=self.notice,
            needless=is_done,
        ) as ours:
            if not is_done():
                _check_writable(folder)
            yield Stage(folder, key, self.notice, ours=ours)


def _check_writable(folder: Path) -> None:
    """Raises UserError before anything is trained that could not be kept there."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as problem:
        raise UserError(
            f"The stage in '{folder}' is not finished, and the folder cannot be "
            f"written ({problem.strerror}); {locks.advice(problem)}."
        ) from problem


class Stage:
    """One folder: lock, checkpoint.pt while training, done.pt afterwards.

    ours: whether this process holds the lock.
    """

    def __init__(
        self,
        path: Path,
        key: str,
        notice: Callable[[str], None] | None = None,
        *,
        ours: bool = False,
    ):
        self.path, self.key, self.notice, self.ours = path, key, notice, ours
        self.last_save, self.took = time.monotonic(), 0.0
        if ours:
            for name in (CHECKPOINT, DONE):
                _remove_unfinished(path / name)

    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        slower = min(max(1.0, self.took / QUICKLY_SAVED), LESS_OFTEN)
        return time.monotonic() - self.last_save > slower * CHECKPOINT_EVERY

    def save(self, state: dict) -> None:
        """Write a checkpoint."""
        began = time.monotonic()
        self._write(CHECKPOINT, state)
        self.last_save = time.monotonic()
        self.took = self.last_save - began

    def checkpoint(self) -> dict | None:
        """The last checkpoint, or None."""
        state = self._read(CHECKPOINT)
        if state is not None and self.notice:
            self.notice(f"resuming stage {self.key} at step {state.get('step')}")
        return state

    def finish(self, state: dict) -> None:
        """Keep the stage's result and drop its checkpoint."""
        self._write(DONE, state)
        with contextlib.suppress(OSError):  # what is left is removed the next time
            (self.path / CHECKPOINT).unlink(missing_ok=True)
        if self.ours:
            self._tidy()

    def result(self) -> dict | None:
        """The finished stage, or None."""
        state = self._read(DONE)
        if state is not None and os.listdir(self.path) != [DONE]:
            with _lock_of(self) as ours:
                if ours:
                    self._tidy()
        return state

    def _tidy(self) -> None:
        """Remove what is left beside the result, with the lock held.

        The lock's file, too: who comes in by another one finds the result.
        """
        with contextlib.suppress(OSError):
            for name in (CHECKPOINT, DONE):
                _remove_unfinished(self.path / name)
            for name in (CHECKPOINT, LOCK):
                (self.path / name).unlink(missing_ok=True)

    def unfit(self, name: str, why: str) -> UserError:
        """The sentence about a file of this stage that cannot be used."""
        return UserError(
            f"The checkpoint {self.path / name} {why}; delete that file to train its "
            "stage again, all other stages are kept."
        )

    def _write(self, name: str, state: dict) -> None:
        import torch

        buffer = io.BytesIO()
        torch.save({"key": self.key, "state": state}, buffer)
        content = buffer.getvalue()
        write_atomically(
            self.path / name,
            hashlib.sha256(content).hexdigest().encode() + b"\n" + content,
        )

    def _read(self, name: str) -> dict | None:
        """The state in a file, or None where there is none. Raises UserError."""
        import torch

        content = self._unsealed(name)
        if content is None:
            return None
        try:
            with warnings.catch_warnings():  # the sentence says enough
                warnings.simplefilter("ignore")
                kept = torch.load(io.BytesIO(content), "cpu", weights_only=True)
            key, state = kept["key"], kept["state"]
        except MemoryError:
            raise  # says nothing of the file
        except Exception as problem:  # other content than `_write`'s: many kinds
            raise self.unfit(name, "is damaged (it holds no stage)") from problem
        if key != self.key:
            raise self.unfit(name, f"belongs to another configuration (stage {key})")
        if not isinstance(state, dict):
            raise self.unfit(name, "is damaged (it holds no stage)")
        return state

    def _unsealed(self, name: str) -> bytes | None:
        """What stands behind the checksum of a file, or None where there is none."""
        path = self.path / name
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise self.unfit(name, "is no file")  # a pipe would block its reader
            seal, _, content = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as problem:
            why = f"cannot be read ({problem.strerror})"
            raise self.unfit(name, why) from problem
        if hashlib.sha256(content).hexdigest().encode() != seal:
            raise self.unfit(name, "is damaged (its checksum differs)")
        return content


@contextlib.contextmanager
def fitting(stage: Stage | NoStore) -> Iterator[None]:
    """What a kept state raises where it is used becomes one sentence.

    Such a file holds another thing than its stage keeps: other shapes, no such key.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as problem:  # the state may be anything that can be loaded
        if _is_of_memory(problem):
            raise
        place = stage.path or "the stage's folder"  # of torchrun's first process
        raise UserError(
            f"What is kept in {place} does not fit its stage (it belongs to another "
            "configuration, or holds other things); delete that folder to train the "
            "stage again, all other stages are kept."
        ) from problem


def _is_of_memory(problem: Exception) -> bool:
    """Whether the GPU's memory did not suffice, which says nothing of a file."""
    import torch

    return isinstance(problem, torch.OutOfMemoryError)


@contextlib.contextmanager
def _lock_of(stage: Stage) -> Iterator[bool]:
    """Whether the stage's lock is held, here or by the caller."""
    if stage.ours:
        yield True
        return
    with locks.tried(stage.path / LOCK) as taken:
        yield taken
