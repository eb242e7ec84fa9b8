"""One look a method, told apart by every kind of sight, on white and on dark pages."""

import itertools
import re

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import ROOT
from fakes import contrast

from gfrlib.book import looks
from gfrlib.config import METHODS


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_every_colour_reads_on_white_and_on_dark():
    for color in (
        {row[1] for row in looks.LOOKS.values()}
        | set(looks.TASK_COLORS)
        | {s[0] for s in looks.SPARE}
    ):
        assert contrast(color, "white") >= 3 and contrast(color, "#14181e") >= 3, color


def test_text_in_figures_reads_on_white_and_on_dark():
    """On dark pages the style sheet makes figures lighter."""
    css = (ROOT / "book/_static/css/gfr.css").read_text()
    lighter = float(re.search(r'svg"\] \{ filter: brightness\((.*?)\)', css)[1])
    colors = {row[1] for row in looks.LOOKS.values()} | {s[0] for s in looks.SPARE}
    for color in (looks.INK, *map(looks.readable, colors | {*looks.TASK_COLORS})):
        parts = np.array(matplotlib.colors.to_rgb(color))
        shown = np.minimum(1, lighter * parts)
        assert looks.contrast(color, "white") >= 4.5, color
        assert looks.contrast(shown, "#14181e") >= 4.5, color
    # 342 of the 390 pixels of a telephone are left for a figure of 5.2 inches
    assert looks.SMALL * 342 / 383 >= 9


SIX = (
    "finetune",
    "joint",
    "lwf",
    "frozen",
    "gfr-gaussian",
    "gfr",
)  # those of the first chapters, often in one figure


def test_the_six_rows_are_told_apart_by_every_kind_of_sight():
    """Distance in CIELAB under simulated protanopia, deuteranopia and tritanopia.

    The simulation is that of Machado et al. (2009).
    """
    kinds = {
        "all cones": np.eye(3),
        "deutan": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        "protan": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "tritan": [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    }
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )

    def lab(color, sight):
        c = np.array(matplotlib.colors.to_rgb(color))
        linear = np.clip(
            np.array(sight)
            @ np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4),
            0,
            1,
        )
        xyz = to_xyz @ linear / (0.9505, 1, 1.089)
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    for kind, sight in kinds.items():
        for a, b in itertools.combinations(SIX, 2):
            distance = np.linalg.norm(
                lab(looks.look(a)["color"], sight) - lab(looks.look(b)["color"], sight)
            )
            assert distance > 15, f"{a} and {b} look alike to {kind}: {distance:.1f}"


def test_every_method_has_one_look_of_its_own():
    assert set(METHODS) <= set(looks.LOOKS)
    drawn = [(r[1], r[2], str(r[3])) for r in looks.LOOKS.values()]
    assert len(set(drawn)) == len(drawn)
    assert looks.look("GFR, GAN") == looks.look("gfr")
    assert looks.look("mine")["label"] == "mine" and looks.look("mine") == looks.look(
        "mine"
    )
    assert len({how["color"] for how in looks.looks_of(["one", "two", "three"])}) == 3


def test_points_have_the_minus_of_the_axes_and_no_negative_zero():
    assert [looks.signed(p) for p in (1.25, -0.44, -0.04)] == ["+1.2", "−0.4", "+0.0"]


def test_labels_at_line_ends_do_not_overlap():
    ax = looks.axes(None)
    ax.set_ylim(0, 100)
    close = [(1, 50 + i / 10, f"label {i}", "red") for i in range(6)]
    looks.label_ends(ax, [*close, (1, 5, "low", "red"), (1, float("nan"), "no", "red")])
    ax.figure.canvas.draw()
    # an annotation's own extent would include its leader
    boxes = sorted(
        (matplotlib.text.Text.get_window_extent(t) for t in ax.texts),
        key=lambda box: box.y0,
    )
    assert len(boxes) == 7
    assert all(a.y1 <= b.y0 + 1 for a, b in itertools.pairwise(boxes))


def test_no_leader_crosses_the_label_of_another_line():
    _, ax = plt.subplots(figsize=(4, 2.5))
    ax.set(xlim=(0, 1), ylim=(0, 70))
    words = ["short 1", "a name that is long 2", "middle one 3", "x 4"]
    looks.label_ends(ax, [(1, 30 + i, text, "red") for i, text in enumerate(words)])
    ax.figure.canvas.draw()
    labels = ax.texts
    for one, other in itertools.permutations(labels, 2):
        line = one.arrow_patch.get_path().transformed(one.arrow_patch.get_transform())
        text = matplotlib.text.Text.get_window_extent(other)
        assert not line.intersects_bbox(text, filled=False), (one, other)


def test_style_can_be_set_without_a_notebook():
    before = dict(matplotlib.rcParams)
    looks.style()
    assert matplotlib.rcParams["text.color"] == looks.INK
    with matplotlib.rc_context():
        matplotlib.rcParams.update(
            {k: v for k, v in before.items() if not k.startswith("backend")}
        )
