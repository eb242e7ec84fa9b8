"""Figures of what happens inside a network: its logits, its losses, its layers.

See `looks` for what `records` are. Most need the records' analyses.
"""

import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd

from gfrlib.book import looks, results
from gfrlib.book.looks import (
    BLUE,
    GREEN,
    INK,
    MAUVE,
    NEW,
    OLD,
    OLIVE,
    ORANGE,
    TEAL,
    styled,
)
from gfrlib.config import UserError

QUANTITIES = {
    "mean_logit": "Mean logit on images of other classes",
    "bias": "Bias of each class's output",
    "weight_norm": "Length of each class's weight vector",
}
MEASURES = {"svcca": "SVCCA", "pwcca": "PWCCA", "cka": "Linear CKA"}
NOT_A_LOSS = ["task", "phase", "step", "loss"]


# Logits -------------------------------------------------------------------------------


def _logits(label: str, runs: list, t: int | None) -> tuple[int, list[dict]]:
    """(t, the analysed logits after task t). Raises UserError where there are none."""
    t = len(runs[0].task_sizes) - 1 if t is None else t
    analysed = [e for run in runs for e in (run.analysis or {}).get("logits", ())]
    found = [entry for entry in analysed if entry["after"] == t]
    if not found:
        raise UserError(
            f"The records of '{label}' hold no logits after task {t}: a frozen "
            "extractor's are never measured, and others are added by "
            "experiments.run_or_load(config, analyse='logits')."
        )
    return t, found


@styled
def logit_bias(records, quantity: str = "mean_logit", ax=None, *, t: int | None = None):
    """One value per class, in order of arrival, after task t (default: the last).

    Do the newest classes stand higher? quantity: mean_logit (over test images of other
    classes), bias, or weight_norm (length of its weight vector). Points are classes,
    bars their mean over a task; thin lines divide the tasks.
    """
    if quantity not in QUANTITIES:
        known = ", ".join(QUANTITIES)
        raise UserError(f"There is no quantity '{quantity}'; choose one of {known}.")
    ax, ends = looks.axes(ax), []
    for label, runs, how in looks.groups(records):
        after, entries = _logits(label, runs, t)
        value = np.mean([entry[quantity] for entry in entries], axis=0)
        edges = np.cumsum([0, *runs[0].task_sizes])[: after + 2]
        x, color = np.arange(len(value)), how["color"]
        ax.plot(x, value, how["marker"], color=color, ms=4, alpha=0.6)
        for a, b in itertools.pairwise(edges):
            mean = value[a:b].mean()
            ax.plot(
                [a - 0.4, b - 0.6],
                [mean, mean],
                color=color,
                lw=2.6,
                solid_capstyle="butt",
            )
        ends.append((b - 0.6, mean, how["label"], color))
    for edge in edges[1:-1]:
        ax.axvline(edge - 0.5, color=INK, lw=0.6, alpha=0.6)
    ax.set_xlim(-0.7, edges[-1] - 0.3)
    ax.set(xlabel="class, in order of arrival", title=QUANTITIES[quantity])
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    looks.label_ends(ax, ends)
    return ax


@styled
def largest_logit(records, ax=None, *, t: int | None = None):
    """On test images of old classes: the mean largest logit of old and of new classes.

    t: after which task (default: the last).
    """
    groups = looks.groups(records)
    ax = looks.axes(ax, height=1.2 + 0.4 * len(groups))
    for i, (label, runs, _) in enumerate(groups):
        _, entries = _logits(label, runs, t)
        found = [entry["largest_logit"]["on_old_images"] for entry in entries]
        old = float(np.mean([e["old_classes"] for e in found]))
        new = float(np.mean([e["new_classes"] for e in found]))
        ax.plot([old, new], [i, i], color=INK, lw=1.4, zorder=1)
        ax.plot(old, i, "o", color=OLD, ms=8, label=None if i else "old classes")
        ax.plot(new, i, "s", color=NEW, ms=8, label=None if i else "new classes")
    ax.set_xlabel("largest logit, mean over images of old classes")
    looks.rows(ax, [how for _, _, how in groups], legend="Among")
    return ax


# Losses -------------------------------------------------------------------------------


@styled
def loss_curves(record, phase: str = "classifier", names: tuple = (), ax=None):
    """The losses of one phase ("classifier" or "generator") over optimiser steps.

    The tasks stand one after another, divided by thin lines. names: which losses
    (default: all parts that are recorded, without their sum).
    """
    lines = pd.DataFrame([row for row in record.losses if row["phase"] == phase])
    if lines.empty:
        raise UserError(
            f"The record '{record.name}' holds no losses of the phase '{phase}'; "
            "choose classifier or generator, and a method that trains it."
        )
    parts = lines.columns.difference(NOT_A_LOSS, sort=False)
    names = names or tuple(parts) or ("loss",)
    colors = dict(
        zip(names, itertools.cycle((BLUE, GREEN, ORANGE, MAUVE, TEAL, OLIVE)))
    )
    ax, start, ends = looks.axes(ax), 0, {}
    for task, mine in lines.groupby("task"):
        for name, color in colors.items():
            known = mine.dropna(subset=[name])
            x, y = start + known["step"], known[name]
            ax.plot(x, y, color=color, lw=1.5)
            if len(known):
                ends[name] = x.iloc[-1], y.iloc[-1], name.replace("_", " "), color
        length = mine["step"].max()
        ax.axvline(start, color=INK, lw=0.6, alpha=0.6)
        ax.text(
            start + length / 2,
            1.01,
            f"task {task}",
            transform=ax.get_xaxis_transform(),
            ha="center",
            fontsize=looks.SMALL,
        )
        start += length
    if (lines[list(names)].min() > 0).all():
        ax.set_yscale("log")
    ax.set_xlim(0, start)
    ax.set_xlabel("updates of G" if phase == "generator" else "optimiser steps")
    ax.set_title("Loss", pad=18)
    looks.label_ends(ax, list(ends.values()))
    return ax


# Layers -------------------------------------------------------------------------------

NULLS = ("svcca", "cka")  # the measures whose null is recorded
SHUFFLED = dict(linestyle=":", color=INK, lw=1.4)


def _null(record, measure: str, task: int, after: int | None) -> list[float]:
    """The measure at every layer when the images of one network are shuffled."""
    found = results.similarity(record, f"{measure}_null", task=task, after=after)
    return list(found.values())


@styled
def layer_similarity(
    records, measure: str = "svcca", ax=None, *, task: int = 0, after: int | None = None
):
    """After the paper's Figure 2: how alike layers stay to those that learned `task`.

    One line a method over the layers, mean and range of the seeds, and where it is
    recorded the null (grey, dotted).
    """
    ax, ends = looks.axes(ax), []
    groups = looks.groups(records)
    for _, runs, how in groups:
        each = [results.similarity(r, measure, task=task, after=after) for r in runs]
        layers, values = list(each[0]), np.array([list(e.values()) for e in each])
        x = range(len(layers))
        last = looks.band(ax, x, list(values.T), how, clip_on=False, zorder=3)
        ends.append((x[-1], last, how["label"], how["color"]))
    if measure in NULLS:
        every = [r for _, runs, _ in groups for r in runs]
        null = [_null(r, measure, task, after) for r in every]
        mean = np.mean(null, axis=0)
        ax.plot(x, mean, **SHUFFLED)
        ends.append((x[-1], mean[-1], "images shuffled", INK))
    ax.set_xticks(x, layers)
    ax.set_ylim(min(0, ax.get_ylim()[0]), 1.02)
    ax.set_title(f"{MEASURES[measure]} on the test images of task {task}")
    ax.grid(axis="y")
    looks.label_ends(ax, ends)
    return ax


@styled
def similarity_panels(records, measure: str = "svcca", *, after: int | None = None):
    """After the paper's Figure 2: a Figure with a panel a method, over the layers.

    A line for every task's test images: the mean of the seeds. Where there is a null,
    its mean over tasks and seeds (grey, dotted). Raises UserError for runs of more than
    12 tasks, of which task 0 alone is compared.
    """
    groups = looks.groups(records)
    figure, grid = looks.panels(len(groups), 2.1)
    for ax, (label, runs, _) in zip(grid, groups, strict=True):
        last = len(runs[0].task_sizes) - 1 if after is None else after
        for task in range(last):
            each = [results.similarity(r, measure, task=task, after=last) for r in runs]
            layers = list(each[0])
            color = looks.TASK_COLORS[task % len(looks.TASK_COLORS)]
            ax.plot(
                range(len(layers)),
                np.mean([list(e.values()) for e in each], axis=0),
                marker="osv^DP"[task % 6],
                color=color,
                ms=4.5,
                clip_on=False,
                label=f"images of task {task}",
            )
        if measure in NULLS:
            null = [_null(r, measure, t, last) for r in runs for t in range(last)]
            x = range(len(layers))
            ax.plot(x, np.mean(null, axis=0), label="images shuffled", **SHUFFLED)
        short = [s.replace("block ", "").replace("classifier", "H") for s in layers]
        ax.set_xticks(range(len(layers)), short)
        ax.set(ylim=(0, 1.02), yticks=(0, 0.5, 1), title=looks.look(label)["label"])
        ax.grid(axis="y")
    for ax in grid[-2:]:
        ax.set_xlabel("block, and classifier H")
    grid[0].set_ylabel(MEASURES[measure])
    keys = grid[0].get_legend_handles_labels()
    figure.legend(*keys, loc="outside upper left", ncols=2, handlelength=1.4)
    return figure
