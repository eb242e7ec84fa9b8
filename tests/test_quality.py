"""Measures of replayed features, against cases with a known answer and brute force."""

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.linear_model import LogisticRegression

from gfrlib import quality


def cloud(rows: int, d: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0):
    rng = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, d, generator=rng, dtype=torch.float64) + shift


def exactly(mean: torch.Tensor, covariance: torch.Tensor, rows: int = 200):
    """Features whose sample mean and covariance are exactly these."""
    u = cloud(rows, len(mean))
    u = (u - u.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(u.T))).T
    return u @ torch.linalg.cholesky(covariance).T + mean


def by_scipy(u, v):
    """The Fréchet distance as pytorch-fid and others write it."""
    (m, s), (n, r) = ((x.mean(0), np.cov(x.numpy().T)) for x in (u, v))
    root = scipy.linalg.sqrtm(s @ r).real
    return float((m - n).square().sum()) + np.trace(s + r - 2 * root)


# --- Fréchet distance -----------------------------------------------------------------


def test_the_distance_of_two_gaussians_in_closed_form():
    """Diagonal covariances: |mu - mu'|^2 + sum (sigma - sigma')^2."""
    u = exactly(
        torch.tensor([0.0, 0.0]).double(), torch.diag(torch.tensor([1.0, 4.0])).double()
    )
    v = exactly(
        torch.tensor([3.0, 4.0]).double(), torch.diag(torch.tensor([9.0, 4.0])).double()
    )
    assert quality.frechet(u, v) == pytest.approx(25 + (1 - 3) ** 2 + 0)
    assert quality.spread(v) == pytest.approx(13)


def test_the_distance_of_covariances_that_do_not_commute():
    mean = torch.zeros(2).double()
    s = torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()
    r = torch.tensor([[1.0, 0.0], [0.0, 3.0]]).double()
    # tr (S R)^(1/2) = sqrt(tr SR + 2 sqrt(det SR)) for 2 x 2 matrices
    root = (torch.trace(s @ r) + 2 * torch.linalg.det(s @ r).sqrt()).sqrt()
    expected = 4 + 4 - 2 * float(root)
    assert quality.frechet(exactly(mean, s), exactly(mean, r)) == pytest.approx(
        expected
    )


@pytest.mark.parametrize(("rows", "d"), [(300, 6), (7, 6), (40, 3)])
def test_the_distance_equals_scipys(rows, d):
    u, v = cloud(rows, d), cloud(rows + 3, d, seed=1) @ cloud(d, d, seed=2) + 0.5
    assert quality.frechet(u, v) == pytest.approx(by_scipy(u, v), rel=1e-6)


def test_fewer_images_than_dimensions_do_no_harm():
    """scipy's root of a singular product loses digits: known cases instead."""
    u = torch.zeros(4, 50).double()
    u[:, 0] = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    v = torch.zeros(6, 50).double()
    v[:, 1] = torch.tensor([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0])
    # in different directions nothing is shared: the two spreads, 4/3 and 6/5
    assert quality.frechet(u, v) == pytest.approx(4 / 3 + 6 / 5)
    assert quality.frechet(u, 3 * u) == pytest.approx(4 * 4 / 3)
    wide = cloud(20, 300)
    assert quality.frechet(wide, wide) == pytest.approx(0, abs=1e-9)
    assert quality.frechet(wide, wide + 1) == pytest.approx(300)


# --- precision and recall, density and coverage ---------------------------------------


def by_hand(real, replayed, k, k_coverage):
    """Loops over points, from the two papers' sums."""

    def radius(points, i, k):
        others = [
            float((points[i] - points[j]).norm()) for j in range(len(points)) if j != i
        ]
        return sorted(others)[k - 1]

    def covered(points, radii, x):
        return [float((p - x).norm()) <= r for p, r in zip(points, radii)]

    of_real = [radius(real, i, k) for i in range(len(real))]
    of_replayed = [radius(replayed, i, k) for i in range(len(replayed))]
    balls = [radius(real, i, k_coverage) for i in range(len(real))]
    inside = np.array([covered(real, balls, x) for x in replayed])
    return (
        np.mean([any(covered(real, of_real, x)) for x in replayed]),
        np.mean([any(covered(replayed, of_replayed, x)) for x in real]),
        inside.sum() / (k_coverage * len(replayed)),
        inside.any(0).mean(),
    )


@pytest.mark.parametrize("shift", [0.0, 0.7, 2.0])
@pytest.mark.parametrize(("k", "k_coverage"), [(3, 5), (1, 2)])
def test_against_loops(shift, k, k_coverage):
    real, replayed = cloud(30, 3), cloud(25, 3, seed=1, scale=0.8, shift=shift)
    found = (
        *quality.precision_recall(real, replayed, k),
        *quality.density_coverage(real, replayed, k_coverage),
    )
    assert found == pytest.approx(by_hand(real, replayed, k, k_coverage))


def test_five_points_on_a_line():
    """Real 0, 1, 3; replayed 1.5 and 10. Radii with k = 1: 1, 1, 2; replayed: 8.5."""
    real = torch.tensor([[0.0], [1.0], [3.0]])
    replayed = torch.tensor([[1.5], [10.0]])
    assert quality.precision_recall(real, replayed, 1) == (0.5, 1.0)
    # 1.5 lies in the balls of 1 and 3, 10 in none
    assert quality.density_coverage(real, replayed, 1) == pytest.approx((1.0, 2 / 3))


def test_equal_sets_are_perfect():
    u = cloud(60, 8)
    assert quality.precision_recall(u, u.flip(0)) == (1, 1)
    density, coverage = quality.density_coverage(u, u.flip(0))
    assert coverage == 1 and density == pytest.approx(6 / 5)  # itself, and 5 others


def test_a_dropped_mode_halves_coverage_and_recall_but_not_precision():
    modes = torch.cat([cloud(200, 4), cloud(200, 4, seed=1, shift=50)])
    one = cloud(400, 4, seed=2)
    precision, recall = quality.precision_recall(modes, one)
    _, coverage = quality.density_coverage(modes, one)
    assert precision > 0.9
    assert recall == pytest.approx(0.5, abs=0.05)
    assert coverage == pytest.approx(0.5, abs=0.03)


def test_a_shrunk_cloud_is_precise_and_recalls_little():
    real, shrunk = cloud(300, 6), cloud(300, 6, seed=1, scale=0.3)
    precision, recall = quality.precision_recall(real, shrunk)
    density, coverage = quality.density_coverage(real, shrunk)
    assert precision == 1 and recall < 0.1
    assert density > 1 and coverage < 0.7
    # and a cloud that is too wide the other way round
    precision, recall = quality.precision_recall(shrunk, real)
    assert precision < 0.1 and recall == 1


def test_one_outlier_misleads_precision_more_than_density():
    """Naeem et al. 2020, Figure 1: a far real feature's ball swallows what is wrong."""
    real = torch.cat([cloud(100, 2), torch.tensor([[8.0, 8.0]]).double()])
    wrong = cloud(100, 2, seed=1, scale=0.1, shift=4)
    assert quality.precision_recall(real, wrong)[0] == 1
    assert quality.density_coverage(real, wrong)[0] < 0.3


def test_samples_on_a_line_recall_nothing():
    """The official code's Gaussians: one noise value for the whole vector."""
    real = cloud(200, 10)
    line = cloud(200, 1, seed=1) * torch.ones(10)
    assert quality.precision_recall(real, line)[1] < 0.05
    assert quality.frechet(real, line) > quality.frechet(real, cloud(200, 10, seed=2))


# --- invariances ----------------------------------------------------------------------


def test_order_rotation_and_place_change_nothing():
    real, replayed = cloud(50, 5), cloud(40, 5, seed=1, scale=1.3)
    turn = torch.linalg.qr(cloud(5, 5, seed=2))[0]
    again = (real @ turn + 7).flip(0), (replayed @ turn + 7)[torch.randperm(40)]
    for measure in (
        quality.frechet,
        quality.precision_recall,
        quality.density_coverage,
    ):
        assert measure(*again) == pytest.approx(measure(real, replayed)), measure


def test_the_unit_of_features_matters_to_the_distance_alone():
    real, replayed = cloud(50, 5), cloud(40, 5, seed=1, scale=1.3)
    tenfold = 10 * real, 10 * replayed
    pairs = quality.precision_recall, quality.density_coverage
    assert all(each(*tenfold) == pytest.approx(each(real, replayed)) for each in pairs)
    distance = quality.frechet(real, replayed)
    assert quality.frechet(*tenfold) == pytest.approx(100 * distance)


# --- class by class -------------------------------------------------------------------


def test_a_mix_up_of_classes_is_seen_only_class_by_class():
    real = torch.cat([cloud(40, 3), cloud(40, 3, seed=1, shift=9)])
    labels = torch.arange(2).repeat_interleave(40)
    swapped = torch.cat([cloud(40, 3, seed=3, shift=9), cloud(40, 3, seed=2)])
    assert quality.precision_recall(real, swapped)[0] > 0.8
    found = quality.by_class(real, labels, swapped, labels)
    assert found["precision"] == found["recall"] == found["coverage"] == 0
    assert found["frechet"] == pytest.approx(3 * 81, rel=0.1)


def test_class_by_class_is_the_mean_of_the_classes():
    real, replayed = cloud(60, 4), cloud(60, 4, seed=1)
    labels = torch.arange(3).repeat_interleave(20)
    few = torch.cat([labels[:40], torch.full((20,), 7)])  # class 2 has no replays
    found = quality.by_class(real, labels, replayed, few)
    halves = [(real[:20], replayed[:20]), (real[20:40], replayed[20:40])]
    assert found["classes"] == 2 and set(found) == {"classes", *quality.NAMES}
    for name, measure in (
        ("frechet", quality.frechet),
        ("spread", lambda u, v: quality.spread(u)),
        ("replayed_spread", lambda u, v: quality.spread(v)),
        ("recall", lambda u, v: quality.precision_recall(u, v)[1]),
        ("density", lambda u, v: quality.density_coverage(u, v)[0]),
    ):
        expected = np.mean([measure(*half) for half in halves])
        assert found[name] == pytest.approx(expected), name
    assert quality.by_class(real, labels, replayed, few + 9) == {}


# --- classifiers that cross over ------------------------------------------------------


def test_a_classifier_learns_from_good_replay_and_not_from_mixed_up_replay():
    labels = torch.arange(3).repeat_interleave(50)
    centres = torch.tensor([[4.0, 0], [0, 4], [-4, -4]]).double()
    real, good = (centres[labels] + cloud(150, 2, seed=s) for s in (0, 1))
    assert quality.crossed(good, labels, real, labels) > 0.98
    assert quality.crossed(real, labels, good, labels) > 0.98
    assert quality.crossed(good, (labels + 1) % 3, real, labels) < 0.05


def test_a_dropped_mode_costs_the_way_from_replay_to_real_alone():
    """Class 0 lives in two places, of which the memory replays one."""
    labels = torch.arange(2).repeat_interleave(100)
    real = cloud(200, 2, scale=0.5)
    real[:50] += torch.tensor([6.0, 0.0])
    real[50:100] += torch.tensor([0.0, -6.0])
    real[100:] += torch.tensor([-2.0, -2.0])
    replayed = cloud(200, 2, seed=1, scale=0.5)
    replayed[:100] += torch.tensor([6.0, 0.0])
    replayed[100:] += torch.tensor([-2.0, -2.0])
    assert quality.crossed(real, labels, replayed, labels) == 1
    assert quality.crossed(replayed, labels, real, labels) < 0.8


def test_the_unit_of_features_does_not_matter_to_a_classifier():
    labels = torch.arange(4).repeat_interleave(30)
    u, v = (cloud(120, 6, seed=s) + labels[:, None] / 2 for s in (0, 1))
    once = quality.crossed(u, labels, v, labels)
    assert quality.crossed(1e4 * u, labels, 1e4 * v, labels) == once
    assert quality.crossed(u, labels, v, labels) == once


def test_replay_that_has_shrunk_is_seen_by_a_classifier():
    """Both sides are scaled by the one number of training: a border away from 0."""
    labels = torch.arange(2).repeat_interleave(50)
    real = cloud(100, 2, scale=0.1) + torch.tensor([[1.0, 1], [3, 3]])[labels]
    assert quality.crossed(real, labels, real, labels) == 1
    assert quality.crossed(real, labels, 0.1 * real, labels) == 0.5


def test_a_classifier_is_trained_to_its_end():
    labels = torch.arange(10).repeat_interleave(30)
    u, v = (cloud(300, 6, seed=s) + cloud(10, 6, seed=9)[labels] for s in (0, 1))
    x, y, scale = u.numpy(), labels.numpy(), u.square().mean().sqrt().item()
    model = LogisticRegression(max_iter=500).fit(x / scale, y)
    wanted = model.score(v.numpy() / scale, y)
    assert 0.5 < wanted < 0.95
    assert quality.crossed(u, labels, v, labels) == pytest.approx(wanted, abs=0.01)


def test_the_fewest_rows_of_a_class_count():
    few = quality.FEWEST
    labels = torch.arange(2).repeat_interleave(few)
    u = cloud(2 * few, 3)
    assert quality.by_class(u, labels, u, labels)["classes"] == 2
    assert quality.by_class(u[:-1], labels[:-1], u, labels)["classes"] == 1


# --- wrong arguments ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measure", "u", "v", "said"),
    [
        (quality.frechet, cloud(5, 3), cloud(5, 2), "with one d"),
        (quality.frechet, cloud(5, 3)[0], cloud(5, 3), r"\[rows, d\]"),
        (quality.frechet, cloud(1, 3), cloud(5, 3), "1 rows are too few"),
        (quality.precision_recall, cloud(3, 3), cloud(9, 3), "needs 4"),
        (quality.density_coverage, cloud(9, 3), cloud(5, 3), "needs 6"),
        (quality.frechet, cloud(5, 3) / 0, cloud(5, 3), "not finite"),
        (
            lambda u, v: quality.by_class(u, torch.zeros(5), v, torch.zeros(5)),
            *(cloud(5, 3) / 0, cloud(5, 3), "not finite"),
        ),
    ],
)
def test_wrong_arguments(measure, u, v, said):
    with pytest.raises(ValueError, match=said):
        measure(u, v)
