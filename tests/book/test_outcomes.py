"""Outcomes that a page states in words: the records must say so, or the words change.

Numbers are computed where they stand. A sentence that says which of two is higher is
typed, and true until a new record makes it false.
"""

import functools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from conftest import ROOT

from gfrlib.book import results, scales
from gfrlib.lab import record

SPLITS = {name: scales.SCALES["slim"].settings_of(name) for name in scales.SPLITS}
SEEDS = 3


@functools.cache
def runs(split: str, row: str) -> tuple:
    """The recorded runs of a row of CIFAR-100 at slim."""
    own = scales.row_settings(row)
    found = results.recorded("slim", {row: own}, SEEDS, classes=100, **SPLITS[split])
    return tuple(found.get(row, ()))


def gaps(first: str, second: str) -> dict[str, float]:
    """{split: points by which one row ends above another}, where both are recorded."""
    both = {split: (runs(split, first), runs(split, second)) for split in SPLITS}
    ends = {split: results.matched(*pair) for split, pair in both.items() if all(pair)}
    return {split: float(np.mean(a) - np.mean(b)) for split, (a, b) in ends.items()}


def above(first: str, *others: str, at=tuple(SPLITS), by: float = 0.0) -> bool:
    """In every split of `at` in which both are recorded, and in one at least."""
    known = [g for other in others for s, g in gaps(first, other).items() if s in at]
    return bool(known) and min(known) > by


def start_of(row: str) -> float:
    """Accuracy on task 0 right after it, with 5 tasks, first seed."""
    return float(runs("5 tasks", row)[0].accuracy[0, 0])


def diagonal(row: str) -> float:
    """Mean accuracy on each later task right after it, with 5 tasks, first seed."""
    return float(np.diag(runs("5 tasks", row)[0].accuracy)[1:].mean())


def gained_over_frozen(row: str) -> float:
    """By how much a row's lead over the frozen extractor grows, with 5 tasks."""
    return gaps(row, "frozen")["5 tasks"] - start(row, "frozen", "5 tasks")


def alike(row: str, measure: str = "svcca") -> list[float]:
    """[layers]: the last network beside that of task 0, 4 x 25, mean over seeds."""
    each = [[*results.similarity(r, measure).values()] for r in runs("4 × 25", row)]
    return np.mean(each, axis=0).tolist()


def order_at(layer: str, measure: str) -> list[str]:
    """The four systems of Figure 2, the most alike first."""
    at = ["block 1", "block 2", "block 3", "block 4", "classifier"].index(layer)
    rows = ("finetune", "lwf", "mergan", "gfr")
    return sorted(rows, key=lambda row: -alike(row, measure)[at])


def start(first: str, second: str, split: str) -> float:
    """By how much a row is above another right after task 0."""
    a, b = (np.mean(results.after(runs(split, row), 0)) for row in (first, second))
    return a - b


SAME = "frozen F, same memory"
WITHOUT_IMAGES = ("finetune", "lwf", "frozen", "gfr-gaussian", "gfr", "fecam")
WITH_IMAGES = ("icarl-cnn", "icarl-nme", "lucir")


def orders(split: str, rows: tuple) -> list[list[str]]:
    """On CIFAR-100 and on photographs: the rows that both have, by their last accuracy
    in one seed, the lowest first.
    """
    own, ends = {row: scales.row_settings(row) for row in rows}, []
    for scale in (scales.SCALES["slim"], scales.SCALES["photographs, 64 px"]):
        how = scale.settings_of(split)
        found = results.recorded(scale.preset, own, 1, classes=100, **how)
        ends.append({row: np.mean(results.last(some)) for row, some in found.items()})
    common = ends[0].keys() & ends[1].keys()
    assert len(common) > 3
    return [sorted(common, key=end.get) for end in ends]


def orders_agree() -> bool:
    """Without stored images, in both splits."""
    some = [orders(split, WITHOUT_IMAGES) for split in ("5 tasks", "25 tasks")]
    return all(here == there for here, there in some)


def images_fall_behind() -> bool:
    """Feature replay above all that keep images: on photographs, not on CIFAR-100."""
    some = [orders(n, (*WITH_IMAGES, "gfr")) for n in ("5 tasks", "25 tasks")]
    return all(there[-1] == "gfr" != here[-1] for here, there in some)


def at_medium(row: str) -> list:
    """Its runs with the paper's own network, 50 + 5 x 10, one seed."""
    about = scales.SCALES["medium"]
    own, how = {row: scales.row_settings(row)}, about.settings_of("5 tasks")
    return results.recorded(about.preset, own, 1, classes=100, **how)[row]


def medium(row: str) -> float:
    """Its last accuracy with the paper's own network."""
    return float(np.mean(results.last(at_medium(row))))


def held_out(distance: str, weight: float) -> float:
    """Of the search over the weight, 4 x 25, on a tenth of the training images."""
    row = dict(method="gfr-gaussian", gaussian="full", distance=distance)
    how = dict(SPLITS["4 × 25"], validation=0.1, penalty_weight=weight)
    [found] = results.recorded("slim", {"row": row}, 1, classes=100, **how).values()
    return float(np.mean(results.last(found)))


def drift(row: str, split: str) -> float:
    """Of task 0's features after the last task, in percent of their length."""
    return float(np.mean(results.drifted(runs(split, row))))


def held_where_small_and_few() -> bool:
    """Distillation with the paper's weight, by the GAN's rows."""
    few = [drift("gfr", split) for split in ("4 × 25", "5 tasks")]
    more = [drift("gfr", "25 tasks"), *results.drifted(at_medium("gfr"))]
    return max(few) < 3 and min(more) > 10


def gains_over_drift() -> bool:
    """What is gained on a frozen F since task 0: less, the further F has moved, but for
    the GAN in the paper's own network; above 0 with equal tasks alone.
    """
    gained = {}
    for place, rows in scales.moved(("gfr", "gfr-gaussian", "frozen")).items():
        for row in ("gfr", "gfr-gaussian"):
            pair = results.matched(rows[row], rows["frozen"], results.gained)
            moved = float(np.mean(results.drifted(rows[row])))
            gained[*place, row] = moved, float(np.mean(pair[0]) - np.mean(pair[1]))
    wide, lost = gained.pop(("medium", "5 tasks", "gfr"))
    rank = scipy.stats.spearmanr(*zip(*gained.values(), strict=True)).statistic
    equal = [g for (_, split, _), (_, g) in gained.items() if split == "4 × 25"]
    half = [g for (_, split, _), (_, g) in gained.items() if split != "4 × 25"]
    assert wide > 10 and abs(lost) < 0.5
    return rank < -0.9 and min(equal) > 0.9 and max(half) < 0


def ages(row: str, split: str = "25 tasks") -> list[float]:
    """Last accuracy of task 0, of two thirds of the later tasks, of the rest."""
    ends = 100 * np.mean([run.accuracy[-1] for run in runs(split, row)], axis=0)
    at = 1 + 2 * (len(ends) - 1) // 3
    return [ends[0], ends[1:at].mean(), ends[at:].mean()]


def other_rules() -> bool:
    """EWC's and MAS's other rules: what they name of later classes, and the sum."""
    good = []
    for row in ("ewc", "mas"):
        for rule in ("concat-logits", "over-chance"):
            own, told = (
                np.mean(results.last(runs("25 tasks", row), r)) for r in (None, rule)
            )
            [run] = runs("25 tasks", row)[:1]
            later = 100 * run.rule(rule)[-1, 1:].mean()
            stopped = 50 * run.accuracy[0, 0]  # half of all classes
            few = runs("5 tasks", row)
            cost = np.mean(results.last(few)) - np.mean(results.last(few, rule))
            good.append(told > own + 5 and later < 1 and abs(told - stopped) < 1)
            good.append(cost > 2)
    return all(good)


def wrong(row: str) -> np.ndarray:
    """Wrong answers with 5 tasks: of the own task, of an older, of a newer one (%)."""
    return np.mean([results.mistaken(run) for run in runs("5 tasks", row)], axis=0)


def beyond(row: str) -> np.ndarray:
    """Confusions with an older and with a newer task beyond joint training's (%)."""
    return (wrong(row) - wrong("joint"))[1:]


def told(row: str) -> float:
    """Last accuracy with 5 tasks, told the task of each image."""
    return float(np.mean(results.told(runs("5 tasks", row))))


def both_moments(row: str, split: str, rule: str | None = None) -> list[float]:
    """Accuracy on later tasks when they came, and at the end."""
    some = runs(split, row)
    return [float(np.mean(of(some, rule))) for of in (results.arrived, results.stayed)]


def chosen_when_it_came() -> bool:
    """With exemplars, and much of it goes; frozen F falls, too."""
    kept = [both_moments(row, "5 tasks") for row in WITH_IMAGES]
    still = both_moments("frozen", "5 tasks")
    return all(came > 60 and came - end > 10 for came, end in kept) and (
        still[0] - still[1] > 3
    )


def by_means(row: str, split: str) -> float:
    """Its last accuracy when nearest means answer, beside that of the frozen row."""
    pair = results.matched(
        runs(split, row),
        runs(split, "frozen"),
        lambda some: results.last(some, "nearest-mean"),
    )
    return float(np.mean(pair[0]) - np.mean(pair[1]))


def extractors_no_better() -> bool:
    """By nearest means; the square with equal tasks is."""
    rows = ("gfr-gaussian", "gfr-gaussian-full")
    few = [by_means(r, s) for r in rows for s in ("5 tasks", "4 × 25")]
    many = [by_means(row, "25 tasks") for row in rows]
    square = by_means("gfr-squared", "4 × 25"), by_means("gfr-squared", "5 tasks")
    return max(few) < 0.5 and max(many) < -2 and 0.5 < square[0] < 1.5 and square[1] < 0


def means_beat_their_classifier() -> bool:
    some = runs("25 tasks", "gfr-gaussian")
    own, means = results.last(some), results.last(some, "nearest-mean")
    return np.mean(means) > np.mean(own) + 1


def length_of(row: str) -> np.ndarray:
    """Mean length of the head's weights for the classes of each task, 5 tasks."""
    each = np.mean(
        [r.analysis["logits"][-1]["weight_norm"] for r in runs("5 tasks", row)], axis=0
    )
    edges = np.cumsum(runs("5 tasks", row)[0].task_sizes)[:-1]
    return np.array([part.mean() for part in np.split(each, edges)])


def example(method: str) -> float:
    """Mean over the seeds of the running example's search (chapter 2's setting)."""
    rows = pd.read_csv(ROOT / "data/example-search.csv")
    usual = (rows["base"] == 4) & (rows["tasks"] == 2) & (rows["features"] == 16)
    return float(rows[usual & (rows["method"] == method)]["last"].mean())


def below_the_control() -> bool:
    """On the running example, the paper's distance, with both memories."""
    lengths = [f"both guards, {m}, the paper's length" for m in ("Gaussians", "GAN")]
    return max(map(example, lengths)) < example(SAME) - 1


OUTCOMES = {  # page: [(words that stand there, whether the records say so)]
    "index.md": [
        (
            "ends above a {term}`GAN` where tasks are few",
            lambda: above("gfr-gaussian-full", "gfr", at=("4 × 25", "5 tasks")),
        ),
        ("far above {term}`fine-tuning`", lambda: above("gfr", "finetune", by=10)),
        ("and above {term}`LwF`. Its lead", lambda: above("gfr", "lwf")),
        (
            "is small, and is there before the second task",
            lambda: (
                start("gfr", "frozen", "5 tasks") > 0
                and 0 < gaps("gfr", "frozen")["5 tasks"] < 5
            ),
        ),
        (
            "At the paper's own width that lead is as small",
            lambda: 0 < medium("gfr") - medium("frozen") < 2,
        ),
        (
            "diagonal Gaussians ends below them",
            lambda: medium("gfr-gaussian") < medium("frozen") - 1,
        ),
        (
            "On photographs, simple statistics end as high as the GAN or above it",
            lambda: above("fecam", "gfr") and above("gfr-gaussian-full", "gfr", by=-1),
        ),
        (
            "the square beats standing still with the same memory when tasks are "
            "equal, by a point or less. With half of the classes first it ends level",
            lambda: (
                0 < gaps("gfr-squared", SAME)["4 × 25"] < 1
                and abs(gaps("gfr-squared", SAME)["5 tasks"]) < 0.5
            ),
        ),
        ("few tasks, GFR keeps all of them nearly as they", held_where_small_and_few),
        ("where it moves far, training on mostly loses", gains_over_drift),
        ("keeps no image comes in the order of CIFAR-100", orders_agree),
        ("What keeps images falls behind feature replay by a GAN", images_fall_behind),
    ],
    "09_comparison.ipynb": [
        (
            "ends above LwF, EWC and MAS wherever they are recorded here",
            lambda: above("gfr", "lwf", "ewc", "mas"),
        ),
        (
            "Why can a frozen extractor win in the end?",
            lambda: gaps("frozen", "gfr")["25 tasks"] > 0,
        ),
        ("they then name hardly any later class", other_rules),
        (
            "GFR with its GAN keeps task 0 as well as the frozen extractor does. It "
            "loses by the classes that came last.",
            lambda: (
                abs(ages("gfr")[0] - ages("frozen")[0]) < 1
                and ages("gfr")[1] > ages("frozen")[1]
                and ages("gfr")[2] < ages("frozen")[2] - 10
            ),
        ),
        (
            "Replay from Gaussians loses task 0, too",
            lambda: all(
                ages(row)[0] < ages("frozen")[0] - 5
                for row in ("gfr-gaussian", "gfr-gaussian-full")
            ),
        ),
        (
            "with 5 tasks also replay from Gaussians with whole covariances, and "
            "with 25 even nearest means",
            lambda: (
                gaps("gfr-gaussian-full", "gfr")["5 tasks"] > 0.5
                and gaps("frozen", "gfr")["25 tasks"] > 1
                and above("fecam", "gfr", by=1)
            ),
        ),
        ("FeCAM's line rises", lambda: gained_over_frozen("fecam") > 1),
        (
            "Still it confuses tasks far more than joint training does.",
            lambda: beyond("frozen").sum() > 10 and beyond("frozen").min() > 5,
        ),
        (
            "from the same extractor, and has about a third less of this excess.",
            lambda: 0.25 < 1 - beyond("fecam").sum() / beyond("frozen").sum() < 0.42,
        ),
        (
            "**GFR** errs in the same ways as nearest means, and about as often.",
            lambda: np.abs(wrong("gfr") - wrong("frozen")).max() < 1.5,
        ),
        (
            "Both lean to the *old* ones.",
            lambda: all(np.diff(beyond(row))[0] < -3 for row in ("gfr", "frozen")),
        ),
        (
            "(iCaRL-NME) errs far less that way. Rebalance leans there, too.",
            lambda: (
                wrong("icarl-nme")[2] < 0.6 * wrong("icarl-cnn")[2]
                and beyond("lucir")[1] > 10 > 0 > beyond("lucir")[0]
            ),
        ),
        (
            "GFR's network is no better than LwF's, nor than a frozen one with",
            lambda: abs(told("gfr") - told("lwf")) < 0.5 and told(SAME) > told("gfr"),
        ),
        ("With exemplars a new task is *chosen* well", chosen_when_it_came),
        ("are not ahead of the one that stopped. The exception", extractors_no_better),
        (
            "the answers are as good as with F trained on.",
            lambda: all(
                gaps(SAME, "gfr-gaussian-full")[s] > -0.5 for s in ("5 tasks", "4 × 25")
            ),
        ),
        ("worse than the means that it was taught from", means_beat_their_classifier),
        (
            "With 25 tasks GFR hardly ever answers with two new classes when they "
            "come. It does tell them apart: told the task, it is right on most",
            lambda: (
                both_moments("gfr", "25 tasks")[0] < 10
                and both_moments("gfr", "25 tasks", "task-aware")[0] > 80
            ),
        ),
        (
            "LwF goes the other way: it chooses new classes first",
            lambda: np.diff(both_moments("lwf", "25 tasks"))[0] < -10,
        ),
    ],
    "01_tasks.ipynb": [
        (
            "where nothing is preferred and nothing moves, and much confusion stays",
            lambda: beyond("frozen").min() > 5,
        ),
        (
            "LwF keeps most of task 0, and learns the later tasks only about half",
            lambda: (
                runs("5 tasks", "lwf")[0].accuracy[-1, 0] > 0.5 * start_of("lwf")
                and diagonal("lwf") < 0.6 * diagonal("finetune")
            ),
        ),
    ],
    "02_replay.ipynb": [
        ("the paper's own distance the method stays below that", below_the_control)
    ],
    "04_cifar100.ipynb": [
        (
            "Only fine-tuning ends higher on the new classes. All others end higher "
            "on the old ones",
            lambda: all(
                (old < new) == (row == "finetune")
                for row in ("finetune", "lwf", "frozen", "gfr-gaussian", "gfr")
                for old, new in [
                    np.mean(list(map(results.old_new, runs("5 tasks", row))), axis=0)
                ]
            ),
        ),
        (
            "the later a class came, the shorter its weights",
            lambda: max(np.diff(length_of("gfr"))) < 0,
        ),
        (
            "its weights are the longest in every row but fine-tuning",
            lambda: (
                length_of("finetune")[-1] > length_of("finetune")[0]
                and length_of("lwf")[-1] < length_of("lwf")[0]
                and np.ptp(length_of("joint")) < 0.2
            ),
        ),
        (
            "errs towards new classes most after fine-tuning ([](#comparison-errors))",
            lambda: (
                beyond("icarl-cnn")[1] > max(beyond(r)[1] for r in ("lucir", "lwf"))
                and length_of("icarl-cnn")[-1] < length_of("gfr")[-1]
            ),
        ),
        (
            "a frozen extractor that replays whole covariances is hard to beat",
            lambda: gaps(SAME, "gfr-gaussian-full")["4 × 25"] > -0.5,
        ),
    ],
    "07_images.ipynb": [
        (
            "Bad replay of images can end below no replay.",
            lambda: gaps("mergan", "finetune")["4 × 25"] < 0,
        )
    ],
    "12_after.ipynb": [
        ("in the paper's own network, distillation leaves", held_where_small_and_few)
    ],
    "06_where.ipynb": [
        (
            "At block 4 GFR and LwF come first and second by every measure.",
            lambda: all(
                order_at("block 4", measure)[:2] == ["gfr", "lwf"]
                for measure in ("svcca", "pwcca", "cka")
            ),
        ),
        (
            "Where nothing holds the extractor, change grows with depth on these four",
            lambda: all(
                sorted(blocks, reverse=True) == blocks
                for blocks in (alike("finetune")[:4], alike("mergan")[:4])
            ),
        ),
    ],
    "14_still.ipynb": [
        (
            "the square ends above the paper's length (λ = 1) and above a frozen F "
            "with the same memory, by about a point. With half of the classes first "
            "it ends level",
            lambda: all(
                0.5 < gaps("gfr-squared", row)["4 × 25"] < 1.5
                and abs(gaps("gfr-squared", row)["5 tasks"]) < 0.5
                for row in ("gfr-gaussian-full", SAME)
            ),
        ),
        (
            "On held-out images a length with a smaller weight does as well as the "
            "square (one seed)",
            lambda: abs(held_out("sample", 0.3) - held_out("mse", 30.0)) < 0.5,
        ),
    ],
    "08_extractor.ipynb": [
        (
            "Rows that drift far end low.",
            lambda: above("distillation + GAN", "no penalty + GAN", "EWC + GAN", by=5),
        ),
        (
            "With a large one they end beside it (one seed)",
            lambda: all(
                abs(gaps(row, "distillation + GAN")["4 × 25"]) < 0.5
                for row in scales.SEARCHED.values()
            ),
        ),
        ("distillation holds them in a small network", held_where_small_and_few),
        ("The further F has moved, the more is lost to an", gains_over_drift),
    ],
}


@pytest.mark.parametrize("page", OUTCOMES)
def test_what_is_said_is_what_the_records_say(page):
    text = " ".join((ROOT / "book" / page).read_text(encoding="utf-8").split())
    for words, so in OUTCOMES[page]:
        assert words in text, f"{page} says it in other words now: '{words}'"
        assert so(), f"the records do not say so any more: {page}, '{words}'"


def first_row(run) -> float:
    """Accuracy right after task 0, by the rule that rows with one task 0 share."""
    matrix = run.rule("softmax") if "softmax" in run.rules else run.accuracy
    return round(100 * float(matrix[0, 0]), 2)


@pytest.mark.parametrize("images", ["cifar100-50+", "tiny-imagenet", "unseen"])
def test_rows_that_share_task_0_begin_alike(images):
    """Processors round differently: a row that was made on another kind than those
    beside it begins with another network, and its seed is no pair of theirs. (With 4 x
    25 some do, as the page Differences says.)
    """
    begun: dict = {}
    for path in (ROOT / "data/records").glob(f"{images}*.json"):
        if path.name.endswith(".analysis.json"):
            continue
        run = record.read(path)
        if np.isnan(run.curve[0]):  # joint training has one task
            continue
        stage = run.config.stage_settings("classifier", first=True)
        begun.setdefault(str(sorted(stage.items())), {})[path.stem] = first_row(run)
    assert max(map(len, begun.values())) > 4, "nothing is compared"
    for rows in begun.values():
        assert len(set(rows.values())) == 1, rows
