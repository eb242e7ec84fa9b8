"""The penalty column: what ties the network of task t to that of task t-1.

A penalty is a function of `past` and a batch of training images; it asks `past` for the
old network's features or logits only if it reads them.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gfrlib import losses
from gfrlib.conditions import weighs_old_tasks
from gfrlib.config import Config, UserError
from gfrlib.engine import distributed
from gfrlib.memory import Memory
from gfrlib.networks import Network, split


def frozen_copy(module: nn.Module | None) -> nn.Module | None:
    """The copy with index t-1: same values, eval mode, no gradients."""
    if module is None:
        return None
    return copy.deepcopy(module).eval().requires_grad_(False)


def old_new_ratio(config: Config, sizes: tuple[int, ...], t: int) -> float:
    """f_t: old classes per new class, the code's `old_task_factor` unrounded.

    5 to 9 over 50 + 5 x 10; 1 with the weighting off.
    """
    return sum(sizes[:t]) / sizes[t] if config.old_task_weighting else 1.0


@dataclass
class Batch:
    """A batch of the classifier's training, as the new network sees it: new images,
    and with them kept ones where the memory is of exemplars (y < past.classes).

    Under bf16 logits, u (but for images, at cut 0) and the features and logits of
    `Past` are bfloat16: sums over them want `.float()`. Under torchrun these are one
    process's rows, and penalties are averaged.
    """

    network: Network
    x: Tensor  # [B, C, H, W]
    u: Tensor  # F_t(x) [B, ...]
    logits: Tensor  # [B, classes seen]; with `full_head` all
    autocast: Callable  # of this phase of training
    y: Tensor | None = None  # labels, as positions in the class order [B]
    rng: torch.Generator | None = (
        None  # seeded for this step: what a penalty draws from
    )


class Past:
    """What Algorithm 1 hands to task t >= 1, frozen: F_{t-1}, H_{t-1}, the memory.

    `importance` is that of the tasks so far, or None. Nothing here is trained.
    """

    def __init__(
        self,
        network: Network,
        memory: Memory,
        importance: "Importance | None",
        config: Config,
        sizes: tuple[int, ...],
        t: int,
    ):
        self.network = frozen_copy(network)
        # what is neither sampled nor trained stays as it is until the task is learned
        copied = memory.replays or memory.trained
        self.memory = frozen_copy(memory) if copied else memory
        self.config, self.new_classes = config, sizes[t]
        self.sizes, self.classes = sizes[:t], sum(sizes[:t])  # of the old tasks
        self.extractor, self.classifier = split(self.network, config.cut)
        if importance is not None:
            self.theta = _flat(self.network.stages.parameters())
            self.omega = _flat(importance.omegas)

    @property
    def f(self) -> float:
        """f_t: old classes per new class, or 1; see `old_new_ratio`.

        Raises UserError in a run that does not say that it reads it.
        """
        if not weighs_old_tasks(self.config):
            raise UserError(
                f"The penalty '{self.config.penalty}' with the memory "
                f"'{self.config.memory}' reads past.f, and no key says so; name the "
                "penalty in WEIGHED, or a memory that replays in REPLAYED "
                "(gfrlib/methods.py)."
            )
        return old_new_ratio(
            self.config, (*self.sizes, self.new_classes), len(self.sizes)
        )

    def features(self, batch: Batch) -> Tensor:
        """F_{t-1}(x) [B, ...]."""
        with torch.no_grad(), batch.autocast():
            return self.extractor(batch.x)

    def logits(self, batch: Batch) -> Tensor:
        """M_{t-1}(x) [B, old classes]; with `full_head` all."""
        with torch.no_grad(), batch.autocast():
            return self.classifier(self.extractor(batch.x))

    def replay(self, count: int, phase) -> tuple[Tensor, Tensor]:
        """What stands for the old classes: u-hat = G_{t-1}(c, z) [B, ...], c [B].

        The labels c are uniform over the old classes. `count` is the whole batch's;
        each process gets its share.
        """
        c = torch.randint(
            0, self.classes, (count,), generator=phase.rng, device=phase.device
        )
        # convolutions alone: a vector's small networks stay in float32
        spatial = self.config.cut < len(self.network.stages)
        with torch.no_grad(), phase.autocast(spatial):
            return distributed.share(self.memory.sample(c, phase.rng), c)


def _flat(parameters) -> Tensor:
    """All parameters in one row [P]."""
    return torch.cat([p.flatten() for p in parameters])


# The column: function(past, batch) -> the weighted penalty, a scalar ---------------


def logits(past: Past, batch: Batch) -> Tensor:
    """Distillation of the old outputs (LwF; iCaRL: one softmax over all old classes).

    Not weighted by f_t: LwF has a term per old head, and iCaRL weighs its one as it is.
    """
    config = past.config
    sizes = past.sizes if config.head == "per-task" else [past.classes]
    return config.penalty_weight * losses.lwf_distillation(
        batch.logits, past.logits(batch), list(sizes), temperature=config.temperature
    )


def features(past: Past, batch: Batch) -> Tensor:
    """Feature distillation, Equation 4, weighted by f_t as in the official code."""
    config = past.config
    moved = losses.feature_distillation(
        batch.u, past.features(batch), distance=config.distance
    )
    total = config.penalty_weight * past.f * moved
    # one L2 norm over the whole batch, whatever the number of processes
    return distributed.root_mean_square(total) if config.distance == "batch" else total


def less_forget(past: Past, batch: Batch) -> Tensor:
    """Rebalance: the cosine distance of features times sqrt(old / new classes)."""
    moved = losses.feature_distillation(
        batch.u, past.features(batch), distance="cosine"
    )
    weight = past.config.penalty_weight * math.sqrt(past.classes / past.new_classes)
    return weight * moved


def fisher(past: Past, batch: Batch) -> Tensor:
    """EWC: half of sum Omega (theta - theta*)^2."""
    return past.config.penalty_weight * (_moved_parameters(past, batch) / 2)


def sensitivity(past: Past, batch: Batch) -> Tensor:
    """MAS: sum Omega (theta - theta*)^2."""
    return past.config.penalty_weight * _moved_parameters(past, batch)


def _moved_parameters(past: Past, batch: Batch) -> Tensor:
    theta = _flat(batch.network.stages.parameters())
    return losses.parameter_penalty(theta, past.theta, past.omega)


# {word: function}; `none` and `frozen` have none: nothing is added to the loss
PENALTIES: dict[str, Callable[[Past, Batch], Tensor]] = {
    "logits": logits,
    "features": features,
    "less-forget": less_forget,
    "fisher": fisher,
    "sensitivity": sensitivity,
}


def penalty_of(config: Config) -> Callable[[Past, Batch], Tensor] | None:
    """The column's function; None where nothing is added to the loss. Raises UserError
    for a word that has none.
    """
    if config.penalty in ("none", "frozen"):
        return None
    if config.penalty not in PENALTIES:
        raise UserError(f"The penalty '{config.penalty}' has no function in PENALTIES.")
    return PENALTIES[config.penalty]


HOLDS_OUTPUTS = {"logits"}  # these tie the old outputs themselves


class Importance(nn.Module):
    """Omega_i >= 0 of every parameter below the heads, summed over the tasks so far.

    EWC's Fisher information or MAS's sensitivity; heads are left out, as in FACIL.
    Stages above the cut count, too, although they belong to H then.
    halved: the mean of the old importance and the new task's takes the sum's place.
    """

    def __init__(self, measure: Callable, network: Network, *, halved: bool = False):
        super().__init__()
        self.measure, self.halved = measure, halved
        zeros = [torch.zeros_like(p) for p in network.stages.parameters()]
        self.omegas = nn.ParameterList(
            [nn.Parameter(zero, requires_grad=False) for zero in zeros]
        )

    def add(
        self,
        network: Network,
        images: Tensor,
        first: int,
        *,
        batch: int,
        rng: torch.Generator,
        prepare: Callable = lambda images: images,
    ) -> None:
        """Add the importance for `images` [N, ...], `batch` at a time (1: each).

        `first` is where the outputs begin that compete for this task. `prepare` makes
        what enters the network, [B, C, H, W], of a batch. The mean over images (or
        batches) is added. The network stays in eval mode.
        """
        network.eval()
        parameters = list(network.stages.parameters())
        chunks = images.split(batch)
        if self.halved:
            for omega in self.omegas:
                omega /= 2
        for x in chunks:
            value, size_of = self.measure(network(prepare(x)), first, rng)
            gradients = torch.autograd.grad(value, parameters)
            # the mean over images, halved; FACIL leaves a short last batch out
            count = 2 * len(images) / len(x) if self.halved else len(chunks)
            for omega, gradient in zip(self.omegas, gradients):
                omega += size_of(gradient) / count


def fisher_information(logits: Tensor, first: int, rng: torch.Generator):
    """The squared gradient of log p(y|x), y drawn from the model's own p.

    Image by image it is the diagonal of the Fisher information, not its empirical
    stand-in; of the mean gradient of a batch of B it is about 1/B of that.
    """
    own = logits[:, first:]
    y = own.detach().softmax(dim=1).multinomial(1, generator=rng).squeeze(1)
    return losses.classification(own, y), torch.square


def output_sensitivity(logits: Tensor, first: int, rng: torch.Generator):
    """The absolute gradient of ||f(x)||^2, f the logits (MAS)."""
    return logits.square().sum(dim=1).mean(), torch.abs


def facil_fisher(logits: Tensor, first: int, rng: torch.Generator):
    """FACIL's code: one softmax over all heads, and y the likeliest class."""
    return losses.classification(logits, logits.argmax(dim=1)), torch.square


def facil_sensitivity(logits: Tensor, first: int, rng: torch.Generator):
    """FACIL's code: the norm of the logits without the square."""
    return torch.linalg.vector_norm(logits, dim=1).mean(), torch.abs


# {penalty: what its importances measure}
IMPORTANCES = {"fisher": fisher_information, "sensitivity": output_sensitivity}
FACIL = {"fisher": facil_fisher, "sensitivity": facil_sensitivity}


def build_importance(config: Config, network: Network) -> Importance | None:
    """Omega = 0 for the penalties that read it, else None."""
    if config.penalty not in IMPORTANCES:
        return None
    if config.importance == "facil":
        return Importance(FACIL[config.penalty], network, halved=True)
    return Importance(IMPORTANCES[config.penalty], network)
