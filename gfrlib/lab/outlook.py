"""How long runs will take here, told before: measured on a few images, then counted.

Steps of training are those of `plans`. To them come the images that are only looked
at: for features, after every task for its accuracy, and for the analysis.
"""

import functools
import time
from collections.abc import Callable, Iterable

import torch

from gfrlib import training
from gfrlib.batches import at_once
from gfrlib.conditions import fixed, generated, important, trains_later
from gfrlib.config import Config
from gfrlib.engine import store
from gfrlib.engine.machine import Machine
from gfrlib.engine.values import counted
from gfrlib.lab import analysis, plans
from gfrlib.lab.runs import load_tasks
from gfrlib.methods import FEATURES
from gfrlib.tasks import Tasks

LARGE = 64  # pixels: above it a step is as long as its images, and a few images do
FEW = dict(steps=2, images=4)  # that plans.seconds_per_step times of these
LONG = 10.0  # seconds that are told before
LOOKED = 64  # images that the extractor is timed on


def images_looked_at(config: Config, stream: Tasks) -> int:
    """Images that F reads outside of the steps of training, each time counted.

    An importance (EWC, MAS) counts an image three times: its gradient takes as long as
    two more.
    A pretrained F that is frozen reads every image once (batches.known_features).
    """
    chain = training.Chain(config, stream, store.Store())
    train = [len(stream.train_index(t)) for t in range(len(stream.sizes))]
    test = [len(stream.test_index(t)) for t in range(len(stream.sizes))]
    viewed = config.feature_views * sum(train[: chain.last])
    viewed *= generated(config) and config.cut == FEATURES
    if fixed(config):
        return sum(train) + sum(test) + viewed
    analysed = [n * analysis.looked_at(k) for k, n in enumerate(stream.sizes)]
    total = viewed
    if config.memory == "flow":
        total += train[0]  # its moments
    learns = trains_later(config)  # a head, on features that are computed once
    for t in chain.numbers:
        total += sum(test[: t + 1])
        total += sum(map(min, test[: t + 1], analysed))
        if config.memory not in ("none", "real") and not generated(config):
            total += train[t]
        later = t > chain.numbers.start
        total += 3 * train[t] * important(config)
        total += train[t] * later * (config.head == "cosine")  # for its first weights
        views = 1 + stream.mirror  # of exemplars, for their means
        total += views * plans.exemplars_kept(config, stream, t)
        total += train[t] * later * (config.penalty == "frozen" and learns)
        total += 2 * train[t] * later * (config.drift != "none")
    return total


@torch.no_grad()
def seconds_per_image(
    config: Config, stream: Tasks, *, clock: Callable = time.perf_counter
) -> float:
    """Of F reading an image, measured here and now on a batch of some."""
    here = Machine.of(config)
    here.prepare()
    with here.limited():
        chain = training.Chain(config, stream, machine=here)
        network, _, _ = training.build(config, stream, here.device)
        phase = chain.new_phase("test", 0)
        network.eval()
        rows = torch.arange(min(LOOKED, len(stream.train_labels), at_once(stream)))
        images = stream.train_images[rows.to(stream.train_labels.device)]
        # libraries set themselves up in the first pass, for this very shape (cuDNN
        # tries its kernels)
        for _ in range(2):
            began = clock()
            with phase.autocast():
                u = stream.normalise(images)
                for stage in network.stages:
                    u = stage(u)
            u.float().sum().item()  # a GPU is waited for
    return (clock() - began) / len(images)


def seconds(
    configs: list[Config],
    *,
    speed: Callable | None = None,
    look: Callable = seconds_per_image,
    analyse: Iterable[str] = (),
) -> float:
    """How long these runs take in one process, one after the other.

    Those that are recorded take none, but where a part of the analysis is lacking that
    `analyse` names; the steps of stages in the cache or of an earlier run cost nothing
    (images that are looked at count in full: the most that they can cost). `speed` and
    `look` measure a step and an image.
    """
    total, per_image, read = 0.0, {}, set()
    large = any(max(load_tasks(c).shape[1:]) > LARGE for c in configs)
    few = functools.partial(plans.seconds_per_step, **(FEW if large else {}))
    planned = plans.plan(configs, speed or few, analyse=analyse)
    for config, row in zip(configs, planned):
        if row["recorded"]:
            continue
        total += row["seconds"]
        stream = load_tasks(config)
        kind = (config.network, config.width, config.bottleneck, config.weights)
        kind += (stream.shape, config.precision, config.threads)
        if kind not in per_image:
            per_image[kind] = look(config, stream)
        if fixed(config):
            once = (kind, stream.name, stream.content, stream.sizes, config.validation)
            if once in read:
                continue
            read.add(once)
        total += per_image[kind] * images_looked_at(config, stream)
    return total


def in_words(number: float) -> str:
    """'about 40 seconds', 'about 3 minutes', 'about 5 hours'."""
    if number < 90:
        return f"about {counted(max(1, round(number)), 'second')}"
    if number < 5400:
        return f"about {counted(round(number / 60), 'minute')}"
    return f"about {counted(round(number / 3600), 'hour')}"


def sentence(configs: list[Config], *, analyse: Iterable[str] = ()) -> str:
    """How long these runs take; it measures where one is not recorded, or lacks a part
    of its analysis that `analyse` names.
    """
    return _sentence(len(configs), seconds(configs, analyse=analyse))


def tell(configs: list[Config], notice: Callable[[str], None]) -> None:
    """The sentence to `notice`, where it is worth one."""
    left = seconds(configs)
    if left > LONG:
        notice(_sentence(len(configs), left))


def _sentence(count: int, left: float) -> str:
    runs = "The run" if count == 1 else f"The {count} runs"
    if not left:
        verb = "is" if count == 1 else "are"
        return f"{runs} {verb} recorded already: there is nothing to train."
    verb = "takes" if count == 1 else "take"
    return f"{runs} {verb} {in_words(left)} here, at the speed measured just now."
