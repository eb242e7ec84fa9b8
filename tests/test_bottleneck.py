"""A bottleneck: F ends in a few features of either sign, and nothing cuts them off."""

import copy

import pytest
import torch
from helpers_core import SMALL, load_tasks, tiny, train
from torch import nn

from gfrlib.config import UserError, make_config
from gfrlib.generators import GAN
from gfrlib.networks import Generator, build_network, split
from gfrlib.replay import Covariances, Gaussians, build_memory

SHAPES = {"cnn": (1, 8, 8), "resnet18": (3, 16, 16)}


def network(kind: str, bottleneck: int, seed: int = 0) -> nn.Module:
    """A small network with so many features at its end."""
    config = make_config("quick", "gfr", network=kind, width=4, bottleneck=bottleneck)
    return build_network(config, SHAPES[kind], seed).eval()


def cloud(sign: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [600, 3] of two classes around -2 and +2, times `sign`; labels [600]."""
    rng = torch.Generator().manual_seed(3)
    u = torch.randn(600, 3, generator=rng) @ torch.randn(3, 3, generator=rng)
    labels = torch.arange(600) % 2
    return sign * (u + (4.0 * labels - 2)[:, None]), labels


@pytest.mark.parametrize("kind", SHAPES)
def test_f_is_the_same_network_and_one_linear_layer(kind):
    narrow, wide = network(kind, 5), network(kind, 0)
    x = torch.rand(7, *SHAPES[kind])
    (F, _), (F_wide, _) = split(narrow, 4), split(wide, 4)
    last = narrow.stages[-1][-1]
    assert isinstance(last, nn.Linear) and narrow.features == 5
    torch.testing.assert_close(F(x), last(F_wide(x)))
    assert (F(x) < 0).any(), "features have either sign"


def test_the_table_of_cuts_stays_as_it_is():
    narrow, wide = network("cnn", 5), network("cnn", 0)
    x = torch.rand(2, *SHAPES["cnn"])
    for cut in range(4):
        torch.testing.assert_close(split(narrow, cut)[0](x), split(wide, cut)[0](x))


@pytest.mark.parametrize("kind", ["diagonal", "scalar", "full"])
def test_gaussians_keep_the_sign(kind):
    u, labels = cloud()
    memory = Gaussians(2, 3, kind, clamp=True, signed=True)
    memory.fit(u, labels)
    asked = torch.zeros(20_000, dtype=torch.int64)
    drawn = memory.sample(asked, torch.Generator().manual_seed(0))
    own = u[labels == 0]
    torch.testing.assert_close(drawn.mean(0), own.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.std(0), own.std(0), atol=0.05, rtol=0)
    before = memory.means.clone()
    memory.move(-torch.eye(3), torch.zeros(2, 3))
    torch.testing.assert_close(memory.means, -before)


def test_the_generator_replays_features_of_either_sign_and_moves_them():
    memory = GAN(2, 3, latent_dim=4, hidden=8, signed=True)
    labels = torch.zeros(500, dtype=torch.int64)
    drawn = memory.sample(labels, torch.Generator().manual_seed(0))
    assert (drawn < 0).any() and (drawn > 0).any()
    memory.move(-torch.eye(3), torch.zeros(2, 3))
    again = memory.sample(labels, torch.Generator().manual_seed(0))
    torch.testing.assert_close(again, -drawn)


def test_two_generators_differ_by_the_last_relu_alone():
    torch.manual_seed(0)
    plain = Generator(3, 4, 8, 5)
    torch.manual_seed(0)
    signed = Generator(3, 4, 8, 5, signed=True)
    z, labels = torch.randn(9, 4), torch.arange(9) % 3
    torch.testing.assert_close(plain(labels, z), signed(labels, z).relu())


def test_fecam_does_not_care_for_the_sign_of_all_features():
    distances = []
    for sign in (1, -1):
        u, labels = cloud(sign)
        memory = Covariances(2, 3)
        memory.fit(u, labels)
        distances.append(memory.distances(u.double(), 2))
    torch.testing.assert_close(distances[0], distances[1])
    right = distances[0].argmin(1) == cloud()[1]
    assert right.float().mean() > 0.8


def test_without_one_nothing_is_another_run_and_with_one_no_clamp_is_read():
    plain = make_config("quick", "gfr-gaussian")
    assert "bottleneck" not in plain.identity()
    clamped, free = (
        make_config("quick", "gfr-gaussian", bottleneck=8, gaussian_clamp=clamp)
        for clamp in (True, False)
    )
    assert clamped.identity()["bottleneck"] == 8
    assert clamped.digest() == free.digest() != plain.digest()


@pytest.mark.parametrize("count", [-1, 4097])
def test_bounds(count):
    with pytest.raises(UserError, match="'bottleneck' must"):
        make_config("quick", "gfr", bottleneck=count)


ROWS = ("gfr", "gfr-gaussian", "gfr-squared", "fecam", "fetril", "lwf", "lucir", "ewc")


@pytest.mark.parametrize("method", ROWS)
def test_every_row_learns_through_it(method):
    config = tiny(method, **{**SMALL, "bottleneck": 6})
    seen = []
    outcome = train(
        config, observe=lambda t, network, _: seen.append(copy.deepcopy(network))
    )
    assert len(outcome.predictions) == len(load_tasks(config).sizes)
    start = build_network(config, load_tasks(config).shape, config.seed)
    moved = zip(start.stages.parameters(), seen[0].stages.parameters(), strict=True)
    assert all(not torch.equal(a, b) for a, b in moved)
    assert all(one.features == 6 for one in seen)


def test_the_memory_is_built_for_signs():
    for row in ("gfr", "gfr-gaussian"):
        config = make_config("example", row)
        assert build_memory(config, 3, (16,), 0).signed
        assert not build_memory(make_config("quick", row), 3, (16,), 0).signed
