"""A folder of images -> arrays of one size, with the names of the classes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from gfrlib.config import UserError
from gfrlib.lab import class_lists

LARGEST = 256  # side of the images that a folder is brought to, at most
EVERY = 5  # without a folder for testing, every fifth image of a class is held out
Files = list[tuple[Path, int]]  # images with their labels


def read_folder(path: Path, classes: str = "") -> tuple[dict, list[str]]:
    """train/<class>/* with val/<class>/* or test/<class>/*; or <class>/* alone.

    Of the latter every fifth image is for testing. Images are brought to the size of
    the first one (shorter side scaled, centre cropped); grey ones become RGB.
    Tiny-ImageNet as Stanford packs it is read, too: its <class>_boxes.txt are no
    images, its validation classes are in val_annotations.txt. `classes` takes some of
    the classes (class_lists.choose). Raises UserError.
    """
    train = path / "train" if (path / "train").is_dir() else path
    places = [path / part for part in ("val", "test") if train != path]
    held = next((place for place in places if place.is_dir()), None)
    names = class_folders(train)
    _check_names(path, names)
    if classes:
        names = class_lists.choose(names, classes)
    everything = _listing(train, names)
    if held:
        if not classes:
            _check_held(train, held, names)
        parts = {"train": everything, "test": _listing(held, names, some=bool(classes))}
    else:
        parts = _every_fifth(everything)
        short = set(range(len(names))) - {label for _, label in parts["test"]}
        if short:
            raise UserError(
                f"The class '{names[min(short)]}' has fewer than {EVERY} images, too "
                "few to set some aside for testing; add images, or give "
                f"'{path}' the folders train/ and val/."
            )
    side = _side_of(everything[0][0])
    arrays = {}
    with ThreadPoolExecutor() as pool:
        for part, listed in parts.items():
            files = [file for file, _ in listed]
            images = list(pool.map(lambda file: _decode(file, side), files))
            arrays[f"{part}_images"] = np.stack(images)
            labels = [label for _, label in listed]
            arrays[f"{part}_labels"] = np.array(labels, dtype=np.int64)
    return arrays, names


def class_folders(top: Path) -> list[str]:
    """Names of the class folders in `top`, sorted; hidden ones are left out."""
    found = (p for p in top.iterdir() if p.is_dir() and not p.name.startswith("."))
    return sorted(p.name for p in found)


def _check_names(path: Path, names: list[str]) -> None:
    if not names:
        raise UserError(
            f"'{path}' holds no class folders; put the images in {path}/train/<class>/ "
            f"and {path}/val/<class>/ (or in {path}/<class>/)."
        )
    if len(names) == 1:
        raise UserError(
            f"'{path}' holds only one class, '{names[0]}'; class-incremental learning "
            "needs at least two."
        )


def _check_held(train: Path, held: Path, names: list[str]) -> None:
    """Raises UserError where the folder for testing holds a class of its own."""
    known = set(names)
    if (held / "val_annotations.txt").is_file():
        known.add("images")
    strange = [name for name in class_folders(held) if name not in known]
    if strange:
        raise UserError(
            f"'{held}' holds the class '{strange[0]}', which '{train}' lacks; give "
            "both the same classes."
        )


def _listing(top: Path, names: list[str], *, some: bool = False) -> Files:
    """The images of these classes, class by class; `some`: there may be others."""
    if (top / "val_annotations.txt").is_file() and (top / "images").is_dir():
        return _annotated(top, names, some)
    found = []
    for label, name in enumerate(names):
        files = sorted(f for f in (top / name).rglob("*") if f.is_file())
        boxes = f"{name}_boxes.txt"
        inside = [f for f in files if f.name[0] != "." and f.name != boxes]
        if not inside:
            raise UserError(
                f"The class folder '{top / name}' is empty or missing; put images in "
                "it or remove it."
            )
        found += [(file, label) for file in inside]
    return found


def _every_fifth(everything: Files) -> dict[str, Files]:
    """Images of index 4 mod 5 within their class are for testing."""
    labels = [label for _, label in everything]
    start = {label: labels.index(label) for label in set(labels)}
    parts: dict[str, Files] = {"train": [], "test": []}
    for place, item in enumerate(everything):
        rank = place - start[item[1]]
        parts["test" if rank % EVERY == EVERY - 1 else "train"].append(item)
    return parts


def _annotated(top: Path, names: list[str], some: bool) -> Files:
    """Tiny-ImageNet's own validation folder: images/* and val_annotations.txt.

    Its lines hold file, class and box, separated by tabs. `some`: lines of other
    classes than `names` are passed over.
    """
    listing = top / "val_annotations.txt"
    lines = listing.read_text().splitlines()
    rows = [line.split("\t") for line in lines if line.strip()]
    label = {name: i for i, name in enumerate(names)}
    if some:
        rows = [row for row in rows if row[1:] and row[1] in label]
    for row in rows:
        known = len(row) > 1 and row[1] in label
        if not known or not (top / "images" / row[0]).is_file():
            raise UserError(
                f"'{listing}' names a file or a class that is not here ("
                f"'{' '.join(row[:2])}'); unpack Tiny-ImageNet anew."
            )
    lacking = set(names) - {row[1] for row in rows}
    if lacking:
        raise UserError(
            f"'{listing}' has no image of the class '{min(lacking)}'; "
            "unpack Tiny-ImageNet anew."
        )
    return sorted((top / "images" / row[0], label[row[1]]) for row in rows)


def _side_of(file: Path) -> int:
    """The shorter side of an image, LARGEST at most."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return min(*image.size, LARGEST)
    except (OSError, SyntaxError, ValueError) as problem:
        raise _unreadable(file) from problem


def _decode(file: Path, side: int) -> np.ndarray:
    """uint8 [side, side, 3]: the shorter side scaled (bilinear), the centre kept."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            image = image.convert("RGB")
            scale = side / min(image.size)
            if image.size != (side, side):
                wide, high = (max(side, round(n * scale)) for n in image.size)
                image = image.resize((wide, high), Image.Resampling.BILINEAR)
                left, top = (wide - side) // 2, (high - side) // 2
                image = image.crop((left, top, left + side, top + side))
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError) as problem:
        raise _unreadable(file) from problem


def _unreadable(file: Path) -> UserError:
    return UserError(f"'{file}' is no readable image; repair or remove it.")
