"""Figures show the numbers they are given, read on white and on dark, and the line under them tells the truth."""

import csv as csv_reader
import html
import io
import itertools
import re
import urllib.parse
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

from gfrlib import cli, metrics
from gfrlib.book import figures
from gfrlib.book.figures import _LOOKS, _label_ends
from gfrlib.config import METHODS, Config, UserError, make_config

SIZES = [4, 2, 2, 2]
ROWS = {  # accuracy[t, k] of a run; joint training has the last row only
    "finetune": [[1.0], [0, 0.9], [0, 0, 0.9], [0, 0, 0, 0.8]],
    "gfr": [[1.0], [0.9, 0.6], [0.8, 0.5, 0.5], [0.7, 0.5, 0.4, 0.3]],
    "joint": [None, None, None, [0.98, 0.97, 0.99, 0.96]],
}


def fake(
    method="gfr", seed=0, status="computed now", preset="quick", shift=0.0, **more
):
    """What the plots read of a record."""
    accuracy = np.full((4, 4), np.nan)
    for t, row in enumerate(ROWS[method]):
        if row:
            accuracy[t, : t + 1] = np.array(row) - shift
    labels = np.repeat(np.arange(10), 5)
    logits = [
        {
            "after": 3,
            "old_classes": 8,
            "mean_logit": np.linspace(-2, 1, 10).tolist(),
            "bias": [0.1] * 10,
            "weight_norm": [1.0] * 10,
            "largest_logit": {
                "on_old_images": {"old_classes": 0.5, "new_classes": 2.0},
                "on_new_images": {},
            },
        }
    ]
    provenance = {
        "date": "2026-11-20 10:00 UTC",
        "commit": "0123456789abcdef",
        "device": "A <chip>",
        "threads": 2,
    }
    losses = [
        {"task": t, "phase": p, "step": s, "loss": 2.0 / s, "new": 1.0 / s}
        | ({"replayed": 0.5} if t else {})
        for t in range(3)
        for p in ("classifier",)
        for s in (10, 20, 30)
    ]
    return SimpleNamespace(
        **{
            "config": make_config(preset, method, seed=seed),
            "task_sizes": SIZES,
            "accuracy": accuracy,
            "name": "fake",
            "curve": metrics.class_weighted(accuracy, SIZES),
            "rule": lambda name: accuracy / 2,
            "status": status,
            "provenance": provenance,
            "losses": losses,
            "analysis": {"logits": logits},
            "labels": lambda t=None: labels[
                : 5 * sum(SIZES[: 4 if t is None else t + 1])
            ],
            "predictions": [None, None, None, np.where(labels < 8, 8, labels)],
        }
        | more
    )


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def texts(figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def luminance(color) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in matplotlib.colors.to_rgb(color)
    ]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(a, b) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


# The looks ------------------------------------------------------------------------------------------------------------


def test_every_colour_reads_on_white_and_on_dark():
    for color in (
        {row[1] for row in _LOOKS.values()}
        | set(figures.TASK_COLORS)
        | {s[0] for s in figures._SPARE}
    ):
        assert contrast(color, "white") >= 3 and contrast(color, "#14181e") >= 3, color
    assert (
        contrast(figures.INK, "white") >= 4.5 and contrast(figures.INK, "#121212") >= 4
    )
    for color in (figures.NETWORK, figures.GENERATOR, figures.CRITIC):
        assert contrast(color, "white") >= 4.5, color  # white words stand on these


SIX = (
    "finetune",
    "joint",
    "lwf",
    "frozen",
    "gfr-gaussian",
    "gfr",
)  # those of the first chapters, often in one figure


def test_the_six_rows_are_told_apart_by_every_kind_of_sight():
    """Distance in CIELAB under simulated protanopia, deuteranopia and tritanopia (Machado et al. 2009)."""
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
                lab(figures.look(a)["color"], sight)
                - lab(figures.look(b)["color"], sight)
            )
            assert distance > 15, f"{a} and {b} look alike to {kind}: {distance:.1f}"


def test_every_method_has_one_look_of_its_own():
    assert set(METHODS) <= set(_LOOKS)
    looks = [(r[1], r[2], str(r[3])) for r in _LOOKS.values()]
    assert len(set(looks)) == len(looks)
    assert figures.look("GFR, GAN") == figures.look("gfr")
    assert figures.look("mine")["label"] == "mine" and figures.look(
        "mine"
    ) == figures.look("mine")
    assert len({how["color"] for how in figures._looks(["one", "two", "three"])}) == 3


# Figures --------------------------------------------------------------------------------------------------------------


def test_accuracy_curves_are_means_in_percent_over_classes_seen():
    ax = figures.accuracy_curves(
        [fake("gfr", 0), fake("gfr", 1, shift=0.1), fake("finetune"), fake("joint")]
    )
    x, y = next(
        line for line in ax.lines if line.get_color() == figures.look("gfr")["color"]
    ).get_data()
    assert x.tolist() == [4, 6, 8, 10]
    # W_1 = (4 x 0.9 + 2 x 0.6) / 6 = 0.8, and 0.7 in the second seed
    assert y[:2] == pytest.approx([95, 75])
    assert {"GFR, GAN 47", "Fine-tuning 16", "Joint training 98"} <= set(
        texts(ax.figure)
    )
    flat = [line for line in ax.lines if line.get_color() == figures.INK]
    assert flat and flat[0].get_ydata() == pytest.approx([97.6, 97.6])


def test_low_accuracies_are_drawn_larger():
    low = figures.accuracy_curves([fake("gfr", shift=0.6)])
    assert (
        max(low.lines[0].get_ydata()) < 50 and low.get_ylim()[1] < 60
    )  # a made-up run: its last point is below 0
    assert figures.accuracy_curves([fake("gfr")]).get_ylim() == (0, 100)


def test_forgetting_leaves_joint_training_out():
    ax = figures.accuracy_curves(
        {"gfr": fake(), "joint": [fake("joint")]}, "forgetting"
    )
    assert not any("Joint" in text for text in texts(ax.figure))
    y = ax.lines[0].get_ydata()
    assert np.isnan(y[0]) and y[1] == pytest.approx(10)  # 1.0 - 0.9
    with pytest.raises(UserError, match="choose accuracy or forgetting"):
        figures.accuracy_curves(fake(), "loss")


def test_curves_of_different_splits_stand_together():
    other = fake(
        task_sizes=[5, 5],
        accuracy=np.array([[1, np.nan], [0.5, 0.4]]),
        curve=np.array([1, 0.45]),
    )
    ax = figures.accuracy_curves({"short": other, "long": fake()})
    assert [line.get_xdata().tolist() for line in ax.lines] == [[5, 10], [4, 6, 8, 10]]


def test_labels_at_line_ends_do_not_overlap():
    ax = figures._axes(None)
    ax.set_ylim(0, 100)
    close = [(1, 50 + i / 10, f"label {i}", "red") for i in range(6)]
    _label_ends(ax, [*close, (1, 5, "low", "red"), (1, float("nan"), "no", "red")])
    ax.figure.canvas.draw()
    # an annotation's own extent would include its leader
    boxes = sorted(
        (matplotlib.text.Text.get_window_extent(t) for t in ax.texts),
        key=lambda box: box.y0,
    )
    assert len(boxes) == 7
    assert all(a.y1 <= b.y0 + 1 for a, b in itertools.pairwise(boxes))


def test_matrix_shows_rounded_percents_below_the_diagonal():
    ax = figures.accuracy_matrix(fake())
    assert [t.get_text() for t in ax.texts] == [
        "100",
        "90",
        "60",
        "80",
        "50",
        "50",
        "70",
        "50",
        "40",
        "30",
    ]
    assert (
        figures.accuracy_matrix(fake(), rule="task-aware").texts[0].get_text() == "50"
    )
    big = np.tril(np.ones((26, 26)))
    assert not figures.accuracy_matrix(
        fake(accuracy=np.where(big, big, np.nan))
    ).texts  # too many for numbers


def test_bars_show_mean_and_seeds():
    ax = figures.final_bars([fake("gfr", 0), fake("gfr", 1, shift=0.1), fake("joint")])
    assert [p.get_width() for p in ax.patches] == pytest.approx([47, 97.6])
    assert ax.lines[0].get_xdata() == pytest.approx([52, 42])
    assert {"47.0", "97.6"} <= set(texts(ax.figure))
    assert figures.final(fake(), "other") == pytest.approx(0.26)
    ax = figures.bars({"gfr": [2.0, 4.0], "mine": 1}, "seconds")
    assert [p.get_width() for p in ax.patches] == [3, 1]


def test_old_and_new_classes():
    ax = figures.old_new_bars({"finetune": [fake("finetune")]})
    assert [p.get_width() for p in ax.patches] == [
        0,
        100,
    ]  # the fake predicts class 8 for every old image


def test_logits():
    for quantity in ("mean_logit", "bias", "weight_norm"):
        ax = figures.logit_bias({"finetune": fake("finetune"), "gfr": fake()}, quantity)
        assert (
            len(ax.lines) == 2 * (1 + 4) + 3
        )  # points and task means of two methods, three divisions
    assert figures.largest_logit(fake()).lines[0].get_xdata() == pytest.approx(
        [0.5, 2.0]
    )
    with pytest.raises(UserError, match="no logits after task 3"):
        figures.logit_bias(fake(analysis=None))
    with pytest.raises(UserError, match="choose one of mean_logit"):
        figures.logit_bias(fake(), "noise")


def test_losses_run_on_over_the_tasks():
    ax = figures.loss_curves(fake())
    assert {"task 0", "task 2", "new", "replayed"} <= set(texts(ax.figure))
    assert ax.get_xlim() == (0, 90) and ax.get_yscale() == "log"
    with pytest.raises(UserError, match="holds no losses of the phase 'generator'"):
        figures.loss_curves(fake(), "generator")


def test_features():
    rng = np.random.RandomState(0)
    real, spread = (
        np.abs(rng.randn(50, 6)) * [1, 5, 1, 4, 3, 2],
        {"gfr": rng.rand(40, 6), "gfr-gaussian": rng.rand(30, 6)},
    )
    figure = figures.marginals(real, spread)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        f"dimension {d}" for d in (1, 3, 4, 5)
    ]
    entry = {
        "real": rng.randn(20, 2),
        "replayed": rng.randn(30, 2),
        "real_class": [0] * 10 + [1] * 10,
    }
    figure = figures.projection({"gfr": entry, "gfr-gaussian": entry, "a third": entry})
    assert [len(c.get_offsets()) for c in figure.axes[0].collections] == [20, 30]
    assert sum(ax.get_visible() for ax in figure.axes) == 3


def test_accuracy_over_something():
    ax = figures.accuracy_vs(
        {"gfr": [(100, [40, 44]), (1000, [50, 52])], "frozen": [(100, 30), (1000, 31)]},
        "steps",
        log=True,
    )
    assert ax.lines[0].get_ydata().tolist() == [42, 51] and ax.get_xscale() == "log"


def test_images_of_every_task():
    import torch

    tasks = SimpleNamespace(
        sizes=(4, 2, 2, 2),
        class_names=[f"c_{i}" for i in range(10)],
        train_images=torch.randint(0, 255, (50, 8, 8, 1), dtype=torch.uint8),
        train_labels=torch.arange(10).repeat_interleave(5),
    )
    figure = figures.class_images(tasks)
    assert [len(ax.images) for ax in figure.axes] == [12, 6, 6, 6]
    shown = texts(figure)
    assert [f"task {t}" in shown for t in range(4)] == [True] * 4 and "c 9" in shown
    tasks.sizes = (10,)
    assert len(figures.class_images(tasks, most=5).axes[0].images) == 10
    assert "task 0\n10 classes" in texts(figures.class_images(tasks, most=5))


@pytest.mark.parametrize(
    "count, words",
    [
        (0, "0 B"),
        (512, "512 B"),
        (1280, "1.25 KiB"),
        (999 * 1024, "999 KiB"),
        (1023 * 1024, "0.999 MiB"),
        (4.79 * 2**20, "4.79 MiB"),
        (3 * 2**40, "3.07e+03 GiB"),
    ],
)
def test_bytes_for_people(count, words):
    assert figures.human(count) == words


def test_bytes_are_drawn_with_their_sums():
    ax = figures.bytes_bars(
        {
            "finetune": {},
            "gfr": {"generator": 2**20, "old network": 2**20},
            "gfr-gaussian": 5000,
        }
    )
    assert {"nothing", "2 MiB", "4.88 KiB"} <= set(
        texts(ax.figure)
    ) and ax.get_xscale() == "log"


def test_figures_are_transparent_and_grey_whatever_the_style():
    for figure in (figures.accuracy_curves(fake()).figure, figures.method_picture()):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=50)
        buffer.seek(0)
        assert plt.imread(buffer)[0, 0, 3] == 0  # a clear corner
    assert figures.accuracy_curves(fake()).xaxis.label.get_color() == figures.INK


def test_the_method_in_one_picture():
    figure = figures.method_picture()
    shown = texts(figure)
    for part in (
        "$F_{t-1}$",
        "$F_t$",
        "$G_{t-1}$",
        "$G_t$",
        "$H_t$",
        "$D_t$",
        r"$\hat{u}$",
        "feature distillation",
    ):
        assert part in shown, part
    assert (
        min(
            t.get_fontsize()
            for t in figure.findobj(matplotlib.text.Text)
            if t.get_text()
        )
        >= 10
    )
    assert (
        figure.get_figwidth() <= 5
    )  # so that 10-point words still have 10 pixels on a telephone
    files = []
    for _ in range(2):
        buffer = io.BytesIO()
        figures.method_picture().savefig(
            buffer, format="svg", bbox_inches="tight", metadata={"Date": None}
        )
        files.append(buffer.getvalue())
    assert files[0] == files[1] and len(files[0]) < 200_000


# Words beside a figure ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        make_config("quick", "gfr"),
        make_config("slim", "lwf", penalty_weight=5.0, seed=2),
        make_config("slim", "gfr", split=[25, 25, 25, 25]),
        make_config("quick", "finetune", penalty="features", cut=3),
        make_config(
            "quick", "gfr", old_task_weighting=False, dataset="my images", device="cpu"
        ),
    ],
)
def test_the_command_makes_the_same_config(config):
    import dataclasses
    import shlex

    words = shlex.split(figures.command(config))
    assert words[:4] == ["python", "-m", "gfrlib", "run"]
    given = dict(
        zip((w[2:].replace("-", "_") for w in words[4::2]), words[5::2], strict=True)
    )
    preset, method = given.pop("preset"), given.pop("method")
    defaults = {f.name: f.default for f in dataclasses.fields(Config)}
    again = make_config(
        preset,
        method,
        **{k: cli.parse_value(k, v, defaults[k]) for k, v in given.items()},
    )
    assert again.identity() == config.identity()


def test_provenance_says_how_when_where_and_carries_the_data():
    runs = [fake("gfr", 0), fake("gfr", 1), fake("joint")]
    shown = figures.provenance(runs, name="curves").data
    line = html.unescape(re.search("<summary>(.*?)</summary>", shown)[1])
    for part in (
        "Computed now, 2026-11-20",
        "GFR, GAN, Joint training",
        "preset quick",
        "seeds 0, 1",
        "A <chip>",
        "2 threads",
        "code 01234567",
    ):
        assert part in line, part
    assert (
        "python -m gfrlib run --preset quick --method gfr --seed 1" in shown
        and 'download="curves.csv"' in shown
    )
    address = html.unescape(
        re.search('href="data:text/csv;charset=utf-8,(.*?)"', shown)[1]
    )
    rows = list(csv_reader.DictReader(io.StringIO(urllib.parse.unquote(address))))
    assert (
        len(rows) == 12
        and rows[1]["class_weighted"] == "0.8"
        and rows[1]["task_1"] == "0.6"
    )
    assert rows[-1]["label"] == "joint" and rows[-2]["class_weighted"] == ""


def test_provenance_tells_recorded_from_computed():
    assert (
        "Recorded, " in figures.provenance(fake(status="recorded with code abc")).data
    )
    assert (
        "Computed earlier by this code"
        in figures.provenance([fake(), fake(seed=1, status="loaded")]).data
    )
    alone = figures.provenance(data={"x": [1, 2], "y": [3, 4]}, note="a <note>").data
    assert (
        "Computed now" in alone
        and "a &lt;note&gt;" in alone
        and "x,y%0A1,3" in alone
        and "<pre" not in alone
    )


def test_numbers_in_prose_come_from_results():
    said = figures.say(
        "{gfr}, {one}, {steps:,} steps, {many}, {word}",
        gfr=[fake("gfr", 0), fake("gfr", 1, shift=0.1)],
        one=fake(),
        steps=12000,
        many=[1.0, 3.0],
        word="done",
    )
    assert (
        said.data
        == "47.0\u00a0±\u00a07.1 %, 52.0 %, 12,000 steps, 2.0\u00a0±\u00a01.4, done"
    )


def test_style_can_be_set_without_a_notebook():
    before = dict(matplotlib.rcParams)
    figures.style()
    assert matplotlib.rcParams["text.color"] == figures.INK
    with matplotlib.rc_context():
        matplotlib.rcParams.update(
            {k: v for k, v in before.items() if not k.startswith("backend")}
        )


# Where a network changes, what it replays, what it costs ------------------------------------------------------------------

LAYERS = ("block 1", "block 2", "classifier")


def with_similarity(method="gfr", drop=0.1, seed=0, **more):
    entries = [
        {
            "after": t,
            "task": k,
            "layer": layer,
            "rows": 100,
            "svcca": 1 - drop * i,
            "pwcca": 1 - drop * i / 2,
            "cka": 1 - drop * i,
            "svcca_null": 0.1,
            "cka_null": 0.0,
        }
        for t in range(1, 4)
        for k in range(t)
        for i, layer in enumerate(LAYERS)
    ]
    return fake(method, seed, analysis={"similarity": entries, **more})


def test_similarity_is_drawn_layer_by_layer_with_its_null():
    two = [with_similarity(drop=0.1), with_similarity(drop=0.3)]
    ax = figures.layer_similarity({"gfr": two, "finetune": with_similarity("finetune")})
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [1, 0.8, 0.6])
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), 0.1)
    assert [t.get_text() for t in ax.get_xticklabels()] == list(
        LAYERS
    ) and "images shuffled" in texts(ax.figure)
    assert "images shuffled" not in texts(
        figures.layer_similarity(with_similarity(), "pwcca").figure
    )
    figure = figures.similarity_panels(
        {"gfr": with_similarity(), "lwf": with_similarity()}
    )
    assert [len(ax.lines) for ax in figure.axes[:2]] == [
        3,
        3,
    ]  # one line for each earlier task


def test_what_was_not_compared_is_refused():
    for record, kwargs in (
        (fake(), {}),
        (with_similarity(), {"task": 3}),
        (with_similarity(), {"after": 0}),
    ):
        with pytest.raises(UserError, match="holds no svcca"):
            figures.similarity_of(record, **kwargs)


def test_the_confusion_matrix_shows_shares():
    ax = figures.confusion_matrix(fake())
    drawn = ax.collections[0].get_array().reshape(10, 10)
    np.testing.assert_allclose(np.asarray(drawn)[:, 8], [*[1.0] * 9, 0])
    assert np.asarray(drawn)[9, 9] == 1


def test_the_sheet_of_samples_is_read_from_beside_the_record(tmp_path):
    rng = np.random.default_rng(0)
    sheet = rng.integers(0, 256, (2 * 8, 2 * 3 * 8), dtype=np.uint8)
    plt.imsave(tmp_path / "run.analysis.png", sheet, cmap="gray", vmin=0, vmax=255)
    about = {
        "classes": ["ape", "big_bird"],
        "columns": 3,
        "kinds": ["real", "replayed after task 0"],
    }
    record = fake(path=tmp_path / "run.json", analysis={"samples": about})
    figure = figures.sample_sheet(record)
    shown = np.asarray(figure.axes[1].images[0].get_array())
    gap = shown.shape[0] // 2 - 8
    assert (
        gap >= 1
        and shown.shape == (2 * (8 + gap), 3 * (8 + gap), 4)
        and "big bird" in texts(figure)
    )
    np.testing.assert_allclose(shown[:8, :8, 0], sheet[:8, 24:32] / 255, atol=0.01)
    assert (shown[8 : 8 + gap, :, 3] == 0).all()
    with pytest.raises(UserError, match="only replay at cut 0"):
        figures.sample_sheet(fake(path=tmp_path / "other.json"))


def test_accuracy_against_bytes_places_every_label_apart():
    ax = figures.accuracy_against_bytes(
        {
            "gfr": (1000, [90, 92]),
            "gfr-gaussian": (1000, 91),
            "frozen": (0, 91),
            "lwf": (2**20, 50),
        }
    )
    assert [line.get_xdata()[0] for line in ax.lines] == [
        1000,
        1000,
        1,
        2**20,
    ] and ax.lines[0].get_ydata()[0] == 91
    ax.figure.canvas.draw()
    boxes = [
        matplotlib.text.Text.get_window_extent(t) for t in ax.texts
    ]  # of the words, without their leaders
    assert not [1 for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]


def test_what_is_not_run_is_named_with_its_command():
    said = figures.not_run(["lwf", "mine"], "grids/x.yaml").data
    assert "LwF, mine" in said and "python -m gfrlib grid grids/x.yaml" in said
    assert "gfrlib run" in figures.not_run(["lwf"], None, ["python -m gfrlib run"]).data
    assert "recorded" in figures.not_run([]).data


def test_effects_show_every_seed_and_the_mean():
    figure = figures.effects({"a": [-3.0, -1.0], "b": [0.5]}, spread={"a": 0.75}).figure
    ax = figure.axes[0]
    bars = [(bar.get_x(), bar.get_width()) for bar in ax.patches]
    assert bars == [
        (-0.75, 1.5),
        (0, -2.0),
        (0.0, 0.0),
        (0, 0.5),
    ]  # band and bar of each row
    assert [line.get_xdata().tolist() for line in ax.lines[:2]] == [[-3.0, -1.0], [0.5]]
    assert {"-2.0", "+0.5", "a", "b"} <= set(texts(figure))


def test_provenance_names_half_precision():
    record = fake()
    assert "bf16" not in figures.provenance(record).data
    record.provenance["precision"] = "bf16"
    assert "A &lt;chip&gt;, 2 threads, bf16" in figures.provenance(record).data
