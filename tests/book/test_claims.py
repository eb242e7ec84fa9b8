"""Verdicts on a paper's claims: intervals by hand, invariances, known cases."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from gfrlib.book import claims, results
from gfrlib.book.claims import DIRECTION, FAILS, HOLDS, MISSING, ONE_SEED, UNDECIDED

# Student's t, two-sided 95 %, from a printed table: {degrees of freedom: quantile}
PRINTED = {2: 4.303, 3: 3.182, 4: 2.776, 10: 2.228}


def two(mean: float, half: float = 0.07) -> list[float]:
    """Two seeds around a mean. The interval of two such groups is +-0.43.

    s = error = sqrt(2) half, and 4.303 sqrt(2) 0.07 = 0.426.
    """
    return [mean - half, mean + half]


# The interval -------------------------------------------------------------------------


def test_an_interval_by_hand():
    """[1, 3] and [0, 0]: s^2 = (2 + 0) / 2 = 1, error 1, 2 degrees of freedom."""
    low, high = claims.interval([1, 3], [0, 0])
    assert (low, high) == pytest.approx((2 - PRINTED[2], 2 + PRINTED[2]), abs=1e-3)


@pytest.mark.parametrize("sizes", [(2, 2), (3, 2), (3, 3), (6, 6)])
def test_the_quantile_is_the_printed_one(sizes):
    first, second = ([float(i) for i in range(n)] for n in sizes)
    low, high = claims.interval(first, second)
    freedom = sum(sizes) - 2
    squares = sum(np.sum((np.array(v) - np.mean(v)) ** 2) for v in (first, second))
    error = math.sqrt(squares / freedom * sum(1 / n for n in sizes))
    assert (high - low) / 2 / error == pytest.approx(PRINTED[freedom], abs=1e-3)


def test_one_seed_says_nothing_of_the_interval():
    assert claims.interval([1.0], [0.0, 0.1]) == (-math.inf, math.inf)


def test_the_interval_covers_what_it_promises():
    """Also where seeds are shared (then more), and where one side spreads twice as far
    (hardly less).
    """
    random = np.random.default_rng(0)
    for seeds in (2, 3):
        for shared, ratio, least in ((0, 1, 0.93), (0.8, 1, 0.96), (0, 2, 0.91)):
            draws = random.normal(size=(800, 2, seeds))
            own = math.sqrt(1 - shared**2)
            second = ratio * (shared * draws[:, 0] + own * draws[:, 1])
            bounds = [claims.interval(*pair) for pair in zip(draws[:, 0], second)]
            covered = np.mean([low < 0 < high for low, high in bounds])
            assert covered > least, (seeds, shared, ratio)


# The rule -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, cases",
    [
        ("above", {0.5: HOLDS, 0.4: UNDECIDED, -0.4: UNDECIDED, -0.5: FAILS}),
        (
            "far above",
            {10.5: HOLDS, 10.4: UNDECIDED, 9.6: UNDECIDED, 9.5: DIRECTION}
            | {0.5: DIRECTION, 0.4: FAILS, -20: FAILS},
        ),
        (
            "level",
            {1.5: HOLDS, -1.5: HOLDS, 1.6: UNDECIDED, -2.4: UNDECIDED}
            | {2.5: FAILS, -2.5: FAILS},
        ),
        ("not below", {9: HOLDS, -1.5: HOLDS, -1.6: UNDECIDED, -2.5: FAILS}),
        # a fifth of the larger one: of 40 against 50 it is 10
        ("near", {9: HOLDS, -9.5: HOLDS, -10.1: UNDECIDED, -11: FAILS, 14: FAILS}),
    ],
)
def test_verdicts(kind, cases):
    """The interval is +-0.43 around each of these differences."""
    of = {gap: claims.verdict(two(50 + gap), two(50), kind) for gap in cases}
    assert of == cases and set(cases.values()) <= set(claims.VERDICTS)


@pytest.mark.parametrize("kind", claims.KINDS)
def test_one_seed_is_open_whatever_the_difference(kind):
    for first, second in (([90.0], [10.0]), ([90.0], two(10)), (two(50), [50.0])):
        assert claims.verdict(first, second, kind) == ONE_SEED
    assert claims.verdict([], [50], kind) == MISSING
    assert claims.verdict(two(50), [], kind) == MISSING


def test_what_is_counted_needs_no_seed():
    assert claims.verdict([122.0], [100.0], "above", exact=True) == HOLDS
    assert claims.verdict([173.0], [100.0], "level", exact=True) == FAILS
    assert claims.verdict([106.5], [100.0], "near", exact=True) == HOLDS
    assert claims.verdict([50.0], [100.0], "near", exact=True) == FAILS


@pytest.mark.parametrize("gap", [-12, -3, -1.8, -0.3, 0, 0.3, 1.8, 3, 12])
def test_invariances(gap):
    first, second = two(50 + gap, 0.2), two(50)
    for kind in claims.KINDS:
        said = claims.verdict(first, second, kind)
        assert claims.verdict(first[::-1], second[::-1], kind) == said, "order of seeds"
        if kind != "near":  # which is a share of the values
            moved = [v + 7 for v in first], [v + 7 for v in second]
            assert claims.verdict(*moved, kind) == said, kind
    for kind in ("level", "near"):
        said = claims.verdict(first, second, kind)
        assert claims.verdict(second, first, kind) == said, "swapped"
    other = {HOLDS: FAILS, FAILS: HOLDS, UNDECIDED: UNDECIDED}
    said = claims.verdict(first, second, "above")
    assert claims.verdict(second, first, "above") == other[said]
    tripled = [3 * v for v in first], [3 * v for v in second]
    assert claims.verdict(*tripled, "near") == claims.verdict(first, second, "near")


CASES = {  # name: (first, second, kind, verdict); runs of CIFAR-100 at `slim`
    "image replay is half of fine-tuning": ([9.6], [17.7, 17.6], "near", ONE_SEED),
    "the same, were there two seeds": (two(9.6), two(17.6), "near", FAILS),
    "a third more is not near": (two(25.3), two(17.6), "near", FAILS),
    "+7.8 is not far": ([46.9, 47.4, 46.8], [39.2, 39.7, 38.8], "far above", DIRECTION),
    "level at -1.7, one seed": ([45.8], [47.5], "level", ONE_SEED),
    "level at -2.0, one seed": ([46.9, 47.4, 46.8], [49.1], "level", ONE_SEED),
    "on top, one seed": ([21.2], [20.5], "above", ONE_SEED),
    "whole covariances beat the GAN": ([36.7, 36.6], [34.9, 35.3], "above", HOLDS),
    "not so diagonal ones": ([34.5, 34.8], [34.9, 35.3], "above", UNDECIDED),
    "a large lead of one seed": ([43.2], [2.9], "far above", ONE_SEED),
    "a lead of 1.5 that all seeds share": (
        [46.9, 47.4, 46.8],
        [45.5, 45.8, 45.4],
        "above",
        HOLDS,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_known_cases(name):
    first, second, kind, verdict = CASES[name]
    assert claims.verdict(first, second, kind) == verdict


@pytest.mark.parametrize("kind", ["above", "not below"])
def test_equal_values_decide_nothing(kind):
    """Without a spread the interval is a point, on the border of what is claimed."""
    equal = {"above": 0.0, "not below": -claims.NEAR}[kind]
    assert claims.verdict([5 + equal] * 2, [5.0] * 2, kind) == UNDECIDED
    assert claims.verdict([5 + equal], [5.0], kind, exact=True) == FAILS


def test_one_seed_is_compared_with_its_own():
    """Runs of a seed begin with the same network; other seeds have other beginnings."""
    one, three = {1: 40.0}, {0: 50.0, 1: 39.0, 2: 60.0}
    assert results.same_seeds(one, three) == ([40], [39])
    assert results.same_seeds(three, one) == ([39], [40])
    assert results.same_seeds({5: 40.0}, three) == ([40], [50, 39, 60]), (
        "none is shared"
    )
    two = {0: 1.0, 3: 2.0}
    assert results.same_seeds(two, three) == ([1, 2], [50, 39, 60]), (
        "an interval is there"
    )
    assert results.same_seeds({}, three) == ([], [50, 39, 60])


def test_runs_without_the_part_of_the_analysis_have_no_value():
    def run(analysis):
        return SimpleNamespace(config=SimpleNamespace(seed=0), analysis=analysis)

    for quantity in claims.PART_OF:
        side = claims.Side("gfr", quantity)
        for analysis in (None, {}, {"samples": {}}):
            assert side.values(lambda row, split, a=analysis: [run(a)]) == {}
    assert set(claims.PART_OF) < set(claims.QUANTITIES)


def test_no_value_is_a_dash():
    assert claims.mean_and_spread([math.nan]) == claims.mean_and_spread([]) == "–"


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="far above"):
        claims.verdict([1.0], [0.0], "better")


def test_the_rule_says_what_the_code_does():
    assert claims.RULE.count(". ") == 2, "three sentences"
    words = (*claims.KINDS, HOLDS, FAILS, "open", "one seed", "95%")
    lower = claims.RULE.lower()
    assert all(word in lower for word in words)


# Tables -------------------------------------------------------------------------------


def test_a_table_by_hand():
    """[40, 42] and [30, 30]: s^2 = 1, error 1."""
    found = claims.table(
        [
            ("a over b", "above", [40, 42], [30.0, 30.0]),
            ("a over c", "above", [40, 42], [39.9]),
            ("a over nothing", "above", [40], []),
        ]
    )
    assert found.loc[0].tolist() == [
        *("a over b", HOLDS, "+11.0 (6.7 to 15.3)"),
        *("41.0\u00a0±\u00a01.4", "30.0\u00a0±\u00a00.0"),
    ]
    assert found.loc[1].tolist()[1:3] == [ONE_SEED, "+1.1"]
    assert found.loc[2].tolist() == ["a over nothing", MISSING, "–", "40.0", "–"]


def test_what_rounds_to_zero_has_no_sign():
    assert claims.signed(two(0.4301), two(0)) == "+0.4 (0.0 to 0.9)"
    assert claims.signed(two(-0.47), two(0)) == "-0.5 (-0.9 to 0.0)"


def test_an_empty_table_has_its_columns():
    names = ["claim", "verdict", "difference", "first (points)", "second (points)"]
    assert list(claims.table([], "points")) == names, "the verdict before the numbers"
