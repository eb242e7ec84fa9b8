"""A run's record and its stage cache on disk; nothing else touches results.

data/records/  committed records of slim and paper runs, with their analyses beside them
data/cache/    records of quick runs, and the stages: content-addressed, locked, checksummed (ignored by git)
"""

import ast
import base64
import contextlib
import dataclasses
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
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from gfrlib import metrics
from gfrlib.config import RESULT_VERSION, Config, UserError

CORE = ("networks", "losses", "tasks", "augment", "streams", "penalties", "replay", "distributed",
        "training")  # whose code can move a number
STALE = 60.0  # seconds without a heartbeat after which a lock is taken over
CHECKPOINT_EVERY = 15.0  # seconds of training between checkpoints
RULES = ("softmax", "max-prob", "concat-logits", "over-chance", "nearest-mean", "task-aware")


def root() -> Path:
    """The repository: $GFR_HOME if set, else the folder above gfrlib if it is the book's, else the working folder."""
    if os.environ.get("GFR_HOME"):
        return Path(os.environ["GFR_HOME"])
    above = Path(__file__).resolve().parent.parent
    return above if (above / "_toc.yml").exists() or (above / "pyproject.toml").exists() else Path.cwd()


def cache() -> Path:
    """Where stages and this machine's own records lie: data/cache, or the folder that GFR_CACHE names.

    Name one that survives the machine, such as Google Drive's: all new records go there, too.
    """
    return Path(os.environ["GFR_CACHE"]).expanduser() if os.environ.get("GFR_CACHE") else root() / "data" / "cache"


@functools.cache
def code_digest() -> str:
    """Twelve hexadecimal digits over the core's code, comments and docstrings left out."""
    sha = hashlib.sha256()
    for name in CORE:
        tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr) \
                    and isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                body[0].value.value = ""
        sha.update(ast.unparse(tree).encode())
    return sha.hexdigest()[:12]


@dataclass(frozen=True)
class Record:
    """One run, as kept: predictions and what cannot be derived from them. Everything else is computed when asked."""

    config: Config
    class_names: list  # in the class order, of the classes that the stream uses
    task_sizes: list
    test_counts: list  # test images of each class
    predictions: list  # per task: int array over the test images of the classes seen, or None
    rules: dict  # prediction rule -> rows of the accuracy matrix (None where a method has none)
    losses: list
    seconds: list
    bytes_kept: list
    weights: str
    provenance: dict
    status: str = field(default="computed now", compare=False)
    path: Path | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The file's stem: data set, split, method, seed, and the digest of the settings."""
        return name_of(self.config, self.task_sizes)

    @property
    def task_classes(self) -> list[list[str]]:
        """Class names of every task."""
        edges = np.cumsum([0, *self.task_sizes])
        return [self.class_names[a:b] for a, b in zip(edges[:-1], edges[1:])]

    def labels(self, t: int | None = None) -> np.ndarray:
        """True class positions of the test images of tasks 0..t (all, if t is None), in the predictions' order."""
        classes = len(self.class_names) if t is None else sum(self.task_sizes[: t + 1])
        return np.repeat(np.arange(classes), self.test_counts[:classes])

    @functools.cached_property
    def accuracy(self) -> np.ndarray:
        """[T+1, T+1] accuracy[t, k]; NaN where there is none."""
        return metrics.accuracy_matrix(self.predictions, self.labels(), self.task_sizes)

    @property
    def curve(self) -> np.ndarray:
        """[T+1] class-weighted accuracy after every task."""
        return metrics.class_weighted(self.accuracy, self.task_sizes)

    def rule(self, name: str) -> np.ndarray:
        """[T+1, T+1] accuracy under another prediction rule; raises KeyError if it was not recorded."""
        size = len(self.task_sizes)
        return np.array([[np.nan if row is None or k >= len(row) else row[k] for k in range(size)]
                         for row in self.rules[name]], dtype=float)

    @functools.cached_property
    def analysis(self) -> dict | None:
        """What was computed from the weights at the end of the run (<record>.analysis.json), or None."""
        beside = self.path and self.path.with_name(self.path.stem + ".analysis.json")
        return json.loads(beside.read_text()) if beside and beside.exists() else None

    def to_json(self) -> dict:
        """The record as kept in its file."""
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("status", "path")}
        return {**kept, "config": dataclasses.asdict(self.config), "predictions": [_pack(p) for p in self.predictions]}

    def full_json(self) -> dict:
        """The record with what is derived from it: task_classes, accuracy (rows; None where a method has none), curves."""
        def finite(row):
            return [None if np.isnan(v) else round(float(v), 6) for v in row]

        rows = [None if np.isnan(row).all() else [round(float(v), 6) for v in row[: t + 1]]
                for t, row in enumerate(self.accuracy)]
        return {"name": self.name, "method": self.config.method, "status": self.status, **self.to_json(),
                "task_classes": self.task_classes, "accuracy": rows, "class_weighted": finite(self.curve),
                "mean_over_tasks": finite(metrics.mean_over_tasks(self.accuracy)),
                "forgetting": finite(metrics.forgetting(self.accuracy, self.task_sizes)),
                "average_incremental": round(metrics.average_incremental(self.curve), 6)}


def name_of(config: Config, task_sizes) -> str:
    """File stem of the record of `config`."""
    runs, sizes = [], list(task_sizes)
    while sizes:
        n = next((i for i, s in enumerate(sizes) if s != sizes[0]), len(sizes))
        runs.append(f"{n}x{sizes[0]}" if n > 1 else f"{sizes[0]}")
        sizes = sizes[n:]
    return f"{config.dataset}-{'+'.join(runs)}-{config.method.replace('+', '_')}-s{config.seed}-{config.digest()}"


def folder(config: Config) -> Path:
    """Where records of this preset lie: quick ones in the cache, the others among the committed."""
    if config.preset == "quick" or os.environ.get("GFR_CACHE"):
        return cache() / "records"
    return root() / "data" / "records"


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
        raise UserError(f"'{path}' could not be written ({problem.strerror}); nothing was lost: free some space or choose "
                        "another folder, and run the same command again.") from problem


def save(record: Record, analysis: dict | None = None, sheet: bytes | None = None) -> Path:
    """Write the record (its analysis and its sheet of images first, so that none stands without); returns its path."""
    path = folder(record.config) / f"{record.name}.json"
    if sheet is not None:
        write_atomically(path.with_name(path.stem + ".analysis.png"), sheet)
    if analysis is not None:
        text = json.dumps(analysis, separators=(",", ":"))
        write_atomically(path.with_name(path.stem + ".analysis.json"), text.encode())
    write_atomically(path, json.dumps(record.to_json(), separators=(",", ":")).encode())
    return path


def load(path: Path) -> Record:
    """Read and check a record. Raises UserError: damaged, a field too many or missing, or another result version."""
    wanted = {f.name for f in dataclasses.fields(Record)} - {"status", "path"}
    try:
        kept = json.loads(path.read_text())
        extra, missing = sorted(set(kept) - wanted), sorted(wanted - set(kept))
        if extra or missing:
            what = " and ".join([*([f"has unknown fields {extra}"] if extra else []),
                                 *([f"lacks the fields {missing}"] if missing else [])])
            raise UserError(f"The record '{path.name}' {what}; delete it or restore it from git, then run it again.")
        fields = {f.name for f in dataclasses.fields(Config)}
        known = {name: value for name, value in kept["config"].items() if name in fields}
        if known.get("drift") in (False, True):  # how it was written before there were several kinds
            known["drift"] = "linear" if known["drift"] else "none"
        config = Config(**{**known, "split": tuple(kept["config"]["split"])})
        # a setting that came later is its default, as long as this run never reads it
        odd = sorted((set(kept["config"]) - fields) | ((fields - set(kept["config"])) & set(config.identity())))
        if odd:
            raise UserError(f"The record '{path.name}' was made with other settings than this code has ({odd}); "
                            "delete it or restore it from git, then run it again.")
        kept |= {"config": config, "predictions": [_unpack(p) for p in kept["predictions"]]}
        version, digest, commit = (kept["provenance"][k] for k in ("result_version", "digest", "commit"))
    except UserError:
        raise
    except Exception as problem:  # a half file, another format: one answer serves
        raise UserError(f"'{path}' is no readable record (damaged?); delete it or restore it from git.") from problem
    if version != RESULT_VERSION:
        raise UserError(f"The record '{path.name}' has result version {version}, this code makes {RESULT_VERSION}; "
                        "it is not shown: run it again.")
    status = "loaded" if digest == code_digest() else f"recorded with code {commit[:10]}"
    return Record(**kept, status=status, path=path)


def find(config: Config, task_sizes, content: str | None = None) -> Record | None:
    """The record whose settings equal `config`'s, or None. A quick one must have been made by this very code.

    `content` names the data set's content (Packed.content), which must be the record's; None: it is not looked at.
    """
    for place in (root() / "data" / "records", cache() / "records"):
        path = place / f"{name_of(config, task_sizes)}.json"
        if path.exists():
            try:
                record = load(path)
            except UserError:
                if place.name == "records" and place.parent.name == "data":
                    raise
                continue  # a cached one is only made again
            same = content is None or record.provenance.get("content", "") == content
            fresh = config.preset != "quick" or record.status == "loaded"
            if same and fresh and record.config.identity() == config.identity():
                return record
    return None


def every() -> list[Path]:
    """Paths of all records, committed ones first."""
    places = (root() / "data" / "records", cache() / "records")
    return [p for place in places for p in sorted(place.glob("*.json")) if not p.name.endswith(".analysis.json")]


def provenance(device: str, threads: int, precision: str, content: str = "") -> dict:
    """Where, when and with what a result is made; no path and no host name."""
    import platform
    import subprocess

    import torch

    try:
        git = ["git", "-C", str(Path(__file__).parent)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--", "."], capture_output=True, text=True, check=True).stdout
        commit += "+changes" if changed.strip() else ""
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {"device": device, "threads": threads, "precision": precision, **({"content": content} if content else {}),
            "commit": commit, "digest": code_digest(),
            "result_version": RESULT_VERSION, "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}}


def _pack(row: np.ndarray | None) -> str | None:
    """uint8 or little-endian uint16, transposed bits left to zlib, in base 85."""
    if row is None:
        return None
    kind = "B" if row.max(initial=0) < 256 else "H"
    return kind + base64.b85encode(zlib.compress(row.astype("u1" if kind == "B" else "<u2").tobytes(), 9)).decode()


def _unpack(text: str | None) -> np.ndarray | None:
    if text is None:
        return None
    raw = zlib.decompress(base64.b85decode(text[1:]))
    return np.frombuffer(raw, dtype="u1" if text[0] == "B" else "<u2").astype(np.int64)


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
            raise UserError(f"The cache folder '{self.path.parent}' cannot be written ({problem.strerror}).") from problem
        lock, told = self.path / "lock", False
        owner = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())})
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
                    self.notice(f"waiting for another process that trains stage {self.key}")
                    told = True
                time.sleep(0.5)
            except OSError as problem:
                lock.unlink(missing_ok=True)
                raise UserError(f"The lock '{lock}' could not be written ({problem.strerror}); free some space and run the "
                                "same command again.") from problem

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
        write_atomically(self.path / name, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)

    def _read(self, name: str) -> dict | None:
        import torch

        path = self.path / name
        if not path.exists():
            return None
        seal, _, content = path.read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() != seal:
            raise UserError(f"The checkpoint {path} is damaged (its checksum differs); delete that file to train its stage "
                            "again, all other stages are kept.")
        kept = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        if kept["key"] != self.key:
            raise UserError(f"The checkpoint {path} belongs to another configuration (stage {kept['key']}); "
                            "delete that file to train its stage again.")
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
