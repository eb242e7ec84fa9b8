"""Images that come as arrays: an .npz file, torchvision's download.

Each returns (arrays, class names); datasets.py brings them into one order.
"""

from pathlib import Path

import numpy as np

from gfrlib.config import UserError

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def read_npz(path: Path) -> tuple[dict, list[str]]:
    """A packed file: the four ARRAYS and, if present, class_names. Raises UserError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as problem:  # a truncated zip raises many kinds
        raise UserError(
            f"'{path}' is no readable .npz file (truncated?); copy it again or make it "
            "anew."
        ) from problem
    missing = [key for key in ARRAYS if key not in arrays]
    if missing:
        raise UserError(
            f"'{path}' lacks {', '.join(missing)}; a packed file holds "
            f"{', '.join(ARRAYS)}."
        )
    for part in ("train", "test"):
        _check_part(path, part, arrays[f"{part}_images"], arrays[f"{part}_labels"])
    classes = int(max(arrays["train_labels"].max(), arrays["test_labels"].max())) + 1
    names = [str(name) for name in arrays.get("class_names", range(classes))]
    if len(names) < classes or len(np.unique(arrays["train_labels"])) < 2:
        raise UserError(
            f"'{path}' needs at least two classes, and a name for each of its "
            f"{classes} labels."
        )
    return {key: arrays[key] for key in ARRAYS}, names


def _check_part(path: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    are_images = images.dtype == np.uint8 and images.ndim == 4 and len(images)
    if not are_images or labels.shape != images.shape[:1]:
        raise UserError(
            f"'{path}': {part}_images must be uint8 [N, H, W, C] with one label each, "
            f"not {images.dtype} {list(images.shape)} with labels "
            f"{list(labels.shape)}."
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise UserError(f"'{path}': {part}_labels must be whole numbers from 0 on.")


def download_cifar100(folder: Path) -> tuple[dict, list[str]]:
    """CIFAR-100 by torchvision, downloaded into `folder`. Raises UserError."""
    from torchvision.datasets import CIFAR100

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
