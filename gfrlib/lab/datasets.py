"""Real images -> packed uint8 arrays, decoded once, checked, in an order that does not depend on where they came from.

`packed(name)` knows "digits" (inside scikit-learn), "cifar100" (torchvision's download), and every data set that
`add(name, path)` has brought in from a folder of images or a packed .npz file.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gfrlib.config import UserError
from gfrlib.engine.store import root

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
IMAGE_ENDINGS = {
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".gif",
    ".ppm",
    ".webp",
    ".tif",
    ".tiff",
}
# SHA-256 over the canonical arrays, so that every source of CIFAR-100 is known to be the same data.
KNOWN = {"cifar100": "eefa1939e19bc24add62861e6f539c03d21acaa8c03ce4eb6e61d7078cb28db2"}


@dataclass
class Packed:
    """Images uint8 [N, H, W, C]; labels int64 [N]; class_names by label. Sorted by label, then by the pixels' hash."""

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: list[str]
    content: str = ""  # names the content of a data set that a name alone does not (all but digits and cifar100)
    crop: int = 0  # side of the random resized crops that training sees; 0: pad and crop. Then a label of -1 marks a fault


def folder() -> Path:
    """Where packed data sets lie: data/packed below the repository (ignored by git)."""
    return root() / "data" / "packed"


def packed(name: str) -> Packed:
    """The data set of that name; CIFAR-100 is downloaded on first use. Raises UserError if it cannot be had."""
    if name == "digits":
        return _digits()
    if (folder() / name / "meta.json").exists():
        return _open(folder() / name)
    if name == "cifar100":
        with packing():
            have = (
                folder() / name / "meta.json"
            ).exists()  # another process has brought it meanwhile
            return _open(folder() / name) if have else _download_cifar100()
    have = [
        "digits",
        "cifar100",
        *sorted(p.parent.name for p in folder().glob("*/meta.json")),
    ]
    raise UserError(
        f"There is no data set '{name}'; choose one of {', '.join(dict.fromkeys(have))}, or bring your own: "
        "python -m gfrlib data NAME PATH (a folder of images or a packed .npz file)."
    )


def resolve(dataset: str) -> str:
    """The name under which `dataset` can be loaded; a path is packed first and named by its stem and its content.

    Raises UserError for a path that does not exist or cannot be read.
    """
    path = Path(dataset).expanduser()
    bare = "/" not in dataset and os.sep not in dataset and not dataset.endswith(".npz")
    known = (
        dataset in ("digits", "cifar100") or (folder() / dataset / "meta.json").exists()
    )
    if bare and (known or not path.is_dir()):
        return dataset
    if not path.exists():
        raise UserError(
            f"'{dataset}' does not exist; give a folder of images or a packed .npz file."
        )
    return add(None, path)


def add(name: str | None, path: Path) -> str:
    """Pack a folder of images or an .npz file under `name` (default: stem and content hash); returns the name."""
    with packing():
        data, sources = _read_npz(path) if path.is_file() else _read_folder(path)
        return _store(
            name or path.resolve().stem, data, sources, with_hash=name is None
        )


def _digits() -> Packed:
    """scikit-learn's 1,797 digits, 8 x 8: each class's images of index 3 mod 4 are the test images (ours)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    rank = np.zeros(len(labels), dtype=int)
    for c in range(10):
        rank[labels == c] = np.arange((labels == c).sum())
    test = rank % 4 == 3
    a = canonical(
        {
            "train_images": images[~test],
            "train_labels": labels[~test],
            "test_images": images[test],
            "test_labels": labels[test],
        }
    )
    return Packed("digits", **a, class_names=[str(c) for c in range(10)])


def canonical(arrays: dict) -> dict:
    """Both parts sorted by label, then by the hash of the pixels: the same data, whatever the source's order."""
    result = {}
    for part in ("train", "test"):
        images, labels = (
            arrays[f"{part}_images"],
            np.asarray(arrays[f"{part}_labels"], dtype=np.int64),
        )
        keys = [
            (int(c), hashlib.sha1(np.ascontiguousarray(x)).digest())
            for x, c in zip(images, labels)
        ]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        result[f"{part}_images"], result[f"{part}_labels"] = (
            images[order],
            labels[order],
        )
    return result


def checksum(arrays: dict, class_names: list[str]) -> str:
    """SHA-256 over class names, shapes and bytes of canonical arrays."""
    sha = hashlib.sha256(json.dumps(class_names).encode())
    for key in ARRAYS:
        sha.update(str(arrays[key].shape).encode())
        sha.update(np.ascontiguousarray(arrays[key]))
    return sha.hexdigest()


@contextlib.contextmanager
def packing():
    """One process at a time downloads or packs; the others wait here and then find what it made."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
        mutex = os.open(folder(), os.O_RDONLY)
    except OSError as problem:
        raise UserError(
            f"The folder {folder()} cannot be written ({problem.strerror}); free some space and try again."
        ) from problem
    try:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        yield
    finally:
        os.close(mutex)  # and the lock with it


def _store(name: str, data: dict, class_names: list[str], *, with_hash: bool) -> str:
    data = canonical(data)
    digest = checksum(data, class_names)
    if name in KNOWN and digest != KNOWN[name]:
        raise UserError(
            f"This is not the complete, unchanged data set '{name}' (its checksum differs); "
            "give it another name to use it all the same."
        )
    if with_hash:
        name = f"{name}-{digest[:8]}"
    target = folder() / name
    if (target / "meta.json").exists() and json.loads(
        (target / "meta.json").read_text()
    ).get("sha256") == digest:
        return name
    folder().mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder()))
    try:
        for key in ARRAYS:
            np.save(temporary / f"{key}.npy", data[key])
        meta = {
            "class_names": class_names,
            "sha256": digest,
            "shapes": {k: list(data[k].shape) for k in ARRAYS},
        }
        (temporary / "meta.json").write_text(json.dumps(meta))
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    except OSError as problem:
        raise UserError(
            f"The packed data set could not be written to {folder()} ({problem.strerror}); "
            "free some space and try again."
        ) from problem
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return name


def _open(path: Path) -> Packed:
    try:
        meta = json.loads((path / "meta.json").read_text())
        arrays = {key: np.load(path / f"{key}.npy", mmap_mode="r") for key in ARRAYS}
        whole = all(list(arrays[k].shape) == meta["shapes"][k] for k in ARRAYS)
    except (OSError, ValueError, KeyError, EOFError):
        whole = False
    if not whole:
        raise UserError(
            f"The packed data set '{path.name}' is truncated or damaged; delete {path} and pack it again."
        )
    arrays["train_labels"], arrays["test_labels"] = (
        np.array(arrays["train_labels"]),
        np.array(arrays["test_labels"]),
    )
    content = "" if path.name in KNOWN else meta["sha256"][:12]
    return Packed(
        path.name,
        **arrays,
        class_names=meta["class_names"],
        content=content,
        crop=meta.get("crop", 0),
    )


def _read_npz(path: Path) -> tuple[dict, list[str]]:
    """A packed array file: train_images, train_labels, test_images, test_labels and, if present, class_names."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as problem:  # a truncated zip raises many kinds
        raise UserError(
            f"'{path}' is no readable .npz file (truncated?); copy it again or make it anew."
        ) from problem
    missing = [key for key in ARRAYS if key not in arrays]
    if missing:
        raise UserError(
            f"'{path}' lacks {', '.join(missing)}; a packed file holds {', '.join(ARRAYS)}."
        )
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if (
            images.dtype != np.uint8
            or images.ndim != 4
            or labels.shape != images.shape[:1]
            or not len(images)
        ):
            raise UserError(
                f"'{path}': {part}_images must be uint8 [N, H, W, C] with one label each, "
                f"not {images.dtype} {list(images.shape)} with labels {list(labels.shape)}."
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            raise UserError(f"'{path}': {part}_labels must be whole numbers from 0 on.")
    classes = int(max(arrays["train_labels"].max(), arrays["test_labels"].max())) + 1
    names = (
        [str(n) for n in arrays["class_names"]]
        if "class_names" in arrays
        else [str(c) for c in range(classes)]
    )
    if len(names) < classes or len(np.unique(arrays["train_labels"])) < 2:
        raise UserError(
            f"'{path}' needs at least two classes, and a name for each of its {classes} labels."
        )
    return {key: arrays[key] for key in ARRAYS}, names


def _read_folder(path: Path, size: int | None = None) -> tuple[dict, list[str]]:
    """train/<class>/* with val/<class>/* or test/<class>/*; or <class>/* alone, of which every fifth image is for testing.

    Images are brought to the size of the first one (shorter side scaled, centre cropped); grey ones become RGB. Tiny-ImageNet
    as Stanford packs it is read, too: its <class>_boxes.txt are no images, its validation classes are in val_annotations.txt.
    """
    from PIL import Image

    train = path / "train" if (path / "train").is_dir() else path
    held = (
        next((path / p for p in ("val", "test") if (path / p).is_dir()), None)
        if train != path
        else None
    )
    names = sorted(
        p.name for p in train.iterdir() if p.is_dir() and not p.name.startswith(".")
    )
    if not names:
        raise UserError(
            f"'{path}' holds no class folders; put the images in {path}/train/<class>/ "
            f"and {path}/val/<class>/ (or in {path}/<class>/)."
        )
    if len(names) == 1:
        raise UserError(
            f"'{path}' holds only one class, '{names[0]}'; class-incremental learning needs at least two."
        )

    def listing(top: Path) -> list[tuple[Path, int]]:
        if (top / "val_annotations.txt").is_file() and (top / "images").is_dir():
            return _annotated(top, names)
        found = []
        for label, name in enumerate(names):
            inside = sorted(
                f
                for f in (top / name).rglob("*")
                if f.is_file()
                and not f.name.startswith(".")
                and f.name != f"{name}_boxes.txt"
            )
            if not inside:
                raise UserError(
                    f"The class folder '{top / name}' is empty or missing; put images in it or remove it."
                )
            found += [(f, label) for f in inside]
        return found

    if held:
        known = (
            {*names, "images"} if (held / "val_annotations.txt").is_file() else names
        )
        strange = sorted(
            p.name
            for p in held.iterdir()
            if p.is_dir() and p.name not in known and p.name[0] != "."
        )
        if strange:
            raise UserError(
                f"'{held}' holds the class '{strange[0]}', which '{train}' lacks; give both the same classes."
            )
    everything = listing(train)
    labels = [label for _, label in everything]
    start = {label: labels.index(label) for label in set(labels)}
    rank = [i - start[label] for i, label in enumerate(labels)]  # within its class
    parts = (
        {"train": everything, "test": listing(held)}
        if held
        else {
            part: [
                item
                for item, r in zip(everything, rank)
                if (r % 5 == 4) == (part == "test")
            ]
            for part in ("train", "test")
        }
    )
    short = set(range(len(names))) - {label for _, label in parts["test"]}
    if short:
        raise UserError(
            f"The class '{names[min(short)]}' has fewer than 5 images, too few to set some aside for testing; "
            f"add images, or give '{path}' the folders train/ and val/."
        )

    def decode(item):
        file, _ = item
        try:
            with Image.open(file) as image:
                image = image.convert("RGB")
                side = size or parts["size"]
                scale = side / min(image.size)
                if image.size != (side, side):
                    image = image.resize(
                        (
                            max(side, round(image.width * scale)),
                            max(side, round(image.height * scale)),
                        ),
                        Image.Resampling.BILINEAR,
                    )
                    left, top = (image.width - side) // 2, (image.height - side) // 2
                    image = image.crop((left, top, left + side, top + side))
                return np.asarray(image)
        except (OSError, SyntaxError, ValueError) as problem:
            raise UserError(
                f"'{file}' is no readable image; repair or remove it."
            ) from problem

    if size is None:
        first = everything[0][0]
        try:
            with Image.open(first) as image:
                parts["size"] = min(*image.size, 256)
        except (OSError, SyntaxError, ValueError) as problem:
            raise UserError(
                f"'{first}' is no readable image; repair or remove it."
            ) from problem
    arrays = {}
    with ThreadPoolExecutor() as pool:
        for part in ("train", "test"):
            arrays[f"{part}_images"] = np.stack(list(pool.map(decode, parts[part])))
            arrays[f"{part}_labels"] = np.array(
                [label for _, label in parts[part]], dtype=np.int64
            )
    return arrays, names


def _annotated(top: Path, names: list[str]) -> list[tuple[Path, int]]:
    """Tiny-ImageNet's own validation folder: images/* and val_annotations.txt, lines of file, class and box, by tabs."""
    rows = [
        line.split("\t")
        for line in (top / "val_annotations.txt").read_text().splitlines()
        if line.strip()
    ]
    label = {name: i for i, name in enumerate(names)}
    for row in rows:
        if (
            len(row) < 2
            or row[1] not in label
            or not (top / "images" / row[0]).is_file()
        ):
            raise UserError(
                f"'{top / 'val_annotations.txt'}' names a file or a class that is not here ("
                f"'{' '.join(row[:2])}'); unpack Tiny-ImageNet anew."
            )
    lacking = set(names) - {row[1] for row in rows}
    if lacking:
        raise UserError(
            f"'{top / 'val_annotations.txt'}' has no image of the class '{min(lacking)}'; "
            "unpack Tiny-ImageNet anew."
        )
    return sorted((top / "images" / row[0], label[row[1]]) for row in rows)


def _download_cifar100() -> Packed:
    from torchvision.datasets import CIFAR100

    try:
        parts = {
            part: CIFAR100(
                root() / "data" / "download", train=part == "train", download=True
            )
            for part in ("train", "test")
        }
    except (
        Exception
    ) as problem:  # no network, a refused connection, a half file: one answer serves
        raise UserError(
            "CIFAR-100 is not here and could not be downloaded; bring it with "
            "python -m gfrlib data cifar100 PATH (a packed .npz file or a folder of images)."
        ) from problem
    data = {}
    for part, source in parts.items():
        data[f"{part}_images"], data[f"{part}_labels"] = (
            source.data,
            np.array(source.targets),
        )
    _store("cifar100", data, list(parts["train"].classes), with_hash=False)
    return _open(folder() / "cifar100")
