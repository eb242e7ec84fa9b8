"""The records on disk: where they lie, how one is found, kept and added to.

data/records/  committed records of slim and larger runs, their analyses beside them
data/cache/    records of live presets (git ignores it)
"""

import dataclasses
import hashlib
import itertools
import os
from pathlib import Path

from gfrlib.config import Config, UserError
from gfrlib.engine.store import cache, root, write_atomically
from gfrlib.lab import analyses, seals
from gfrlib.lab.analyses import Analysis
from gfrlib.lab.record import ORIGIN, read
from gfrlib.lab.record import Record as Record
from gfrlib.lab.record import name_of as name_of
from gfrlib.presets import LIVE

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
    Raises UserError where the disk refuses, and for a record that does not say what
    made it.
    """
    lacking = [k for k in ORIGIN if k not in record.provenance]
    if lacking:
        raise UserError(
            f"The record's provenance lacks '{lacking[0]}', so it could not be read "
            "again; experiments.run_or_load makes records that say what made them."
        )
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


def load(path: str | Path) -> Record:
    """Read and check a record (record.read). Raises UserError."""
    path = Path(path)
    _note(path)
    return read(path)


def whole(path: Path) -> Record:
    """The record, with all that lies beside it read and checked. Raises UserError."""
    record = load(path)
    analyses.sheet(path, record.analysis or {})
    return record


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
