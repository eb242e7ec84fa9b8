"""A reader's own penalty, memory or rule: what it may do, what would be silent."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from helpers_core import SMALL, load_tasks, tiny

from gfrlib import (
    cli,
    generator_training,
    methods,
    networks,
    penalties,
    prediction,
    replay,
    training,
)
from gfrlib.config import UserError, make_config
from gfrlib.engine import store
from gfrlib.lab import experiments, grids, records, runs
from gfrlib.memory import Memory
from gfrlib.methods import COLUMNS, FEATURES, METHODS, Method


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GFR_CACHE", raising=False)
    return tmp_path


class Plain(replay.ClassMeans):
    """Statistics in an ordinary attribute, which no stage keeps."""

    def fit(self, features, labels, rows=None):
        super().fit(features, labels)
        self.spread = {int(c): features[labels == c].std(0) for c in labels.unique()}


def use(monkeypatch, kind, **more):
    build = type(kind.__name__, (kind,), more)
    monkeypatch.setitem(
        replay.MEMORIES, "means", lambda c, room: build(room.classes, *room.shape)
    )


def test_what_a_memory_learns_must_be_a_buffer(monkeypatch):
    """From the cache such a memory came back empty, and replayed from zeros."""
    use(monkeypatch, Plain)
    config = tiny("gfr-gaussian", **SMALL, memory="means")
    with pytest.raises(
        UserError, match="'Plain' keeps what it learns in 'spread'.*buffer"
    ):
        training.run(config, load_tasks(config))
    use(monkeypatch, Plain, passing=("spread",))
    training.run(config, load_tasks(config))


@pytest.mark.parametrize("lacking", ["replays", "fits"])
def test_a_memory_declares_what_it_does(monkeypatch, lacking):
    """Without the word its method was never called: a run with no memory at all."""
    parts = {"fits": True, "replays": True, "fit": Plain.fit, "sample": Plain.sample}
    del parts[lacking]

    def built(**more):
        own = type("Own", (Memory,), {**parts, **more})
        monkeypatch.setitem(replay.MEMORIES, "means", lambda c, room: own())
        return replay.build_memory(tiny("gfr-gaussian", memory="means"), 4, (3,), 0)

    with pytest.raises(UserError, match=f"set {lacking} = True"):
        built()
    built(**{lacking: False})  # said on purpose


def test_row_numbers_of_images_are_a_buffer_behind_a_property(monkeypatch):
    def fit(self, features, labels, rows=None):
        replay.ClassMeans.fit(self, features, labels)
        self.rows = rows

    use(monkeypatch, replay.ClassMeans, fit=fit)
    config = tiny("gfr-gaussian", **SMALL, memory="means")
    with pytest.raises(UserError, match="make rows a property of it"):
        training.run(config, load_tasks(config))


def test_a_learned_number_must_be_a_buffer(monkeypatch):
    """From the cache a radius came back as 0, and one configuration had two results."""

    def fit(self, features, labels, rows=None):
        replay.ClassMeans.fit(self, features, labels)
        self.radius = float(features.var(0).mean().sqrt())

    for more in ({"radius": 0.0}, {}):  # with a value before it learns, and without
        use(monkeypatch, replay.ClassMeans, fit=fit, **more)
        config = tiny("gfr-gaussian", **SMALL, memory="means")
        with pytest.raises(UserError, match="what it learns in 'radius'.*buffer"):
            training.run(config, load_tasks(config))
    use(monkeypatch, replay.ClassMeans, fit=fit, passing=("radius",))
    training.run(config, load_tasks(config))
    for method in METHODS:  # the library's own are built with what they keep
        row = tiny(method, **SMALL)
        shape = (3,) if row.cut == FEATURES else (3, 8, 8)
        replay.build_memory(row, 4, shape, 0).check_state()


def test_what_follows_drift_has_a_way_to_move(monkeypatch):
    """Without `move` a row with drift compensation followed nothing, in silence."""
    build = type("Still", (Memory,), {"fits": False, "replays": False})
    monkeypatch.setitem(replay.MEMORIES, "gaussian", lambda c, room: build())
    replay.build_memory(tiny("gfr-gaussian", **SMALL), 4, (3,), 0)
    with pytest.raises(UserError, match="'Still' has no method move"):
        replay.build_memory(tiny("gfr-gaussian-drift", **SMALL), 4, (3,), 0)


def test_a_penalty_that_reads_the_weight_of_old_tasks_says_so(monkeypatch):
    """Two runs with and without the weighting had one record."""

    def weighed(past, batch):
        return past.f * 1e-3 * batch.u.float().square().mean()

    weighed.__module__ = "gfrlib.penalties"
    monkeypatch.setitem(COLUMNS, "penalty", (*COLUMNS["penalty"], "weighed"))
    monkeypatch.setitem(penalties.PENALTIES, "weighed", weighed)
    config = tiny("gfr-gaussian", **SMALL, memory="none", penalty="weighed")
    with pytest.raises(UserError, match="'weighed'.*reads past.f.*WEIGHED"):
        training.run(config, load_tasks(config))
    monkeypatch.setattr(methods, "WEIGHED", (*methods.WEIGHED, "weighed"))
    training.run(config, load_tasks(config))
    other = config.but(old_task_weighting=False)
    assert other.digest() != config.digest()


def test_a_memory_that_does_not_say_its_bytes_has_those_of_its_state():
    memory = Memory()
    assert memory.nbytes() == {}
    memory.register_buffer("means", torch.zeros(10, 3))
    assert memory.nbytes() == {"memory": 120}


def outside(past, batch):
    return 0 * batch.u.float().sum()


def test_code_outside_the_library_is_trained_and_never_kept(home, monkeypatch):
    """An edited penalty of a script was answered with the old record."""
    monkeypatch.setitem(penalties.PENALTIES, "features", outside)
    config = tiny("gfr-gaussian", **SMALL)
    with pytest.raises(UserError, match="'features' is code of 'test_own_methods'"):
        experiments.run_or_load(config)
    assert not (home / "home").exists()
    training.run(config, load_tasks(config))
    monkeypatch.undo()
    for table, word, more in (
        (networks.NETWORKS, "cnn", {}),
        (generator_training.TRAINERS, "gan", {"method": "gfr"}),
        (penalties.IMPORTANCES, "fisher", {"method": "ewc"}),
        (penalties.FACIL, "fisher", {"method": "ewc"}),
    ):
        with monkeypatch.context() as patched:
            patched.setitem(table, word, outside)
            row = tiny(**{"method": "gfr-gaussian", **SMALL, **more})
            with pytest.raises(UserError, match=f"'{word}' is code of"):
                experiments.check_own_code(row)
    own = functools.partial(penalties.features)  # of the library, however it is wrapped
    monkeypatch.setitem(penalties.PENALTIES, "features", own)
    experiments.check_own_code(config)


def test_a_penalty_sees_labels_and_draws_what_the_seed_says(monkeypatch):
    def noisy(past, batch):
        assert batch.y.shape == batch.u.shape[:1]
        assert past.classes <= int(batch.y.min())
        z = torch.randn(batch.u.shape, generator=batch.rng)
        return (batch.u.float() * z).square().mean()

    monkeypatch.setitem(penalties.PENALTIES, "features", noisy)
    config = tiny("gfr-gaussian", **SMALL)
    stream = load_tasks(config)
    assert training.run(config, stream).weights == training.run(config, stream).weights


def test_a_word_without_a_function_is_refused(home, monkeypatch):
    """It was trained as if there were no penalty."""
    config = tiny("gfr-gaussian", **SMALL)
    with pytest.raises(UserError, match="'penalty' must be one of"):
        experiments.run_or_load(dataclasses.replace(config, penalty="featurs"))
    with pytest.raises(UserError, match="above 0"):
        experiments.run_or_load(dataclasses.replace(config, learning_rate=-1.0))
    monkeypatch.delitem(penalties.PENALTIES, "features")
    with pytest.raises(UserError, match="'features' has no function in PENALTIES"):
        training.run(config, load_tasks(config))


def test_a_new_rule_is_evaluated_after_its_baseline(tmp_path, monkeypatch):
    """The kept predictions of the baseline lack it, and the run ended in a KeyError."""
    config, kept = tiny("finetune", **SMALL), store.Store(tmp_path)
    stream = load_tasks(config)
    training.run(config, stream, store=kept)
    monkeypatch.setitem(COLUMNS, "prediction", (*COLUMNS["prediction"], "last"))
    monkeypatch.setitem(
        prediction.PREDICTIONS, "last", lambda seen: seen.logits.flip(1)
    )
    mine = dataclasses.replace(config, prediction="last")
    found = training.run(mine, stream, store=kept).predictions
    assert all("last" in rules and "softmax" in rules for rules in found)
    # once more: as they are kept
    again = training.run(mine, stream, store=kept).predictions
    assert all(np.array_equal(a["last"], b["last"]) for a, b in zip(found, again))


def test_a_stream_of_another_split_is_refused():
    config = tiny("finetune", **SMALL)
    other = dataclasses.replace(config, split=(5, 5))
    with pytest.raises(UserError, match="asks for another split"):
        training.run(config, load_tasks(other))


def test_a_row_that_would_be_shown_as_another_is_refused(monkeypatch):
    cosine = {"distance": "cosine"}
    row = Method("features", "gaussian", batch_norm="frozen", own=cosine)
    monkeypatch.setitem(METHODS, "mine", row)
    with pytest.raises(UserError, match=r"'mine' has the columns of 'gfr-gaussian'"):
        make_config("quick", "mine")
    marked = dataclasses.replace(row, own={}, marks=cosine)
    monkeypatch.setitem(METHODS, "mine", marked)
    assert make_config("quick", "mine").method == "mine"


def test_the_same_run_with_other_settings():
    config = make_config("quick", "gfr-gaussian", split=(5, 5))
    other = config.but(base=5, tasks=5, penalty_weight=2)
    assert (other.base, other.tasks, other.split) == (5, 5, ())
    assert other.penalty_weight == 2.0 and type(other.penalty_weight) is float
    assert config.but(seed=1).identity() == {**config.identity(), "seed": 1}
    for wrong, says in (
        (dict(sed=1), "did you mean seed"),
        (dict(seed=-1), "'seed' must not be negative"),
        (dict(seed=np.int64(3)), "'seed' must be a whole number"),
        (dict(split=(5, 5), base=5), "leave one out"),
        (dict(penalty="less-forget"), "belong together"),
    ):
        with pytest.raises(UserError, match=says):
            config.but(**wrong)


def test_settings_that_a_run_never_reads_are_named(home, capsys):
    changes = dict(latent_dim=64, temperature=9.0, seed=3, penalty_weight=2.0)
    config = make_config("quick", "gfr-gaussian", **changes)
    assert config.unread(changes) == ["latent_dim", "temperature"]
    assert make_config("quick", "gfr", **changes).unread(changes) == ["temperature"]
    assert config.unread(["device", "threads", "preset"]) == []
    words = ["--latent-dim", "64", "--epochs-base", "1", "--epochs-task", "1"]
    assert cli.main(["run", "--method", "gfr-gaussian", *words]) == 0
    assert "never reads 'latent_dim'" in capsys.readouterr().err
    grid = home / "grid.yaml"
    text = "runs: [{methods: [fetril, gfr-gaussian], search: {latent_dim: [8, 64]}}]\n"
    grid.write_text(text)
    with pytest.raises(UserError, match="'latent_dim', which none of its runs reads"):
        grids.read(grid)
    grid.write_text(text.replace("fetril", "gfr"))
    assert len(grids.read(grid)) == 4


def test_what_a_run_returns_is_read_like_a_record(home):
    config = tiny("finetune", **SMALL)
    stream = load_tasks(config)
    found = runs.record_of(config, stream, training.run(config, stream))
    record = experiments.run_or_load(config)
    np.testing.assert_array_equal(found.accuracy, record.accuracy)
    assert found.task_classes == record.task_classes
    bare = dataclasses.replace(record, provenance={})
    with pytest.raises(UserError, match="provenance lacks 'result_version'"):
        records.save(bare)  # it could be written, and was called damaged when read
    again = records.load(str(record.path))  # a path in words is a path
    np.testing.assert_array_equal(again.accuracy, record.accuracy)


def test_a_record_tells_what_the_field_reports(home):
    record = experiments.run_or_load(tiny("finetune", **SMALL))
    assert record.average_incremental == pytest.approx(np.mean(record.curve))
    n, a = np.array(record.task_sizes), record.accuracy
    lost = [np.nanmax(a[k:2, k]) - a[2, k] for k in range(2)]
    assert record.forgetting[2] == pytest.approx((lost * n[:2]).sum() / n[:2].sum())
    found = record.confusion()
    assert found.sum() == len(record.labels()) and found.shape == (7, 7)
    right = np.trace(found) / found.sum()
    assert right == pytest.approx((record.predictions[2] == record.labels()).mean())
    assert record.confusion(0).shape == (n[0], n[0])
    joint = experiments.run_or_load(tiny("joint", **SMALL))
    with pytest.raises(ValueError, match="no predictions after task 0"):
        joint.confusion(0)
