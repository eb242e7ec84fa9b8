"""The claims are one list that chapters share; the page's numbers are those of runs."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import CHAPTERS, ROOT, cells
from IPython.display import Markdown

from gfrlib import metrics
from gfrlib.book import (
    claims,
    entries,
    figures,
    guide,
    message,
    paper,
    results,
    scales,
    verdict_page,
    verdicts,
    words,
)
from gfrlib.config import METHODS, make_config

ALL = [claim for part in paper.PARTS.values() for claim in part]
SIZES = {5: [50, 10, 10, 10, 10, 10], 3: [25] * 4, 10: [50] + [5] * 10}
PAGE = ROOT / "book" / "verdicts.ipynb"


def pretended(preset, method, value, seed=0, **settings):
    """A run whose accuracy is `value` percent on every task, all the time."""
    config = make_config(preset, method, seed=seed, **settings)
    sizes = SIZES.get(config.tasks, [50, *[2] * 25])
    accuracy = np.tril(np.full((len(sizes), len(sizes)), value / 100))
    accuracy[np.triu_indices(len(sizes), 1)] = np.nan
    labels = np.repeat(np.arange(sum(sizes)), 100)
    answers = np.where(np.arange(len(labels)) % 100 < value, labels, -1)
    return SimpleNamespace(
        config=config,
        name=f"{preset}-{method}-{seed}-{config.digest()}",
        task_sizes=sizes,
        accuracy=accuracy,
        curve=metrics.class_weighted(accuracy, sizes),
        predictions=[answers[: 100 * sum(sizes[: t + 1])] for t in range(len(sizes))],
        labels=lambda t=None: (
            labels if t is None else labels[: 100 * sum(sizes[: t + 1])]
        ),
        analysis=None,
        bytes_kept=[{"statistics": 2048, "old network": 10**6}] * len(sizes),
    )


def finder(values, seeds=2):
    """What stands for results.recorded: runs of the methods in `values`, no others.

    values: {preset: {method: percent}}; every further seed is a point higher.
    """

    def find(preset, rows, wanted, classes=None, **shared):
        found = {}
        for row, own in rows.items():
            settings = {**shared, **own}
            method = settings.pop("method")
            if method in values.get(preset, {}) and len(own) == 1:
                value = values[preset][method]
                found[row] = [
                    pretended(preset, method, value + seed, seed, **settings)
                    for seed in range(min(seeds, wanted))
                ]
        return found

    return find


def page(evidence) -> str:
    """All that the page says, as text."""
    answers, cases = verdicts.judge(evidence), guide.cases(evidence)
    shown = [
        Markdown(verdict_page.headline(answers)),
        Markdown(message.message(evidence)),
        verdict_page.summary(answers),
        verdict_page.summary(answers, ours=True),
        verdict_page.failing(answers),
        verdict_page.doubtful(answers),
        verdict_page.changes("slim", "medium", evidence),
        verdict_page.changes("slim", "photographs, 64 px", evidence),
        *(verdict_page.part(answers, title) for title in paper.PARTS),
        verdict_page.missing(answers, evidence),
        guide.decision(cases),
        guide.gained_by_images(cases),
        guide.unknown(cases),
    ]
    return "\n".join(text.data for text in shown)


# The list -----------------------------------------------------------------------------


def test_every_claim_can_be_asked():
    rows = {*METHODS, *scales.ROWS, *scales.SEARCHED.values()}
    for claim in ALL:
        assert claim.kind in claims.KINDS, claim.text
        assert claim.where and claim.splits, claim.text
        sides = claim.first, claim.second
        assert {side.quantity for side in sides} <= set(claims.QUANTITIES), claim.text
        if claim.data == verdicts.OBJECTS:
            assert all(verdicts.size_of(side.row) > 0 for side in sides)
            continue
        assert {side.row for side in sides} <= rows, claim.text
        known = [s for s in scales.SCALES.values() if s.data == claim.data]
        assert known and set(claim.splits) <= {n for s in known for n in s.splits}


def test_no_claim_is_stated_twice():
    def run(side):  # a row by its settings: several names may stand for one
        own = sorted((scales.ROWS.get(side.row) or {"method": side.row}).items())
        return str(own), side.quantity, side.minus, side.split

    asked = [
        (frozenset((run(c.first), run(c.second))), c.data, split)
        for c in ALL
        for split in c.splits
    ]
    assert len(asked) == len(set(asked))
    titles = [title for title, part in paper.PARTS.items() for claim in part]
    assert len(titles) == len(ALL)


def test_every_claim_leads_to_something_of_this_book():
    places = {}
    for chapter in CHAPTERS:
        text = chapter.read_text()
        labels = re.findall(r"\((\S+)\)=\\n", text)
        labels += re.findall(r'"name": "(\S+)"', text)
        places |= dict.fromkeys(labels, chapter.stem.split("_")[0])
    asked = {c.figure for c in ALL} | {*guide.SHOWN.values()}
    for label in asked | {row[2] for row in paper.LOOKED_AT}:
        said = verdict_page.link(label)
        assert said == f"[chapter\u00a0{int(places[label])}](#{label})"


def test_chapters_state_no_claim_of_their_own():
    kinds = set(claims.KINDS) - {"near"}  # a word of chapter 6, too
    kinds = rf'",\s*"({"|".join(kinds)})"'  # after the text of a claim
    # chapter 14 asks about the best runs of a search that it makes itself, on digits
    for chapter in (path for path in CHAPTERS if path.stem != "14_still"):
        code = [c["source"] for c in cells(chapter) if c["cell_type"] == "code"]
        stated = [source for source in code if re.search(kinds, source)]
        assert not stated, f"{chapter.stem}: a claim belongs into gfrlib.book.paper"


def test_an_entry_of_the_list_by_hand():
    decided = "above | a - b @ 10 tasks | c: drift | 5 tasks, 10 tasks"
    [claim] = entries.read(f"a leads b by more\n    {decided}", where="Figure 9")
    assert claim.first == claims.Side("a", "last", "b", "10 tasks")
    assert claim.second == claims.Side("c", "drift")
    assert claim.splits == ("5 tasks", "10 tasks") and claim.where == "Figure 9"
    with pytest.raises(ValueError, match="two lines"):
        entries.read("one\ntwo")
    printed = {c.text: c.printed for c in paper.CLAIMS_2 if c.printed}
    assert printed["features far above Image replay"] == (41.5, 9.7)


def test_a_lead_is_taken_seed_by_seed():
    runs = {
        "a": [pretended("slim", "gfr", 50, 0), pretended("slim", "gfr", 60, 1)],
        "b": [pretended("slim", "lucir", 45, 1)],
    }
    side = claims.Side("a", minus="b", split="5 tasks")
    assert side.values(lambda row, split: runs[row]) == pytest.approx({1: 15})
    assert claims.Side("a").values(lambda row, split: runs[row]) == {0: 50, 1: 60}


# Verdicts and page --------------------------------------------------------------------


def answer_to(evidence, first, second, scale, split="5 tasks"):
    """The one answer about two rows' last accuracies on a split of CIFAR-100."""
    pair = claims.Side(first), claims.Side(second)
    [found] = [
        answer
        for answer in verdicts.judge(evidence)
        if (answer.claim.first, answer.claim.second) == pair
        and (answer.scale, answer.split) == (scale, split)
    ]
    return found


def test_verdicts_follow_the_runs():
    many = {"gfr": 50, "lwf": 30, "lucir": 50}
    evidence = verdicts.Evidence(finder({"slim": many, "medium": {**many, "lwf": 45}}))
    for scale, verdict in (("slim", "holds"), ("medium", "above, not far")):
        assert answer_to(evidence, "gfr", "lwf", scale).verdict == verdict
    level = answer_to(evidence, "gfr", "lucir", "slim")
    assert level.verdict == claims.UNDECIDED and level.agrees and not level.decided
    assert answer_to(evidence, "gfr", "lwf", "paper").verdict == "not recorded"
    found = answer_to(evidence, "gfr", "lwf", "slim")
    assert verdict_page.measured(found) == (
        "GFR, GAN 50.5\u00a0±\u00a00.7 against LwF 30.5\u00a0±\u00a00.7: "
        "+20.0 (17.0 to 23.0); 2 seeds"
    )


def test_the_numbers_of_the_page_are_those_of_the_runs():
    """With other runs every number that was measured is another one."""
    first = {"gfr": 51, "lwf": 32, "lucir": 57, "finetune": 13}
    second = {"gfr": 71, "lwf": 74, "lucir": 77, "finetune": 23}

    def shown(values):
        text = page(verdicts.Evidence(finder({"slim": values}, seeds=1)))
        return text, set(re.findall(r"(\d+\.\d)(?= against|:|\u00a0%)", text))

    (one, numbers), (other, others) = shown(first), shown(second)
    of_runs = {f"{value}.0" for value in (*first.values(), *second.values())}
    # what no run of the two says: the paper's own numbers
    assert not (numbers & others) & of_runs
    assert {"51.0", "32.0", "57.0", "13.0"} <= numbers
    assert {"71.0", "74.0", "77.0", "23.0"} <= others
    assert "GFR, GAN 71.0 against LwF 74.0: -3.0; 1 seed" in other
    assert "- **open: one seed**: *GFR (GAN) is far above LwF*" in other
    assert "**LwF** (74.0\u00a0%, one seed)" in other, "the guide follows, too"
    assert "**LwF** (32.0\u00a0%, one seed)" in one


def test_counts_of_the_summary_add_up():
    evidence = verdicts.Evidence(finder({"slim": {"gfr": 50, "lwf": 30}}))
    answers = verdicts.judge(evidence)
    lines = verdict_page.summary(answers).data.splitlines()
    names = [word.strip() for word in lines[0].strip("| ").split("|")]
    assert names == ["scale", *verdict_page.DECIDED, "open", claims.MISSING]
    shown = [line for line in lines[2:] if line.startswith("|")]
    assert len(shown) == 4 and "No claim is answered at medium, paper" in lines[-1]
    for line in shown:
        scale, *counts = (word.strip() for word in line.strip("| ").split("|"))
        counts = list(map(int, counts))
        own = [a for a in answers if a.scale == scale and not a.claim.ours]
        assert sum(counts) == len(own), scale
    total = len({(a.claim, a.split) for a in answers if not a.claim.ours})
    assert f"**{total} comparisons**" in verdict_page.headline(answers)


def test_without_any_run_the_page_says_so():
    evidence = verdicts.Evidence(finder({}))
    text = page(evidence)
    assert "answer **5** of them" in text, "memory: what is built needs no run"
    assert "No run that could decide is recorded." in text
    assert "Why it works" not in text and "When it may not" not in text
    assert "No claim is recorded both at *slim* and at *medium* yet." in text
    assert "python -m gfrlib grid grids/medium-cifar100.yaml" in text
    assert "python -m gfrlib grid grids/figure-5.yaml" in text


def test_what_changes_between_two_scales():
    values = {"slim": {"gfr": 50, "lwf": 30}, "medium": {"gfr": 50, "lwf": 45}}
    evidence = verdicts.Evidence(finder(values))
    text = verdict_page.changes("slim", "medium", evidence).data
    changed = [line for line in text.splitlines() if "far above LwF (5 tasks)" in line]
    assert len(changed) == 1 and "above, not far" in changed[0]
    assert text.startswith("5 claims can be answered both at *slim* and at *medium*")
    assert "the numbers point another way in 3" in text, "on each of three splits"


def test_the_verdict_stands_first():
    """On a narrow screen the first column is seen without scrolling."""
    evidence = verdicts.Evidence(finder({"slim": {"gfr": 50, "lwf": 30}}))
    lines = verdict_page.part(verdicts.judge(evidence), "Figure 5").data.splitlines()
    heads = [line for line in lines if line.startswith("| verdict |")]
    assert len(heads) == 1 and "| **holds** | GFR (GAN) is far above LwF" in "".join(
        lines
    )


def test_what_is_open_says_which_way_it_points():
    found = {"slim": {"gfr": 50, "lwf": 30, "icarl-nme": 60}}
    evidence = verdicts.Evidence(finder(found, seeds=1))
    answers = verdicts.judge(evidence)
    words = {
        row: verdict_page.word(answer_to(evidence, "gfr", row, "slim"))
        for row in ("lwf", "icarl-nme", "lucir")
    }
    assert "one seed" in words["lwf"] and "(so far it agrees)" in words["lwf"]
    assert "(so far it disagrees)" in words["icarl-nme"]
    assert words["lucir"] == claims.MISSING
    listed = verdict_page.doubtful(answers).data
    assert "iCaRL-NME" in listed and "far above LwF" not in listed


def test_quick_runs_may_be_trained():
    asked = []

    def live(preset, rows, seeds, **shared):
        asked.append((preset, *rows, seeds))
        return {row: [pretended("quick", row, 90)] for row in rows}

    scale = scales.SCALES["quick"]
    evidence = verdicts.Evidence(finder({}), live)
    assert evidence.runs(scale, "4 + 3 × 2", "gfr") == evidence.every()
    evidence.runs(scale, "4 + 3 × 2", "gfr")
    assert asked == [("quick", "gfr", 1)], "each is looked for once"


def test_grids_are_named_for_what_they_make():
    files = words.grid_files()
    for split, row in (("5 tasks", "gfr"), ("25 tasks", "lucir")):
        [config] = scales.configs(scales.SCALES["medium"], split, row)
        assert files[config.digest()] == "grids/medium-cifar100.yaml"
    [config] = scales.configs(scales.SCALES["ImageNet-1000"], "10 tasks", "gfr")
    assert files[config.digest()] == "grids/figure-6.yaml"


def test_a_table_escapes_bars():
    assert verdict_page.table([{"a": "x|y"}]).splitlines()[-1] == "| x\\|y |"
    assert verdict_page.table([]) == ""


def test_no_result_is_typed_into_the_page():
    """No number but those of figures, tables and sections of the paper, and pixels."""
    allowed = r"Figures? \d|Table \d|Section \d(\.\d)?|\d+ px|figure-\d|table-\d"
    allowed += r"|\(\d\d_\w+\.ipynb\)|100 classes|CIFAR-100|ImageNet-1000|4 × 25"
    allowed += r"|5, 10, 25 tasks|25 classes|5 minutes|liu2020|task 0"
    for cell in cells(PAGE):
        if cell["id"] in ("bootstrap",):
            continue
        left = re.sub(allowed, "", cell["source"])
        assert not re.search(r"\d", left), f"{cell['id']}: {left}"
    source = (ROOT / "gfrlib/book/verdict_page.py").read_text()
    assert not re.search(r"\d\.\d", re.sub(r'"""(.|\n)*?"""', "", source))


def test_a_best_value_at_the_end_of_a_search_is_named():
    tried = {"ewc-gan": [(1.0, 50.0), (10.0, 60.0)], "mas-gan": [(1.0, 5.0),
             (2.0, 9.0), (3.0, 7.0)], "lwf": []}  # fmt: skip
    assert scales.at_the_edge(tried) == ["ewc-gan"]


def test_a_difference_is_of_the_seeds_that_both_have():
    a, b = ([pretended("slim", "gfr", 1, s) for s in seeds] for seeds in ((0, 1), (1,)))
    assert [[r.config.seed for r in some] for some in scales.of_shared_seeds(a, b)] == [
        [1], [1]
    ]  # fmt: skip
    assert scales.of_shared_seeds(a[:1], b) == [a[:1], b]


def test_the_paper_and_the_frozen_extractor_stand_beside_each_other_in_words():
    found = {
        "frozen": [pretended("medium", "frozen", 51)],
        "gfr": [pretended("medium", "gfr", 52)],
        "lwf": [pretended("medium", "lwf", 30)],
    }
    gaps = scales.gaps_of(found)
    assert gaps == ["GFR, GAN 1.0 points (one seed) above Frozen F"]


# The guide ----------------------------------------------------------------------------


def guide_of(values, seeds=2):
    """{(what may be kept, scale, split): Case} of constant runs."""
    found = guide.cases(verdicts.Evidence(finder(values, seeds)))
    return {(case.keep, *guide.STARTS[case.start]): case for case in found}


def test_rows_are_sorted_by_what_they_keep():
    kinds = {row: guide.keeps(row) for row in METHODS}
    assert kinds["lwf"] == kinds["finetune"] == guide.NOTHING
    assert kinds["fecam"] == kinds["gfr"] == kinds["frozen"] == guide.NUMBERS
    assert kinds["lucir"] == guide.IMAGES
    assert "joint" not in guide.allowed(guide.IMAGES)
    assert "fecam" in guide.allowed(guide.IMAGES), "who may keep more need not"
    assert "fecam" not in guide.allowed(guide.NOTHING)


def test_the_guide_takes_the_best_row_and_names_what_the_seeds_do_not_tell_from_it():
    at = guide_of({"slim": {"lwf": 30, "gfr": 50, "fecam": 51, "lucir": 55}})
    case = at[guide.NUMBERS, "slim", "5 tasks"]
    assert (case.best, case.tied) == ("fecam", ["gfr"])
    assert at[guide.NOTHING, "slim", "5 tasks"].best == "lwf"
    assert at[guide.IMAGES, "slim", "5 tasks"].best == "lucir"
    text = guide.decision(list(at.values())).data
    assert "**FeCAM** (51.5\u00a0±\u00a00.7\u00a0%)" in text
    assert "not told apart by the seeds: GFR, GAN" in text
    assert "[chapter\u00a09](#fig-comparison-tasks)" in text
    images = guide.gained_by_images(list(at.values())).data
    assert "Rebalance, the best row with images, against FeCAM" in images
    assert "+4.0 (1.0 to 7.0) points (holds for *above*)" in images
    # of one seed on a side, that seed decides on the other, too
    case = at[guide.IMAGES, "slim", "5 tasks"]
    del case.found["lucir"][1:]
    assert "FeCAM, the best without: +4.0 points (open" in (
        guide.gained_by_images([case]).data
    )


def test_a_frozen_extractor_with_replay_is_advice_too():
    """The controls of this book keep no more than the rows that they control."""
    assert set(guide.FROZEN) == {"frozen F, same memory", "frozen F + GAN"}
    for row in guide.FROZEN:
        assert guide.keeps(row) == guide.NUMBERS and guide.frozen(row)
        assert row in guide.allowed(guide.NUMBERS) and not guide.indifferent(row)
        assert guide.label(row).startswith("Frozen F with replay from ")
    values = {"gfr-gaussian-full": 40, "frozen": 30}

    def find(preset, rows, wanted, classes=None, **shared):
        """Replay ends higher where F is frozen."""
        found = finder({"slim": values})(preset, rows, wanted, classes, **shared)
        for row in rows if preset == "slim" else ():
            if row == "frozen F, same memory":
                found[row] = [pretended("slim", "gfr-gaussian-full", 50)]
        return found

    known = {(c.keep, c.start): c for c in guide.cases(verdicts.Evidence(find))}
    case = known[guide.NUMBERS, guide.MEASURED]
    assert case.best == "frozen F, same memory"
    assert "**Frozen F with replay from whole covariances**" in guide.advice(case)


def test_a_closer_rival_of_one_seed_stands_beside_a_tie():
    runs = {
        "fecam": [pretended("slim", "fecam", v, s) for s, v in enumerate((37, 39))],
        "gfr-flow": [pretended("slim", "gfr-flow", 38)],
        "gfr-squared": [
            pretended("slim", "gfr-squared", v, s) for s, v in enumerate((36, 39))
        ],
        "gfr": [pretended("slim", "gfr", 35)],
    }
    case = guide.Case(guide.NUMBERS, guide.MEASURED, runs)
    assert case.tied == ["gfr-squared"] and case.close == ["gfr-flow", "gfr-squared"]
    said = guide.beside(case)
    assert said.startswith("not told apart by the seeds: GFR, flow, 38.0\u00a0%, one")
    assert "GFR, GAN" not in said
    assert message.unsettled(case) == ", a tie"
    alone = guide.Case(guide.NUMBERS, guide.MEASURED, {**runs, "gfr-squared": []})
    alone.found.pop("gfr-squared")
    assert message.unsettled(alone) == ", open" and not alone.tied
    one = {row: some[:1] for row, some in runs.items()}
    assert message.unsettled(guide.Case(guide.NUMBERS, guide.MEASURED, one)) == ""


def test_a_heading_says_what_the_leads_say():
    def of(ours):
        def find(preset, rows, wanted, classes=None, **shared):
            values = {"slim": {"gfr": ours, "frozen": 50}}
            return finder(values)(preset, rows, wanted, classes, **shared)

        return message.when_not(verdicts.Evidence(find))

    assert of(60).startswith("**Beside a frozen extractor:**")
    assert of(50.5).startswith("**When it may not:**")
    assert of(40).startswith("**When it may not:**")


def test_a_clear_lead_is_called_decided_and_one_seed_is_not():
    values = {"slim": {"lwf": 30, "finetune": 10}}
    for seeds, word in ((2, "(decided)"), (1, "(open: one seed)")):
        case = guide_of(values, seeds)[guide.NOTHING, "slim", "5 tasks"]
        assert not case.tied and guide.beside(case).endswith(word)


def test_what_no_run_is_about_is_said():
    at = guide_of({"slim": {"lwf": 30, "gfr": 50}})
    text = guide.unknown(list(at.values())).data
    assert "1,000 classes (*ImageNet-1000*, 5 tasks): no run is recorded." in text
    assert "5 tasks follow: no row that keeps 20 images a class is recorded." in text
    assert "pretrained" in text and not any("pretrained" in name for name in METHODS)


def test_every_case_is_a_scale_and_a_split():
    for scale, split in guide.STARTS.values():
        assert split in scales.SCALES[scale].splits
    assert set(guide.SHOWN) <= set(guide.STARTS.values())


def test_the_message_names_no_winner_that_the_seeds_do_not_decide():
    values = {"gfr": 50, "frozen": 45, "gfr-gaussian-full": 50}
    text = message.message(verdicts.Evidence(finder({"slim": values})))
    assert "5 tasks: +5.0" in text and "Nor is the GAN" not in text
    values["gfr-gaussian-full"] = 55
    text = message.message(verdicts.Evidence(finder({"slim": values})))
    assert "whole covariances end at 55.5" in text
    text = message.message(verdicts.Evidence(finder({"slim": values}, seeds=1)))
    assert "Nor is the GAN" not in text and "+5.0 (one seed)" in text


def test_the_guide_gives_no_advice_that_stopping_beats():
    """After task 0 half of the classes are known: 40 / 2 = 20 % of all."""
    values = {"slim": {"mas": 15, "ewc": 14, "gfr": 30, "frozen": 25}}
    evidence = verdicts.Evidence(finder(values))
    cases = {(c.keep, c.start): c for c in guide.cases(evidence)}
    poor = cases[guide.NOTHING, guide.MEASURED]
    for run in (run for runs in poor.found.values() for run in runs):
        run.accuracy[0, 0] = 0.4
    assert poor.stopped == pytest.approx(20)
    assert guide.advice(poor) == (
        "**none**: who never adds a class ends at 20.0\u00a0%, "
        f"{words.label('mas')} at {guide.score(poor, 'mas')}"
    )
    assert guide.advice(cases[guide.NUMBERS, guide.MEASURED]).startswith("**GFR")


def test_a_row_without_a_rival_is_no_advice():
    evidence = verdicts.Evidence(finder({"slim": {"frozen": 30}}))
    [alone] = [
        c for c in guide.cases(evidence) if c.known and c.start == guide.MEASURED
    ]
    assert guide.advice(alone).startswith("open: Frozen F alone (30.5")
    assert "nothing is compared" in guide.beside(alone)
    assert guide.leaders([alone], guide.NUMBERS) == set()
    assert message.use(evidence) == "", "nor does the message name it"


def test_the_message_counts_only_where_its_winner_is_recorded():
    values = {"slim": {"fecam": 50, "gfr": 40}, "medium": {"gfr": 40, "frozen": 45}}
    text = message.use(verdicts.Evidence(finder(values)))
    [(won, asked)] = re.findall(r"FeCAM ends first in (\d+) of the (\d+)", text)
    assert won == asked, "the paper's network has no run of it"
    assert "It keeps 2 KiB at `slim` (CIFAR-100, 5 tasks)." in text


def test_a_frozen_row_is_carried_over_to_other_splits_of_the_later_classes():
    """Its statistics end alike; a row that trains, or another base, does not."""

    def find(preset, rows, wanted, classes=None, **shared):
        few = dict(tasks=5, base=50)
        given = {"fecam": few, "gfr": few, "lwf": {**few, "tasks": 25}}
        given["frozen"] = {"tasks": 25, "base": 50}
        known = {m: how for m, how in given.items() if how.items() <= shared.items()}
        known = {m: 40 + len(m) for m in known if preset == "slim"}
        return finder({preset: known})(preset, rows, wanted, classes, **shared)

    cases = {
        c.start: c
        for c in guide.cases(verdicts.Evidence(find))
        if c.keep == guide.NUMBERS
    }
    many = cases["half of the classes first, 25 tasks follow"]
    assert many.borrowed == {"fecam": "5 tasks"}
    assert set(many.found) == {"fecam", "lwf", "frozen"}
    assert guide.score(many, "fecam").endswith(", of 5 tasks")
    assert cases[guide.MEASURED].borrowed == {"frozen": "25 tasks"}
    quarter = cases["a quarter of the classes first, 3 tasks follow"]
    assert not quarter.found and not quarter.borrowed
    assert guide.indifferent("frozen") and guide.indifferent("fecam")
    assert not any(map(guide.indifferent, ("fetril", "gfr", "gfr-squared", "lwf")))


def test_joint_training_is_for_who_may_keep_all_images():
    text = guide.all_images(verdicts.Evidence(finder({"slim": {"joint": 60}}))).data
    assert "60.5" in text and guide.MEASURED in text
    assert "Not recorded" in guide.all_images(verdicts.Evidence(finder({}))).data


# Two presets side by side -------------------------------------------------------------


def sizes_of(values):
    """{preset: {row: runs}} of constant runs of one seed."""
    return {
        preset: {m: [pretended(preset, m, v)] for m, v in rows.items()}
        for preset, rows in values.items()
    }


def test_two_presets_side_by_side():
    slim = {"finetune": 10, "joint": 60, "gfr": 40}
    at = sizes_of({"medium": {"finetune": 10, "joint": 70, "gfr": 55}, "slim": slim})
    rows = scales.beside(at)
    ours = [row for row in rows if row["system"] == "GFR, GAN"]
    assert [row["preset"] for row in ours] == ["medium", "slim", "difference"]
    assert [row["last"] for row in ours] == ["55.0", "40.0", "+15.0"]
    assert [row["gap closed (%)"] for row in ours[:2]] == ["75.0", "60.0"]
    assert ours[0]["forgetting"] == "0.0" and ours[2]["task 0"] == "+15.0"


def test_the_larger_preset_has_the_full_mark():
    at = sizes_of({"medium": {"gfr": 55}, "slim": {"gfr": 40, "lwf": 30}})
    marks = [line for line in figures.two_sizes(at).lines if line.get_marker() == "o"]
    ends = {round(line.get_xdata()[0]): line.get_markerfacecolor() for line in marks}
    assert set(ends) == {55, 40, 30}
    assert [end for end, face in ends.items() if face != "none"] == [55]


def test_a_system_of_one_preset_has_no_difference():
    at = sizes_of({"medium": {"gfr": 55}, "slim": {"gfr": 40, "lwf": 30}})
    rows = scales.beside(at)
    assert [row["preset"] for row in rows] == ["medium", "slim", "difference", "slim"]
    assert {row["gap closed (%)"] for row in rows} == {"–", ""}


def shown(monkeypatch, at) -> str:
    """The texts that scales.show displays."""
    texts = []

    def keep(what):
        texts.append(what.data if isinstance(what, Markdown) else type(what).__name__)

    monkeypatch.setattr(scales, "display", keep)
    monkeypatch.setattr(scales.words, "show", lambda what, *_, **__: keep(what))
    scales.show(at, name="sizes")
    return "\n".join(texts)


def test_without_the_larger_preset_one_line_says_what_records_it(monkeypatch):
    text = shown(monkeypatch, sizes_of({"medium": {}, "slim": {"gfr": 40}}))
    assert "Not run yet at `medium`" in text and scales.GRID in text
    assert (ROOT / scales.GRID).exists() and text.count("\n") == 0


def test_what_the_larger_preset_lacks_is_named(monkeypatch):
    at = sizes_of({"medium": {"gfr": 55}, "slim": {"gfr": 40, "lwf": 30}})
    text = shown(monkeypatch, at)
    assert (
        "Not run yet at `medium`: LwF." in text and "Axes" in text and "Styler" in text
    )


def test_recorded_takes_each_preset_s_precision(monkeypatch):
    asked = {}
    monkeypatch.setattr(
        results, "recorded", lambda preset, *_, **split: asked.update({preset: split})
    )
    scales.recorded(("gfr",), 1, base=25, tasks=3)
    assert asked["slim"]["precision"] == "bf16" and "precision" not in asked["medium"]
    scales.recorded(("gfr",), 1, base=50, tasks=5)
    assert "precision" not in asked["slim"]


def test_searched_weights_are_those_of_the_best_runs():
    tried = {"ewc-gan": [(1.0, 50.0), (2.0, 60.0), (3.0, 60.0)], "mas-gan": []}
    best = scales.best_weights(tried)
    assert best == {"ewc-gan": 3.0}, "of equally good ones the largest"
    [(label, settings)] = scales.searched_rows(best).items()
    assert label == "EWC + GAN, searched" and settings["penalty_weight"] == 3.0


def test_the_page_is_what_a_reviewer_finds_first():
    index = (ROOT / "book/index.md").read_text()
    assert "(verdicts.ipynb)" in index.split("## Three ways in")[0]
    first = (ROOT / "_toc.yml").read_text().index("book/verdicts")
    assert first < (ROOT / "_toc.yml").read_text().index("book/01_tasks")
    shown = "".join(cell["source"] for cell in cells(PAGE))
    for title in paper.PARTS:
        assert f'verdict_page.part(answers, "{title}")' in shown
    assert json.loads(PAGE.read_text())["cells"][0]["source"][1].startswith(
        "# Verdicts"
    )


def test_what_a_scale_lacks_is_named_with_what_makes_it(monkeypatch):
    """Rows of a grid, and rows whose weights are not searched yet: the search."""
    rows = ("gfr", "mergan", *scales.SEARCHED.values())
    said = scales.not_run(rows, {"gfr": []}, "4 × 25").data
    assert "GFR, GAN" not in said and "EWC + GAN, searched" in said
    assert "python -m gfrlib grid grids/table-2.yaml" in said
    monkeypatch.setattr(scales, "tried_at_slim", dict)
    said = scales.not_run(rows, {}, "4 × 25").data
    assert "python -m gfrlib grid grids/search.yaml" in said
    said = scales.not_run(("joint",), {}, "5 tasks", "medium").data
    assert "Joint training (medium)" in said and scales.GRID in said
