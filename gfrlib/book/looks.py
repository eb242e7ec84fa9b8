"""The look of all figures: colours and marks of every method, and what figures share.

One style reads on white and on dark pages. `records` is always one Record, a list of
them (grouped by method), or {label: Record or list}: a list under one label is its
seeds.
"""

import functools

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython

# Text and axes: contrast 4.5 on white. No grey has that on the dark theme's #14181e,
# too: there the style sheet makes figures lighter (css/gfr.css).
INK = "#767676"
SMALL = 10.2  # points of the smallest text: 9 pixels where a telephone shrinks a figure
# contrast of 3 or more on white and on dark
RED, ORANGE, MAUVE, GREEN, BLUE = "#ce2740", "#c4660f", "#c35dab", "#1ca86c", "#4b7df0"
OLIVE, TEAL, BROWN, VIOLET = "#8a7a1c", "#1795a3", "#9c6b4e", "#8e6bd8"
# by turns: neighbouring tasks differ
TASK_COLORS = (BLUE, ORANGE, "#16955f", MAUVE, OLIVE, TEAL)
OLD, NEW, REAL = BLUE, ORANGE, INK  # old and new classes; real features

# the same figure is the same file, whoever saves it
mpl.rcParams["svg.hashsalt"] = "gfr"

# One look per method in all figures: label, colour, marker, line. The six rows of the
# first chapters have colours that every kind of sight tells apart.
LOOKS = {
    "finetune": ("Fine-tuning", RED, "v", "-"),
    "joint": ("Joint training", INK, "D", (0, (5, 2))),
    "lwf": ("LwF", ORANGE, "s", "-"),
    "frozen": ("Frozen F", MAUVE, "P", "-"),
    "gfr-gaussian": ("GFR, Gaussians", GREEN, "^", "-"),
    "gfr-gaussian-full": ("GFR, whole covariances", OLIVE, "s", "-"),
    "gfr-mixture": ("GFR, mixtures", TEAL, "p", "-"),
    "gfr": ("GFR, GAN", BLUE, "o", "-"),
    "gfr-flow": ("GFR, flow", VIOLET, "d", "-"),
    "gfr-flow, midpoint": ("GFR, flow, midpoint", VIOLET, "D", "--"),
    "ewc": ("EWC", VIOLET, "X", "--"),
    "mas": ("MAS", BROWN, "d", ":"),
    "icarl-cnn": ("iCaRL-CNN", TEAL, "<", "--"),
    "icarl-nme": ("iCaRL-NME", TEAL, ">", "-"),
    "lucir": ("Rebalance", BROWN, "h", "-"),
    "mergan": ("Image replay", TEAL, "*", "-"),
    "block-1": ("Replay at block 1", OLIVE, "<", ":"),
    "block-2": ("Replay at block 2", OLIVE, "^", "--"),
    "block-3": ("Replay at block 3", OLIVE, ">", "-"),
    "none+none": ("no guard", INK, "v", "--"),
    "none+gaussian": ("replay only", RED, "v", ":"),
    "features+none": ("distillation only", BLUE, "s", ":"),
    "frozen+gaussian": ("frozen F, same memory", MAUVE, "P", ":"),
    "none+gan": ("no penalty + GAN", RED, "v", "--"),
    "ewc-gan": ("EWC + GAN", VIOLET, "X", ":"),
    "mas-gan": ("MAS + GAN", BROWN, "d", "--"),
    "distillation + GAN": ("distillation + GAN", BLUE, "s", "-"),
    "frozen+gan": ("frozen F + GAN", MAUVE, "P", "--"),
    "fetril": ("FeTrIL", MAUVE, "<", "--"),
    "fecam": ("FeCAM", MAUVE, ">", ":"),
    "gfr-drift": ("GFR, GAN, drift", BLUE, "p", "--"),
    "gfr-squared": ("GFR, squared distance", OLIVE, "D", "-"),
    "gfr-gaussian-drift": ("GFR, Gaussians, drift", GREEN, "p", "--"),
}
SPARE = [
    (TEAL, "h", "--"),
    (BROWN, "p", "-"),
    (OLIVE, "X", ":"),
    (MAUVE, "d", "-."),
    (RED, "<", "--"),
    (GREEN, ">", "-."),
    (ORANGE, "s", "--"),
    (BLUE, "D", ":"),
]

_CLEAR = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
_GREY = (
    *("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor"),
    *("xtick.color", "ytick.color", "grid.color", "legend.labelcolor"),
)
_RC = {
    **dict.fromkeys(_CLEAR, "none"),
    **dict.fromkeys(_GREY, INK),
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 10.5),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), SMALL),
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


# The style ----------------------------------------------------------------------------


def style() -> None:
    """The book's look for all figures that follow; in a notebook they are SVG."""
    mpl.rcParams.update(_RC)
    if get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})


def styled(draw):
    """The function, drawing in the book's look whether or not `style` was called.

    Of nothing (empty records, an empty dict) it draws nothing, and returns None.
    """

    @functools.wraps(draw)
    def drawn(*args, **kwargs):
        if args and hasattr(args[0], "__len__") and not len(args[0]):
            return None
        with mpl.rc_context(_RC):
            return draw(*args, **kwargs)

    return drawn


# Looks of methods ---------------------------------------------------------------------


def look(name: str, taken: tuple = ()) -> dict:
    """{label, color, marker, linestyle} of a method's name or label.

    Another name gets a spare look whose colour is not among `taken`.
    """
    row = LOOKS.get(name)
    row = row or next((row for row in LOOKS.values() if row[0] == name), None)
    if row is None:
        free = next((spare for spare in SPARE if spare[0] not in taken), None)
        row = (name, *(free or SPARE[len(taken) % len(SPARE)]))
    return dict(zip(("label", "color", "marker", "linestyle"), row, strict=True))


def looks_of(labels) -> list[dict]:
    """The looks of several labels, in their order."""
    looks: list[dict] = []
    for label in labels:
        looks.append(look(label, tuple(how["color"] for how in looks)))
    return looks


def groups(records) -> list[tuple[str, list, dict]]:
    """[(label, its Records, its look), ...] from all that counts as `records`."""
    found: dict[str, list] = {}
    if hasattr(records, "keys"):
        for label, some in records.items():
            found[label] = list(some) if isinstance(some, (list, tuple)) else [some]
    else:
        for record in records if isinstance(records, (list, tuple)) else [records]:
            found.setdefault(record.config.method, []).append(record)
    return list(zip(found, found.values(), looks_of(found), strict=True))


# Contrast -----------------------------------------------------------------------------


def contrast(one, other) -> float:
    """The contrast of two colours after WCAG 2: 1 (the same) to 21 (black on white)."""

    def luminance(color):
        parts = np.array(mpl.colors.to_rgb(color))
        low, high = parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4
        linear = np.where(parts <= 0.04045, low, high)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


@functools.cache
def readable(color: str) -> str:
    """The colour as one of text: darker until its contrast on white is 4.5."""
    parts = np.array(mpl.colors.to_rgb(color))
    while contrast(parts, "white") < 4.5:
        parts = parts * 0.98
    return mpl.colors.to_hex(np.floor(255 * parts) / 255)


# Parts of figures ---------------------------------------------------------------------


def axes(ax, height: float = 3.3, width: float = 5.2):
    """`ax`, or the axes of a new figure of that size in inches."""
    return plt.subplots(figsize=(width, height))[1] if ax is None else ax


def panels(count: int, height: float) -> tuple:
    """(Figure, its axes): up to two columns, each panel `height` inches high."""
    lines, columns = -(-count // 2), min(2, count)
    size = (5.2, 0.45 + height * lines)
    figure, grid = plt.subplots(lines, columns, figsize=size, squeeze=False)
    for ax in grid.flat[count:]:
        ax.set_visible(False)
    return figure, grid.flat[:count]


def band(ax, x, values: list, how: dict, **line) -> float:
    """A line through the means of `values` (one array a point), their range shaded.

    Returns the last mean.
    """
    mean = [np.mean(v) for v in values]
    kind = {k: how[k] for k in ("color", "marker", "linestyle")}
    ax.plot(x, mean, **kind, **line)
    low, high = [np.min(v) for v in values], [np.max(v) for v in values]
    ax.fill_between(x, low, high, color=how["color"], alpha=0.22, lw=0)
    return mean[-1]


def leader(color: str, shrink: tuple[float, float]) -> dict:
    """A thin line from a label to what it names; `shrink`: points off its ends."""
    return {
        "arrowstyle": "-",
        "color": color,
        "lw": 0.7,
        "shrinkA": shrink[0],
        "shrinkB": shrink[1],
    }


def label_ends(ax, ends: list) -> None:
    """Write (x, y, text, color) right of line ends, moved apart, with leaders."""
    # height of a line of text, in fractions of the axes
    place = ax.get_subplotspec()
    panels = place.get_gridspec().nrows if place else 1
    gap = 13 / 72 / (ax.figure.get_figheight() / panels * 0.72)
    to_axes = ax.transData + ax.transAxes.inverted()
    clusters: list = []  # (centre, members): merged while they overlap
    for end in sorted((e for e in ends if not np.isnan(e[1])), key=lambda e: e[1]):
        clusters.append((to_axes.transform(end[:2])[1], [end]))
        while len(clusters) > 1:
            (a, some), (b, more) = clusters[-2:]
            if b - a >= gap * (len(some) + len(more)) / 2:
                break
            centre = (a * len(some) + b * len(more)) / (len(some) + len(more))
            clusters[-2:] = [(centre, some + more)]
    for centre, members in clusters:
        for i, (x, y, text, color) in enumerate(members):
            ax.annotate(
                text,
                (x, y),
                (1.05, centre + gap * (i - (len(members) - 1) / 2)),
                textcoords="axes fraction",
                color=readable(color),
                va="center",
                fontweight="bold",
                fontsize=SMALL,
                annotation_clip=False,
                # from the text's left edge: towards its middle it crosses neighbours
                arrowprops={**leader(color, (1, 4)), "relpos": (0, 0.5)},
            )


# Where a label may stand: points right of its mark, points above it, its alignment
BESIDE = ((8, 0, "left"), (-8, 0, "right"), (0, 11, "center"), (0, -11, "center"))
FURTHER = tuple(
    (dx, dy, side)
    for dy in (13, -13, 24, -24, 36, -36)
    for dx, side in ((10, "left"), (-10, "right"))
)


def label_points(ax, x: list, y: list, named: list) -> None:
    """A label beside each mark: the nearest place that covers no mark and no label.

    One that stands further off has a thin line to its mark.
    """
    ax.figure.canvas.draw()  # so that the axes have their final place
    scale = 72 / ax.figure.dpi
    marks = [ax.transData.transform(at) * scale for at in zip(x, y, strict=True)]
    left, right = (edge * scale for edge in ax.bbox.intervalx)
    taken = [(a - 4, a + 4, b - 4, b + 4) for a, b in marks]

    def box(i, dx, dy, side):
        """(left, right, bottom, top) of the label of mark i, in points."""
        wide = 6.3 * len(named[i]["label"])
        start = marks[i][0] + dx - {"left": 0, "center": wide / 2, "right": wide}[side]
        middle = marks[i][1] + dy
        return start, start + wide, middle - 5.5, middle + 5.5

    def free(at):
        inside = at[0] > left and at[1] < right + 8
        return inside and not any(
            at[0] < b[1] and b[0] < at[1] and at[2] < b[3] and b[2] < at[3]
            for b in taken
        )

    for i in np.argsort(y)[::-1]:
        places = [(place, box(i, *place)) for place in (*BESIDE, *FURTHER)]
        place, at = next((p for p in places if free(p[1])), places[0])
        taken.append(at)
        color = named[i]["color"]
        ax.annotate(
            named[i]["label"],
            (x[i], y[i]),
            place[:2],
            textcoords="offset points",
            ha=place[2],
            va="center",
            fontsize=SMALL,
            color=readable(color),
            fontweight="bold",
            arrowprops=leader(color, (0, 3)) if place in FURTHER else None,
        )


def rows(ax, looks: list, legend: str = "") -> None:
    """Named rows from top to bottom with a vertical grid.

    `legend` is a title, with the legend on a line below it.
    """
    ax.set_yticks(range(len(looks)), [how["label"] for how in looks])
    ax.set_ylim(len(looks) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")
    ax.set_axisbelow(True)
    if legend:
        ax.set_title(legend, pad=22)  # above the legend: both need a line of their own
        ax.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=3,
            borderaxespad=0.2,
            handlelength=1,
            columnspacing=1,
        )


def seed_dots(ax, values, y: float) -> None:
    """A white dot for every value, at the height `y`."""
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


def bar(ax, y: float, values, color: str, text: str, **more) -> None:
    """A bar of the values' mean with `text` at its end; dots if there are several."""
    ax.barh(y, np.mean(values), **{"height": 0.66, **more}, color=color)
    if len(values) > 1:
        seed_dots(ax, values, y)
    write_beside(ax, max(0, *values), y, text, 8)


def signed(points: float) -> str:
    """Points with one digit and their sign: the minus is that of the axes."""
    # + 0.0 turns -0.0 into 0.0
    return f"{round(points, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")


def write_beside(ax, x: float, y: float, text: str, points: float) -> None:
    """A word that many points to the right of (x, y)."""
    ax.annotate(
        text,
        (x, y),
        (points, 0),
        textcoords="offset points",
        va="center",
        fontsize=SMALL,
    )
