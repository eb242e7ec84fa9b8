"""Which run is which: the closest row, and by what runs of one name differ."""

import pytest

from gfrlib.config import METHODS, make_config
from gfrlib.lab import naming


@pytest.mark.parametrize("row", METHODS)
def test_a_row_is_its_own_and_changes_nothing(row):
    found, changes = naming.row_of(make_config("slim", row))
    assert make_config("slim", found, **changes) == make_config("slim", row)
    assert changes == {}


def test_the_row_keeps_the_columns_though_more_settings_differ():
    """Searched rates made a GAN's run one of `gfr-gaussian` with another memory."""
    slow = dict(learning_rate_task=2e-3, generator_learning_rate=2e-4)
    config = make_config("slim", "gfr", validation=0.1, **slow)
    row, changes = naming.row_of(config)
    assert row == "gfr" and "memory" not in changes
    assert changes["generator_learning_rate"] == 2e-4


def test_runs_of_one_name_are_told_apart():
    a, b, c = (
        make_config("slim", "gfr-squared", penalty_weight=w, seed=s)
        for w, s in ((1.0, 0), (3.0, 0), (3.0, 1))
    )
    other = make_config("slim", "frozen", base=10, tasks=9)
    found = naming.apart([a, b, c, other])
    assert found[a] == "penalty_weight 1.0"
    assert found[b] == found[c] == "penalty_weight 3.0"
    assert found[other] == ""
    assert naming.apart([b, c]) == {b: "", c: ""}  # the seed is said anyway
    assert naming.as_text((4, 3, 3)) == "4,3,3"
