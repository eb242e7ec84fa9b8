"""What a run reads and what is written down of it: its tasks, its numbers."""

import functools

import numpy as np
import torch

from gfrlib import tasks
from gfrlib.config import Config
from gfrlib.engine.machine import resolve_device
from gfrlib.lab import datasets, weights
from gfrlib.lab.record import Record
from gfrlib.pretrained import Pretrained

STREAM = ("dataset", "base", "tasks", "split", "class_order", "validation", "mirror")


@functools.lru_cache(maxsize=2)
def _load(settings: tuple, content: str, device: str) -> tasks.Tasks:
    """`content` is part of the key alone: a name may come to stand for other images."""
    config = Config(**dict(settings))
    return tasks.build(config, datasets.packed(config.dataset), torch.device(device))


@functools.lru_cache(maxsize=2)
def _starting_from(
    settings: tuple, content: str, device: str, pretrained: Pretrained
) -> tasks.Tasks:
    """Kept, too: of an extractor that is never trained, all rows share the features."""
    return _load(settings, content, device).starting_from(pretrained)


def load_tasks(config: Config) -> tasks.Tasks:
    """The config's task stream, on its device; kept in memory for the next call.

    Raises UserError as `datasets.packed` and `weights.load` do, and for weights that do
    not fit the network or the images.
    """
    # the seed tells nothing about other orders: all seeds share one copy of the images
    names = (*STREAM, "seed") if config.class_order == "random" else STREAM
    content = ""
    if config.dataset not in ("digits", *datasets.KNOWN):
        content = datasets.packed(config.dataset).content
    settings = tuple((name, getattr(config, name)) for name in names)
    device = str(resolve_device(config))
    stream = _load(settings, content, device)
    if not config.weights:
        return stream
    pretrained = weights.load(config.weights)
    pretrained.check(config, stream.train_images.shape[3])
    return _starting_from(settings, content, device, pretrained)


def numbers(config: Config, stream: tasks.Tasks, outcome) -> dict:
    """The fields of a Record that come from the stream and a training.Outcome."""
    used = sum(stream.sizes)
    counts = torch.bincount(stream.test_labels, minlength=used)[:used].tolist()
    main = [p and p[config.prediction] for p in outcome.predictions]
    losses = [
        {name: _five_digits(value) for name, value in row.items()}
        for row in outcome.losses
    ]
    return {
        "class_names": stream.class_names[:used],
        "task_sizes": list(stream.sizes),
        "test_counts": counts,
        "predictions": main,
        "rules": _accuracies(outcome.predictions, counts, stream.sizes),
        "losses": losses,
        "seconds": outcome.seconds,
        "bytes_kept": outcome.bytes_kept,
        "weights": outcome.weights,
    }


def record_of(config: Config, stream: tasks.Tasks, outcome) -> Record:
    """What training.run returned, as a Record that is kept nowhere: its accuracy
    matrix, curve and confusion matrix.
    """
    made = {"commit": "", "digest": "", "result_version": 0}
    return Record(config=config, provenance=made, **numbers(config, stream, outcome))


def _accuracies(predictions: list, counts: list[int], sizes: tuple) -> dict:
    """{rule: rows t of accuracy on tasks 0..t, None where a method has none}."""
    labels = np.repeat(np.arange(len(counts)), counts)  # as the test images are sorted
    task = np.repeat(np.arange(len(sizes)), sizes)[labels]
    rules: dict[str, list] = {}
    for t, row in enumerate(predictions):
        for rule, predicted in (row or {}).items():
            seen = len(predicted)
            correct = predicted == labels[:seen]
            of_task = [correct[task[:seen] == k].mean() for k in range(t + 1)]
            rows = rules.setdefault(rule, [None] * len(sizes))
            rows[t] = [round(float(share), 6) for share in of_task]
    return rules


def _five_digits(value: int | str | float) -> int | str | float:
    return value if isinstance(value, (int, str)) else float(f"{value:.5g}")
