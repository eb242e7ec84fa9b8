"""Arrays (.npz) that no run could use are refused when they are packed."""

import sys

import numpy as np
import pytest
from helpers_core import generated

from gfrlib.cli import main
from gfrlib.config import UserError
from gfrlib.lab import arrays as lab_arrays
from gfrlib.lab import datasets
from gfrlib.lab.datasets import ARRAYS


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "home"))
    return tmp_path


def arrays(**changes) -> dict:
    """Three classes of 16 x 16 colour images, with changes; None drops an array."""
    source = generated(3)
    found = {key: getattr(source, key) for key in ARRAYS} | changes
    return {key: value for key, value in found.items() if value is not None}


def labels(part: str, change=lambda labels: labels) -> dict:
    key = f"{part}_labels"
    return {key: change(getattr(generated(3), key).copy())}


def both(change) -> dict:
    return labels("train", change) | labels("test", change)


def without(part: str, label: int) -> dict:
    """The arrays of a part without the images of one class."""
    source = generated(3)
    kept = getattr(source, f"{part}_labels") != label
    return {
        key: getattr(source, key)[kept] for key in (f"{part}_images", f"{part}_labels")
    }


def put(value, at: int = 0):
    def change(labels):
        labels[at] = value
        return labels

    return change


def images(part: str, high: int, wide: int, channels: int) -> dict:
    count = {"train": 72, "test": 36}[part]
    return {f"{part}_images": np.zeros((count, high, wide, channels), np.uint8)}


def every(*shape) -> dict:
    return images("train", *shape) | images("test", *shape)


NAMES = ["cat", "dog", "eel"]
REFUSED = {
    "labels from 1": (both(lambda x: x + 1), "labels begin at 1; subtract 1"),
    "labels from 1, with names": (
        {**both(lambda x: x + 1), "class_names": NAMES},
        "labels begin at 1; subtract 1",
    ),
    "a class before the others, without an image": (
        {**both(lambda x: x + 1), "class_names": [*NAMES, "fox"]},
        r"the class 0 \('cat'\) has no training image",
    ),
    "labels with gaps": (both(lambda x: 2 * x), "the class 1 has no training image"),
    "no label of a name": (
        {"class_names": [*NAMES, "fox"]},
        r"the class 3 \('fox'\) has no training image",
    ),
    "no test images": (without("test", 1), "the class 1 has no test image"),
    "no training images": (without("train", 1), "the class 1 has no training image"),
    "the last class is untrained": (
        without("train", 2),
        "the class 2 has no training image",
    ),
    "one huge label": (labels("train", put(10**8)), "labels reach to 100000000"),
    "a label beyond 63 bits": (
        labels("train", lambda x: put(2**64 - 1)(x.astype(np.uint64))),
        "labels reach to 18446744073709551615",
    ),
    "one class": (both(np.zeros_like), "at least two classes"),
    "heights differ": (images("test", 8, 16, 3), "the height of train_images is 16"),
    "widths differ": (images("test", 16, 8, 3), "the width .* is 16, of .* 8"),
    "channels differ": (images("test", 16, 16, 1), "the channels of .* is 3, of .* 1"),
    "height 0": (every(0, 16, 3), "height 0"),
    "width 0": (every(16, 0, 3), "width 0"),
    "no channels": (every(16, 16, 0), "0 channels"),
    "two channels": (every(16, 16, 2), "2 channels"),
    "four channels": (every(16, 16, 4), "4 channels"),
    "channels first": (every(3, 16, 16), "16 channels"),
    "no axis of channels": (
        {"train_images": np.zeros((72, 16, 16), np.uint8)},
        r"must be uint8 \[N, H, W, C\]",
    ),
    "no images": (
        {"test_images": np.zeros((0, 16, 16, 3), np.uint8), **labels("test", np.empty)},
        "one label each",
    ),
    "images of 0 to 1": ({"train_images": np.zeros((72, 16, 16, 3))}, "must be uint8"),
    "labels in a column": (labels("train", lambda x: x[:, None]), "one label each"),
    "labels of floats": (labels("train", lambda x: x * 1.0), "are float64"),
    "a label that is NaN": (
        labels("train", lambda x: put(np.nan)(x * 1.0)),
        "train_labels must be whole numbers .* float64",
    ),
    "labels of truth values": (both(lambda x: x > 0), "are bool"),
    "a negative label": (labels("test", put(-1)), "test_labels .* the smallest -1"),
    "labels of text": (labels("train", lambda x: x.astype(str)), "whole numbers"),
    "labels of objects": (
        labels("train", lambda x: x.astype(object)),
        "holds Python objects",
    ),
    "names of objects": (
        {"class_names": np.array(NAMES, dtype=object)},
        "holds Python objects",
    ),
    "too few names": ({"class_names": NAMES[:2]}, "names 2 classes .* up to 2"),
    "one name": ({"class_names": "cat"}, "class_names must be one text for each"),
    "names of floats": ({"class_names": [0.5, 1.5, 2.5]}, "one text for each"),
    "a name twice": ({"class_names": ["cat", "dog", "cat"]}, "called 'cat'"),
    "a name in two forms of Unicode": (
        {"class_names": ["caf\u00e9", "cafe\u0301", "eel"]},
        "two classes are called 'caf\u00e9'",
    ),
    "a name without letters": ({"class_names": ["cat", " ", "eel"]}, "is no name"),
    "a name of two lines": ({"class_names": ["cat", "d\nog", "eel"]}, "is no name"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_arrays_that_no_run_could_use_are_refused(home, capsys, what):
    changes, says = REFUSED[what]
    with np.errstate(invalid="ignore"):
        np.savez(home / "bad.npz", **arrays(**changes))
    with pytest.raises(UserError, match=says):
        datasets.add("bad", home / "bad.npz")
    assert main(["data", "bad", str(home / "bad.npz")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (datasets.folder() / "bad").exists()


ACCEPTED = {
    "names": {"class_names": NAMES},
    "names in bytes": {"class_names": np.array(NAMES, dtype="S")},
    "names that are numbers": {"class_names": [7, 8, 9]},
    "one byte a label": both(lambda x: x.astype(np.uint8)),
    "the other order of bytes": both(lambda x: x.astype(">i8")),
    "grey": every(16, 16, 1),
    "Fortran's order": {
        key: np.asfortranarray(getattr(generated(3), key))
        for key in ("train_images", "test_images")
    },
}


@pytest.mark.parametrize("what", ACCEPTED)
def test_arrays_of_other_layouts_are_packed_alike(home, what):
    np.savez(home / "good.npz", **arrays(**ACCEPTED[what]))
    np.savez(home / "usual.npz", **arrays())
    datasets.add("good", home / "good.npz")
    datasets.add("usual", home / "usual.npz")
    good, usual = datasets.packed("good"), datasets.packed("usual")
    assert np.array_equal(good.train_labels, usual.train_labels)
    assert good.train_labels.dtype == np.int64
    if what != "grey":
        assert np.array_equal(good.train_images, usual.train_images)
    if what.startswith("names"):
        numbers = what.endswith("numbers")
        assert good.class_names == (["7", "8", "9"] if numbers else NAMES)


def test_cifar100_without_torchvision_is_one_sentence(monkeypatch, tmp_path):
    """gfrlib alone does not bring it (pyproject.toml)."""
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(UserError, match="pip install torchvision, or bring it"):
        lab_arrays.download_cifar100(tmp_path)
