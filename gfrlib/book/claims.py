"""A paper's claims beside recorded runs: does an order hold, and by how much?

A claim is about two groups of values, one value a seed, in percent. Two thresholds
decide, and are printed with the verdict: below NEAR points there is no verdict on an
order, and FAR points are what "far" asks for.
"""

import math

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
}
RULE = (
    f"How to read it: *holds* means that the means differ by at least {NEAR:g} points "
    f"in the direction of the claim, for *far above* by at least {FAR:g}; *level* asks "
    f"for less than {NEAR:g}, *near* for less than {FAR:g}. The spread over seeds (±, "
    "one standard deviation) does not enter. With one seed a verdict is a hint."
)


def verdict(gap: float, kind: str) -> str:
    """What a difference (first - second, in points) says of a claim of this kind.

    NaN stands for a run that is missing. Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise ValueError(f"unknown kind of claim '{kind}'; choose one of {known}")
    if math.isnan(gap):
        return "not recorded"
    if kind in ("level", "near"):
        limit = NEAR if kind == "level" else FAR
        return "holds" if abs(gap) < limit else "does not hold"
    if abs(gap) < NEAR:
        return f"within {NEAR:g} points"
    if gap < 0:
        return "does not hold"
    return "above, not far" if kind == "far above" and gap < FAR else "holds"


def mean_and_spread(values) -> str:
    """'41.2 ± 0.8', never broken into lines: mean and standard deviation over seeds.

    One value has no spread; none is a dash.
    """
    values = np.asarray(values, dtype=float)
    if not len(values):
        return "–"
    spread = f"\u00a0±\u00a0{values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread}"


def difference(first, second) -> float:
    """Mean of the first values minus that of the second; NaN if either is empty."""
    known = len(first) and len(second)
    return float(np.mean(first) - np.mean(second)) if known else math.nan


def table(claims, unit: str = "%") -> pd.DataFrame:
    """One row a claim: (text, kind, values of the first, values of the second).

    In points of `unit`; either group may be empty.
    """
    names = ("claim", f"first ({unit})", f"second ({unit})", "difference", "verdict")
    rows = []
    for text, kind, first, second in claims:
        gap = difference(first, second)
        both = mean_and_spread(first), mean_and_spread(second)
        signed = "–" if math.isnan(gap) else f"{gap:+.1f}"
        rows.append((text, *both, signed, verdict(gap, kind)))
    return pd.DataFrame(rows, columns=names)


def about(found: dict, claims) -> list[tuple]:
    """Claims about rows of `found` ({row: [Record, ...]}) as claims about values.

    (text, kind, row, row) becomes (text, kind, values, values): the accuracies after
    the last task.
    """
    return [
        (text, kind, results.last(found.get(a, ())), results.last(found.get(b, ())))
        for text, kind, a, b in claims
    ]


def show(claims, unit: str = "%", note: str = "") -> None:
    """Display the table of the claims, and below it how to read it, with a `note`."""
    display(table(claims, unit).style.hide(axis="index"))
    display(Markdown(RULE + note))
