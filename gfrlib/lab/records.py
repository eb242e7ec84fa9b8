"""A run's record on disk.

data/records/  committed records of slim and larger runs, with their analyses beside them
data/cache/    records of quick runs (ignored by git)
"""

import base64
import dataclasses
import functools
import hashlib
import json
import os
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from gfrlib import metrics
from gfrlib.config import RESULT_VERSION, Config, UserError
from gfrlib.engine.store import cache, code_digest, root, write_atomically


@dataclass(frozen=True)
class Record:
    """One run, as kept: predictions and what cannot be derived from them. Everything else is computed when asked."""

    config: Config
    class_names: list  # in the class order, of the classes that the stream uses
    task_sizes: list
    test_counts: list  # test images of each class
    predictions: (
        list  # per task: int array over the test images of the classes seen, or None
    )
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
        return np.array(
            [
                [
                    np.nan if row is None or k >= len(row) else row[k]
                    for k in range(size)
                ]
                for row in self.rules[name]
            ],
            dtype=float,
        )

    @functools.cached_property
    def analysis(self) -> dict | None:
        """What was computed from the weights at the end of the run (<record>.analysis.json), or None."""
        beside = self.path and self.path.with_name(self.path.stem + ".analysis.json")
        return json.loads(beside.read_text()) if beside and beside.exists() else None

    def to_json(self) -> dict:
        """The record as kept in its file."""
        kept = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ("status", "path")
        }
        return {
            **kept,
            "config": dataclasses.asdict(self.config),
            "predictions": [_pack(p) for p in self.predictions],
        }

    def full_json(self) -> dict:
        """The record with what is derived from it: task_classes, accuracy (rows; None where a method has none), curves."""

        def finite(row):
            return [None if np.isnan(v) else round(float(v), 6) for v in row]

        rows = [
            None if np.isnan(row).all() else [round(float(v), 6) for v in row[: t + 1]]
            for t, row in enumerate(self.accuracy)
        ]
        return {
            "name": self.name,
            "method": self.config.method,
            "status": self.status,
            **self.to_json(),
            "task_classes": self.task_classes,
            "accuracy": rows,
            "class_weighted": finite(self.curve),
            "mean_over_tasks": finite(metrics.mean_over_tasks(self.accuracy)),
            "forgetting": finite(metrics.forgetting(self.accuracy, self.task_sizes)),
            "average_incremental": round(metrics.average_incremental(self.curve), 6),
        }


# What this process looked for among the committed records, with what it found there:
# file name -> fingerprint. A chapter is stale when one of them changed (book.chapters).
looked_for: dict[str, str] = {}
EVERY = "*"  # stands for the list of all names


def fingerprint(name: str, folder: Path) -> str:
    """Hash of a record with what lies beside it ("" where nothing is); of all names."""
    if name == EVERY:
        names = sorted(path.name for path in folder.glob("*.json"))
        return hashlib.sha256("\n".join(names).encode()).hexdigest()
    stem, lines = name.removesuffix(".json"), []
    for ending in (".json", ".analysis.json", ".analysis.png"):
        path = folder / f"{stem}{ending}"
        if path.exists():
            lines.append(f"{ending} {hashlib.sha256(path.read_bytes()).hexdigest()}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""


def _note(path: Path) -> None:
    if path.parent == root() / "data" / "records" and path.name not in looked_for:
        looked_for[path.name] = fingerprint(path.name, path.parent)


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


def save(
    record: Record, analysis: dict | None = None, sheet: bytes | None = None
) -> Path:
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
    _note(path)
    wanted = {f.name for f in dataclasses.fields(Record)} - {"status", "path"}
    try:
        kept = json.loads(path.read_text())
        extra, missing = sorted(set(kept) - wanted), sorted(wanted - set(kept))
        if extra or missing:
            what = " and ".join(
                [
                    *([f"has unknown fields {extra}"] if extra else []),
                    *([f"lacks the fields {missing}"] if missing else []),
                ]
            )
            raise UserError(
                f"The record '{path.name}' {what}; delete it or restore it from git, then run it again."
            )
        fields = {f.name for f in dataclasses.fields(Config)}
        known = {
            name: value for name, value in kept["config"].items() if name in fields
        }
        if known.get("drift") in (
            False,
            True,
        ):  # how it was written before there were several kinds
            known["drift"] = "linear" if known["drift"] else "none"
        config = Config(**{**known, "split": tuple(kept["config"]["split"])})
        # a setting that came later is its default, as long as this run never reads it
        odd = sorted(
            (set(kept["config"]) - fields)
            | ((fields - set(kept["config"])) & set(config.identity()))
        )
        if odd:
            raise UserError(
                f"The record '{path.name}' was made with other settings than this code has ({odd}); "
                "delete it or restore it from git, then run it again."
            )
        kept |= {
            "config": config,
            "predictions": [_unpack(p) for p in kept["predictions"]],
        }
        version, digest, commit = (
            kept["provenance"][k] for k in ("result_version", "digest", "commit")
        )
    except UserError:
        raise
    except Exception as problem:  # a half file, another format: one answer serves
        raise UserError(
            f"'{path}' is no readable record (damaged?); delete it or restore it from git."
        ) from problem
    if version != RESULT_VERSION:
        raise UserError(
            f"The record '{path.name}' has result version {version}, this code makes {RESULT_VERSION}; "
            "it is not shown: run it again."
        )
    status = (
        "loaded" if digest == code_digest() else f"recorded with code {commit[:10]}"
    )
    return Record(**kept, status=status, path=path)


def find(config: Config, task_sizes, content: str | None = None) -> Record | None:
    """The record whose settings equal `config`'s, or None. A quick one must have been made by this very code.

    `content` names the data set's content (Packed.content), which must be the record's; None: it is not looked at.
    """
    for place in (root() / "data" / "records", cache() / "records"):
        path = place / f"{name_of(config, task_sizes)}.json"
        _note(path)
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
    _note(places[0] / EVERY)
    return [
        p
        for place in places
        for p in sorted(place.glob("*.json"))
        if not p.name.endswith(".analysis.json")
    ]


def provenance(device: str, threads: int, precision: str, content: str = "") -> dict:
    """Where, when and with what a result is made; no path and no host name."""
    import platform
    import subprocess

    import torch

    try:
        git = ["git", "-C", str(Path(__file__).parents[1])]
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "."],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        commit += "+changes" if changed.strip() else ""
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {
        "device": device,
        "threads": threads,
        "precision": precision,
        **({"content": content} if content else {}),
        "commit": commit,
        "digest": code_digest(),
        "result_version": RESULT_VERSION,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


def _pack(row: np.ndarray | None) -> str | None:
    """uint8 or little-endian uint16, transposed bits left to zlib, in base 85."""
    if row is None:
        return None
    kind = "B" if row.max(initial=0) < 256 else "H"
    return (
        kind
        + base64.b85encode(
            zlib.compress(row.astype("u1" if kind == "B" else "<u2").tobytes(), 9)
        ).decode()
    )


def _unpack(text: str | None) -> np.ndarray | None:
    if text is None:
        return None
    raw = zlib.decompress(base64.b85decode(text[1:]))
    return np.frombuffer(raw, dtype="u1" if text[0] == "B" else "<u2").astype(np.int64)
