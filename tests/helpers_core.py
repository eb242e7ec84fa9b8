"""Shared by the core's tests.

A folder of one's own for records and stages, and runs that last a second.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from gfrlib import training
from gfrlib.config import make_config
from gfrlib.lab.datasets import Packed
from gfrlib.lab.experiments import load_tasks

# As the presets have it; and threads that wait for a busy core only burn time.
torch.set_num_threads(1)
threadpool_limits(1, "blas")
ROOT = Path(__file__).resolve().parents[1]
TINY = dict(
    epochs_base=2,
    epochs_task=1,
    generator_steps_base=8,
    generator_steps_later=8,
    width=8,
    generator_hidden=32,
    latent_dim=8,
    feature_views=2,
    device="cpu",
)
# three tasks, five phases, a few steps each: what most tests of training need
SMALL = dict(
    split=(3, 2, 2), epochs_base=1, generator_steps_base=6, generator_steps_later=5
)


def tiny(method: str = "gfr", **changes):
    """A quick configuration that trains in about a second on the digits."""
    return make_config("quick", method, **{**TINY, **changes})


def flags(config_changes: dict) -> list[str]:
    """The same changes as command-line words."""
    return [
        word
        for name, value in config_changes.items()
        for word in (f"--{name}", str(value))
    ]


def train(config, store=None, **kwargs) -> training.Outcome:
    """training.run with one thread, as every preset of a small machine has it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return training.run(config, load_tasks(config), store=store, **kwargs)
    finally:
        torch.set_num_threads(before)


def same_predictions(a: list, b: list) -> bool:
    """Whether two lists of {rule: predictions} (or None) are equal."""
    if len(a) != len(b):
        return False
    for x, y in zip(a, b):
        if (x is None) != (y is None):
            return False
        if x is not None and (
            x.keys() != y.keys()
            or not all(np.array_equal(x[rule], y[rule]) for rule in x)
        ):
            return False
    return True


def environment(home: Path) -> dict:
    """The environment of a command run in a folder of its own.

    `home` holds its records and stages.
    """
    return {
        **os.environ,
        "GFR_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }


def gfrlib(*words, home: Path, timeout: float = 120) -> subprocess.CompletedProcess:
    """`python -m gfrlib WORDS`, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "gfrlib", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(home),
        timeout=timeout,
        cwd=home,
    )


def generated(
    classes: int = 4,
    per_class: int = 24,
    size: int = 16,
    seed: int = 0,
    name: str = "generated",
) -> Packed:
    """Colour images that can be told apart.

    A mean colour and a stripe direction for every class, and noise.
    """
    rng = np.random.default_rng(seed)
    base = rng.integers(40, 216, (classes, 1, 1, 3))
    grid = np.add.outer(np.arange(size), np.zeros(size, dtype=int))
    parts = {}
    for part, count in (("train", per_class), ("test", per_class // 2)):
        images, labels = [], []
        for c in range(classes):
            stripes = (
                40 * (((grid if c % 2 else grid.T) // (1 + c // 2)) % 2)[..., None]
            )
            noise = rng.normal(0, 25, (count, size, size, 3))
            images.append(np.clip(base[c] + stripes + noise, 0, 255).astype(np.uint8))
            labels.append(np.full(count, c, dtype=np.int64))
        parts[f"{part}_images"], parts[f"{part}_labels"] = (
            np.concatenate(images),
            np.concatenate(labels),
        )
    return Packed(name, **parts, class_names=[f"class {c}" for c in range(classes)])


@contextlib.contextmanager
def another_user():
    """Inside, this process is another user's, who owns nothing; only root may."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
