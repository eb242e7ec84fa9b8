"""The penalty column: what ties the network of task t to that of task t-1."""

import copy
import math

import torch
from torch import Tensor, nn

from gfrlib import losses
from gfrlib.config import Config
from gfrlib.networks import Network


def frozen_copy(module: nn.Module | None) -> nn.Module | None:
    """The copy with index t-1 that Algorithm 1 hands to the next task: same values, eval mode, no gradients."""
    return (
        None if module is None else copy.deepcopy(module).eval().requires_grad_(False)
    )


def old_new_ratio(config: Config, sizes: tuple[int, ...], t: int) -> float:
    """f_t: old classes per new class, the code's `old_task_factor` (5 to 9 over 50 + 5 x 10); 1 with the weighting off."""
    return sum(sizes[:t]) / sizes[t] if config.old_task_weighting else 1.0


class Importance(nn.Module):
    """Omega_i >= 0 of every parameter of F, summed over the tasks so far: EWC's Fisher information or MAS's sensitivity.

    Empty for the other penalties. The heads are left out, as in FACIL.
    """

    def __init__(self, config: Config, network: Network):
        super().__init__()
        self.kind = (
            config.penalty if config.penalty in ("fisher", "sensitivity") else None
        )
        self.omegas = nn.ParameterList(
            [
                nn.Parameter(torch.zeros_like(p), requires_grad=False)
                for p in network.stages.parameters()
            ]
            if self.kind
            else []
        )

    def add(
        self,
        network: Network,
        images: Tensor,
        first: int,
        *,
        batch: int,
        rng: torch.Generator,
    ) -> None:
        """Add the importance of every parameter for `images` [N, C, H, W], N at a time `batch` (1 = per sample).

        fisher       the squared gradient of log p(y|x), y drawn from the model's own p (so it is the Fisher information,
                     not its empirical stand-in); `first` is where the outputs begin that compete for this task
        sensitivity  the absolute gradient of ||f(x)||^2, f the logits (MAS; FACIL takes the norm without the square)
        The mean over images (or batches) is added. The network stays in eval mode.
        """
        network.eval()
        parameters = list(network.stages.parameters())
        chunks = images.split(batch)
        for x in chunks:
            logits = network(x)
            if self.kind == "fisher":
                y = (
                    logits[:, first:]
                    .detach()
                    .softmax(dim=1)
                    .multinomial(1, generator=rng)
                    .squeeze(1)
                )
                value = losses.classification(logits[:, first:], y)
            else:
                value = logits.square().sum(dim=1).mean()
            for omega, g in zip(self.omegas, torch.autograd.grad(value, parameters)):
                omega += (g.square() if self.kind == "fisher" else g.abs()) / len(
                    chunks
                )

    def penalty(self, network: Network, old_network: Network) -> Tensor:
        """EWC: half of sum Omega (theta - theta*)^2; MAS: all of it. theta* are the parameters after the last task."""
        total = losses.parameter_penalty(
            list(network.stages.parameters()),
            list(old_network.stages.parameters()),
            list(self.omegas),
        )
        return total / 2 if self.kind == "fisher" else total


def penalty(
    config: Config,
    *,
    u: Tensor,
    u_old: Tensor,
    logits: Tensor,
    logits_old: Tensor,
    old_sizes: list[int],
    f: float,
) -> Tensor:
    """The weighted penalty of one batch of new images, of the three kinds that need images: a scalar.

    u, u_old [B, ...] = F_t(x), F_{t-1}(x); logits [B, seen classes], logits_old [B, old classes]. Feature distillation
    is weighted by f_t as in the official code; the distillation of outputs is not (it has a term per old head, or one
    for a single head: iCaRL); Rebalance's less-forget loss by sqrt(old / new classes), whatever f is.
    """
    old, new = sum(old_sizes), logits.shape[1] - sum(old_sizes)
    if config.penalty == "features":
        return (
            config.penalty_weight
            * f
            * losses.feature_distillation(u, u_old, distance=config.distance)
        )
    if config.penalty == "less-forget":
        return (
            config.penalty_weight
            * math.sqrt(old / new)
            * losses.feature_distillation(u, u_old, distance="cosine")
        )
    return config.penalty_weight * losses.lwf_distillation(
        logits,
        logits_old,
        old_sizes if config.head == "per-task" else [old],
        temperature=config.temperature,
    )
