"""Memories side by side: what was measured of their replay, and what they cost.

`found` are runs as {row: [Record, ...]}, one Record a seed. The numbers are those of
the analysis's part `quality` (lab.compared); NaN where a record lacks it.
"""

import collections
import itertools

import numpy as np
import pandas as pd
from IPython.display import Markdown
from scipy.stats import spearmanr

from gfrlib import training
from gfrlib.batches import real_features
from gfrlib.book import looks, results, words
from gfrlib.book.beyond import BEYOND
from gfrlib.book.claims import FAILS, HOLDS, MISSING, Claim, by_split, only, verdict
from gfrlib.book.looks import styled
from gfrlib.book.paper import FIGURE_5
from gfrlib.book.scales import SCALES, row_settings
from gfrlib.config import Config, make_config
from gfrlib.engine.store import Store
from gfrlib.lab.runs import load_tasks

RECORDED = ("gfr-gaussian", "gfr-gaussian-full", "gfr-mixture", "gfr", "gfr-flow")
MIDPOINT = "gfr-flow, midpoint"  # recorded beside them (scales.ROWS)
SPLITS = ("4 × 25", "5 tasks", "25 tasks")  # of CIFAR-100
SHARES = ("precision", "recall", "density", "coverage")
CROSSED = {"replay → real": "trained_on_replay", "real → replay": "tested_on_replay"}
DISTANCE = "Fréchet distance"
PERFECT = "real training features"
SHIFTED = "the same, augmented"
REAL = (PERFECT, SHIFTED)
YARDSTICKS = {PERFECT: ("--", "real"), SHIFTED: (":", "real, augmented")}
LEARNS_FROM = {"gan": SHIFTED, "flow": SHIFTED}  # its yardstick, else PERFECT


# Numbers ------------------------------------------------------------------------------


def recorded(seeds: int = 3) -> dict[str, dict]:
    """{split: {row: its recorded runs}} on CIFAR-100; splits without any left out."""
    scale = SCALES["slim"]
    rows = {row: row_settings(row) for row in (*RECORDED, MIDPOINT)}
    found = {
        split: results.recorded(
            "slim", rows, seeds, classes=100, **scale.settings_of(split)
        )
        for split in SPLITS
    }
    return {split: runs for split, runs in found.items() if runs}


def moments(run) -> list[int]:
    """After which tasks the replay of a run was measured."""
    return [entry["after"] for entry in _entries(run)]


def measured(
    run, name: str, *, after: int = -1, task: int | None = None, perfect: str = ""
) -> float:
    """One number of a run's replay, in percent, as a mean over classes.

    name: DISTANCE (in percent of the spread of the real features), one of SHARES, or a
    field of CROSSED. after: which of the `moments`; task: that task's classes alone,
    else all seen; perfect: of real training features in the memory's place, PERFECT as
    they are or SHIFTED, augmented as what a GAN and a flow learn from. NaN where
    it was not measured.
    """
    entries = _entries(run)
    if not -len(entries) <= after < len(entries):
        return float("nan")
    entry = entries[after]
    if perfect:
        entry = entry.get("reference", {"of": []})
        entry = entry.get("augmented", {"of": []}) if perfect == SHIFTED else entry
        name = "trained_on_real" if name == "trained_on_replay" else name
    if name not in (DISTANCE, *SHARES):
        return 100 * entry.get(name, float("nan"))
    rows = [row for row in entry["of"] if task in (None, row["task"])]
    if not rows:
        return float("nan")
    weights = np.array([row["classes"] for row in rows])
    field = "frechet" if name == DISTANCE else name
    value = weights @ [row[field] for row in rows]
    whole = (
        weights @ [row["spread"] for row in rows] if name == DISTANCE else sum(weights)
    )
    return float(100 * value / whole)


def _entries(run) -> list[dict]:
    return (run.analysis or {}).get("quality", [])


# Tables -------------------------------------------------------------------------------


def quality_table(found: dict) -> pd.DataFrame:
    """A row a memory, and first two of real training features: all measures.

    In percent, mean and deviation over seeds, right after task 0: there all memories
    stand for the features of one network, so that two such rows serve all.
    """
    fields = {
        DISTANCE: DISTANCE, **dict(zip(SHARES, SHARES)), **CROSSED
    }  # fmt: skip

    def row(label, runs, perfect):
        options = {"after": 0, "perfect": perfect}
        numbers = {
            column: words.spread([measured(run, name, **options) for run in runs])
            for column, name in fields.items()
        }
        return {"memory": label, **numbers}

    groups = looks.groups(found)
    lines = [row(kind, runs, kind) for _, runs, _ in groups[:1] for kind in REAL]
    lines += [row(how["label"], runs, "") for _, runs, how in groups]
    return pd.DataFrame(lines)


def costs_table(panels: dict) -> pd.DataFrame:
    """{split: found}: a row a memory and split, with what it brings and what it costs.

    Accuracy after the last task, in percent; distance and coverage at the last of the
    `moments`; bytes for the old classes, without the old network; seconds of making
    what is replayed.
    """
    rows = []
    for split, found in panels.items():
        for _, runs, how in looks.groups(found):
            of = {
                name: words.spread([measured(run, name) for run in runs])
                for name in (DISTANCE, "coverage")
            }
            rows.append(
                {
                    "split": split,
                    "memory": how["label"],
                    "seeds": len(runs),
                    "accuracy": words.spread(results.last(runs)),
                    **of,
                    "bytes": words.human(carried(runs[0])),
                    "seconds": words.spread([making(run) for run in runs]),
                }
            )
    return pd.DataFrame(rows)


def making(run) -> float:
    """Seconds in which a run made what it replays: of all tasks but the last, at which
    closed-form memories are fitted too, and trained ones are not.
    """
    return results.seconds(run, "generator", "to replay")


def of_one_seed(found: dict) -> dict:
    """{row: its analysed run} of the seed that most rows share, the lowest of several;
    rows without it are left out.
    """
    known = {
        row: {run.config.seed: run for run in runs if run.analysis}
        for row, runs in found.items()
    }
    counts = collections.Counter(itertools.chain.from_iterable(known.values()))
    if not counts:
        return {}
    seed = min(counts, key=lambda s: (-counts[s], s))
    return {row: runs[seed] for row, runs in known.items() if seed in runs}


def carried(run) -> int:
    """Bytes for the old classes that a run carries into its last task."""
    return results.carried(run, without=("old network",))


def asked() -> list[Claim]:
    """Which memory is above which: this book's questions about them."""
    pairs = (
        ("gfr-flow", "gfr"),
        (MIDPOINT, "gfr"),
        (MIDPOINT, "gfr-flow"),
        ("gfr-gaussian-full", "gfr"),
        ("gfr-flow", "gfr-gaussian-full"),
        ("gfr-mixture", "gfr-gaussian"),
        ("gfr-gaussian-full", "gfr-mixture"),
    )
    return only([*FIGURE_5, *BEYOND], pairs)


# Sentences ----------------------------------------------------------------------------


def beside_the_gan(found: dict) -> str:
    """How far the flow and whole covariances end from the GAN, in short sentences."""
    gan = found.get("gfr", ())
    said = [
        f"{subject} {words.between(found[row], gan)} the GAN."
        for row, subject in (
            ("gfr-flow", "The flow ends"),
            (MIDPOINT, "Followed by midpoint steps it ends"),
            ("gfr-gaussian-full", "Whole covariances end"),
        )
        if row in found and gan
    ]
    if "gfr-flow" not in found:
        said.append("The flow is not recorded there yet.")
    return " ".join(said)


def beside_perfect(runs, name: str) -> tuple[float, float]:
    """(a measure right after task 0, what a perfect memory would reach), means over
    seeds: it would replay what it learned from, real features as they are or augmented.
    """
    perfect = LEARNS_FROM.get(runs[0].config.memory, PERFECT)
    both = ("", perfect)
    own, best = (
        np.mean([measured(run, name, after=0, perfect=of) for run in runs])
        for of in both
    )
    return float(own), float(best)


def extremes(found: dict) -> Markdown:
    """Which memory is nearest to its yardstick right after task 0, which farthest."""
    known = {row: runs for row, runs in found.items() if all(map(moments, runs))}
    if not known:
        return Markdown("Nothing is measured.")
    said = []
    for name in (DISTANCE, "precision", "coverage"):
        pairs = {row: beside_perfect(runs, name) for row, runs in known.items()}
        order = sorted(pairs, key=lambda row: abs(np.subtract(*pairs[row])))
        near, far = (
            f"*{words.label(row)}* ({pairs[row][0]:.1f}, its yardstick "
            f"{pairs[row][1]:.1f})"
            for row in (order[0], order[-1])
        )
        said.append(f"- By {name}, nearest is {near}, farthest {far}.")
    return Markdown(
        "\n".join(["Each memory beside its own yardstick, in percent:", "", *said])
    )


def telling(found: dict) -> Markdown:
    """Whether a measure puts the memories in the order of their accuracies.

    Spearman's rank correlation over the memories, of the last of the `moments` with the
    accuracy after the last task. A distance counts backwards.
    """
    known = [runs for runs in found.values() if all(map(moments, runs))]
    if len(known) < 3:
        return Markdown("Too few memories are measured to compare orders.")
    ends = [np.mean(results.last(runs)) for runs in known]
    said = []
    for name in (DISTANCE, "coverage", *CROSSED):
        sign = -1 if name == DISTANCE else 1
        field = CROSSED.get(name, name)
        values = [np.mean([measured(run, field) for run in runs]) for runs in known]
        if len(set(values)) > 1:  # else there is no order
            rank = float(spearmanr(sign * np.array(values), ends).statistic)
            said.append(f"{name} {rank:+.2f}")
    return Markdown(
        "Do the measures, taken the last time a memory was made, tell which "
        f"classifier is better? Over these {len(known)} "
        "memories, the rank correlation with its accuracy (1: the same order, a small "
        f"distance counting as good) is {'; '.join(said)}."
    )


def faded(panels: dict, name: str = "coverage") -> Markdown:
    """Which memory keeps least of a measure of task 0's replay, and which most.

    From the first to the last of the `moments`, a sentence for each of the `panels`. By
    the share that is left: who has little has little to lose.
    """
    said = []
    for title, found in panels.items():
        known = {row: some for row, some in found.items() if all(map(moments, some))}
        kept = {}
        for line in aged(known, name) if known else ():
            first, last = (float(np.mean(line["values"][i])) for i in (0, -1))
            if line["memory"] not in REAL and len(line["after"]) > 1 and first > 0:
                kept[line["memory"]] = (last / first, first, last)
        order = sorted(kept, key=kept.get)
        if len(order) > 1:
            least, most = (
                f"{100 * share:.0f} % with *{label}* (from {first:.1f} to {last:.1f} %)"
                for label in (order[0], order[-1])
                for share, first, last in [kept[label]]
            )
            said.append(f"{title}: between {least} and {most}.")
    said = [f"- {sentence}" for sentence in said]
    head = f"What the last of these tasks leaves of the first {name}:"
    return Markdown("\n".join([head, "", *said] if said else []))


def rates() -> Markdown:
    """At which rate later tasks learn with each memory at `slim`, and how the memories
    end at one rate, as far as that is recorded (4 x 25, on held-out images).
    """
    of = {row: make_config("slim", row).learning_rate_task for row in RECORDED}
    same = {row: dict(method=row, learning_rate_task=max(of.values())) for row in of}
    shared = dict(base=25, tasks=3, precision="bf16", validation=0.1)
    found = results.recorded("slim", same, 1, **shared)
    each = [
        f"{rate:g} with {'; '.join(words.label(row) for row in of if of[row] == rate)}"
        for rate in sorted(set(of.values()), reverse=True)
    ]
    text = (
        f"Later tasks of CIFAR-100 (`slim`) learn at the rate {', and at '.join(each)}."
    )
    if len(found) > 1:
        text += (
            f" At {max(of.values()):g} for all, the recorded ones end so (4 × 25, "
            f"held-out images, one seed, %): {words.ranking(found)}."
        )
    return Markdown(text)


def not_measured(panels: dict) -> Markdown | None:
    """Of which rows and splits of CIFAR-100 no replay is measured, and what does it."""
    missing = []
    for split in SPLITS:
        found = panels.get(split, {})
        rows = [
            words.label(row)
            for row, runs in found.items()
            if not any(map(moments, runs))
        ]
        if len(rows) == len(found):
            missing.append(split)
        elif rows:
            missing.append(f"{split} ({'; '.join(rows)})")
    if not missing:
        return None
    return Markdown(
        f"Not measured yet on CIFAR-100: {', '.join(missing)}. "
        "`python -m gfrlib grid grids/memories.yaml --analyse quality` does it."
    )


def newer(panels: dict) -> Markdown:
    """In how many splits the seeds say that the flow is above the GAN, and what they
    say of the flow that is followed by midpoint steps, where it is recorded.
    """

    def answers(claim):
        return [
            verdict(first, second, kind)
            for _, kind, first, second in by_split(panels, [claim])
        ]

    flow, midpoint = asked()[:2]
    said = answers(flow)
    yes, no = said.count(HOLDS), said.count(FAILS)
    words_of = {HOLDS: "*yes*", FAILS: "*no*"}
    others = [
        f" With midpoint steps, in {split}: {words_of.get(answer, 'open')}."
        for split, answer in zip(midpoint.splits, answers(midpoint))
        if answer != MISSING
    ]
    return Markdown(
        "So, would a newer generator do better than the GAN of 2020? Of "
        f"{len(SPLITS)} splits of CIFAR-100, the seeds say *yes* in {yes} and *no* in "
        f"{no}. In {len(SPLITS) - yes - no} the answer is open, or not recorded."
        + "".join(others)
    )


# Figures ------------------------------------------------------------------------------


@styled
def aging(panels: dict, name: str = "coverage"):
    """{title: found}: a measure of task 0's replay, over the tasks, a panel each.

    Mean and range of the seeds; dashed and dotted: real training features as they are
    and augmented, where they were measured, means over all runs. Panels of which
    nothing was measured are left out. Returns the Figure, or None.
    """
    known = _with_moments(panels)
    if not known:
        return None
    figure, grid = looks.plt.subplots(
        len(known), 1, figsize=(5.2, 2.7 * len(known)), squeeze=False
    )
    for ax, (title, found) in zip(grid.flat, known.items(), strict=True):
        _aging(ax, found, name)
        ax.set_title(title)
    return figure


def _with_moments(panels: dict) -> dict:
    """The panels, rows and runs whose replay was measured at all."""
    known = {
        title: {
            row: [run for run in runs if moments(run)]
            for row, runs in found.items()
            if any(map(moments, runs))
        }
        for title, found in panels.items()
    }
    return {title: found for title, found in known.items() if found}


def _aging(ax, found: dict, name: str) -> None:
    ends, lines = [], aged(found, name)
    for row, how in zip(lines, looks.looks_of([row["memory"] for row in lines])):
        if row["memory"] in REAL:
            line, label = YARDSTICKS[row["memory"]]
            how = {"color": looks.INK, "marker": "", "linestyle": line, "label": label}
        last = looks.band(ax, row["after"], row["values"], how, ms=5.5, zorder=3)
        ends.append((row["after"][-1], last, how["label"], how["color"]))
    ax.set_xticks(sorted({t for row in lines for t in row["after"]}))
    ax.set(xlabel="after task", ylabel=f"{name} (%)", ylim=(0, None))
    ax.grid(axis="y")
    looks.label_ends(ax, ends)


def aged(found: dict, name: str = "coverage") -> list[dict]:
    """The lines of `aging`: memory, after [task, ...], values [[seed, ...], ...]."""
    lines = []
    for _, runs, how in looks.groups(found):
        times = moments(runs[0])
        lines.append(
            {
                "memory": how["label"],
                "after": times,
                "values": [
                    [measured(run, name, after=i, task=0) for run in runs]
                    for i in range(len(times))
                ],
            }
        )
    runs = [*itertools.chain(*found.values())]
    for kind in REAL:
        steps = [
            (t, [measured(run, name, after=i, task=0, perfect=kind) for run in runs])
            for i, t in enumerate(moments(runs[0]))
        ]
        steps = [(t, values) for t, values in steps if not np.isnan(values).any()]
        if steps:
            after, values = zip(*((t, [float(np.mean(each))]) for t, each in steps))
            lines.append({"memory": kind, "after": [*after], "values": [*values]})
    return lines


def aged_rows(panels: dict, name: str = "coverage") -> list[dict]:
    """The points of `aging` as rows, for `words.show(..., data=...)`."""
    return [
        {"panel": title, "memory": line["memory"], "after task": t, name: value}
        for title, found in _with_moments(panels).items()
        for line in aged(found, name)
        for t, values in zip(line["after"], line["values"])
        for value in values
    ]


# The memory itself --------------------------------------------------------------------


def after_task_0(config: Config, c: int = 0) -> tuple:
    """(features [N, d] of class c's training images, the memory, a random generator).

    As they were right after task 0: trained, or loaded, stage by stage.
    """
    stream = load_tasks(config)
    chain = training.Chain(config, stream, Store())
    chain.machine.prepare()
    with chain.machine.limited():
        network, memory, _ = training.build(config, stream, chain.machine.device)
        training.grow_head(network, config, stream.sizes, 0)
        chain.phase("classifier", 0, training.train_classifier, network, None)
        chain.phase("generator", 0, training.train_generator, memory, network, None)
        phase = chain.new_phase("chapter", 0)
        u, labels = real_features(network, stream, 0, config, phase)
    return u[labels == c], memory, phase.seeded("one class")
