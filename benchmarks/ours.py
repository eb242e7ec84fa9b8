"""The same steps by gfrlib, on the same images: seconds per step of each phase. Also run as a process of its own."""

import dataclasses
import json
import resource
import sys
import time

import torch

from gfrlib import training
from gfrlib.lab import experiments, plans

STEPS = 12


def limited(config, images: int):
    """The config's task stream with the first `images` training images of each class."""
    stream = experiments.load_tasks(config)
    rows = torch.cat(
        [
            torch.nonzero(stream.train_labels == c)[:images, 0]
            for c in range(stream.num_classes)
        ]
    )
    return dataclasses.replace(
        stream,
        train_images=stream.train_images[rows],
        train_labels=stream.train_labels[rows],
    )


def step_seconds(
    config, stream, task: int, phase: str, *, images: int, steps: int = STEPS
) -> float:
    """Seconds per step of a phase; a generator's step has `critic_steps` critic updates in it."""
    stage = plans.Stage("", task, phase, steps)
    return plans.seconds_per_step(config, stream, stage, steps=steps, images=images)


def feature_seconds(config, stream) -> float:
    """Seconds per image to compute the features that the generator trains on, in eval mode."""
    chain = training.Chain(config, stream)
    network, *_ = training.build(config, stream, chain.machine.device)
    phase = chain.new_phase("generator", 0)
    few = dataclasses.replace(config, threads=0)
    training.real_features(network, stream, 0, few, phase)  # warm
    began = time.perf_counter()
    features, _ = training.real_features(network, stream, 0, few, phase, views=1)
    if features.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / len(features)


def measure(images: int, precision: str, compiled: bool = False) -> dict:
    """Seconds per classifier step and per critic update of tasks 0 and 1 at paper scale, the feature cache counted in.

    The cache is computed once a task: its seconds, for the paper's number of images, views and updates, are shared among all
    critic updates of the task.
    """
    config = experiments.settings(
        "paper", "gfr", precision=precision, compiled=compiled
    )
    stream = limited(config, images)
    each = feature_seconds(config, stream)
    found = {"feature": each}
    for task, count in ((0, 50), (1, 10)):
        found[f"classifier_{task}"] = step_seconds(
            config, stream, task, "classifier", images=images
        )
        critics = config.critic_steps * training.generator_steps(config, 6, task)
        bare = (
            step_seconds(config, stream, task, "generator", images=images)
            / config.critic_steps
        )
        found[f"critic_bare_{task}"] = bare
        found[f"critic_{task}"] = (
            bare + each * config.feature_views * count * 500 / critics
        )
    return found


if __name__ == "__main__":
    result = measure(int(sys.argv[1]), sys.argv[2], "compiled" in sys.argv)
    print(
        json.dumps(
            {**result, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        )
    )
