"""Many image files -> squares in arrays on disk, by many processes, resumably.

Of each part of a data set a folder holds {part}_images.npy, uint8 [N, size, size, 3],
and {part}_state.npy with a ROW for each image: whether it is done, the size and time of
its file, and the file's SHA-1. Another call goes on there. A file that has changed
since, or that could not be read, is decoded again; so is a part whose files are cut.
"""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gfrlib.lab import decoding

CHUNK = 64  # images that a process decodes before it reports
# UNREAD: the system gave nothing to read (a drive that is gone, a missing right)
TO_DO, DONE, FAULTY, UNREAD = 0, 1, 2, 3
ROW = np.dtype(
    [
        ("state", "u1"),
        ("changed", "u1"),  # a sum of decoding.CHANGES' keys
        ("size", "<i8"),  # of the file, in bytes
        ("time", "<i8"),  # of its last change, in nanoseconds
        ("sha1", "u1", 20),
    ]
)


@dataclass
class Work:
    """What is to be decoded: {part: files} into the folder `place`, and how."""

    place: Path
    files: dict[str, list[Path]]
    rows: dict[str, np.ndarray]  # of `rows_of`
    size: int
    rules: decoding.Rules


def rows_of(files: list[Path]) -> np.ndarray:
    """ROWs of files as they are now, all to do. Raises OSError."""
    rows = np.zeros(len(files), ROW)
    for k, file in enumerate(files):
        rows["size"][k], rows["time"][k] = _size_and_time(file)
    return rows


def decode_all(
    work: Work, workers: int, report: Callable[[int, int], None] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, dict[int, str]]]:
    """Decode what is to do: ({part: its ROWs}, {part: {image: why not}}).

    Raises OSError where the folder cannot be written, and BrokenExecutor where a
    process died.
    """
    work.place.mkdir(parents=True, exist_ok=True)
    for part in work.files:
        _prepare(work, part)
    jobs = [job for part in work.files for job in _jobs(work, part)]
    total = sum(map(len, work.files.values()))
    done = total - sum(len(items) for _, _, items, _, _ in jobs)
    states = {
        part: np.load(work.place / f"{part}_state.npy", mmap_mode="r+")
        for part in work.files
    }
    faults: dict[str, dict[int, str]] = {part: {} for part in work.files}
    with ProcessPoolExecutor(workers) as pool:
        for future in as_completed([pool.submit(_decode_chunk, *job) for job in jobs]):
            part, rows, bad = future.result()
            for k, row in rows.items():
                states[part][k] = row
            states[part].flush()
            faults[part] |= bad
            done += len(rows)
            if report:
                report(done, total)
    return {part: np.array(state) for part, state in states.items()}, faults


def _prepare(work: Work, part: str) -> None:
    """The part's two arrays on disk; an earlier call's work is kept where it holds."""
    images, state = (work.place / f"{part}_{what}.npy" for what in ("images", "state"))
    rows, shape = work.rows[part].copy(), (len(work.rows[part]), work.size, work.size)
    earlier = _whole(state, rows.shape, ROW)
    if earlier is None or _whole(images, (*shape, 3), np.uint8) is None:
        state.unlink(missing_ok=True)  # first: what it says holds no longer
        np.lib.format.open_memmap(images, "w+", np.uint8, (*shape, 3))
    else:
        earlier = np.array(earlier)  # Windows replaces no file that is mapped
        same = (earlier["size"] == rows["size"]) & (earlier["time"] == rows["time"])
        kept = same & (earlier["state"] == DONE)
        rows[kept] = earlier[kept]
    written = state.with_suffix(".new.npy")
    np.save(written, rows)
    os.replace(written, state)


def _whole(file: Path, shape: tuple, dtype) -> np.ndarray | None:
    """The array on disk; None where it is missing, cut, or another one."""
    try:
        array = np.load(file, mmap_mode="r")
    except Exception:  # a header is parsed as Python, which raises many kinds
        return None
    return array if array.shape == shape and array.dtype == dtype else None


def _jobs(work: Work, part: str) -> list[tuple]:
    """The images of a part that are still to decode, CHUNK at a time."""
    rows = np.load(work.place / f"{part}_state.npy")
    files = work.files[part]
    items = [(int(k), files[k]) for k in np.flatnonzero(rows["state"] == TO_DO)]
    chunks = [items[at : at + CHUNK] for at in range(0, len(items), CHUNK)]
    return [(work.place, part, chunk, work.size, work.rules) for chunk in chunks]


def _decode_chunk(
    place: Path, part: str, items: list, size: int, rules: decoding.Rules
) -> tuple[str, dict[int, np.void], dict[int, str]]:
    """In a process of the pool: (part, {image: its ROW}, {image: why not})."""
    images = np.load(place / f"{part}_images.npy", mmap_mode="r+")
    rows, bad = {}, {}
    with decoding.guarded(rules):
        for k, file in items:
            row = rows[k] = np.zeros((), ROW)
            try:
                row["size"], row["time"] = _size_and_time(file)
                images[k], row["changed"] = decoding.decode(file, size, rules)
                row["sha1"] = _sha1(file)
                row["state"] = DONE
            except (decoding.Unreadable, OSError) as problem:
                images[k] = 0
                row["sha1"], row["state"] = 0, UNREAD if _by_system(problem) else FAULTY
                bad[k] = str(problem)
    images.flush()
    return part, rows, bad


def _by_system(problem: Exception) -> bool:
    """Whether the system refused the file; Pillow's own OSErrors have no number."""
    first = problem.__cause__ or problem
    return isinstance(first, OSError) and first.errno is not None


def _size_and_time(file: Path) -> tuple[int, int]:
    about = file.stat()
    return about.st_size, about.st_mtime_ns


def _sha1(file: Path) -> np.ndarray:
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha1").digest()
    return np.frombuffer(digest, np.uint8)
