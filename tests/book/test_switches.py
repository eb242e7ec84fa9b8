"""What the switches of chapter 13 do: pairs of seeds, the rule, words for it."""

from types import SimpleNamespace

import numpy as np
import pytest

from gfrlib.book import switches
from gfrlib.config import make_config

FULL, LINE = "11  whole covariances", "11  Gaussians on a line"


def run(percent, seed, start=0.9, **changes):
    """What is read of a record of Gaussian replay."""
    config = make_config("slim", "gfr-gaussian", seed=seed, **changes)
    curve, rules = np.array([start, percent / 100]), {"softmax": [[start], None]}
    return SimpleNamespace(config=config, curve=curve, rules=rules)


@pytest.fixture
def both():
    """Two seeds unchanged at 50 and 51 %; one switch gains, one has seeds at odds."""
    unchanged = {"gfr-gaussian": [run(50 + s, s) for s in (0, 1)]}
    changed = {
        LINE: [run(50.5, s) for s in (0, 1)],
        FULL: [run(53 + s, s) for s in (0, 1, 2)],
    }
    return unchanged, changed


def test_effects_are_taken_seed_by_seed_the_largest_first(both):
    pairs = switches.pairs(*both)
    assert [len(pairs[name]) for name in (LINE, FULL)] == [2, 2]
    found = switches.effects(pairs)
    assert list(found) == [FULL, LINE]
    assert found[FULL] == pytest.approx([3, 3])
    assert found[LINE] == pytest.approx([0.5, -0.5])
    assert len(switches.rows_of(pairs)) == 4
    shown = switches.compared(pairs, {**both[0], "fecam": [run(60, 0)]})
    assert list(shown) == ["gfr-gaussian"] and len(shown["gfr-gaussian"]) == 2 + 4


def test_a_pair_learned_one_task_0_but_where_the_switch_makes_another():
    unchanged = {"gfr-gaussian": [run(50, 0)]}
    elsewhere = {LINE: [run(52, 0, start=0.89, gaussian="scalar")]}
    assert switches.pairs(unchanged, elsewhere) == {}  # another processor's
    own = " 7  convolutions start as in the code"
    changed = {own: [run(52, 0, start=0.89, initial_convolutions="pytorch")]}
    assert len(switches.pairs(unchanged, changed)[own]) == 1


def test_a_strong_effect_passes_points_spread_and_sign(both):
    spread = switches.spreads(both[0])
    assert spread[FULL] == pytest.approx(0.5**0.5) and spread[switches.HELD] == 0
    found = {FULL: [3.0, 3.2], LINE: [0.5, 0.6]}
    assert list(switches.strong(found, spread)) == [FULL]
    pairs = switches.pairs(*both)  # 53 and 54 against 50 and 51: +3 (-0.04 to 6.04)
    told = switches.listed(switches.strong(found, spread), pairs)
    assert told.endswith("(number 11) by +3.1 (open)")
    close = [(run(53, s), run(50 + 0.1 * s, s)) for s in (0, 1)]
    told = switches.listed({FULL: 3.0}, {FULL: close})
    assert told.endswith("(number 11) by +3.0")
    away = {FULL: [pair[::-1] for pair in close]}
    assert switches.listed({FULL: -3.0}, away).endswith("by -3.0")
    for points in ([3.0], [9.0, -1.0], [1.9, 1.9]):  # one seed, at odds, too small
        assert not switches.strong({FULL: points}, spread)
    assert not switches.strong({FULL: [3.0, 3.2]}, {FULL: 2.0})  # within the spread
    assert switches.listed({}, {}) == "none"


def test_a_preset_reads_only_some_switches():
    read = switches.read_at("quick")
    assert " 7  convolutions start as in the code" not in read  # no ResNet there
    assert FULL in read and set(read) < set(switches.SWITCHES)
