"""Outcomes that a page states in words: the records must say so, or the words change.

Numbers are computed where they stand. A sentence that says which of two is higher is
typed, and true until a new record makes it false.
"""

import functools

import numpy as np
import pytest
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


def medium(row: str) -> float:
    """Its last accuracy with the paper's own network, 50 + 5 x 10, one seed."""
    about = scales.SCALES["medium"]
    own, how = {row: scales.row_settings(row)}, about.settings_of("5 tasks")
    [runs] = results.recorded(about.preset, own, 1, classes=100, **how).values()
    return float(np.mean(results.last(runs)))


def held_out(distance: str, weight: float) -> float:
    """Of the search over the weight, 4 x 25, on a tenth of the training images."""
    row = dict(method="gfr-gaussian", gaussian="full", distance=distance)
    how = dict(SPLITS["4 × 25"], validation=0.1, penalty_weight=weight)
    [found] = results.recorded("slim", {"row": row}, 1, classes=100, **how).values()
    return float(np.mean(results.last(found)))


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
            "Simple statistics end as high as the GAN or above it",
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
        )
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
