"""A run's record: what is kept of it, what follows from that, and how it is read."""

import base64
import dataclasses
import functools
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gfrlib import metrics
from gfrlib.config import RESULT_VERSION, Config, UserError
from gfrlib.engine.source import code_digest
from gfrlib.lab import analyses, seals
from gfrlib.lab.analyses import Analysis

# What a Record knows beside the fields of its file.
NOT_KEPT = {"status", "path", "added"}
# what a record's provenance must say, to be read again
ORIGIN = ("result_version", "digest", "commit")


@dataclass(frozen=True)
class Record:
    """One run, as kept: predictions and what cannot be derived from them."""

    config: Config
    class_names: list  # in the class order, of the classes that the stream uses
    task_sizes: list
    test_counts: list  # test images of each class
    # per task: int array over the test images of the classes seen, or None
    predictions: list
    # prediction rule -> rows of the accuracy matrix (None where a method has none)
    rules: dict
    losses: list
    seconds: list
    bytes_kept: list
    weights: str
    provenance: dict
    # computed now, loaded (this very code has made it), or the code that recorded it
    status: str = field(default="computed now", compare=False)
    path: Path | None = field(default=None, compare=False)
    # parts of its analysis that were added now, to a record that was there
    added: tuple = field(default=(), compare=False)

    @property
    def name(self) -> str:
        """The file's stem: data set, split, method, seed, digest of the settings."""
        return name_of(self.config, self.task_sizes)

    @property
    def task_classes(self) -> list[list[str]]:
        """Class names of every task."""
        edges = np.cumsum([0, *self.task_sizes])
        return [self.class_names[a:b] for a, b in zip(edges[:-1], edges[1:])]

    def labels(self, t: int | None = None) -> np.ndarray:
        """True class positions of the test images of tasks 0..t, as in predictions.

        All of them, if t is None.
        """
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

    @property
    def forgetting(self) -> np.ndarray:
        """[T+1] class-weighted average forgetting after each task; NaN after task 0."""
        return metrics.forgetting(self.accuracy, self.task_sizes)

    @property
    def average_incremental(self) -> float:
        """Mean of the curve over all tasks; NaN where it lacks one (joint training)."""
        return metrics.average_incremental(self.curve)

    def confusion(self, t: int | None = None) -> np.ndarray:
        """int [C, C] after task t (default: the last), of the classes seen by then; of
        all with `full_head`.

        Rows are true classes and columns predictions, both positions in `class_names`.
        Raises ValueError where the method has no network after that task.
        """
        t = len(self.task_sizes) - 1 if t is None else t
        if self.predictions[t] is None:
            raise ValueError(f"there are no predictions after task {t}")
        classes = sum(self.task_sizes[: t + 1])
        if self.config.full_head:  # outputs of later classes compete, too
            classes = len(self.class_names)
        return metrics.confusion(self.predictions[t], self.labels(t), classes)

    def rule(self, name: str) -> np.ndarray:
        """[T+1, T+1] accuracy under another prediction rule.

        Raises KeyError if it was not recorded.
        """
        size = len(self.task_sizes)
        found = np.full((size, size), np.nan)
        for t, row in enumerate(self.rules[name]):
            if row is not None:
                found[t, : len(row)] = row
        return found

    @functools.cached_property
    def analysis(self) -> Analysis | None:
        """What was computed from the weights (<record>.analysis.json), or None.

        A part of it that was not computed raises UserError, which tells the call; so
        does an analysis that is damaged.
        """
        if self.path is None:
            return None
        return analyses.read(self.path, self.name, weights=self.weights)

    def to_json(self) -> dict:
        """The record as kept in its file."""
        kept = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in NOT_KEPT
        }
        return {
            **kept,
            "config": dataclasses.asdict(self.config),
            "predictions": [_pack(p) for p in self.predictions],
        }

    def full_json(self) -> dict:
        """The record with what is derived from it: task_classes, accuracy, curves.

        A row of accuracy is None where the method has none.
        """

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
            "average_incremental": finite([metrics.average_incremental(self.curve)])[0],
        }


def name_of(config: Config, task_sizes) -> str:
    """File stem of the record of `config`."""
    runs, sizes = [], list(task_sizes)
    while sizes:
        n = next((i for i, s in enumerate(sizes) if s != sizes[0]), len(sizes))
        runs.append(f"{n}x{sizes[0]}" if n > 1 else f"{sizes[0]}")
        sizes = sizes[n:]
    method = config.method.replace("+", "_")
    split = "+".join(runs)
    return f"{config.dataset}-{split}-{method}-s{config.seed}-{config.digest()}"


def read(path: str | Path) -> Record:
    """Read and check a record.

    Raises UserError for one that is damaged, has a field too many or too few, another
    result version, or no checksum.
    """
    path = Path(path)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        _check_fields(path, kept)
        _check_seal(path, kept)
        del kept[seals.FIELD]
        config = _config_of(path, kept["config"])
        kept |= {
            "config": config,
            "predictions": [_unpack(p) for p in kept["predictions"]],
        }
        provenance = kept["provenance"]
        version, digest, commit = (provenance[name] for name in ORIGIN)
        _check_lengths(kept)
    except UserError:
        raise
    except OSError as problem:
        raise UserError(
            f"The record '{path}' cannot be read ({problem.strerror}); if it is "
            "another user's, ask for the right to read it."
        ) from problem
    except Exception as problem:  # a half file, another format: one answer serves
        raise UserError(
            f"'{path}' is no readable record (damaged?); delete it or restore it from "
            "git."
        ) from problem
    if isinstance(version, int) and version > RESULT_VERSION:
        raise UserError(
            f"The record '{path.name}' is of newer code (result version {version}, "
            f"this code makes {RESULT_VERSION}); it is not shown: update gfrlib."
        )
    if version != RESULT_VERSION:
        raise UserError(
            f"The record '{path.name}' has result version {version}, this code makes "
            f"{RESULT_VERSION}; it is not shown: delete it, then run it again."
        )
    same = digest == code_digest()
    status = "loaded" if same else f"recorded with code {commit[:10]}"
    return Record(**kept, status=status, path=path)


def _check_fields(path: Path, kept: dict) -> None:
    wanted = {f.name for f in dataclasses.fields(Record)} - NOT_KEPT
    extra = sorted(set(kept) - wanted - {seals.FIELD})
    missing = sorted(wanted - set(kept))
    found = [f"has unknown fields {extra}"] if extra else []
    found += [f"lacks the fields {missing}"] if missing else []
    if found:
        newer = "update gfrlib if newer code has made it, else " if extra else ""
        raise UserError(
            f"The record '{path.name}' {' and '.join(found)}; {newer}delete it or "
            "restore it from git, then run it again."
        )


def _check_seal(path: Path, kept: dict) -> None:
    """The checksum must be there, and be the fields' own."""
    if seals.is_damaged(kept):
        lost = seals.FIELD not in kept
        what = "has lost its checksum" if lost else "differs from its checksum"
        raise UserError(
            f"The record '{path.name}' {what}: it is damaged, or was changed by hand; "
            "restore it from git, or delete it and run it again."
        )


def _check_lengths(kept: dict) -> None:
    """Raises ValueError unless there is one prediction for each test image."""
    edges = np.cumsum(kept["task_sizes"])
    seen = np.concatenate([[0], np.cumsum(kept["test_counts"])])[edges]
    rows = zip(kept["predictions"], seen, strict=True)
    if any(row is not None and len(row) != count for row, count in rows):
        raise ValueError("other predictions than test images")


def _config_of(path: Path, kept: dict) -> Config:
    """The record's settings, as this code reads them.

    One that came later is its default, as long as this run never reads it.
    """
    fields = {f.name for f in dataclasses.fields(Config)}
    known = {name: value for name, value in kept.items() if name in fields}
    if known.get("drift") in (False, True):  # before there were several kinds
        known["drift"] = "linear" if known["drift"] else "none"
    config = Config(**{**known, "split": tuple(kept["split"])})
    missing = (fields - set(kept)) & set(config.identity())
    odd = sorted((set(kept) - fields) | missing)
    if odd:
        raise UserError(
            f"The record '{path.name}' was made with other settings than this code has "
            f"({odd}); update gfrlib if newer code has made it, else delete it or "
            "restore it from git, then run it again."
        )
    return config


def _pack(row: np.ndarray | None) -> str | None:
    """uint8 or little-endian uint16, deflated by zlib, in base 85."""
    if row is None:
        return None
    kind = "B" if row.max(initial=0) < 256 else "H"
    raw = row.astype("u1" if kind == "B" else "<u2").tobytes()
    return kind + base64.b85encode(zlib.compress(raw, 9)).decode()


def _unpack(text: str | None) -> np.ndarray | None:
    if text is None:
        return None
    raw = zlib.decompress(base64.b85decode(text[1:]))
    return np.frombuffer(raw, dtype="u1" if text[0] == "B" else "<u2").astype(np.int64)
