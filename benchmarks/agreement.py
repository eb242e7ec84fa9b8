"""One later classifier phase by the official code and by gfrlib: the same weights?

A process of its own: `python -m benchmarks.agreement DIR` prints one JSON line. The
official code (xialeiliu/GFR-IL) trains task 0 for STEPS batches of noise and takes its
statistics; from those weights and statistics both train STEPS batches of task 1, with
Gaussian replay, in float64. Both get the same images, labels and noise, so what is left
between them is rounding, or a difference of the algorithms.
"""

# ruff: noqa: NPY002 - the official code draws from NumPy's global generator

import json
import os
import runpy
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.official import stand_ins
from gfrlib import training
from gfrlib.config import make_config
from gfrlib.engine.machine import Machine
from gfrlib.engine.phase import Phase
from gfrlib.losses import REFERENCE_BATCH
from gfrlib.memory import Memory
from gfrlib.networks import Network, build_network, split
from gfrlib.penalties import Past
from gfrlib.replay import build_memory

STEPS = 4  # of each task
BATCH = 32  # the official default is 128, which takes minutes in float64
SIZES = (50, 10, 10, 10, 10, 10)
SEED = 7
# the official defaults, the GAN left out
OFFICIAL = dict(
    data="cifar100", num_class=100, nb_cl_fg=50, num_task=5, mean_replay=True,
    tradeoff=1.0, log_dir="log", BatchSize=BATCH, lr=1e-3, lr_decay=0.1,
    lr_decay_step=100, weight_decay=2e-4, gan_tradeoff=1e-3, gan_lr=1e-4,
    lambda_gp=10.0, n_critic=5, latent_dim=200, feat_dim=512, hidden_dim=512,
    epochs=1, epochs_gan=0,
)  # fmt: skip
# what our defaults do otherwise; ours rescales the distance to a batch of 128
AS_THEIRS = dict(
    full_head=True, gaussian="scalar", gaussian_clamp=False, epochs_task=1,
    precision="float32", device="cpu", penalty_weight=(BATCH / REFERENCE_BATCH) ** 0.5,
)  # fmt: skip


def batches(first: int, classes: int) -> list[tuple[Tensor, Tensor]]:
    """STEPS batches of noise, with every class among their labels."""
    rng = torch.Generator().manual_seed(first)
    found = []
    for k in range(STEPS):
        y = first + (torch.arange(BATCH) + k * BATCH) % classes
        found.append((torch.randn(BATCH, 3, 32, 32, generator=rng), y))
    return found


def theirs(folder: str, place: Path) -> dict:
    """The official code's states before and after task 1, statistics and losses."""
    stand_ins()
    sys.path.insert(0, folder)
    official = runpy.run_path(str(Path(folder) / "train.py"), run_name="official")
    args, log = Namespace(ckpt_dir=str(place), **OFFICIAL), place / "log"
    log.mkdir()
    for name in ("generator", "discriminator"):  # loaded, and not used
        torch.save(nn.Linear(1, 1), log / f"task_00_-1_model_{name}.pkl")
    losses, backward = [], Tensor.backward

    def noted(loss: Tensor, *arguments, **named) -> None:
        losses.append(loss.item())
        backward(loss, *arguments, **named)

    train = official["train_task"]
    torch.manual_seed(SEED)
    statistics = train(args, batches(0, 50), 0)
    np.random.seed(SEED)
    with mock.patch.object(Tensor, "backward", noted):
        train(args, batches(50, 10), 1, statistics, list(range(50)))
    states = [
        torch.load(log / f"task_0{t}_0_model.pkl", weights_only=False).state_dict()
        for t in (0, 1)
    ]
    return {"states": states, "statistics": statistics, "losses": losses}


def draws() -> list[tuple[Tensor, Tensor]]:
    """Labels [B] and noise [B, 1] of each step, as NumPy gave them to their code.

    A shuffle of the old classes, whose first is taken, and one number, image by image.
    """
    np.random.seed(SEED)
    found = []
    for _ in range(STEPS):
        order, labels, noise = list(range(50)), [], []
        for _ in range(BATCH):
            np.random.shuffle(order)
            noise.append([np.random.normal()])
            labels.append(order[0])
        found.append((torch.tensor(labels), torch.tensor(noise)))
    return found


class Given:
    """Stands for training.Batches: the official code's batches."""

    batch_size, per_epoch = BATCH, STEPS

    def __init__(self):
        self.batches = batches(50, 10)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        return self.batches[step]

    def extractor(self, extractor: nn.Module) -> nn.Module:
        return extractor


def loaded(network: Network, state: dict) -> None:
    """The official state into ours: the same layers in the same order."""
    *stages, weight, bias = state.values()
    own = network.stages.state_dict()
    network.stages.load_state_dict(dict(zip(own, stages, strict=True)))
    parts = zip(network.head.blocks, weight.split(SIZES), bias.split(SIZES))
    for block, w, b in parts:
        block.load_state_dict({"weight": w, "bias": b})


def flat(stages: list[Tensor], head: list[Tensor]) -> Tensor:
    """All trained and running numbers in one row."""
    return torch.cat([v.double().flatten() for v in (*stages, *head)])


def row_of(state: dict) -> Tensor:
    """The official state, in the order of `row_of_ours`."""
    *stages, weight, bias = state.values()
    return flat(stages, [weight, bias])


def row_of_ours(network: Network) -> Tensor:
    """Ours, the head's blocks joined."""
    blocks = network.head.blocks
    weight = torch.cat([block.weight.detach() for block in blocks])
    bias = torch.cat([block.bias.detach() for block in blocks])
    return flat(list(network.stages.state_dict().values()), [weight, bias])


def take_statistics(memory: Memory, network: Network, statistics: dict) -> float:
    """Ours of the same images, how far they are from the official ones, relative to
    them; then the official ones take their place.
    """
    extractor, _ = split(network.eval(), network_cut(network))
    x, y = (torch.cat(parts) for parts in zip(*batches(0, 50)))
    with torch.no_grad():
        u = torch.cat([extractor(part) for part in x.split(BATCH)])
    memory.fit(u, y)
    apart = 0.0
    for name, key in (("means", "class_mean"), ("spread", "class_std")):
        official = torch.from_numpy(np.stack(statistics[key]))
        ours = getattr(memory, name)[:50]
        apart = max(apart, ((ours - official).norm() / official.norm()).item())
        ours.copy_(official)
    return apart


def network_cut(network: Network) -> int:
    """The cut behind all stages."""
    return len(network.stages)


def main(folder: str) -> dict:
    """{what is compared: how far apart}, and both codes' losses of the last step."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        official = theirs(folder, Path(place))
    before, after = official["states"]
    config = make_config("paper", "gfr-gaussian", **AS_THEIRS)
    network = build_network(config, (3, 32, 32), 0)
    training.grow_head(network, config, SIZES, 0)
    network = network.double()
    loaded(network, before)
    memory = build_memory(config, 100, (network.features,), 0).double()
    statistics = take_statistics(memory, network, official["statistics"])
    past = Past(network, memory, None, config, SIZES, 1)
    phase = Phase("classifier", 1, config.seed, Machine.of(config))
    labels, noise = zip(*draws())
    losses, descend, given = [], Phase.descend, Given()

    def noted(self, optimizer, loss: Tensor) -> None:
        losses.append(loss.item())
        descend(self, optimizer, loss)

    with (
        mock.patch.object(training, "training_data", lambda *_: given),
        mock.patch.object(Phase, "descend", noted),
        mock.patch("torch.randint", side_effect=labels),
        mock.patch("torch.randn", side_effect=noise),
    ):
        training.train_classifier(network, past, None, 1, config, phase)
    moved = row_of(after) - row_of(before)
    apart = row_of_ours(network) - row_of(after)
    ratios = [abs(a - b) / b for a, b in zip(losses, official["losses"], strict=True)]
    return {
        "statistics": statistics,
        "losses": max(ratios),
        "weights": (apart.norm() / moved.norm()).item(),
        "farthest weight": apart.abs().max().item(),
        "moved": moved.abs().max().item(),
        "last loss": [losses[-1], official["losses"][-1]],
    }


if __name__ == "__main__":
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")  # the official logger closes it
    found = main(sys.argv[1])
    print(json.dumps(found), file=out, flush=True)
