"""Numbers that the command line prints, by hand.

Each was seen to fail with one line made wrong, which its comment names.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gfrlib import metrics
from gfrlib.cli import actions
from gfrlib.config import make_config
from gfrlib.lab import records

SIZES = [2, 1]


def run(last, seed=0, **changes):
    """A run of two tasks: all right after task 0, then `last` of each task."""
    accuracy = np.array([[1.0, np.nan], last])
    return SimpleNamespace(
        config=make_config("quick", "finetune", seed=seed, **changes),
        accuracy=accuracy,
        task_sizes=SIZES,
        curve=metrics.class_weighted(accuracy, SIZES),
    )


# actions.compare: A - B; fractions for percent; settings of B before A's;
# actions._measures: class-weighted for the mean over tasks
def test_compare_by_hand(monkeypatch, capsys):
    sides = {
        "a": [run([0.6, 0.3], epochs_task=1)],
        "b": [run([0.9, 0.3], seed, epochs_task=2) for seed in (0, 1)],
    }
    monkeypatch.setattr(actions, "_resolve", sides.get)
    actions.compare(SimpleNamespace(a="a", b="b"))
    lines = capsys.readouterr().out.replace("\u00a0", " ").splitlines()
    words = {line[:26].strip(): line[26:].split() for line in lines}
    assert words["epochs_task"] == ["1", "2"]
    # (2 x 0.6 + 0.3) / 3 = 0.5 and (2 x 0.9 + 0.3) / 3 = 0.7
    assert words["last, class-weighted"] == ["50.0", "70.0", "±", "0.0", "+20.0"]
    assert words["average incremental"] == ["75.0", "85.0", "±", "0.0", "+10.0"]
    assert words["last, mean over tasks"] == ["45.0", "60.0", "±", "0.0", "+15.0"]
    assert words["forgetting"] == ["40.0", "10.0", "±", "0.0", "-30.0"]
    assert lines[-1].endswith("over 1 and 2 seeds")


# actions._resolve: a record that lies in both places counted twice
def test_a_record_in_both_places_is_one_seed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    places = [
        Path(place) / f"digits-{n}.json"
        for place in ("ours", "cache")
        for n in ("one", "two")
    ]
    seeds = {"digits-one": 0, "digits-two": 1}

    def load(path):
        found = run([0.5, 0.5], seeds[path.stem])
        found.path = path
        return found

    monkeypatch.setattr(records, "every", lambda: places)
    monkeypatch.setattr(records, "load", load)
    found = actions._resolve("digits")
    assert [(r.path.parent.name, r.config.seed) for r in found] == [
        ("ours", 0),
        ("ours", 1),
    ]
    assert [r.path.stem for r in actions._resolve("digits-two")] == ["digits-two"]


# actions._in_short: a fraction for a percent
def test_a_record_in_short():
    assert actions._in_short(run([0.9, 0.3])) == (
        "last  70.0 %, average incremental  85.0 %"
    )
    joint = run([0.9, 0.3])
    joint.curve = np.array([np.nan, 0.7])
    assert actions._in_short(joint).endswith("average incremental     –  ")


# actions._row: a fraction for a percent
def test_a_row_is_in_percent(capsys):
    actions._row("forgetting", [np.nan, 0.125])
    assert capsys.readouterr().out == f"{'forgetting':<15}       -    12.5\n"
    assert pytest.approx(0.7) == run([0.9, 0.3]).curve[-1]
