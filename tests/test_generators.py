"""Mixtures and flows: they find modes and moments that are known, and keep old ones."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers_core import tiny, train
from sklearn.mixture import GaussianMixture

from gfrlib import losses
from gfrlib.config import UserError, make_config
from gfrlib.generator_training import flow_losses
from gfrlib.generators import Flow, carried
from gfrlib.memory import state_bytes
from gfrlib.replay import Gaussians, Mixtures, build_memory

MODES = torch.tensor([[-3.0, 0.0], [3.0, 0.0]])


def two_classes(count: int = 1500) -> tuple[torch.Tensor, torch.Tensor]:
    """Class 0: two clusters at (-3, 0) and (3, 0), a third and two thirds of it,
    deviation 0.3. Class 1: one cluster around (0, 4) whose features go together.
    """
    rng = torch.Generator().manual_seed(3)
    noise = torch.randn(2, count, 2, generator=rng)
    which = (torch.arange(count) >= count // 3).long()
    zero = MODES[which] + 0.3 * noise[0]
    together = torch.tensor([[1.0, 0.0], [0.9, 0.3]])
    one = noise[1] @ together.T + torch.tensor([0.0, 4.0])
    return torch.cat([zero, one]), torch.arange(2).repeat_interleave(count)


def drawn(memory, c: int, count: int = 20_000) -> torch.Tensor:
    with torch.no_grad():
        rng = torch.Generator().manual_seed(0)
        return memory.sample(torch.full((count,), c), rng)


def shares(u: torch.Tensor) -> tuple[float, float]:
    """Shares of the samples within 1 of class 0's left and right cluster."""
    near = (torch.cdist(u, MODES) < 1).double().mean(0)
    return float(near[0]), float(near[1])


@pytest.fixture(scope="module")
def mixture():
    memory = Mixtures(2, 2, 2, signed=True)
    memory.fit(*two_classes())
    return memory


@pytest.fixture(scope="module")
def flow():
    """Trained on both classes by the library's own loss; 40 Euler steps."""
    u, c = two_classes()
    torch.manual_seed(0)
    memory = Flow(2, 2, 64, 40, signed=True)
    memory.standardise(u)
    losses_of = flow_losses(memory, None)
    optimizer = torch.optim.Adam(memory.velocity.parameters(), lr=4e-3)
    rng = torch.Generator().manual_seed(1)
    total = 1500
    for step in range(total):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / total)
        rows = torch.randint(0, len(u), (256,), generator=rng)
        z, s = memory.latent(256, rng), torch.rand(256, 1, generator=rng)
        optimizer.zero_grad()
        losses_of(u[rows], c[rows], z, s)[0].backward()
        optimizer.step()
    return memory


def test_a_mixture_finds_both_clusters_and_a_gaussian_fills_the_gap(mixture):
    left, right = shares(drawn(mixture, 0))
    assert left == pytest.approx(1 / 3, abs=0.02)
    assert right == pytest.approx(2 / 3, abs=0.02)
    one = Gaussians(2, 2, "full", signed=True)
    one.fit(*two_classes())
    assert sum(shares(drawn(one, 0))) < 0.6


def test_a_mixture_has_the_moments_of_its_class(mixture):
    u, c = two_classes()
    found, real = drawn(mixture, 0), u[c == 0]
    assert torch.allclose(found.mean(0), real.mean(0), atol=0.05)
    assert torch.allclose(torch.cov(found.T), torch.cov(real.T), atol=0.15)
    assert torch.allclose(mixture.means[0], real.mean(0))


def test_one_component_is_the_diagonal_gaussian():
    u, c = two_classes()
    one, diagonal = Mixtures(2, 2, 1, signed=True), Gaussians(2, 2, signed=True)
    one.fit(u, c)
    diagonal.fit(u, c)
    assert torch.allclose(one.centres[:, 0], diagonal.means, atol=1e-5)
    assert torch.allclose(one.spreads[:, 0], diagonal.spread, rtol=3e-3), (
        "but for the ridge"
    )


def test_the_components_are_scikit_learns(mixture):
    u, c = two_classes()
    own = u[c == 1].double().numpy()
    ridge = 1e-4 * own.var(axis=0).mean() + 1e-8
    reference = GaussianMixture(
        2, covariance_type="diag", reg_covar=ridge, random_state=0
    ).fit(own)
    assert np.allclose(mixture.centres[1].numpy(), reference.means_, atol=1e-5)
    assert np.allclose(mixture.shares[1].numpy(), reference.weights_, atol=1e-6)
    spread = mixture.spreads[1].square().numpy()
    assert np.allclose(spread, reference.covariances_, rtol=1e-4)


def test_a_class_with_fewer_images_than_components():
    memory = Mixtures(3, 2, 5)
    memory.fit(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([1, 1]))
    assert memory.shares[1].tolist() == [0.5, 0.5, 0, 0, 0]
    u = drawn(memory, 1, 100)
    near = torch.cdist(u, torch.tensor([[1.0, 2.0], [3.0, 0.0]])).amin(1)
    assert float(near.max()) < 0.2 and float(u.min()) >= 0
    assert memory.nbytes() == {"mixtures": 4 * (5 + 2 * 5 * 2)}, "of one class"


def test_a_class_of_one_image():
    memory = Mixtures(1, 3, 4)
    memory.fit(torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([0]))
    assert memory.shares[0].tolist() == [1, 0, 0, 0]
    assert torch.allclose(drawn(memory, 0, 50), torch.tensor([1.0, 0, 2]), atol=1e-2)


def test_equal_features_are_one_cluster(recwarn):
    memory = Mixtures(1, 3, 4)
    memory.fit(torch.ones(10, 3), torch.zeros(10, dtype=torch.long))
    assert torch.allclose(drawn(memory, 0, 50), torch.ones(50, 3), atol=1e-2)
    assert not list(recwarn)


def test_a_mixture_moves_with_the_features(mixture):
    u, c = two_classes()
    W = torch.tensor([[0.0, 2.0], [-1.0, 0.0]])  # a turn and a stretch
    b = torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    moved = Mixtures(2, 2, 2, signed=True)
    moved.load_state_dict(mixture.state_dict())
    moved.move(W, b)
    found, wanted = drawn(moved, 0), u[c == 0] @ W.T + b[0]
    assert torch.allclose(found.mean(0), wanted.mean(0), atol=0.1)
    assert torch.allclose(torch.cov(found.T), torch.cov(wanted.T), atol=0.3)
    assert torch.allclose(moved.means[1], u[c == 1].mean(0) @ W.T + b[1], atol=1e-4)


def test_a_flow_finds_both_clusters(flow):
    left, right = shares(drawn(flow, 0, 4000))
    assert left == pytest.approx(1 / 3, abs=0.06)
    assert right == pytest.approx(2 / 3, abs=0.06)


def test_a_flow_knows_which_features_go_together(flow):
    u, c = two_classes()
    found, real = drawn(flow, 1, 4000), u[c == 1]
    assert torch.allclose(found.mean(0), real.mean(0), atol=0.15)
    correlation = torch.corrcoef(found.T)[0, 1]
    assert float(correlation) == pytest.approx(
        float(torch.corrcoef(real.T)[0, 1]), abs=0.05
    )


def test_the_best_velocity_of_one_point_leads_there():
    """If x is always the same, v = (x - x_s) / (1 - s) has no loss, and one Euler step
    from any z ends there.
    """
    point = torch.tensor([[2.0, -1.0]])
    z = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    s = torch.rand(64, 1, generator=torch.Generator().manual_seed(1)) * 0.9
    x = point.expand(64, 2)
    best = (x - (s * x + (1 - s) * z)) / (1 - s)
    assert float(losses.flow_matching(best, x, z)) == pytest.approx(0, abs=1e-10)
    assert float(losses.flow_matching(best + 1, x, z)) == pytest.approx(1, abs=1e-4)


def test_euler_steps_follow_a_known_velocity():
    """With v = x, k steps multiply by (1 + 1/k)^k; then scale, shift and the ReLU."""
    memory = Flow(1, 2, 4, 4)
    memory.velocity.forward = lambda labels, x, s: x
    memory.scale.copy_(torch.tensor([2.0, 1.0]))
    memory.shift.copy_(torch.tensor([0.5, 0.0]))
    z = torch.tensor([[1.0, -1.0]])
    found = memory.replay(torch.zeros(1, dtype=torch.long), z)
    assert found.tolist() == [[pytest.approx(0.5 + 2 * 1.25**4), 0.0]]


def test_midpoint_steps_follow_a_known_velocity():
    """With v = x, k steps multiply by (1 + h + h^2 / 2)^k, h = 1/k; with v = 2 s they
    are exact: x(1) = z + 1, where Euler steps end at z + 1 - 1/k.
    """
    memory = Flow(1, 2, 4, 4, "midpoint", signed=True)
    memory.velocity.forward = lambda labels, x, s: x
    z, c = torch.tensor([[1.0, -1.0]]), torch.zeros(1, dtype=torch.long)
    grown = (1 + 0.25 + 0.25**2 / 2) ** 4
    assert memory.replay(c, z).tolist() == [
        [pytest.approx(grown), pytest.approx(-grown)]
    ]
    for solver, off in (("midpoint", 0.0), ("euler", 0.25)):
        found = carried(lambda x, s: 2 * s.expand_as(x), z, 4, solver)
        torch.testing.assert_close(found, z + 1 - off)


@pytest.mark.parametrize(
    "width, euler, midpoint", [(1.0, 0.88, 1.0), (0.1, 0.62, 0.88)]
)
def test_few_euler_steps_end_in_a_cloud_that_is_too_narrow(width, euler, midpoint):
    """The arrows of N(0, width^2) are known: they scale z, to width where steps are
    many. The figures stand in Flow's docstring.
    """

    def v(x, s):
        return x * (s * width**2 - (1 - s)) / ((s * width) ** 2 + (1 - s) ** 2)

    z = torch.ones(1, 1, dtype=torch.float64)
    for solver, steps, kept in (
        ("euler", 10, euler), ("midpoint", 5, midpoint), ("euler", 10**4, 1.0)
    ):  # fmt: skip
        found = float(carried(v, z, steps, solver)) / width
        assert found == pytest.approx(kept, abs=0.005)


def test_the_start_and_the_end_are_two_times():
    torch.manual_seed(0)
    velocity = Flow(2, 3, 8, 1).velocity
    x, c = torch.ones(1, 3), torch.zeros(1, dtype=torch.long)
    first, last = (velocity(c, x, torch.full((1, 1), s)) for s in (0.0, 1.0))
    assert not torch.allclose(first, last)


def test_a_dead_feature_stays_dead():
    memory = Flow(1, 3, 4, 5)
    u = torch.rand(100, 3, generator=torch.Generator().manual_seed(0))
    u[:, 1] = 0
    memory.standardise(u)
    assert torch.isfinite(memory.inward(u)).all()
    assert float(drawn(memory, 0, 100)[:, 1].max()) < 0.1


@pytest.mark.parametrize("preset", ["quick", "example", "slim", "medium", "paper"])
def test_a_flow_is_no_larger_than_the_gan(preset):
    bytes_of = {}
    for method in ("gfr", "gfr-flow"):
        config = make_config(preset, method)
        bytes_of[method] = state_bytes(build_memory(config, 100, (128,), 0))
    assert 0.5 < bytes_of["gfr-flow"] / bytes_of["gfr"] <= 1


def learned_on(flow, steps: int = 200, **past) -> Flow:
    """A copy of the flow that has learned more of class 1, and nothing of class 0 but
    what the alignment repeats, where there is a past.
    """
    u, c = two_classes()
    own, memory = u[c == 1], copy.deepcopy(flow)
    losses_of = flow_losses(memory, SimpleNamespace(**past) if past else None)
    optimizer = torch.optim.Adam(memory.velocity.parameters(), lr=4e-3)
    rng = torch.Generator().manual_seed(2)
    old = drawn(flow, 0, 1000)
    for _ in range(steps):
        rows = torch.randint(0, 1000, (2, 128), generator=rng)
        z, s = memory.latent(256, rng), torch.rand(256, 1, generator=rng)
        labels = torch.arange(2).repeat_interleave(128)
        inputs = [own[rows[0]], labels[128:], z[:128], s[:128]]
        if past:
            inputs += [old[rows[1]], labels[:128], z[128:], s[128:]]
        optimizer.zero_grad()
        losses_of(*inputs)[0].backward()
        optimizer.step()
    return memory


def test_alignment_keeps_what_the_old_flow_replays(flow):
    """Class 0 is not seen again; the same noise must go where it went."""
    before = drawn(flow, 0, 1000)
    moved = [
        float((drawn(learned_on(flow, **past), 0, 1000) - before).norm(dim=1).mean())
        for past in ({}, dict(f=1.0, memory=flow))
    ]
    assert moved[1] < 0.3 * moved[0]


def test_a_flow_has_the_gans_number_of_updates():
    config = tiny("gfr-flow", generator_steps_base=6, critic_steps=3)
    outcome = train(config)
    [first] = [
        s for s in outcome.seconds if (s["task"], s["phase"]) == (0, "generator")
    ]
    assert first["steps"] == 24


@pytest.mark.parametrize("method", ["gfr-mixture", "gfr-flow"])
def test_drift_compensation(method):
    if method == "gfr-mixture":
        assert make_config("quick", method, drift="linear").drift == "linear"
    else:
        with pytest.raises(UserError, match="gaussian, mixture or gan"):
            make_config("quick", method, drift="linear")
