"""What chapters ask of runs: which are recorded, and numbers by hand."""

import numpy as np
import pytest
from fakes import LAYERS, fake, with_similarity

from gfrlib.book import results
from gfrlib.config import UserError
from gfrlib.lab import records


def test_configs_of_rows_and_of_changed_rows():
    by_name = results.configs("slim", ("gfr", "lwf"), 2, base=25, tasks=3)
    assert [c.seed for c in by_name["lwf"]] == [0, 1] and by_name["gfr"][0].base == 25
    changed = {"no pull": {"method": "gfr", "penalty": "none", "base": 50}}
    one = results.configs("slim", changed, base=25, tasks=5)["no pull"][0]
    assert (one.memory, one.penalty, one.base) == ("gan", "none", 50)


def test_recorded_runs_are_found_and_nothing_is_trained():
    some = next(path for path in records.every() if "50+5x10-gfr-s0" in path.name)
    config = records.load(some).config
    assert results.find(config).path == some
    found = results.recorded("slim", ("gfr", "finetune"), 2)
    assert list(found) == ["gfr", "finetune"] and len(found["gfr"]) == 2
    assert results.recorded("slim", ("gfr",), 1, penalty_weight=0.123) == {}


def test_a_data_set_that_is_not_here_needs_its_number_of_classes():
    assert results.recorded("paper", ("gfr",), 1, dataset="far-away", classes=100) == {}
    with pytest.raises(UserError, match="far-away"):
        results.recorded("paper", ("gfr",), 1, dataset="far-away")


def test_numbers_of_runs_in_percent():
    two = [fake("gfr", 0), fake("gfr", 1, shift=0.1)]
    assert results.last(two) == pytest.approx([52, 42])
    assert results.after(two, 1) == pytest.approx([80, 70])
    assert results.forgotten(two)[0] == pytest.approx(100 * (4 * 0.3 + 0.2 + 0.2) / 8)
    assert results.average(two)[0] == pytest.approx((100 + 80 + 65 + 52) / 4, abs=1)
    assert results.old_new(fake("finetune")).tolist() == [0, 100]


def test_seconds_and_bytes_of_a_run():
    spent = [
        {"task": t, "phase": phase, "seconds": seconds}
        for t, phase, seconds in ((0, "classifier", 5), (1, "classifier", 2))
    ]
    run = fake(seconds=spent, bytes_kept=[{"G": 3}, {"G": 4, "old network": 10}])
    assert results.seconds(run, "classifier") == 7
    assert results.seconds(run, "classifier", "later") == 2
    assert results.seconds(run, "generator") == 0
    assert results.carried(run) == 3


def test_drift_of_features_after_each_task():
    steps = [
        {"after": 0, "of": [{"task": 0, "features": 0.0}]},
        {
            "after": 1,
            "of": [{"task": 0, "features": 0.25}, {"task": 1, "features": 0.0}],
        },
    ]
    run = fake(analysis={"drift": steps})
    assert results.drift(run) == [0, 0.25]
    assert np.isnan(results.drift(run, 1)[0]) and results.drift(run, 1)[1] == 0


def test_what_task_0_recognises_after_each_task():
    two = [
        fake(analysis={"recognised": [{"after": t, "share": s} for t, s in steps]})
        for steps in (((0, 0.9), (1, 0.8)), ((0, 0.7), (1, 0.4)))
    ]
    (first, at_once), (second, later) = results.recognised(two)
    assert (first, second) == (0, 1)
    assert at_once == pytest.approx([90, 70]) and later == pytest.approx([80, 40])


def test_drifts_of_several_runs_step_by_step():
    steps = [
        {"of": [{"task": 0, "features": 0.0}]},
        {"of": [{"task": 0, "features": 0.3}, {"task": 1, "features": 0.0}]},
    ]
    run = fake(analysis={"drift": steps})
    assert results.drifts([run, run]) == [(0, [0.0, 0.0]), (1, [0.3, 0.3])]


def test_similarity_of_layers():
    assert list(results.similarity(with_similarity())) == list(LAYERS)
    rows = results.similarities({"mine": [with_similarity(seed=3)]}, ("cka",))
    assert len(rows) == 6 * len(LAYERS)  # tasks 1 to 3, each against all before it
    assert rows[1] == {
        **{"method": "gfr", "seed": 3, "after": 1, "task": 0},
        **{"layer": "block 2", "rows": 100, "cka": 0.9},
    }


def test_what_was_not_compared_is_refused():
    for record, kwargs in (
        (fake(), {}),
        (with_similarity(), {"task": 3}),
        (with_similarity(), {"after": 0}),
    ):
        with pytest.raises(UserError, match="holds no svcca"):
            results.similarity(record, **kwargs)


def test_parts_of_the_analysis_are_asked_for_with_the_runs(monkeypatch):
    asked = []
    monkeypatch.setattr(
        results.experiments,
        "run_or_load",
        lambda config, analyse, report: asked.append((config.seed, analyse)),
    )
    results.trained("quick", ("gfr",), 2, analyse="projection", base=2)
    results.trained("quick", ("gfr",))
    assert asked == [(0, "projection"), (1, "projection"), (0, ())]
