"""Memories: moments of what they replay, the clamp, bytes, and their seeds."""

import numpy as np
import pytest
import torch

from gfrlib.config import make_config
from gfrlib.generators import GAN, Flow
from gfrlib.memory import Memory, state_bytes
from gfrlib.replay import AllImages, ClassMeans, Gaussians, Mixtures, build_memory

D, COUNT = 4, 40_000


@pytest.fixture(scope="module")
def features():
    """Correlated features of classes 0 and 2 of 3.

    [N, D] and labels, and each class's mean, deviation, covariance.
    """
    rng = np.random.default_rng(5)
    parts, moments = [], {}
    for c, n in ((0, 300), (2, 500)):
        u = (
            rng.normal(size=(n, D)) @ rng.normal(size=(D, D))
            + rng.normal(size=D) * 3
            + 20
        )
        parts.append((u, np.full(n, c)))
        moments[c] = (u.mean(0), u.std(0), np.cov(u.T, bias=True))
    u, labels = (np.concatenate(p) for p in zip(*parts))
    mixed = rng.permutation(len(u))
    return (
        torch.tensor(u[mixed], dtype=torch.float32),
        torch.tensor(labels[mixed]),
        moments,
    )


def sampled(memory, c: int, count: int = COUNT, seed: int = 0) -> np.ndarray:
    return (
        memory.sample(torch.full((count,), c), torch.Generator().manual_seed(seed))
        .double()
        .numpy()
    )


def fitted(features, kind: str, clamp: bool = True) -> Gaussians:
    memory = Gaussians(3, D, kind, clamp)
    memory.fit(*features[:2])
    return memory


@pytest.mark.parametrize("kind", ["diagonal", "scalar", "full"])
@pytest.mark.parametrize("c", [0, 2])
def test_mean_and_deviation_of_each_dimension(features, kind, c):
    mean, deviation, _ = features[2][c]
    u = sampled(fitted(features, kind), c)
    np.testing.assert_allclose(u.mean(0), mean, atol=5 * deviation.max() / COUNT**0.5)
    np.testing.assert_allclose(u.std(0), deviation, rtol=0.03)


def correlation(covariance: np.ndarray) -> np.ndarray:
    d = np.sqrt(np.diag(covariance))
    return covariance / np.outer(d, d)


def test_diagonal_samples_are_uncorrelated(features):
    c = np.corrcoef(sampled(fitted(features, "diagonal"), 2).T)
    np.testing.assert_allclose(c, np.eye(D), atol=0.03)
    assert (
        np.abs(correlation(features[2][2][2]) - np.eye(D)).max() > 0.2
    )  # the features themselves are not


def test_full_covariance_is_kept(features):
    covariance = features[2][2][2]
    np.testing.assert_allclose(
        np.cov(sampled(fitted(features, "full"), 2).T),
        covariance,
        atol=0.04 * np.abs(covariance).max(),
    )


def test_scalar_samples_lie_on_a_line(features):
    mean, deviation, _ = features[2][0]
    u = sampled(fitted(features, "scalar"), 0, 500) - mean
    steps = u / deviation
    np.testing.assert_allclose(steps, np.repeat(steps[:, :1], D, axis=1), atol=1e-3)
    assert np.linalg.matrix_rank(u, tol=1e-2) == 1
    assert (
        np.linalg.matrix_rank(
            sampled(fitted(features, "diagonal"), 0, 500) - mean, tol=1e-2
        )
        == D
    )


@pytest.mark.parametrize("kind", ["diagonal", "scalar", "full"])
def test_clamp_keeps_samples_at_or_above_zero(kind):
    u = torch.randn(200, D, generator=torch.Generator().manual_seed(1))
    clamped, free = Gaussians(1, D, kind, True), Gaussians(1, D, kind, False)
    for memory in (clamped, free):
        memory.fit(u, torch.zeros(200, dtype=torch.long))
    a, b = sampled(clamped, 0, 2000), sampled(free, 0, 2000)
    assert a.min() == 0 and b.min() < -1
    np.testing.assert_allclose(a, np.maximum(b, 0))


def test_full_covariance_of_fewer_images_than_dimensions_still_factorises():
    memory = Gaussians(1, 30, "full", False)
    memory.fit(torch.rand(5, 30), torch.zeros(5, dtype=torch.long))
    assert np.isfinite(sampled(memory, 0, 100)).all()


def test_means_are_exact_and_sampled_as_they_are(features):
    memory = ClassMeans(3, D)
    memory.fit(*features[:2])
    u = sampled(memory, 2, 7)
    np.testing.assert_allclose(
        u, np.repeat(features[2][2][0][None], 7, axis=0), rtol=1e-5
    )


def test_old_statistics_are_not_touched_by_a_later_fit(features):
    memory = fitted(features, "diagonal")
    before = memory.means.clone(), memory.spread.clone()
    memory.fit(torch.rand(50, D), torch.ones(50, dtype=torch.long))
    for old, now in zip(before, (memory.means, memory.spread)):
        assert torch.equal(old[[0, 2]], now[[0, 2]]) and not torch.equal(old[1], now[1])


def test_nbytes_counts_only_classes_seen(features):
    means = ClassMeans(3, D)
    assert sum(means.nbytes().values()) == 0
    means.fit(*features[:2])
    assert means.nbytes() == {"class means": 2 * D * 4}
    assert fitted(features, "diagonal").nbytes() == {
        "class means": 2 * D * 4,
        "standard deviations": 2 * D * 4,
    }
    assert fitted(features, "scalar").nbytes() == fitted(features, "diagonal").nbytes()
    assert fitted(features, "full").nbytes() == {
        "class means": 2 * D * 4,
        "covariance factors": 2 * D * D * 4,
    }
    assert Memory().nbytes() == {}


def test_diagonal_gaussians_of_100_classes_take_what_methods_says():
    memory = Gaussians(100, 512)
    memory.counts += 1
    assert round(sum(memory.nbytes().values()) / 2**20, 2) == 0.39


def test_gan_bytes_and_shapes():
    memory = GAN(classes=6, features=D, latent_dim=3, hidden=5)
    g = (3 + 6) * 5 + 5 + 5 * 5 + 5 + 5 * D + D
    d = D * 5 + 5 + 5 * 5 + 5 + 5 + 1 + 6 * 5
    assert memory.nbytes() == {"generator": 4 * g, "discriminator": 4 * d}
    u = memory.sample(torch.tensor([0, 5, 5]), torch.Generator().manual_seed(0))
    assert u.shape == (3, D) and (u >= 0).all()


@pytest.mark.parametrize("kind", ["diagonal", "scalar", "full"])
def test_gaussian_samples_are_decided_by_the_generator(features, kind):
    memory = fitted(features, kind)
    assert np.array_equal(
        sampled(memory, 0, 50, seed=3), sampled(memory, 0, 50, seed=3)
    )
    assert not np.array_equal(
        sampled(memory, 0, 50, seed=3), sampled(memory, 0, 50, seed=4)
    )


def test_gan_samples_are_decided_by_the_generator_and_depend_on_class_and_latent():
    memory = build_memory(make_config("quick", "gfr"), 10, (8,), seed=0)
    with torch.no_grad():
        for p in memory.generator.parameters():
            p.normal_(0, 0.5, generator=torch.Generator().manual_seed(len(p)))
    with torch.no_grad():
        assert np.array_equal(
            sampled(memory, 0, 20, seed=3), sampled(memory, 0, 20, seed=3)
        )
        assert not np.array_equal(
            sampled(memory, 0, 20, seed=3), sampled(memory, 0, 20, seed=4)
        )
        assert not np.array_equal(
            sampled(memory, 0, 20, seed=3), sampled(memory, 1, 20, seed=3)
        )


def test_initial_values_of_a_gan_depend_on_the_seed_alone():
    config = make_config("quick", "gfr")
    torch.manual_seed(1)
    a = build_memory(config, 10, (8,), seed=5).state_dict()
    torch.manual_seed(2)
    b, c = (
        build_memory(config, 10, (8,), seed=5).state_dict(),
        build_memory(config, 10, (8,), seed=6).state_dict(),
    )
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(
        a["generator.layers.0.weight"], c["generator.layers.0.weight"]
    )


@pytest.mark.parametrize(
    "memory, kind",
    [
        ("none", Memory),
        ("real", AllImages),
        ("means", ClassMeans),
        ("gaussian", Gaussians),
        ("mixture", Mixtures),
        ("gan", GAN),
        ("flow", Flow),
    ],
)
def test_each_memory_of_the_table_is_built(memory, kind):
    changes = dict(memory=memory, penalty="none", prediction="softmax")
    built = build_memory(make_config("quick", "gfr", **changes), 10, (8,), seed=0)
    assert type(built) is kind
    assert state_bytes(built) >= sum(built.nbytes().values())
