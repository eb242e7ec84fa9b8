"""Records -> Axes, in one style that reads on white and on dark pages. Never trains; only this module draws.

`records` is always one Record, a list of them (grouped by method), or {label: Record or list}: a list under one label
is its seeds. Accuracies are drawn in percent.
"""

import dataclasses
import datetime
import functools
import html
import itertools
import shlex
import urllib.parse

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from IPython.display import HTML, Markdown
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from gfrlib import metrics
from gfrlib.book import claims
from gfrlib.config import METHODS, UserError, make_config

INK = "#767676"  # text and axes: contrast 4.5 on white, 3.9 on the dark theme's #14181e
RED, ORANGE, MAUVE, GREEN, BLUE = "#ce2740", "#c4660f", "#c35dab", "#1ca86c", "#4b7df0"
OLIVE, TEAL, BROWN = (
    "#8a7a1c",
    "#1795a3",
    "#9c6b4e",
)  # all: contrast of 3 or more on white and on dark
TASK_COLORS = (
    BLUE,
    ORANGE,
    "#16955f",
    MAUVE,
    OLIVE,
    TEAL,
)  # by turns: neighbouring tasks differ
mpl.rcParams["svg.hashsalt"] = (
    "gfr"  # the same figure is the same file, whoever saves it
)
OLD, NEW, REAL = BLUE, ORANGE, INK  # old and new classes; real features

# One look per method in all figures: label, colour, marker, line. Six colours that every kind of sight tells apart.
_LOOKS = {
    "finetune": ("Fine-tuning", RED, "v", "-"),
    "joint": ("Joint training", INK, "D", (0, (5, 2))),
    "lwf": ("LwF", ORANGE, "s", "-"),
    "frozen": ("Frozen F", MAUVE, "P", "-"),
    "gfr-gaussian": ("GFR, Gaussians", GREEN, "^", "-"),
    "gfr": ("GFR, GAN", BLUE, "o", "-"),
    "ewc": ("EWC", ORANGE, "X", "--"),
    "mas": ("MAS", ORANGE, "d", ":"),
    "icarl-cnn": ("iCaRL-CNN", TEAL, "<", "--"),
    "icarl-nme": ("iCaRL-NME", TEAL, ">", "-"),
    "lucir": ("Rebalance", BROWN, "h", "-"),
    "mergan": ("Image replay", TEAL, "*", "-"),
    "block-1": ("Replay at block 1", OLIVE, "<", ":"),
    "block-2": ("Replay at block 2", OLIVE, "^", "--"),
    "block-3": ("Replay at block 3", OLIVE, ">", "-"),
    "ewc-gan": ("EWC + GAN", BROWN, "X", "--"),
    "mas-gan": ("MAS + GAN", BROWN, "d", ":"),
    "fetril": ("FeTrIL", MAUVE, "<", "--"),
    "fecam": ("FeCAM", MAUVE, ">", ":"),
    "gfr-drift": ("GFR, GAN, drift", BLUE, "p", "--"),
    "gfr-gaussian-drift": ("GFR, Gaussians, drift", GREEN, "p", "--"),
}
_SPARE = [
    (TEAL, "h", "--"),
    (BROWN, "p", "-"),
    (OLIVE, "X", ":"),
    (MAUVE, "d", "-."),
    (RED, "<", "--"),
    (GREEN, ">", "-."),
    (ORANGE, "s", "--"),
    (BLUE, "D", ":"),
]


# The style, and what all figures share --------------------------------------------------------------------------------


def style(form: str = "svg") -> None:
    """The book's look for all figures that follow; in a notebook they come out as `form` ("svg", or "png" at 2x)."""
    mpl.rcParams.update(_rc())
    if get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        if form == "svg":
            set_matplotlib_formats("svg", metadata={"Date": None})
        else:
            set_matplotlib_formats("retina")


def _rc() -> dict:
    clear = dict.fromkeys(
        ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"),
        "none",
    )
    ink = dict.fromkeys(
        (
            "text.color",
            "axes.labelcolor",
            "axes.edgecolor",
            "axes.titlecolor",
            "xtick.color",
            "ytick.color",
            "grid.color",
            "legend.labelcolor",
        ),
        INK,
    )
    sizes = dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 10.5)
    sizes |= dict.fromkeys(
        ("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9.5
    )
    return {
        **clear,
        **ink,
        **sizes,
        "font.family": ["DejaVu Sans"],
        "figure.figsize": (5.2, 3.3),
        "savefig.dpi": 200,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.titlepad": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "grid.alpha": 0.3,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.8,
        "lines.markeredgewidth": 0,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "svg.fonttype": "path",
    }


def _styled(draw):
    """The function, drawing in the book's look whether or not `style` was called."""

    @functools.wraps(draw)
    def drawn(*args, **kwargs):
        with mpl.rc_context(_rc()):
            return draw(*args, **kwargs)

    return drawn


def look(name: str, taken: tuple = ()) -> dict:
    """{label, color, marker, linestyle} of a method's name or label; another name gets a look that is not `taken`."""
    row = _LOOKS.get(name) or next(
        (row for row in _LOOKS.values() if row[0] == name), None
    )
    if row is None:
        row = (
            name,
            *next(
                (s for s in _SPARE if s[0] not in taken),
                _SPARE[len(taken) % len(_SPARE)],
            ),
        )
    return {"label": row[0], "color": row[1], "marker": row[2], "linestyle": row[3]}


def _looks(labels) -> list[dict]:
    """The looks of several labels, in their order."""
    looks: list[dict] = []
    for label in labels:
        looks.append(look(label, tuple(how["color"] for how in looks)))
    return looks


def _groups(records) -> list[tuple[str, list, dict]]:
    """[(label, its Records, its look), ...] from all that counts as `records`."""
    found: dict[str, list] = {}
    if hasattr(records, "keys"):
        found = {
            label: list(r) if isinstance(r, (list, tuple)) else [r]
            for label, r in records.items()
        }
    else:
        for record in records if isinstance(records, (list, tuple)) else [records]:
            found.setdefault(record.config.method, []).append(record)
    return list(zip(found, found.values(), _looks(found), strict=True))


def _axes(ax, height: float = 3.3, width: float = 5.2):
    return plt.subplots(figsize=(width, height))[1] if ax is None else ax


def _last(values) -> float:
    known = [float(v) for v in values if not np.isnan(v)]
    return known[-1] if known else float("nan")


def _label_ends(ax, ends: list) -> None:
    """Write (x, y, text, color) to the right of line ends, moved apart where they would overlap, with thin leaders."""
    gap = (
        13 / 72 / (ax.figure.get_figheight() * 0.72)
    )  # height of a line of text, in fractions of the axes
    to_axes = ax.transData + ax.transAxes.inverted()
    clusters: list = []  # (centre, members): merged while they overlap
    for end in sorted((e for e in ends if not np.isnan(e[1])), key=lambda e: e[1]):
        clusters.append((to_axes.transform(end[:2])[1], [end]))
        while len(clusters) > 1:
            (a, some), (b, more) = clusters[-2:]
            if b - a >= gap * (len(some) + len(more)) / 2:
                break
            clusters[-2:] = [
                ((a * len(some) + b * len(more)) / (len(some) + len(more)), some + more)
            ]
    for centre, members in clusters:
        for i, (x, y, text, color) in enumerate(members):
            at = (1.05, centre + gap * (i - (len(members) - 1) / 2))
            ax.annotate(
                text,
                (x, y),
                at,
                textcoords="axes fraction",
                color=color,
                va="center",
                fontweight="bold",
                fontsize=9.5,
                annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-",
                    "color": color,
                    "lw": 0.7,
                    "shrinkA": 1,
                    "shrinkB": 4,
                },
            )


def _rows(ax, looks: list, legend: str = "") -> None:
    """Named rows from top to bottom with a vertical grid; `legend` is a title with the legend on the same line."""
    ax.set_yticks(range(len(looks)), [how["label"] for how in looks])
    ax.set_ylim(len(looks) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")
    ax.set_axisbelow(True)
    if legend:
        ax.set_title(legend)
        ax.legend(
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncols=3,
            borderaxespad=0.2,
            handlelength=1,
            columnspacing=1,
        )


def _bar(
    ax,
    y: float,
    values,
    color: str,
    *,
    text: str,
    height: float = 0.66,
    label: str | None = None,
) -> None:
    """A bar of the values' mean with `text` at its end, and a white dot for every value if there are several."""
    ax.barh(y, np.mean(values), height, color=color, label=label)
    if len(values) > 1:
        ax.plot(
            values,
            [y] * len(values),
            "o",
            ms=4.5,
            mfc="white",
            mec="#333333",
            mew=0.9,
            clip_on=False,
        )
    ax.annotate(
        text,
        (max(0, *values), y),
        (8, 0),
        textcoords="offset points",
        va="center",
        fontsize=9.5,
    )


# Accuracy and forgetting ----------------------------------------------------------------------------------------------


@_styled
def accuracy_curves(records, quantity: str = "accuracy", ax=None):
    """Class-weighted accuracy, or forgetting, in percent over the number of classes seen: mean and range of the seeds.

    A method that has only the last row (joint training) becomes a horizontal line; "forgetting" leaves it out. Accuracies
    are drawn up to 100 %, or less high where all are below 50 %. Raises UserError for another quantity.
    """
    if quantity not in ("accuracy", "forgetting"):
        raise UserError(
            f"There is no curve of '{quantity}'; choose accuracy or forgetting."
        )
    ax, ends, ticks = _axes(ax), [], set()
    for _, runs, how in _groups(records):
        seen, only_last = (
            np.cumsum(runs[0].task_sizes),
            bool(np.isnan(runs[0].curve[:-1]).any()),
        )
        if only_last and quantity == "forgetting":
            continue
        rows = 100 * np.array(
            [
                r.curve
                if quantity == "accuracy"
                else metrics.forgetting(r.accuracy, r.task_sizes)
                for r in runs
            ]
        )
        if only_last:
            ax.axhline(
                rows[:, -1].mean(),
                color=how["color"],
                linestyle=how["linestyle"],
                lw=1.4,
            )
        else:
            ticks |= set(seen.tolist())
            ax.plot(
                seen,
                rows.mean(axis=0),
                color=how["color"],
                marker=how["marker"],
                linestyle=how["linestyle"],
                ms=5.5,
                clip_on=False,
                zorder=3,
            )
            ax.fill_between(
                seen,
                rows.min(axis=0),
                rows.max(axis=0),
                color=how["color"],
                alpha=0.22,
                lw=0,
            )
        end = rows[:, -1].mean()
        ends.append((seen[-1], end, f"{how['label']} {end:.0f}", how["color"]))
    ax.set_xticks(sorted(ticks)[:: -(-len(ticks) // 8) or 1])
    whole = (
        quantity == "accuracy"
        and max(np.nanmax(line.get_ydata()) for line in ax.lines) > 50
    )
    ax.set_ylim(min(0, ax.get_ylim()[0]), 100 if whole else None)
    ax.set(xlabel="classes seen", title=f"{quantity.capitalize()}, class-weighted (%)")
    ax.grid(axis="y")
    _label_ends(ax, ends)
    return ax


@_styled
def accuracy_matrix(record, ax=None, *, rule: str | None = None):
    """Heat map of accuracy[t, k] in percent: row = after task t, column = task k. `rule`: another prediction rule."""
    matrix = 100 * (record.accuracy if rule is None else record.rule(rule))
    steps, small = len(matrix), len(matrix) <= 11
    ax = _axes(
        ax, height=min(4.6, 1.3 + 0.42 * steps), width=min(5.2, 2.2 + 0.5 * steps)
    )
    sns.heatmap(
        matrix,
        mask=np.isnan(matrix),
        vmin=0,
        vmax=100,
        cmap="crest",
        annot=small,
        fmt=".0f",
        ax=ax,
        cbar=not small,
        linewidths=0,
        cbar_kws=None if small else {"label": "%"},
    )
    at = np.arange(0, steps, -(-steps // 11))
    ax.set_xticks(at + 0.5, at)
    ax.set_yticks(at + 0.5, at, rotation=0)
    ax.tick_params(length=0)
    label = look(record.config.method)["label"]
    ax.set(
        xlabel="test images of task",
        ylabel="after task",
        title=f"{label}: accuracy (%)",
    )
    return ax


@_styled
def bars(values: dict, unit: str = "%", title: str = "", ax=None, *, digits: int = 1):
    """Horizontal bars of {label: number, or a list of numbers, one per seed}: the mean, and a dot per seed."""
    ax, looks = _axes(ax, height=0.95 + 0.4 * len(values)), _looks(values)
    for i, numbers in enumerate(values.values()):
        numbers = np.atleast_1d(np.asarray(numbers, dtype=float))
        _bar(ax, i, numbers, looks[i]["color"], text=f"{numbers.mean():.{digits}f}")
    _rows(ax, looks)
    ax.set_xlim(0, 100 if unit == "%" else ax.get_xlim()[1] * 1.08)
    ax.set(xlabel=unit, title=title)
    return ax


def final(record, rule: str | None = None) -> float:
    """Class-weighted accuracy after the last task (0-1), of the run's own prediction or of another `rule`."""
    return _last(
        record.curve
        if rule is None
        else metrics.class_weighted(record.rule(rule), record.task_sizes)
    )


def final_bars(records, ax=None, *, rule: str | None = None):
    """Bars of the class-weighted accuracy after the last task, in percent: mean over seeds, and a dot per seed."""
    values = {
        label: [100 * final(r, rule) for r in runs]
        for label, runs, _ in _groups(records)
    }
    return bars(values, title="Accuracy after the last task, class-weighted", ax=ax)


@_styled
def old_new_bars(records, ax=None, *, t: int | None = None):
    """After task t (default: the last): accuracy on the classes of earlier tasks beside task t's own, in percent."""
    groups = _groups(records)
    ax = _axes(ax, height=1.1 + 0.55 * len(groups))
    for i, (_, runs, _) in enumerate(groups):
        at = len(runs[0].task_sizes) - 1 if t is None else t
        pairs = 100 * np.array(
            [
                metrics.old_new(r.predictions[at], r.labels(at), r.task_sizes, at)
                for r in runs
            ]
        )
        for j, (name, color) in enumerate((("old classes", OLD), ("new classes", NEW))):
            _bar(
                ax,
                i + 0.38 * (j - 0.5),
                pairs[:, j],
                color,
                text=f"{pairs[:, j].mean():.0f}",
                height=0.35,
                label=name if i == 0 else None,
            )
    ax.set(xlim=(0, 100), xlabel="%")
    _rows(ax, [how for _, _, how in groups], legend="Accuracy on")
    return ax


@_styled
def effects(changes: dict, ax=None, *, spread: dict | None = None):
    """What changes of a setting do: {label: differences in points, one per seed}; the line at 0 is "nothing changes".

    Every row has a bar of the mean, a dot per seed, and the mean in figures. `spread` {label: points} draws a grey band of
    that half-width around 0: what unchanged runs differ by among themselves.
    """
    ax = _axes(ax, height=1.1 + 0.36 * len(changes), width=5.6)
    for i, (label, values) in enumerate(changes.items()):
        band = (spread or {}).get(label, 0.0)
        ax.barh(i, 2 * band, 0.86, left=-band, color=INK, alpha=0.22)
        ax.barh(i, np.mean(values), 0.46, color=BLUE)
        ax.plot(
            values,
            [i] * len(values),
            "o",
            ms=4.5,
            mfc="white",
            mec="#333333",
            mew=0.9,
            clip_on=False,
        )
        ax.annotate(
            f"{round(float(np.mean(values)), 1) + 0.0:+.1f}",
            (1.02, i),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9.5,
        )
    ax.axvline(0, color=INK, lw=1)
    _rows(ax, [{"label": label} for label in changes])
    ax.set_xlabel("change of the accuracy after the last task (points)")
    return ax


# Inside a run ---------------------------------------------------------------------------------------------------------


def _logits(label: str, runs: list, t: int | None) -> tuple[int, list[dict]]:
    """(t, the analysed logits after task t). Raises UserError where the records have none."""
    t = len(runs[0].task_sizes) - 1 if t is None else t
    found = [
        entry
        for run in runs
        for entry in (run.analysis or {}).get("logits", ())
        if entry["after"] == t
    ]
    if not found:
        raise UserError(
            f"The records of '{label}' hold no logits after task {t}; delete them and run them again."
        )
    return t, found


@_styled
def logit_bias(records, quantity: str = "mean_logit", ax=None, *, t: int | None = None):
    """One value per class, in order of arrival, after task t (default: the last): do the newest classes stand higher?

    quantity: mean_logit (over test images of other classes), bias, or weight_norm (length of its weight vector).
    Points are classes, bars their mean over a task; thin lines divide the tasks. Needs the records' analyses.
    """
    names = {
        "mean_logit": "Mean logit on images of other classes",
        "bias": "Bias of each class's output",
        "weight_norm": "Length of each class's weight vector",
    }
    if quantity not in names:
        raise UserError(
            f"There is no quantity '{quantity}'; choose one of {', '.join(names)}."
        )
    ax, ends = _axes(ax), []
    for label, runs, how in _groups(records):
        after, entries = _logits(label, runs, t)
        value = np.mean([entry[quantity] for entry in entries], axis=0)
        edges = np.cumsum([0, *runs[0].task_sizes])[: after + 2]
        ax.plot(
            np.arange(len(value)),
            value,
            how["marker"],
            color=how["color"],
            ms=4,
            alpha=0.6,
        )
        for a, b in itertools.pairwise(edges):
            ax.plot(
                [a - 0.4, b - 0.6],
                [value[a:b].mean()] * 2,
                color=how["color"],
                lw=2.6,
                solid_capstyle="butt",
            )
        ends.append((b - 0.6, value[a:b].mean(), how["label"], how["color"]))
    for edge in edges[1:-1]:
        ax.axvline(edge - 0.5, color=INK, lw=0.6, alpha=0.6)
    ax.set(
        xlim=(-0.7, edges[-1] - 0.3),
        xlabel="class, in order of arrival",
        title=names[quantity],
    )
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    _label_ends(ax, ends)
    return ax


@_styled
def largest_logit(records, ax=None, *, t: int | None = None):
    """On test images of old classes, after task t: the mean largest logit among old classes, and among new ones."""
    groups = _groups(records)
    ax = _axes(ax, height=1.2 + 0.4 * len(groups))
    for i, (label, runs, _) in enumerate(groups):
        found = [
            entry["largest_logit"]["on_old_images"]
            for entry in _logits(label, runs, t)[1]
        ]
        old, new = (
            float(np.mean([e[k] for e in found]))
            for k in ("old_classes", "new_classes")
        )
        ax.plot([old, new], [i, i], color=INK, lw=1.4, zorder=1)
        ax.plot(old, i, "o", color=OLD, ms=8, label=None if i else "old classes")
        ax.plot(new, i, "s", color=NEW, ms=8, label=None if i else "new classes")
    ax.set_xlabel("largest logit, mean over images of old classes")
    _rows(ax, [how for _, _, how in groups], legend="Among")
    return ax


@_styled
def loss_curves(record, phase: str = "classifier", names: tuple = (), ax=None):
    """The losses of one phase ("classifier" or "generator"), the tasks one after another, over optimiser steps.

    names: which of them (default: all parts that are recorded, without their sum). Thin lines divide the tasks.
    """
    rows = pd.DataFrame([row for row in record.losses if row["phase"] == phase])
    if rows.empty:
        raise UserError(
            f"The record '{record.name}' holds no losses of the phase '{phase}'; "
            "choose classifier or generator, and a method that trains it."
        )
    names = (
        names
        or tuple(rows.columns.difference(["task", "phase", "step", "loss"], sort=False))
        or ("loss",)
    )
    ax, start, ends = _axes(ax), 0, {}
    for task, mine in rows.groupby("task"):
        for name, color in zip(
            names,
            itertools.cycle((BLUE, GREEN, ORANGE, MAUVE, TEAL, OLIVE)),
            strict=False,
        ):
            known = mine.dropna(subset=[name])
            ax.plot(start + known["step"], known[name], color=color, lw=1.5)
            if len(known):
                ends[name] = (
                    start + known["step"].iloc[-1],
                    known[name].iloc[-1],
                    name.replace("_", " "),
                    color,
                )
        length = mine["step"].max()
        ax.axvline(start, color=INK, lw=0.6, alpha=0.6)
        ax.text(
            start + length / 2,
            1.01,
            f"task {task}",
            transform=ax.get_xaxis_transform(),
            ha="center",
            fontsize=9,
        )
        start += length
    if (rows[list(names)].min() > 0).all():
        ax.set_yscale("log")
    ax.set_xlim(0, start)
    ax.set_xlabel("updates of G" if phase == "generator" else "optimiser steps")
    ax.set_title("Loss", pad=18)
    _label_ends(ax, list(ends.values()))
    return ax


# Features, images, costs ----------------------------------------------------------------------------------------------


def _panels(count: int, height: float) -> tuple:
    """(Figure, its axes): up to two columns, each panel `height` inches high; left-over axes are hidden."""
    lines, columns = -(-count // 2), min(2, count)
    figure, grid = plt.subplots(
        lines, columns, figsize=(5.2, 0.45 + height * lines), squeeze=False
    )
    for ax in grid.flat[count:]:
        ax.set_visible(False)
    return figure, grid.flat[:count]


@_styled
def marginals(real, replayed: dict, dims: tuple = (), *, names: tuple = ()):
    """Histograms of single feature dimensions: real [N, d] filled, generators {label: [M, d]} as lines. A Figure.

    dims: which columns (default: up to four of the largest spread); names: what the dimensions are called.
    """
    real, replayed = (
        np.asarray(real, dtype=float),
        {k: np.asarray(v, dtype=float) for k, v in replayed.items()},
    )
    dims = dims or tuple(np.argsort(-real.std(axis=0))[:4].tolist())
    figure, grid = _panels(len(dims), 1.75)
    for ax, dim in zip(grid, dims, strict=True):
        columns = [values[:, dim] for values in (real, *replayed.values())]
        edges = np.linspace(
            min(0, *(c.min() for c in columns)),
            max(np.quantile(c, 0.995) for c in columns),
            25,
        )
        ax.hist(real[:, dim], edges, density=True, color=REAL, alpha=0.4, label="real")
        for values, how in zip(replayed.values(), _looks(replayed), strict=True):
            ax.hist(
                values[:, dim],
                edges,
                density=True,
                histtype="step",
                lw=1.6,
                color=how["color"],
                linestyle=how["linestyle"],
                label=how["label"],
            )
        ax.set_title(
            f"dimension {names[dim] if names else dim}",
            fontsize=9.5,
            fontweight="normal",
        )
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
    figure.legend(
        *grid[0].get_legend_handles_labels(),
        loc="outside upper left",
        ncols=3,
        handlelength=1.4,
    )
    return figure


@_styled
def projection(panels: dict):
    """Points in the plane, after the paper's Figure 7: {label: {"real": [N, 2], "replayed": [M, 2]}}, a panel each.

    Returns the Figure. Entries of a record's analysis["projection"] fit; with "real_class", class numbers stand at the
    medians of the real features.
    """
    figure, grid = _panels(len(panels), 2.75)
    for ax, entry, how in zip(grid, panels.values(), _looks(panels), strict=True):
        real, replayed = (
            np.asarray(entry[k], dtype=float) for k in ("real", "replayed")
        )
        ax.scatter(
            *real.T, s=10, color=REAL, alpha=0.7, lw=0, rasterized=len(real) > 1500
        )
        ax.scatter(
            *replayed.T,
            s=11,
            marker="x",
            color=how["color"],
            alpha=0.85,
            lw=0.9,
            rasterized=len(real) > 1500,
        )
        for c in sorted(set(entry.get("real_class", ()))):
            x, y = np.median(real[np.asarray(entry["real_class"]) == c], axis=0)
            ax.text(
                x,
                y,
                f"{c}",
                ha="center",
                va="center",
                fontsize=9,
                fontweight="bold",
                color="white",
                bbox={
                    "boxstyle": "circle,pad=0.15",
                    "fc": "#4a4a4a",
                    "ec": "none",
                    "alpha": 0.85,
                },
            )
        ax.set_title(how["label"], color=how["color"])
        ax.set(xticks=[], yticks=[])
        sns.despine(ax=ax, left=True, bottom=True)
    keys = [
        mpl.lines.Line2D([], [], ls="", marker=m, ms=5, mew=w, color=INK)
        for m, w in (("o", 0), ("x", 1))
    ]
    figure.legend(
        keys,
        ["real features (grey)", "replayed (coloured)"],
        loc="outside upper left",
        ncols=2,
    )
    return figure


@_styled
def accuracy_vs(
    series: dict,
    xlabel: str,
    ylabel: str = "Accuracy after the last task (%)",
    ax=None,
    *,
    log=False,
    ylim: tuple | None = None,
):
    """{label: [(x, y or list of y, one per seed), ...]}: lines through means, the seeds' range shaded; y as given."""
    ax, ends = _axes(ax), []
    for points, how in zip(series.values(), _looks(series), strict=True):
        x, values = (
            [p[0] for p in points],
            [np.atleast_1d(np.asarray(p[1], dtype=float)) for p in points],
        )
        mean = [v.mean() for v in values]
        ax.plot(
            x,
            mean,
            color=how["color"],
            marker=how["marker"],
            linestyle=how["linestyle"],
        )
        low, high = [v.min() for v in values], [v.max() for v in values]
        ax.fill_between(x, low, high, color=how["color"], alpha=0.22, lw=0)
        ends.append((x[-1], mean[-1], how["label"], how["color"]))
    if log:
        ax.set_xscale("log")
    ax.set(xlabel=xlabel, title=ylabel, **({} if ylim is None else {"ylim": ylim}))
    ax.grid(axis="y")
    _label_ends(ax, ends)
    return ax


@_styled
def class_images(tasks, *, per_class: int = 3, most: int = 10):
    """Training images of the tasks of a stream (tasks.Tasks): `per_class` of each of a task's first `most` classes."""
    images, labels = tasks.train_images.cpu().numpy(), tasks.train_labels.cpu().numpy()
    wide, count, start = min(most, max(tasks.sizes)), len(tasks.sizes), 0
    per_class = max(1, min(per_class, 12 // wide))
    width = wide * (per_class + 0.3)
    figure, axes = plt.subplots(
        count, figsize=(5.2, count * (4.2 / width + 0.3)), squeeze=False
    )
    for t, (ax, size) in enumerate(zip(axes.flat, tasks.sizes, strict=True)):
        for i, j in itertools.product(range(min(size, most)), range(per_class)):
            picture = images[np.searchsorted(labels, start + i) + j]
            left = i * (per_class + 0.3)
            ax.imshow(
                picture.squeeze(-1) if picture.shape[-1] == 1 else picture,
                cmap="gray",
                vmin=0,
                vmax=255,
                interpolation="none",
                extent=(left + j, left + j + 0.94, 0.94, 0),
            )
            if j == 0:
                ax.text(
                    left + per_class / 2,
                    1,
                    tasks.class_names[start + i].replace("_", " "),
                    ha="center",
                    va="top",
                    fontsize=9.5 if wide < 7 else 6.5,
                )
        ax.text(
            -0.03,
            0.5,
            f"task {t}" + (f"\n{size} classes" if size > most else ""),
            transform=ax.transAxes,
            ha="right",
            va="center",
            color=TASK_COLORS[t % len(TASK_COLORS)],
            fontweight="bold",
        )
        ax.set(xlim=(0, width), ylim=(1, 0), aspect="equal")
        ax.axis("off")
        start += size
    return figure


def human(count: float) -> str:
    """Bytes for people, in powers of 1,024 with three digits: 512 B, 3.91 KiB, 4.79 MiB."""
    power = (
        0 if count < 1000 else min(3, max(1, int(np.log(count * 1.024) / np.log(1024))))
    )
    return f"{count / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"


@_styled
def bytes_bars(kept: dict, ax=None, *, title: str = "Kept for the next task"):
    """{label: bytes, or {item: bytes} as in Record.bytes_kept} on a logarithmic scale, with the sum at each end."""
    totals = {
        label: sum(v.values()) if hasattr(v, "values") else v
        for label, v in kept.items()
    }
    ax, looks = _axes(ax, height=0.95 + 0.4 * len(kept)), _looks(totals)
    known = [v for v in totals.values() if v] or [1]
    low, high = 2.0 ** (10 * int(np.log2(min(known)) // 10)), max(known)
    for i, total in enumerate(totals.values()):
        ax.barh(i, max(total - low, 0), 0.66, left=low, color=looks[i]["color"])
        ax.annotate(
            human(total) if total else "nothing",
            (max(total, low), i),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
        )
    _rows(ax, looks)
    ax.set_xscale("log", base=2)
    ticks = 2.0 ** np.arange(
        np.log2(low), np.log2(high) + 1, 5 if high / low > 2**10 else 2
    )
    ax.set_xticks(ticks, [human(x) for x in ticks])
    ax.minorticks_off()
    ax.set_xlim(low, max(high * (high / low) ** 0.25, 4 * low))
    ax.set_title(title)
    return ax


# Where a network changes, what it replays, what it costs ---------------------------------------------------------------


def similarity_of(
    record, measure: str = "svcca", *, task: int = 0, after: int | None = None
) -> dict[str, float]:
    """{layer: similarity of M_after and M_task on task's test images} from the record's analysis; NaN where none could be had.

    measure: svcca, pwcca or cka, or svcca_null, cka_null. Raises UserError where the record holds no such comparison.
    """
    after = len(record.task_sizes) - 1 if after is None else after
    found = {
        e["layer"]: e.get(measure, float("nan"))
        for e in (record.analysis or {}).get("similarity", ())
        if (e["after"], e["task"]) == (after, task)
    }
    if not found or all(np.isnan(v) for v in found.values()):
        raise UserError(
            f"The record '{record.name}' holds no {measure} of task {task} after task {after}; "
            "delete it and run it again."
        )
    return found


@_styled
def layer_similarity(
    records, measure: str = "svcca", ax=None, *, task: int = 0, after: int | None = None
):
    """After the paper's Figure 2: how alike each layer stays to the network that had just learned `task`.

    One line a method over the layers, mean and range of the seeds, and where it is recorded the null (grey, dotted). Needs
    the records' analyses.
    """
    ax, ends = _axes(ax), []
    names = {"svcca": "SVCCA", "pwcca": "PWCCA", "cka": "Linear CKA"}
    groups = _groups(records)
    for _, runs, how in groups:
        rows = [similarity_of(r, measure, task=task, after=after) for r in runs]
        layers, values = list(rows[0]), np.array([list(row.values()) for row in rows])
        ax.plot(
            range(len(layers)),
            values.mean(0),
            color=how["color"],
            marker=how["marker"],
            linestyle=how["linestyle"],
            clip_on=False,
            zorder=3,
        )
        ax.fill_between(
            range(len(layers)),
            values.min(0),
            values.max(0),
            color=how["color"],
            alpha=0.22,
            lw=0,
        )
        ends.append((len(layers) - 1, values.mean(0)[-1], how["label"], how["color"]))
    if measure in ("svcca", "cka"):
        nulls = [
            list(similarity_of(r, f"{measure}_null", task=task, after=after).values())
            for _, runs, _ in groups
            for r in runs
        ]
        ax.plot(range(len(layers)), np.mean(nulls, axis=0), ":", color=INK, lw=1.4)
        ends.append(
            (len(layers) - 1, np.mean(nulls, axis=0)[-1], "images shuffled", INK)
        )
    ax.set_xticks(range(len(layers)), layers)
    ax.set(
        ylim=(min(0, ax.get_ylim()[0]), 1.02),
        title=f"{names[measure]} on the test images of task {task}",
    )
    ax.grid(axis="y")
    _label_ends(ax, ends)
    return ax


@_styled
def similarity_panels(records, measure: str = "svcca", *, after: int | None = None):
    """A panel a method, after the paper's Figure 2: a line for every task's test images, over the layers. A Figure."""
    groups = _groups(records)
    figure, grid = _panels(len(groups), 2.0)
    for ax, (label, runs, _) in zip(grid, groups, strict=True):
        last = len(runs[0].task_sizes) - 1 if after is None else after
        for task in range(last):
            rows = [similarity_of(r, measure, task=task, after=last) for r in runs]
            layers = list(rows[0])
            ax.plot(
                range(len(layers)),
                np.mean([list(row.values()) for row in rows], axis=0),
                marker="osv^DP"[task % 6],
                color=TASK_COLORS[task % len(TASK_COLORS)],
                ms=4.5,
                clip_on=False,
                label=f"images of task {task}",
            )
        ax.set_xticks(
            range(len(layers)),
            [name.replace("block ", "").replace("classifier", "H") for name in layers],
        )
        ax.set(ylim=(0, 1.02), title=look(label)["label"])
        ax.grid(axis="y")
    for ax in grid[-2:]:
        ax.set_xlabel("block, and classifier H")
    figure.legend(
        *grid[0].get_legend_handles_labels(),
        loc="outside upper left",
        ncols=3,
        handlelength=1.4,
    )
    return figure


@_styled
def confusion_matrix(record, ax=None, *, t: int | None = None):
    """Heat map after task t (default: the last): of each true class (row), the share answered with each class (column)."""
    t = len(record.task_sizes) - 1 if t is None else t
    classes = sum(record.task_sizes[: t + 1])
    counts = metrics.confusion(record.predictions[t], record.labels(t), classes)
    ax = _axes(ax, height=3.9, width=4.6)
    sns.heatmap(
        counts / counts.sum(1, keepdims=True),
        vmin=0,
        vmax=1,
        cmap="crest",
        ax=ax,
        square=True,
        rasterized=True,
        cbar_kws={"label": "share of the class's test images"},
    )
    edges = np.cumsum([0, *record.task_sizes[: t + 1]])
    for edge in edges[1:-1]:
        ax.axhline(edge, color="white", lw=0.8)
        ax.axvline(edge, color="white", lw=0.8)
    ticks = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
    ax.set_xticks(ticks, range(t + 1))
    ax.set_yticks(ticks, range(t + 1), rotation=0)
    ax.tick_params(length=0)
    ax.set(
        xlabel="answered with a class of task",
        ylabel="image of a class of task",
        title=look(record.config.method)["label"],
    )
    return ax


@_styled
def sample_sheet(record):
    """Real test images beside what the image generator replays for their classes, early and late. Returns the Figure.

    Read from the PNG beside the record. Raises UserError where there is none.
    """
    about = (record.analysis or {}).get("samples")
    path = record.path and record.path.with_name(record.path.stem + ".analysis.png")
    if not about or not path.exists():
        raise UserError(
            f"The record '{record.name}' has no sheet of images: only replay at cut 0 leaves one."
        )
    sheet, kinds = plt.imread(path), about["kinds"]
    parts = [
        _spaced(part, len(about["classes"]), about["columns"])
        for part in np.split(sheet, len(kinds), axis=1)
    ]
    high, wide = parts[0].shape[:2]
    figure, axes = plt.subplots(
        1,
        len(kinds),
        figsize=(5.2, 0.6 + 5.2 / len(kinds) * high / wide),
        squeeze=False,
    )
    height = high / len(about["classes"])
    for ax, part, kind in zip(axes.flat, parts, kinds, strict=True):
        ax.imshow(part, interpolation="none")
        ax.set_title(kind.replace("replayed after", "replayed,\nafter"), fontsize=9.5)
        ax.set(xticks=[], yticks=[])
        sns.despine(ax=ax, left=True, bottom=True)
    axes[0, 0].set_yticks(
        (np.arange(len(about["classes"])) + 0.5) * height,
        [name.replace("_", " ") for name in about["classes"]],
    )
    axes[0, 0].tick_params(length=0)
    return figure


def _spaced(sheet: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A grid of images [H, W(, 3)] as RGBA with clear gaps between them."""
    rgb = sheet[..., :3] if sheet.ndim == 3 else np.repeat(sheet[..., None], 3, axis=2)
    cells = rgb.reshape(rows, len(rgb) // rows, columns, rgb.shape[1] // columns, 3)
    gap = max(1, cells.shape[1] // 12)
    padded = np.pad(
        np.concatenate([cells, np.ones_like(cells[..., :1])], axis=-1),
        ((0, 0), (0, gap), (0, 0), (0, gap), (0, 0)),
    )
    return padded.reshape(rows * padded.shape[1], columns * padded.shape[3], 4)


@_styled
def accuracy_against_bytes(
    points: dict, ax=None, *, title: str = "Accuracy after the last task (%)"
):
    """{label: (bytes, percent or list of percents)}: one mark each on a logarithmic axis of bytes, labelled beside it."""
    ax, looks = _axes(ax, height=3.7), _looks(points)
    known = [max(c, 1) for c, _ in points.values()]
    means = [float(np.mean(values)) for _, values in points.values()]
    for (_, values), x, y, how in zip(
        points.values(), known, means, looks, strict=True
    ):
        ax.plot(x, y, how["marker"], color=how["color"], ms=7)
        ax.vlines(x, np.min(values), np.max(values), color=how["color"], lw=1.5)
    ax.set_xscale("log", base=2)
    ticks = 2.0 ** np.arange(
        0 if min(known) == 1 else int(np.log2(min(known))), np.log2(max(known)) + 3, 4
    )
    ax.set_xticks(ticks, ["nothing" if x == 1 else human(x) for x in ticks])
    ax.minorticks_off()
    ax.set(
        xlim=(min(known) / 2, max(known) * 12),
        xlabel="bytes kept for the old classes",
        title=title,
    )
    ax.margins(y=0.12)
    ax.grid(axis="y")
    placed: list = []  # (left, height) of the labels so far, in points: each moves up or down until it is free
    for i in np.argsort(means)[::-1]:
        left, height = ax.transData.transform((known[i], means[i])) * 72 / ax.figure.dpi
        shift = next(
            d
            for d in (0, 11, -11, 22, -22, 33, -33, 44, -44, 99)
            if all(abs(left - a) > 95 or abs(height + d - b) > 10.5 for a, b in placed)
        )
        placed.append((left, height + shift))
        leader = (
            {
                "arrowstyle": "-",
                "color": looks[i]["color"],
                "lw": 0.7,
                "shrinkA": 0,
                "shrinkB": 3,
            }
            if shift
            else None
        )
        ax.annotate(
            looks[i]["label"],
            (known[i], means[i]),
            (14 if shift else 7, shift),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=looks[i]["color"],
            fontweight="bold",
            arrowprops=leader,
        )
    return ax


# The welcome page's picture -------------------------------------------------------------------------------------------

NETWORK, GENERATOR, CRITIC, TIE = (
    "#3f6bd1",
    "#13875a",
    "#b85c13",
    "#c04a96",
)  # white text reads on the first three


@_styled
def method_picture():
    """The method in one picture, after Figures 1 and 3 of the paper: where replay enters, and the two phases."""
    figure = plt.figure(figsize=(4.8, 8.6), layout="none")
    ax = figure.add_axes((0, 0, 1, 1), xlim=(-2, 102), ylim=(-20, 166), aspect="equal")
    ax.axis("off")
    for y, title in (
        (162, "Two places for replay"),
        (104, "1   Learn task $t$: train $F$ and $H$"),
        (45.5, "2   Learn to replay it: train $G$ and $D$"),
    ):
        ax.text(0, y, title, fontsize=12.5, fontweight="bold", va="center")
    for y in (110, 51.5, -9):
        ax.plot([0, 100], [y, y], color=INK, lw=0.6, alpha=0.5)
    # left: replay of images; right: replay of features
    ax.text(0, 154.5, "Images", va="center", fontweight="bold")
    ax.text(54, 154.5, "Features: this paper", va="center", fontweight="bold")
    _image(ax, 6, 144.5)
    _image(ax, 6, 131.5, seed=5)
    sides = (
        (22, 138, 11, 33, 138, 6, 126, 15, "left", "draws whole\nimages: hard"),
        (
            74,
            144.5,
            20,
            84.5,
            131,
            84.5,
            124.8,
            76,
            "right",
            "makes short lists\nof numbers: easier",
        ),
    )
    for x, y, h, u, low, g, top, at, side, note in sides:
        _box(ax, x, y, "$F$", NETWORK, w=11, taper=2.5)
        _features(ax, u, y, NETWORK)
        _box(ax, u + 11, (y + low) / 2, "$H$", NETWORK, w=9, h=h)
        _box(ax, g, 116.5, "$G$", GENERATOR, w=11, h=8)
        _flow(ax, (x + 6, y), (u - 2, y), INK)
        _flow(ax, (u + 2, y), (u + 6, y), INK)
        _flow(ax, (g, 121), (g, top), GENERATOR)
        ax.text(at, 116.5, note, va="center", ha=side, fontsize=10)
    _flow(ax, (11.5, 144), (15.5, 141), INK)
    _flow(ax, (11.5, 132), (15.5, 135), GENERATOR)
    _image(ax, 60, 144.5)
    _flow(ax, (65.5, 144.5), (68, 144.5), INK)
    _features(ax, 84.5, 131, GENERATOR)
    _flow(ax, (86.5, 131), (90.5, 131), GENERATOR)
    source = {"color": GENERATOR, "ha": "center", "va": "center", "fontsize": 10}
    # phase 1: F_t and H_t learn, held by the frozen F_{t-1} and G_{t-1}
    _image(ax, 7, 85)
    for y, text, frozen in ((93.5, "$F_{t-1}$", True), (76.5, "$F_t$", False)):
        _flow(ax, (12.5, 85 + (y - 85) * 0.25), (21, 85 + (y - 85) * 0.8), INK)
        _box(ax, 29, y, text, NETWORK, frozen=frozen, taper=2.5)
        _features(ax, 47, y, NETWORK, nudge=frozen)
        _flow(ax, (37, y), (45, y), INK)
    _tie(ax, 47, 82.4, 87.6, "feature distillation")
    ax.text(7, 60, "$z$, old\nclasses", **source)
    _flow(ax, (15, 60), (21, 60), GENERATOR)
    _box(ax, 29, 60, "$G_{t-1}$", GENERATOR, frozen=True)
    _features(ax, 47, 60, GENERATOR)
    _flow(ax, (37, 60), (45, 60), GENERATOR)
    _judge(ax, 76.5, 60, "$H_t$", NETWORK, "old and\nnew\nclasses")
    # phase 2: G_t and D_t learn on the features of the frozen F_t, held by the frozen G_{t-1}
    _image(ax, 7, 34.5)
    _flow(ax, (12.5, 34.5), (21, 34.5), INK)
    _box(ax, 29, 34.5, "$F_t$", NETWORK, frozen=True, taper=2.5)
    _features(ax, 47, 34.5, NETWORK)
    _flow(ax, (37, 34.5), (45, 34.5), INK)
    ax.text(7, 9.5, "$z$,\nclasses", **source)
    for y, text, frozen in ((18, "$G_t$", False), (1, "$G_{t-1}$", True)):
        _flow(ax, (14, 9.5 + (y - 9.5) * 0.35), (21, 9.5 + (y - 9.5) * 0.85), GENERATOR)
        _box(ax, 29, y, text, GENERATOR, frozen=frozen)
        _features(ax, 47, y, GENERATOR, nudge=frozen)
        _flow(ax, (37, y), (45, y), GENERATOR)
    _tie(ax, 47, 6.9, 12.1, "replay alignment (old classes)")
    _judge(ax, 34.5, 18, "$D_t$", CRITIC, "real or\nreplayed?")
    # what the signs mean
    for x, text in ((7, "trained"), (37, "frozen copy"), (76, "held close")):
        ax.text(x + 2, -14.5, text, va="center", fontsize=10)
    _box(ax, 3, -14.5, "", INK, w=6, h=4)
    _box(ax, 33, -14.5, "", INK, w=6, h=4, frozen=True)
    _flow(ax, (67, -14.5), (75, -14.5), TIE, style="<|-|>")
    return figure


def _box(ax, x, y, text, color, *, frozen=False, w=15.0, h=11.0, taper=0.0):
    """A module centred at (x, y): filled where it is trained, a dashed outline where frozen; `taper` narrows it."""
    face = {
        "fc": "none" if frozen else color,
        "ec": color,
        "lw": 1.6,
        "ls": (0, (3, 1.6)) if frozen else "-",
    }
    if taper:
        corners = [
            (-w, -h - taper),
            (-w, h + taper),
            (w, h - 2 * taper),
            (w, -h + 2 * taper),
        ]
        ax.add_patch(
            Polygon(
                [(x + dx / 2, y + dy / 2) for dx, dy in corners],
                joinstyle="round",
                **face,
            )
        )
    else:
        ax.add_patch(
            FancyBboxPatch(
                (x - w / 2, y - h / 2),
                w,
                h,
                boxstyle="round,pad=0,rounding_size=1.5",
                **face,
            )
        )
    ax.text(
        x,
        y,
        text,
        ha="center",
        va="center",
        color=color if frozen else "white",
        fontsize=13,
    )


def _flow(ax, start, end, color, style="-|>"):
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle=style,
            mutation_scale=10,
            color=color,
            shrinkA=0,
            shrinkB=0,
            lw=1.4 if style == "-|>" else 2.2,
        )
    )


def _tie(ax, x, low, high, text):
    """The double arrow of a loss that holds two outputs close, with its name."""
    _flow(ax, (x, low), (x, high), TIE, "<|-|>")
    ax.text(
        x + 3,
        (low + high) / 2,
        text,
        color=TIE,
        va="center",
        fontsize=10,
        fontweight="bold",
    )


def _judge(ax, real, replayed, name, color, verdict):
    """A tall module that reads real and replayed features (at these heights), and what it says."""
    middle = (real + replayed) / 2
    _box(ax, 72, middle, name, color, w=13, h=real - replayed + 11)
    _flow(ax, (49, real), (65, real), INK)
    _flow(ax, (49, replayed), (65, replayed), GENERATOR)
    ax.text(57, real + 1.2, "$u$", ha="center", va="bottom", fontsize=11)
    ax.text(
        57,
        replayed + 1.2,
        r"$\hat{u}$",
        ha="center",
        va="bottom",
        fontsize=11,
        color=GENERATOR,
    )
    _flow(ax, (79, middle), (84, middle), INK)
    ax.text(85, middle, verdict, va="center", fontsize=10)


def _image(ax, x, y, *, seed=None):
    """A little picture of a digit, in pixels: a seven; with a seed, a four as a generator drew it."""
    seven, four = (
        (0, 126, 6, 12, 24, 48, 48, 0),
        (0, 12, 28, 52, 100, 126, 4, 4),
    )  # a row of eight pixels each
    value = 0.95 * np.unpackbits(
        np.uint8(seven if seed is None else four)[:, None], axis=1
    )
    color = INK if seed is None else GENERATOR
    if seed is not None:
        value = np.clip(
            value * 0.55 + 0.42 * np.random.RandomState(seed).rand(8, 8), 0, 1
        )
    for i, j in np.argwhere(value):
        ax.add_patch(
            Rectangle(
                (x + (j - 4) * 1.25, y + (3 - i) * 1.25),
                1.25,
                1.25,
                lw=0,
                fc=mpl.colors.to_rgba(color, value[i, j]),
            )
        )
    ax.add_patch(Rectangle((x - 5, y - 5), 10, 10, fill=False, ec=color, lw=1.2))


def _features(ax, x, y, color, *, nudge=False):
    """A feature vector: a column of shaded cells; with `nudge`, nearly the same one."""
    shades = (
        (0.75, 0.15, 0.95, 0.4, 0.05, 0.6)
        if color == NETWORK
        else (0.2, 0.85, 0.05, 0.5, 0.95, 0.3)
    )
    for k, shade in enumerate(shades):
        face = mpl.colors.to_rgba(
            color, np.clip(shade + (0.1 if k % 2 else -0.1) * nudge, 0, 1)
        )
        ax.add_patch(
            Rectangle((x - 1.5, y + 3.7 - 1.85 * k), 3, 1.85, fc=face, ec=color, lw=0.8)
        )


# Words and numbers beside a figure ------------------------------------------------------------------------------------


def command(config) -> str:
    """The command that makes the record of `config`: its preset, the closest row, and all fields that differ."""

    def differing(method):
        usual = make_config(config.preset, method)
        return {
            k: v
            for k, v in dataclasses.asdict(config).items()
            if v != getattr(usual, k) and k not in ("preset", "device", "threads")
        }

    method = min(METHODS, key=lambda name: len(differing(name)))
    words = [
        f"--{name.replace('_', '-')} "
        + shlex.quote(
            ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        )
        for name, value in differing(method).items()
    ]
    return " ".join(
        [f"python -m gfrlib run --preset {config.preset} --method {method}", *words]
    )


def not_run(
    missing: list, grid: str | None = None, commands: list | None = None
) -> Markdown:
    """What a figure lacks, by the methods' names or labels, with the command (a grid file, or commands) that runs it."""
    if not missing:
        return Markdown("Every run that belongs here is recorded.")
    lines = commands if grid is None else [f"python -m gfrlib grid {grid}"]
    return Markdown(
        f"**Not run yet:** {', '.join(look(m)['label'] for m in missing)}. What is missing can be run, and goes on "
        "where it was interrupted:\n\n```\n" + "\n".join(lines or ()) + "\n```"
    )


def table(records) -> pd.DataFrame:
    """One row per record and task: the curves (fractions of 1), and accuracy[t, k] as task_0, task_1, ..."""
    rows = [
        {
            "label": label,
            "preset": r.config.preset,
            "seed": r.config.seed,
            "after_task": t,
            "classes_seen": sum(r.task_sizes[: t + 1]),
            "class_weighted": r.curve[t],
            "mean_over_tasks": metrics.mean_over_tasks(r.accuracy)[t],
            "forgetting": metrics.forgetting(r.accuracy, r.task_sizes)[t],
            **{f"task_{k}": r.accuracy[t, k] for k in range(t + 1)},
        }
        for label, runs, _ in _groups(records)
        for r in runs
        for t in range(len(r.task_sizes))
    ]
    return pd.DataFrame(rows).round(5)


def csv(records=None, data=None) -> str:
    """`data` (a DataFrame, a dict of columns, or a list of rows as dicts) as CSV text, else the table of `records`."""
    return (table(records) if data is None else pd.DataFrame(data)).to_csv(
        index=False, lineterminator="\n"
    )


def provenance(
    records=None, data=None, *, name: str = "figure", note: str = ""
) -> HTML:
    """The line under a figure: what made it, when, where, by which code; folded in it the commands and the data as CSV.

    records: those that the figure shows; data: what is offered instead of their table (see `csv`), a must without
    records; name: the CSV's file name without its ending; note: one more phrase for the line.
    """
    runs = [r for _, group, _ in _groups(records or {}) for r in group]
    line = [f"Computed now, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}"]
    if runs:
        made = [r.provenance for r in runs]
        status = {r.status for r in runs}
        how = (
            "Computed now"
            if status == {"computed now"}
            else "Computed earlier by this code"
            if status <= {"computed now", "loaded"}
            else "Recorded"
        )
        dates = sorted({p["date"][:10] for p in made})
        seeds = sorted({r.config.seed for r in runs})
        commits = {
            p["commit"][:8] + ("+changes" if p["commit"].endswith("+changes") else "")
            for p in made
        }
        line = [
            f"{how}, {dates[0]}{f' to {dates[-1]}' if len(dates) > 1 else ''}",
            ", ".join(dict.fromkeys(look(r.config.method)["label"] for r in runs)),
            f"preset {', '.join(sorted({r.config.preset for r in runs}))}",
            f"seed {seeds[0]}"
            if len(seeds) == 1
            else f"seeds {', '.join(map(str, seeds))}",
            ", ".join(
                sorted(
                    {
                        f"{p['device']}, {p['threads']} thread{'s' * (p['threads'] != 1)}"
                        + (
                            f", {p['precision']}"
                            if p.get("precision", "float32") != "float32"
                            else ""
                        )
                        for p in made
                    }
                )
            ),
            f"code {', '.join(sorted(commits))}",
        ]
    summary = html.escape(" · ".join([*line, note] if note else line))
    commands = html.escape("\n".join(dict.fromkeys(command(r.config) for r in runs)))
    link = f"data:text/csv;charset=utf-8,{urllib.parse.quote(csv(records, data), safe=',.-_ ')}"
    return HTML(
        f'<details class="gfr-provenance" style="font-size:.85em"><summary>{summary}</summary>'
        + (f'<pre style="white-space:pre-wrap">{commands}</pre>' if runs else "")
        + f'<a href="{link}" download="{html.escape(name)}.csv">Data of this figure (CSV)</a></details>'
    )


def say(template: str, **numbers) -> Markdown:
    """A sentence whose numbers come from results: `say("GFR reaches {gfr}; a step takes {ms:.0f} ms.", gfr=r, ms=ms)`.

    Records become their final class-weighted accuracy in percent, with the standard deviation over seeds if there
    are several; a list of numbers its mean and deviation; anything else is formatted as the template says.
    """

    def word(x):
        several = list(x) if isinstance(x, (list, tuple, np.ndarray)) else [x]
        of_records = hasattr(several[0], "task_sizes")
        if several[0] is x and not of_records:
            return x
        return (
            claims.mean_and_spread(
                [100 * final(r) if of_records else r for r in several]
            )
            + " %" * of_records
        )

    return Markdown(template.format(**{k: word(x) for k, x in numbers.items()}))
