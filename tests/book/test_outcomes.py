"""Outcomes that a page states in words: the records must say so, or the words change.

Numbers are computed where they stand. A sentence that says which of two is higher is
typed, and true until a new record makes it false.
"""

import functools

import numpy as np
import pytest
from conftest import ROOT

from gfrlib.book import results, scales

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


def orders_agree() -> bool:
    """Fine-tuning, LwF, frozen F, the GAN, FeCAM: on photographs as on CIFAR-100."""
    rows = ("finetune", "lwf", "frozen", "gfr", "fecam")
    ends = []
    for name in ("slim", "photographs, 64 px"):
        scale = scales.SCALES[name]
        found = results.recorded(
            scale.preset,
            {row: scales.row_settings(row) for row in rows},
            SEEDS,
            classes=100,
            **scale.settings_of("5 tasks"),
        )
        ends.append(sorted(found, key=lambda row: np.mean(results.last(found[row]))))
    return ends[0] == ends[1]


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
            "Simple statistics end as high as the GAN or above it",
            lambda: above("fecam", "gfr") and above("gfr-gaussian-full", "gfr", by=-1),
        ),
        ("order is that of CIFAR-100 so far", orders_agree),
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
