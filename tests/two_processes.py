"""What tests/test_distributed.py asks of two processes, started by torchrun; process 0
prints one JSON line.
"""

import copy
import json

import torch
from helpers_core import load_tasks, tiny
from torch import nn
from torch.nn import functional

from gfrlib import losses, training
from gfrlib.engine import distributed
from gfrlib.heads import CosineHead
from gfrlib.networks import Discriminator, build_network

BATCH = 128


def gradient(module: nn.Module) -> torch.Tensor:
    """All gradients in one vector; parameters without one count 0."""
    return torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
            for p in module.parameters()
        ]
    )


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((a - b).abs().max() / b.abs().max())


def compare(module: nn.Module, shared, whole) -> float:
    """How far the gradient of two shares is from that of the whole batch: shared()
    under DDP, whole() without.
    """
    other = copy.deepcopy(module)
    for p, q in zip(module.parameters(), other.parameters()):
        assert torch.equal(p, q)
    call = distributed.together(module)  # must live until backward() is through
    call(shared, module).backward()
    whole(other).backward()
    return apart(gradient(module), gradient(other))


def checks() -> dict:
    """Name -> how far apart."""
    rng = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    torch.manual_seed(0)
    linear, x, target = nn.Linear(6, 5).double(), draw(BATCH, 6), draw(BATCH, 5)
    share = distributed.share
    found = {
        "batch-wide distance": compare(
            linear,
            lambda m: distributed.root_mean_square(
                losses.feature_distillation(m(share(x)), share(target))
            ),
            lambda m: losses.feature_distillation(m(x), target),
        )
    }
    same = linear(x).detach()
    linear.zero_grad()
    call = distributed.together(linear)
    call(
        lambda: distributed.root_mean_square(
            losses.feature_distillation(linear(share(x)), share(same))
        )
    ).backward()
    found["distance 0"] = float(gradient(linear).abs().max())

    head = CosineHead(6).double()
    head.grow(4, 0)
    head.grow(3, 1)
    head.double()
    y = torch.randint(0, 7, (BATCH,), generator=rng)
    found["margin ranking"] = compare(
        head,
        lambda m: (
            losses.margin_ranking(m(share(x)), share(y), 4)
            * distributed.weight_of((share(y) < 4).sum())
        ),
        lambda m: losses.margin_ranking(m(x), y, 4),
    )

    critic = Discriminator(7, 16, 5).double()
    for p in critic.parameters():
        nn.init.normal_(p, 0, 0.5)
    fake, mix = draw(BATCH, 5), torch.rand(BATCH, 1, generator=rng, dtype=torch.float64)

    def critic_loss(m, y, u, fake, mix):
        return losses.critic(m(y, u), m(y, fake)) + 10 * losses.gradient_penalty(
            m, y, u, fake, mix
        )

    found["critic with gradient penalty"] = compare(
        critic,
        lambda m: critic_loss(m, *share(y, target, fake, mix)),
        lambda m: critic_loss(m, y, target, fake, mix),
    )

    config = tiny("gfr")
    network = build_network(config, (1, 8, 8), 0).double()
    network.head.grow(7, 0)
    network.double()
    images = draw(BATCH, 1, 8, 8)
    plain = copy.deepcopy(network)
    call = distributed.together(distributed.synchronised(network))
    call(lambda: functional.cross_entropy(network(share(images)), share(y))).backward()
    functional.cross_entropy(plain(images), y).backward()
    found["batch norm"] = apart(gradient(network), gradient(plain))
    found["running statistics"] = max(
        apart(a.double(), b.double())
        for a, b in zip(network.buffers(), plain.buffers())
    )
    assert [name for name, _ in network.named_buffers()] == [
        name for name, _ in plain.named_buffers()
    ]
    return found


def train(method: str, **changes) -> dict:
    """A tiny run: every process's weights, and what process 0 predicts and loses."""
    config = tiny(method, batch_size=32, **changes)
    outcome = training.run(config, load_tasks(config))
    weights = [None] * distributed.size()
    torch.distributed.all_gather_object(weights, outcome.weights)
    return {
        "weights": weights,
        "last": outcome.losses[-1],
        "first": outcome.losses[0],
        "predictions": {
            rule: p.tolist() for rule, p in outcome.predictions[-1].items()
        },
    }


if __name__ == "__main__":
    distributed.start(torch.device("cpu"))
    result = {
        "size": distributed.size(),
        "checks": checks(),
        "runs": {
            m: train(m)
            for m in ("gfr", "gfr-flow", "gfr-mixture", "lucir", "ewc", "block-3")
        },
    }
    try:
        distributed.share(torch.zeros(5))
        result["odd"] = ""
    except Exception as problem:
        result["odd"] = f"{type(problem).__name__}: {problem}"
    if distributed.rank() == 0:
        print(json.dumps(result))
