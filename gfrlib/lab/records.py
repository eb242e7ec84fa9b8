"""A run's record on disk.

data/records/  committed records of slim and larger runs, their analyses beside them
data/cache/    records of live presets (git ignores it)
"""

import base64
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gfrlib import metrics
from gfrlib.config import RESULT_VERSION, Config, UserError
from gfrlib.engine.source import code_digest
from gfrlib.engine.store import cache, root, write_atomically
from gfrlib.lab import analyses, seals
from gfrlib.lab.analyses import Analysis
from gfrlib.presets import LIVE

# What a Record knows beside the fields of its file.
NOT_KEPT = {"status", "path", "sealed", "added"}


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
    # whether its file carries a checksum: not if older code has written it
    sealed: bool = field(default=True, compare=False)
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
        return analyses.read(
            self.path, self.name, sealed=self.sealed, weights=self.weights
        )

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
        if os.path.exists(path):
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
    method = config.method.replace("+", "_")
    split = "+".join(runs)
    return f"{config.dataset}-{split}-{method}-s{config.seed}-{config.digest()}"


def is_committed(config: Config) -> bool:
    """Whether records of this preset belong to the repository: all but the live ones.

    With GFR_CACHE set, all records are the reader's own.
    """
    return config.preset not in LIVE and not os.environ.get("GFR_CACHE")


def folder(config: Config) -> Path:
    """Where records of this preset lie: among the committed ones, or in the cache."""
    return root() / "data" / "records" if is_committed(config) else cache() / "records"


def save(
    record: Record, analysis: dict | None = None, sheet: bytes | None = None
) -> Path:
    """Write the record and return its path.

    Its analysis and its sheet of images first, so that no record stands without them.
    Raises UserError where the disk refuses.
    """
    path = folder(record.config) / f"{record.name}.json"
    if analysis is not None:
        kept = _with_kept(dataclasses.replace(record, path=path), analysis)
        analyses.write(path, kept, sheet)
    write_atomically(path, seals.sealed(record.to_json()))
    return path


def analysed(record: Record, parts: dict, sheet: bytes | None = None) -> Record:
    """The record with more parts of its analysis, which are kept beside it, too.

    In the analysis of a larger preset all other parts stay, whichever code has made
    them, and `added` says which code has made these: {part: code}. It raises UserError
    where what is kept there is damaged.
    """
    live = record.config.preset in LIVE
    kept = _with_kept(record, parts) if live else _beside_others(record, parts)
    analyses.write(record.path, kept, sheet)
    record = dataclasses.replace(record, added=tuple(sorted({*parts} - {"code"})))
    return holding(record, kept)


def _beside_others(record: Record, parts: dict) -> dict:
    """The parts beside those that are there, each that other code has made with it."""
    before, code = _fresh(record).analysis, parts["code"]
    if not before or before.get("code") == code:
        return {**(before or {}), **parts}
    names = [name for name in parts if name != "code"]
    added = {**before.get("added", {}), **dict.fromkeys(names, code)}
    return {**before, **{name: parts[name] for name in names}, "added": added}


def holding(record: Record, parts: dict) -> Record:
    """The record with these parts in memory: another process that makes the same run
    may write the file meanwhile, with other parts.
    """
    record = _fresh(record)
    vars(record)["analysis"] = Analysis(_with_kept(record, parts), record.name)
    return record


def _with_kept(record: Record, parts: dict) -> dict:
    """The parts, and those beside the record that the same code has found in the same
    weights.
    """
    try:
        before = _fresh(record).analysis or {}
    except UserError:
        before = {}  # what is damaged is written anew
    same = "code" in parts and before.get("code") == parts["code"]
    return {**(before if same else {}), **parts}


def _fresh(record: Record) -> Record:
    """A copy that has read no analysis yet."""
    return dataclasses.replace(record)


def load(path: Path) -> Record:
    """Read and check a record.

    Raises UserError for one that is damaged, has a field too many or too few, another
    result version, or no checksum although the code that made it writes one.
    """
    _note(path)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        _check_fields(path, kept)
        _check_seal(path, kept)
        sealed = kept.pop(seals.FIELD, None) is not None
        config = _config_of(path, kept["config"])
        kept |= {
            "config": config,
            "predictions": [_unpack(p) for p in kept["predictions"]],
        }
        provenance = kept["provenance"]
        version, digest = provenance["result_version"], provenance["digest"]
        commit = provenance["commit"]
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
    if version != RESULT_VERSION:
        raise UserError(
            f"The record '{path.name}' has result version {version}, this code makes "
            f"{RESULT_VERSION}; it is not shown: delete it, then run it again."
        )
    same = digest == code_digest()
    status = "loaded" if same else f"recorded with code {commit[:10]}"
    return Record(**kept, status=status, path=path, sealed=sealed)


def _check_fields(path: Path, kept: dict) -> None:
    wanted = {f.name for f in dataclasses.fields(Record)} - NOT_KEPT
    extra = sorted(set(kept) - wanted - {seals.FIELD})
    missing = sorted(wanted - set(kept))
    found = [f"has unknown fields {extra}"] if extra else []
    found += [f"lacks the fields {missing}"] if missing else []
    if found:
        raise UserError(
            f"The record '{path.name}' {' and '.join(found)}; delete it or restore it "
            "from git, then run it again."
        )


def _check_seal(path: Path, kept: dict) -> None:
    """The checksum must be the fields' own.

    A record may lack one only if older code has made it: newer code says in the
    provenance that it writes one. With one bit changed, no sealed record becomes an
    older one, as "checksum" in other letters is an unknown field.
    """
    lost = not seals.is_sealed(kept) and "sealed" in kept["provenance"]
    if lost or seals.is_damaged(kept):
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
            f"({odd}); delete it or restore it from git, then run it again."
        )
    return config


def whole(path: Path) -> Record:
    """The record, with all that lies beside it read and checked. Raises UserError."""
    record = load(path)
    analyses.sheet(path, record.analysis or {})
    return record


def seal(path: Path) -> bool:
    """Add checksums to a record of older code and to what lies beside it.

    Their other bytes stay. Returns whether anything was added. Raises UserError for
    what is damaged.
    """
    whole(path)
    added = analyses.seal(path)
    return seals.seal(path) or added


def find(config: Config, task_sizes, content: str | None = None) -> Record | None:
    """The record whose settings equal `config`'s, or None. A split that is said in two
    ways is one.

    A live preset's must have been made by this very code. `content` names the content
    of the data set (Packed.content), which must be the record's; None: it is not looked
    at.
    Raises UserError for a committed record that is damaged.
    """
    committed = root() / "data" / "records"
    places = (committed, cache() / "records")
    ways = [config, *_said_otherwise(config, task_sizes)]
    for place, said in itertools.product(places, ways):
        path = _named(place, said, task_sizes)
        _note(path)
        if not os.path.exists(path):
            continue
        try:
            record = load(path) if place == committed else whole(path)
        except UserError:
            if place == committed:
                raise
            continue  # a cached one is only made again
        same = content is None or record.provenance.get("content", "") == content
        same = same and list(record.task_sizes) == list(task_sizes)
        fresh = config.preset not in LIVE or _is_of_here(record)
        if same and fresh and record.config.identity() == said.identity():
            return record
    return None


def _said_otherwise(config: Config, sizes) -> list[Config]:
    """The same split said as `split` instead of `base` and `tasks`, or, if it can be,
    the other way round.
    """
    sizes = tuple(sizes)
    if not config.split:
        return [dataclasses.replace(config, split=sizes)]
    if config.split != sizes or len(sizes) < 2 or len(set(sizes[1:])) > 1:
        return []
    said = dict(split=(), base=sizes[0], tasks=len(sizes) - 1)
    return [dataclasses.replace(config, **said)]


def _is_of_here(record: Record) -> bool:
    """Whether this very code, and this PyTorch, have made it."""
    import torch

    made = record.provenance.get("versions", {}).get("torch")
    return record.status == "loaded" and made in (None, torch.__version__)


def check_replaceable(config: Config, task_sizes, content: str) -> None:
    """Raises UserError where a record of other images under the same name is kept: a
    new one would be written over it. One of a live preset is made again in minutes.
    """
    path = _named(folder(config), config, task_sizes)
    if config.preset in LIVE or not os.path.exists(path):
        return
    try:
        before = load(path).provenance.get("content", "")
    except UserError:
        if is_committed(config):
            raise
        return  # a damaged one of the reader's own is only made again
    if before != content:
        raise UserError(
            f"'{path.name}' was recorded on other images of the name "
            f"'{config.dataset}' ({before or 'no content'} there, {content} here), and "
            "would be written over; pack these under another name, or set GFR_CACHE "
            "to another folder and keep new records there."
        )


def _named(place: Path, config: Config, task_sizes) -> Path:
    """The record's path there, also where its row has got a name since."""
    path = place / f"{name_of(config, task_sizes)}.json"
    if not os.path.exists(path):
        return next(place.glob(f"*-s{config.seed}-{config.digest()}.json"), path)
    return path


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
