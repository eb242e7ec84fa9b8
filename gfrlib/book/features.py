"""Figures of features and images: real ones, and those that are replayed."""

import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from gfrlib.book import looks
from gfrlib.book.drift_film import CROSSES, window_of
from gfrlib.book.looks import INK, REAL, SMALL, TASK_COLORS, styled
from gfrlib.config import UserError
from gfrlib.lab import analyses

# Features -----------------------------------------------------------------------------


@styled
def projection(panels: dict):
    """Points in the plane, after the paper's Figure 7: a Figure with a panel each.

    panels: {label: {"real": [N, 2], "replayed": [M, 2]}}. Entries of a record's
    analysis["projection"] fit; with "real_class", class numbers stand at the medians of
    the real features.
    """
    figure, grid = looks.panels(len(panels), 2.75)
    named = looks.looks_of(panels)
    for ax, entry, how in zip(grid, panels.values(), named, strict=True):
        real, new = (np.asarray(entry[k], dtype=float) for k in ("real", "replayed"))
        many = len(real) > 1500
        ax.scatter(*real.T, s=10, color=REAL, alpha=0.7, lw=0, rasterized=many)
        ax.scatter(
            *new.T,
            s=11,
            marker="x",
            color=how["color"],
            alpha=0.85,
            lw=0.9,
            rasterized=many,
        )
        _class_numbers(ax, real, entry.get("real_class", ()))
        ax.set_title(how["label"], color=how["color"])
        ax.set(xticks=[], yticks=[])
        sns.despine(ax=ax, left=True, bottom=True)
    key = {"ls": "", "ms": 5, "color": INK}
    circle = mpl.lines.Line2D([], [], marker="o", mew=0, **key)
    cross = mpl.lines.Line2D([], [], marker="x", mew=1, **key)
    words = ["real features (grey)", "replayed (coloured)"]
    figure.legend([circle, cross], words, loc="outside upper left", ncols=2)
    return figure


def points(panels: dict) -> list[dict]:
    """The points of `projection` as rows, for `words.show(..., data=points(panels))`.

    Columns panel, kind (real, replayed), class where it is known, x, y.
    """
    rows = []
    for panel, entry in panels.items():
        for kind in ("real", "replayed"):
            plane, classes = entry[kind], entry.get(f"{kind}_class")
            for i, (x, y) in enumerate(plane):
                known = {} if classes is None else {"class": classes[i]}
                rows.append({"panel": panel, "kind": kind, **known, "x": x, "y": y})
    return rows


def _class_numbers(ax, points: np.ndarray, classes) -> None:
    """Each class's number at the median of its points."""
    box = {"boxstyle": "circle,pad=0.15", "fc": "#4a4a4a", "ec": "none", "alpha": 0.85}
    for c in sorted(set(classes)):
        x, y = np.median(points[np.asarray(classes) == c], axis=0)
        ax.text(
            x,
            y,
            f"{c}",
            ha="center",
            va="center",
            fontsize=SMALL,
            fontweight="bold",
            color="white",
            bbox=box,
        )


# Images -------------------------------------------------------------------------------


@styled
def sample_sheet(record, *, classes: int = 4, samples: int = 3):
    """Real test images beside what the image generator replays for their classes.

    The first `classes` rows and `samples` columns of what is recorded, early and late,
    read from the PNG beside the record. Returns the Figure. Raises UserError where
    there is none, or a damaged one.
    """
    analysis = record.analysis or {}
    about = analysis.get("samples")
    content = analyses.sheet(record.path, analysis) if about else None
    if content is None:
        raise UserError(
            f"The record '{record.name}' has no sheet of images: "
            "only replay at cut 0 leaves one."
        )
    names, kinds, columns = about["classes"], about["kinds"], about["columns"]
    sheets = np.split(plt.imread(io.BytesIO(content)), len(kinds), axis=1)
    high, wide = (len(sheets[0]) // len(names), sheets[0].shape[1] // columns)
    names, columns = names[:classes], min(samples, columns)
    sheets = [s[: high * len(names), : wide * columns] for s in sheets]
    parts = [_spaced(sheet, len(names), columns) for sheet in sheets]
    high, wide = parts[0].shape[:2]
    size = (5.2, 0.6 + 5.2 / len(kinds) * high / wide)
    figure, axes = plt.subplots(1, len(kinds), figsize=size, squeeze=False)
    for ax, part, kind in zip(axes.flat, parts, kinds, strict=True):
        ax.imshow(part, interpolation="none")
        ax.set_title(kind.replace("replayed after", "replayed,\nafter"), fontsize=SMALL)
        ax.set(xticks=[], yticks=[])
        sns.despine(ax=ax, left=True, bottom=True)
    middles = (np.arange(len(names)) + 0.5) * high / len(names)
    axes[0, 0].set_yticks(middles, [name.replace("_", "\n") for name in names])
    axes[0, 0].tick_params(length=0)
    return figure


def _spaced(sheet: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A grid of images [H, W(, 3)] as RGBA with clear gaps between them."""
    rgb = sheet[..., :3] if sheet.ndim == 3 else np.repeat(sheet[..., None], 3, axis=2)
    cells = rgb.reshape(rows, len(rgb) // rows, columns, rgb.shape[1] // columns, 3)
    gap = max(1, cells.shape[1] // 12)
    opaque = np.concatenate([cells, np.ones_like(cells[..., :1])], axis=-1)
    padded = np.pad(opaque, ((0, 0), (0, gap), (0, 0), (0, gap), (0, 0)))
    return padded.reshape(rows * padded.shape[1], columns * padded.shape[3], 4)


# Two dimensions -----------------------------------------------------------------------

PIECES = {
    "Neither guard": "free none",
    "Distillation alone": "held none",
    "Replay alone": "free gaussian",
    "Both": "held gaussian",
}


@styled
def planes(films: dict, names: list[str]):
    """The last look of four films of drift (drift_film.films), a panel each.

    The ground is what H answers, letters are test images, crosses what is replayed.
    names: of the classes. Returns the Figure.
    """
    left, bottom, side = window_of(films)
    edges = (left, left + side, bottom, bottom + side)
    figure, axes = plt.subplots(2, 2, figsize=(5.2, 5.6))
    for ax, (title, name) in zip(axes.flat, PIECES.items(), strict=True):
        look = films[name][-1]
        ax.imshow(
            _answers(look.head, edges), extent=edges, origin="lower", aspect="auto"
        )
        for c in range(len(look.accuracy)):
            color = TASK_COLORS[c]
            for x, y in np.clip(look.points[look.labels == c], edges[::2], edges[1::2]):
                ax.text(
                    x,
                    y,
                    names[c],
                    color=looks.readable(color),
                    ha="center",
                    va="center",
                    size=SMALL,
                )
        if look.replayed is not None:
            old = np.repeat(range(len(look.replayed) // CROSSES), CROSSES)
            ax.scatter(
                *np.clip(look.replayed, edges[::2], edges[1::2]).T,
                marker="x",
                s=16,
                lw=1,
                color=[TASK_COLORS[c] for c in old],
            )
        ax.set_title(f"{title}: {np.mean(look.accuracy):.0f} %")
        ax.set(xticks=[], yticks=[], xlim=edges[:2], ylim=edges[2:])
    return figure


def _answers(head, edges: tuple) -> np.ndarray:
    """RGBA [cells, cells, 4]: the class that H answers with, in its pale colour."""
    x, y = (np.linspace(*ends, 160) for ends in (edges[:2], edges[2:]))
    u = np.stack([*np.meshgrid(x, y), np.ones((160, 160))], axis=-1)
    best = (u @ np.asarray(head).T).argmax(-1)
    return np.array([mpl.colors.to_rgba(color, 0.2) for color in TASK_COLORS])[best]
