"""Mirroring can be switched off: where left and right tell classes apart, it must."""

import numpy as np
import pytest
import torch
from helpers_core import tiny

from gfrlib import tasks, training
from gfrlib.config import make_config
from gfrlib.lab.datasets import Packed

CPU = torch.device("cpu")
SIDE = 12


def signs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Signs that point left (0) and right (1), `count` each: one mirrors the other."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    images = rng.integers(0, 60, (2 * count, SIDE, SIDE, 3)).astype(np.uint8)
    for image in images:
        top, left = rng.integers(0, 5, 2)
        inside = (abs(y - top - 4) <= x - left) & (x - left < 5)  # a tip to the left
        image[inside] += 150
    images[count:] = images[count:, :, ::-1]
    return images, np.repeat([0, 1], count)


def stream(crop: int = 0, **changes) -> tasks.Tasks:
    """The signs as one task."""
    train, test = signs(150, 0), signs(100, 1)
    packed = Packed("signs", *train, *test, class_names=["left", "right"], crop=crop)
    config = make_config("quick", "finetune", base=2, tasks=0, **changes)
    return tasks.build(config, packed, CPU)


@pytest.mark.parametrize("crop", [0, 8])
def test_without_mirroring_no_drawn_view_is_mirrored(crop):
    rng = torch.Generator().manual_seed(0)
    with_it, without = (stream(crop, mirror=on).draw(500, rng) for on in (True, False))
    assert set(with_it[:, -1].tolist()) == {0, 1}
    assert not without[:, -1].any()
    # a view of a left-pointing sign is a part of it: nothing in it points right
    signs = stream(crop, mirror=False)
    views = signs.augment(signs.train_images[:150], without[:150]).float().mean(-1)
    columns = (views > 100).sum(1)  # bright pixels: they grow from the tip
    rises = [np.diff(c[c > 0]) for c in columns.numpy() if (c > 0).sum() > 2]
    assert len(rises) > 20 and np.mean([r.sum() > 0 for r in rises]) > 0.8


def test_classes_that_mirror_each_other_need_it_off():
    def accuracy(on: bool) -> float:
        config = tiny("finetune", base=2, tasks=0, mirror=on, epochs_base=12)
        found = stream(mirror=on)
        predicted = training.run(config, found).predictions[0]["softmax"]
        return (predicted == found.test_labels.numpy()).mean()

    assert accuracy(False) > 0.95
    assert accuracy(True) < 0.65  # chance is 0.5
