"""A claim beside recorded runs: does an order hold, and by how much?

A claim is about two groups of values, one value a seed, in percent. One function,
`verdict`, decides; RULE says in words what it does. What the paper claims is in
`gfrlib.book.paper`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from gfrlib.book import results

NEAR, FAR = 2.0, 10.0  # percentage points
KINDS = {
    "above": "the first is above the second",
    "far above": f"the first is at least {FAR:g} points above the second",
    "level": f"the two lie within {NEAR:g} points",
    "near": f"the two lie within {FAR:g} points",
    "not below": f"the first is not {NEAR:g} points or more below the second",
}
HOLDS, FAILS, MISSING = "holds", "does not hold", "not recorded"
WITHIN, DIRECTION = f"within {NEAR:g} points", "above, not far"
VERDICTS = (HOLDS, FAILS, DIRECTION, WITHIN, MISSING)
RULE = (
    f"How to read it: *holds* means that the means over the seeds differ by at least "
    f"{NEAR:g} points in the direction of the claim (for *far above* by at least "
    f"{FAR:g}; *level* asks for less than {NEAR:g}, *near* for less than {FAR:g}, *not "
    f"below* that the first is not {NEAR:g} or more lower). *{WITHIN}*: a difference "
    f"is claimed, and less than {NEAR:g} is seen; *{DIRECTION}*: the order is as "
    f"claimed, the margin of {FAR:g} is not. The spread over seeds (±, one standard "
    "deviation) does not enter, so with one seed a verdict is a hint."
)


# The rule -----------------------------------------------------------------------------


def verdict(first, second, kind: str) -> str:
    """What two groups of values say of a claim of this kind: one of VERDICTS.

    An empty group stands for runs that are missing. Raises ValueError for an unknown
    kind.
    """
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise ValueError(f"unknown kind of claim '{kind}'; choose one of {known}")
    gap = difference(first, second)
    if math.isnan(gap):
        return MISSING
    if kind in ("level", "near"):
        limit = NEAR if kind == "level" else FAR
        return HOLDS if abs(gap) < limit else FAILS
    if kind == "not below":
        return HOLDS if gap > -NEAR else FAILS
    if abs(gap) < NEAR:
        return WITHIN
    if gap < 0:
        return FAILS
    return DIRECTION if kind == "far above" and gap < FAR else HOLDS


def difference(first, second) -> float:
    """Mean of the first values minus that of the second; NaN if either is empty."""
    known = len(first) and len(second)
    return float(np.mean(first) - np.mean(second)) if known else math.nan


def mean_and_spread(values) -> str:
    """'41.2 ± 0.8', never broken into lines: mean and standard deviation over seeds.

    One value has no spread; none is a dash.
    """
    values = np.asarray(values, dtype=float)
    if not len(values):
        return "–"
    spread = f"\u00a0±\u00a0{values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread}"


# Claims -------------------------------------------------------------------------------


def _layer(layer: str, measure: str = "svcca") -> Callable:
    return lambda run: 100 * results.similarity(run, measure)[layer]


def _lower_blocks(run) -> float:
    alike = results.similarity(run)
    return 100 * float(np.mean([alike[f"block {n}"] for n in (1, 2, 3)]))


def _recognised(run, at: int) -> float:
    return results.recognised([run])[at][1][0]


ALIKE = "SVCCA × 100 on images of task 0, "
RECOGNISED = "replays of task 0 that its network recognises (%), "
# name: (what it is, its value of one run)
QUANTITIES = {
    "last": ("last accuracy (%)", lambda run: 100 * results.final(run)),
    "average": ("average incremental (%)", lambda run: results.average([run])[0]),
    "forgetting": ("forgetting (points)", lambda run: results.forgotten([run])[0]),
    "old": ("last accuracy (%), old classes", lambda run: results.old_new(run)[0]),
    "new": ("last accuracy (%), new classes", lambda run: results.old_new(run)[1]),
    "block 1": (ALIKE + "block 1", _layer("block 1")),
    "block 4": (ALIKE + "block 4", _layer("block 4")),
    "classifier": (ALIKE + "classifier", _layer("classifier")),
    "blocks 1 to 3": (ALIKE + "mean of blocks 1 to 3", _lower_blocks),
    "shuffled": (ALIKE + "block 4 of shuffled images", _layer("block 4", "svcca_null")),
    "drift": (
        "drift of task 0's features (% of their length)",
        lambda run: 100 * results.drift(run)[-1],
    ),
    "at once": (RECOGNISED + "at once", lambda run: _recognised(run, 0)),
    "at last": (RECOGNISED + "at the end", lambda run: _recognised(run, -1)),
    "bytes": ("bytes", None),  # of objects that are built: verdicts.size_of
}
OF_ANALYSIS = {*QUANTITIES} - {"last", "average", "forgetting", "old", "new", "bytes"}


@dataclass(frozen=True)
class Side:
    """One of the two groups of values: a quantity of a row's runs.

    minus  a row whose value is taken off, seed by seed: the side is a lead over it
    split  where the runs are from, if not the split that the claim is asked on
    """

    row: str
    quantity: str = "last"
    minus: str = ""
    split: str = ""

    def values(self, runs_of: Callable) -> list[float]:
        """One value a seed; runs_of(row, split) gives the Records of a row."""
        own = self._by_seed(runs_of(self.row, self.split))
        if not self.minus:
            return list(own.values())
        other = self._by_seed(runs_of(self.minus, self.split))
        return [own[seed] - other[seed] for seed in own if seed in other]

    def _by_seed(self, runs) -> dict[int, float]:
        value = QUANTITIES[self.quantity][1]
        if self.quantity in OF_ANALYSIS:
            runs = [run for run in runs if run.analysis]
        return {run.config.seed: float(value(run)) for run in runs}


@dataclass(frozen=True)
class Claim:
    """One statement that runs can decide.

    where    place in the paper
    figure   label of the figure or section of this book that shows it
    data     the images that it is about, as in `paper.SCALES`
    splits   names of splits (`paper.SPLITS`); it is asked on each
    printed  the two numbers of the paper, where it prints them
    ours     a question of this book, not a claim of the paper
    """

    text: str
    kind: str
    first: Side
    second: Side
    where: str = ""
    figure: str = ""
    data: str = "CIFAR-100"
    splits: tuple = ("5 tasks",)
    printed: tuple = ()
    ours: bool = False

    @property
    def rows(self) -> set[str]:
        """All rows that it is about."""
        sides = self.first, self.second
        return {row for side in sides for row in (side.row, side.minus) if row}

    @property
    def pair(self) -> tuple[str, str]:
        """The two rows."""
        return self.first.row, self.second.row

    def values(self, runs_of: Callable) -> tuple[list[float], list[float]]:
        """The two groups of values; runs_of(row, split) gives the Records of a row."""
        return self.first.values(runs_of), self.second.values(runs_of)


def about(found: dict, some) -> list[tuple]:
    """Claims about rows of `found` ({row: [Record, ...]}) as claims about values.

    Each is (text, kind, values of the first, values of the second), as in `table`.
    """
    return [
        (c.text, c.kind, *c.values(lambda row, _: found.get(row, ()))) for c in some
    ]


def by_split(panels: dict, some) -> list[tuple]:
    """Claims about `panels`, {split: {row: [Record, ...]}}, as claims about values.

    A line for each split that is there and that the claim is asked on.
    """
    found = []
    for claim in some:
        for split in (split for split in claim.splits if split in panels):
            values = claim.values(
                lambda row, own, split=split: panels.get(own or split, {}).get(row, ())
            )
            end = "" if claim.first.split else f" ({split})"
            found.append((claim.text + end, claim.kind, *values))
    return found


def only(some, pairs) -> list[Claim]:
    """The claims about these pairs of rows, in the order of `pairs`.

    Raises ValueError for a pair that no claim is about.
    """
    known: dict = {}
    for claim in some:
        known.setdefault(claim.pair, claim)
    unknown = [pair for pair in pairs if pair not in known]
    if unknown:
        raise ValueError(f"there is no claim about {unknown[0]}")
    return [known[pair] for pair in pairs]


def among(some, rows) -> list[Claim]:
    """The claims whose rows are all in `rows`."""
    return [claim for claim in some if claim.rows <= set(rows)]


# Tables -------------------------------------------------------------------------------


def table(claims, unit: str = "%") -> pd.DataFrame:
    """One row a claim: (text, kind, values of the first, values of the second).

    In points of `unit`; either group may be empty.
    """
    names = ("claim", f"first ({unit})", f"second ({unit})", "difference", "verdict")
    rows = []
    for text, kind, first, second in claims:
        both = mean_and_spread(first), mean_and_spread(second)
        rows.append((text, *both, signed(first, second), verdict(first, second, kind)))
    return pd.DataFrame(rows, columns=names)


def signed(first, second) -> str:
    """'+7.8': the difference of the means; a dash where a group is empty."""
    gap = difference(first, second)
    return "–" if math.isnan(gap) else f"{gap:+.1f}"


def show(claims, unit: str = "%", note: str = "") -> None:
    """Display the table of the claims, and below it how to read it, with a `note`."""
    display(table(claims, unit).style.hide(axis="index"))
    display(Markdown(RULE + note))
