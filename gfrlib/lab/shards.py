"""ImageNet and other large folders -> uint8 arrays of one size on disk.

Decoded in parallel, resumably, every fault named. An image's shorter side is scaled to
`size` and its centre kept: a random resized crop of `crop` pixels is later taken there.
"""

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gfrlib.config import UserError
from gfrlib.lab import class_lists, datasets, stored
from gfrlib.lab.folders import class_folders

CHUNK = 64  # images that a process decodes before it reports
TO_DO, DONE, FAULTY = 0, 1, 2


@dataclass
class Packing:
    """What `pack` did: the data set's name, images per part, unreadable files.

    `faults` gives the reason for each of these.
    """

    name: str
    images: dict[str, int]
    faults: dict[str, str]


@dataclass
class _Source:
    """What is to be packed: images below `path`, brought to `size` x `size`."""

    path: Path
    size: int
    names: list[str]  # of the classes
    files: dict[str, list[tuple[str, int]]]  # part -> files below `path`, with labels
    arrival: list[int]  # labels in an order of their own (class_lists.arrival), or []


def pack(
    name: str,
    path: Path,
    *,
    size: int = 256,
    crop: int = 224,
    classes: str = "",
    workers: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> Packing:
    """Decode train/<class>/* and val/<class>/* (or test/) into data/packed/NAME.

    Goes on where it was stopped. A file that is no image, or is cut off, is named and
    left out; grey, CMYK and palette images become RGB, and the ending does not matter.
    `classes`: see class_lists.choose.
    `report(done, of)` hears of progress. Raises UserError as `datasets.add`, and if a
    class has no image.
    """
    if not 0 < crop <= size:
        raise UserError(
            f"'crop' must lie from 1 to the stored size {size}, not {crop}."
        )
    target = datasets.folder() / datasets.checked(name)
    source = _survey(path, size, classes)
    about = {"class_names": source.names, "crop": crop}
    listing = [size, crop, source.names, source.files]
    if source.arrival:
        about["arrival"] = source.arrival
        listing.append(source.arrival)
    digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    about["sha256"] = digest
    meta = datasets.meta_of(target)
    if meta.get("sha256") != digest:
        datasets.check_replaceable(target)
        workers = workers or os.cpu_count() or 1
        with datasets.packing():
            meta = datasets.meta_of(target)  # another process may have been faster
            if meta.get("sha256") != digest:
                meta = _pack(target, source, about, workers, report)
    images = {part: meta["shapes"][f"{part}_images"][0] for part in source.files}
    return Packing(name, images, meta["faults"])


def _survey(path: Path, size: int, classes: str) -> _Source:
    """The classes (all, or those of a list) and their files. Raises UserError."""
    train = path / "train"
    places = (path / part for part in ("val", "test"))
    held = next((place for place in places if place.is_dir()), None)
    if not train.is_dir() or held is None:
        raise UserError(
            f"'{path}' must hold the folders train/<class>/ and val/<class>/, with one "
            "folder a class in both."
        )
    every = class_folders(train)
    names = class_lists.choose(every, classes) if classes else every
    if len(names) < 2:
        raise UserError(
            f"'{train}' holds {len(names)} class folders; class-incremental learning "
            "needs at least two."
        )
    files = {
        part: [
            (f"{top.name}/{label}/{file.name}", k)
            for k, label in enumerate(names)
            for file in _images(top / label)
        ]
        for part, top in (("train", train), ("test", held))
    }
    return _Source(path, size, names, files, class_lists.arrival(every, classes))


def _pack(
    target: Path, source: _Source, about: dict, workers: int, report: Callable | None
) -> dict:
    """Pack in a folder of its own beside the target, and rename it; returns its meta.

    The folder's name holds the digest: another call with the same source goes on there.
    """
    work = target.with_name(f".{target.name}-{about['sha256'][:8]}.partial")
    try:
        _prepare(work, source)
        faults = _decode(work, source, workers, report)
        meta = {**about, "shapes": _finish(work, source, faults), "faults": faults}
        meta = stored.write_meta(work, meta)
        datasets.put_in_place(work, target)
    except OSError as problem:
        raise UserError(
            f"The packed data set could not be written to {target.parent} "
            f"({problem.strerror}); free some space and run the same command again: it "
            "goes on."
        ) from problem
    return meta


def _images(top: Path) -> list[Path]:
    found = top.iterdir() if top.is_dir() else ()
    files = sorted(f for f in found if f.is_file() and not f.name.startswith("."))
    if not files:
        raise UserError(
            f"The class folder '{top}' is empty or missing; put images in it or remove "
            "the class."
        )
    return files


def _prepare(work: Path, source: _Source) -> None:
    """Arrays on disk for all images, unless an earlier call has made them."""
    work.mkdir(parents=True, exist_ok=True)
    for part, listed in source.files.items():
        state = work / f"{part}_state.npy"
        if not state.exists():
            shape = (len(listed), source.size, source.size, 3)
            place = work / f"{part}_images.npy"
            np.lib.format.open_memmap(place, "w+", np.uint8, shape)
            np.save(state, np.zeros(len(listed), np.uint8))


def _decode(
    work: Path, source: _Source, workers: int, report: Callable | None
) -> dict[str, str]:
    """Decode what is to do; {file: reason} of all faults, earlier calls' included."""
    known = work / "faults.json"
    faults = json.loads(known.read_text()) if known.exists() else {}
    jobs = [job for part in source.files for job in _jobs(work, source, part)]
    total = sum(map(len, source.files.values()))
    done = total - sum(len(items) for _, _, items, _ in jobs)
    states = {
        part: np.load(work / f"{part}_state.npy", mmap_mode="r+")
        for part in source.files
    }
    with ProcessPoolExecutor(workers) as pool:
        for future in as_completed([pool.submit(_decode_chunk, *job) for job in jobs]):
            part, rows, bad = future.result()
            if bad:
                listed = source.files[part]
                faults |= {listed[i][0]: reason for i, reason in bad.items()}
                known.write_text(json.dumps(faults))
            states[part][rows] = [FAULTY if i in bad else DONE for i in rows]
            states[part].flush()
            done += len(rows)
            if report:
                report(done, total)
    return dict(sorted(faults.items()))


def _jobs(work: Path, source: _Source, part: str) -> list[tuple]:
    """The images of a part that are still to decode, CHUNK at a time."""
    rows = np.flatnonzero(np.load(work / f"{part}_state.npy") == TO_DO)
    files = source.files[part]
    items = [(int(i), source.path / files[i][0]) for i in rows]
    chunks = [items[at : at + CHUNK] for at in range(0, len(items), CHUNK)]
    return [(work, part, chunk, source.size) for chunk in chunks]


def _decode_chunk(
    work: Path, part: str, items: list, size: int
) -> tuple[str, list[int], dict[int, str]]:
    images = np.load(work / f"{part}_images.npy", mmap_mode="r+")
    bad = {}
    for i, file in items:
        try:
            images[i] = decode(file, size)
        except Exception as problem:
            # decoders raise many kinds; whatever it is, the file is named with it
            reason = f"{type(problem).__name__}: {problem}"
            bad[i] = reason.replace(str(file), file.name)
    images.flush()
    return part, [i for i, _ in items], bad


def decode(file: Path, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: the shorter side scaled to `size`, the centre kept.

    Bilinear, antialiased.
    """
    from PIL import Image

    with Image.open(file) as image:
        image.draft("RGB", (size, size))  # JPEG: decode no more pixels than are needed
        image = image.convert("RGB")
        scale = size / min(image.size)
        wide, high = (max(size, round(side * scale)) for side in image.size)
        left, top = (wide - size) // 2, (high - size) // 2
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
        return np.asarray(image.crop((left, top, left + size, top + size)))


def _finish(work: Path, source: _Source, faults: dict) -> dict:
    """Write labels, -1 for a fault; returns the shapes of all arrays."""
    shapes = {}
    for part, listed in source.files.items():
        labels = [-1 if file in faults else label for file, label in listed]
        empty = sorted(set(range(len(source.names))) - set(labels))
        if empty:
            raise UserError(
                f"No {part} image of the class '{source.names[empty[0]]}' can be read; "
                "repair its files or remove the class."
            )
        np.save(work / f"{part}_labels.npy", np.array(labels, dtype=np.int64))
        images = np.load(work / f"{part}_images.npy", mmap_mode="r")
        shapes[f"{part}_images"] = list(images.shape)
        shapes[f"{part}_labels"] = [len(labels)]
    return shapes
