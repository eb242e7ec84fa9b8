"""Memories side by side: numbers by hand from what a record's analysis holds."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fakes import fake, texts
from helpers_core import tiny

from gfrlib.book import claims, memories, scales, words
from gfrlib.config import make_config
from gfrlib.lab import experiments


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def row(task, classes, coverage, frechet=1.0, spread=4.0):
    return {
        "task": task,
        "classes": classes,
        "frechet": frechet,
        "spread": spread,
        "precision": 0.5,
        "recall": 0.4,
        "density": 1.1,
        "coverage": coverage,
    }


def with_quality(method="gfr", seed=0, coverage=0.8, **more):
    """A run of four tasks, measured after tasks 0 and 2."""
    perfect = {"of": [row(0, 4, 0.95, 0.2)], "trained_on_real": 0.99}
    perfect["augmented"] = {"of": [row(0, 4, 0.85, 0.4)], "trained_on_real": 0.97}
    early = {"after": 0, "of": [row(0, 4, coverage)], "reference": perfect}
    late = {
        "after": 2,
        "of": [row(0, 4, coverage / 2, 3.0, 6.0), row(1, 2, 0.6), row(2, 2, 0.8)],
        "trained_on_replay": 0.7,
        "tested_on_replay": 0.6,
    }
    early |= {"trained_on_replay": 0.9, "tested_on_replay": 1.0}
    about = {"quality": [early, late]}
    spent = [
        {"task": t, "phase": "generator", "seconds": s}
        for t, s in ((0, 2), (1, 3), (3, 7))
    ]
    kept = [{"G": 2048, "old network": 10**6}] * 4
    return fake(method, seed, analysis=about, seconds=spent, bytes_kept=kept, **more)


def test_numbers_are_means_over_classes_in_percent():
    run = with_quality()
    assert memories.moments(run) == [0, 2]
    assert memories.measured(run, "coverage", after=0) == pytest.approx(80)
    late = 100 * (4 * 0.4 + 2 * 0.6 + 2 * 0.8) / 8
    assert memories.measured(run, "coverage") == pytest.approx(late)
    assert memories.measured(run, "coverage", task=1) == pytest.approx(60)
    # the distance in percent of the spread, both summed over classes
    distance = 100 * (4 * 3 + 2 + 2) / (4 * 6 + 2 * 4 + 2 * 4)
    assert memories.measured(run, memories.DISTANCE) == pytest.approx(distance)
    assert memories.measured(run, "trained_on_replay", after=0) == pytest.approx(90)


def test_the_perfect_memory_is_the_reference():
    run, perfect = with_quality(), {"after": 0, "perfect": memories.PERFECT}
    assert memories.measured(run, "coverage", **perfect) == pytest.approx(95)
    assert memories.measured(run, "trained_on_replay", **perfect) == pytest.approx(99)
    assert np.isnan(memories.measured(run, "tested_on_replay", **perfect))
    shifted = {"after": 0, "perfect": memories.SHIFTED}
    assert memories.measured(run, "coverage", **shifted) == pytest.approx(85)
    assert memories.measured(run, "trained_on_replay", **shifted) == pytest.approx(97)
    perfect["after"] = 1  # not measured after task 2
    assert np.isnan(memories.measured(run, "coverage", **perfect))


@pytest.mark.parametrize("analysis", [None, {}, {"quality": []}])
def test_what_is_not_measured_is_nan(analysis):
    run = fake(analysis=analysis)
    for name in ("coverage", memories.DISTANCE, "trained_on_replay"):
        assert np.isnan(memories.measured(run, name))
        assert np.isnan(memories.measured(run, name, after=0, perfect=memories.PERFECT))


def test_the_table_of_measures_begins_with_real_features():
    found = {
        "gfr": [with_quality(), with_quality(seed=1, coverage=0.6)],
        "gfr-flow": [with_quality()],
    }
    table = memories.quality_table(found)
    assert [*table["memory"]] == [*memories.REAL, "GFR, GAN", "GFR, flow"]
    assert [*table["coverage"]] == [
        "95.0\u00a0±\u00a00.0",
        "85.0\u00a0±\u00a00.0",
        "70.0\u00a0±\u00a014.1",
        "80.0",
    ]
    assert [*table["replay → real"]][0].startswith("99.0")
    assert [*table["real → replay"]][0] == "–"
    assert memories.quality_table({}).empty


def test_costs_are_those_of_each_split():
    panels = {"4 × 25": {"gfr": [with_quality()]}, "5 tasks": {"gfr": [fake(
        seconds=[], bytes_kept=[{"G": 999}] * 4)]}}  # fmt: skip
    table = memories.costs_table(panels)
    assert [*table["split"]] == ["4 × 25", "5 tasks"]
    assert [*table["bytes"]] == ["2 KiB", "999 B"]
    assert [*table["seconds"]] == ["5.0", "0.0"]  # the last task's memory: for nobody
    assert [*table["coverage"]] == ["55.0", "–"]


def test_aging_draws_only_what_was_measured():
    found = {"gfr": [with_quality(), with_quality(seed=1, coverage=0.6)]}
    figure = memories.aging({"digits": found, "other": {"gfr": [fake()]}})
    [ax] = figure.axes
    assert ax.get_title(loc="left") == "digits"
    gan, real, shifted = ax.lines
    assert gan.get_xdata().tolist() == [0, 2]
    assert gan.get_ydata() == pytest.approx([70, 35])
    assert real.get_xdata().tolist() == [0] and real.get_ydata() == pytest.approx([95])
    assert shifted.get_ydata() == pytest.approx([85])
    assert {"GFR, GAN", "real", "real, augmented"} <= set(texts(figure))
    assert memories.aging({"other": {"gfr": [fake()]}}) is None
    rows = memories.aged_rows({"digits": found, "other": {"gfr": [fake()]}})
    assert len(rows) == 2 * 2 + 2 and {r["panel"] for r in rows} == {"digits"}


def test_sentences_name_the_nearest_to_its_yardstick_and_what_is_missing():
    """A GAN learns from augmented images, which reach 85 %; Gaussians from the images
    as they are, 95 %: each is asked for its own."""
    found = {"gfr": [with_quality(coverage=0.84)]}
    found["gfr-gaussian"] = [with_quality("gfr-gaussian", coverage=0.9)]
    both = [memories.beside_perfect(runs, "coverage") for runs in found.values()]
    assert both == [pytest.approx((84, 85)), pytest.approx((90, 95))]
    said = memories.extremes(found).data
    names = [words.label(row) for row in found]
    near = f"nearest is *{names[0]}* (84.0, its yardstick 85.0)"
    assert f"By coverage, {near}, farthest *{names[1]}* (90.0" in said
    some = {"4 × 25": found, "5 tasks": {"gfr": [fake()]}}
    assert "5 tasks, 25 tasks." in memories.not_measured(some).data
    part = {"4 × 25": found | {"lwf": [fake("lwf")]}}
    assert "100: 4 × 25 (LwF), 5 tasks" in memories.not_measured(part).data
    every = dict.fromkeys(memories.SPLITS, found)
    assert memories.not_measured(every) is None  # which a notebook shows as nothing


def test_whether_the_newer_generator_is_better_needs_seeds():
    def two(shift):
        return [fake("gfr", s, shift=shift + s / 1000) for s in (0, 1)]

    ahead = {"gfr": two(0.1), "gfr-flow": two(0.0)}
    behind = {"gfr": two(0.0), "gfr-flow": two(0.1)}
    one = {name: some[:1] for name, some in ahead.items()}
    said = memories.newer({"4 × 25": ahead, "5 tasks": behind, "25 tasks": one}).data
    assert "*yes* in 1 and *no* in 1. In 1 the answer" in said
    assert "*yes* in 0 and *no* in 0. In 3 the answer" in memories.newer({}).data
    assert "midpoint" not in said
    followed = {**behind, memories.MIDPOINT: two(-0.1)}
    said = memories.newer({"4 × 25": followed}).data
    assert "*no* in 1" in said and said.endswith(
        "With midpoint steps, in 4 × 25: *yes*."
    )
    followed[memories.MIDPOINT] = two(-0.1)[:1]
    said = memories.newer({"4 × 25": followed, "5 tasks": followed}).data
    assert said.endswith("With midpoint steps, in 4 × 25: open.")
    assert memories.beside_the_gan({**ahead, memories.MIDPOINT: two(-0.1)}) == (
        "The flow ends 10.0 points above the GAN. "
        "Followed by midpoint steps it ends 20.0 points above the GAN."
    )
    whole = {**ahead, "gfr-gaussian-full": two(0.05)}
    said = memories.beside_the_gan(whole)
    assert said == (
        "The flow ends 10.0 points above the GAN. "
        "Whole covariances end 5.0 points above the GAN."
    )
    missing = "The flow is not recorded there yet."
    assert memories.beside_the_gan({}) == missing
    assert memories.beside_the_gan({"gfr": two(0.0)}) == missing


def test_one_seed_is_chosen_that_most_memories_share():
    """A row that is recorded with another seed alone does not empty the figure."""
    analysis = {"projection": {}}

    def runs(*seeds):
        return [fake("gfr", s, analysis=analysis) for s in seeds]

    found = {"gfr": runs(0, 1, 2), "gfr-flow": runs(0, 1), memories.MIDPOINT: runs(2)}
    chosen = memories.of_one_seed(found)
    assert {row: run.config.seed for row, run in chosen.items()} == {
        "gfr": 0,
        "gfr-flow": 0,
    }
    found["gfr-mixture"] = runs(2)
    chosen = memories.of_one_seed(found)
    assert [*chosen] == ["gfr", memories.MIDPOINT, "gfr-mixture"]
    assert memories.of_one_seed({}) == {}
    assert memories.of_one_seed({"gfr": [fake("gfr", analysis=None)]}) == {}


def test_the_questions_are_asked_on_the_splits_that_are_shown():
    for claim in memories.asked():
        assert set(claim.pair) <= {*memories.RECORDED, memories.MIDPOINT}
        wanted = set(memories.SPLITS)
        if memories.MIDPOINT in claim.pair:
            wanted = {"4 × 25"}
        assert wanted <= set(claim.splits) <= set(scales.SPLITS)
        assert claim.kind == "above" and claim.ours
    pairs = [claim.pair for claim in memories.asked()]
    assert pairs[:2] == [("gfr-flow", "gfr"), (memories.MIDPOINT, "gfr")]
    assert claims.by_split({}, memories.asked()) == []


def test_a_memory_is_brought_back_as_it_was_after_task_0(tmp_path, monkeypatch):
    monkeypatch.setenv("GFR_HOME", str(tmp_path))
    config = tiny("gfr-gaussian", split=(3, 2), epochs_base=1)
    u, memory, rng = memories.after_task_0(config, c=1)
    assert memory.means[1] == pytest.approx(u.mean(0), abs=1e-5)
    assert (memory.counts > 0).tolist() == [True] * 3 + [False] * 7
    labels = torch.ones(5, dtype=torch.long)
    assert memory.sample(labels, rng).shape == (5, u.shape[1])
    # and the run itself begins with these stages
    monkeypatch.setattr(
        experiments.training, "train_classifier", _only_later(experiments.training)
    )
    experiments.run_or_load(config)


def _only_later(training):
    real = training.train_classifier

    def train(network, past, *rest):
        assert past is not None, "task 0 is trained already"
        return real(network, past, *rest)

    return train


def test_measures_are_set_beside_the_order_of_the_accuracies():
    def ordered(shares):
        """Four memories; the lower the coverage, the lower the accuracy."""
        runs = [with_quality(coverage=share, shift=0.5 - share) for share in shares]
        return {f"memory {i}": [run] for i, run in enumerate(runs)}

    text = memories.telling(ordered((0.1, 0.4, 0.3, 0.2))).data
    assert "these 4 memories" in text and "coverage +1.00" in text
    assert memories.DISTANCE not in text, "the same everywhere is no order"
    mixed = ordered((0.1, 0.2, 0.3))
    mixed["memory 3"] = [with_quality(coverage=0.05, shift=0.0)]  # fades, ends first
    # ranks 2, 3, 4, 1 against 1, 2, 3, 4: 1 - 6 x 12 / (4 x 15)
    assert "coverage -0.20" in memories.telling(mixed).data
    assert "Too few" in memories.telling({"gfr": [with_quality()]}).data


def test_the_rates_are_those_of_the_rows_and_the_ends_of_one_rate(monkeypatch):
    asked = {}

    def recorded(preset, rows, seeds, **shared):
        asked.update(rows=rows, shared=shared)
        return {row: [fake(row)] for row in ("gfr", "gfr-flow")}

    monkeypatch.setattr(memories.results, "recorded", recorded)
    said = memories.rates().data
    for row in memories.RECORDED:
        rate = make_config("slim", row).learning_rate_task
        part = said.partition(". At ")[0].partition(f"{rate:g} with ")[2]
        assert words.label(row) in part.partition(", and at ")[0]
    assert {row["learning_rate_task"] for row in asked["rows"].values()} == {0.002}
    assert asked["shared"]["validation"] == 0.1 and "At 0.002 for all" in said
    monkeypatch.setattr(memories.results, "recorded", lambda *a, **k: {})
    assert "for all" not in memories.rates().data


def test_it_is_said_which_memory_fades_most():
    found = {"gfr": [with_quality(coverage=0.8)]}
    found["gfr-flow"] = [with_quality(coverage=0.5)]
    of = found["gfr-flow"][0].analysis["quality"][1]["of"]
    of[0] = row(0, 4, 0.4, 3.0, 6.0)  # it falls less far, and most is left of it
    found["gfr-mixture"] = [with_quality(coverage=0.0)]  # has nothing to lose
    text = memories.faded({"digits": found, "none": {"gfr": [fake("gfr")]}}).data
    least = "- digits: between 50 % with *GFR, GAN* (from 80.0 to 40.0 %) and "
    assert f"{least}80 % with *GFR, flow* (from 50.0 to 40.0 %)." in text
    assert (
        "none" not in text and "mixtures" not in text and memories.faded({}).data == ""
    )
