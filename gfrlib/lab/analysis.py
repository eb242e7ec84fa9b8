"""Analyses that need a run's weights, saved beside its record: the book needs none.

Parts: drift (how far features and class means have moved), logits (per class, and old
classes against new ones), recognised (what is right of the replay), samples (a sheet of
generated images); and the costly similarity (layer by layer), projection (t-SNE) and
quality (replay against real features of held-out images, by gfrlib.quality).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gfrlib.batches import features_of, known_features
from gfrlib.conditions import fixed
from gfrlib.config import Config
from gfrlib.engine.machine import Machine
from gfrlib.engine.phase import Phase
from gfrlib.lab.compared import Compared, first_of_each
from gfrlib.lab.layers import Layers
from gfrlib.lab.replayed import POINTS, Replayed, rounded
from gfrlib.memory import Memory
from gfrlib.networks import Network, split
from gfrlib.tasks import Tasks

COSTLY = {"similarity", "projection", "quality"}
PARTS = (
    "drift", "logits", "recognised", "samples", "similarity", "projection", "quality",
)  # fmt: skip
PER_CLASS = 20  # test images of each class that logits are taken of


def looked_at(k: int) -> int:
    """Test images of each class of task k whose features are looked at, at most: for
    drift, and of task 0 as many as its projection shows.
    """
    return PER_CLASS if k else max(PER_CLASS, POINTS)


class Observer:
    """Called after every task of a run; `result()` is the analysis.

    It draws from generators of its own: a run is the same, observed or not, and a part
    is the same, whichever others are computed.
    """

    def __init__(
        self,
        config: Config,
        stream: Tasks,
        parts: Iterable[str] = PARTS,
        machine: Machine | None = None,
    ):
        self.machine = machine or Machine.of(config)
        self.config, self.stream, self.parts = config, stream, set(parts)
        # features of task k's test sample when task k had just been learned
        self.then: dict[int, Tensor] = {}
        self.drift: list[dict] = []
        self.logits: list[dict] = []
        self.layers = Layers(stream)
        self.replayed = Replayed(config, stream)
        self.compared = Compared(config, stream)

    def __call__(self, t: int, network: Network, memory: Memory) -> None:
        """Look at task t's network and memory, and change neither."""
        config, parts = self.config, self.parts
        phase = Phase("analysis", t, config.seed, self.machine)
        network.eval()
        _, classifier = split(network, len(network.stages))
        found = [self._features(network, k, phase) for k in range(t + 1)]
        now, labels = zip(*found)
        self.then[t] = now[t]
        self.drift.append({"after": t, "of": self._moved(now, labels)})
        if config.penalty != "frozen":
            u, y = torch.cat(now), torch.cat(labels)
            alike = first_of_each(y, PER_CLASS)  # each class counts the same
            u, y = u[alike], y[alike]
            about = self._logits(t, network, classifier, u, y)
            self.logits.append({"after": t, **about})
            if "similarity" in parts and config.memory != "real":
                self.layers.compare(t, network, phase)
        if memory.trained and parts & {"recognised", "samples"}:
            self.replayed.judge(t, network, memory, phase)
        replays = memory.replays and config.memory != "translated"
        if "projection" in parts and replays and 0 in self.then:
            upper = nn.Sequential(*network.stages[config.cut :])
            self.replayed.project(t, memory, upper, now[0], labels[0], phase)
        if "quality" in parts:
            self.compared.measure(t, network, memory, phase)

    def result(self) -> dict:
        """{part: what was found}, for the parts asked for."""
        found = {
            "drift": self.drift,
            "logits": self.logits,
            "projection": self.replayed.projection,
            "similarity": self.layers.entries,
            "quality": self.compared.entries,
            "recognised": self.replayed.recognised,
            "samples": self.replayed.about_samples(),
        }
        return {name: value for name, value in found.items() if name in self.parts}

    def sheet(self) -> bytes | None:
        """The PNG of part `samples`; None without image replay."""
        return self.replayed.sheet()

    @torch.no_grad()
    def _features(
        self, network: Network, k: int, phase: Phase
    ) -> tuple[Tensor, Tensor]:
        """u [N, d] and labels [N] of the first test images of each class of task k."""
        stream, index = self.stream, self.stream.test_index(k)
        labels = stream.test_labels[index]
        chosen = first_of_each(labels, looked_at(k))
        if fixed(self.config):
            u = known_features(network, stream, "test", k, phase)
            return u[chosen], labels[chosen]
        extractor = split(network, len(network.stages))[0]
        u = features_of(extractor, stream, stream.test_images, index[chosen], phase)
        return u, labels[chosen]

    def _moved(self, now: tuple[Tensor], labels: tuple[Tensor]) -> list[dict]:
        """How far each task's features and class means are from where they were.

        In units of the features' mean length then.
        """
        rows = []
        for k, then in self.then.items():
            length = torch.linalg.vector_norm(then, dim=1).mean()
            features = torch.linalg.vector_norm(now[k] - then, dim=1).mean()
            before, after = (_class_means(u, labels[k]) for u in (then, now[k]))
            means = torch.linalg.vector_norm(after - before, dim=1).mean()
            moved = {
                "features": rounded(features / length),
                "class_means": rounded(means / length),
            }
            rows.append({"task": k, **moved})
        return rows

    @torch.no_grad()
    def _logits(
        self, t: int, network: Network, classifier: nn.Module, u: Tensor, y: Tensor
    ) -> dict:
        """Per class seen: mean logit on other classes' images, bias, weight's length.

        And the largest logit of old and new classes, on images of both.
        """
        edge = self.stream.classes(t).start
        logits = classifier(u)
        other = torch.ones_like(logits, dtype=torch.bool)
        inside = y < logits.shape[1]
        other[torch.arange(len(y), device=y.device)[inside], y[inside]] = False
        mean = (logits * other).sum(0) / other.sum(0).clamp_min(1)
        blocks = network.head.blocks
        weight = torch.cat([block.weight for block in blocks])
        none = [torch.zeros(len(block.weight), device=u.device) for block in blocks]
        bias = [zero if b.bias is None else b.bias for b, zero in zip(blocks, none)]
        return {
            "old_classes": edge,
            "mean_logit": rounded(mean),
            "bias": rounded(torch.cat(bias)),
            "weight_norm": rounded(torch.linalg.vector_norm(weight, dim=1)),
            "largest_logit": {
                "on_old_images": _largest(logits[y < edge], edge),
                "on_new_images": _largest(logits[y >= edge], edge),
            },
        }


def _class_means(u: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([u[labels == c].mean(0) for c in labels.unique()])


def _largest(logits: Tensor, edge: int) -> dict:
    """Mean largest logit of old and of new classes; {} without images or old ones."""
    if not len(logits) or not edge:
        return {}
    return {
        "old_classes": rounded(logits[:, :edge].amax(1).mean()),
        "new_classes": rounded(logits[:, edge:].amax(1).mean()),
    }
