"""The official implementation (xialeiliu/GFR-IL), run unchanged, with a clock.

A process of its own: `python -m benchmarks.official DIR`. It prints one JSON line a
figure, as soon as it is measured: {name: [median, least, most]} seconds per step, from
one step of an optimiser to the next; of the critic's the mean, three times.

Without a GPU `.cuda()` becomes the identity. What new PyTorch and NumPy no longer offer
is given to it from outside: TensorBoard is replaced by nothing, its own pickles are
trusted when loaded, and its loader picks classes in another way, of each as many images
as fill STEPS batches. The clock sees three optimisers a task: classifier, generator,
discriminator.
"""

import json
import os
import pickle
import runpy
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.ours import mib, summary
from gfrlib.lab import datasets

# in the order in which train_task makes their optimisers
PHASES = ("classifier", "generator", "discriminator")
SHOWN = {"classifier": "classifier", "discriminator": "critic"}
STEPS = 8  # of each phase and task
# of them: not counted. The generator takes one step with every five of the
# discriminator: of the five intervals that count one holds it
WARM = 2
BATCH = 128  # the official default
IMAGES = 120  # of a class, at most


class _Done(Exception):
    """Task 0 and task 1 have been timed."""


def write_cifar100(place: Path) -> None:
    """The first IMAGES training images of every class, as the official loader reads."""
    data = datasets.packed("cifar100")
    labels = np.asarray(data.train_labels)
    rows = np.concatenate([np.flatnonzero(labels == c)[:IMAGES] for c in range(100)])
    folder = place / "cifar" / "cifar-100-python"
    folder.mkdir(parents=True)
    channels_first = np.asarray(data.train_images[rows]).transpose(0, 3, 1, 2)
    flat = channels_first.reshape(len(rows), -1)
    for name, entry in (
        ("train", {"data": flat, "fine_labels": labels[rows].tolist()}),
        ("meta", {"fine_label_names": [str(c) for c in range(100)]}),
    ):
        (folder / name).write_bytes(pickle.dumps(entry))


def stand_ins() -> None:
    """Everything that the official code misses here."""
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


def _time(report: Callable) -> None:
    """The clock: `report(task, phase, times)` when a phase has taken its steps."""
    adam, made = torch.optim.Adam, [0]

    class Timed(adam):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            self.task, self.phase = made[0] // 3, PHASES[made[0] % 3]
            self.times = []
            made[0] += 1

        def step(self, *arguments, **named):
            result = super().step(*arguments, **named)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.times.append(time.perf_counter())
            if len(self.times) == STEPS:
                report(self.task, self.phase, self.times)
            return result

    torch.optim.Adam = Timed


def _of_classes(
    self, data: np.ndarray, targets: np.ndarray, index: list
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of the classes in `index`, as the official method of this name.

    Of each class as many as all need together for STEPS batches and one image more.
    """
    each = STEPS * BATCH // len(index) + 1
    rows = np.concatenate([np.flatnonzero(targets == c)[:each] for c in index])
    return data[rows], targets[rows]


def main(folder: str) -> None:
    """Print the figures of both phases of tasks 0 and 1, and the peak memory in MiB."""
    # its logger closes the first one
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")

    def report(task: int, phase: str, times: list[float]) -> None:
        if phase in SHOWN:
            seconds = np.diff(times[WARM:]).tolist()
            if phase == "discriminator":  # the generator's step is shared by all
                seconds = [float(np.mean(seconds))]
            line = {f"{SHOWN[phase]}_{task}": summary(seconds)}
            print(json.dumps(line), file=out, flush=True)
        if (task, phase) == (1, "discriminator"):
            raise _Done

    with tempfile.TemporaryDirectory() as place:
        write_cifar100(Path(place))
        stand_ins()
        _time(report)
        sys.path.insert(0, folder)
        import CIFAR100

        CIFAR100.CIFAR10.RandomPercentage = _of_classes
        words = f"-data cifar100 -dir {place} -ckpt_dir {place} -log_dir log"
        schedule = "-nb_cl_fg 50 -num_task 5 -epochs 1 -epochs_gan 1 -j 2"
        sys.argv = ["train.py", *words.split(), *schedule.split()]
        try:
            runpy.run_path(str(Path(folder) / "train.py"), run_name="__main__")
        except _Done:
            pass
        finally:
            sys.stdout = out
    print(json.dumps({"mib": [mib()] * 3}), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
