"""How far a recorded run was from its floor: its operations, at full speed here.

    python -m benchmarks.floor RECORD.json

Operations are counted, not estimated: on steps of the real training functions, by
PyTorch's own formulas for matrix products and convolutions (2 for each multiplication
with its addition). Full speed is that of a large matrix product on this machine, in the
record's threads, and in the precision in which the phase computes: the record's, but
float32 for the updates of a generator of feature vectors (generator_training).
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.ours import feature_maker, limited
from gfrlib.config import FEATURES
from gfrlib.engine.machine import Machine
from gfrlib.lab import experiments, plans, records

SIDE = {"cuda": 8192, "cpu": 2048}
TRIALS = 7
IMAGES = 16  # training images of each class in the counted steps


class Operations(TorchDispatchMode):
    """Counts them.

    (PyTorch's FlopCounterMode hooks modules, too, and that forbids the inner gradient
    of the gradient penalty.)
    """

    total = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        found = function(*arguments, **(keywords or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula:
            self.total += formula(*arguments, **(keywords or {}), out_val=found)
        return found


def peak(precision: str, device: torch.device) -> float:
    """Operations a second of the fastest of some products of two square matrices."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
        precision, torch.float32
    )
    a = torch.randn(SIDE[device.type], SIDE[device.type], device=device, dtype=dtype)
    seconds = []
    for _ in range(TRIALS):
        began = time.perf_counter()
        a @ a
        if a.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return 2 * SIDE[device.type] ** 3 / min(seconds)


def in_float32(config, phase: str) -> bool:
    """Whether a phase's steps compute in float32, whatever the config's precision."""
    return phase == "generator" and config.cut == FEATURES


def operations_per_step(config, stream, stage: plans.Stage) -> float:
    """Of one step of the stage's kind, forward and backward.

    Teacher, replay and gradient penalty included.
    """
    with Operations() as counter:
        return plans.seconds_per_step(
            config, stream, stage, steps=2, images=IMAGES, clock=lambda: counter.total
        )


def operations_of_features(config, stream, task: int) -> float:
    """Of one image's features in eval mode, as the generator's cache takes them."""
    make = feature_maker(config, stream, task)
    with Operations() as counter:
        features = make()
    return counter.total / len(features)


def phases(record: records.Record) -> list[dict]:
    """One row per phase, task 0 and the later tasks apart.

    Each has seconds, steps and operations, of which `in float32` whatever the
    precision; phases without steps have none of these.
    """
    config = dataclasses.replace(record.config, compiled=False, device="auto")
    stream = experiments.load_tasks(config)
    few = limited(config, IMAGES)
    rows: dict[tuple, dict] = {}
    for part in record.seconds:
        later = part["task"] > 0
        row = rows.setdefault(
            (part["phase"], later),
            {
                "phase": part["phase"],
                "tasks": "later" if later else "0",
                "seconds": 0.0,
                "steps": 0,
                "operations": 0.0,
                "in float32": 0.0,
            },
        )
        row["seconds"] += part["seconds"]
        row["steps"] += part["steps"]
        if not part["steps"]:
            continue
        if "each" not in row:
            row["each"] = operations_per_step(
                config, stream, plans.Stage("", part["task"], part["phase"], 1)
            )
        row["operations"] += row["each"] * part["steps"]
        if in_float32(config, part["phase"]):
            row["in float32"] += row["each"] * part["steps"]
        if part["phase"] == "generator" and config.cut == FEATURES:
            if "image" not in row:
                row["image"] = operations_of_features(config, few, part["task"])
            row["operations"] += (
                row["image"]
                * config.feature_views
                * len(stream.train_index(part["task"]))
            )
    return list(rows.values())


def main(path: str) -> dict:
    """Rows of `phases` with the floor in seconds, and the speed it stands on."""
    record = records.load(Path(path))
    precision = record.provenance.get("precision", "float32")
    config = dataclasses.replace(record.config, device="auto", precision=precision)
    here = Machine.of(config)
    here.prepare()
    with here.limited():
        rows, speed = phases(record), peak(precision, here.device)
        full = speed if precision == "float32" else peak("float32", here.device)
    for row in rows:
        halved = row["operations"] - row["in float32"]
        row["floor"] = halved / speed + row["in float32"] / full
    return {
        "rows": rows,
        "speed": speed,
        "speed in float32": full,
        "precision": precision,
        "recorded on": record.provenance.get("device", "?"),
        "here": here.chip,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
