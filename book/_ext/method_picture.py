"""The welcome page's picture of the method, drawn in the look of the book's figures."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from gfrlib.book.looks import INK, styled

# white text reads on the first three, lighter as they are on dark pages, too
NETWORK, GENERATOR, CRITIC, TIE = "#355ab0", "#0f6c48", "#93490f", "#c04a96"
# pictures of eight pixels a side, a row of bits each
SEVEN = (0, 126, 6, 12, 24, 48, 48, 0)
FOUR = (0, 12, 28, 52, 100, 126, 4, 4)
SHADES = {
    NETWORK: (0.75, 0.15, 0.95, 0.4, 0.05, 0.6),
    GENERATOR: (0.2, 0.85, 0.05, 0.5, 0.95, 0.3),
}
SMALL = {"va": "center", "fontsize": 10}


@styled
def method_picture():
    """The method in one picture, after Figures 1 and 3 of the paper.

    Where replay enters, and the two phases of a task. Returns the Figure.
    """
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
    _replay_of_images(ax)
    _replay_of_features(ax)
    _phase_1(ax)
    _phase_2(ax)
    _legend(ax)
    return figure


# The parts, from top to bottom --------------------------------------------------------


def _replay_of_images(ax) -> None:
    """Left: the generator draws whole images, which the whole network sees."""
    ax.text(0, 154.5, "Images", va="center", fontweight="bold")
    _image(ax, 6, 144.5)
    _image(ax, 6, 131.5, seed=5)
    _flow(ax, (11.5, 144), (15.5, 141), INK)
    _flow(ax, (11.5, 132), (15.5, 135), GENERATOR)
    _box(ax, 22, 138, "$F$", NETWORK, w=11, taper=2.5)
    _features(ax, 33, 138, NETWORK)
    _box(ax, 44, 138, "$H$", NETWORK, w=9, h=11)
    _box(ax, 6, 116.5, "$G$", GENERATOR, w=11, h=8)
    _flow(ax, (28, 138), (31, 138), INK)
    _flow(ax, (35, 138), (39, 138), INK)
    _flow(ax, (6, 121), (6, 126), GENERATOR)
    ax.text(15, 116.5, "draws whole\nimages: hard", ha="left", **SMALL)


def _replay_of_features(ax) -> None:
    """Right: the generator makes features, which only the classifier sees."""
    ax.text(54, 154.5, "Features: this paper", va="center", fontweight="bold")
    _image(ax, 60, 144.5)
    _flow(ax, (65.5, 144.5), (68, 144.5), INK)
    _box(ax, 74, 144.5, "$F$", NETWORK, w=11, taper=2.5)
    _features(ax, 84.5, 144.5, NETWORK)
    _features(ax, 84.5, 131, GENERATOR)
    _box(ax, 95.5, 137.75, "$H$", NETWORK, w=9, h=20)
    _box(ax, 84.5, 116.5, "$G$", GENERATOR, w=11, h=8)
    _flow(ax, (80, 144.5), (82.5, 144.5), INK)
    _flow(ax, (86.5, 144.5), (90.5, 144.5), INK)
    _flow(ax, (84.5, 121), (84.5, 124.8), GENERATOR)
    _flow(ax, (86.5, 131), (90.5, 131), GENERATOR)
    ax.text(76, 116.5, "makes short lists\nof numbers: easier", ha="right", **SMALL)


def _phase_1(ax) -> None:
    """F_t and H_t learn, held by the frozen F_{t-1} and G_{t-1}."""
    _image(ax, 7, 85)
    for y, text, frozen in ((93.5, "$F_{t-1}$", True), (76.5, "$F_t$", False)):
        _flow(ax, (12.5, 85 + (y - 85) * 0.25), (21, 85 + (y - 85) * 0.8), INK)
        _box(ax, 29, y, text, NETWORK, frozen=frozen, taper=2.5)
        _features(ax, 47, y, NETWORK, nudge=frozen)
        _flow(ax, (37, y), (45, y), INK)
    _tie(ax, 47, 82.4, 87.6, "feature distillation")
    ax.text(7, 60, "$z$, old\nclasses", color=GENERATOR, ha="center", **SMALL)
    _flow(ax, (15, 60), (21, 60), GENERATOR)
    _box(ax, 29, 60, "$G_{t-1}$", GENERATOR, frozen=True)
    _features(ax, 47, 60, GENERATOR)
    _flow(ax, (37, 60), (45, 60), GENERATOR)
    _judge(ax, 76.5, 60, "$H_t$", NETWORK, "old and\nnew\nclasses")


def _phase_2(ax) -> None:
    """G_t and D_t learn on features of the frozen F_t, held by the frozen G_{t-1}."""
    _image(ax, 7, 34.5)
    _flow(ax, (12.5, 34.5), (21, 34.5), INK)
    _box(ax, 29, 34.5, "$F_t$", NETWORK, frozen=True, taper=2.5)
    _features(ax, 47, 34.5, NETWORK)
    _flow(ax, (37, 34.5), (45, 34.5), INK)
    ax.text(7, 9.5, "$z$,\nclasses", color=GENERATOR, ha="center", **SMALL)
    for y, text, frozen in ((18, "$G_t$", False), (1, "$G_{t-1}$", True)):
        _flow(ax, (14, 9.5 + (y - 9.5) * 0.35), (21, 9.5 + (y - 9.5) * 0.85), GENERATOR)
        _box(ax, 29, y, text, GENERATOR, frozen=frozen)
        _features(ax, 47, y, GENERATOR, nudge=frozen)
        _flow(ax, (37, y), (45, y), GENERATOR)
    _tie(ax, 47, 6.9, 12.1, "replay alignment (old classes)")
    _judge(ax, 34.5, 18, "$D_t$", CRITIC, "real or\nreplayed?")


def _legend(ax) -> None:
    """What the signs mean."""
    for x, text in ((7, "trained"), (37, "frozen copy"), (76, "held close")):
        ax.text(x + 2, -14.5, text, **SMALL)
    _box(ax, 3, -14.5, "", INK, w=6, h=4)
    _box(ax, 33, -14.5, "", INK, w=6, h=4, frozen=True)
    _flow(ax, (67, -14.5), (75, -14.5), TIE, style="<|-|>")


# The signs ----------------------------------------------------------------------------


def _box(ax, x, y, text, color, *, frozen=False, w=15.0, h=11.0, taper=0.0) -> None:
    """A module centred at (x, y): filled where it is trained, dashed where frozen.

    taper: how much it narrows to the right.
    """
    line = (0, (3, 1.6)) if frozen else "-"
    face = {"fc": "none" if frozen else color, "ec": color, "lw": 1.6, "ls": line}
    if taper:
        left, right = h / 2 + taper / 2, h / 2 - taper
        ends = ((-w / 2, -left), (-w / 2, left), (w / 2, right), (w / 2, -right))
        corners = [(x + dx, y + dy) for dx, dy in ends]
        ax.add_patch(Polygon(corners, joinstyle="round", **face))
    else:
        corner, round_ = (x - w / 2, y - h / 2), "round,pad=0,rounding_size=1.5"
        ax.add_patch(FancyBboxPatch(corner, w, h, boxstyle=round_, **face))
    ink = color if frozen else "white"
    ax.text(x, y, text, ha="center", va="center", color=ink, fontsize=13)


def _flow(ax, start, end, color, style="-|>") -> None:
    """An arrow; that of a tie is thicker."""
    width = 1.4 if style == "-|>" else 2.2
    look = {"arrowstyle": style, "mutation_scale": 10, "color": color, "lw": width}
    ax.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **look))


def _tie(ax, x, low, high, text) -> None:
    """The double arrow of a loss that holds two outputs close, with its name."""
    _flow(ax, (x, low), (x, high), TIE, "<|-|>")
    middle = (low + high) / 2
    ax.text(x + 3, middle, text, color=TIE, fontweight="bold", **SMALL)


def _judge(ax, real, replayed, name, color, verdict) -> None:
    """A tall module that reads real and replayed features, and what it says.

    real, replayed: the heights at which they stand.
    """
    middle = (real + replayed) / 2
    _box(ax, 72, middle, name, color, w=13, h=real - replayed + 11)
    _flow(ax, (49, real), (65, real), INK)
    _flow(ax, (49, replayed), (65, replayed), GENERATOR)
    word = {"ha": "center", "va": "bottom", "fontsize": 11}
    ax.text(57, real + 1.2, "$u$", **word)
    ax.text(57, replayed + 1.2, r"$\hat{u}$", color=GENERATOR, **word)
    _flow(ax, (79, middle), (84, middle), INK)
    ax.text(85, middle, verdict, **SMALL)


def _image(ax, x, y, *, seed=None) -> None:
    """A digit in pixels: a seven; with a seed, a four as a generator drew it."""
    bits = np.uint8(SEVEN if seed is None else FOUR)[:, None]
    value, color = 0.95 * np.unpackbits(bits, axis=1), INK
    if seed is not None:
        noise = 0.42 * np.random.RandomState(seed).rand(8, 8)
        value, color = np.clip(value * 0.55 + noise, 0, 1), GENERATOR
    for i, j in np.argwhere(value):
        at = (x + (j - 4) * 1.25, y + (3 - i) * 1.25)
        face = mpl.colors.to_rgba(color, value[i, j])
        ax.add_patch(Rectangle(at, 1.25, 1.25, lw=0, fc=face))
    ax.add_patch(Rectangle((x - 5, y - 5), 10, 10, fill=False, ec=color, lw=1.2))


def _features(ax, x, y, color, *, nudge=False) -> None:
    """A feature vector: a column of shaded cells; with `nudge`, nearly the same one."""
    for k, shade in enumerate(SHADES[color]):
        if nudge:
            shade += 0.1 if k % 2 else -0.1
        face = mpl.colors.to_rgba(color, np.clip(shade, 0, 1))
        at = (x - 1.5, y + 3.7 - 1.85 * k)
        ax.add_patch(Rectangle(at, 3, 1.85, fc=face, ec=color, lw=0.8))
