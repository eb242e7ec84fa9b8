"""Numbers of the page Verdicts, of the guide and of the message, by hand.

Each was seen to fail with one line made wrong, which its comment names.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from test_verdicts import finder, pretended

from gfrlib.book import claims, costs, guide, message, verdict_page, verdicts, words
from gfrlib.book.claims import Claim, Side
from gfrlib.book.scales import SCALES
from gfrlib.book.verdicts import Judged


def judged(number, kind, first, second, ours=False):
    """An answer of `slim` to a claim of its own."""
    sides = Side("gfr"), Side("lwf")
    about = dict(where="Figure 5", figure="fig-comparison-tasks", ours=ours)
    claim = Claim(f"claim {number}", kind, *sides, **about)
    return Judged(claim, "5 tasks", "slim", first, second)


HIGH, LOW = [50.0, 50.2], [40.0, 40.2]
CASES = (
    *[("above", HIGH, LOW)] * 2,  # holds
    *[("above", LOW, HIGH)] * 3,  # does not hold
    ("far above", [55.0, 55.2], HIGH),  # above, not far
    ("above", [50.0, 52.0], [50.5, 51.5]),  # seeds do not decide
    *[("above", [50.0], LOW)] * 2,  # one seed, agrees
    ("above", [30.0], LOW),  # one seed, disagrees
    ("above", [], LOW),  # not recorded
)


@pytest.fixture
def answers():
    """Two hold, three do not, one not far, four open, one missing; and two of ours."""
    ours = [judged("ours", "above", HIGH, LOW, True)]
    ours += [judged("of ours, too", "above", LOW, HIGH, True)]
    return [judged(n, *case) for n, case in enumerate(CASES)] + ours


# verdict_page.headline: our questions counted; `not agrees`; ONE_SEED for UNDECIDED
def test_the_headline_counts_the_papers_claims_and_not_our_questions(answers):
    said = verdict_page.headline(answers)
    assert "**11 comparisons**" in said and "answer **10** of them" in said
    assert "10 answers, 0 of them counts" in said
    assert "Decided: 2 hold, 3 do not, 1 hold without the margin" in said
    assert "Open: 3 with one seed on a side (2 of them agree so far), 1 with" in said


# verdict_page.summary: columns swapped
def test_each_verdict_stands_in_its_own_column_of_the_summary(answers):
    assert "| slim | 2 | 3 | 1 | 4 | 1 |" in verdict_page.summary(answers).data
    assert "| slim | 1 | 1 | 0 | 0 | 0 |" in verdict_page.summary(answers, True).data


# verdict_page.failing: DIRECTION left out; listed: our questions not left out
def test_what_fails_holds_short_margins_and_none_of_our_questions(answers):
    said = verdict_page.failing(answers).data
    assert said.count("does not hold") == 3 and said.count("above, not far") == 1
    assert "ours" not in said


# verdict_page.data: second in the column first
def test_the_file_of_verdicts_holds_both_sides(answers):
    row = verdict_page.data(answers)[5]
    assert (row["first"], row["second"]) == ("55.000 55.200", "50.000 50.200")
    assert row["difference"].startswith("+5.0") and row["verdict"] == claims.DIRECTION


# verdict_page.missing: the two counts swapped
def test_missing_claims_and_missing_runs_are_two_counts(monkeypatch):
    monkeypatch.setattr(words, "grid_files", dict)
    unanswered = [judged(n, "above", [], []) for n in range(3)]  # all of two rows
    evidence = SimpleNamespace(runs=lambda scale, split, row: [])
    assert "| slim | 3 | 2 |" in verdict_page.missing(unanswered, evidence).data


# verdict_page.printed: reversed
def test_the_papers_numbers_stand_in_the_order_of_the_sides():
    claim = Claim("a", "above", Side("a"), Side("b"), printed=(41.5, None))
    assert verdict_page.printed(claim) == "41.5 against not printed"


# verdicts.ask: evidence.runs(scale, split, row)
def test_a_side_is_asked_on_its_own_split():
    value = {"5 tasks": 50, "10 tasks": 40}

    def runs(scale, split, row):
        return [pretended("slim", "gfr", value[split])]

    sides = Side("gfr"), Side("gfr", split="10 tasks")
    evidence, claim = SimpleNamespace(runs=runs), Claim("a", "above", *sides)
    found = verdicts.ask(claim, "5 tasks", SCALES["slim"], evidence)
    assert (found.first, found.second) == (pytest.approx([50]), pytest.approx([40]))


# verdicts.Evidence.every: a run twice; SEEDS: 2
def test_a_run_that_two_rows_share_is_one_and_three_seeds_are_looked_for():
    run = pretended("slim", "gfr", 50)
    evidence = verdicts.Evidence(
        lambda preset, rows, *_, **__: dict.fromkeys(rows, [run])
    )
    for row in ("gfr", "distillation + GAN"):
        assert evidence.runs(SCALES["slim"], "5 tasks", row) == [run]
    assert evidence.every() == [run]
    three = verdicts.Evidence(finder({"slim": {"gfr": 50}}, seeds=9))
    assert len(three.runs(SCALES["slim"], "5 tasks", "gfr")) == 3


# verdicts.size_of: 224 for 256, the side that the network reads; of_objects: swapped;
# costs.exemplar_bytes: 10 a class; costs.memory_bytes: without `counts += 1`
def test_bytes_of_what_is_built_by_hand():
    assert verdicts.size_of("24 images") == 24 * 256 * 256 * 3
    small, large = (f"exemplars, {name}" for name in ("CIFAR-100", "ImageNet-Subset"))
    assert verdicts.size_of(small) == 20 * 100 * 32 * 32 * 3
    assert verdicts.size_of(large) == 20 * 100 * 256 * 256 * 3
    first, second = verdicts.of_objects(SimpleNamespace(pair=(large, small)))
    assert (first, second) == ([6400.0], [100.0])
    # a mean and a deviation of 512 features for each class, 4 bytes each
    assert costs.memory_bytes("gfr-gaussian", 100) == 100 * 2 * 512 * 4


# guide.machine: seconds of all tasks; the old network among what is kept
def test_costs_of_the_guide_are_of_later_tasks_and_without_the_old_network():
    run = pretended("slim", "lucir", 40)
    spent = ((0, "classifier", 100), (1, "classifier", 20), (2, "generator", 3))
    run.seconds = [dict(zip(("task", "phase", "seconds"), each)) for each in spent]
    run.bytes_kept = [{"images": 2048, "old network": 10**6}] * 5 + [{"images": 4096}]
    case = guide.Case(guide.IMAGES, guide.MEASURED, {"lucir": [run]})
    [row] = guide.machine([case])
    assert row["later tasks (s)"] == "23" and row["kept for old classes"] == "2 KiB"
    assert row["last (%)"] == "40.0"
    slower = pretended("slim", "lucir", 40, seed=1)
    slower.seconds = [
        {**entry, "seconds": 2 * entry["seconds"]} for entry in run.seconds
    ]
    slower.bytes_kept = run.bytes_kept
    case.found["lucir"].append(slower)
    assert guide.machine([case])[0]["later tasks (s)"] == f"{1.5 * 23:.0f}"


# message.why: recognised at the end; drift as a fraction of 1; rows mixed up
def test_the_message_says_what_is_recognised_at_once_and_how_far_features_move():
    def run(method, value, first, last, moved):
        drift = [{"of": [{"task": 0, "features": x}]} for x in (0, moved)]
        known = [{"after": t, "share": x} for t, x in enumerate((first, last))]
        about = pretended("slim", method, value, base=25, tasks=3)
        about.analysis = {"drift": drift, "recognised": known}
        return [about]

    found = {
        "gfr": run("gfr", 50, 0.9, 0.5, 0.25),
        "mergan": run("mergan", 20, 0.3, 0.1, 0.75),
        "finetune": [pretended("slim", "finetune", 10, base=25, tasks=3)],
    }
    said = message.why(SimpleNamespace(runs=lambda scale, split, row: found[row]))
    said = said.replace("\u00a0", " ")
    assert "recognises 90.0 % of the features" in said
    assert "and 30.0 % (one seed) of generated images, whose generator had" in said
    assert "move by 25.0 % of their length" in said
    assert "GFR ends at 50.0 %, fine-tuning at 10.0 %" in said


# message.lead: reversed
def test_a_lead_of_the_message_has_its_sign():
    assert message.lead([50.0, 50.2], [40.0, 40.2]) == "+10.0"
    assert message.lead([40.0], [41.5]) == "-1.5 (one seed)"
    assert np.isclose(claims.difference([40.0], [41.5]), -1.5)


# verdict_page.measured: sorted
@pytest.mark.parametrize(
    "first, second, seeds",
    [
        ([50.0, 50.2], [40.0, 40.2, 40.1], "2 and 3 seeds"),
        ([50.0, 50.2, 50.1], [40.0, 40.2], "3 and 2 seeds"),
        ([50.0], [40.0], "1 seed"),
        (HIGH, LOW, "2 seeds"),
    ],
)
def test_seeds_are_counted_in_the_order_of_the_sides(first, second, seeds):
    said = verdict_page.measured(judged(0, "above", first, second))
    assert said.endswith(f"; {seeds}")
