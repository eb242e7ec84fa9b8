"""How the cost grows with the number of classes, tasks and images, from timed steps.

Seconds of a slim run's training after task 0; one JSON line a figure, as it is known.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator

from benchmarks.ours import limited
from gfrlib import replay
from gfrlib.lab import experiments, plans
from gfrlib.networks import build_network, feature_shape

METHODS = ("lwf", "gfr-gaussian", "gfr")


def seconds(config, stream, images: int) -> float:
    """Training of all later tasks: every stage at the speed measured for its kind."""
    known: dict = {}
    total = 0.0
    for stage in plans.stages(config, stream):
        if stage.steps and stage.task:
            if stage.phase not in known:
                few = limited(config, images)
                known[stage.phase] = plans.seconds_per_step(
                    config, few, stage, images=images
                )
            total += stage.steps * known[stage.phase]
    return total


def main(preset: str = "slim", images: int = 16) -> Iterator[dict]:
    """{what: {value: {method: seconds}}} as each is known, and bytes of each memory.

    Bytes at 10, 100 and 1,000 classes, at paper scale.
    """
    splits = {
        "tasks after 50 classes": {t: dict(base=50, tasks=t) for t in (5, 10, 25)},
        "classes in 5 equal tasks": {
            c: dict(split=[c // 5] * 5) for c in (25, 50, 100)
        },
    }
    for what, values in splits.items():
        for value, split in values.items():
            found = {}
            for method in METHODS:
                config = experiments.settings(preset, method, **split)
                stream = experiments.load_tasks(config)
                found[method] = seconds(config, stream, images)
            yield {what: {value: found}}
    for share in (0.25, 0.5, 1.0):
        found = {}
        for method in METHODS:
            config = experiments.settings(preset, method)
            found[method] = seconds(config, limited(config, int(500 * share)), images)
        yield {"share of the images": {share: found}}
    paper = experiments.settings("paper", "gfr")
    shape = feature_shape(build_network(paper, (3, 32, 32), 0), paper.cut, (3, 32, 32))
    gaussian = dataclasses.replace(paper, memory="gaussian")
    for classes in (10, 100, 1000):
        gan = replay.build_memory(paper, classes, shape, 0)
        gaussians = replay.build_memory(gaussian, classes, shape, 0)
        gaussians.counts += 1
        kept = {
            "gfr": sum(gan.nbytes().values()),
            "gfr-gaussian": sum(gaussians.nbytes().values()),
        }
        yield {"bytes of GAN and Gaussians": {classes: kept}}


if __name__ == "__main__":
    for answer in main(*sys.argv[1:2]):
        print(json.dumps(answer), flush=True)
