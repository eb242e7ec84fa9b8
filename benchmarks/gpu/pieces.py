"""CIFAR-100 for a machine without network: cut in pieces here, put together there.

The source is a folder of mosaics, {train,test}/<class>.webp: all images of a class in
one lossless picture, square tiles of 32 pixels, row by row.
"""

import hashlib
import json
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from gfrlib.config import UserError
from gfrlib.engine.store import root
from gfrlib.lab import datasets

TILE = 32
CARRIED = 64 << 20  # bytes that one call takes along, the working tree among them
MARGIN = 2 << 20  # of them kept free: a record that is added to the tree meanwhile
MOST = 8  # pieces
PARTS = ("train", "test")
ABOUT = "piece.json"


def folder() -> Path:
    """Where the pieces lie: data/carry/1, data/carry/2, ... (git ignores it)."""
    return root() / "data" / "carry"


def tree_bytes() -> int:
    """Size of the working tree without what git ignores; 0 outside a checkout."""
    words = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(words, cwd=root(), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return 0
    files = [root() / name for name in listed.stdout.decode().split("\0") if name]
    return sum(file.stat().st_size for file in files if file.is_file())


def make(source: Path, limit: int) -> list[Path]:
    """Copy the mosaics into as few pieces as fit; returns their folders.

    limit: bytes of a piece, at most. The training mosaics come first, class by class,
    then those for testing. Raises UserError where `source` holds no mosaics, or where
    more than MOST pieces would be needed.
    """
    mosaics = [
        file for part in PARTS for file in sorted((source / part).glob("*.webp"))
    ]
    names = [{f.stem for f in mosaics if f.parent.name == part} for part in PARTS]
    if not names[0] or names[0] != names[1]:
        raise UserError(
            f"'{source}' must hold the folders train and test with a mosaic of each "
            "class in both, <class>.webp."
        )
    shares = _shares(mosaics, limit)
    made = []
    for number, share in enumerate(shares, 1):
        place = folder() / str(number)
        _empty(place)
        seals = {}
        for file in share:
            name = f"{file.parent.name}/{file.name}"
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place / name)
            seals[name] = _seal(file)
        about = {"piece": number, "of": len(shares), "files": seals}
        (place / ABOUT).write_text(json.dumps(about), encoding="utf-8")
        made.append(place)
    for place in folder().glob("[0-9]*"):  # of an earlier call
        if place not in made:
            _empty(place)
    return made


def _shares(mosaics: list[Path], limit: int) -> list[list[Path]]:
    """The files in their order, cut in the least number of pieces below the limit."""
    sizes = [file.stat().st_size for file in mosaics]
    total = sum(sizes)
    ends = np.cumsum(sizes)
    for count in range(1, MOST + 1):
        at = np.minimum((ends - 1) * count // total, count - 1)
        if np.bincount(at, weights=sizes).max() <= limit:
            chosen = [np.flatnonzero(at == number) for number in range(count)]
            return [[mosaics[k] for k in rows] for rows in chosen]
    raise UserError(
        f"The mosaics are {total / 2**20:.0f} MiB, too many for {MOST} pieces of "
        f"{max(0, limit) / 2**20:.0f} MiB (what the working tree leaves of "
        f"{CARRIED >> 20}); make the tree smaller."
    )


def _empty(place: Path) -> None:
    """Remove a piece that was made before, and nothing else."""
    if (place / ABOUT).exists():
        shutil.rmtree(place)
    elif place.exists():
        raise UserError(f"'{place}' is no piece of this script; move it away.")


def _seal(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def missing() -> list[int] | None:
    """Numbers of the pieces that are not here; None where there is none at all."""
    found = [
        json.loads(f.read_text(encoding="utf-8")) for f in folder().glob(f"*/{ABOUT}")
    ]
    if not found:
        return None
    have = {about["piece"] for about in found}
    return sorted(set(range(1, found[0]["of"] + 1)) - have)


def put_together(name: str = "cifar100") -> None:
    """Pack the pieces under data/packed, as `python -m gfrlib data` does.

    Raises UserError for a piece or a file that is missing or damaged, and where the
    whole is not CIFAR-100.
    """
    _require_webp()
    arrays: dict[str, np.ndarray] = {}
    classes: list[str] = []
    for part in PARTS:
        files = {file.stem: file for file in _checked_files(part)}
        classes = sorted(files)
        with ThreadPoolExecutor() as pool:
            images = list(pool.map(tiles, (files[label] for label in classes)))
        counts = [len(of_class) for of_class in images]
        arrays[f"{part}_images"] = np.concatenate(images)
        arrays[f"{part}_labels"] = np.repeat(np.arange(len(classes)), counts)
    with tempfile.TemporaryDirectory(dir=root() / "data") as place:
        path = Path(place) / "arrays.npz"
        np.savez(path, **arrays, class_names=np.array(classes))
        datasets.add(name, path)


def _checked_files(part: str) -> list[Path]:
    """The mosaics of a part from all pieces, each compared with its checksum."""
    absent = missing()
    if absent is None or absent:
        raise UserError(told_missing(absent))
    found = []
    for about in sorted(folder().glob(f"*/{ABOUT}")):
        for name, seal in json.loads(about.read_text(encoding="utf-8"))[
            "files"
        ].items():
            file = about.parent / name
            if name.split("/")[0] != part:
                continue
            if not file.is_file() or _seal(file) != seal:
                raise UserError(f"'{file}' is missing or damaged; carry it again.")
            found.append(file)
    return found


def told_missing(absent: list[int] | None) -> str:
    """One sentence on what is to be carried."""
    if absent is None:
        return "No piece of CIFAR-100 is here; carry data/carry/1, data/carry/2, ..."
    named = ", ".join(f"data/carry/{number}" for number in absent)
    verb, it = ("is", "it") if len(absent) == 1 else ("are", "them")
    return f"Of the pieces of CIFAR-100 {named} {verb} not here yet: carry {it}, too."


def _require_webp() -> None:
    from PIL import features

    if not features.check("webp"):
        raise UserError("This machine's Pillow cannot read WebP; install a whole one.")


def tiles(mosaic: Path) -> np.ndarray:
    """A mosaic's images: uint8 [N, 32, 32, 3]."""
    from PIL import Image

    with Image.open(mosaic) as image:
        pixels = np.asarray(image.convert("RGB"))
    rows, columns = (side // TILE for side in pixels.shape[:2])
    grid = pixels.reshape(rows, TILE, columns, TILE, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(-1, TILE, TILE, 3)
