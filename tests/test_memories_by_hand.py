"""Memories, importances and rules of prediction by hand, where a run uses them."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers_core import SMALL, load_tasks, tiny, train

from gfrlib import batches, losses, penalties, prediction, replay, training
from gfrlib import generator_training as makers
from gfrlib.config import make_config
from gfrlib.engine.machine import Machine
from gfrlib.engine.phase import Phase
from gfrlib.generators import Flow
from gfrlib.networks import split
from gfrlib.penalties import Past

CPU = torch.device("cpu")


def phase_of(config, name="generator", t=1):
    return Phase(name, t, 0, Machine.of(config))


# Drift --------------------------------------------------------------------------------


def test_drift_moves_the_old_classes_and_not_the_new(monkeypatch):
    """The new task's statistics are those of F_t already: to move them would count the
    drift twice.
    """
    config = tiny("gfr-gaussian-drift", **SMALL)
    stream = load_tasks(config)
    network, memory, _ = training.build(config, stream, CPU)
    for t in range(2):
        training.grow_head(network, config, stream.sizes, t)
    phase = phase_of(config, t=0)
    training.train_generator(memory, network, None, stream, 0, config, phase)
    old = memory.means[:3].clone()
    past = Past(network, memory, None, config, stream.sizes, 1)
    doubled = 2 * torch.eye(network.features)
    monkeypatch.setitem(
        training.DRIFTS, "linear", lambda a, b, means: (doubled, 0 * means)
    )
    phase = phase_of(config)
    training.train_generator(memory, network, past, stream, 1, config, phase)
    u, y = batches.real_features(network, stream, 1, config, phase)
    torch.testing.assert_close(memory.means[:3], 2 * old)
    for c in stream.classes(1):
        torch.testing.assert_close(memory.means[c], u[y == c].mean(0))


@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_moved_means_are_no_negative_features(kind):
    u, y = torch.rand(60, 3) + 1, torch.arange(60) % 2
    memory = replay.Gaussians(2, 3) if kind == "gaussian" else replay.Mixtures(2, 3, 2)
    memory.fit(u, y)
    memory.move(-torch.eye(3), torch.zeros(2, 3))
    assert (memory.means == 0).all()
    assert (getattr(memory, "centres", memory.means) == 0).all()


# Importances --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, importance, wanted",
    [
        ("ewc", "per-sample", [(0, 1), (3, 1)]),
        ("ewc", "batched", [(0, 32), (3, 32)]),
        ("ewc", "facil", [(0, 32), (3, 32)]),
        # one softmax: all its outputs compete for every image
        ("ewc-gan", "per-sample", [(0, 1), (0, 1)]),
    ],
)
def test_what_importances_are_measured_on(method, importance, wanted, monkeypatch):
    seen = []
    monkeypatch.setattr(
        penalties.Importance,
        "add",
        lambda self, network, images, first, *, batch, **_: seen.append((first, batch)),
    )
    train(tiny(method, **SMALL, importance=importance, importance_images=20))
    assert seen == wanted


def test_importances_are_kept_and_counted():
    """A number for each parameter of F, four bytes each."""
    config, sizes = tiny("ewc", **SMALL, importance_images=20), []
    outcome = train(
        config,
        observe=lambda t, network, _: sizes.append(
            4 * sum(p.numel() for p in network.stages.parameters())
        ),
    )
    assert [row["importances"] for row in outcome.bytes_kept] == sizes


# Prediction ---------------------------------------------------------------------------


def features_of(network, stream, images) -> np.ndarray:
    with torch.no_grad():
        F, _ = split(network.eval(), 4)
        return F(stream.normalise(images)).double().numpy()


def test_fecam_against_numpy_after_every_task():
    """The nearest of the classes seen so far, by distances computed anew."""
    kept, config = [], tiny("fecam", **SMALL)
    outcome = train(
        config, observe=lambda t, network, memory: kept.append(copy.deepcopy(network))
    )
    stream = load_tasks(config)
    u, y = features_of(kept[0], stream, stream.train_images), stream.train_labels
    u, y, eye = np.sqrt(u), y.numpy(), np.eye(u.shape[1], dtype=bool)
    for t, seen in enumerate((3, 5, 7)):
        rows = stream.test_labels < seen
        x = np.sqrt(features_of(kept[t], stream, stream.test_images[rows]))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        distances = []
        for c in range(seen):
            v = u[y == c]
            s = np.cov(v.T)
            s = s + np.where(eye, np.diag(s).mean(), s[~eye].mean())
            s = s / np.sqrt(np.outer(np.diag(s), np.diag(s)))
            away = x - v.mean(0) / np.linalg.norm(v.mean(0))
            distances.append((away @ np.linalg.inv(s) * away).sum(1))
        wanted = np.argmin(distances, axis=0)
        assert (outcome.predictions[t]["mahalanobis"] == wanted).mean() > 0.98


def test_a_class_that_was_never_seen_is_nearest_to_nothing():
    """Through a bottleneck all cosines may be negative, and an unseen mean has 0."""
    memory = replay.ClassMeans(3, 2)
    memory.fit(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    u = torch.tensor([[-1.0, 0.2]])
    seen = prediction.Seen(u, u, torch.tensor([0]), 1, [1], None, memory, None)
    assert prediction.nearest_mean(seen).shape == (1, 1)


# Generators ---------------------------------------------------------------------------


@pytest.mark.parametrize("method, cut", [("mergan", 0), ("block-2", 2)])
def test_a_generator_below_the_features_learns_from_its_own_task(method, cut):
    """Row numbers count within D_t: in task 1 they are not those of all images."""
    config = tiny(method, **SMALL)
    stream = load_tasks(config)
    network, _, _ = training.build(config, stream, CPU)
    stream = dataclasses.replace(stream, padding=0)  # the cached one stays
    count, real = batches.feature_source(network, stream, 1, config, phase_of(config))
    rows = torch.arange(0, count, 7)
    u, labels = real(rows)
    index = stream.train_index(1)
    assert count == len(index)
    assert torch.equal(labels, stream.train_labels[index[rows]])
    with torch.no_grad():
        F, _ = split(network.eval(), cut)
        wanted = F(stream.normalise(stream.train_images[index[rows]]))
    torch.testing.assert_close(u, wanted)


def test_images_are_replayed_over_the_whole_range_of_pixels():
    """Normalised pixels lie between about -2.5 and 2.5; maps are never negative."""
    found = {}
    for method in ("mergan", "block-1"):
        config = tiny(method)
        stream = load_tasks(config)
        _, memory, _ = training.build(config, stream, CPU)
        last = memory.generator.layers[-1]
        ends = []
        for bias in (-100.0, 100.0):
            torch.nn.init.constant_(last.bias, bias)
            with torch.no_grad():
                u = memory.sample(torch.arange(2), torch.Generator().manual_seed(0))
            ends.append((float(u.min()), float(u.max())))
        found[method] = ends
    assert found["mergan"] == [(-2.5, -2.5), (2.5, 2.5)]
    assert found["block-1"][0] == (0, 0) and found["block-1"][1][1] > 50


@pytest.mark.parametrize("row", ["gfr", "gfr-gaussian", "gfr-mixture", "gfr-flow"])
def test_every_memory_of_features_is_built_for_signs(row):
    config = make_config("example", row)
    assert replay.build_memory(config, 3, (16,), 0).signed
    assert not replay.build_memory(make_config("quick", row), 3, (16,), 0).signed


def test_a_flow_learns_features_of_mean_0_and_deviation_1():
    memory = Flow(2, 3, 4, 2, signed=True)
    u = torch.randn(500, 3) * torch.tensor([0.2, 1.0, 5.0]) + torch.tensor([3.0, 0, -1])
    memory.standardise(u)
    x = memory.inward(u)
    torch.testing.assert_close(x.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(3))


def test_a_flow_is_aligned_on_the_path_from_noise_to_the_old_features():
    """Mean over batch and dimensions of (v_t - v_{t-1})^2 at s x + (1 - s) z."""
    torch.manual_seed(0)
    old, new = Flow(5, 4, 8, 3), Flow(5, 4, 8, 3)
    u, z, s = torch.rand(30, 4) * 3, torch.randn(30, 4), torch.rand(30, 1)
    c = torch.arange(30) % 5
    new.standardise(u)
    losses_of = makers.flow_losses(new, SimpleNamespace(f=2.0, memory=old))
    _, parts = losses_of(u, c, z, s, u, c, z, s)
    at = s * (u - u.mean(0)) / u.std(0, correction=0) + (1 - s) * z
    apart = new.velocity(c, at, s) - old.velocity(c, at, s)
    assert float(parts["alignment"].detach()) == pytest.approx(
        float((apart**2).mean().detach()), rel=1e-4
    )


def test_old_replays_of_a_flow_are_all_different():
    """They are drawn 500 at a time; each class has 200."""
    memory = Flow(10, 4, 8, 2, signed=True)
    memory.velocity.forward = lambda labels, x, s: 0 * x
    past = SimpleNamespace(memory=memory, classes=10)
    real = makers.replay_source(past, phase_of(tiny("gfr-flow")))
    u, c = real(torch.arange(2000))
    assert len({tuple(row) for row in u.tolist()}) == 2000
    assert torch.bincount(c).tolist() == [200] * 10


def test_the_gap_that_is_logged_is_that_of_the_critics_means():
    """E D(real) - E D(replayed): above 0 where the critic tells them apart."""
    config = tiny("gfr")
    memory = replay.GAN(3, 4, 2, 8)
    memory.discriminator.forward = lambda c, u: u.sum(1)
    losses_of = makers.critic_losses(memory, config, phase_of(config))
    c, z = torch.zeros(6, dtype=torch.long), torch.randn(6, 2)
    u = torch.full((6, 4), 5.0)
    _, parts = losses_of(u, c, z, torch.rand(6, 1))
    gap = 20 - float(memory.generator(c, z).sum(1).mean().detach())
    assert float(parts["wasserstein"]) == pytest.approx(gap) and gap > 0


def test_the_alignment_of_large_maps_fits_half_precision():
    """65,536 squares of 4 are more than float16 holds."""
    new, old = torch.full((2, 1, 256, 256), 2.0), torch.zeros(2, 1, 256, 256)
    found = losses.replay_alignment(new.half(), old.half())
    assert float(found) == pytest.approx(128 * 4 * 65_536)


@pytest.mark.parametrize("size, cells", [(8, 4), (16, 4)])
def test_the_small_network_keeps_four_by_four_places(size, cells):
    from gfrlib.networks import feature_shape, small_cnn

    network = small_cnn(1, 4, size)
    assert feature_shape(network, 3, (1, size, size)) == (8, cells, cells)
