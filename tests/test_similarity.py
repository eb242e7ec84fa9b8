"""Every measure against an independent route, by hand where possible.

And what each must not change with, or must refuse.
"""

import tracemalloc

import numpy as np
import pytest
from sklearn.cross_decomposition import CCA

from gfrlib import similarity
from gfrlib.similarity import linear_cka, null, pixels_as_rows, pwcca, svcca

RNG = np.random.default_rng(11)


def cca(x, y) -> float:
    return svcca(x, y, keep=1)


def canonical_correlations(x, y, *, keep=0.99) -> np.ndarray:
    return svcca(x, y, keep=keep, details=True)["correlations"]


def biased_cka(x, y) -> float:
    return linear_cka(x, y, debiased=False)


MEASURES = {
    "svcca": svcca,
    "cca": cca,
    "pwcca": pwcca,
    "cka": linear_cka,
    "biased cka": biased_cka,
}
each_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


def related(n: int = 300, d: int = 6, e: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """x [n, d], y [n, e]: a shared part, stronger in some directions, plus noise.

    Away from the origin, unequal variances.
    """
    shared = RNG.normal(size=(n, d))
    x = shared @ RNG.normal(size=(d, d)) + 0.5 * RNG.normal(size=(n, d)) + 3
    y = (
        (shared * np.linspace(0.3, 2, d)) @ RNG.normal(size=(d, e))
        + RNG.normal(size=(n, e))
        - 2
    )
    return x, y


def rotation(d: int) -> np.ndarray:
    return np.linalg.qr(RNG.normal(size=(d, d)))[0]


def invertible(d: int) -> np.ndarray:
    return rotation(d) @ np.diag(np.linspace(0.2, 5, d)) @ rotation(d)


def waves(n: int = 64) -> np.ndarray:
    """[n, n - 1] orthonormal columns with mean 0."""
    basis = np.linalg.qr(
        np.column_stack([np.ones(n), np.random.default_rng(0).normal(size=(n, n - 1))])
    )[0]
    return basis[:, 1:]


# --- what each must be, and must not change with --------------------------------------


@each_measure
def test_everything_equals_itself(measure):
    x, y = related()
    assert measure(x, x) == pytest.approx(1, abs=1e-12)
    assert measure(x, y) < 0.95


@each_measure
def test_rotation_scale_and_offset_change_nothing(measure):
    x, y = related()
    x = x * [5, 1, 1, 1, 0.1, 0.01]  # SVCCA has something to cut
    moved = measure(
        3.7 * x @ rotation(6) + 5, y @ rotation(8) * 0.01 - RNG.normal(size=8)
    )
    # its weights add absolute values along x's own axes: of these, only y's may turn
    if measure is pwcca:
        assert moved != pytest.approx(measure(x, y), abs=1e-6)
        moved = measure(3.7 * x + 5, y @ rotation(8) * 0.01)
    assert moved == pytest.approx(measure(x, y), abs=1e-10)


def test_cca_does_not_change_under_invertible_maps_and_the_others_do():
    x, y = related()
    a, b = invertible(6), invertible(8)
    np.testing.assert_allclose(
        canonical_correlations(x @ a, y @ b, keep=1),
        canonical_correlations(x, y, keep=1),
        atol=1e-10,
    )
    assert pwcca(x, y @ b) == pytest.approx(pwcca(x, y), abs=1e-10)
    for measure in (svcca, linear_cka, biased_cka):
        squeezed = x @ np.diag([1, 1, 1, 1, 1e-3, 1e-3])
        assert abs(measure(squeezed, y) - measure(x, y)) > 1e-3


@pytest.mark.parametrize("measure", [svcca, cca, linear_cka, biased_cka])
def test_symmetric(measure):
    x, y = related()
    assert measure(x, y) == pytest.approx(measure(y, x), abs=1e-12)


def test_pwcca_is_weighted_by_its_first_argument():
    x, y = related()
    assert abs(pwcca(x, y) - pwcca(y, x)) > 1e-3


def test_images_in_another_order_are_the_same_images():
    x, y = related()
    order = RNG.permutation(len(x))
    for measure in MEASURES.values():
        assert measure(x[order], y[order]) == pytest.approx(measure(x, y), abs=1e-12)
        assert abs(measure(x[order], y) - measure(x, y)) > 0.1


# --- canonical correlations against other routes --------------------------------------


def inverse_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**-0.5) @ vectors.T


@pytest.mark.parametrize("shape", [(300, 6, 8), (60, 8, 3), (200, 10, 10)])
def test_correlations_against_covariances_and_eigenvectors(shape):
    x, y = related(*shape)
    d = x.shape[1]
    sigma = np.cov(np.hstack([x, y]).T)
    between = inverse_root(sigma[:d, :d]) @ sigma[:d, d:] @ inverse_root(sigma[d:, d:])
    expected = np.sqrt(np.linalg.eigvalsh(between @ between.T)[::-1][: min(shape[1:])])
    np.testing.assert_allclose(
        canonical_correlations(x, y, keep=1), expected, atol=1e-8
    )
    assert expected[0] - expected[-1] > 0.05  # several different ones, not all 1


@pytest.mark.parametrize("keep", [0.6, 0.9, 0.99])
def test_truncated_correlations_against_the_gram_matrix(keep):
    x, y = related(60)
    x, y = (
        x @ np.diag([4, 2, 1, 1, 0.3, 0.1]) @ rotation(6),
        y @ np.diag([8, 4, 2, 1, 0.5, 0.3, 0.2, 0.1]) @ rotation(8),
    )
    projections, kept = [], []
    for a in (x, y):
        centred = a - a.mean(axis=0)
        values, vectors = np.linalg.eigh(
            centred @ centred.T
        )  # ascending; the eigenvalues are the squared singular values
        held, count = 0.0, 0
        while held < keep * values.sum():
            count += 1
            held += values[-count]
        projections.append(vectors[:, -count:] @ vectors[:, -count:].T)
        kept.append(count)
    both = projections[0] @ projections[1] @ projections[0]
    expected = np.sqrt(np.linalg.eigvalsh(both)[::-1][: min(kept)])
    found = svcca(x, y, keep=keep, details=True)
    assert found["kept"] == tuple(kept)
    assert kept[0] < 6 and kept[1] < 8
    np.testing.assert_allclose(found["correlations"], expected, atol=1e-8)
    assert (
        found["similarity"]
        == svcca(x, y, keep=keep)
        == pytest.approx(expected.mean(), abs=1e-8)
    )


@pytest.mark.parametrize("keep", [1, 0.99])
@pytest.mark.parametrize(
    "weakest, by_gram", [(1e-1, True), (2e-3, True), (1e-5, False), (0.0, False)]
)
def test_the_gram_matrix_is_taken_where_it_is_safe_and_says_what_the_svd_says(
    monkeypatch, keep, weakest, by_gram
):
    x, y = (rng.normal(size=(600, 40)) for rng in map(np.random.default_rng, (1, 2)))
    x[:, :20] += y[:, :20]
    x, y = (
        np.linalg.qr(a)[0] * np.geomspace(1, max(weakest, 1e-9), 40) for a in (x, y)
    )
    if weakest == 0:
        x[:, -1] = y[:, -1] = 0
    svds = []
    svd = np.linalg.svd
    monkeypatch.setattr(
        np.linalg, "svd", lambda a, **k: svds.append(a.shape) or svd(a, **k)
    )
    fast = canonical_correlations(x, y, keep=keep)
    assert ((600, 40) not in svds) == (
        by_gram or keep < 1
    )  # the directions that 0.99 keeps are never weak
    monkeypatch.setattr(
        similarity, "GRAM_RANGE", 0.5
    )  # no array is as well conditioned as that
    slow = canonical_correlations(x, y, keep=keep)
    assert (600, 40) in svds
    np.testing.assert_allclose(fast, slow, atol=1e-9)


@pytest.mark.parametrize("shape", [(400, 5, 5), (200, 4, 10)])
def test_correlations_against_scikit_learn(shape):
    x, y = related(*shape)
    count = min(shape[1:])
    variates = (
        CCA(n_components=count, tol=1e-10, max_iter=100_000).fit(x, y).transform(x, y)
    )
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(variates[0].T, variates[1].T)]
    np.testing.assert_allclose(
        canonical_correlations(x, y, keep=1), expected, atol=1e-3
    )


def test_correlations_are_descending_and_at_most_one():
    for _ in range(20):
        x, y = related()
        for a in (y, x @ invertible(6)):
            rho = canonical_correlations(x, a, keep=1)
            assert rho.shape == (6,)
            assert (np.diff(rho) <= 0).all()
            assert (
                rho.max() <= 1
            )  # exactly: unclipped, about every second of these a would give 1 + 2e-16
            assert rho.min() >= 0


# --- by hand --------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, 1, 3, 5])
def test_k_of_d_shared_directions_by_hand(k):
    d, w = 5, waves()
    x, y = w[:, :d], np.hstack([w[:, :k], w[:, d : 2 * d - k]])
    np.testing.assert_allclose(
        canonical_correlations(x, y), [1] * k + [0] * (d - k), atol=1e-12
    )
    assert svcca(x, y) == cca(x, y) == pytest.approx(k / d, abs=1e-12)
    assert biased_cka(x, y) == pytest.approx(
        k / d, abs=1e-12
    )  # k N^2 over sqrt(d) N sqrt(d) N
    assert svcca(x @ invertible(d), y, keep=1) == pytest.approx(k / d, abs=1e-12)


def test_an_angle_by_hand():
    w = waves()
    x, y = (
        w[:, :2],
        np.column_stack([0.6 * w[:, 0] + 0.8 * w[:, 2], 4 * w[:, 3] - 3 * w[:, 1]]),
    )
    np.testing.assert_allclose(canonical_correlations(x, y), [0.6, 0.6], atol=1e-12)


def test_the_mean_is_over_the_smaller_side():
    w = waves()
    assert svcca(w[:, :2], w[:, 1:10]) == pytest.approx(1 / 2, abs=1e-12)


def test_threshold_is_on_squared_singular_values_and_the_crossing_direction_is_kept():
    x = (
        waves()[:, :4] @ np.diag(np.sqrt([0.70, 0.20, 0.08, 0.02])) + 100
    )  # uncentred, the offset would be nearly everything
    for keep, kept in (
        (0.5, 1),
        (0.69, 1),
        (0.71, 2),
        (0.89, 2),
        (0.91, 3),
        (0.97, 3),
        (0.99, 4),
        (1.0, 4),
    ):
        assert svcca(x, x, keep=keep, details=True)["kept"] == (kept, kept), keep
        assert len(canonical_correlations(x, x, keep=keep)) == kept
    x = waves()[:, :3] @ np.diag(np.sqrt([0.986, 0.0055, 0.0085]))
    assert svcca(x, x, details=True)["kept"] == (2, 2)  # 0.99 where nothing is said
    assert len(canonical_correlations(x, x)) == 2


def test_all_the_variance_is_the_numerical_rank():
    x = waves()[:, :3] * [
        1,
        1e-3,
        1e-9,
    ]  # the last holds less than float64 can add to the sum of the others
    assert svcca(x, x, keep=1, details=True)["kept"] == (3, 3)
    # a hair less than all never reaches the rounding errors of dependent columns
    for _ in range(20):
        x = related()[0]
        assert (
            max(
                svcca(np.hstack([x, x]), x, keep=np.nextafter(1, 0), details=True)[
                    "kept"
                ]
            )
            <= 6
        )


def test_pwcca_by_hand():
    # rho = (1, 0.6) along x's own columns, of lengths 3 and 1: (3 x 1 + 1 x 0.6) / 4
    w = waves()
    x, y = w[:, :2] * [3, 1], np.column_stack([w[:, 0], 0.6 * w[:, 1] + 0.8 * w[:, 2]])
    assert pwcca(x + 7, y) == pytest.approx(3.6 / 4, abs=1e-12)
    assert cca(x, y) == pytest.approx(0.8, abs=1e-12)


def test_pwcca_without_whitening_by_hand():
    """google/svcca's: columns of lengths 3 and 1, turned by 45 degrees.

    h = (3 a, -+ b) / sqrt(10), where the definition has (a, -+ b) / sqrt(2). The second
    is orthogonal to the first: (b, +- 3 a) / sqrt(10). So the weights are
    (9 + 1) / sqrt(10) and (3 + 3) / sqrt(10), and not equal.
    """
    a, b, c = waves()[:, :3].T
    x = np.column_stack([3 * a, b])
    y = np.column_stack([(a + b) / 2**0.5, 0.6 * (a - b) / 2**0.5 + 0.8 * c])
    assert pwcca(x, y) == pytest.approx((4 + 0.6 * 4) / 8, abs=1e-12)
    found = pwcca(x + 7, y, whitened=False)
    assert found == pytest.approx((10 + 0.6 * 6) / 16, abs=1e-12)


@pytest.mark.parametrize("shape", [(300, 6, 8), (300, 8, 3)])
def test_pwcca_against_brute_force(shape):
    x, y = related(*shape)
    d, k = shape[1], min(shape[1:])
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    root = inverse_root(x.T @ x)
    between = (
        root @ x.T @ y @ np.linalg.inv(y.T @ y) @ y.T @ x @ root
    )  # eigenvalues rho^2, eigenvectors x's directions
    values, vectors = np.linalg.eigh(between)
    total = weights = 0.0
    for i in range(d - 1, d - 1 - k, -1):
        h = x @ root @ vectors[:, i]
        weight = sum(abs(float(h @ x[:, j])) for j in range(d))
        total, weights = total + weight * values[i] ** 0.5, weights + weight
    assert pwcca(x, y) == pytest.approx(total / weights, abs=1e-8)
    assert abs(pwcca(x, y) - cca(x, y)) > 1e-6


# --- CKA ------------------------------------------------------------------------------


def hsic_1(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. 2012, Equation 5, as it is printed.

    N x N matrices whose diagonals are set to 0.
    """
    n, one = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    bracket = (
        np.trace(k @ m)
        + one @ k @ one * (one @ m @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ k @ m @ one)
    )
    return bracket / (n * (n - 3))


@pytest.mark.parametrize("shape", [(4, 3, 2), (7, 3, 40), (100, 6, 8)])
def test_debiased_cka_against_gram_matrices(shape):
    x, y = related(*shape)
    k, m = x @ x.T, y @ y.T
    expected = hsic_1(k, m) / np.sqrt(hsic_1(k, k) * hsic_1(m, m))
    assert linear_cka(x, y) == pytest.approx(expected, abs=1e-9)


def test_biased_cka_against_gram_matrices():
    x, y = related(50, 6, 80)
    centre = np.eye(50) - 1 / 50
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    expected = (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())
    assert biased_cka(x, y) == pytest.approx(expected, abs=1e-12)


def test_debiased_cka_of_noise_is_zero_on_average_and_biased_is_not():
    # 40 rows of 30 features: the biased value is mostly the rows being few
    pairs = [(RNG.normal(size=(40, 30)), RNG.normal(size=(40, 30))) for _ in range(100)]
    values = np.array([linear_cka(x, y) for x, y in pairs])
    assert abs(values.mean()) < 4 * values.std() / 10
    assert values.min() < 0 < values.max()
    assert np.mean([biased_cka(x, y) for x, y in pairs]) > 0.3


def test_debiased_cka_needs_fewer_rows_than_features():
    shared = RNG.normal(size=(15, 60))
    assert linear_cka(shared, shared @ rotation(60)) == pytest.approx(1, abs=1e-10)


# --- what a network does: dead channels, copies, half the precision -------------------


@each_measure
def test_constant_columns_change_nothing(measure):
    x, y = related()
    dead = np.column_stack([x, np.full(300, 0.1), np.zeros(300), np.full(300, 1e6)])
    assert measure(dead, y) == pytest.approx(measure(x, y), abs=1e-9)
    assert measure(y, dead) == pytest.approx(measure(y, x), abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_dependent_columns_add_no_correlations_to_cca(dtype):
    x, y = related()
    copies = np.hstack(
        [x, x[:, :2] * 3 - 1, x @ RNG.normal(size=(6, 4))]
    )  # 12 columns of rank 6
    assert svcca(copies.astype(dtype), y, keep=1, details=True)["kept"] == (6, 8)
    expected = canonical_correlations(x, y, keep=1)
    np.testing.assert_allclose(
        canonical_correlations(copies.astype(dtype), y, keep=1), expected, atol=1e-5
    )
    assert svcca(
        copies.astype(dtype), copies[:, ::-1].astype(dtype), keep=1, details=True
    )["kept"] == (6, 6)


def test_more_features_than_rows_are_fine_when_their_rank_is_low():
    x, y = related(50)
    wide = x @ RNG.normal(size=(6, 100))
    np.testing.assert_allclose(
        canonical_correlations(wide, y, keep=1),
        canonical_correlations(x, y, keep=1),
        atol=1e-8,
    )


@each_measure
def test_a_large_offset_in_float32_and_integers_are_computed_in_float64(measure):
    x, y = related()
    x, y = np.round(x * 8), np.round(y * 8)  # exact in every type used here
    expected = measure(x, y)
    assert measure((x + 2**20).astype(np.float32), y.astype(np.int16)) == pytest.approx(
        expected, abs=1e-10
    )
    x_before = x.copy()
    assert measure(x.tolist(), y) == expected
    np.testing.assert_array_equal(x, x_before)


@each_measure
def test_ten_thousand_rows_need_no_square_matrix_of_them(measure):
    x, y = related(10_000)
    tracemalloc.start()
    measure(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # bytes; one 10,000 x 10,000 matrix has 800e6


# --- chance ---------------------------------------------------------------------------


@each_measure
def test_independent_noise_is_at_its_null_and_related_data_is_not(measure):
    x, y = RNG.normal(size=(400, 8)), RNG.normal(size=(400, 10))
    alone = [null(measure, x, y, rng=seed) for seed in range(40)]
    assert abs(measure(x, y) - np.mean(alone)) < 5 * np.std(alone)
    assert np.std(alone) < 0.03  # so the line above says something
    assert abs(null(linear_cka, x, y, rng=0, repeats=20)) < 0.02
    half = y.copy()
    half[:, :8] += x
    assert measure(x, half) > null(measure, x, half, rng=0, repeats=5) + 0.2


def test_cca_of_few_rows_flatters_and_the_null_says_so():
    x, y = RNG.normal(size=(40, 18)), RNG.normal(size=(40, 18))
    assert cca(x, y) > 0.5
    assert null(cca, x, y, rng=0, repeats=10) == pytest.approx(cca(x, y), abs=0.1)


def test_null_moves_whole_groups_and_keeps_their_inner_order():
    x, y = RNG.normal(size=(12, 2)), np.arange(24.0).reshape(12, 2)
    seen = []
    null(lambda a, b: seen.append((a, b)) or 0.0, x, y, group=3, rng=5, repeats=6)
    assert len(seen) == 6
    for a, b in seen:
        np.testing.assert_array_equal(a, x)
        first = b[::3, 0]  # of every group
        np.testing.assert_array_equal(b, (first[:, None] + np.arange(6)).reshape(12, 2))
        assert sorted(first) == [0, 6, 12, 18]
    assert len({tuple(b[:, 0]) for _, b in seen}) > 1  # every repeat draws anew
    np.testing.assert_array_equal(y, np.arange(24.0).reshape(12, 2))


@each_measure
def test_pixels_share_what_their_place_gives_them_and_only_whole_images_show_it(
    measure,
):
    # every image has the same strong pattern over its 16 pixels (a border, say): no
    # image is recognised, yet all is alike
    pattern = RNG.normal(size=(16, 3))
    x, y = (
        np.tile(pattern, (50, 1)) + 0.3 * RNG.normal(size=(800, 3)) for _ in range(2)
    )
    value = measure(x, y)
    assert value > 0.7
    assert null(measure, x, y, group=16, rng=0, repeats=3) == pytest.approx(
        value, abs=0.05
    )
    assert null(measure, x, y, rng=0, repeats=3) < 0.2


def test_null_is_the_mean_over_repeats_and_depends_on_the_seed_alone():
    x, y = related()
    values = iter([1.0, 2.0, 6.0])
    assert null(lambda a, b: next(values), x, y, rng=0, repeats=3) == 3.0
    assert (
        null(cca, x, y, rng=3)
        == null(cca, x, y, rng=3)
        == null(cca, x, y, rng=np.random.default_rng(3))
    )
    assert null(cca, x, y, rng=3) != null(cca, x, y, rng=4)


def test_null_refuses_rows_that_are_not_whole_groups():
    x, y = related()
    for group in (7, 0, -3, 300):  # 300 rows: one group of 300 cannot be shuffled
        with pytest.raises(
            ValueError, match=f"300 rows are not two or more whole groups of {group}"
        ):
            null(svcca, x, y, group=group, rng=0)
    with pytest.raises(ValueError, match="same example"):
        null(svcca, x, y[:-1], rng=0)


# --- pixels ---------------------------------------------------------------------------


def addresses(n: int, channels: int, h: int, w: int) -> np.ndarray:
    """[n, channels, h, w] whose values say where they are.

    10,000 image + 100 pixel + channel.
    """
    grid = (
        10_000 * np.arange(n)[:, None, None]
        + 100 * np.arange(h * w)[None, None, :]
        + np.arange(channels)[None, :, None]
    )
    return grid.reshape(n, channels, h, w)


def test_pixels_of_two_networks_stay_paired():
    x = pixels_as_rows(addresses(5, 3, 4, 6), at_most=37, rng=1)
    y = pixels_as_rows(addresses(5, 7, 4, 6), at_most=37, rng=1)
    assert x.shape == (35, 3) and y.shape == (35, 7)  # 37 // 5 = 7 pixels of 5 images
    np.testing.assert_array_equal(x[:, 0], y[:, 0])
    np.testing.assert_array_equal(
        x, x[:, :1] + np.arange(3)
    )  # a row is one pixel's channels
    by_image = x[:, 0].reshape(5, 7)
    np.testing.assert_array_equal(
        by_image // 10_000, np.tile(np.arange(5)[:, None], 7)
    )  # an image's rows stand together
    np.testing.assert_array_equal(
        by_image % 10_000, np.tile(by_image[0], (5, 1))
    )  # the same pixels in each
    assert len(set(by_image[0])) == 7
    other = pixels_as_rows(addresses(5, 3, 4, 6), at_most=37, rng=2)
    assert set(other[:7, 0]) != set(by_image[0])


def test_pixels_at_most_and_at_least():
    a = addresses(5, 3, 4, 6)
    assert pixels_as_rows(a, at_most=2, rng=0).shape == (5, 3)  # one an image, even so
    assert pixels_as_rows(a, at_most=119, rng=0).shape == (115, 3)
    everything = pixels_as_rows(a, at_most=10**6, rng=0)
    np.testing.assert_array_equal(np.sort(everything[:, 0]), np.sort(a[:, 0].ravel()))


def test_vectors_pass_through_and_other_shapes_are_refused():
    a = RNG.normal(size=(9, 4))
    np.testing.assert_array_equal(pixels_as_rows(a, at_most=3, rng=0), a)
    for shape in ((9,), (9, 4, 2), (9, 4, 2, 2, 2)):
        with pytest.raises(ValueError, match="activations must be"):
            pixels_as_rows(np.zeros(shape), at_most=3, rng=0)


# --- bad input ------------------------------------------------------------------------


@each_measure
def test_bad_input_is_refused_with_its_reason(measure):
    x, y = related()
    for value in (np.nan, np.inf):
        broken = y.copy()
        broken[7, 2] = value
        with pytest.raises(ValueError, match="^y has values that are not finite"):
            measure(x, broken)
        with pytest.raises(ValueError, match="^x has values that are not finite"):
            measure(broken, x)
    with pytest.raises(ValueError, match="same example"):
        measure(x, y[:-1])
    with pytest.raises(ValueError, match="same example"):
        measure(x.T, x)
    for bad in (x[:, 0], x.reshape(300, 3, 2)):
        with pytest.raises(ValueError, match="^x must be .examples, features."):
            measure(bad, y)
        with pytest.raises(ValueError, match="^y must be .examples, features."):
            measure(x, bad)
    last_bit = (1 + RNG.integers(-2, 3, (300, 20)) * 2.0**-23).astype(
        np.float32
    )  # rounding errors around 1, nothing else
    for still in (
        np.full((300, 4), 0.1),
        np.zeros((300, 4)),
        np.full((300, 4), np.float32(0.1)),
        np.zeros((300, 0)),
        last_bit,
    ):
        with pytest.raises(ValueError, match="^y does not vary over its 300 rows"):
            measure(x, still)
        with pytest.raises(ValueError, match="^x does not vary over its 300 rows"):
            measure(still, y)
    for rows in (0, 1):
        with pytest.raises(ValueError, match=f"x does not vary over its {rows} rows"):
            measure(x[:rows], y[:rows])


@pytest.mark.parametrize("measure", [svcca, cca, pwcca])
def test_cca_of_too_few_rows_names_the_remedy(measure):
    for rows in (4, 9, 10, 11):
        x, y = (
            RNG.normal(size=(rows, 3 if rows > 4 else 2)),
            RNG.normal(size=(rows, 10)),
        )
        more = r"more images or pixels \(12 rows .*\), or linear_cka"
        with pytest.raises(ValueError, match=rf"^y has {rows} rows .* {more}"):
            measure(x, y)
        with pytest.raises(ValueError, match=rf"^x has {rows} rows"):
            measure(y, x)
    measure(RNG.normal(size=(12, 3)), RNG.normal(size=(12, 10)))  # features + 2


@pytest.mark.parametrize("keep", [0, -0.5, 1.01, 99, float("nan")])
def test_keep_is_a_share(keep):
    x, y = related()
    with pytest.raises(ValueError, match="keep is a share"):
        svcca(x, y, keep=keep)


def test_debiased_cka_refuses_three_rows_and_rows_equally_far_apart():
    x = RNG.normal(size=(3, 5))
    with pytest.raises(ValueError, match="at least 4 rows, and there are 3"):
        linear_cka(x, x[::-1])
    assert 0 < biased_cka(x, x[::-1]) < 1
    for corners in (
        np.eye(9),
        0.1 * np.eye(9) + 3,
    ):  # every pair of rows at the same distance: no structure to compare
        with pytest.raises(ValueError, match="equally far apart"):
            linear_cka(corners, RNG.normal(size=(9, 5)))
        with pytest.raises(ValueError, match="equally far apart"):
            linear_cka(RNG.normal(size=(9, 5)), corners)
    assert 0 < biased_cka(np.eye(9), RNG.normal(size=(9, 5))) < 1


def test_no_images_leave_no_rows():
    with pytest.raises(ValueError, match="take one image at least"):
        pixels_as_rows(np.zeros((0, 3, 4, 4)), at_most=10, rng=0)
