"""What is computed from the weights while a run passes by: similarity, what is recognised of the replay, the sheet."""

import copy
import dataclasses
import io

import numpy as np
import pytest
import torch
from helpers_core import load_tasks, tiny, train
from PIL import Image

from gfrlib import similarity
from gfrlib.lab import analysis
from gfrlib.networks import split

LAYERS = ["block 1", "block 2", "block 3", "block 4", "classifier"]
SMALL = dict(base=4, tasks=2, epochs_base=2, epochs_task=1)


def observed(config, **kwargs):
    """(the observer after the run, the networks and memories after every task)."""
    observer, kept = analysis.Observer(config, load_tasks(config)), []

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
    stream = observer.tasks
    images = stream.normalise(stream.test_images[stream.test_index(1)])
    with torch.no_grad():
        then, now = (
            split(kept[t][0].eval(), 4)[0](images).view(len(images), -1, 4, 4)
            for t in (1, 2)
        )
    rows = [u.permute(0, 2, 3, 1).flatten(0, 2).numpy() for u in (now, then)]
    entry = next(
        e
        for e in observer.similarity
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
    assert {e["task"] for e in observer.similarity} == {1}
    for e in observer.similarity:
        assert e["svcca"] == pytest.approx(1, abs=1e-4) and e["cka"] == pytest.approx(
            1, abs=1e-4
        )


def test_many_tasks_are_compared_with_the_first_alone(monkeypatch):
    monkeypatch.setattr(analysis, "ALL_PAIRS", 2)
    assert {e["task"] for e in observed(tiny("finetune", **SMALL))[0].similarity} == {0}


def test_too_few_images_are_said_and_do_no_harm(finetuned, monkeypatch):
    monkeypatch.setattr(analysis, "IMAGES", 6)
    monkeypatch.setattr(analysis, "ROWS", 6)
    entries = observed(tiny("finetune", **SMALL))[0].similarity
    last = [e for e in entries if e["layer"] == "block 4"]
    assert last and all(
        "more images" in e["problem"] and "svcca" not in e for e in last
    )


@pytest.mark.parametrize("method", ["joint", "frozen"])
def test_rows_without_an_earlier_or_a_moving_network_have_none(method):
    assert observed(tiny(method, **SMALL))[0].similarity == []


def test_a_perfect_replay_is_recognised_and_a_wrong_one_is_not():
    config = tiny("gfr", **SMALL)
    observer, ((network, memory), *_) = observed(config)
    assert [e["after"] for e in observer.recognised] == [
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
        observer._judge(0, network, memory, _phase(config))
        assert observer.recognised[-1] == {"after": 0, "of": 4, "share": expected}


def _phase(config):
    from gfrlib import training

    return training.Phase(config, 0, "test", training.NoStore(), None)


def test_the_sheet_shows_real_images_first_and_as_they_are():
    config = tiny("mergan", **SMALL, generator_parameters=20_000)
    observer, _ = observed(config)
    samples, stream = observer.result()["samples"], observer.tasks
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


def test_features_leave_no_sheet():
    assert observed(tiny("gfr", **SMALL))[0].sheet() is None


def test_pixels_undo_the_normalisation():
    config = tiny("finetune")
    stream = load_tasks(config)
    images = stream.train_images[:20]
    restored = analysis.Observer(config, stream)._pixels(stream.normalise(images))
    np.testing.assert_array_equal(restored, images.numpy())


def test_similarity_looks_and_does_not_touch(finetuned):
    """The weights of a run do not depend on whether it was observed."""
    config = dataclasses.replace(finetuned[0].config)
    assert (
        train(config).weights
        == train(config, observe=analysis.Observer(config, load_tasks(config))).weights
    )
