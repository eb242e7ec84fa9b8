"""The same steps by gfrlib, on the same images: seconds per step of each phase.

A process of its own: `python -m benchmarks.ours PRECISION [compiled]` prints one JSON
line a figure, as soon as it is measured: {name: [median, least, most]} seconds of some
stretches of steps.
"""

import dataclasses
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch

from gfrlib.batches import real_features
from gfrlib.engine.chain import generator_steps
from gfrlib.engine.machine import Machine
from gfrlib.engine.phase import Phase
from gfrlib.lab import experiments, plans
from gfrlib.training import build

STEPS = 12
# against the official code
STRETCHES, STEPS_OF_A_STRETCH = 3, 2
IMAGES = 16  # of a class: as few as fill a batch of a later task
PAPER_IMAGES = 500  # of a class


def limited(config, images: int):
    """The config's stream with the first `images` training images of each class."""
    stream = experiments.load_tasks(config)
    rows = []
    for c in range(stream.num_classes):
        rows.append(torch.nonzero(stream.train_labels == c)[:images, 0])
    rows = torch.cat(rows)
    return dataclasses.replace(
        stream,
        train_images=stream.train_images[rows],
        train_labels=stream.train_labels[rows],
    )


def step_seconds(
    config,
    stream,
    task: int,
    phase: str,
    *,
    images: int,
    steps: int = STEPS,
    warm: int = 1,
) -> float:
    """Seconds per step of a phase; a generator's step holds `critic_steps` updates.

    All of the steps count but the first `warm`.
    """
    stage = plans.Stage("", task, phase, steps)
    many = dict(steps=steps, images=images, warm=warm, longest=float("inf"))
    return plans.seconds_per_step(config, stream, stage, **many)


def feature_maker(config, stream, task: int) -> Callable:
    """(views) -> what the generator of this task trains on, by an untrained network."""
    here = Machine.of(config)
    network, *_ = build(config, stream, here.device)
    phase = Phase("generator", task, config.seed, here)

    def features(views: int = 0) -> torch.Tensor:
        return real_features(network, stream, task, config, phase, views=views)[0]

    return features


def feature_seconds(config, stream) -> float:
    """Seconds per image of the features that the generator trains on."""
    make = feature_maker(config, stream, 0)
    make()  # warm
    began = time.perf_counter()
    features = make(views=1)
    if features.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / len(features)


def measure(
    precision: str, compiled: bool = False
) -> Iterator[tuple[str, list[float]]]:
    """(name, [median, least, most]) of classifier steps and critic updates.

    At paper scale, of tasks 0 and 1. The feature cache is counted in: it is computed
    once a task, and its seconds, for the paper's number of images, views and updates,
    are shared among all critic updates of the task.
    """
    config = experiments.settings(
        "paper", "gfr", precision=precision, compiled=compiled
    )
    stream = limited(config, IMAGES)

    def stretches(task: int, phase: str) -> list[float]:
        return [
            step_seconds(
                config, stream, task, phase, images=IMAGES, steps=STEPS_OF_A_STRETCH
            )
            for _ in range(STRETCHES)
        ]

    each = None
    for task, classes in ((0, 50), (1, 10)):
        yield f"classifier_{task}", summary(stretches(task, "classifier"))
        each = feature_seconds(config, stream) if each is None else each
        critics = config.critic_steps * generator_steps(config, 6, task)
        cache = each * config.feature_views * classes * PAPER_IMAGES / critics
        bare = [s / config.critic_steps for s in stretches(task, "generator")]
        yield f"critic_{task}", summary([seconds + cache for seconds in bare])


def summary(seconds: list[float]) -> list[float]:
    """[median, least, most]"""
    return [statistics.median(seconds), min(seconds), max(seconds)]


def mib() -> float:
    """This process's peak memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    for name, found in measure(sys.argv[1], "compiled" in sys.argv):
        print(json.dumps({name: found}), flush=True)
    print(json.dumps({"mib": [mib()] * 3}), flush=True)
