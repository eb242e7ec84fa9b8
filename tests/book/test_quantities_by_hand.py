"""More numbers of results, memories, figures and tables, by hand.

Each was seen to fail with one line made wrong, which its comment names.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from fakes import fake, texts

from gfrlib.book import (
    accuracy,
    example,
    inside,
    memories,
    results,
    scales,
    switches,
    words,
)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


# results.leads: numbers of tasks instead of classes seen
def test_leads_stand_over_the_classes_seen():
    found = {"frozen": [fake("gfr", shift=0.1)], "gfr": [fake("gfr")]}
    points = results.leads(found, "frozen")["gfr"]
    assert [x for x, _ in points] == [4, 6, 8, 10]
    assert points[3][1] == pytest.approx([10])


# results.seconds: another task for "task 0"
def test_seconds_of_task_0_are_its_own():
    spent = [{"task": t, "phase": "classifier", "seconds": 5 - t} for t in range(4)]
    run = fake(seconds=spent)
    whens = ("", "task 0", "later", "to replay")
    seconds = [results.seconds(run, "classifier", when) for when in whens]
    assert seconds == [14, 5, 9, 12]


def three_steps():
    """A run of three classes, one a task and one image each."""
    answers = [np.array([0]), np.array([0, 0]), np.array([1, 1, 2])]
    return fake(
        "gfr",
        task_sizes=[1, 1, 1],
        predictions=answers,
        labels=lambda t=None: np.arange(3 if t is None else t + 1),
    )


# results.old_new and accuracy.old_new_bars: always the last task
def test_old_and_new_classes_after_an_earlier_task():
    assert results.old_new(three_steps(), 1).tolist() == [100, 0]
    assert results.old_new(three_steps()).tolist() == [50, 100]
    ax = accuracy.old_new_bars({"gfr": [three_steps()]}, t=1)
    assert [bar.get_width() for bar in ax.patches] == [100, 0]


# results.mistaken: older and newer exchanged; the share of the wrong for that of all
def test_wrong_answers_are_of_the_own_task_an_older_or_a_newer_one():
    run = three_steps()  # two classes a task would be needed for one of its own
    assert results.mistaken(run) == pytest.approx([0, 0, 100 / 3])
    assert results.mistaken(run, 1) == pytest.approx([0, 50, 0])
    two = fake(
        "gfr",
        task_sizes=[2, 2],
        predictions=[None, np.array([1, 0, 2, 1, 0, 3, 3, 1])],
        labels=lambda t=None: np.repeat(np.arange(4), 2),
    )
    assert results.mistaken(two) == pytest.approx([25, 25, 12.5])
    ax = accuracy.error_bars({"gfr": [two], "lwf": [run]})
    bars = [(bar.get_x(), bar.get_width()) for bar in ax.patches]
    assert np.allclose(bars[:3], [(0, 25), (25, 25), (50, 12.5)])
    assert np.allclose(bars[3:], [(0, 0), (0, 0), (0, 100 / 3)])
    # 12.5 rounds to even; parts too narrow have no number, every row has its sum
    assert {"25", "12", "62", "33"} <= set(texts(ax.figure))


# results.arrived and stayed: task 0 counted; rows for columns
def test_later_tasks_when_they_came_and_at_the_end():
    run = fake("gfr")
    assert results.arrived([run]) == pytest.approx([100 * (0.6 + 0.5 + 0.3) / 3])
    assert results.stayed([run]) == pytest.approx([100 * (0.5 + 0.4 + 0.3) / 3])


# results.told: a row without the rule counted by its own
def test_only_runs_with_the_rule_are_told_the_task():
    some = [fake(rules={"softmax": [], "task-aware": []}), fake(rules={"softmax": []})]
    assert results.told(some) == pytest.approx(results.last(some[:1], "task-aware"))


# accuracy.lead_curves: the first seed's end; accuracy.two_sizes: the first seed
def test_ends_of_several_seeds_are_their_mean():
    found = {
        "frozen": [fake("gfr", s, shift=0.3) for s in (0, 1)],
        "gfr": [fake("gfr", 0, shift=0.2), fake("gfr", 1, shift=0.1)],
    }
    ax = accuracy.lead_curves(found)
    assert "GFR, GAN +15.0" in texts(ax.figure)
    two = [fake("gfr", 0), fake("gfr", 1, shift=0.1)]
    ax = accuracy.two_sizes({"medium": {"gfr": two}, "slim": {"gfr": two[:1]}})
    marks = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
    assert marks == pytest.approx([47, 52])


# Memories -----------------------------------------------------------------------------


def row(task, frechet, coverage):
    about = dict(task=task, classes=4, spread=4.0, frechet=frechet, coverage=coverage)
    return about | {"precision": 0.5, "recall": 0.5, "density": 1.0}


def measured(frechet, shift, seed=0):
    """Early and late measures; the early distance tells the other order."""
    entries = [
        {"after": t, "of": [row(0, x, 0.5)], **dict.fromkeys(crossed, 0.5)}
        for t, x in ((0, 9 - frechet), (2, frechet))
        for crossed in [("trained_on_replay", "tested_on_replay")]
    ]
    return fake("gfr", seed, shift=shift, analysis={"quality": entries})


# memories.telling: sign 1 for a distance; the first of the moments for the last
def test_a_small_distance_counts_as_good_and_the_last_moment_counts():
    far = {f"memory {x}": [measured(x, shift=x / 10)] for x in (1, 2, 3, 4)}
    said = memories.telling(far).data
    assert f"{memories.DISTANCE} +1.00" in said


# memories.costs_table: the average for the last accuracy; rows for seeds
def test_costs_stand_beside_the_last_accuracy_and_the_number_of_seeds():
    more = dict(seconds=[], bytes_kept=[{"G": 999}] * 4)
    found = {"gfr": [fake("gfr", **more)], "gfr-flow": [fake("gfr-flow", **more)]}
    table = memories.costs_table({"5 tasks": found})
    assert [*table["accuracy"]] == ["52.0"] * 2 and [*table["seeds"]] == [1, 1]


# memories.aged: the yardstick over all tasks, not task 0's own
def test_the_yardstick_of_aging_is_of_task_0_alone():
    perfect = {"of": [row(0, 0.1, 0.9), row(1, 0.1, 0.5)]}
    late = {"after": 1, "of": [row(0, 1.0, 0.6), row(1, 1.0, 0.2)]}
    run = fake(analysis={"quality": [{**late, "reference": perfect}]})
    ours, yardstick = memories.aged({"gfr": [run]})
    assert ours["values"] == [[pytest.approx(60)]]
    assert yardstick["values"] == [[pytest.approx(90)]]


# Words and tables ---------------------------------------------------------------------


# words._origin: the first machine, the first date
def test_every_machine_and_both_ends_of_the_dates_are_named():
    runs = [fake("gfr", 0), fake("gfr", 1)]
    runs[1].provenance |= {"device": "B", "date": "2026-11-22 10:00 UTC"}
    shown = words.provenance(runs).data
    assert "2026-11-20 to 2026-11-22" in shown
    assert "A &lt;chip&gt;, 2 threads; B, 2 threads" in shown


# scales.beside: a difference of all seeds
def test_a_difference_between_presets_is_of_shared_seeds():
    small = [fake("gfr", 0, shift=0.2), fake("gfr", 1, shift=0.1)]
    rows = scales.beside({"medium": {"gfr": [fake("gfr", 0)]}, "slim": {"gfr": small}})
    assert [row["last"].replace("\u00a0", " ") for row in rows] == [
        *("52.0", "37.0 ± 7.1", "+20.0")
    ]


# scales.by_method: runs of every method
def test_a_search_is_told_apart_by_its_method():
    held_out = {("ewc-gan", 5.0): [fake("gfr")], ("mas-gan", 2.0): [fake("finetune")]}
    found = scales.by_method(held_out)
    assert found == {
        "ewc-gan": [(5.0, pytest.approx(52))],
        "mas-gan": [(2.0, pytest.approx(16))],
    }


# scales.at_the_edge: the largest value alone
def test_both_ends_of_a_search_are_its_edge():
    falls, rises = ([(1.0, 60.0), (2.0, 50.0), (3.0, x)] for x in (40.0, 70.0))
    inside = [(3.0, 60.0), (2.0, 70.0), (1.0, 50.0)]
    tried = {"falls": falls, "rises": rises, "inside": inside}
    assert scales.at_the_edge(tried) == ["falls", "rises"]


# switches.rows_of: the two columns swapped
def test_rows_of_switches_name_what_was_changed():
    name = "11  whole covariances"
    both = {name: [(fake("gfr-gaussian", 3), fake("gfr-gaussian", 3, shift=0.1))]}
    [found] = switches.rows_of(both)
    assert found["seed"] == 3
    assert found["changed"] == pytest.approx(52)
    assert found["unchanged"] == pytest.approx(42)


# example.line: seconds of task 0 counted
def test_a_line_of_the_search_has_the_seconds_beyond_task_0():
    spent = [{"task": t, "phase": "classifier", "seconds": 9 - t} for t in range(3)]
    found = example.line(fake("gfr-gaussian", seconds=spent))
    assert found["seconds"] == 15
    assert (found["last"], found["average incremental"]) == (52.0, 74.25)


# inside._logits: entries of every step
def test_logits_are_those_after_the_task_asked_for():
    own, other = fake().analysis["logits"][0], dict(fake().analysis["logits"][0])
    largest = {"on_old_images": {"old_classes": 9.0, "new_classes": 9.0}}
    other |= {"after": 2, "largest_logit": largest}
    ax = inside.largest_logit(fake(analysis={"logits": [other, own]}))
    assert ax.lines[0].get_xdata().tolist() == [0.5, 2.0]


# inside.layer_similarity: the null of task 0 for every task
def test_the_null_is_of_the_task_that_is_shown():
    entries = [
        dict(after=3, task=task, layer="block 1", svcca=0.9, svcca_null=null)
        for task, null in ((0, 0.1), (1, 0.3))
    ]
    run = fake(analysis={"similarity": entries})
    ax = inside.layer_similarity(run, task=1)
    assert ax.lines[-1].get_ydata().tolist() == [0.3]
