"""Analyses that need weights: similarity, what is recognised, the sheet."""

import copy
import dataclasses
import io
import shutil

import numpy as np
import pytest
import torch
from helpers_core import load_tasks, tiny, train
from PIL import Image

from gfrlib import quality, similarity, training
from gfrlib.config import UserError
from gfrlib.engine import source, store
from gfrlib.engine.machine import Machine
from gfrlib.engine.phase import Phase
from gfrlib.lab import analysis, compared, experiments, layers, records, replayed, seals
from gfrlib.networks import build_network, split

LAYERS = ["block 1", "block 2", "block 3", "block 4", "classifier"]
SMALL = dict(base=4, tasks=2, epochs_base=2, epochs_task=1)


def observed(config, parts=analysis.PARTS, **kwargs):
    """(the observer after the run, the networks and memories after every task)."""
    observer, kept = analysis.Observer(config, load_tasks(config), parts), []

    def watch(t, network, memory):
        observer(t, network, memory)
        kept.append((copy.deepcopy(network), copy.deepcopy(memory)))

    train(config, observe=watch, **kwargs)
    return observer, kept


@pytest.fixture(scope="module")
def finetuned():
    return observed(tiny("finetune", **SMALL))


def test_every_layer_of_every_earlier_task_is_compared(finetuned):
    found = finetuned[0].result()["similarity"]
    assert [(e["after"], e["task"], e["layer"]) for e in found] == [
        (t, k, layer) for t, k in ((1, 0), (2, 0), (2, 1)) for layer in LAYERS
    ]
    assert all(-0.2 < e[m] <= 1 for e in found for m in ("svcca", "pwcca", "cka"))
    assert all(
        e["svcca_null"] < 0.5 < e["svcca"]
        for e in found
        if e["layer"] == "block 1" and e["task"] == 0
    )


def test_the_last_block_against_the_measure_by_hand(finetuned):
    """All 16 places of the pooled 4 x 4 map are rows, and the channels columns."""
    observer, kept = finetuned
    stream = observer.stream
    images = stream.normalise(stream.test_images[stream.test_index(1)])
    with torch.no_grad():
        then, now = (
            split(kept[t][0].eval(), 4)[0](images).view(len(images), -1, 4, 4)
            for t in (1, 2)
        )
    rows = [u.permute(0, 2, 3, 1).flatten(0, 2).numpy() for u in (now, then)]
    entry = next(
        e
        for e in observer.layers.entries
        if (e["after"], e["task"], e["layer"]) == (2, 1, "block 4")
    )
    assert entry["rows"] == 16 * len(images) == len(rows[0])
    for name, measure in (
        ("svcca", similarity.svcca),
        ("cka", similarity.linear_cka),
        ("pwcca", similarity.pwcca),
    ):
        assert entry[name] == pytest.approx(measure(*rows), abs=2e-3), name


def test_an_unchanged_network_is_like_itself():
    config = tiny("finetune", **SMALL)
    observer, (network, memory) = (
        analysis.Observer(config, load_tasks(config)),
        observed(config)[1][-1],
    )
    observer(1, network, memory)
    observer(2, network, memory)
    assert {e["task"] for e in observer.layers.entries} == {1}
    for e in observer.layers.entries:
        assert e["svcca"] == pytest.approx(1, abs=1e-4) and e["cka"] == pytest.approx(
            1, abs=1e-4
        )


def test_many_tasks_are_compared_with_the_first_alone(monkeypatch):
    monkeypatch.setattr(layers, "ALL_PAIRS", 2)
    assert {
        e["task"] for e in observed(tiny("finetune", **SMALL))[0].layers.entries
    } == {0}


def test_too_few_images_are_said_and_do_no_harm(finetuned, monkeypatch):
    monkeypatch.setattr(layers, "IMAGES", 6)
    monkeypatch.setattr(layers, "ROWS", 6)
    entries = observed(tiny("finetune", **SMALL))[0].layers.entries
    last = [e for e in entries if e["layer"] == "block 4"]
    assert last and all(
        "more images" in e["problem"] and "svcca" not in e for e in last
    )


@pytest.mark.parametrize("method", ["joint", "frozen"])
def test_rows_without_an_earlier_or_a_moving_network_have_none(method):
    assert observed(tiny(method, **SMALL))[0].layers.entries == []


def test_a_perfect_replay_is_recognised_and_a_wrong_one_is_not():
    config = tiny("gfr", **SMALL)
    observer, ((network, memory), *_) = observed(config)
    assert [e["after"] for e in observer.replayed.recognised] == [
        0,
        1,
    ]  # no GAN is trained after the last task
    observer = analysis.Observer(config, load_tasks(config))
    weight = network.head.blocks[0].weight
    for shift, expected in ((0, 1.0), (1, 0.0)):
        memory.sample = lambda c, rng, shift=shift: (
            1e3 * (weight - weight.mean(0))[(c + shift) % len(weight)]
        )
        network.head.blocks[0].bias.data.zero_()
        observer.replayed.judge(0, network, memory, _phase(config))
        assert observer.replayed.recognised[-1] == {
            "after": 0,
            "of": 4,
            "share": expected,
        }


def _phase(config):
    return Phase("test", 0, config.seed, Machine.of(config))


def test_the_sheet_shows_real_images_first_and_as_they_are():
    config = tiny("mergan", **SMALL, generator_parameters=20_000)
    observer, _ = observed(config)
    samples, stream = observer.result()["samples"], observer.stream
    assert samples["kinds"] == [
        "real",
        "replayed after task 0",
        "replayed after task 1",
    ]
    sheet = np.asarray(Image.open(io.BytesIO(observer.sheet())))
    columns = samples["columns"]
    assert sheet.shape == (4 * 8, 3 * columns * 8) and sheet.dtype == np.uint8
    for c in range(4):
        first = stream.test_images[stream.test_labels == c][0, :, :, 0].numpy()
        np.testing.assert_array_equal(sheet[8 * c : 8 * c + 8, :8], first)
    assert sheet[:, 8 * columns :].std() > 0


def test_few_test_images_come_again_on_the_sheet():
    config = tiny("mergan", **SMALL, generator_parameters=20_000)
    observer, _ = observed(config)
    own, stream, count = observer.replayed, observer.stream, replayed.SAMPLES
    keep = torch.ones(len(stream.test_labels), dtype=torch.bool)
    keep[torch.nonzero(stream.test_labels == 1)[2:, 0]] = False  # two of class 1
    own.stream = dataclasses.replace(
        stream,
        test_images=stream.test_images[keep],
        test_labels=stream.test_labels[keep],
    )
    first, second = stream.test_images[stream.test_labels == 1][:2]
    shown = own._real_images()[count : 2 * count]
    for k, image in enumerate(shown):
        assert np.array_equal(image, (first, second)[k % 2].numpy())
    assert observer.sheet()


def test_a_single_row_has_a_spread_of_0():
    u, labels = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0, 1, 1])
    found = replayed._within(u, labels)
    assert found.tolist() == [0, pytest.approx(2**0.5)]
    plane = replayed._in_the_plane(torch.arange(40.0)[:, None])
    assert plane.shape == (40, 2) and torch.isfinite(plane).all()


def test_a_bottleneck_has_no_places():
    """Its features are channels, however many: none of them is a map."""
    stage = build_network(tiny("finetune", bottleneck=128), (1, 8, 8), 0).stages
    x = torch.zeros(3, 128)
    assert layers._maps(x, stage[-1]).shape == (3, 128, 1, 1)
    wide = tiny("finetune", **SMALL, bottleneck=150)
    about = observed(wide, {"similarity"})[0].result()["similarity"]
    assert {e["rows"] for e in about if e["layer"] == "block 4"} == {
        e["rows"] for e in about if e["layer"] == "classifier"
    }


def test_features_leave_no_sheet():
    assert observed(tiny("gfr", **SMALL))[0].sheet() is None


def test_pixels_undo_the_normalisation():
    config = tiny("finetune")
    stream = load_tasks(config)
    images = stream.train_images[:20]
    restored = analysis.Observer(config, stream).replayed.pixels(
        stream.normalise(images)
    )
    np.testing.assert_array_equal(restored, images.numpy())


def test_similarity_looks_and_does_not_touch(finetuned):
    """The weights of a run do not depend on whether it was observed."""
    config = dataclasses.replace(finetuned[0].config)
    assert (
        train(config).weights
        == train(config, observe=analysis.Observer(config, load_tasks(config))).weights
    )


# --- parts, when they are asked for ---------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GFR_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def computed(monkeypatch):
    """Names of the costly parts as they are computed."""
    seen = []
    for owner, name, part in (
        (layers.Layers, "compare", "similarity"),
        (analysis.Replayed, "project", "projection"),
        (compared.Compared, "measure", "quality"),
    ):
        original = getattr(owner, name)

        def noted(*words, original=original, part=part):
            seen.append(part)
            return original(*words)

        monkeypatch.setattr(owner, name, noted)
    return seen


CHEAP = {"code", "drift", "logits", "recognised", "samples"}


def test_a_quick_run_computes_the_costly_parts_when_they_are_asked_for(home, computed):
    config = tiny("gfr", **SMALL)
    first = experiments.run_or_load(config)
    assert first.status == "computed now" and set(first.analysis) == CHEAP
    assert not computed
    with pytest.raises(UserError, match=r'analyse="similarity"\) computes it'):
        first.analysis["similarity"]
    again = experiments.run_or_load(config, analyse="similarity")
    assert again.status == "loaded" and again.weights == first.weights
    assert set(again.analysis) == CHEAP | {"similarity"}
    assert set(computed) == {"similarity"}
    computed.clear()
    both = experiments.run_or_load(config, analyse=analysis.COSTLY)
    assert set(both.analysis) == CHEAP | analysis.COSTLY
    assert set(computed) == {"projection", "quality"}
    computed.clear()
    found = experiments.run_or_load(config, analyse=("similarity", "projection"))
    assert found.analysis == both.analysis and not computed
    assert experiments.run_or_load(config).analysis == both.analysis
    with pytest.raises(UserError, match="no part 'tsne'; choose from drift"):
        experiments.run_or_load(config, analyse="tsne")


@pytest.mark.parametrize("method", ["gfr", "mergan", "lucir", "joint", "fetril"])
def test_a_later_analysis_gives_the_numbers_of_the_one_at_once(
    tmp_path, monkeypatch, method
):
    config = tiny(method, **SMALL, generator_parameters=20_000)
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "at once"))
    at_once = experiments.run_or_load(config, analyse=analysis.PARTS)
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "later"))
    experiments.run_or_load(config)
    monkeypatch.setattr(training, "train_classifier", None)  # loads only
    later = experiments.run_or_load(config, analyse=analysis.COSTLY)
    assert later.status == "loaded" and later.analysis == at_once.analysis
    sheets = [r.path.with_name(r.path.stem + ".analysis.png") for r in (at_once, later)]
    assert sheets[0].exists() == sheets[1].exists() == (method == "mergan")
    if method == "mergan":
        assert sheets[0].read_bytes() == sheets[1].read_bytes()


def test_a_part_is_not_lost_where_two_processes_make_one_run(home, monkeypatch):
    """One asks for similarity, the other does not; they train at the same time, and
    the other writes last.
    """
    config = tiny("finetune", **SMALL)
    find = records.find
    asked = experiments.run_or_load(config, analyse="similarity")
    monkeypatch.setattr(experiments.records, "find", lambda *_: None)  # as it began
    plain = experiments.run_or_load(config)
    monkeypatch.setattr(experiments.records, "find", find)
    assert asked.analysis["similarity"] and plain.status == "computed now"
    again = experiments.run_or_load(config)
    assert again.analysis["similarity"] == asked.analysis["similarity"]
    # and what the first holds does not depend on the file
    beside = asked.path.with_name(asked.path.stem + ".analysis.json")
    beside.write_text("{}")
    assert asked.analysis["similarity"]


def test_a_quick_analysis_of_other_code_is_made_anew(home, monkeypatch, computed):
    """The record is this code's; what was computed from its weights is not."""
    config = tiny("gfr", **SMALL)
    monkeypatch.setattr(experiments, "analysis_digest", lambda: "of other code")
    before = experiments.run_or_load(config, analyse="similarity")
    assert before.analysis["code"].startswith("of other code on ")
    monkeypatch.undo()
    monkeypatch.setenv("GFR_HOME", str(home))
    after = experiments.run_or_load(config)
    assert after.status == "loaded" and after.weights == before.weights
    assert after.analysis["code"].startswith(source.analysis_digest())
    assert set(after.analysis) == set(before.analysis)
    assert dict(records.load(after.path).analysis) == dict(after.analysis)


def test_a_larger_preset_computes_every_part_and_keeps_an_old_analysis(
    home, monkeypatch
):
    monkeypatch.setattr(experiments.origin, "changes", lambda: [])
    config = dataclasses.replace(tiny("gfr", **SMALL), preset="slim")
    first = experiments.run_or_load(config)
    assert set(first.analysis) == {"code", *analysis.PARTS}
    beside = first.path.with_name(first.path.stem + ".analysis.json")
    beside.write_bytes(seals.sealed({"drift": []}))  # as records had it before
    assert experiments.run_or_load(config).analysis == {"drift": []}


# --- quality: what is replayed against held-out real features -------------------------

QUALITY = ["quality"]


def test_replay_is_measured_at_the_ends_of_tasks_from_which_it_is_used():
    found = observed(tiny("gfr-gaussian", **SMALL), QUALITY)[0].result()["quality"]
    assert [e["after"] for e in found] == [0, 1]  # nobody replays after task 2
    for e in found:
        assert [row["task"] for row in e["of"]] == [*range(e["after"] + 1)]
        assert [row["classes"] for row in e["of"]] == [4, 3][: e["after"] + 1]
        assert {"trained_on_replay", "tested_on_replay", "reference"} <= set(e)
        assert 0 <= e["trained_on_replay"] <= 1


@pytest.mark.parametrize(
    ("last", "expected"),
    [(0, []), (1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (5, [0, 2, 4]), (25, [0, 12, 24])],
)
def test_long_streams_are_measured_at_three_ends(last, expected):
    assert compared.moments(last) == expected


def test_the_numbers_of_the_quality_are_those_of_the_functions():
    observer, kept = observed(tiny("gfr-gaussian", **SMALL), QUALITY)
    stream, (network, memory) = observer.stream, kept[1]
    phase = Phase("analysis", 1, 0, Machine.of(observer.config))
    index = torch.cat([stream.test_index(k) for k in (0, 1)])
    labels, extractor = stream.test_labels[index], split(network.eval(), 4)[0]
    with torch.no_grad():
        real = extractor(stream.normalise(stream.test_images[index]))
        replayed = memory.sample(labels, phase.seeded("quality"))
    entry, own = observer.compared.entries[1], labels < 4
    for row, some in zip(entry["of"], (own, ~own)):
        of_task = real[some], labels[some], replayed[some], labels[some]
        assert row == {
            "task": row["task"],
            **{
                name: pytest.approx(value, rel=1e-3)
                for name, value in quality.by_class(*of_task).items()
            },
        }
    there = quality.crossed(replayed, labels, real, labels)
    assert entry["trained_on_replay"] == pytest.approx(there, abs=1e-4)
    back = quality.crossed(real, labels, replayed, labels)
    assert entry["tested_on_replay"] == pytest.approx(back, abs=1e-4) and back != there
    plain, moved = entry["reference"], entry["reference"]["augmented"]
    assert plain["of"] != moved["of"]


def test_a_memory_that_keeps_real_features_is_as_good_as_the_reference():
    """And one that replays the next class's is as bad as can be."""
    config = tiny("gfr-gaussian", **SMALL)
    stream, ((network, memory), *_) = load_tasks(config), observed(config, QUALITY)[1]
    index = stream.train_index(0)
    with torch.no_grad():
        u = split(network.eval(), 4)[0](stream.normalise(stream.train_images[index]))
    found = {}
    for shift in (0, 1):

        def kept(labels, rng, shift=shift):
            rank = torch.arange(len(labels)) - torch.searchsorted(labels, labels)
            begin = torch.searchsorted(stream.train_labels, (labels + shift) % 4)
            return u[begin + rank]

        memory.sample = kept
        observer = analysis.Observer(config, stream, ["quality"])
        observer.compared.measure(0, network, memory, _phase(config))
        found[shift] = observer.compared.entries[0]
    assert found[0]["of"] == found[0]["reference"]["of"]
    assert found[0]["trained_on_replay"] == found[0]["reference"]["trained_on_real"]
    assert found[1]["of"][0]["coverage"] < 0.1 < found[0]["of"][0]["coverage"]
    assert found[1]["trained_on_replay"] < 0.2 < found[0]["trained_on_replay"]


@pytest.mark.parametrize("method", ["gfr", "gfr-gaussian", "lwf", "fetril", "joint"])
def test_quality_of_every_row_is_there_and_empty_where_nothing_is_generated(method):
    found = observed(tiny(method, **SMALL), QUALITY)[0].result()["quality"]
    assert bool(found) == method.startswith("gfr")


def test_too_few_held_out_images_leave_a_class_out(monkeypatch):
    monkeypatch.setattr(compared, "IMAGES", 5)
    found = observed(tiny("gfr-gaussian", **SMALL), QUALITY)[0].result()["quality"]
    assert all(e["of"] == [] and "trained_on_replay" in e for e in found)


# --- parts that are added to what is recorded -----------------------------------------


@pytest.fixture
def recorded(home, monkeypatch):
    """A slim record without `quality`, analysed by other code."""
    monkeypatch.setattr(experiments.origin, "changes", lambda: [])
    config = dataclasses.replace(tiny("gfr-gaussian", **SMALL), preset="slim")
    monkeypatch.setattr(experiments, "analysis_digest", lambda: "of other code")
    record = experiments.run_or_load(config, leave_out=analysis.COSTLY)
    monkeypatch.setattr(experiments, "analysis_digest", lambda: "of this code")
    assert "quality" not in record.analysis
    return record


def test_a_part_is_added_beside_those_of_other_code(recorded, monkeypatch):
    config, before = recorded.config, dict(recorded.analysis)
    assert experiments.run_or_load(config).analysis == before  # not unless asked for
    monkeypatch.setattr(training, "train_classifier", None)  # its stages are there
    record = experiments.run_or_load(config, analyse="quality")
    assert record.status == "loaded" and record.added == ("quality",)
    code = f"of this code on {record.weights[:12]}"
    kept = dict(records.load(record.path).analysis)
    assert kept == dict(record.analysis)
    assert kept.pop("added") == {"quality": code} and kept.pop("quality")
    assert kept == before and before["code"].startswith("of other code")
    # a second part keeps what was added; what is there is not computed again
    both = experiments.run_or_load(config, analyse=("quality", "projection"))
    assert both.added == ("projection",)
    assert set(both.analysis["added"]) == {"quality", "projection"}
    assert both.analysis["quality"] == record.analysis["quality"]
    again = experiments.run_or_load(config, analyse=("quality", "projection"))
    assert again.added == () and dict(again.analysis) == dict(both.analysis)


def test_a_part_is_added_by_training_again_where_the_stages_are_gone(recorded):
    shutil.rmtree(store.cache() / "stages")
    record = experiments.run_or_load(recorded.config, analyse="quality")
    assert record.added == ("quality",) and record.analysis["quality"]


def test_nothing_is_added_by_other_weights(recorded, monkeypatch):
    beside = analysis_file(recorded)
    before = beside.read_bytes()
    monkeypatch.setattr(training, "weight_checksum", lambda network: "other weights")
    with pytest.raises(UserError, match="ends with other weights than when it was"):
        experiments.run_or_load(recorded.config, analyse="quality")
    assert beside.read_bytes() == before


def test_nothing_is_added_to_a_damaged_analysis(recorded):
    beside = analysis_file(recorded)
    beside.write_text(beside.read_text()[:-9])
    before = beside.read_bytes()
    with pytest.raises(UserError, match="is damaged"):
        experiments.run_or_load(recorded.config, analyse="quality")
    assert beside.read_bytes() == before


def analysis_file(record):
    return record.path.with_name(record.path.stem + ".analysis.json")
