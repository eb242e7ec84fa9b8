"""What each loss teaches, and what chance decides: changes that no value betrays.

A loss whose gradient is cut has the right value and trains nothing. Draws that repeat
look random one by one.
"""

import itertools
from types import SimpleNamespace

import pytest
import torch
from helpers_core import SMALL, load_tasks, tiny
from test_in_place import heard, later, per_class, phase_of
from test_penalties import Given
from torch import nn

from gfrlib import batches, losses, networks, penalties, replay, training
from gfrlib import generator_training as makers
from gfrlib.config import make_config
from gfrlib.engine import descent
from gfrlib.generators import GAN
from gfrlib.heads import CosineHead
from gfrlib.lab import plans, replayed
from gfrlib.networks import build_network

CPU = torch.device("cpu")

# Gradients ----------------------------------------------------------------------------


def test_lwf_trains_the_logits_of_every_old_head():
    """w T (p - q) / B for each head, p and q softened by T."""
    torch.manual_seed(0)
    config = make_config("quick", "lwf", penalty_weight=3.0, temperature=4.0)
    logits = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    old = torch.randn(6, 5, dtype=torch.float64)
    past = Given(config, None, old, (3, 2))
    penalties.logits(past, penalties.Batch(None, None, None, logits, None)).backward()
    for a, b in ((0, 3), (3, 5)):
        apart = (logits[:, a:b] / 4).softmax(1) - (old[:, a:b] / 4).softmax(1)
        torch.testing.assert_close(logits.grad[:, a:b], 3 * 4 * apart.detach() / 6)
    assert (logits.grad[:, 5:] == 0).all(), "the new head is not held"


@pytest.mark.parametrize("method", ["lucir", "gfr", "gfr-squared"])
def test_a_penalty_on_features_trains_every_feature(method):
    torch.manual_seed(0)
    config = make_config("quick", method)
    u, old = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4)
    past = Given(config, old, None, (8, 1), 3)
    batch = penalties.Batch(None, None, u, None, None)
    penalties.PENALTIES[config.penalty](past, batch).backward()
    assert (u.grad.abs().sum(1) > 0).all()


def test_the_margin_trains_features_and_not_the_factor():
    """It is on cosines, which do not depend on eta."""
    torch.manual_seed(0)
    head = CosineHead(6, 10.0)
    head.grow(3, 0), head.grow(2, 1)
    u = torch.rand(20, 6, requires_grad=True)
    margin = head.extra_losses(head(u), torch.arange(20) % 5, 3)["margin"]
    by_u, by_eta = torch.autograd.grad(margin, [u, head.scale])
    assert by_u.abs().sum() > 0.01
    assert abs(float(by_eta)) < 1e-6


def test_the_factor_of_a_cosine_head_is_learned():
    config = tiny("lucir", **SMALL)
    factors = []
    training.run(
        config,
        load_tasks(config),
        observe=lambda t, network, memory: factors.append(network.head.scale.item()),
    )
    assert config.head_scale not in factors and len(set(factors)) == len(factors)


# Labels, samples, images --------------------------------------------------------------


def test_replays_of_a_retrained_generator_keep_their_labels(monkeypatch):
    """MeRGAN: only old classes, and a mix of its own for each sample."""
    more = dict(alignment="retrain", generator_steps_later=2)
    config, stream, network, memory, past = later("mergan", **more)
    seen = heard(
        *(monkeypatch, losses, "gradient_penalty"),
        lambda D, c, real, fake, mix: (c, mix.shape, real.shape),
    )
    makers.train_gan(memory, network, past, stream, 1, config, phase_of(config))
    counts = per_class(torch.cat([c for c, _, _ in seen]))
    assert (counts[:5] > 0).all() and counts[5:].sum() == 0
    assert all(mix[1:].numel() == 1 and mix[0] == real[0] for _, mix, real in seen)


def test_below_the_last_cut_a_generator_learns_from_shifted_images():
    config = tiny("block-2", **SMALL)
    stream = load_tasks(config)
    network, _, _ = training.build(config, stream, CPU)
    _, real = batches.feature_source(network, stream, 1, config, phase_of(config))
    u, _ = real(torch.zeros(60, dtype=torch.long))
    assert len(u.flatten(1).unique(dim=0)) == 9, "3 x 3 shifts of one image"


def test_replay_is_judged_by_task_0s_network_as_it_was():
    """A run trains one network in place, and the judge must not move with it."""
    config = tiny("gfr", **SMALL)
    stream = load_tasks(config)
    judge = replayed.Replayed(config, stream)
    network = build_network(config, stream.shape, 0)
    network.head.grow(3, 0)
    block = network.head.blocks[0]
    memory = SimpleNamespace(sample=lambda c, rng: torch.eye(network.features)[c])
    for t in (0, 1):
        with torch.no_grad():
            block.weight.zero_(), block.bias.zero_()
            for c in range(3):  # after task 1 it names the next class
                block.weight[(c + t) % 3, c] = 1
        judge.judge(t, network, memory, phase_of(config, "analysis", t))
    assert [row["share"] for row in judge.recognised] == [1, 1]


# Chance -------------------------------------------------------------------------------


def draws(t: int = 1, step: int = 0) -> torch.Tensor:
    phase = phase_of(tiny(), t=t)
    for _ in itertools.islice(phase.steps(step + 1, every=1), step + 1):
        pass
    return torch.rand(8, generator=phase.rng)


def test_steps_and_tasks_draw_numbers_of_their_own():
    assert torch.equal(draws(), draws())
    assert not torch.equal(draws(step=0), draws(step=1))
    assert not torch.equal(draws(t=1), draws(t=2))
    seeded = [phase_of(tiny(), t=t).seeded("drift") for t in (1, 2)]
    assert not torch.equal(*(torch.rand(8, generator=rng) for rng in seeded))


@pytest.mark.parametrize("method", ["gfr", "lwf"])
def test_equal_tasks_start_with_heads_of_their_own(method):
    config = tiny(method, **{**SMALL, "split": (3, 3, 3)})
    stream = load_tasks(config)
    network, _, _ = training.build(config, stream, CPU)
    for t in range(3):
        training.grow_head(network, config, stream.sizes, t)
    weights = [block.weight for block in network.head.blocks]
    assert not any(torch.equal(*two) for two in itertools.combinations(weights, 2))


def test_a_gans_latents_are_normal():
    z = GAN(3, 6, 8, 4).latent(4000, torch.Generator().manual_seed(0))
    assert float(z.mean()) == pytest.approx(0, abs=0.03)
    assert float(z.std()) == pytest.approx(1, abs=0.03)


# Constants and statistics -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_the_spread_of_a_class_is_its_own(kind):
    """Over N, not N - 1: two images 0 and 2 have the spread 1, one image has none."""
    rng = torch.Generator().manual_seed(0)
    two = replay.Gaussians(1, 1, kind, signed=True)
    two.fit(torch.tensor([[0.0], [2.0]]), torch.zeros(2, dtype=torch.long))
    u = two.sample(torch.zeros(40_000, dtype=torch.long), rng)
    assert float(u.std()) == pytest.approx(1, abs=0.02)
    one = replay.Gaussians(1, 3, kind, signed=True)
    image = torch.tensor([[1.0, 0, 2]])
    one.fit(image, torch.zeros(1, dtype=torch.long))
    u = one.sample(torch.zeros(50, dtype=torch.long), rng)
    assert torch.isfinite(u).all() and (u - image).abs().max() < 0.02


def test_the_slopes_of_generators_and_discriminators():
    """Appendix D: LeakyReLU of slope 0.2 within, in all four networks."""
    some = (*later("gfr")[3].children(), *later("mergan")[3].children())
    found = {type(n).__name__: n for n in some}
    assert {"Generator", "Discriminator", "SpatialDiscriminator"} <= found.keys()
    for name, network in found.items():
        layers = [m for m in network.modules() if isinstance(m, nn.LeakyReLU)]
        assert layers and {m.negative_slope for m in layers} == {0.2}, name
        plain = [m for m in network.modules() if isinstance(m, nn.ReLU)]
        assert len(plain) == (name == "Generator"), f"{name}: features end in one"


def test_weight_decay_reaches_the_optimiser(monkeypatch):
    seen = heard(
        *(monkeypatch, descent, "adam"),
        lambda module, rate, decay=0.0: (isinstance(module, networks.Network), decay),
    )
    config = tiny("finetune", **SMALL, weight_decay=0.0123)
    training.run(config, load_tasks(config))
    assert {decay for whole, decay in seen if whole} == {0.0123}


@pytest.mark.parametrize(
    "method, phase, wanted",
    [("finetune", "classifier", 0.2), ("gfr", "generator", 0.1)],
)
def test_only_a_classifiers_step_takes_longer_with_the_batch(method, phase, wanted):
    """Half of the batch is timed; a generator's batch is its own."""
    config = tiny(method, split=(5, 2, 3), batch_size=64)
    ticks = itertools.count(0, 0.1)
    found = plans.seconds_per_step(
        *(config, load_tasks(config), plans.Stage("", 1, phase, 1)),
        clock=lambda: next(ticks),
    )
    assert found == pytest.approx(wanted)
