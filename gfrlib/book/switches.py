"""The differences from the paper that are a setting, and what each of them changes.

A switch is one difference of `book/differences.md`, by its number: the row that it is
tried on, and the setting that is changed. Chapter 13 shows what they do to the last
accuracy, an appendix lists them all.
"""

import numpy as np

from gfrlib.book import claims, results
from gfrlib.lab import experiments

GAUSSIANS, GAN = dict(method="gfr-gaussian"), dict(method="gfr")
SWITCHES = {  # number and what is changed: row and setting
    " 1  distance per image, Equation 4": dict(**GAUSSIANS, distance="sample"),
    " 1  distance: mean squared error": dict(**GAUSSIANS, distance="mse"),
    " 2  no old-task weight": dict(**GAUSSIANS, old_task_weighting=False),
    " 3  alignment as in Equation 3 (GAN)": dict(**GAN, alignment="paper"),
    " 5  batch norm trains": dict(**GAUSSIANS, batch_norm="train"),
    " 6  head full from the start": dict(**GAUSSIANS, full_head=True),
    " 7  projection starts as in the code (GAN)": dict(
        **GAN, initial_projection="pytorch"
    ),
    " 7  convolutions start as in the code": dict(
        **GAUSSIANS, initial_convolutions="pytorch"
    ),
    " 8  class order of the code": dict(**GAUSSIANS, class_order="gfr"),
    "11  Gaussians on a line": dict(**GAUSSIANS, gaussian="scalar"),
    "11  whole covariances": dict(**GAUSSIANS, gaussian="full"),
    "12  no clamp at 0": dict(**GAUSSIANS, gaussian_clamp=False),
    "16  features of 1 view (GAN)": dict(**GAN, feature_views=1),
    "16  features of 4 views (GAN)": dict(**GAN, feature_views=4),
    "28  FeTrIL: nearest by distance": dict(method="fetril", likeness="euclidean"),
    "28  FeCAM: covariances shrunk twice": dict(method="fecam", shrinkage=3.0),
}
ROWS = ("gfr-gaussian", "gfr", "fetril", "fecam")  # unchanged
HELD = " 3  alignment as in Equation 3 (GAN)"
CIFAR = dict(base=25, tasks=3, precision="bf16")  # the split that is recorded


def read_at(preset: str) -> dict[str, dict]:
    """The switches that a run of this preset reads: those that change its Config."""

    def digest(**row):
        return experiments.settings(preset, **row).digest()

    return {
        switch: row
        for switch, row in SWITCHES.items()
        if digest(**row) != digest(method=row["method"])
    }


def pairs(unchanged: dict, changed: dict) -> dict[str, list[tuple]]:
    """{switch: [(changed, unchanged), ...]}, a pair of runs a seed that both have.

    Where the switch leaves task 0's classifier alone, both must have the same one:
    another processor makes another, and the pair would tell of that, too.
    """
    found = {}
    for switch, runs in changed.items():
        rival = unchanged.get(SWITCHES[switch]["method"], ())
        both = [
            (a, b)
            for a in runs
            for b in rival
            if a.config.seed == b.config.seed and _comparable(a, b)
        ]
        found |= {switch: both} if both else {}
    return found


def _comparable(one, other) -> bool:
    firsts = [r.config.stage_settings("classifier", first=True) for r in (one, other)]
    if firsts[0] != firsts[1]:
        return True  # the switch itself makes another task 0
    return one.rules["softmax"][0] == other.rules["softmax"][0]


def effects(both: dict) -> dict[str, list[float]]:
    """{switch: points of last accuracy gained by it, one value a seed}, from `pairs`.

    The largest change first.
    """
    gained = {
        switch: [results.last([a])[0] - results.last([b])[0] for a, b in some]
        for switch, some in both.items()
    }
    order = sorted(gained, key=lambda switch: -abs(float(np.mean(gained[switch]))))
    return {switch: gained[switch] for switch in order}


def compared(both: dict, unchanged: dict) -> dict[str, list]:
    """{row: its runs} of the rows in `pairs`: the unchanged ones, then the changed."""
    found: dict[str, list] = {}
    for switch, some in both.items():
        row = SWITCHES[switch]["method"]
        found.setdefault(row, list(unchanged[row])).extend(a for a, _ in some)
    return found


def spreads(unchanged: dict) -> dict[str, float]:
    """{switch: standard deviation over seeds of the unchanged runs of its row}."""
    of = {
        row: float(np.std(results.last(runs), ddof=1)) if len(runs) > 1 else 0.0
        for row, runs in unchanged.items()
    }
    return {switch: of.get(row["method"], 0.0) for switch, row in SWITCHES.items()}


def strong(found: dict, spread: dict) -> dict[str, float]:
    """{switch: its mean effect} of those that pass the rule.

    The rule: at least two seeds, all of the same sign, and a mean beyond two points and
    beyond twice the spread of the unchanged row.
    """
    return {
        switch: float(np.mean(points))
        for switch, points in found.items()
        if len(points) > 1
        and (min(points) > 0 or max(points) < 0)
        and abs(np.mean(points)) >= max(claims.NEAR, 2 * spread[switch])
    }


def listed(found: dict, both: dict) -> str:
    """'whole covariances (number 11) by +2.0' of what `strong` gives; or 'none'.

    both: as `pairs` gives it; marked as open is what the interval of a verdict leaves
    open (`claims.verdict`).
    """
    texts = []
    for switch, mean in found.items():
        number, what = switch.split(maxsplit=1)
        sides = [results.last(list(side)) for side in zip(*both[switch], strict=True)]
        higher, lower = sides if mean > 0 else reversed(sides)
        is_open = claims.verdict(higher, lower, "above") in claims.OPEN
        note = " (open)" if is_open else ""
        texts.append(f"{what} (number {number}) by {mean:+.1f}{note}")
    return "; ".join(texts) or "none"


def rows_of(both: dict) -> list[dict]:
    """What stands behind a figure of effects: every pair of runs, in percent."""
    return [
        {
            "switch": switch.strip(),
            "row": b.config.method,
            "seed": b.config.seed,
            "unchanged": results.last([b])[0],
            "changed": results.last([a])[0],
        }
        for switch, some in both.items()
        for a, b in some
    ]
