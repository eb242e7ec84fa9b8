"""Figures show the numbers they are given, and say what is missing."""

import io
import itertools
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from fakes import LAYERS, fake, texts, with_similarity

from gfrlib.book import accuracy, figures, looks, results
from gfrlib.config import UserError


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


# Accuracy, features, costs ------------------------------------------------------------


def test_accuracy_curves_are_means_in_percent_over_classes_seen():
    ax = figures.accuracy_curves(
        [fake("gfr", 0), fake("gfr", 1, shift=0.1), fake("finetune"), fake("joint")]
    )
    x, y = next(
        line for line in ax.lines if line.get_color() == looks.look("gfr")["color"]
    ).get_data()
    assert x.tolist() == [4, 6, 8, 10]
    # W_1 = (4 x 0.9 + 2 x 0.6) / 6 = 0.8, and 0.7 in the second seed
    assert y[:2] == pytest.approx([95, 75])
    assert {"GFR, GAN 47", "Fine-tuning 16", "Joint training 98"} <= set(
        texts(ax.figure)
    )
    flat = [line for line in ax.lines if line.get_color() == looks.INK]
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
    alone = {"joint": [fake("joint")]}
    assert not figures.accuracy_curves(alone, "forgetting").lines
    assert figures.curves_by_split({"one": alone}, "forgetting").axes
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
    pair = figures.accuracy_matrices([fake(), fake("finetune")])
    assert [len(ax.texts) for ax in pair.axes] == [10, 10]
    assert [ax.get_title("left") for ax in pair.axes] == [
        "GFR, GAN (%)",
        "Fine-tuning (%)",
    ]
    assert figures.accuracy_matrices({}) is None
    big = np.tril(np.ones((26, 26)))
    assert not figures.accuracy_matrix(
        fake(accuracy=np.where(big, big, np.nan))
    ).texts  # too many for numbers


def test_bars_show_mean_and_seeds():
    ax = figures.final_bars([fake("gfr", 0), fake("gfr", 1, shift=0.1), fake("joint")])
    assert [p.get_width() for p in ax.patches] == pytest.approx([47, 97.6])
    assert ax.lines[0].get_xdata() == pytest.approx([52, 42])
    assert {"47.0", "97.6"} <= set(texts(ax.figure))
    assert results.final(fake(), "other") == pytest.approx(0.26)
    ax = figures.bars({"gfr": [2.0, 4.0], "mine": 1}, "seconds")
    assert [p.get_width() for p in ax.patches] == [3, 1]
    ax = figures.bars({"gfr": 1, "mine": 2}, color="#123456")
    assert {p.get_facecolor() for p in ax.patches} == {
        matplotlib.colors.to_rgba("#123456")
    }


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
    entry = {
        "real": rng.randn(20, 2),
        "replayed": rng.randn(30, 2),
        "real_class": [0] * 10 + [1] * 10,
    }
    figure = figures.projection({"gfr": entry, "gfr-gaussian": entry, "a third": entry})
    assert [len(c.get_offsets()) for c in figure.axes[0].collections] == [20, 30]
    assert sum(ax.get_visible() for ax in figure.axes) == 3


def test_points_of_a_projection_as_rows():
    panels = {
        "gfr": {
            "real": [[0, 1]],
            "replayed": [[2, 3]],
            "real_class": [7],
            "replayed_class": [8],
        },
        "bare": {"real": np.zeros((1, 2)), "replayed": np.empty((0, 2))},
    }
    assert figures.points(panels) == [
        {"panel": "gfr", "kind": "real", "class": 7, "x": 0, "y": 1},
        {"panel": "gfr", "kind": "replayed", "class": 8, "x": 2, "y": 3},
        {"panel": "bare", "kind": "real", "x": 0, "y": 0},
    ]


def test_accuracy_over_something():
    ax = figures.accuracy_vs(
        {"gfr": [(100, [40, 44]), (1000, [50, 52])], "frozen": [(100, 30), (1000, 31)]},
        "steps",
        log=True,
    )
    assert ax.lines[0].get_ydata().tolist() == [42, 51] and ax.get_xscale() == "log"
    ax = figures.accuracy_vs({"gfr": [(1, 0.01), (2, 0.1)]}, "task", log_y=True)
    assert ax.get_yscale() == "log" and ax.get_xscale() == "linear"


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
    buffer = io.BytesIO()
    figures.accuracy_curves(fake()).figure.savefig(buffer, format="png", dpi=50)
    buffer.seek(0)
    assert plt.imread(buffer)[0, 0, 3] == 0  # a clear corner
    assert figures.accuracy_curves(fake()).xaxis.label.get_color() == looks.INK


def test_style_can_be_set_without_a_notebook():
    before = dict(matplotlib.rcParams)
    figures.style()
    assert matplotlib.rcParams["text.color"] == looks.INK
    with matplotlib.rc_context():
        matplotlib.rcParams.update(
            {k: v for k, v in before.items() if not k.startswith("backend")}
        )


# Where a network changes, what it replays, what it costs ------------------------------


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
    for ax in figure.axes[:2]:
        *_, null = ax.lines
        assert len(ax.lines) == 3 + 1  # a line for each earlier task, and the null
        np.testing.assert_allclose(null.get_ydata(), 0.1)
    assert "images shuffled" in texts(figure)
    figure = figures.similarity_panels({"gfr": with_similarity()}, "pwcca")
    assert len(figure.axes[0].lines) == 3 and "images shuffled" not in texts(figure)


def test_answers_beyond_the_classes_seen_have_columns_of_their_own():
    """A full head can give them; they were counted as another class's images."""
    record = SimpleNamespace(
        predictions=[np.array([0, 3, 1])], labels=lambda t: np.array([0, 0, 1])
    )
    found = accuracy.seen_and_called(record, 0, 2)
    assert found.tolist() == [[1, 0, 0, 1], [0, 1, 0, 0]]


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
        and "big\nbird" in texts(figure)
    )
    np.testing.assert_allclose(shown[:8, :8, 0], sheet[:8, 24:32] / 255, atol=0.01)
    assert (shown[8 : 8 + gap, :, 3] == 0).all()
    few = figures.sample_sheet(record, classes=1, samples=2)
    part = np.asarray(few.axes[1].images[0].get_array())
    assert part.shape[:2] == (8 + gap, 2 * (8 + gap)) and "ape" in texts(few)
    np.testing.assert_allclose(part[:8, :8, 0], sheet[:8, 24:32] / 255, atol=0.01)
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
    dots = [list(line.get_xdata()) for line in ax.lines if line.get_marker() == "o"]
    assert dots == [[-3.0, -1.0]]  # a single value is the end of its bar
    assert {"−2.0", "+0.5", "a", "b"} <= set(texts(figure))


def test_a_long_effect_ends_at_the_cut_axis():
    ax = figures.effects({"a": [-13.0, -15.0], "b": [0.5, 1.0]}, limit=4).figure.axes[0]
    assert abs(ax.get_xlim()[0]) < 5 and "−14.0" in texts(ax.figure)
    [arrow] = [line for line in ax.lines if line.get_marker() == "<"]
    assert arrow.get_xdata()[0] == -4
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [0, 2]


def test_leads_are_of_the_same_seed():
    found = {
        "frozen": [fake("gfr"), fake("gfr", 1, shift=0.1)],
        "gfr": [fake("gfr", 1)],
        "finetune": [fake("finetune")],
        "joint": [fake("joint")],
    }
    ax = figures.lead_curves(found, ylim=(-10, 20))
    drawn = [line.get_ydata() for line in ax.lines]
    assert len(drawn) == 2 and drawn[0][0] == 0  # fine-tuning ends below the axis
    np.testing.assert_allclose(drawn[1], 10)
    assert {"GFR, GAN +10.0", "Frozen F"} <= set(texts(ax.figure))
    assert figures.lead_curves({"gfr": [fake("gfr")]}) is None


def test_a_gain_stands_over_its_drift():
    """One mark a row and place, at the means of the seeds that both have. A lead that
    was there after task 0 is none.
    """

    def moved(by, first, last, **more):
        of = [{"task": 0, "features": by}]
        curve = np.array([first, 0.5, 0.5, last])
        return fake(analysis={"drift": [{"of": []}, {"of": of}]}, curve=curve, **more)

    held = {
        ("slim", "5 tasks"): {
            "frozen": [moved(0.0, 0.8, 0.4, seed=s) for s in (0, 1)],
            "gfr": [moved(0.02, 0.9, 0.6), moved(0.04, 0.9, 0.7, seed=1)],
        },
        ("photographs, 64 px", "25 tasks"): {
            "frozen": [moved(0.0, 0.8, 0.5)],
            "gfr": [moved(0.2, 0.9, 0.5)],
            "gfr-gaussian": [moved(0.3, 0.9, 0.3)],
        },
        ("medium", "5 tasks"): {"gfr": [moved(0.1, 0.9, 0.5)]},  # nothing beside it
    }
    ax = figures.gain_over_drift(held)
    drawn = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(drawn["GFR, GAN"].get_xdata(), [3, 20])
    np.testing.assert_allclose(drawn["GFR, GAN"].get_ydata(), [15, -10])
    np.testing.assert_allclose(drawn["GFR, Gaussians"].get_xydata(), [[30, -30]])
    assert {"5 tasks", "25 tasks, photographs"} <= set(texts(ax.figure))
    assert not any("medium" in text for text in texts(ax.figure))
    assert figures.gain_over_drift({("slim", "5 tasks"): {"gfr": []}}) is None


def test_splits_stand_below_each_other_on_the_same_axis():
    figure = figures.curves_by_split(
        {"5 tasks": [fake("gfr"), fake("finetune")], "25 tasks": {}, "2": [fake("gfr")]}
    )
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["5 tasks", "2"]
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    assert figures.curves_by_split({"5 tasks": {}}) is None
