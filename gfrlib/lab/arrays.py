"""Images that come as arrays: an .npz file, torchvision's download.

Each returns (arrays, class names); datasets.py brings them into one order.
"""

import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np

from gfrlib.config import UserError

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
ARCHIVES = {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"}
ZIP = b"PK"  # how an .npz file begins
WORDS = {"train": "training", "test": "test"}


def read_npz(path: Path) -> tuple[dict, list[str]]:
    """A packed file: the four ARRAYS and, if present, class_names.

    Raises UserError for one that cannot be read, and for arrays that no run could use
    (labels with gaps, parts of different sizes, ...).
    """
    check_no_archive(path)
    arrays = _load(path)
    missing = [key for key in ARRAYS if key not in arrays]
    if missing:
        raise UserError(
            f"'{path}' lacks {', '.join(missing)}; a packed file holds "
            f"{', '.join(ARRAYS)}."
        )
    for part in ("train", "test"):
        _check_part(path, part, arrays[f"{part}_images"], arrays[f"{part}_labels"])
    _check_shapes(path, arrays["train_images"], arrays["test_images"])
    names = _names(path, arrays)
    _check_classes(path, arrays, names)
    return {key: arrays[key] for key in ARRAYS}, names


def check_no_archive(path: Path) -> None:
    """Raises UserError for a file that is called as archives of images are."""
    if path.suffix.lower() in ARCHIVES:
        raise UserError(
            f"'{path}' is an archive; unpack it, and give the folder with the images."
        )


def _load(path: Path) -> dict:
    """All arrays of an .npz file. Raises UserError."""
    try:
        with path.open("rb") as file:
            begins = file.read(len(ZIP))
    except OSError as problem:
        raise UserError(
            f"'{path}' cannot be read ({problem.strerror}); ask for the right to read "
            "it, or copy it."
        ) from problem
    if begins != ZIP:
        raise UserError(
            f"'{path}' is no readable .npz file; give one, or a folder of images (an "
            "archive is unpacked first)."
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except MemoryError:
        raise
    except Exception as problem:  # a truncated zip raises many kinds
        if "allow_pickle" in str(problem):
            raise UserError(
                f"'{path}' holds Python objects instead of numbers (rows of different "
                "lengths make such arrays); save each array as plain numbers, and "
                "class_names as text."
            ) from problem
        raise UserError(
            f"'{path}' is no readable .npz file (truncated?); copy it again or make it "
            "anew."
        ) from problem


def _check_part(path: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Raises UserError unless there are images with channels, and a label for each."""
    are_images = images.dtype == np.uint8 and images.ndim == 4 and len(images)
    if not are_images or labels.shape != images.shape[:1]:
        raise UserError(
            f"'{path}': {part}_images must be uint8 [N, H, W, C] with one label each, "
            f"not {images.dtype} {list(images.shape)} with labels "
            f"{list(labels.shape)}."
        )
    _, high, wide, channels = images.shape
    if not high or not wide or channels not in (1, 3):
        raise UserError(
            f"'{path}': {part}_images have height {high}, width {wide} and {channels} "
            "channels; there must be pixels, in 1 channel (grey) or 3 (colour)."
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        lowest = f", the smallest {labels.min()}" if labels.dtype.kind in "if" else ""
        raise UserError(
            f"'{path}': {part}_labels must be whole numbers from 0 on, and are "
            f"{labels.dtype}{lowest}."
        )


def _check_shapes(path: Path, train: np.ndarray, test: np.ndarray) -> None:
    axes = ("height", "width", "channels")
    for axis, ours, theirs in zip(axes, train.shape[1:], test.shape[1:], strict=True):
        if ours != theirs:
            raise UserError(
                f"'{path}': the {axis} of train_images is {ours}, of test_images "
                f"{theirs}; bring both to one size and mode."
            )


def _names(path: Path, arrays: dict) -> list[str]:
    """Names of the classes: those given, or as many numbers as there are labels."""
    if "class_names" not in arrays:
        labels = [arrays[f"{part}_labels"] for part in ("train", "test")]
        return [str(label) for label in range(len(np.unique(np.concatenate(labels))))]
    given = arrays["class_names"]
    if given.ndim != 1 or given.dtype.kind not in "USiu":
        raise UserError(
            f"'{path}': class_names must be one text for each label, not "
            f"{given.dtype} {list(given.shape)}."
        )
    texts = [n.decode("utf-8", "replace") if isinstance(n, bytes) else n for n in given]
    names = [unicodedata.normalize("NFC", str(text)) for text in texts]
    odd = [name for name in names if not name.strip() or not name.isprintable()]
    if odd:
        raise UserError(
            f"'{path}': {odd[0]!r} in class_names is no name that can be shown; give "
            "each class a name of printable characters."
        )
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise UserError(
            f"'{path}': two classes are called '{twice[0]}'; give each its own name."
        )
    return names


def _check_classes(path: Path, arrays: dict, names: list[str]) -> None:
    """Raises UserError unless labels are 0 to n - 1 in both parts, one a name."""
    seen = {part: np.unique(arrays[f"{part}_labels"]) for part in ("train", "test")}
    lowest = int(min(labels[0] for labels in seen.values()))
    highest = int(max(labels[-1] for labels in seen.values()))
    named = "class_names" in arrays and highest < len(names)  # each label has its name
    if lowest > 0 and highest - lowest < len(names) and not named:
        raise UserError(
            f"'{path}': the labels begin at {lowest}; subtract {lowest}, so that they "
            "begin at 0."
        )
    if "class_names" in arrays and highest >= len(names):
        raise UserError(
            f"'{path}' names {len(names)} classes and has labels up to {highest}; "
            "class_names needs a name for each label from 0 on."
        )
    for part, labels in seen.items():
        lacking = np.setdiff1d(np.arange(len(names)), labels)
        if len(lacking):
            first = int(lacking[0])
            called = "" if names[first] == str(first) else f" ('{names[first]}')"
            raise UserError(
                f"'{path}': the class {first}{called} has no {WORDS[part]} image, and "
                f"labels reach to {highest}; number the classes without gaps, and "
                "give each images for training and for testing."
            )
    if len(names) < 2:
        raise UserError(
            f"'{path}' holds one class; class-incremental learning needs at least two "
            "classes."
        )


def download_cifar100(folder: Path) -> tuple[dict, list[str]]:
    """CIFAR-100 by torchvision, downloaded into `folder`. Raises UserError."""
    try:
        from torchvision.datasets import CIFAR100
    except ImportError as problem:
        raise UserError(
            "CIFAR-100 is downloaded by torchvision, which is missing: pip install "
            "torchvision, or bring it with python -m gfrlib data cifar100 PATH."
        ) from problem
    try:
        parts = {
            part: CIFAR100(folder, train=part == "train", download=True)
            for part in ("train", "test")
        }
    except Exception as problem:
        # no network, a refused connection, a half file: one answer serves
        raise UserError(
            "CIFAR-100 is not here and could not be downloaded; bring it with "
            "python -m gfrlib data cifar100 PATH (a packed .npz file or a folder of "
            "images)."
        ) from problem
    arrays = {}
    for part, source in parts.items():
        arrays[f"{part}_images"] = source.data
        arrays[f"{part}_labels"] = np.array(source.targets)
    return arrays, list(parts["train"].classes)
