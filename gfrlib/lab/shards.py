"""Photographs of any size, ImageNet too -> uint8 arrays of one size on disk.

Decoded in parallel, resumably, every fault named. An image's shorter side is scaled to
`size` and its centre kept. Training later takes a random resized crop of `crop` pixels
there; with `crop` 0 it pads and crops, as for small images.
"""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gfrlib.config import UserError
from gfrlib.engine import locks
from gfrlib.lab import class_lists, datasets, decoding, resumable, stored, surveys
from gfrlib.lab.folders import account

WIDEST = 4096  # side of the stored squares, at most
MOST_WORKERS = 1024
DIGITS = 16  # of the digests that tell whether there is anything to do


@dataclass
class Packing:
    """What `pack` did: the data set's name, images per part, unreadable files.

    `faults` gives the reason for each of these. `account`: see folders.Folder.
    `left_out`: how many files and folders are neither taken nor faulty.
    """

    name: str
    images: dict[str, int]
    faults: dict[str, str]
    account: list[str]
    left_out: int


@dataclass
class _Source:
    """What is to be packed, and how: images brought to `size` x `size`."""

    found: surveys.Survey
    size: int
    crop: int
    rules: decoding.Rules
    arrival: list[int]  # labels in an order of their own (class_lists.arrival), or []
    rows: dict[str, np.ndarray]  # part -> resumable.ROWs of the files as they are

    def files(self) -> dict[str, list]:
        """{part: names below the folder, with their labels}."""
        top = self.found.path
        return {
            part: [(file.relative_to(top).as_posix(), label) for file, label in listed]
            for part, listed in self.found.files.items()
        }

    def labels(self, part: str) -> np.ndarray:
        """int64 [N]"""
        return np.array([label for _, label in self.found.files[part]], dtype=np.int64)


def pack(
    name: str,
    path: Path,
    *,
    size: int = decoding.SIDE,
    crop: int | None = None,
    classes: str = "",
    workers: int = 0,
    rules: decoding.Rules | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Packing:
    """Decode the images of a folder (surveys.survey) into data/packed/NAME.

    Goes on where it was stopped. A file that is no image, or is cut off, is named and
    left out; once it is repaired, the same call takes it, and so it takes a file that
    the system did not give, once it can be read. `crop`: 0 for pad and crop; None for
    ImageNet's 224 of 256. `classes`: see class_lists.choose. `workers`: processes, 0
    for one a processor. `report(done, of)` hears of progress. Raises UserError as
    `datasets.add`, and if no image of a class can be read.
    """
    crop = size * 7 // 8 if crop is None else crop
    _check_numbers(size, crop, workers)
    target = datasets.folder() / datasets.checked(name)
    if name in datasets.KNOWN:  # one known content, in one order
        raise UserError(
            f"'{name}' is known as it is, and packed without --size, --crop, --workers "
            "and such; leave them out, or give it another name."
        )
    source = _source(name, path, classes, size, crop, rules or decoding.Rules())
    listing = _listing(source)
    key = _key(source, listing)
    meta = stored.whole(target)
    if meta.get("key") != key:
        datasets.check_replaceable(target)
        with datasets.packing():
            meta = stored.whole(target)  # another process may have been faster
            if meta.get("key") != key:
                begun = meta.get("listing") == listing
                about = {"key": key, "listing": listing}
                meta = _pack(target, source, about, begun, workers, report)
    images = {part: len(rows) for part, rows in source.rows.items()}
    changed = {int(bit): count for bit, count in meta.get("changed", {}).items()}
    lines = account(source.found, changed)
    return Packing(
        name, images, meta.get("faults", {}), lines, source.found.left_out.count()
    )


def _check_numbers(size: int, crop: int, workers: int) -> None:
    if not 0 < size <= WIDEST:
        raise UserError(
            f"'size' is the side of the stored squares, from 1 to {WIDEST}, not "
            f"{str(size)[:20]}."
        )
    if not 0 <= crop <= size:
        raise UserError(
            f"'crop' must lie from 1 to the stored size {size} (0: pad and crop), not "
            f"{str(crop)[:20]}."
        )
    if not 0 <= workers <= MOST_WORKERS:
        raise UserError(
            f"'workers' is the number of processes, from 1 to {MOST_WORKERS} (0: one "
            f"a processor), not {str(workers)[:20]}."
        )


def _source(
    name: str, path: Path, classes: str, size: int, crop: int, rules: decoding.Rules
) -> _Source:
    found, most = surveys.survey(path, classes), class_lists.SUBSET
    if name == "imagenet-subset" and not classes and len(found.every) > most:
        raise UserError(
            f"'{path}' holds {len(found.every)} classes; say which {most} with "
            "--classes lucir, --classes gfr, or a file that lists them."
        )
    rows = {
        part: resumable.rows_of([file for file, _ in listed])
        for part, listed in found.files.items()
    }
    arrival = class_lists.arrival(found.every, classes)
    return _Source(found, size, crop, rules, arrival, rows)


def _listing(source: _Source) -> str:
    """Digest of what is asked for: a packing that stopped goes on under it."""
    how = [source.size, source.crop, source.rules.turned, source.rules.pixels]
    return _digest([*how, source.found.names, source.arrival, source.files()])[:DIGITS]


def _key(source: _Source, listing: str) -> str:
    """Digest of that with the files' sizes and times: where it differs, look again."""
    sha = hashlib.sha256(listing.encode())
    for rows in source.rows.values():
        sha.update(rows["size"].tobytes() + rows["time"].tobytes())
    files = (file for some in source.found.files.values() for file, _ in some)
    if any(file.suffix.lower() in decoding.HEIC for file in files):
        # those left out before are read once there is a reader
        sha.update(b"HEIC" if decoding.reads_heic() else b"")
    return sha.hexdigest()[:DIGITS]


def _content(source: _Source, rows: dict[str, np.ndarray]) -> str:
    """Checksum of the data set, by the files' bytes: not by names, time or machine."""
    how = [source.size, source.crop, source.rules.turned]
    sha = hashlib.sha256(_digest([*how, source.found.names, source.arrival]).encode())
    for part, some in rows.items():
        readable = some["state"] == resumable.DONE
        labels = np.where(readable, source.labels(part), -1)
        sha.update(labels.astype("<i8").tobytes() + some["sha1"].tobytes())
    return sha.hexdigest()


def _digest(listing: list) -> str:
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _pack(
    target: Path,
    source: _Source,
    about: dict,
    begun: bool,
    workers: int,
    report: Callable | None,
) -> dict:
    """Pack in a folder of its own beside the target, and rename it; returns its meta.

    The folder's name holds the listing's digest: another call with the same one goes on
    there. `begun`: files have only changed since; what is packed is its beginning.
    """
    place = target.with_name(f".{target.name}-{about['listing'][:8]}.partial")
    files = {
        part: [file for file, _ in listed]
        for part, listed in source.found.files.items()
    }
    work = resumable.Work(place, files, source.rows, source.size, source.rules)
    try:
        if begun:
            _copy(target, place, files)
        rows, bad = resumable.decode_all(work, workers or os.cpu_count() or 1, report)
        if any((some["state"] == resumable.UNREAD).any() for some in rows.values()):
            about = about | {"key": ""}  # the same call looks again
        meta = stored.write_meta(place, _finish(place, source, rows, bad) | about)
        datasets.put_in_place(place, target)
        _sweep(target)
    except BrokenExecutor as problem:
        raise UserError(
            "A process that decodes images died, perhaps of lack of memory or disk "
            "space; run the same command again: it goes on (--workers 1 needs the "
            "least memory)."
        ) from problem
    except OSError as problem:
        raise UserError(
            f"The packed data set could not be written to {target.parent} "
            f"({problem.strerror}); {locks.advice(problem)}, and run the same command "
            "again: it goes on (--workers 1 starts the fewest processes)."
        ) from problem
    return meta


def _copy(target: Path, place: Path, parts: dict) -> None:
    """What was packed becomes the beginning of a new packing, if there is none yet.

    The state comes last: without it, a part is decoded anew.
    """
    if place.exists():
        return
    place.mkdir(parents=True)
    for what in ("images", "state"):
        for part in parts:
            name = f"{part}_{what}.npy"
            if (target / name).is_file():
                shutil.copyfile(target / name, place / name)


def _finish(place: Path, source: _Source, rows: dict, bad: dict) -> dict:
    """Write the labels, -1 for a fault; returns what meta.json tells."""
    faults, changed = {}, Counter()
    for part, listed in source.files().items():
        readable = rows[part]["state"] == resumable.DONE
        labels = np.where(readable, source.labels(part), -1)
        empty = sorted(set(range(len(source.found.names))) - set(labels.tolist()))
        if empty:
            raise UserError(
                f"No {part} image of the class '{source.found.names[empty[0]]}' can be "
                "read; repair its files or remove the class."
            )
        np.save(place / f"{part}_labels.npy", labels)
        faults |= {listed[k][0]: why for k, why in sorted(bad[part].items())}
        for bit in decoding.CHANGES:
            changed[bit] += int((rows[part]["changed"] & bit > 0).sum())
    return {
        "class_names": source.found.names,
        "crop": source.crop,
        "sha256": _content(source, rows),
        "faults": faults,
        "changed": {str(bit): count for bit, count in changed.items() if count},
        **source.rules.kept(),
        **({"arrival": source.arrival} if source.arrival else {}),
    }


def _sweep(target: Path) -> None:
    """Remove packings of that name that stopped and were never ended."""
    mine = re.compile(rf"\.{re.escape(target.name)}-[0-9a-f]{{8}}\.partial")
    for place in target.parent.glob(".*.partial"):
        if mine.fullmatch(place.name):
            shutil.rmtree(place, ignore_errors=True)
