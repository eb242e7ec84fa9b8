"""Images of photographs as training and testing see them, and features that are
computed once.
"""

import numpy as np
import torch
from helpers_core import SMALL, TINY, generated, load_tasks, tiny

from gfrlib import batches, tasks
from gfrlib.config import make_config
from gfrlib.engine.machine import Machine
from gfrlib.engine.phase import Phase
from gfrlib.lab.datasets import Packed
from gfrlib.networks import build_network

CPU = torch.device("cpu")


def photographs(count: int = 12, side: int = 12, crop: int = 8) -> Packed:
    """Class 0 is dark, class 1 bright; every place of an image has its own value."""
    place = np.arange(side * side).reshape(side, side, 1) % 40
    images = (
        np.repeat(place[None], 2 * count, 0)
        + np.repeat([10, 180], count)[:, None, None, None]
    )
    images, labels = images.astype(np.uint8), np.repeat([0, 1], count)
    both = images, labels, images, labels
    return Packed("some", *both, class_names=["dark", "bright"], crop=crop)


def photo_stream() -> tasks.Tasks:
    config = make_config("quick", "finetune", base=1, tasks=1, class_order="sorted")
    return tasks.build(config, photographs(), CPU)


def test_testing_sees_the_centre_of_a_photograph():
    stream = photo_stream()
    x = stream.normalise(stream.test_images)
    wanted = (stream.test_images[:, 2:10, 2:10] / 255 - stream.mean) / stream.std
    torch.testing.assert_close(x, wanted.permute(0, 3, 1, 2))


def test_moments_of_some_photographs_are_of_all_classes(monkeypatch):
    monkeypatch.setattr(tasks, "MOMENT_IMAGES", 6)
    every = photographs().train_images / 255
    stream = photo_stream()
    np.testing.assert_allclose(stream.mean, every.mean((0, 1, 2)), atol=1e-3)
    np.testing.assert_allclose(stream.std, every.std((0, 1, 2)), atol=1e-3)


def test_moments_of_few_photographs_count_each_once():
    stream, every = photo_stream(), photographs().train_images / 255
    assert len(every) < tasks.MOMENT_IMAGES
    np.testing.assert_allclose(stream.mean, every.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(stream.std, every.std((0, 1, 2)), atol=1e-6)


def still(**changes):
    """A config whose F came pretrained and is never trained; its stream."""
    settings = {**TINY, "split": (2, 1, 1), "penalty": "frozen", "network": "resnet18"}
    settings |= {"weights": "w-01234567", "width": 4, **changes}
    config = make_config("quick", "gfr", **settings)
    return config, tasks.build(config, generated(4), CPU)


def test_known_features_are_of_one_precision():
    """Rows of one process share a stream, whatever precision each asks for."""
    config, stream = still()
    network, found = build_network(config, stream.shape, 0), []
    for precision in ("float32", "bf16"):
        phase = Phase("test", 0, 0, Machine(CPU, precision))
        found.append(batches.known_features(network, stream, "train", 0, phase))
    assert not torch.equal(*found)
    torch.testing.assert_close(*found, atol=0.1, rtol=0.1)


def test_a_generator_sees_augmented_views_on_a_still_extractor_too():
    config, stream = still()
    network = build_network(config, stream.shape, 0)
    phase = Phase("generator", 0, 0, Machine.of(config))
    plain, _ = batches.real_features(network, stream, 0, config, phase)
    views, labels = batches.real_features(network, stream, 0, config, phase, views=3)
    assert len(views) == len(labels) == 3 * len(plain)
    assert all(not torch.allclose(view, plain) for view in views.chunk(3))


def test_the_digits_are_of_one_stream():
    config = tiny("gfr", **SMALL)
    assert load_tasks(config) is load_tasks(config)
