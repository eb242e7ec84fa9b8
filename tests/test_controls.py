"""Rows beyond the paper: FeTrIL, FeCAM, and replay that follows the drift."""

import numpy as np
import pytest
import torch
from helpers_core import SMALL, tiny, train

from gfrlib import replay
from gfrlib.book import guide
from gfrlib.config import METHODS, make_config


def test_translated_features_against_loops():
    memory = replay.Translated(5, 3)
    rng = np.random.default_rng(0)
    old = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    memory.means[:3] = torch.from_numpy(old).float()
    new = np.concatenate(
        [rng.normal([2, 0.1, 0.1], 0.1, (6, 3)), rng.normal([0.1, 2, 1.9], 0.1, (9, 3))]
    )
    labels = torch.tensor([3] * 6 + [4] * 9)
    memory.watch(torch.from_numpy(new).float(), labels)
    assert memory.like[:3].tolist() == [0, 1, 1]
    means = np.stack([new[:6].mean(0), new[6:].mean(0)])
    c = torch.arange(300) % 3
    found = memory.sample(c, torch.Generator().manual_seed(0)).numpy()
    for row, k in zip(found, c.tolist()):
        like = (0, 1, 1)[k]
        source = row - old[k] + means[like]
        distance = np.abs((new[:6], new[6:])[like] - source).max(1)
        assert distance.min() < 1e-5
    assert len({tuple(r.round(4)) for r in found}) > 20  # many different images


def test_the_most_similar_class_by_direction_or_by_distance():
    """The old mean (1, 0) points as (9, 1) does, and lies nearer to (0, 1)."""
    new = torch.tensor([[9.0, 1.0], [0.0, 1.0]])
    for word, like in (("cosine", 0), ("euclidean", 1)):
        config = make_config("quick", "fetril", likeness=word)
        memory = replay.build_memory(config, 3, (2,), 0)
        memory.means[0] = torch.tensor([1.0, 0.0])
        memory.watch(new, torch.tensor([1, 2]))
        assert memory.like[0] == like
        u = memory.sample(torch.zeros(1, dtype=torch.long), torch.Generator())
        assert torch.equal(u[0], memory.means[0])  # that class's one image, moved


def test_shrinking_twice_is_shrinking_once_three_times_as_strongly():
    """FeCAM's code: the second time, both means have already doubled."""
    u = torch.rand(50, 4, dtype=torch.float64) + 0.5
    s, eye = np.cov(u.sqrt().numpy().T), np.eye(4)

    def shrunk(matrix):
        own, rest = matrix[eye == 1].mean(), matrix[eye == 0].mean()
        return matrix + own * eye + rest * (1 - eye)

    twice = shrunk(shrunk(s))
    memory = replay.build_memory(
        make_config("quick", "fecam", shrinkage=3.0), 1, (4,), 0
    )
    memory.fit(u, torch.zeros(50, dtype=torch.long))
    scale = np.sqrt(np.outer(np.diag(twice), np.diag(twice)))
    np.testing.assert_allclose(
        np.linalg.inv(memory.precisions[0].double().numpy()), twice / scale, rtol=1e-4
    )


def test_after_task_0_both_rules_of_fecam_are_recorded():
    """Its code classifies by the trained prototypes until the first new task."""
    rows = train(tiny("fecam", **SMALL)).predictions
    assert set(rows[0]) == {"softmax", "mahalanobis"} and set(rows[1]) == {
        "mahalanobis"
    }


@pytest.mark.parametrize("method", [m for m in METHODS if guide.indifferent(m)])
def test_a_frozen_row_ends_alike_however_later_classes_are_split(method):
    """So the guide may take its last accuracy from another split of the same base."""
    ends = [
        train(tiny(method, base=4, tasks=tasks)).predictions[-1] for tasks in (1, 3, 6)
    ]
    for rule in set.intersection(*map(set, ends)):
        for other in ends[1:]:  # an image on a border may fall to its other side
            assert np.mean(np.asarray(ends[0][rule]) == np.asarray(other[rule])) > 0.99
    assert ends[0].keys() & ends[1].keys() & ends[2].keys()


def test_mahalanobis_distances_against_numpy():
    rng = np.random.default_rng(2)
    u = [rng.gamma(2.0, 1.0, (40, 5)), rng.gamma(3.0, 0.5, (30, 5))]
    memory = replay.Covariances(2, 5)
    memory.fit(
        torch.from_numpy(np.concatenate(u)).float(), torch.tensor([0] * 40 + [1] * 30)
    )
    test = rng.gamma(2.0, 1.0, (7, 5))
    for c in range(2):
        v = np.sqrt(u[c])
        s = np.cov(v.T)
        off = s[~np.eye(5, dtype=bool)].mean()
        s = s + np.where(np.eye(5, dtype=bool), np.diag(s).mean(), off)
        s = s / np.sqrt(np.outer(np.diag(s), np.diag(s)))
        x, m = np.sqrt(test), v.mean(0)
        delta = x / np.linalg.norm(x, axis=1, keepdims=True) - m / np.linalg.norm(m)
        expected = np.einsum("ni,ij,nj->n", delta, np.linalg.inv(s), delta)
        np.testing.assert_allclose(
            memory.distances(torch.from_numpy(test).float(), 2)[:, c].numpy(),
            expected,
            rtol=2e-3,
        )


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_moved_gaussians_are_the_gaussians_of_moved_features(kind):
    rng = torch.Generator().manual_seed(0)
    u = torch.rand(4000, 4, generator=rng, dtype=torch.float64).float() + 1
    W = torch.rand(4, 4, generator=rng)
    memory = replay.Gaussians(1, 4, kind, clamp=False)
    memory.fit(u, torch.zeros(4000, dtype=torch.long))
    memory.move(W, torch.zeros_like(memory.means))
    v = u @ W.T
    torch.testing.assert_close(memory.means[0], v.mean(0), rtol=1e-4, atol=1e-4)
    spread = memory.spread[0]
    variance = (spread @ spread.T).diagonal() if kind == "full" else spread.square()
    # independent dimensions: the diagonal is exact up to their sample correlation
    torch.testing.assert_close(
        variance, v.var(0), rtol=0.05 if kind == "diagonal" else 2e-3, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["diagonal", "full", "scalar"])
def test_moved_gaussians_replay_what_they_replayed_before_moved(kind):
    memory = replay.Gaussians(1, 4, kind, clamp=False)
    rng = torch.Generator().manual_seed(0)
    memory.fit(torch.rand(50, 4, generator=rng), torch.zeros(50, dtype=torch.long))
    W, b = torch.randn(4, 4, generator=rng), torch.randn(1, 4, generator=rng)
    c = torch.zeros(100_000, dtype=torch.long)
    before = memory.sample(c, rng.manual_seed(1)) @ W.T + b
    memory.move(W, b)
    memory.means[0] = before.mean(0)  # without `signed`, means stay >= 0
    after = memory.sample(c, rng.manual_seed(1))
    torch.testing.assert_close(after.var(0), before.var(0), rtol=0.03, atol=1e-3)
    if kind != "diagonal":
        torch.testing.assert_close(after.T.cov(), before.T.cov(), rtol=0.03, atol=2e-3)


@pytest.mark.parametrize("shrinkage", [1.0, 0.0])
def test_a_class_of_one_image_or_of_equal_ones_does_not_take_all_answers(shrinkage):
    """Without an image to vary from, a class has no correlations: the distance is
    that to its mean."""
    rng = torch.Generator().manual_seed(0)
    sizes = (30, 30, 1, 5)
    y = torch.arange(4).repeat_interleave(torch.tensor(sizes))
    means = torch.rand(4, 8, generator=rng) + 0.5
    u = means[y] + 0.05 * torch.randn(len(y), 8, generator=rng).abs()
    u[y == 3] = u[y == 3][0]  # one image, five times
    u[:, 7] = 0.0  # a dead feature
    memory = replay.Covariances(4, 8, shrinkage)
    memory.fit(u, y)
    assert torch.isfinite(memory.precisions).all()
    for c in (2, 3):
        torch.testing.assert_close(memory.precisions[c], torch.eye(8))
    near = memory.distances(u, 4).argmin(1)
    assert (near == y).float().mean() > 0.95


def test_the_drift_map_is_least_squares():
    rng = np.random.default_rng(0)
    before = rng.random((500, 6))
    true = np.eye(6) + 0.3 * rng.normal(size=(6, 6))
    after = before @ true.T + 0.01 * rng.normal(size=(500, 6))
    means = torch.zeros(3, 6)
    found, still = replay.linear_drift(
        torch.from_numpy(before), torch.from_numpy(after), means
    )
    assert torch.equal(still, means)
    ridge = 1e-2 * np.trace(before.T @ before) / 6
    rows = np.sqrt(ridge) * np.eye(6)  # the ridge towards the identity, as extra rows
    wide, target = np.concatenate([before, rows]), np.concatenate([after, rows])
    expected = np.linalg.lstsq(wide, target, rcond=None)[0].T
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(found.numpy() - true).max() < 0.5 * np.abs(true - np.eye(6)).max()
    # a direction that the new classes never use stays where it is
    before[:, 5] = after[:, 5] = 0
    found, _ = replay.linear_drift(
        torch.from_numpy(before), torch.from_numpy(after), means
    )
    np.testing.assert_allclose(found.numpy()[5], np.eye(6)[5], atol=1e-6)


def test_drift_compensation_moves_what_is_replayed():
    plain, moved = (
        train(
            tiny(
                m,
                **{
                    **SMALL,
                    "epochs_task": 4,
                    "penalty_weight": 0.0,
                    "learning_rate_task": 1e-2,
                },
            )
        )
        for m in ("gfr-gaussian", "gfr-gaussian-drift")
    )
    assert plain.losses[0] == moved.losses[0]  # the same task 0
    assert plain.weights != moved.weights
    gan = replay.GAN(4, 3, 2, 8)
    c, z = torch.arange(4), torch.randn(4, 2)
    before = gan.replay(c, z)
    W = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0.5, 0, 2]])
    b = torch.arange(12.0).view(4, 3) / 10
    rng = torch.Generator().manual_seed(0)
    expected = (
        gan.replay(c.repeat_interleave(100), gan.latent(400, rng))
        .view(4, 100, 3)
        .mean(1)
    )
    torch.testing.assert_close(gan.class_means(rng.manual_seed(0)), expected)
    gan.move(W, b)
    torch.testing.assert_close(
        gan.replay(c, z),
        torch.stack([(W @ u + b[k]).clamp_min(0) for k, u in enumerate(before)]),
    )
