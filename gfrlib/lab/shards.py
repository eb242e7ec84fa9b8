"""ImageNet and other large folders -> uint8 arrays of one size on disk: decoded in parallel, resumably, every fault named.

An image's shorter side is scaled to `size`, its centre kept: what a random resized crop of `crop` pixels is later taken from.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gfrlib.config import UserError
from gfrlib.lab.datasets import folder, packing
from gfrlib.tasks import class_order

CHUNK = 64  # images that a process decodes before it reports
TO_DO, DONE, FAULTY = 0, 1, 2
SUBSET = 100  # classes of ImageNet-Subset


@dataclass
class Packing:
    """What `pack` did: the data set's name, images per part, and the files that could not be read, with the reason."""

    name: str
    images: dict[str, int]
    faults: dict[str, str]


def subset(names: list[str], which: str) -> list[str]:
    """The 100 of ImageNet's sorted class names that ImageNet-Subset holds; two lists circulate, 9 classes are in both.

    lucir  the first 100 of the seed-1993 shuffle (LUCIR's code; most later papers)
    gfr    the first 100 of its inverse (the official code of feature replay)
    """
    if which not in ("lucir", "gfr"):
        raise UserError(f"There is no class list '{which}'; choose lucir or gfr.")
    if len(names) < SUBSET:
        raise UserError(
            f"A list of {SUBSET} classes cannot be chosen from {len(names)} class folders."
        )
    return sorted(names[i] for i in class_order(which, len(names))[:SUBSET])


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
    """Decode train/<class>/* and val/<class>/* (or test/) below `path` into data/packed/NAME; goes on where it was stopped.

    A file that is no image, or is cut off, is named and left out; grey, CMYK and palette images become RGB, and the ending
    does not matter. `report(done, of)` hears of progress. Raises UserError as `datasets.add`, and if a class has no image.
    """
    if not 0 < crop <= size:
        raise UserError(
            f"'crop' must lie from 1 to the stored size {size}, not {crop}."
        )
    train = path / "train"
    held = next(
        (path / part for part in ("val", "test") if (path / part).is_dir()), None
    )
    if not train.is_dir() or held is None:
        raise UserError(
            f"'{path}' must hold the folders train/<class>/ and val/<class>/, with one folder a class in both."
        )
    names = sorted(
        p.name for p in train.iterdir() if p.is_dir() and not p.name.startswith(".")
    )
    names = subset(names, classes) if classes else names
    if len(names) < 2:
        raise UserError(
            f"'{train}' holds {len(names)} class folders; class-incremental learning needs at least two."
        )
    files = {
        part: [
            (f"{top.name}/{label}/{f.name}", k)
            for k, label in enumerate(names)
            for f in _images(top / label)
        ]
        for part, top in (("train", train), ("test", held))
    }
    listing = json.dumps([size, crop, names, files])
    digest = hashlib.sha256(listing.encode()).hexdigest()
    target, work = folder() / name, folder() / f".{name}-{digest[:8]}.partial"
    if (target / "meta.json").exists():
        meta = json.loads((target / "meta.json").read_text())
        if meta.get("sha256") == digest:
            return Packing(
                name,
                {part: meta["shapes"][f"{part}_images"][0] for part in files},
                meta["faults"],
            )
    with packing():
        return _pack(
            target,
            work,
            path,
            files,
            names,
            digest,
            size,
            crop,
            workers or os.cpu_count() or 1,
            report,
        )


def _pack(
    target: Path,
    work: Path,
    path: Path,
    files: dict,
    names: list[str],
    digest: str,
    size: int,
    crop: int,
    workers: int,
    report: Callable | None,
) -> Packing:
    try:
        _prepare(work, files, size)
        faults = _decode(work, path, files, size, workers, report)
        shapes = _finish(work, files, names, faults)
        meta = {
            "class_names": names,
            "sha256": digest,
            "shapes": shapes,
            "crop": crop,
            "faults": faults,
        }
        (work / "meta.json").write_text(json.dumps(meta))
        shutil.rmtree(target, ignore_errors=True)
        work.rename(target)
    except OSError as problem:
        raise UserError(
            f"The packed data set could not be written to {folder()} ({problem.strerror}); free some space and "
            "run the same command again: it goes on."
        ) from problem
    return Packing(
        target.name, {part: len(listed) for part, listed in files.items()}, faults
    )


def _images(top: Path) -> list[Path]:
    found = (
        sorted(f for f in top.iterdir() if f.is_file() and not f.name.startswith("."))
        if top.is_dir()
        else []
    )
    if not found:
        raise UserError(
            f"The class folder '{top}' is empty or missing; put images in it or remove the class."
        )
    return found


def _prepare(work: Path, files: dict, size: int) -> None:
    """Arrays on disk for all images, unless an earlier call has made them."""
    for part, listed in files.items():
        work.mkdir(parents=True, exist_ok=True)
        state = work / f"{part}_state.npy"
        if not state.exists():
            images = np.lib.format.open_memmap(
                work / f"{part}_images.npy",
                "w+",
                np.uint8,
                (len(listed), size, size, 3),
            )
            del images
            np.save(state, np.zeros(len(listed), np.uint8))


def _decode(
    work: Path,
    path: Path,
    files: dict,
    size: int,
    workers: int,
    report: Callable | None,
) -> dict[str, str]:
    """Decode what is to do; returns {file: reason} of all faults, those of earlier calls included."""
    known = work / "faults.json"
    faults = json.loads(known.read_text()) if known.exists() else {}
    total = sum(map(len, files.values()))
    jobs = []
    for part, listed in files.items():
        rows = np.flatnonzero(np.load(work / f"{part}_state.npy") == TO_DO)
        jobs += [
            (work, part, [(int(i), path / listed[i][0]) for i in chunk], size)
            for chunk in np.split(rows, range(CHUNK, len(rows), CHUNK))
            if len(chunk)
        ]
    done = total - sum(len(job[2]) for job in jobs)
    states = {
        part: np.load(work / f"{part}_state.npy", mmap_mode="r+") for part in files
    }
    with ProcessPoolExecutor(workers) as pool:
        for future in as_completed([pool.submit(_decode_chunk, *job) for job in jobs]):
            part, rows, bad = future.result()
            faults |= {files[part][i][0]: reason for i, reason in bad.items()}
            if bad:
                known.write_text(json.dumps(faults))
            states[part][rows] = [FAULTY if i in bad else DONE for i in rows]
            states[part].flush()
            done += len(rows)
            if report:
                report(done, total)
    return dict(sorted(faults.items()))


def _decode_chunk(
    work: Path, part: str, items: list, size: int
) -> tuple[str, list[int], dict[int, str]]:
    images = np.load(work / f"{part}_images.npy", mmap_mode="r+")
    bad = {}
    for i, file in items:
        try:
            images[i] = decode(file, size)
        except Exception as problem:  # decoders raise many kinds; whatever it is, the file is named with it
            bad[i] = f"{type(problem).__name__}: {problem}".replace(
                str(file), file.name
            )
    images.flush()
    return part, [i for i, _ in items], bad


def decode(file: Path, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: the shorter side scaled to `size` (bilinear, antialiased), the centre kept."""
    from PIL import Image

    with Image.open(file) as image:
        image.draft("RGB", (size, size))  # JPEG: decode no more pixels than are needed
        image = image.convert("RGB")
        scale = size / min(image.size)
        wide, high = (max(size, round(side * scale)) for side in image.size)
        left, top = (wide - size) // 2, (high - size) // 2
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
        return np.asarray(image.crop((left, top, left + size, top + size)))


def _finish(work: Path, files: dict, names: list[str], faults: dict) -> dict:
    """Labels, -1 for a fault; the shapes of all arrays."""
    shapes = {}
    for part, listed in files.items():
        labels = np.array(
            [-1 if file in faults else label for file, label in listed], dtype=np.int64
        )
        empty = sorted(set(range(len(names))) - set(labels.tolist()))
        if empty:
            raise UserError(
                f"No {part} image of the class '{names[empty[0]]}' can be read; repair its files or remove the "
                "class."
            )
        np.save(work / f"{part}_labels.npy", labels)
        shapes |= {
            f"{part}_images": list(
                np.load(work / f"{part}_images.npy", mmap_mode="r").shape
            ),
            f"{part}_labels": list(labels.shape),
        }
    return shapes
