"""The sizes at which this book asks the paper's claims, and two of them side by side.

A scale is a data set, a preset, and what its runs set beside. `show` sets the same
comparison at `medium`, the paper's own network, beside `slim`.
"""

import itertools
from dataclasses import dataclass, field

import numpy as np
from IPython.display import Markdown, display

from gfrlib.book import figures, paper, results, words
from gfrlib.book.entries import TENS, UNSEEN
from gfrlib.config import Config

# What is asked where ------------------------------------------------------------------

COLD = "10 × 10"
SPLITS = {  # of 100 classes
    "4 × 25": dict(base=25, tasks=3),
    "5 tasks": dict(base=50, tasks=5),
    "10 tasks": dict(base=50, tasks=10),
    "25 tasks": dict(base=50, tasks=25),
    COLD: dict(base=10, tasks=9),
}
BFLOAT = dict(precision="bf16")
PHOTOGRAPHS = dict(dataset="unseen", split=(10, 10, 10), **BFLOAT)
# the extractor that has learned the other 50 of the 100 classes (grids/pretrained.yaml)
TAUGHT = dict(weights="photographs-50-0bf54095")
LONG = dict(epochs_base=101, epochs_task=101)  # the paper's epochs on ImageNet


@dataclass(frozen=True)
class Scale:
    """One size at which claims are asked.

    data      the claims that it answers, by `Claim.data`
    images    what the runs are of; `stand_in`: not the data set of the claim
    splits    {name: settings}; `settings` are those of all its runs, `extra` those of
              one split
    classes   how many the data set has
    """

    name: str
    data: str
    preset: str
    images: str
    splits: dict = field(default_factory=lambda: SPLITS)
    settings: dict = field(default_factory=dict)
    extra: dict = field(default_factory=dict)
    classes: int | None = None
    stand_in: bool = False

    def settings_of(self, split: str) -> dict:
        """What all runs of a split set. Raises KeyError for a split without runs."""
        return {**self.splits[split], **self.settings, **self.extra.get(split, {})}


SCALES = {
    scale.name: scale
    for scale in (
        Scale(
            *("quick", "digits", "quick", "digits, 8 × 8 pixels"),
            splits={"4 + 3 × 2": dict(base=4, tasks=3)},
        ),
        Scale(
            *("slim", paper.CIFAR, "slim", paper.CIFAR),
            extra={"4 × 25": BFLOAT},
            classes=100,
        ),
        Scale("medium", paper.CIFAR, "medium", paper.CIFAR, classes=100),
        Scale("paper", paper.CIFAR, "paper", paper.CIFAR, classes=100),
        Scale(
            *("photographs, 32 px", paper.SUBSET, "slim"),
            "Tiny-ImageNet, 200 classes, 32 × 32 pixels",
            splits={"5 tasks": dict(base=100, tasks=5)},
            settings={"dataset": "tiny-imagenet-32", **BFLOAT},
            classes=200,
            stand_in=True,
        ),
        Scale(
            *("photographs, 64 px", paper.SUBSET, "slim"),
            "100 classes of Tiny-ImageNet, 64 × 64 pixels",
            settings={"dataset": "tiny-imagenet-64", **BFLOAT},
            # float32 is quick on any processor; bfloat16 only on those that have it
            extra={"25 tasks": dict(precision="float32")},
            classes=100,
            stand_in=True,
        ),
        *(
            Scale(
                *(name, UNSEEN, "slim"),
                "30 classes of Tiny-ImageNet, 64 × 64 pixels",
                splits={TENS[0]: PHOTOGRAPHS},
                settings=start,
            )
            for name, start in (("from scratch", {}), ("pretrained", TAUGHT))
        ),
        Scale(
            *("ImageNet-Subset", paper.SUBSET, "paper", "ImageNet-Subset"),
            settings={"dataset": "imagenet-subset", **LONG},
            classes=100,
        ),
        Scale(
            *("ImageNet-1000", paper.WHOLE, "paper", "ImageNet-1000"),
            splits={name: {**SPLITS[name], "base": 500} for name in paper.TASKS},
            settings={"dataset": "imagenet-1000", **LONG},
            classes=1000,
        ),
    )
}

# Rows ---------------------------------------------------------------------------------

WAYS = {  # to hold the extractor under the same replay: Table 3 and its two ends
    "no penalty + GAN": dict(method="gfr", penalty="none"),
    "EWC + GAN": dict(method="ewc-gan"),
    "MAS + GAN": dict(method="mas-gan"),
    "distillation + GAN": dict(method="gfr"),
    "frozen F + GAN": dict(method="gfr", penalty="frozen"),
}
ROWS = {  # of comparisons: what is no method's name
    **WAYS,
    "frozen F, same memory": dict(method="gfr-gaussian-full", penalty="frozen"),
    # the flow followed more closely, with as many evaluations of its network
    "gfr-flow, midpoint": dict(method="gfr-flow", flow_solver="midpoint", flow_steps=5),
}
FROM_ELSEWHERE = {  # rows that go on from a pretrained extractor, or from scratch
    row: ROWS.get(row, dict(method=row))
    for row in (
        *("joint", "gfr-gaussian-full", "gfr", "lwf", "finetune", "fecam", "frozen"),
        *("frozen F, same memory", "frozen F + GAN"),
    )
}
SEARCHED = {"ewc-gan": "EWC + GAN, searched", "mas-gan": "MAS + GAN, searched"}
WEIGHTS = {"ewc-gan": (5e4, 5e6, 5e8), "mas-gan": (100.0, 1e4, 1e6)}  # that were tried
TRIED = {  # the rows of that search
    (method, weight): dict(method=method, penalty_weight=weight)
    for method, weights in WEIGHTS.items()
    for weight in weights
}


def by_method(held_out: dict) -> dict[str, list[tuple[float, float]]]:
    """{method: [(weight, held-out accuracy in percent), ...]} of runs of TRIED."""
    return {
        method: [
            (weight, results.last(runs)[0])
            for (name, weight), runs in held_out.items()
            if name == method
        ]
        for method in WEIGHTS
    }


TWO_TASKS = dict(split=(25, 25), validation=0.1, **BFLOAT)  # of the search at slim


def tried_at_slim() -> dict[str, list[tuple[float, float]]]:
    """The recorded search on two tasks of CIFAR-100, as in `by_method`."""
    return by_method(results.recorded("slim", TRIED, 1, **TWO_TASKS))


def best_weights(tried: dict) -> dict[str, float]:
    """{method: its weight of the best accuracy}; of equally good ones the largest."""
    return {
        method: max(pairs, key=lambda pair: (pair[1], pair[0]))[0]
        for method, pairs in tried.items()
        if pairs
    }


def at_the_edge(tried: dict[str, list[tuple[float, float]]]) -> list[str]:
    """The rows whose best value is the first or last that was tried: a search that may
    not have gone far enough. tried: as `by_method` gives it.
    """
    best = best_weights(tried)
    ends = {row: sorted(w for w, _ in pairs) for row, pairs in tried.items() if pairs}
    return [row for row, tried in ends.items() if best[row] in (tried[0], tried[-1])]


def searched_rows(weights: dict) -> dict[str, dict]:
    """{label: settings} of the rows with the weights that `best_weights` gives."""
    return {
        SEARCHED[method]: dict(method=method, penalty_weight=weight)
        for method, weight in weights.items()
    }


def row_settings(row: str) -> dict | None:
    """The settings of a row: a method's name, one of ROWS, or a searched one.

    None where the search is not recorded.
    """
    if row in SEARCHED.values():
        return searched_rows(best_weights(tried_at_slim())).get(row)
    return ROWS.get(row, {"method": row})


def configs(scale: Scale, split: str, row: str, seeds: int = 1) -> list[Config]:
    """The Configs of a row at a scale, one a seed; none where the row is not known."""
    own = row_settings(row)
    if own is None:
        return []
    shared = {**scale.settings_of(split), **own}
    return results.configs(scale.preset, {row: shared}, seeds)[row]


def not_run(rows, found: dict, split: str, scale: str = "slim") -> Markdown:
    """Which of the rows are not among those found at a scale, and what makes them.

    Of a row whose weight is not searched yet: the search.
    """
    if not rows:
        return Markdown("No run that belongs here is recorded.")
    missing, wanted = [row for row in rows if row not in found], []
    for row in missing:
        made = configs(SCALES[scale], split, row)
        if not made:
            search = results.configs("slim", TRIED, **TWO_TASKS)
            made = [config for some in search.values() for config in some]
        wanted += made
    where = "" if scale == "slim" else f" ({scale})"
    return words.not_run([f"{words.label(row)}{where}" for row in missing], wanted)


# Two presets side by side -------------------------------------------------------------

SIZES = ("medium", "slim")  # the larger first
GRID = "grids/medium-cifar100.yaml"


def recorded(rows, seeds: int = 3, presets: tuple = SIZES, **split) -> dict[str, dict]:
    """{preset: {row: its recorded runs}} of one split of CIFAR-100."""
    four = SPLITS["4 × 25"].items() <= split.items()
    return {
        preset: results.recorded(
            *(preset, rows, seeds),
            **split,
            **(SCALES[preset].extra["4 × 25"] if four and preset == "slim" else {}),
        )
        for preset in presets
    }


NUMBERS = {
    "task 0": lambda runs: results.after(runs, 0),
    "last": results.last,
    "average incremental": results.average,
    "forgetting": results.forgotten,
}


def beside(at: dict[str, dict]) -> list[dict]:
    """Rows for `words.table`: every system at each preset, then the difference.

    at: as `recorded` gives it, with two presets. Mean and deviation over seeds, in
    percent; a difference is that of the seeds which both presets have, or of all where
    they share none. *Gap closed* is
    the share of the way from fine-tuning to joint training that the last accuracy goes,
    where both are recorded.
    """
    rows = []
    for row in dict.fromkeys(row for found in at.values() for row in found):
        known = {preset: found[row] for preset, found in at.items() if row in found}
        for preset, runs in known.items():
            rows.append(
                {
                    "system": words.label(row),
                    "preset": preset,
                    "seeds": len(runs),
                    **{name: words.spread(of(runs)) for name, of in NUMBERS.items()},
                    "gap closed (%)": words.spread(closed(at[preset], row)),
                }
            )
        if len(known) == 2:
            pair = [{n: np.mean(of(runs)) for n, of in NUMBERS.items()} for runs in
                    of_shared_seeds(*known.values())]  # fmt: skip
            gaps = {name: pair[0][name] - pair[1][name] for name in NUMBERS}
            rows.append(
                {
                    "system": words.label(row),
                    "preset": "difference",
                    "seeds": "",
                    **{
                        name: "–" if np.isnan(gap) else f"{gap:+.1f}"
                        for name, gap in gaps.items()
                    },
                    "gap closed (%)": "",
                }
            )
    return rows


def of_shared_seeds(*groups) -> list[list]:
    """The runs of the seeds that all groups have, or all runs where they share none."""
    seeds = set.intersection(*({r.config.seed for r in runs} for runs in groups))
    known = [[r for r in runs if r.config.seed in seeds] for runs in groups]
    return known if seeds else [list(runs) for runs in groups]


def _paired(at: dict[str, dict]) -> dict[str, dict]:
    """The same; of a row that both presets have, the runs of the seeds in common."""
    large, small = at
    found = {preset: dict(rows) for preset, rows in at.items()}
    for row in at[large].keys() & at[small].keys():
        pair = of_shared_seeds(at[large][row], at[small][row])
        found[large][row], found[small][row] = pair
    return found


def closed(found: dict, row: str) -> list[float]:
    """Percent of the gap between fine-tuning and joint training that a row closes.

    One value, of the means of the last accuracies; none where one of them is missing.
    """
    names = ("finetune", "joint", row)
    if not all(name in found for name in names):
        return []
    low, high, own = (float(np.mean(results.last(found[name]))) for name in names)
    return [100 * (own - low) / (high - low)] if high > low else []


def moved(rows, names=("slim", "photographs, 64 px", "medium")) -> dict:
    """{(scale, split): {row: its recorded runs that were analysed}}, where there are
    any: what shows how far the features of task 0 move, and where.
    """
    own = {row: row_settings(row) for row in rows}
    found = {}
    for name, split in itertools.product(names, SPLITS):
        scale = SCALES[name]
        how, classes = scale.settings_of(split), scale.classes
        some = results.recorded(scale.preset, own, 3, classes=classes, **how)
        some = {row: [r for r in runs if r.analysis] for row, runs in some.items()}
        if any(some.values()):
            found[name, split] = {row: runs for row, runs in some.items() if runs}
    return found


def gaps_of(found: dict[str, list]) -> list[str]:
    """'GFR, GAN 5.5 points (one seed) above GFR, Gaussians': how the paper's two rows
    and the frozen extractor end beside each other, as far as they are there.
    """
    rows = [row for row in ("gfr", "gfr-gaussian", "frozen") if found.get(row)]
    return [
        f"{words.label(a)} {words.between(found[a], found[b])} {words.label(b)}"
        for a, b in itertools.combinations(rows, 2)
    ]


def show(at: dict[str, dict], *, name: str, grid: str = GRID) -> None:
    """Display the comparison at both presets, and what is not run at the larger one.

    Where nothing is recorded at the larger one: one line with the grid that records it.
    """
    large, small = at
    command = f"`python -m gfrlib grid {grid}`"
    if not at[large]:
        display(
            Markdown(
                f"Not run yet at `{large}` (the paper's own network, a short "
                f"schedule): no row of this section. {command} records those that it "
                f"lists; they are then shown beside `{small}`."
            )
        )
        return
    both = {row: [] for found in at.values() for row in found}
    for found in at.values():
        for row, runs in found.items():
            both[row] += runs
    words.show(figures.two_sizes(_paired(at)), both, name=name)
    words.show(words.table(beside(at)), both, name=name)
    gaps = gaps_of(at[large])
    if gaps:
        display(Markdown(f"At `{large}`, after the last task: {'; '.join(gaps)}."))
    missing = [words.label(row) for row in at[small] if row not in at[large]]
    if missing:
        text = f"Not run yet at `{large}`: {'; '.join(missing)}. {command} goes on."
        display(Markdown(text))
