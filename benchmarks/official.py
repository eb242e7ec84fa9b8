"""The official implementation (xialeiliu/GFR-IL), run unchanged from a checkout, with a clock at its optimisers' steps.

A process of its own: `python -m benchmarks.official DIR IMAGES`, IMAGES a class, 64 or more (a later task needs some batches).
Without a GPU `.cuda()` becomes the identity. What new PyTorch and NumPy no longer offer is given to it from outside:
TensorBoard is replaced by nothing, its own pickles are trusted when loaded, and its loader picks classes in another way. The
clock sees three optimisers a task: classifier, generator, discriminator.
"""

import json
import os
import pickle
import resource
import runpy
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np
import torch

from gfrlib.lab import datasets

PHASES = (
    "classifier",
    "generator",
    "discriminator",
)  # in the order in which train_task makes their optimisers


class _Done(Exception):
    """Task 0 and task 1 have been timed."""


def write_cifar100(place: Path, images: int) -> None:
    """The first `images` training images of every class, in the format that the official loader reads."""
    data = datasets.packed("cifar100")
    labels = np.asarray(data.train_labels)
    rows = np.concatenate([np.flatnonzero(labels == c)[:images] for c in range(100)])
    folder = place / "cifar" / "cifar-100-python"
    folder.mkdir(parents=True)
    flat = (
        np.asarray(data.train_images[rows]).transpose(0, 3, 1, 2).reshape(len(rows), -1)
    )
    for name, entry in (
        ("train", {"data": flat, "fine_labels": labels[rows].tolist()}),
        ("meta", {"fine_label_names": [str(c) for c in range(100)]}),
    ):
        (folder / name).write_bytes(pickle.dumps(entry))


def _prepare(clock: list) -> None:
    """Everything that the official code misses here, and the clock."""
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self, *_, **__: self
        torch.nn.Module.cuda = lambda self, *_, **__: self
        torch.cuda.FloatTensor = torch.FloatTensor
    board = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = lambda *_, **__: types.SimpleNamespace(
        add_scalar=lambda *_: None, close=lambda: None
    )
    sys.modules["torch.utils.tensorboard"] = board
    load = torch.load
    torch.load = lambda *arguments, **named: load(
        *arguments, **{**named, "weights_only": False}
    )
    adam, made = torch.optim.Adam, [0]

    class Timed(adam):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            self.task, self.phase = made[0] // 3, PHASES[made[0] % 3]
            made[0] += 1
            if self.task > 1:
                raise _Done

        def step(self, *arguments, **named):
            result = super().step(*arguments, **named)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            clock.append((self.task, self.phase, time.perf_counter()))
            return result

    torch.optim.Adam = Timed


def _of_classes(
    self, data: np.ndarray, targets: np.ndarray, index: list
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of the classes in `index`, class after class, as the official method of this name gives them."""
    rows = np.concatenate([np.flatnonzero(targets == c) for c in index])
    return data[rows], targets[rows]


def per_step(clock: list, task: int, phase: str) -> float:
    """Mean seconds from one step of this optimiser to the next, the first two left out (they warm up)."""
    times = [when for at, name, when in clock if (at, name) == (task, phase)][2:]
    return (times[-1] - times[0]) / (len(times) - 1)


def main(folder: str, images: int) -> None:
    """Print one JSON line: seconds per step of both phases of tasks 0 and 1, and the process's peak memory in MiB."""
    clock: list = []
    with tempfile.TemporaryDirectory() as place:
        write_cifar100(Path(place), images)
        _prepare(clock)
        sys.path.insert(0, folder)
        import CIFAR100

        CIFAR100.CIFAR10.RandomPercentage = _of_classes
        sys.argv = [
            "train.py",
            "-data",
            "cifar100",
            "-dir",
            place,
            "-ckpt_dir",
            place,
            "-log_dir",
            "log",
            "-nb_cl_fg",
            "50",
            "-num_task",
            "5",
            "-epochs",
            "1",
            "-epochs_gan",
            "1",
            "-j",
            "2",
        ]
        out = os.fdopen(
            os.dup(sys.stdout.fileno()), "w"
        )  # its logger closes the first one
        try:
            runpy.run_path(str(Path(folder) / "train.py"), run_name="__main__")
        except _Done:
            pass
        finally:
            sys.stdout = out
    found = {
        f"{name}_{task}": per_step(clock, task, phase)
        for task in (0, 1)
        for name, phase in (("classifier", "classifier"), ("critic", "discriminator"))
    }
    print(
        json.dumps(
            {**found, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        ),
        file=out,
        flush=True,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
