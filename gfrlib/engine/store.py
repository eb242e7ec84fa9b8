"""Stages on disk: content-addressed, locked, checksummed; and the folders that everything lies in.

data/cache/    the stages of all runs, shared by those that begin alike (ignored by git)
"""

import ast
import contextlib
import fcntl
import functools
import hashlib
import io
import json
import os
import socket
import tempfile
import threading
import time
from pathlib import Path

from gfrlib.config import UserError

GFRLIB = Path(__file__).resolve().parents[1]
CORE = (
    "networks",
    "losses",
    "tasks",
    "engine/augment",
    "engine/streams",
    "penalties",
    "replay",
    "engine/distributed",
    "training",
)  # whose code can move a number
STALE = 60.0  # seconds without a heartbeat after which a lock is taken over
CHECKPOINT_EVERY = 15.0  # seconds of training between checkpoints


def root() -> Path:
    """The repository: $GFR_HOME if set, else the folder above gfrlib if it is the book's, else the working folder."""
    if os.environ.get("GFR_HOME"):
        return Path(os.environ["GFR_HOME"])
    above = GFRLIB.parent
    return (
        above
        if (above / "_toc.yml").exists() or (above / "pyproject.toml").exists()
        else Path.cwd()
    )


def cache() -> Path:
    """Where stages and this machine's own records lie: data/cache, or the folder that GFR_CACHE names.

    Name one that survives the machine, such as Google Drive's: all new records go there, too.
    """
    return (
        Path(os.environ["GFR_CACHE"]).expanduser()
        if os.environ.get("GFR_CACHE")
        else root() / "data" / "cache"
    )


@functools.cache
def code_digest() -> str:
    """Twelve hexadecimal digits over the core's code, comments and docstrings left out."""
    sha = hashlib.sha256()
    for name in CORE:
        tree = ast.parse((GFRLIB / f"{name}.py").read_text())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if (
                isinstance(body, list)
                and body
                and isinstance(body[0], ast.Expr)
                and isinstance(body[0].value, ast.Constant)
                and isinstance(body[0].value.value, str)
            ):
                body[0].value.value = ""
        sha.update(ast.unparse(tree).encode())
    return sha.hexdigest()[:12]


def write_atomically(path: Path, content: bytes) -> None:
    """All or nothing: a temporary file beside it, then a rename. Raises UserError where the disk refuses."""
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
            f"'{path}' could not be written ({problem.strerror}); nothing was lost: free some space or choose "
            "another folder, and run the same command again."
        ) from problem


class Store:
    """Stages on disk, named by what they depend on; shared by all runs and processes that use the same folder."""

    def __init__(self, place: Path | None = None, notice=None):
        self.place = place or cache() / "stages"
        self.code = code_digest()
        self.notice = notice or (lambda text: None)

    @contextlib.contextmanager
    def stage(self, key: str):
        """Claim the stage `key`: waits while another process trains it, takes over from one that died."""
        stage = Stage(self.place / key, key, self.notice)
        stage.claim()
        try:
            yield stage
        finally:
            stage.release()


class Stage:
    """One folder: lock, checkpoint.pt while training, done.pt afterwards."""

    def __init__(self, path: Path, key: str, notice):
        self.path, self.key, self.notice = path, key, notice
        self.owned = threading.Event()
        self.last_save = time.monotonic()

    def claim(self) -> None:
        """Take the lock, unless the stage is already done (then no lock is needed)."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise UserError(
                f"The cache folder '{self.path.parent}' cannot be written ({problem.strerror})."
            ) from problem
        lock, told = self.path / "lock", False
        owner = json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": _started(os.getpid()),
            }
        )
        while not (self.path / "done.pt").exists():
            try:
                handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                with os.fdopen(handle, "w") as file:
                    file.write(owner)
                self.owned.set()
                threading.Thread(target=self._beat, args=(lock,), daemon=True).start()
                return
            except FileExistsError:
                if self._abandoned(lock):
                    self._take_away(lock)
                    continue
                if not told:
                    self.notice(
                        f"waiting for another process that trains stage {self.key}"
                    )
                    told = True
                time.sleep(0.5)
            except OSError as problem:
                lock.unlink(missing_ok=True)
                raise UserError(
                    f"The lock '{lock}' could not be written ({problem.strerror}); free some space and run the "
                    "same command again."
                ) from problem

    def _take_away(self, lock: Path) -> None:
        """Remove an abandoned lock, unless another process has just done so and holds its own: judged again, one at a time."""
        with open(self.path.parent / ".takeover", "w") as mutex:
            fcntl.flock(mutex, fcntl.LOCK_EX)
            if self._abandoned(lock):
                lock.unlink(missing_ok=True)

    def _beat(self, lock: Path) -> None:
        while self.owned.is_set():
            with contextlib.suppress(OSError):
                os.utime(lock)
            time.sleep(5)

    @staticmethod
    def _abandoned(lock: Path) -> bool:
        """Its process on this host is gone, or it has had no heartbeat for a minute."""
        try:
            owner, age = lock.read_text(), time.time() - lock.stat().st_mtime
        except OSError:
            return False
        with contextlib.suppress(ValueError, KeyError, TypeError):
            owner = json.loads(owner)
            if owner["host"] == socket.gethostname():
                return _started(owner["pid"]) != owner["started"]
        return age > STALE

    def release(self) -> None:
        """Give the lock back."""
        if self.owned.is_set():
            self.owned.clear()
            (self.path / "lock").unlink(missing_ok=True)

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
        if state is not None:
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
                f"The checkpoint {path} is damaged (its checksum differs); delete that file to train its stage "
                "again, all other stages are kept."
            )
        kept = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        if kept["key"] != self.key:
            raise UserError(
                f"The checkpoint {path} belongs to another configuration (stage {kept['key']}); "
                "delete that file to train its stage again."
            )
        return kept["state"]


def _started(pid: int) -> str:
    """When a process of this host began (so that a reused number is not mistaken for it); "" if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except OSError:
        pass
    if not Path("/proc").exists():  # macOS: only whether it lives
        try:
            os.kill(pid, 0)
            return "alive"
        except OSError:
            pass
    return ""


class NoStore:
    """Keeps nothing: every stage is trained."""

    code, path = "", None

    @contextlib.contextmanager
    def stage(self, key: str):
        yield self

    def result(self) -> None:
        return None

    checkpoint = result

    def due(self) -> bool:
        return False

    def finish(self, state: dict) -> None:
        pass
