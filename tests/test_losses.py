"""Every equation against a float64 reference: NumPy, by hand, finite differences."""

import math

import numpy as np
import pytest
import torch

from gfrlib import losses
from gfrlib.config import make_config
from gfrlib.networks import Discriminator
from gfrlib.penalties import frozen_copy, old_new_ratio

RNG = np.random.default_rng(7)


def t64(array) -> torch.Tensor:
    return torch.tensor(np.asarray(array), dtype=torch.float64)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# --- classification -------------------------------------------------------------------


def test_classification_is_the_mean_negative_log_probability():
    logits, labels = RNG.normal(size=(9, 5)) * 3, RNG.integers(0, 5, 9)
    expected = -np.log(softmax(logits)[np.arange(9), labels]).mean()
    assert losses.classification(
        t64(logits), torch.tensor(labels)
    ).item() == pytest.approx(expected, rel=1e-12)


def test_classification_of_half_precision_logits_is_computed_in_float32():
    logits = torch.tensor(RNG.normal(size=(64, 10)) * 5).bfloat16()
    labels = torch.tensor(RNG.integers(0, 10, 64))
    value = losses.classification(logits, labels)
    assert value.dtype == torch.float32
    wide = logits.double().numpy()
    expected = -np.log(softmax(wide)[np.arange(64), labels.numpy()]).mean()
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_balanced_classification_by_hand():
    # one new task beside f = 5 old ones: (3 + 5 x 1.2) / 6
    found = losses.balanced_classification(t64(3.0), t64(1.2), 5.0).item()
    assert found == pytest.approx(1.5, rel=1e-14)
    found = losses.balanced_classification(t64(3.0), t64(1.0), 1.0).item()
    assert found == pytest.approx(2.0, rel=1e-14)


# --- feature distillation, Equation 4 -------------------------------------------------

DISTANCES = {
    "batch": lambda a, b: math.sqrt(((a - b) ** 2).sum()) * math.sqrt(128 / len(a)),
    "sample": lambda a, b: np.sqrt(
        ((a - b) ** 2).reshape(len(a), -1).sum(axis=1)
    ).mean(),
    "mse": lambda a, b: ((a - b) ** 2).mean(),
    "cosine": lambda a, b: np.mean(
        [
            1 - x.ravel() @ y.ravel() / np.linalg.norm(x) / np.linalg.norm(y)
            for x, y in zip(a, b)
        ]
    ),
}


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("shape", [(6, 11), (128, 3), (5, 4, 3, 2)])
def test_feature_distillation_against_numpy(distance, shape):
    u, old = RNG.normal(size=shape), RNG.normal(size=shape)
    value = losses.feature_distillation(t64(u), t64(old), distance=distance).item()
    assert value == pytest.approx(DISTANCES[distance](u, old), rel=1e-12)


def test_feature_distillation_by_hand():
    u, old = t64([[3.0, 0.0], [0.0, 4.0]]), torch.zeros(2, 2, dtype=torch.float64)
    # "batch": times sqrt(128 / 2)
    for distance, expected in {"batch": 5 * 8, "sample": 3.5, "mse": 25 / 4}.items():
        found = losses.feature_distillation(u, old, distance=distance).item()
        assert found == pytest.approx(expected, rel=1e-14), distance
    right_angle = losses.feature_distillation(
        t64([[1.0, 0.0]]), t64([[0.0, 2.0]]), distance="cosine"
    )
    assert right_angle.item() == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("distance", DISTANCES)
def test_feature_distillation_does_not_depend_on_the_batch_size(distance):
    u, old = t64(RNG.normal(size=(16, 8))), t64(RNG.normal(size=(16, 8)))
    once = losses.feature_distillation(u, old, distance=distance).item()
    twice = losses.feature_distillation(
        torch.cat([u, u]), torch.cat([old, old]), distance=distance
    ).item()
    assert twice == pytest.approx(once, rel=1e-12)


def test_batch_distance_at_128_is_the_plain_norm():
    u, old = t64(RNG.normal(size=(128, 8))), t64(RNG.normal(size=(128, 8)))
    assert losses.feature_distillation(u, old).item() == pytest.approx(
        torch.dist(u, old, 2).item(), rel=1e-14
    )


@pytest.mark.parametrize("distance", DISTANCES)
def test_zero_distance_has_a_finite_gradient(distance):
    old = t64(RNG.normal(size=(4, 6)))
    u = old.clone().requires_grad_(True)
    value = losses.feature_distillation(u, old, distance=distance)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(u.grad).all()


def test_batch_distance_of_half_precision_is_summed_in_float32():
    # 16,384 squares of 1/16: a bfloat16 sum would stop growing long before 64 = 8^2
    u, old = (
        torch.full((128, 128), 1 / 16, dtype=torch.bfloat16),
        torch.zeros(128, 128, dtype=torch.bfloat16),
    )
    value = losses.feature_distillation(u, old)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(8.0, rel=1e-6)


def test_feature_distillation_gradient_by_finite_differences():
    u, old = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 4))
    for distance, reference in DISTANCES.items():
        x = t64(u).requires_grad_(True)
        losses.feature_distillation(x, t64(old), distance=distance).backward()
        for i, j in ((0, 0), (2, 3), (1, 2)):
            step = np.zeros_like(u)
            step[i, j] = 1e-6
            slope = (reference(u + step, old) - reference(u - step, old)) / 2e-6
            assert x.grad[i, j].item() == pytest.approx(slope, rel=1e-5, abs=1e-8), (
                distance
            )


def test_unknown_forms_are_refused():
    u = torch.ones(2, 3)
    with pytest.raises(ValueError, match="distance"):
        losses.feature_distillation(u, u, distance="euclid")
    with pytest.raises(ValueError, match="alignment"):
        losses.replay_alignment(u, u, form="sum")


# --- LwF ------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.5])
def test_lwf_distillation_has_one_softmax_per_old_head(temperature):
    sizes = [4, 2, 3]
    # three newer outputs beside the old ones
    logits, old = RNG.normal(size=(7, 12)) * 2, RNG.normal(size=(7, 9)) * 2
    expected, start = 0.0, 0
    for size in sizes:
        columns = slice(start, start + size)
        target = softmax(old[:, columns] / temperature)
        expected -= (
            (target * np.log(softmax(logits[:, columns] / temperature)))
            .sum(axis=1)
            .mean()
        )
        start += size
    value = losses.lwf_distillation(
        t64(logits), t64(old), sizes, temperature=temperature
    ).item()
    assert value == pytest.approx(expected * temperature**2, rel=1e-12)


def test_lwf_distillation_by_hand():
    # one old head of two classes, T = 1: target (3/4, 1/4), output (1/2, 1/2):
    # the cross-entropy is log 2
    old, logits = t64([[math.log(3.0), 0.0]]), t64([[1.0, 1.0]])
    assert losses.lwf_distillation(
        logits, old, [2], temperature=1.0
    ).item() == pytest.approx(math.log(2), rel=1e-14)
    # equal outputs leave the target's entropy, T = 1
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert losses.lwf_distillation(
        old, old, [2], temperature=1.0
    ).item() == pytest.approx(entropy, rel=1e-14)


def test_lwf_distillation_ignores_a_shift_of_one_head_and_the_new_outputs():
    sizes, old = [3, 2], t64(RNG.normal(size=(5, 5)))
    logits = t64(RNG.normal(size=(5, 7)))
    value = losses.lwf_distillation(logits, old, sizes)
    moved = logits.clone()
    moved[:, 3:5] += 4.0  # a softmax over all old outputs would notice
    moved[:, 5:] = 99.0
    assert losses.lwf_distillation(moved, old, sizes).item() == pytest.approx(
        value.item(), rel=1e-12
    )
    moved[:, 3] += 1.0
    assert losses.lwf_distillation(moved, old, sizes).item() != pytest.approx(
        value.item(), rel=1e-6
    )


# --- the GAN --------------------------------------------------------------------------


def test_wasserstein_terms_by_hand():
    real, fake = t64([1.0, 4.0]), t64([2.0, -1.0, 2.0])
    assert losses.critic(real, fake).item() == pytest.approx(1.0 - 2.5)
    assert losses.generator(fake).item() == pytest.approx(-1.0)


def test_gradient_penalty_of_a_linear_critic_by_hand():
    w = t64([3.0, 4.0])  # ||w|| = 5 everywhere, whatever the mixture: (5 - 1)^2

    def critic(labels, u):
        return u @ w

    real, fake = t64(RNG.normal(size=(6, 2))), t64(RNG.normal(size=(6, 2)))
    value = losses.gradient_penalty(
        critic, torch.zeros(6, dtype=torch.long), real, fake, t64(RNG.random((6, 1)))
    )
    assert value.item() == pytest.approx(16.0, rel=1e-12)


def test_gradient_penalty_is_taken_at_the_mixture():
    # D(u) = |u|^2 / 2 has the gradient u itself: the penalty reads off where it
    # was evaluated
    real, fake = t64([[3.0, 4.0], [0.0, 2.0]]), t64([[0.0, 0.0], [6.0, 2.0]])
    mix = t64([[1.0], [0.5]])  # points (3, 4) and (3, 2)
    value = losses.gradient_penalty(
        lambda c, u: u.square().sum(1) / 2,
        torch.zeros(2, dtype=torch.long),
        real,
        fake,
        mix,
    )
    assert value.item() == pytest.approx(
        ((5 - 1) ** 2 + (math.sqrt(13) - 1) ** 2) / 2, rel=1e-12
    )


def numpy_critic(weights: dict, labels: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The projection discriminator, written again: w h + <V c, h> + b.

    Its h has two hidden layers with slope 0.2.
    """
    h = u
    for layer in ("phi.0", "phi.2"):
        h = h @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
        h = np.where(h > 0, h, 0.2 * h)
    return (
        h @ weights["score.weight"][0]
        + weights["score.bias"][0]
        + (weights["projection.weight"][labels] * h).sum(1)
    )


@pytest.fixture(scope="module")
def discriminator():
    torch.manual_seed(3)
    D = Discriminator(classes=5, hidden=7, features=6).double()
    with torch.no_grad():
        for p in D.parameters():
            p.normal_(0, 0.6)
    return D


def test_discriminator_against_numpy(discriminator):
    weights = {k: v.numpy() for k, v in discriminator.state_dict().items()}
    labels, u = RNG.integers(0, 5, 8), RNG.normal(size=(8, 6))
    assert discriminator(
        torch.tensor(labels), t64(u)
    ).detach().numpy() == pytest.approx(numpy_critic(weights, labels, u), rel=1e-12)


def test_gradient_penalty_against_finite_differences(discriminator):
    weights = {k: v.numpy() for k, v in discriminator.state_dict().items()}
    labels, real, fake, mix = (
        RNG.integers(0, 5, 8),
        *RNG.normal(size=(2, 8, 6)),
        RNG.random((8, 1)),
    )
    point, gradient = mix * real + (1 - mix) * fake, np.zeros((8, 6))
    for j in range(6):
        step = np.zeros(6)
        step[j] = 1e-6
        gradient[:, j] = (
            numpy_critic(weights, labels, point + step)
            - numpy_critic(weights, labels, point - step)
        ) / 2e-6
    expected = ((np.sqrt((gradient**2).sum(1)) - 1) ** 2).mean()
    value = losses.gradient_penalty(
        discriminator, torch.tensor(labels), t64(real), t64(fake), t64(mix)
    )
    assert value.item() == pytest.approx(expected, rel=1e-6)
    grads = torch.autograd.grad(
        value, [discriminator.phi[0].weight, discriminator.projection.weight]
    )
    # it reaches the critic's weights (create_graph)
    assert all(g.abs().sum() > 0 for g in grads)


def test_gradient_penalty_leaves_the_generator_alone():
    fake = t64(RNG.normal(size=(4, 3))).requires_grad_(True)
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    losses.gradient_penalty(
        lambda c, u: scale * u.square().sum(1),
        torch.zeros(4, dtype=torch.long),
        t64(RNG.normal(size=(4, 3))),
        fake,
        t64(RNG.random((4, 1))),
    ).backward()
    assert fake.grad is None and scale.grad is not None


def test_replay_alignment_in_both_forms():
    now, old = RNG.normal(size=(32, 9)), RNG.normal(size=(32, 9))
    per_row = ((now - old) ** 2).sum(axis=1)
    code = losses.replay_alignment(t64(now), t64(old)).item()
    assert code == pytest.approx(per_row.sum() * 128 / 32, rel=1e-12)
    paper = losses.replay_alignment(
        t64(now), t64(old), form="paper", old_classes=50
    ).item()
    assert paper == pytest.approx(50 * per_row.mean(), rel=1e-12)
    # at the paper's batch the code's form is a plain sum
    now, old = RNG.normal(size=(2, 128, 9))
    plain = losses.replay_alignment(t64(now), t64(old)).item()
    assert plain == pytest.approx(((now - old) ** 2).sum())


@pytest.mark.parametrize("form", ["code", "paper"])
def test_replay_alignment_does_not_depend_on_the_batch_size(form):
    now, old = t64(RNG.normal(size=(8, 5))), t64(RNG.normal(size=(8, 5)))
    once = losses.replay_alignment(now, old, form=form, old_classes=4).item()
    twice = losses.replay_alignment(
        torch.cat([now, now]), torch.cat([old, old]), form=form, old_classes=4
    ).item()
    assert twice == pytest.approx(once, rel=1e-12)


# --- the penalty column ---------------------------------------------------------------


def test_the_codes_integer_division_gives_the_same_f_in_every_split_of_the_paper():
    """old_task_factor = base // m + t - 1; ours keeps the fraction."""
    for base, new, tasks in ((50, 10, 5), (50, 5, 10), (50, 2, 25), (25, 25, 3)):
        sizes = (base, *[new] * tasks)
        for t in range(1, tasks + 1):
            ratio = old_new_ratio(make_config("quick", "gfr"), sizes, t)
            assert ratio == base // new + t - 1
    odd = old_new_ratio(make_config("quick", "gfr"), (50, 20, 20), 1)
    assert odd == 2.5 and 50 // 20 == 2


def test_old_new_ratio_is_old_classes_per_new_class():
    gfr = make_config("quick", "gfr")
    sizes = (50, 10, 10, 10, 10, 10)
    assert [old_new_ratio(gfr, sizes, t) for t in range(1, 6)] == [5, 6, 7, 8, 9]
    assert (
        old_new_ratio(make_config("quick", "gfr", old_task_weighting=False), sizes, 3)
        == 1
    )


def test_frozen_copy_neither_follows_nor_learns(discriminator):
    copy = frozen_copy(discriminator)
    before = copy.score.weight.clone()
    with torch.no_grad():
        discriminator.score.weight.add_(1.0)
    assert torch.equal(copy.score.weight, before)
    assert not any(p.requires_grad for p in copy.parameters()) and not copy.training
    assert frozen_copy(None) is None
