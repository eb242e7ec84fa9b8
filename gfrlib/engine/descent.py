"""Adam down a loss, the same for all rows: optimiser, schedule, steps."""

import math
from collections.abc import Callable

import torch
from torch import nn

from gfrlib.config import Config
from gfrlib.engine import distributed
from gfrlib.engine.phase import Phase


def fit(
    network: nn.Module,
    trained: nn.Module,
    losses_of: Callable,
    epochs: int,
    per_epoch: int,
    rate: float,
    config: Config,
    phase: Phase,
) -> None:
    """Adam down `losses_of(step)` -> (loss, parts), with checkpoints of `network`.

    trained: the part of the network whose gradients processes share.
    """
    together = distributed.together(trained)
    optimizer = adam(network, rate, decay=config.weight_decay)
    total = epochs * per_epoch
    steps = phase.steps(total, every=per_epoch, network=network, optimizer=optimizer)
    for step in steps:
        factor = rate_factor(config.schedule, step, total, per_epoch)
        set_rate(optimizer, rate * factor)
        loss, parts = together(losses_of, step)
        phase.descend(optimizer, loss)
        phase.log(loss=loss, **parts)


def rate_factor(schedule: str, step: int, total: int, per_epoch: int) -> float:
    """The learning rate's factor at one step.

    last-epoch  1, then 0.1 in the last epoch (code, of 201)
    cosine      a linear rise over the first tenth of the steps, then half a cosine down
                to 0 (ours, for few epochs)
    """
    if schedule == "cosine":
        rise = max(1, total // 10)
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / (total - rise)))
    return 0.1 if step >= total - per_epoch and total > per_epoch else 1.0


def adam(
    module: nn.Module,
    rate: float,
    *,
    decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Adam:
    """Adam, as in Section 5; weight decay for networks only (the code's GAN optimisers
    have none).
    """
    return torch.optim.Adam(
        module.parameters(), lr=rate, betas=betas, weight_decay=decay, fused=True
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
