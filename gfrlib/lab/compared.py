"""What the memory of a run replays, against real features of held-out images."""

import torch
from torch import Tensor, nn

from gfrlib import quality
from gfrlib.batches import EVALUATION_BATCH, features_of
from gfrlib.config import Config
from gfrlib.engine.phase import Phase
from gfrlib.lab.replayed import rounded
from gfrlib.memory import Memory
from gfrlib.methods import FEATURES
from gfrlib.networks import Network, split
from gfrlib.tasks import Tasks

MOMENTS = 3  # ends of tasks at which the replay is measured, at most
IMAGES = 100  # held-out images of each class, at most, and as many replays
# A sample of these is no draw from a distribution of their own: the mean itself, or a
# feature of a new class.
NO_GENERATOR = {"means", "translated"}


class Compared:
    """Called after every task; `entries` fill up.

    After task t the memory is what task t+1 replays from, so that nothing is measured
    after the last task, in which no GAN is trained. Real are the features of held-out
    images (the test images, or the validation share) under the current F_t: what replay
    should look like by then, so that a memory ages both with F and with the generations
    of its generator. With more tasks some ends are chosen, evenly from the first to the
    last but one (`moments`), and all tasks up to there are measured: a minute of one
    core at CIFAR-100 and width 16. At the first and the last of them real training
    features stand in for a perfect memory, in `reference`: few rows keep even those
    from a distance of 0, and their coverage is 0.97 on average (1 - 2^-k, k = 5, and a
    little more of few rows: Naeem et al. 2020). Its `augmented` are features of the
    same images, shifted and mirrored as in training: what a GAN and a flow learn from,
    so that a perfect one would replay those.
    """

    def __init__(self, config: Config, stream: Tasks):
        self.stream = stream
        last = len(stream.sizes) - 1
        wanted = config.cut == FEATURES and config.memory not in NO_GENERATOR
        self.moments = moments(last) if wanted else []
        self.entries: list[dict] = []

    @torch.no_grad()
    def measure(self, t: int, network: Network, memory: Memory, phase: Phase) -> None:
        """Add an entry after task t, if it is one of the moments."""
        if t not in self.moments or not memory.replays:
            return
        extractor, stream = split(network, FEATURES)[0], self.stream
        index = torch.cat([stream.test_index(k) for k in range(t + 1)])
        index = index[first_of_each(stream.test_labels[index], IMAGES)]
        labels = stream.test_labels[index]
        real = features_of(extractor, stream, stream.test_images, index, phase)
        replayed = self._sampled(memory, labels, phase)
        entry = {"after": t, "of": self._of(t, real, labels, replayed, labels)}
        if stream.classes(t).stop > 1:
            there = quality.crossed(replayed, labels, real, labels)
            back = quality.crossed(real, labels, replayed, labels)
            entry |= {"trained_on_replay": there, "tested_on_replay": back}
        if t in (self.moments[0], self.moments[-1]):
            entry["reference"] = self._reference(t, extractor, real, labels, phase)
        self.entries.append(rounded(entry))

    def _reference(
        self, t: int, extractor: nn.Module, real: Tensor, labels: Tensor, phase: Phase
    ) -> dict:
        """The same of real training features, as many as there are held-out ones."""
        stream, wanted = self.stream, torch.bincount(labels)
        index = torch.cat([stream.train_index(k) for k in range(t + 1)])
        index = index[first_of_each(stream.train_labels[index], wanted)]
        known = stream.train_labels[index]

        def measured(draws: Tensor | None) -> dict:
            images = stream.train_images
            u = features_of(extractor, stream, images, index, phase, draws)
            found = {"of": self._of(t, real, labels, u, known)}
            if len(wanted) > 1:
                found["trained_on_real"] = quality.crossed(u, known, real, labels)
            return found

        draws = stream.draw(len(index), phase.seeded("augmented"))
        return {**measured(None), "augmented": measured(draws)}

    def _of(self, t: int, real, labels, replayed, replayed_labels) -> list[dict]:
        """A row of measures for each task up to t that has enough images."""
        rows = []
        for k in range(t + 1):
            own, other = (self._inside(k, each) for each in (labels, replayed_labels))
            sides = real[own], labels[own], replayed[other], replayed_labels[other]
            found = quality.by_class(*sides)
            if found:
                rows.append({"task": k, **found})
        return rows

    def _inside(self, k: int, labels: Tensor) -> Tensor:
        classes = self.stream.classes(k)
        return (labels >= classes.start) & (labels < classes.stop)

    def _sampled(self, memory: Memory, labels: Tensor, phase: Phase) -> Tensor:
        """One replay for each label: [N, d]."""
        rng = phase.seeded("quality")
        parts = [memory.sample(c, rng) for c in labels.split(EVALUATION_BATCH)]
        return torch.cat(parts).float()


def moments(last: int) -> list[int]:
    """The ends of tasks that are measured, of tasks 0..last: none after the last."""
    count = min(last, MOMENTS)
    if count < 2:
        return [*range(count)]
    return [round(i * (last - 1) / (count - 1)) for i in range(count)]


def first_of_each(labels: Tensor, count: int | Tensor) -> Tensor:
    """Positions of the first `count` labels of each class, in labels that ascend.

    count: one number for all, or one for each class [classes].
    """
    rank = torch.arange(len(labels), device=labels.device)
    rank -= torch.searchsorted(labels, labels)  # within its class
    wanted = count[labels] if isinstance(count, Tensor) else count
    return torch.nonzero(rank < wanted)[:, 0]
