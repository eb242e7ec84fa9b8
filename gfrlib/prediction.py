"""The prediction column: how a class is chosen from features, logits and the memory.

No rule needs training of its own: every rule that applies is evaluated for each run.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gfrlib.batches import at_once, known_features
from gfrlib.conditions import fixed
from gfrlib.config import Config
from gfrlib.engine.phase import Phase
from gfrlib.memory import Memory
from gfrlib.networks import Network, split
from gfrlib.tasks import Tasks


@dataclass
class Seen:
    """A batch of images as a rule sees it, after task t."""

    u: Tensor  # features [B, d]
    logits: Tensor  # [B, outputs]
    labels: Tensor | None  # [B]; only `task-aware` reads them
    classes: int  # seen so far
    sizes: list[int]  # outputs of each block of the head
    tasks: Tensor | None  # the task of every class, for the same rule
    memory: Memory
    exemplar_means: Tensor | None  # [classes, d], where exemplars are kept


def _per_head(seen: Seen) -> list[Tensor]:
    heads = seen.logits.split(seen.sizes, dim=1)
    return [head.softmax(dim=1) for head in heads]


def softmax(seen: Seen) -> Tensor:
    """Arg-max over all outputs of a single head."""
    return seen.logits


def max_prob(seen: Seen) -> Tensor:
    """Largest probability over heads, one softmax each: the paper's rule.

    A head of a single class is always sure of it, and takes every image of which no
    earlier head is as sure, to rounding. FACIL's --multi-softmax is the same, since the
    logarithm keeps the order.
    """
    return torch.cat(_per_head(seen), dim=1)


def concat_logits(seen: Seen) -> Tensor:
    """Largest logit over heads (FACIL's default)."""
    return seen.logits


def over_chance(seen: Seen) -> Tensor:
    """Largest probability relative to its head's chance, 1 / classes.

    Ours, for heads of unequal size.
    """
    return torch.cat([head * head.shape[1] for head in _per_head(seen)], dim=1)


def nearest_mean(seen: Seen) -> Tensor:
    """Nearest stored class mean; features and means L2-normalised (as iCaRL does)."""
    means = functional.normalize(seen.memory.means[: seen.classes], dim=1)
    return functional.normalize(seen.u, dim=1) @ means.T


def nearest_exemplar_mean(seen: Seen) -> Tensor:
    """iCaRL's: the means are those of the exemplars' features under this network."""
    return functional.normalize(seen.u, dim=1) @ seen.exemplar_means.T


def mahalanobis(seen: Seen) -> Tensor:
    """Smallest Mahalanobis distance (FeCAM)."""
    return -seen.memory.distances(seen.u, seen.classes)


def task_aware(seen: Seen) -> Tensor:
    """Arg-max within the image's own task: what a task label would give."""
    tasks = seen.tasks[: seen.logits.shape[1]]
    own = tasks[None] == seen.tasks[seen.labels][:, None]
    return seen.logits.masked_fill(~own, -torch.inf)


# The column: {word: function(seen) -> scores [B, outputs], the classes seen or all}
PREDICTIONS: dict[str, Callable[[Seen], Tensor]] = {
    "max-prob": max_prob,
    "concat-logits": concat_logits,
    "over-chance": over_chance,
    "softmax": softmax,
    "nearest-mean": nearest_mean,
    "nearest-exemplar-mean": nearest_exemplar_mean,
    "mahalanobis": mahalanobis,
    "task-aware": task_aware,
}


# These need the logits alone, and nothing of the memory.
OF_LOGITS = ("max-prob", "concat-logits", "over-chance", "softmax", "task-aware")


def choose(rule: str, seen: Seen) -> tuple[Tensor, Tensor]:
    """The chosen classes [B], and the rule's scores [B, outputs]: a chosen class has
    the largest.
    """
    scores = PREDICTIONS[rule](seen)
    return scores.argmax(dim=1), scores


def shares(rule: str, scores: Tensor) -> Tensor | None:
    """The probability of every class [B, outputs], where the rule's scores give one:
    under `max-prob`, within the head of its own task. None for all other rules.
    """
    if rule == "softmax":
        return scores.softmax(dim=1)
    return scores if rule == "max-prob" else None


def rules_of(config: Config, memory: Memory, t: int) -> list[str]:
    """The rules that apply after task t."""
    idle = config.penalty == "frozen" and config.prediction != "softmax"
    if idle and t > 0:
        return [config.prediction]  # its head was never trained for later classes
    found = ["softmax"]
    if config.head == "per-task":
        found = ["max-prob", "concat-logits", "over-chance"]
    if memory.keeps_means:
        found.append("nearest-mean")
    if memory.rows is not None:
        found.append("nearest-exemplar-mean")
    if config.memory == "covariances":
        found.append("mahalanobis")
    if not idle:
        found.append("task-aware")
    # a rule of a reader's own
    return found if config.prediction in found else [*found, config.prediction]


@torch.no_grad()
def predict(
    network: Network, memory: Memory, tasks: Tasks, t: int, config: Config, phase: Phase
) -> dict[str, np.ndarray]:
    """{rule: chosen classes of the test images of tasks 0..t}, for rules that apply."""
    network.eval()
    _, classifier = split(network, len(network.stages))
    classes, device = sum(tasks.sizes[: t + 1]), tasks.test_labels.device
    count = int((tasks.test_labels < classes).sum())
    sizes = torch.tensor(tasks.sizes)
    task_of = torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(device)
    means = None
    if memory.rows is not None:
        means = nearest_exemplar_means(network, memory, tasks, classes, phase)
    chosen: dict[str, list] = {rule: [] for rule in rules_of(config, memory, t)}
    known = None
    if fixed(config):
        every = (known_features(network, tasks, "test", k, phase) for k in range(t + 1))
        known = torch.cat(list(every))
    for rows in torch.arange(count, device=device).split(at_once(tasks)):
        labels = tasks.test_labels[rows]
        if known is not None:
            u = known[rows]
        else:
            u = features(network, tasks.test_images[rows], tasks, phase)
        seen = Seen(
            u,
            classifier(u),
            labels,
            classes,
            network.head.sizes,
            task_of,
            memory,
            means,
        )
        for rule, found in chosen.items():
            found.append(choose(rule, seen)[0])
    return {
        rule: torch.cat(found).cpu().numpy().astype(np.int64)
        for rule, found in chosen.items()
    }


@torch.no_grad()
def features(network: Network, images: Tensor, tasks: Tasks, phase: Phase) -> Tensor:
    """u [B, d] of images, uint8 [B, H, W, C], in float32."""
    extractor, _ = split(network, len(network.stages))
    with phase.autocast():
        return extractor(tasks.normalise(images)).float()


@torch.no_grad()
def nearest_exemplar_means(
    network: Network, memory: Memory, tasks: Tasks, seen: int, phase: Phase
) -> Tensor:
    """[seen, d]: per class the mean of its exemplars' L2-normalised features,
    normalised again (LUCIR's code for iCaRL-NME).

    Each image counts with its mirror image, where the augmentation mirrors.
    """
    labels = tasks.train_labels[memory.rows]
    total = torch.zeros(seen, network.features, device=labels.device)
    extractor, _ = split(network, len(network.stages))
    batches = memory.rows.split(at_once(tasks)), labels.split(at_once(tasks))
    for rows, y in zip(*batches):
        images = tasks.train_images[rows]
        for view in (images, images.flip(2)) if tasks.mirror else (images,):
            with phase.autocast():
                u = extractor(tasks.normalise(view)).float()
                total.index_add_(0, y, functional.normalize(u, dim=1))
    return functional.normalize(total, dim=1)
