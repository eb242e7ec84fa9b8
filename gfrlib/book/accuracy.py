"""Figures of accuracy and forgetting, in percent; `looks` says what `records` are."""

import itertools

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from gfrlib import metrics
from gfrlib.book import claims, looks, results
from gfrlib.book.looks import BLUE, INK, NEW, OLD, styled
from gfrlib.config import UserError


@styled
def accuracy_curves(records, quantity: str = "accuracy", ax=None):
    """Class-weighted accuracy, or forgetting, over the number of classes seen.

    In percent: the mean of the seeds and their range. A method that has only the last
    row (joint training) becomes a horizontal line; "forgetting" leaves it out.
    Accuracies are drawn up to 100 %, or less high where all are below 50 %. Raises
    UserError for another quantity.
    """
    if quantity not in ("accuracy", "forgetting"):
        raise UserError(
            f"There is no curve of '{quantity}'; choose accuracy or forgetting."
        )
    ax, ends, ticks = looks.axes(ax), [], set()
    for _, runs, how in looks.groups(records):
        seen = np.cumsum(runs[0].task_sizes)
        only_last = bool(np.isnan(runs[0].curve[:-1]).any())
        if only_last and quantity == "forgetting":
            continue
        values = 100 * np.array([_curve(r, quantity) for r in runs])
        end = values[:, -1].mean()
        if only_last:
            ax.axhline(end, color=how["color"], linestyle=how["linestyle"], lw=1.4)
        else:
            ticks |= set(seen.tolist())
            looks.band(ax, seen, list(values.T), how, ms=5.5, clip_on=False, zorder=3)
        ends.append((seen[-1], end, f"{how['label']} {end:.0f}", how["color"]))
    ax.set_xticks(sorted(ticks)[:: -(-len(ticks) // 8) or 1])
    highest = max((np.nanmax(line.get_ydata()) for line in ax.lines), default=0)
    whole = quantity == "accuracy" and highest > 50
    ax.set_ylim(min(0, ax.get_ylim()[0]), 100 if whole else None)
    ax.set(xlabel="classes seen", title=f"{quantity.capitalize()}, class-weighted (%)")
    ax.grid(axis="y")
    looks.label_ends(ax, ends)
    return ax


def _curve(record, quantity: str) -> np.ndarray:
    if quantity == "accuracy":
        return record.curve
    return metrics.forgetting(record.accuracy, record.task_sizes)


@styled
def curves_by_split(panels: dict, quantity: str = "accuracy", *, height: float = 2.5):
    """{title: records}: `accuracy_curves` of several splits, one panel below another.

    All panels have the same axis of percent; height: of one, in inches. Splits without
    records are left out. Returns the Figure, or None where nothing is recorded.
    """
    panels = {title: records for title, records in panels.items() if records}
    if not panels:
        return None
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(5.2, height * len(panels)), squeeze=False
    )
    for ax, (title, records) in zip(axes.flat, panels.items(), strict=True):
        accuracy_curves(records, quantity, ax)
        ax.set_title(title)
    top = max(ax.get_ylim()[1] for ax in axes.flat)
    drawn = [line.get_ydata() for ax in axes.flat for line in ax.lines]
    highest = max(map(np.nanmax, drawn), default=0)
    for ax in axes.flat:
        ax.set_ylim(0, min(top, 10 * np.ceil(highest / 10 + 0.1)))
        ax.set_ylabel(f"{quantity} (%)")
    return figure


@styled
def lead_curves(records, over: str = "frozen", ax=None, *, ylim: tuple | None = None):
    """Points of accuracy above the row `over`, over the classes seen.

    Each seed is compared with the same seed of `over`; mean and range of the seeds. The
    line at 0 is `over`. A row that shares no seed with it is left out, and so is one
    that has only the last row of its matrix (joint training). `ylim` cuts the axis: a
    line that ends below it is left out, too. None without runs of `over`.
    """
    groups = looks.groups(records)
    lines = results.leads({name: runs for name, runs, _ in groups}, over)
    if over not in lines:
        return None
    ax, how_of = looks.axes(ax, height=3.8), {name: how for name, _, how in groups}
    zero, ends, seen = how_of[over], [], [x for x, _ in lines.pop(over)]
    ax.axhline(0, color=zero["color"], lw=1.8)
    for name, points in lines.items():
        how, end = how_of[name], float(np.mean(points[-1][1]))
        if ylim and end < ylim[0]:
            continue
        looks.band(ax, seen, [values for _, values in points], how, ms=5.5, zorder=3)
        text = f"{how['label']} {looks.signed(end)}"
        ends.append((seen[-1], end, text, how["color"]))
    if not ends:
        return None
    ends.append((seen[-1], 0, zero["label"], zero["color"]))
    ax.set_xticks(seen[:: -(-len(seen) // 8) or 1])
    ax.set(xlabel="classes seen", title=f"Points above {zero['label']}")
    ax.set_ylim(ylim)
    ax.grid(axis="y")
    looks.label_ends(ax, ends)
    return ax


@styled
def gain_over_drift(held: dict, over: str = "frozen", ax=None):
    """What a row gains on the row `over` from task 0 to the last, over the drift of F.

    In points of class-weighted accuracy: a lead that is there right after task 0 is the
    classifier's and does not count. Drift is that of task 0's features.
    held: {(scale, split): {row: runs}}, as `scales.moved` gives it. A mark for each row
    of each place, the mean of its seeds; `results.matched` says which seeds of `over`
    stand beside it. None where no place has both.
    """
    marks = []
    for (scale, split), found in held.items():
        for row, runs in found.items():
            if row != over and over in found:
                pair = results.matched(runs, found[over], results.gained)
                gain = claims.difference(*pair)
                drift = float(np.mean(results.drifted(runs)))
                # "photographs, 64 px" is long beside a mark
                place = f"{split}, {scale.split(',')[0]}" if scale != "slim" else split
                marks.append((row, drift, gain, place))
    if not marks:
        return None
    ax = looks.axes(ax, height=4.2)
    rows = dict.fromkeys(row for row, *_ in marks)
    how_of = dict(zip(rows, looks.looks_of(rows), strict=True))
    ax.axhline(0, color=INK, lw=1.2)
    for row, how in how_of.items():
        own = [mark for mark in marks if mark[0] == row]
        _, x, y, _ = zip(*own, strict=True)
        ax.plot(x, y, how["marker"], color=how["color"], label=how["label"], ms=7)
    ax.set_xscale("log")
    ticks = (2, 5, 10, 20, 50)
    ax.set_xticks(ticks, [f"{x} %" for x in ticks])
    ax.minorticks_off()
    ax.margins(0.12)
    ax.set(
        xlabel="how far the features of task 0 have moved, of their length",
        title=f"Points gained on {looks.look(over)['label']} since task 0",
    )
    ax.grid(axis="y")
    ax.legend(loc="lower left", frameon=False)
    named = [{"label": m[-1], "color": how_of[m[0]]["color"]} for m in marks]
    looks.label_points(ax, [m[1] for m in marks], [m[2] for m in marks], named)
    return ax


@styled
def accuracy_vs(
    series: dict,
    xlabel: str,
    ylabel: str = "Accuracy after the last task (%)",
    ax=None,
    *,
    log=False,
    log_y=False,
    ylim: tuple | None = None,
    ticks=None,
):
    """{label: [(x, y or list of y, one per seed), ...]}: lines, and the seeds' range.

    y is drawn as given; log, log_y: logarithmic axes; ticks: the only numbers that
    stand at the x axis.
    """
    ax, ends = looks.axes(ax), []
    if log_y:  # before the labels are placed
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    for points, how in zip(series.values(), looks.looks_of(series), strict=True):
        x = [p[0] for p in points]
        values = [np.atleast_1d(np.asarray(p[1], dtype=float)) for p in points]
        last = looks.band(ax, x, values, how)
        ends.append((x[-1], last, how["label"], how["color"]))
    if log:
        ax.set_xscale("log")
    if ticks is not None:
        ax.set_xticks(list(ticks), [str(x) for x in ticks])
        ax.minorticks_off()
    ax.set(xlabel=xlabel, title=ylabel, **({} if ylim is None else {"ylim": ylim}))
    ax.grid(axis="y")
    looks.label_ends(ax, ends)
    return ax


@styled
def accuracy_matrix(record, ax=None, *, rule: str | None = None):
    """Heat map of accuracy[t, k] in percent: row = after task t, column = task k.

    rule: another prediction rule than the run's own.
    """
    matrix = 100 * (record.accuracy if rule is None else record.rule(rule))
    steps, small = len(matrix), len(matrix) <= 11
    height, width = min(4.6, 1.3 + 0.42 * steps), min(5.2, 2.2 + 0.5 * steps)
    ax = looks.axes(ax, height=height, width=width)
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
    label = looks.look(record.config.method)["label"]
    ax.set(xlabel="test images of task", ylabel="after task")
    ax.set_title(f"{label}: accuracy (%)")
    return ax


@styled
def accuracy_matrices(records):
    """`accuracy_matrix` of the first seed of each row, side by side; None without."""
    runs = [some[0] for _, some, _ in looks.groups(records)]
    if not runs:
        return None
    figure, grid = looks.panels(len(runs), height=2.5)
    for ax, run in zip(grid, runs):
        accuracy_matrix(run, ax)
        ax.set_title(looks.look(run.config.method)["label"] + " (%)")
    for ax in grid[1:2]:
        ax.set_ylabel("")
    return figure


def seen_and_called(record, t: int, classes: int) -> np.ndarray:
    """int [classes, C] after task t: what images of each class seen are called.

    C is `classes`, or more where a full head has answered with a later task's class.
    """
    found = record.predictions[t]
    every = max(classes, int(np.max(found)) + 1)
    return metrics.confusion(found, record.labels(t), every)[:classes]


@styled
def confusion_matrix(record, ax=None, *, t: int | None = None):
    """Heat map after task t (default: the last): what images of each class are called.

    Row: the true class; column: the share of its test images answered with that class.
    """
    t = len(record.task_sizes) - 1 if t is None else t
    classes = sum(record.task_sizes[: t + 1])
    counts = seen_and_called(record, t, classes)
    ax = looks.axes(ax, height=3.9, width=4.6)
    sns.heatmap(
        (counts / counts.sum(1, keepdims=True))[:, :classes],
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
    ax.set(xlabel="answered with a class of task", ylabel="image of a class of task")
    ax.set_title(looks.look(record.config.method)["label"])
    return ax


@styled
def bars(
    values: dict,
    unit: str = "%",
    title: str = "",
    ax=None,
    *,
    digits: int = 1,
    color: str | None = None,
):
    """Horizontal bars of {label: number, or a list, one per seed}: mean and dots.

    color: that of all bars; by default every label has its own.
    """
    ax = looks.axes(ax, height=0.95 + 0.4 * len(values))
    named = looks.looks_of(values)
    for i, numbers in enumerate(values.values()):
        numbers = np.atleast_1d(np.asarray(numbers, dtype=float))
        text = f"{numbers.mean():.{digits}f}"
        looks.bar(ax, i, numbers, color or named[i]["color"], text)
    looks.rows(ax, named)
    ax.set_xlim(0, 100 if unit == "%" else ax.get_xlim()[1] * 1.08)
    ax.set(xlabel=unit, title=title)
    return ax


def final_bars(records, ax=None, *, rule: str | None = None):
    """Bars of the class-weighted accuracy after the last task: mean, a dot per seed."""
    of = {label: results.last(runs, rule) for label, runs, _ in looks.groups(records)}
    return bars(of, title="Accuracy after the last task, class-weighted", ax=ax)


@styled
def old_new_bars(records, ax=None, *, t: int | None = None):
    """After task t (default: the last): accuracy on old classes beside its own."""
    groups = looks.groups(records)
    ax = looks.axes(ax, height=1.1 + 0.55 * len(groups))
    for i, (_, runs, _) in enumerate(groups):
        pairs = np.array([results.old_new(r, t) for r in runs])
        for j, (name, color) in enumerate((("old classes", OLD), ("new classes", NEW))):
            values, label = pairs[:, j], name if i == 0 else None
            y, text = i + 0.38 * (j - 0.5), f"{values.mean():.0f}"
            looks.bar(ax, y, values, color, text, height=0.35, label=label)
    ax.set(xlim=(0, 100), xlabel="%")
    looks.rows(ax, [how for _, _, how in groups], legend="Accuracy on")
    return ax


# of wrong answers (`results.mistaken`), and their colours
KINDS = ("own task", "older task", "newer task"), (INK, OLD, NEW)


@styled
def error_bars(records, ax=None):
    """Wrong answers after the last task, in percent of the test images.

    A wrong answer is a class of the image's own task, of an older one, or of a newer
    one (`results.mistaken`); means over seeds. A part's number stands in it, where it
    is wide enough, and their sum at the end.
    """
    groups = looks.groups(records)
    ax = looks.axes(ax, height=1.3 + 0.4 * len(groups))
    for i, (_, runs, _) in enumerate(groups):
        wrong = np.mean([results.mistaken(run) for run in runs], axis=0)
        ends = np.cumsum(wrong)
        for share, end, kind, color in zip(wrong, ends, *KINDS, strict=True):
            label, fill = kind if i == 0 else None, looks.readable(color)
            ax.barh(i, share, 0.7, left=end - share, color=fill, label=label)
            if share >= 4:
                how = {"color": "white", "fontsize": looks.SMALL}
                at = end - share / 2, i
                ax.text(*at, f"{share:.0f}", ha="center", va="center", **how)
        looks.write_beside(ax, ends[-1], i, f"{ends[-1]:.0f}", 5)
    ax.set(xlim=(0, 100), xlabel="wrong, percent of the test images")
    looks.rows(ax, [how for _, _, how in groups], legend="Wrong: a class of its …")
    return ax


@styled
def effects(
    changes: dict,
    ax=None,
    *,
    spread: dict | None = None,
    limit: float | None = None,
    xlabel: str = "change of the accuracy after the last task (points)",
):
    """What changes of a setting do: {label: differences in points, one per seed}.

    The line at 0 is "nothing changes". Every row has a bar of the mean, a dot per seed
    where there are several, and the mean in figures. `spread` {label: points} draws a
    grey band of that half-width around 0: what unchanged runs differ by among
    themselves. `limit` cuts the axis at that many points either way: a bar that goes
    beyond ends in an arrow.
    """
    ax = looks.axes(ax, height=1.1 + 0.36 * len(changes), width=5.2)
    for i, (label, values) in enumerate(changes.items()):
        half, mean = (spread or {}).get(label, 0.0), float(np.mean(values))
        ax.barh(i, 2 * half, 0.86, left=-half, color=INK, alpha=0.22)
        reach = mean if limit is None else float(np.clip(mean, -limit, limit))
        ax.barh(i, reach, 0.46, color=BLUE)
        inside = [v for v in values if limit is None or abs(v) <= limit]
        if len(values) > 1:
            looks.seed_dots(ax, inside, i)
        if reach != mean:
            ax.plot(reach, i, "<" if mean < 0 else ">", color=BLUE, ms=12)
        ax.annotate(
            looks.signed(mean),
            (1.02, i),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=looks.SMALL,
        )
    ax.axvline(0, color=INK, lw=1)
    looks.rows(ax, [{"label": label} for label in changes])
    if limit is not None:
        ax.set_xlim(-1.15 * limit, 1.15 * limit)
    ax.set_xlabel(xlabel)
    return ax


@styled
def two_sizes(at: dict, ax=None):
    """{preset: {row: its runs}} of two presets: last accuracies, a line a system.

    The first preset's mark is full, the second's hollow; a line joins them.
    """
    large, small = at
    names = list(dict.fromkeys(row for found in at.values() for row in found))
    ax, named = looks.axes(ax, height=1.2 + 0.36 * len(names)), looks.looks_of(names)
    for i, (name, how) in enumerate(zip(names, named, strict=True)):
        ends = {
            preset: float(np.mean(results.last(found[name])))
            for preset, found in at.items()
            if name in found
        }
        ax.plot(list(ends.values()), [i] * len(ends), color=how["color"], lw=1.4)
        for preset, end in ends.items():
            face = how["color"] if preset == large else "none"
            size = 7 if preset == large else 10  # so that both are seen where they meet
            mark = {"color": how["color"], "mfc": face, "mew": 1.6, "ms": size}
            ax.plot([end], [i], "o", clip_on=False, **mark)
    looks.rows(ax, named)
    ax.set(xlim=(0, 100), xlabel="%")
    ax.set_title(f"Last accuracy: {large} full, {small} hollow")
    return ax
