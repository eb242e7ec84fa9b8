"""Seconds per step after task 0, of this tree and another checkout of the book.

    python -m benchmarks.steps --against DIR [--methods NAME ...] [--rounds N]
        [--steps N] [--out FILE]

Each tree has a process of its own with one thread, on the CPU; both read this tree's
data. They are asked in turn, in another order every round (this, that; that, this), so
that what else the machine does falls on both. A round's ratio is that of two stretches
one after the other; the median is printed, and the smallest and largest beside it. DIR
may be a tree with all modules side by side in gfrlib, or one with rooms.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from gfrlib.config import METHODS as METHOD_NAMES
from gfrlib.config import PRESETS

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("finetune", "ewc", "mas", "mergan", "block-2")
TASK = 1  # the first with an old network

# Run in each tree. A line in: method, steps; a line out: seconds per step.
CHILD = """
import json, sys
import torch
try:
    from gfrlib.lab import experiments, plans
except ImportError:  # the first house: all modules side by side
    from gfrlib import experiments, grids as plans
from gfrlib.config import make_config

torch.set_num_threads(1)
plans.PROBE_SECONDS = float("inf")  # all steps count, however long they take
print("ready", flush=True)
for line in sys.stdin:
    method, preset, task, steps = json.loads(line)
    config = make_config(preset, method, device="cpu", threads=1)
    stream = experiments.load_tasks(config)
    stage = plans.Stage("", task, "classifier", steps)
    seconds = plans.seconds_per_step(config, stream, stage, steps=steps)
    print(json.dumps(seconds), flush=True)
"""


class Tree:
    """A process that times steps of the library in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        environment = {
            **os.environ,
            "PYTHONPATH": str(folder),
            "GFR_HOME": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def seconds(self, method: str, preset: str, steps: int) -> float:
        """Per step, of one stretch of steps."""
        self.process.stdin.write(json.dumps([method, preset, TASK, steps]) + "\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"The process of {self.folder} stopped; see above.")
        return answer

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compared(here: Tree, there: Tree, method: str, options) -> dict:
    """Medians of both and the ratios of all rounds, there to here."""
    now, before = [], []
    for tree in (here, there):
        tree.seconds(method, options.preset, 2)  # warm
    for number in range(options.rounds):
        order = [(here, now), (there, before)]
        for tree, times in order if number % 2 else order[::-1]:
            times.append(tree.seconds(method, options.preset, options.steps))
    return {
        "here": statistics.median(now),
        "there": statistics.median(before),
        "ratios": [b / n for b, n in zip(before, now, strict=True)],
    }


def main() -> int:
    """One line a method, as it is done."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steps", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--against", metavar="DIR", required=True, type=Path)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--preset", default="slim")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=12, help="of a stretch (12)")
    parser.add_argument("--out", metavar="FILE", type=Path)
    options = parser.parse_args()
    if not (options.against / "gfrlib" / "config.py").is_file():
        print(
            f"There is no gfrlib in '{options.against}'; name the folder of a checkout "
            "of this book.",
            file=sys.stderr,
        )
        return 2
    unknown = [name for name in options.methods if name not in METHOD_NAMES]
    if (
        unknown
        or options.preset not in PRESETS
        or min(options.rounds, options.steps) < 1
    ):
        print(
            f"--methods takes names of `python -m gfrlib methods`, --preset one of "
            f"{', '.join(PRESETS)}, --rounds and --steps numbers from 1.",
            file=sys.stderr,
        )
        return 2
    here, there = Tree(ROOT), Tree(options.against.resolve())
    print(
        f"Milliseconds per classifier step of task {TASK}, {options.preset}, one "
        f"thread, medians of {options.rounds} rounds of {options.steps} steps"
    )
    print(f"{'':<14}{'here':>9}{'there':>9}{'there/here':>12}   smallest - largest")
    found = {}
    for method in options.methods:
        found[method] = row = compared(here, there, method, options)
        ratios = row["ratios"]
        print(
            f"{method:<14}{1000 * row['here']:>9.1f}{1000 * row['there']:>9.1f}"
            f"{statistics.median(ratios):>12.2f}   {min(ratios):.2f} - "
            f"{max(ratios):.2f}",
            flush=True,
        )
    here.close()
    there.close()
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
