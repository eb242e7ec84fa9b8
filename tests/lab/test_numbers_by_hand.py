"""Records that must not be mixed up, and numbers of plans and analyses, by hand.

Each was seen to fail with one line made wrong, which its comment names.
"""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers_core import load_tasks, tiny

from gfrlib.config import RESULT_VERSION, UserError, make_config
from gfrlib.engine.source import code_digest
from gfrlib.lab import (
    experiments,
    footprint,
    layers,
    outlook,
    plans,
    records,
    replayed,
    runs,
    seals,
)
from gfrlib.lab.record import Record
from gfrlib.networks import build_network

SIZES = [2, 1, 1]


def made(preset="slim", content="these images", versions=None, **changes) -> Record:
    """A record of four classes with two test images each, made up by hand."""
    config = make_config(preset, "finetune", base=2, tasks=2, **changes)
    labels = np.repeat(np.arange(4), 2)
    last = np.array([0, 3, 1, 3, 3, 3, 3, 3])  # half of task 0, nothing of task 1
    about = dict(result_version=RESULT_VERSION, digest=code_digest(), commit="0" * 40)
    about |= {"content": content, "versions": versions or {}}
    return Record(
        config=config,
        class_names=list("abcd"),
        task_sizes=SIZES,
        test_counts=[2] * 4,
        predictions=[labels[:4], labels[:6], last],
        rules={},
        losses=[],
        seconds=[],
        bytes_kept=[],
        weights="0123456789ab",
        provenance=about,
    )


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GFR_HOME", str(tmp_path))
    monkeypatch.delenv("GFR_CACHE", raising=False)
    return tmp_path


# Records ------------------------------------------------------------------------------


# Record.full_json, Record.forgetting: tasks count alike, whatever their classes
def test_forgetting_in_the_json_counts_classes():
    """Task 0, of two classes, falls from 1 to 1/2; task 1, of one, from 1 to 0."""
    found = made().full_json()["forgetting"]
    assert found == [None, 0, pytest.approx((2 * 0.5 + 1) / 3, abs=1e-6)]
    assert made().forgetting[2] == pytest.approx(2 / 3)


# Record.average_incremental: without task 0
def test_the_average_has_task_0_in_it():
    # after task 2: one of two, nothing, all: (2 x 1/2 + 0 + 1) / 4
    assert made().average_incremental == pytest.approx((1 + 1 + 0.5) / 3)


# Record.confusion: the full head forgotten
def test_with_a_full_head_later_classes_are_answers_too():
    record = made(full_head=True)
    record.predictions[0] = np.array([0, 3, 1, 1])
    found = record.confusion(0)
    assert found.shape == (4, 4) and found[0].tolist() == [1, 0, 0, 1]


# Record.task_classes: shifted
def test_classes_of_tasks_stand_in_their_order():
    assert made().task_classes == [["a", "b"], ["c"], ["d"]]


# record.read: _check_lengths not called
def test_a_record_whose_rows_are_too_short_is_refused(home):
    record = made()
    record.predictions[1] = record.predictions[1][:5]
    path = home / "some.json"
    path.write_bytes(seals.sealed(record.to_json()))
    with pytest.raises(UserError, match="no readable record"):
        records.load(path)


# records.find: content, task sizes not compared
def test_a_record_of_other_images_or_other_tasks_is_not_found(home):
    record = made()
    path = records.save(record)
    known = record.config, SIZES, "these images"
    assert records.find(*known).path == path
    assert records.find(record.config, SIZES).path == path
    assert records.find(record.config, SIZES, "others") is None
    # of a data set with more classes the same base and tasks are other sizes
    assert records.find(record.config, [2, 2, 2], "these images") is None


# records._is_of_here: any PyTorch's
def test_a_live_record_of_another_pytorch_is_made_again(home):
    here = made("quick", versions={"torch": torch.__version__})
    records.save(here)
    assert records.find(here.config, SIZES) is not None
    records.save(
        dataclasses.replace(
            here, provenance={**here.provenance, "versions": {"torch": "0.1"}}
        )
    )
    assert records.find(here.config, SIZES) is None


# records._with_kept: parts of other code beside new ones
def test_parts_that_other_code_has_found_do_not_stand_beside_new_ones(home):
    record = made("quick")
    records.save(record, {"code": "one", "drift": [1], "logits": [1]})
    records.save(record, {"code": "two", "drift": [2]})
    [path] = [p for p in records.every() if p.stem == record.name]
    assert records.load(path).analysis == {"code": "two", "drift": [2]}
    records.save(record, {"code": "two", "logits": [2]})
    assert set(records.load(path).analysis) == {"code", "drift", "logits"}


# records.fingerprint: without one of the three files
@pytest.mark.parametrize("ending", [".json", ".analysis.json", ".analysis.png"])
def test_a_fingerprint_is_of_all_that_lies_there(tmp_path, ending):
    (tmp_path / "a.json").write_text("{}")
    before = records.fingerprint("a.json", tmp_path)
    (tmp_path / f"a{ending}").write_text("other")
    assert records.fingerprint("a.json", tmp_path) != before


# What is counted and timed ------------------------------------------------------------


# runs.load_tasks: the seed not in the key of a random order; STREAM without validation
def test_streams_of_other_settings_are_not_mixed_up():
    orders = [
        load_tasks(tiny(class_order="random", seed=seed)).class_names for seed in (0, 1)
    ]
    assert orders[0] != orders[1]
    whole, held = (len(load_tasks(tiny(validation=v)).train_labels) for v in (0.0, 0.2))
    assert held < 0.85 * whole


# plans.seconds_per_step: one step too many in the mean; a small batch not scaled
def test_a_step_is_timed_by_hand():
    """Ticks a tenth of a second apart, on half of the batch."""
    config = tiny("finetune", split=(5, 2, 3), batch_size=64)
    ticks = itertools.count(0, 0.1)
    found = plans.seconds_per_step(
        *(config, load_tasks(config), plans.Stage("", 1, "classifier", 1)),
        clock=lambda: next(ticks),
    )  # 16 images of each class: a batch of 32
    assert found == pytest.approx(0.2)


# plans.table: seconds for minutes; stages and new ones swapped
def test_the_plans_table_by_hand():
    about = dict(split="2+1", seed=0, recorded=False)
    rows = [
        {"method": "gfr", **about, "stages": 6, "new": 6, "seconds": 90.0},
        {"method": "lwf", **about, "stages": 5, "new": 3, "seconds": 150.0},
        {"method": "ewc", **about, "stages": 0, "new": 0, "seconds": 0.0},
    ]
    rows[2]["recorded"] = True
    lines = plans.table(rows).splitlines()
    assert [line.split()[-3:] for line in lines[1:4]] == [
        ["6", "6", "1.5"],
        ["5", "3", "2.5"],
        ["0", "0", "recorded"],
    ]
    assert lines[4].startswith("3 runs, 1 recorded, 2 to do; their 11 stages are 9 to")
    assert ": 4 minutes at the speed" in lines[4]


# outlook.seconds_per_image: of the whole batch
def test_an_image_is_a_share_of_its_batch():
    config = tiny("finetune")
    clock = itertools.count().__next__
    found = outlook.seconds_per_image(config, load_tasks(config), clock=clock)
    assert found == pytest.approx(1 / outlook.LOOKED)


# footprint.least: a batch of the whole task
def test_a_smaller_batch_needs_less_memory():
    few, many = (tiny("finetune", batch_size=size) for size in (1, 64))
    stream = load_tasks(few)
    gap = footprint.least(many, stream) - footprint.least(few, stream)
    assert gap == 4 * 63 * few.width * 8 * 8


# footprint.least: weights that are never trained have no gradient and no moments
def test_a_frozen_pretrained_extractor_needs_no_optimiser():
    held, moved = (
        tiny(method, network="resnet18", weights="random-01234567")
        for method in ("frozen", "finetune")
    )
    stream = load_tasks(tiny("frozen"))
    count = sum(
        p.numel() for p in build_network(held, stream.shape, 0).stages.parameters()
    )
    gap = footprint.least(moved, stream) - footprint.least(held, stream)
    assert 0 < gap == 4 * 3 * count


# footprint.least: a frozen one reads its images in parts
def test_a_frozen_pretrained_extractor_reads_no_whole_batch(monkeypatch):
    small, large = (
        tiny("frozen", network="resnet18", weights="random-01234567", batch_size=size)
        for size in (2, 64)
    )
    monkeypatch.setattr(footprint, "at_once", lambda stream: 2)
    stream = load_tasks(tiny("frozen"))
    assert footprint.least(large, stream) == footprint.least(small, stream)


# footprint.least: the batch of one process
def test_processes_share_a_batch(monkeypatch):
    config = tiny("finetune", batch_size=64)
    stream = load_tasks(config)
    alone = footprint.least(config, stream)
    monkeypatch.setattr("gfrlib.engine.distributed.size", lambda: 2)
    assert alone - footprint.least(config, stream) == 4 * 32 * config.width * 8 * 8


# footprint.least: after one task no GAN is trained
def test_one_task_needs_no_memory_for_the_training_of_a_gan():
    trained, never = (
        footprint.least(config, load_tasks(config))
        for config in (
            tiny("gfr", generator_hidden=2000, split=split) for split in ((3, 4), (7,))
        )
    )
    assert never < trained / 3


# experiments._told_of: the classes before that task
def test_an_extractor_is_told_by_the_classes_that_it_has_learned():
    config, stream = tiny("finetune"), SimpleNamespace(sizes=(3, 2, 2))
    assert "5 classes, after task 1" in experiments._told_of(config, stream, 1)


# Analyses -----------------------------------------------------------------------------


# layers.Layers._activations: index[:IMAGES], the first classes alone
def test_with_many_images_every_class_is_compared(monkeypatch):
    monkeypatch.setattr(layers, "IMAGES", 3)
    stream = SimpleNamespace(
        sizes=(2, 2),
        test_index=lambda k: torch.arange(6),
        test_images=10.0 * torch.arange(6)[:, None] + torch.arange(4),
        normalise=lambda x: x,
        classes=lambda k: range(2 * k, 2 * k + 2),
    )
    network = SimpleNamespace(stages=[], head=lambda x: x)
    phase = SimpleNamespace(autocast=torch.no_grad)
    found = layers.Layers(stream)._activations(network, 1, phase)
    assert found["classifier"].tolist() == [[2, 3], [22, 23], [42, 43]]


# replayed.Replayed.project: class_std of the replayed for the real; flattest dimensions
def test_a_projection_tells_real_from_replayed_spreads(monkeypatch):
    monkeypatch.setattr(replayed, "_in_the_plane", lambda u: u[:, :2])
    stream = SimpleNamespace(sizes=(2, 1))
    about = replayed.Replayed(tiny("gfr-gaussian"), stream)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    spread = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    real = torch.tensor([-1.0, 0.0, 1.0] * 2)[:, None] * spread
    memory = SimpleNamespace(sample=lambda c, rng: torch.zeros(len(c), 5))
    phase = SimpleNamespace(seeded=lambda name: None)
    about.project(0, memory, torch.nn.Identity(), real, labels, phase)
    found = about.projection["0"]
    assert found["class_std"] == {"real": [3, 3], "replayed": [0, 0]}
    assert found["dimensions"] == [4, 3, 2, 1]
    assert found["real_values"][0] == [-5, 0, 5] * 2
    assert len(found["real"]) == 6 and len(found["replayed"]) == 2 * replayed.POINTS


# runs._accuracies: of all tasks up to one
def test_accuracies_of_a_rule_are_those_of_each_task():
    predictions = [{"softmax": np.array([0, 0])}, {"softmax": np.array([0, 1, 0])}]
    found = runs._accuracies(predictions, [1, 1, 1], (2, 1))
    assert found == {"softmax": [[0.5], [1.0, 0.0]]}
