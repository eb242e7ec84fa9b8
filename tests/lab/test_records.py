"""Records on disk: round trips, what is refused, a full disk."""

import dataclasses
import errno
import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_core import ROOT, tiny

from gfrlib import metrics, training
from gfrlib.config import RESULT_VERSION, Config, UserError, make_config
from gfrlib.engine import source
from gfrlib.engine import store as stages
from gfrlib.lab import experiments, records, seals
from gfrlib.lab.record import _pack, _unpack

CONFIG = dict(epochs_base=1, split=(3, 2, 2))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The home folder and record of one fine-tuning run, trained once."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GFR_HOME", str(home))
        return home, experiments.run_or_load(tiny("finetune", **CONFIG))


@pytest.fixture
def home(made, tmp_path, monkeypatch):
    """A copy of that folder to damage."""
    copied = shutil.copytree(made[0], tmp_path / "home")
    monkeypatch.setenv("GFR_HOME", str(copied))
    return copied


@pytest.fixture
def path(made, home) -> Path:
    return home / made[1].path.relative_to(made[0])


def altered(path: Path, change) -> Path:
    kept = json.loads(path.read_text())
    change(kept)
    path.write_bytes(seals.sealed(kept))
    return path


# --- records --------------------------------------------------------------------------


def test_round_trip(made, path):
    first, again = made[1], records.load(path)
    assert first.status == "computed now" and again.status == "loaded"
    assert again.to_json() == first.to_json()
    assert again.config == first.config and again.name == first.name == path.stem
    for a, b in zip(again.predictions, first.predictions):
        assert a.dtype == np.int64 and np.array_equal(a, b)
    np.testing.assert_array_equal(again.accuracy, first.accuracy)
    np.testing.assert_array_equal(
        again.curve, metrics.class_weighted(first.accuracy, (3, 2, 2))
    )
    np.testing.assert_allclose(again.rule("softmax"), first.accuracy, atol=1e-6)
    assert again.analysis == first.analysis
    assert {"drift", "logits", "recognised", "samples"} <= set(again.analysis)
    assert path.stat().st_size < 400_000


def test_what_a_record_says(made):
    record = made[1]
    assert record.task_sizes == [3, 2, 2] and [len(c) for c in record.task_classes] == [
        3,
        2,
        2,
    ]
    assert sum(record.test_counts) == len(record.labels()) == len(record.predictions[2])
    assert (
        len(record.labels(0))
        == len(record.predictions[0])
        == sum(record.test_counts[:3])
    )
    given = record.provenance
    assert (
        given["digest"] == source.code_digest()
        and given["result_version"] == RESULT_VERSION
    )
    assert given["versions"]["torch"] == torch.__version__ and given["threads"] == 1
    text = json.dumps(record.to_json())
    assert (
        str(Path.home()) + "/" not in text
        and str(ROOT) not in text
        and socket.gethostname() not in text
    )


def test_full_json_holds_every_field_and_rows_as_the_interface_says(made):
    full = json.loads(json.dumps(made[1].full_json(), allow_nan=False))
    assert set(full["config"]) == {f.name for f in dataclasses.fields(Config)}
    assert [len(row) for row in full["accuracy"]] == [1, 2, 3]
    np.testing.assert_allclose(full["accuracy"][2], made[1].accuracy[2], atol=1e-6)
    assert full["forgetting"][0] is None and len(full["class_weighted"]) == 3
    assert full["task_classes"] == made[1].task_classes


def test_a_row_that_a_method_has_not_is_null(home):
    record = experiments.run_or_load(tiny("joint", **CONFIG))
    again = records.load(record.path)
    assert again.predictions[:2] == [None, None]
    full = again.full_json()
    assert full["accuracy"][:2] == [None, None] and len(full["accuracy"][2]) == 3
    assert full["class_weighted"][:2] == [None, None]


@pytest.mark.parametrize("highest", [9, 255, 256, 999])
def test_predictions_are_packed_without_loss(highest):
    row = np.random.default_rng(0).integers(0, highest + 1, 2000)
    row[0] = highest
    assert np.array_equal(_unpack(_pack(row)), row)
    assert _unpack(_pack(None)) is None
    assert len(_unpack(_pack(np.array([], dtype=np.int64)))) == 0


def test_an_equal_configuration_is_loaded_and_another_is_not(made, home, monkeypatch):
    config = made[1].config
    monkeypatch.setattr(training, "run", None)  # whoever trains fails
    found = experiments.run_or_load(config)
    assert found.status == "loaded" and found.weights == made[1].weights
    assert (
        experiments.run_or_load(dataclasses.replace(config, threads=2)).status
        == "loaded"
    )  # not result-relevant
    for change in (
        dict(seed=1),
        dict(epochs_task=2),
        dict(learning_rate=2e-3),
        dict(precision="bf16"),
    ):
        assert records.find(dataclasses.replace(config, **change), (3, 2, 2)) is None
        with pytest.raises(TypeError):
            experiments.run_or_load(dataclasses.replace(config, **change))


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda k: k.update(colour=1), r"unknown fields \['colour'\]"),
        (lambda k: k.pop("losses"), r"lacks the fields \['losses'\]"),
        (lambda k: k["config"].update(momentum=0.9), r"other settings.*momentum"),
        (lambda k: k["config"].pop("seed"), r"other settings.*seed"),
        (
            lambda k: k["provenance"].update(result_version=RESULT_VERSION + 1),
            f"result version {RESULT_VERSION + 1}",
        ),
        (lambda k: k["provenance"].pop("digest"), "no readable record"),
        (lambda k: k["predictions"].__setitem__(0, "Bnonsense!"), "no readable record"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(path, change, says):
    with pytest.raises(UserError, match=says) as caught:
        records.load(altered(path, change))
    assert path.name in str(caught.value)


def test_a_setting_that_came_later_may_be_missing_where_the_run_never_reads_it(path):
    """So a new row of the table does not make all older records unreadable."""
    whole = records.load(path).config

    def older(kept):
        for name in set(kept["config"]) - set(whole.identity()) - {"split"}:
            del kept["config"][name]

    assert {"exemplars", "drift", "importance"} & set(whole.identity()) == set()
    assert records.load(altered(path, older)).config.identity() == whole.identity()


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_damaged_record_is_refused(path, share):
    text = path.read_text()
    path.write_text(text[: int(len(text) * share)])
    with pytest.raises(UserError, match="no readable record"):
        records.load(path)


def test_a_record_of_another_code_is_labelled(path):
    def other(kept):
        kept["provenance"].update(digest="0123456789ab", commit="fedcba9876543210")

    assert records.load(altered(path, other)).status == "recorded with code fedcba9876"


def test_a_quick_record_of_another_code_or_a_damaged_one_is_made_again(made, path):
    config = made[1].config
    assert records.find(config, (3, 2, 2)) is not None
    altered(path, lambda kept: kept["provenance"].update(digest="0123456789ab"))
    assert records.find(config, (3, 2, 2)) is None
    path.write_text("{")
    assert records.find(config, (3, 2, 2)) is None
    assert experiments.run_or_load(config).weights == made[1].weights
    assert records.load(path).status == "loaded"


def as_slim(made, **provenance) -> records.Record:
    config = dataclasses.replace(made[1].config, preset="slim")
    return dataclasses.replace(
        made[1],
        config=config,
        provenance={**made[1].provenance, **provenance},
        path=None,
    )


def test_a_committed_record_of_other_code_is_found_and_one_of_another_version_refused(
    made, tmp_path, monkeypatch
):
    monkeypatch.setenv("GFR_HOME", str(tmp_path))
    record = as_slim(made, digest="0123456789ab", commit="fedcba9876543210")
    kept = records.save(record, {"drift": []})
    assert kept.parent == tmp_path / "data" / "records"
    found = records.find(record.config, (3, 2, 2))
    assert found.status == "recorded with code fedcba9876" and found.analysis == {
        "drift": []
    }
    records.save(as_slim(made, result_version=RESULT_VERSION + 1))
    with pytest.raises(UserError, match="result version"):
        records.find(record.config, (3, 2, 2))


def test_names_tell_split_method_and_seed(made):
    assert made[1].name.startswith("digits-3+2x2-finetune-s0-")
    assert records.name_of(made[1].config, (50, *[10] * 5)).startswith(
        "digits-50+5x10-"
    )
    assert records.name_of(made[1].config, (25,) * 4).startswith("digits-4x25-")


def test_a_record_whose_row_has_got_a_name_since_is_found(made, path):
    config, sizes = made[1].config, made[1].task_sizes
    older = path.rename(path.with_name(path.name.replace("-finetune-", "-none_none-")))
    assert older != path and records.find(config, sizes).path == older
    assert records.find(dataclasses.replace(config, seed=9), sizes) is None


def test_records_lists_no_analyses(home):
    assert [p.name for p in records.every()] == [
        f"{p.stem}.json" for p in records.every()
    ]
    assert len(records.every()) == 1


def test_a_record_names_what_trained_its_stages(home):
    """Task 0 by one thread, the rest by two: both may differ in the last bits."""
    config = tiny("gfr-gaussian", base=6, tasks=2, threads=1)
    first = experiments.run_or_load(config)
    assert "stages" not in first.provenance and first.provenance["threads"] == 1
    longer = dataclasses.replace(config, epochs_task=2, threads=2)
    [other] = experiments.run_or_load(longer).provenance["stages"]
    assert other["threads"] == 1 and set(other) <= set(first.provenance)
    assert other["digest"] == source.code_digest()


def test_a_split_said_in_two_ways_is_one_run(home):
    """Equal later tasks may be said as `base` and `tasks`, or as the list of all."""
    config = tiny("gfr-gaussian", base=6, tasks=2)
    record = experiments.run_or_load(config)
    listed = dataclasses.replace(config, split=(6, 2, 2), base=4, tasks=3)
    assert listed.identity() != config.identity()
    found = experiments.run_or_load(listed)
    assert (found.status, found.path) == ("loaded", record.path)
    # and the other way round: what was asked as a list is found by its numbers
    uneven = dataclasses.replace(listed, split=(6, 4))
    kept = experiments.run_or_load(uneven)
    found = experiments.run_or_load(dataclasses.replace(config, base=6, tasks=1))
    assert (found.status, found.path) == ("loaded", kept.path)
    # the classes left over make another run
    assert records.find(dataclasses.replace(listed, split=(6, 2)), (6, 2)) is None
    assert records.find(dataclasses.replace(listed, split=(6, 3)), (6, 3)) is None


def test_an_analysis_of_other_weights_is_not_the_records(home):
    """As when a process ended between the two files: nothing is silently mixed."""
    record = experiments.run_or_load(tiny("finetune", **CONFIG))
    beside = record.path.with_name(f"{record.path.stem}.analysis.json")
    parts = json.loads(beside.read_text())
    assert parts["code"].endswith(f" on {record.weights[:12]}")
    parts["code"] = parts["code"].replace(record.weights[:12], "0123456789ab")
    parts.pop(seals.FIELD)
    beside.write_bytes(seals.sealed(parts))
    for read in (records.whole, lambda path: records.load(path).analysis):
        with pytest.raises(UserError, match="of another run than the record beside it"):
            read(record.path)


def test_a_full_disk_keeps_the_record_that_was_there(made, path, monkeypatch):
    before = path.read_bytes()

    def no_space(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(stages.os, "fsync", no_space)
        with pytest.raises(UserError, match="No space"):
            records.save(dataclasses.replace(made[1], path=None), {"drift": []})
    assert path.read_bytes() == before and records.load(path).status == "loaded"
    assert not [p for p in path.parent.iterdir() if p.name.startswith(".")]


def test_make_config_of_a_record_gives_its_digest(made):
    config = made[1].config
    # its split says all; base and tasks would say it another way
    unused = {"preset"} | ({"base", "tasks"} if config.split else set())
    names = {f.name for f in dataclasses.fields(Config)} - unused
    settings = {name: getattr(config, name) for name in names}
    again = make_config("quick", "finetune", **settings)
    assert again.digest() == config.digest() and made[1].name.endswith(config.digest())


def test_a_cache_of_ones_own_keeps_stages_and_all_new_records(tmp_path, monkeypatch):
    """GFR_CACHE, for a machine that forgets: what was trained there is found again by
    another one.
    """
    home, drive = tmp_path / "home", tmp_path / "drive"
    monkeypatch.setenv("GFR_HOME", str(home))
    monkeypatch.setenv("GFR_CACHE", str(drive))
    config = tiny("finetune")
    first = experiments.run_or_load(config)
    assert first.status == "computed now" and first.path.parent == drive / "records"
    assert (
        list((drive / "stages").glob("*/done.pt"))
        and not (home / "data" / "cache").exists()
    )
    assert records.folder(tiny("finetune", dataset="digits")) == drive / "records"
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "another"))
    assert experiments.run_or_load(config).status == "loaded"
