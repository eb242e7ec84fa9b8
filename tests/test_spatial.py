"""Replay below the last cut: generators of images and feature maps."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers_core import SMALL, tiny, train

from gfrlib import generator_training, losses, replay
from gfrlib.engine.machine import Machine
from gfrlib.engine.phase import Phase
from gfrlib.networks import (
    SpatialDiscriminator,
    SpatialGenerator,
    feature_shape,
    split,
    widest,
)


@pytest.mark.parametrize(
    "shape", [(3, 32, 32), (16, 16, 16), (64, 8, 8), (1, 8, 8), (32, 4, 4), (3, 28, 28)]
)
def test_spatial_generator_and_discriminator_fit_their_shape_and_budget(shape):
    def generator(width):
        return SpatialGenerator(10, 16, shape, width, images=shape[0] < 4)

    def discriminator(width):
        return SpatialDiscriminator(10, shape, width)

    for build in (generator, discriminator):
        wide = widest(build, 200_000)
        assert sum(p.numel() for p in build(wide).parameters()) <= 200_000
        assert sum(p.numel() for p in build(wide + 4).parameters()) > 200_000
    c = torch.arange(5)
    u = generator(8)(c, torch.randn(5, 16))
    assert u.shape == (5, *shape) and (
        u.abs().max() <= 2.5 if shape[0] < 4 else u.min() >= 0
    )
    assert discriminator(8)(c, u).shape == (5,)


def test_spatial_discriminator_is_a_projection_discriminator():
    D = SpatialDiscriminator(6, (2, 8, 8), 8).double()
    u, c = torch.randn(7, 2, 8, 8, dtype=torch.float64), torch.arange(7) % 6
    phi = D.phi(u).sum(dim=(2, 3))
    expected = (
        phi @ D.score.weight[0]
        + D.score.bias
        + torch.stack([D.projection.weight[k] @ p for k, p in zip(c, phi)])
    )
    torch.testing.assert_close(D(c, u), expected)
    other = D((c + 1) % 6, u)
    assert not torch.allclose(other, expected)


def test_gradient_penalty_of_feature_maps_against_finite_differences():
    D = SpatialDiscriminator(3, (1, 4, 4), 4).double()
    real, fake = (
        torch.rand(2, 1, 4, 4, dtype=torch.float64),
        torch.rand(2, 1, 4, 4, dtype=torch.float64),
    )
    mix, c = (
        torch.tensor([0.3, 0.8], dtype=torch.float64).view(2, 1, 1, 1),
        torch.tensor([0, 2]),
    )
    found = losses.gradient_penalty(D, c, real, fake, mix).item()
    u, norms = mix * real + (1 - mix) * fake, []
    for b in range(2):
        slopes = []
        for i in range(16):
            step = torch.zeros(16, dtype=torch.float64)
            step[i] = 1e-6
            step = step.view(1, 1, 4, 4)
            slopes.append(
                (
                    D(c[b : b + 1], u[b : b + 1] + step)
                    - D(c[b : b + 1], u[b : b + 1] - step)
                ).item()
                / 2e-6
            )
        norms.append(np.linalg.norm(slopes))
    assert found == pytest.approx(np.mean([(n - 1) ** 2 for n in norms]), rel=1e-4)


@pytest.mark.parametrize("method", ["mergan", "block-1", "block-2", "block-3"])
def test_what_enters_at_a_cut_has_the_shape_that_leaves_the_extractor(method):
    config = tiny(method, **SMALL)
    seen = []
    outcome = train(
        config,
        observe=lambda t, network, memory: seen.append(
            copy.deepcopy((network, memory))
        ),
    )
    network, memory = seen[-1]
    shape = feature_shape(network, config.cut, (1, 8, 8))
    sample = memory.sample(torch.arange(3), torch.Generator().manual_seed(0))
    assert sample.shape[1:] == shape
    _, upper = split(network.eval(), config.cut)
    assert upper(sample).shape == (3, 7)
    assert {"generator", "discriminator"} <= set(outcome.bytes_kept[1])
    assert any("replayed" in row for row in outcome.losses) and any(
        "alignment" in row for row in outcome.losses
    )


def test_joint_retraining_shows_old_replays_as_real():
    outcome = train(tiny("mergan", **SMALL, alignment="retrain"))
    assert not any("alignment" in row for row in outcome.losses)
    config = tiny("gfr", **SMALL, generator_batch=4000)
    past = SimpleNamespace(memory=replay.GAN(10, 6, 4, 8), classes=3)
    phase = Phase("generator", 1, 0, Machine.of(config))
    u, c = torch.full((4000, 6), -1.0), torch.full((4000,), 4)
    v, k = generator_training.with_replays(u, c, past, 5, config, phase)
    old = k < 3
    assert old.float().mean().item() == pytest.approx(3 / 5, abs=0.04)
    assert (
        (v[~old] == -1).all()
        and (v[old] >= 0).all()
        and set(k.tolist()) == {0, 1, 2, 4}
    )
