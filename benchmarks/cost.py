"""How the cost grows: seconds of a whole slim run's training with the number of classes, tasks and images, from timed steps."""

import dataclasses
import json
import sys

from benchmarks.ours import limited
from gfrlib import replay
from gfrlib.lab import experiments, plans
from gfrlib.networks import build_network, feature_shape

METHODS = ("lwf", "gfr-gaussian", "gfr")


def seconds(config, stream, images: int) -> float:
    """Training of all later tasks: steps of every stage, each at the speed measured for its kind."""
    known: dict = {}
    total = 0.0
    for stage in plans.stages(config, stream):
        if stage.steps and stage.task:
            if stage.phase not in known:
                known[stage.phase] = plans.seconds_per_step(
                    config, limited(config, images), stage, images=images
                )
            total += stage.steps * known[stage.phase]
    return total


def main(preset: str = "slim", images: int = 16) -> dict:
    """{what: {value: {method: seconds}}}, and bytes of each memory at 10, 100 and 1,000 classes (paper preset)."""
    splits = {
        "tasks after 50 classes": {t: dict(base=50, tasks=t) for t in (5, 10, 25)},
        "classes in 5 equal tasks": {
            c: dict(split=[c // 5] * 5) for c in (25, 50, 100)
        },
    }
    found = {what: {value: {} for value in values} for what, values in splits.items()}
    found["share of the images"] = {share: {} for share in (0.25, 0.5, 1.0)}
    for method in METHODS:
        for what, values in splits.items():
            for value, split in values.items():
                config = experiments.settings(preset, method, **split)
                found[what][value][method] = seconds(
                    config, experiments.load_tasks(config), images
                )
        config = experiments.settings(preset, method)
        for share in found["share of the images"]:
            stream = limited(config, int(500 * share))
            found["share of the images"][share][method] = seconds(
                config, stream, images
            )
    paper = experiments.settings("paper", "gfr")
    shape = feature_shape(build_network(paper, (3, 32, 32), 0), paper.cut, (3, 32, 32))
    found["bytes of GAN and Gaussians"] = {}
    for classes in (10, 100, 1000):
        gan = replay.build_memory(paper, classes, shape, 0)
        gaussians = replay.build_memory(
            dataclasses.replace(paper, memory="gaussian"), classes, shape, 0
        )
        gaussians.counts += 1
        found["bytes of GAN and Gaussians"][classes] = {
            "gfr": sum(gan.nbytes().values()),
            "gfr-gaussian": sum(gaussians.nbytes().values()),
        }
    return found


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:2])))
