"""Stages on disk: named by content, locked, checksummed; where everything lies.

data/cache/    the stages of all runs, shared by those that begin alike (git ignores it)
"""

import contextlib
import hashlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from gfrlib.config import UserError
from gfrlib.engine import locks
from gfrlib.engine.source import GFRLIB, code_digest

CHECKPOINT_EVERY = 15.0  # seconds of training between checkpoints


@runtime_checkable
class StageInterface(Protocol):
    """One stage of a run's chain, as training sees it."""

    path: Path | None  # its folder, for messages; None where nothing is kept

    def result(self) -> dict | None:
        """What `finish` kept, or None."""

    def checkpoint(self) -> dict | None:
        """What was saved last, or None."""

    def due(self) -> bool:
        """Whether it is time to save."""

    def save(self, state: dict) -> None:
        """Keep a checkpoint."""

    def finish(self, state: dict) -> None:
        """Keep the result, and drop the checkpoint."""


@runtime_checkable
class StoreInterface(Protocol):
    """Where the stages of runs are kept: Store, NoStore and distributed.Store."""

    code: str  # digest of the code that makes the stages; part of their keys

    def stage(self, key: str) -> contextlib.AbstractContextManager[StageInterface]:
        """The stage `key`, which nobody else trains meanwhile."""


def root() -> Path:
    """The repository: $GFR_HOME if set, else the book's folder above gfrlib.

    Where gfrlib is installed alone, the working folder.
    """
    if os.environ.get("GFR_HOME"):
        return Path(os.environ["GFR_HOME"])
    above = GFRLIB.parent
    is_book = any((above / name).exists() for name in ("_toc.yml", "pyproject.toml"))
    return above if is_book else Path.cwd()


def cache() -> Path:
    """Where stages and this machine's own records lie: data/cache, or $GFR_CACHE.

    Name a folder that survives the machine, such as Google Drive's: all new records go
    there, too.
    """
    named = os.environ.get("GFR_CACHE")
    return Path(named).expanduser() if named else root() / "data" / "cache"


def write_atomically(path: Path, content: bytes) -> None:
    """All or nothing: a temporary file beside it, then a rename.

    Raises UserError where the disk refuses.
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
    except OSError as problem:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise UserError(
            f"'{path}' could not be written ({problem.strerror}); nothing was lost: "
            "free some space or choose another folder, and run the same command again."
        ) from problem


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
                f"({problem.strerror})."
            ) from problem
        with locks.held(
            folder / "lock",
            waiting=f"waiting for another process that trains stage {key}",
            notice=self.notice,
            needless=(folder / "done.pt").exists,
        ):
            yield Stage(folder, key, self.notice)


class Stage:
    """One folder: lock, checkpoint.pt while training, done.pt afterwards."""

    def __init__(
        self, path: Path, key: str, notice: Callable[[str], None] | None = None
    ):
        self.path, self.key, self.notice = path, key, notice
        self.last_save = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self.last_save > CHECKPOINT_EVERY

    def save(self, state: dict) -> None:
        """Write a checkpoint."""
        self._write("checkpoint.pt", state)
        self.last_save = time.monotonic()

    def checkpoint(self) -> dict | None:
        """The last checkpoint, or None."""
        state = self._read("checkpoint.pt")
        if state is not None and self.notice:
            self.notice(f"resuming stage {self.key} at step {state['step']}")
        return state

    def finish(self, state: dict) -> None:
        """Keep the stage's result and drop its checkpoint."""
        self._write("done.pt", state)
        (self.path / "checkpoint.pt").unlink(missing_ok=True)

    def result(self) -> dict | None:
        """The finished stage, or None."""
        return self._read("done.pt")

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
        import torch

        path = self.path / name
        if not path.exists():
            return None
        seal, _, content = path.read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() != seal:
            raise UserError(
                f"The checkpoint {path} is damaged (its checksum differs); delete that "
                "file to train its stage again, all other stages are kept."
            )
        kept = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        if kept["key"] != self.key:
            raise UserError(
                f"The checkpoint {path} belongs to another configuration (stage "
                f"{kept['key']}); delete that file to train its stage again."
            )
        return kept["state"]
