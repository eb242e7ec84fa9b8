"""Every quantity that a claim, a table or a file for download reads, by hand.

Each was seen to fail with one line made wrong.
"""

import numpy as np
import pytest
from fakes import fake

from gfrlib.book import claims, words
from gfrlib.book.claims import Claim, Side

LAYERS = {"block 1": 0.9, "block 2": 0.8, "block 3": 0.7, "block 4": 0.4}


def analysed(seed: int = 0, shift: float = 0.0):
    """A run of 4 + 3 x 2 classes with an analysis, all of whose numbers differ."""
    alike = [
        {
            "after": after,
            "task": 0,
            "layer": layer,
            "svcca": value - (3 - after) / 100,
            "svcca_null": value / 10,
        }
        for after in (1, 2, 3)
        for layer, value in {**LAYERS, "classifier": 0.3}.items()
    ]
    moved = [{"of": [{"task": 0, "features": x}]} for x in (0, 0.1, 0.2, 0.5)]
    known = [{"after": t, "share": x} for t, x in enumerate((0.9, 0.7, 0.6))]
    analysis = {"similarity": alike, "drift": moved, "recognised": known}
    labels = np.repeat(np.arange(10), 5)
    # a fifth of every old class is taken for the last one
    last = np.where(np.arange(50) % 5 == 0, 9, labels)
    predictions = [None] * 3 + [last]
    about = dict(shift=shift, analysis=analysis, predictions=predictions)
    return fake("gfr", seed, **about)


def test_each_quantity_reads_its_own_number():
    wanted = {
        "last": 52,
        "average": (100 + 80 + 65 + 52) / 4,
        "forgetting": 20,
        "old": 80,
        "new": 90,
        "block 1": 90,
        "block 4": 40,
        "classifier": 30,
        "blocks 1 to 3": 80,
        "shuffled": 4,
        "drift": 50,
        "at once": 90,
        "at last": 60,
    }
    found = {name: of(analysed()) for name, (_, of) in claims.QUANTITIES.items() if of}
    assert found == pytest.approx(wanted, abs=0.1)


def test_only_the_splits_of_a_claim_are_asked_and_a_side_may_name_its_own():
    sides = Side("a"), Side("b", split="10 tasks")
    claim = Claim("a over b", "above", *sides, splits=("5 tasks",))
    panels = {
        "5 tasks": {"a": [analysed()], "b": [analysed(shift=0.1)]},
        "10 tasks": {"a": [analysed()], "b": [analysed(shift=0.2)]},
    }
    [(text, kind, first, second)] = claims.by_split(panels, [claim])
    assert (text, kind) == ("a over b (5 tasks)", "above")
    assert first == pytest.approx([52], abs=0.1)
    assert second == pytest.approx([32], abs=0.1)


def test_a_claim_needs_all_its_rows():
    lead = Claim("lead", "above", Side("a", minus="c"), Side("b"))
    plain = Claim("plain", "above", Side("a"), Side("b"))
    assert claims.among([lead, plain], ["a", "b"]) == [plain]
    assert claims.only([lead, plain], [("a", "b")]) == [lead]


def test_the_summary_by_hand():
    empty = [{}] * 4
    shifts = (0.0, 0.1)
    runs = [
        fake("gfr", seed, shift=x, bytes_kept=empty) for seed, x in enumerate(shifts)
    ]
    row = words.summary(runs).iloc[0].str.replace("\u00a0", " ")
    assert row["task 0"] == "95.0 ± 7.1"
    assert row["average incremental"] == "69.2 ± 7.1"
    assert row["forgetting"] == "20.0 ± 0.0"


def test_the_file_of_curves_by_hand():
    row = words.curves([fake("gfr")]).iloc[2]
    names = ("classes_seen", "class_weighted", "mean_over_tasks")
    assert tuple(row[name] for name in names) == (8, 0.65, 0.6)
    assert row["forgetting"] == pytest.approx((4 * 0.2 + 2 * 0.1) / 6, abs=1e-4)


def test_between_takes_the_shared_seed():
    ours = [fake("gfr", 0, shift=0.5), fake("gfr", 1)]
    said = words.between(ours, [fake("lwf", 1, shift=0.1)])
    assert said.startswith("10.0 points")
