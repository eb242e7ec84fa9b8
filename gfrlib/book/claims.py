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
VERDICTS = (HOLDS, DIRECTION, WITHIN, FAILS, MISSING)
RULE = (
    f"How to read it: *holds* means that the means differ by at least {NEAR:g} points "
    f"in the direction of the claim, for *far above* by at least {FAR:g}; *level* asks "
    f"for less than {NEAR:g}, *near* for less than {FAR:g}. The spread over seeds (±, "
    "one standard deviation) does not enter. With one seed a verdict is a hint."
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


ALIKE = "SVCCA × 100 on task 0's images, {}"
RECOGNISED = "share of task 0's replays recognised by its network (%), {}"
# name: (what it is, its value of one run)
QUANTITIES = {
    "last": ("last accuracy (%)", lambda run: 100 * results.final(run)),
    "average": (
        "average incremental accuracy (%)",
        lambda run: results.average([run])[0],
    ),
    "forgetting": ("forgetting (points)", lambda run: results.forgotten([run])[0]),
    "old": ("last accuracy on old classes (%)", lambda run: results.old_new(run)[0]),
    "new": ("last accuracy on new classes (%)", lambda run: results.old_new(run)[1]),
    **{
        layer: (ALIKE.format(layer), _layer(layer))
        for layer in ("block 1", "block 4", "classifier")
    },
    "blocks 1 to 3": (ALIKE.format("mean of blocks 1 to 3"), _lower_blocks),
    "shuffled": (ALIKE.format("block 4, shuffled"), _layer("block 4", "svcca_null")),
    "drift": (
        "drift of task 0's features (% of their length)",
        lambda run: 100 * results.drift(run)[-1],
    ),
    "at once": (
        RECOGNISED.format("at once"),
        lambda run: results.recognised([run])[0][1][0],
    ),
    "at last": (
        RECOGNISED.format("at last"),
        lambda run: results.recognised([run])[-1][1][0],
    ),
    "bytes": ("bytes (% of the second)", None),  # of objects: paper.objects
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
