"""Images that are read while the last batch trains, and random resized crops."""

import threading

import numpy as np
import torch
from helpers_core import train

from gfrlib import tasks, training
from gfrlib.config import make_config
from gfrlib.engine import augment, streams
from gfrlib.lab import datasets


def test_streamed_rows_are_those_of_the_array(monkeypatch):
    source = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
    rows = np.array([5, 3, 3, 20, 29, 0])
    whole = torch.from_numpy(source[rows])
    monkeypatch.setenv("GFR_RESIDENT_BYTES", "100")
    images = streams.resident_or_streamed(source, rows, torch.device("cpu"))
    assert (
        isinstance(images, streams.Streamed)
        and images.shape == whole.shape
        and len(images) == 6
    )
    index = torch.tensor([4, 0, 2, 2])
    assert torch.equal(images[index], whole[index])
    images.ahead(torch.tensor([1, 5]))
    assert torch.equal(images[torch.tensor([1, 5])], whole[[1, 5]]) and torch.equal(
        images[index], whole[index]
    )
    assert (
        torch.equal(images[3], whole[3])
        and torch.equal(images[1:4], whole[1:4])
        and images.numel() == whole.numel()
    )
    monkeypatch.setenv("GFR_RESIDENT_BYTES", str(whole.numel()))
    assert torch.equal(
        streams.resident_or_streamed(source, rows, torch.device("cpu")), whole
    )


def test_boxes_are_those_of_torchvision():
    """The same law as RandomResizedCrop: area, ratio and place of many boxes, on a wide
    image.
    """
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    high, wide, count = 60, 90, 4000
    ours = augment.draw_boxes(
        count, (high, wide), True, torch.Generator().manual_seed(0), torch.device("cpu")
    ).numpy()
    image = torch.zeros(3, high, wide)
    theirs = np.array(
        [
            RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
            for _ in range(count)
        ],
        dtype=float,
    )
    area = (ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3] / (high * wide))
    ratio = (
        np.log(ours[:, 3] * wide / (ours[:, 2] * high)),
        np.log(theirs[:, 3] / theirs[:, 2]),
    )
    top, left = (ours[:, 0], theirs[:, 0] / high), (ours[:, 1], theirs[:, 1] / wide)
    for a, b in (area, ratio, top, left):
        np.testing.assert_allclose(
            np.quantile(a, [0.1, 0.5, 0.9]), np.quantile(b, [0.1, 0.5, 0.9]), atol=0.03
        )
    assert (ours[:, 0] + ours[:, 2] <= 1 + 1e-6).all() and (
        ours[:, 1] + ours[:, 3] <= 1 + 1e-6
    ).all()
    assert 0.45 < ours[:, 4].mean() < 0.55


def test_a_cut_box_is_torchvisions_resized_crop():
    from torchvision.transforms.functional import InterpolationMode, hflip, resized_crop

    rng = np.random.default_rng(0)
    rough = torch.from_numpy(rng.integers(0, 256, (3, 48, 60, 3), dtype=np.uint8))
    boxes = torch.tensor(
        [
            [6 / 48, 12 / 60, 24 / 48, 30 / 60, 0],
            [6 / 48, 12 / 60, 24 / 48, 30 / 60, 1],
            [0, 0, 1, 1, 0],
        ]
    )
    edges = torch.tensor([[6, 12, 30, 42], [6, 12, 30, 42], [0, 0, 48, 60]])
    for antialias, found in (
        (True, augment.cut(rough, boxes, 40)),
        (False, augment._cut_at_once(rough, edges, boxes[:, 4], 40)),
    ):
        for k, (place, flip) in enumerate(
            (((6, 12, 24, 30), False), ((6, 12, 24, 30), True), ((0, 0, 48, 60), False))
        ):
            image = rough[k].permute(2, 0, 1)
            expected = resized_crop(
                image, *place, [40, 40], InterpolationMode.BILINEAR, antialias=antialias
            )
            apart = (
                found[k].permute(2, 0, 1).int()
                - (hflip(expected) if flip else expected).int()
            ).abs()
            assert apart.max() <= 1  # at the border, too: nothing from outside the box


def test_a_box_is_cut_at_whole_pixels():
    """Two boxes that differ by less than half a pixel are the same."""
    rough = torch.from_numpy(
        np.random.default_rng(1).integers(0, 256, (1, 48, 60, 3), dtype=np.uint8)
    ).expand(2, -1, -1, -1)
    boxes = torch.tensor(
        [[6.0, 12, 24, 30, 0], [6.3, 12.4, 24.1, 29.8, 0]]
    ) / torch.tensor([48, 60, 48, 60, 1])
    one, other = augment.cut(rough, boxes, 40)
    assert torch.equal(one, other)


def test_testing_sees_the_centre():
    images = torch.arange(5 * 7).view(1, 5, 7, 1)
    assert augment.centre(images, 3)[0, :, :, 0].tolist() == [
        [9, 10, 11],
        [16, 17, 18],
        [23, 24, 25],
    ]
    assert (
        augment.centre(images, 9) is not None
        and augment.centre(images, 9).shape == images.shape
    )


def test_large_images_without_crops_are_streamed_too(monkeypatch):
    """Mean and deviation are the same, and so is the run."""
    packed = datasets.Packed(
        "big",
        *[
            np.random.default_rng(k).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
            if k % 2 == 0
            else np.repeat(np.arange(4), 3)
            for k in range(4)
        ],
        class_names=list("abcd"),
    )
    config = make_config(
        "quick",
        "finetune",
        base=2,
        tasks=1,
        epochs_base=1,
        epochs_task=1,
        batch_size=4,
        device="cpu",
    )
    found = []
    for limit in ("1000000000", "10"):
        monkeypatch.setenv("GFR_RESIDENT_BYTES", limit)
        stream = tasks.build(config, packed, torch.device("cpu"))
        monkeypatch.setattr(
            "helpers_core.load_tasks", lambda config, stream=stream: stream
        )
        found.append((stream.mean.tolist(), stream.std.tolist(), train(config).weights))
    assert found[0] == found[1]


def test_what_is_read_ahead_is_used(monkeypatch):
    """Every batch after the first was read by the thread that reads ahead."""
    source = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 1), dtype=np.uint8)
    packed = datasets.Packed(
        "big",
        source,
        np.repeat(np.arange(4), 6),
        source,
        np.repeat(np.arange(4), 6),
        list("abcd"),
    )
    config = make_config(
        "quick",
        "finetune",
        base=2,
        tasks=1,
        epochs_base=2,
        epochs_task=1,
        batch_size=4,
        device="cpu",
    )
    monkeypatch.setenv("GFR_RESIDENT_BYTES", "10")
    stream = tasks.build(config, packed, torch.device("cpu"))
    reads = []
    read = streams.Streamed._read
    monkeypatch.setattr(
        streams.Streamed,
        "_read",
        lambda self, index: (
            reads.append(threading.current_thread().name),
            read(self, index),
        )[1],
    )
    monkeypatch.setattr("helpers_core.load_tasks", lambda config: stream)
    monkeypatch.setattr(training, "predict", lambda *_: {})
    train(config)
    assert sum(name == "MainThread" for name in reads) == 2, (
        "the first batch of each task"
    )
