"""A claim beside recorded runs: does an order hold, and do the seeds decide it?

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
from scipy.special import stdtrit

from gfrlib.book import results

NEAR, FAR = 2.0, 10.0  # percentage points
FIFTH = 0.2  # of the larger value
CONFIDENCE = 0.95
KINDS = {
    "above": "the first is above the second",
    "far above": f"the first is more than {FAR:g} points above the second",
    "level": f"the two lie within {NEAR:g} points",
    "near": "the two differ by less than a fifth of the larger one",
    "not below": f"the first is not {NEAR:g} points or more below the second",
}
HOLDS, FAILS, MISSING = "holds", "does not hold", "not recorded"
DIRECTION = "above, not far"
ONE_SEED, UNDECIDED = "open: one seed", "open: seeds do not decide"
VERDICTS = (HOLDS, FAILS, DIRECTION, UNDECIDED, ONE_SEED, MISSING)
OPEN = (UNDECIDED, ONE_SEED)
RULE = (
    "A verdict needs at least two seeds on each side; their spread gives a "
    f"{CONFIDENCE:.0%} interval of the difference (Student's t of two groups), in "
    "parentheses. "
    "*Holds*: the whole interval agrees with the claim; *does not hold*: the whole "
    "interval contradicts it; *open*: neither, or a side has one seed (the other side "
    "then stands with that seed alone); "
    f"*{DIRECTION}*: above, but not by the margin that is claimed. "
    f"*Above* means more than 0 points, *far above* more than {FAR:g}, *not below* "
    f"more than -{NEAR:g}, *level* within {NEAR:g}, *near* within a fifth of the "
    "larger value."
)


# The rule -----------------------------------------------------------------------------


def verdict(first, second, kind: str, *, exact: bool = False) -> str:
    """What two groups of values say of a claim of this kind: one of VERDICTS.

    An empty group stands for runs that are missing. exact: the values are no
    measurements of runs, such as bytes, and decide without a spread. Raises ValueError
    for an unknown kind.
    """
    lowest, highest = agreeing(first, second, kind)
    gap = difference(first, second)
    if math.isnan(gap):
        return MISSING
    if not exact and min(len(first), len(second)) < 2:
        return ONE_SEED
    low, high = (gap, gap) if exact else interval(first, second)
    if lowest < low and high < highest:
        return HOLDS
    touches = lowest == high or low == highest  # equal values of both: no answer
    if (lowest < high and low < highest) or (touches and not exact):
        return UNDECIDED
    return DIRECTION if kind == "far above" and low > 0 else FAILS


def agreeing(first, second, kind: str) -> tuple[float, float]:
    """The differences that agree with a claim of this kind: between these two.

    Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise ValueError(f"unknown kind of claim '{kind}'; choose one of {known}")
    if kind in ("level", "near"):
        means = [abs(np.mean(side)) if len(side) else 0.0 for side in (first, second)]
        limit = NEAR if kind == "level" else FIFTH * float(max(means))
        return -limit, limit
    return {"above": 0.0, "far above": FAR, "not below": -NEAR}[kind], math.inf


def difference(first, second) -> float:
    """Mean of the first values minus that of the second; NaN if either is empty."""
    known = len(first) and len(second)
    return float(np.mean(first) - np.mean(second)) if known else math.nan


def interval(first, second) -> tuple[float, float]:
    """The 95 % interval of the difference: Student's t of two groups, equal spreads.

    Of one value on a side nothing is known: (-inf, inf).

    Runs of the same seed begin with the same network, so that their pairs could be
    compared. That would cost half of the degrees of freedom. What makes both values of
    a pair good or bad together, as their common start, makes this interval too wide;
    were one good where the other is bad, it would be too narrow. Two seeds give 2
    degrees of freedom (a factor of 4.3 where many seeds have 2, and 12.7 of pairs),
    three seeds 4.
    """
    sizes = len(first), len(second)
    if min(sizes) < 2:
        return -math.inf, math.inf
    freedom = sum(sizes) - 2
    squares = sum(float(np.var(side)) * len(side) for side in (first, second))
    error = math.sqrt(squares / freedom * (1 / sizes[0] + 1 / sizes[1]))
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    gap = difference(first, second)
    return gap - half, gap + half


def mean_and_spread(values) -> str:
    """'41.2 ± 0.8', never broken into lines: mean and standard deviation over seeds.

    One value has no spread; none, or one that is NaN, is a dash.
    """
    values = np.asarray(values, dtype=float)
    if not len(values) or np.isnan(values).any():
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
# the part of a run's analysis that a quantity is read from
PART_OF = {
    **dict.fromkeys(
        ("block 1", "block 4", "classifier", "blocks 1 to 3", "shuffled"), "similarity"
    ),
    "drift": "drift",
    **dict.fromkeys(("at once", "at last"), "recognised"),
}


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

    def values(self, runs_of: Callable) -> dict[int, float]:
        """{seed: value}; runs_of(row, split) gives the Records of a row.

        Runs whose analysis lacks what the quantity is read from have no value.
        """
        own = self._by_seed(runs_of(self.row, self.split))
        if not self.minus:
            return own
        other = self._by_seed(runs_of(self.minus, self.split))
        return {seed: own[seed] - other[seed] for seed in own if seed in other}

    def _by_seed(self, runs) -> dict[int, float]:
        value, part = QUANTITIES[self.quantity][1], PART_OF.get(self.quantity)
        if part:
            runs = [run for run in runs if (run.analysis or {}).get(part)]
        return {run.config.seed: float(value(run)) for run in runs}


@dataclass(frozen=True)
class Claim:
    """One statement that runs can decide.

    where    place in the paper
    figure   label of the figure or section of this book that shows it
    data     the images that it is about, as in `scales.SCALES`
    splits   names of splits (`scales.SPLITS`); it is asked on each
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

    @property
    def exact(self) -> bool:
        """Whether it is about objects that are built and counted, not about runs."""
        return QUANTITIES[self.first.quantity][1] is None

    def values(self, runs_of: Callable) -> tuple[list[float], list[float]]:
        """The two groups of values; runs_of(row, split) gives the Records of a row.

        Where one side has a single seed, the other one has that seed alone, too, if it
        can: runs of a seed begin with the same network, and the rest would compare
        beginnings.
        """
        return results.same_seeds(
            self.first.values(runs_of), self.second.values(runs_of)
        )


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

    In points of `unit`; either group may be empty. The verdict stands before the
    numbers, where a narrow screen shows it.
    """
    names = ("claim", "verdict", "difference", f"first ({unit})", f"second ({unit})")
    rows = []
    for text, kind, first, second in claims:
        both = mean_and_spread(first), mean_and_spread(second)
        rows.append((text, verdict(first, second, kind), signed(first, second), *both))
    return pd.DataFrame(rows, columns=names)


def signed(first, second) -> str:
    """'+7.8 (6.9 to 8.7)': the difference and its interval, where there is one.

    A dash where a group is empty.
    """
    gap = difference(first, second)
    if math.isnan(gap):
        return "–"
    low, high = interval(first, second)
    if math.isinf(low):
        return f"{gap:+.1f}"
    return f"{gap:+.1f} ({low:z.1f} to {high:z.1f})"


def show(claims, unit: str = "%", note: str = "") -> None:
    """Display the table of the claims, and below it how to read it, with a `note`."""
    display(table(claims, unit).style.hide(axis="index"))
    display(Markdown(RULE + note))
