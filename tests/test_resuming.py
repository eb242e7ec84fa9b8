"""Determinism, resuming at every step, and stages shared by methods and splits."""

import contextlib

import numpy as np
import pytest
import torch
from helpers_core import SMALL, same_predictions, tiny, train
from memory_store import Killed, MemoryStore, until_done

from gfrlib.config import METHODS, UserError

# --- determinism and resuming ---------------------------------------------------------


@pytest.mark.parametrize("method", ["gfr", "lwf"])
def test_the_same_configuration_gives_the_same_numbers(whole, method):
    torch.manual_seed(99)  # the caller's random state must not matter
    np.random.seed(99)  # noqa: NPY002
    again, first = train(tiny(method, **SMALL)), whole(method)
    assert again.losses == first.losses and again.weights == first.weights
    assert same_predictions(again.predictions, first.predictions)
    other = whole(method, seed=1)
    assert other.weights != first.weights and other.losses != first.losses


@pytest.mark.parametrize("method", METHODS)
def test_a_run_killed_after_every_step_ends_as_the_whole_one(whole, method):
    store = MemoryStore(kills=lambda step: True)
    resumed, kills = until_done(tiny(method, **SMALL), store)
    assert kills >= {"joint": 12, "frozen": 5}.get(method, 8)
    assert sorted(set(store.resumed)) == list(range(1, max(store.resumed) + 1))
    first = whole(method)
    assert resumed.losses == first.losses
    assert resumed.weights == first.weights
    assert same_predictions(resumed.predictions, first.predictions)
    assert resumed.bytes_kept == first.bytes_kept


def test_both_phases_are_killed_and_resumed(whole):
    """As above for the paper's row, with epochs so long that kills fall inside them."""
    store = MemoryStore(kills=lambda step: step % 3 == 1)
    resumed, kills = until_done(tiny("gfr", **{**SMALL, "epochs_task": 2}), store)
    first = whole("gfr", epochs_task=2)
    assert kills >= 8
    assert resumed.losses == first.losses
    assert resumed.weights == first.weights
    assert {row["phase"] for row in resumed.losses} == {"classifier", "generator"}
    assert same_predictions(resumed.predictions, first.predictions)


def test_a_run_in_fp16_resumes_with_its_scale():
    """The loss scaler's state is kept: killed after every step, the run ends alike."""
    config = tiny("lwf", **SMALL, precision="fp16")
    uninterrupted = train(config)
    resumed, kills = until_done(config, MemoryStore(kills=lambda step: True))
    assert kills >= 8
    assert resumed.weights == uninterrupted.weights


def test_a_checkpoint_that_lost_something_is_noticed(whole):
    """The comparison above can fail: without the optimiser's state, other weights."""
    store = MemoryStore(kills=lambda step: step == 2)
    config = tiny("finetune", **SMALL)
    with pytest.raises(Killed):
        train(config, store)
    (key,) = store.kept
    state = store.read(key, "checkpoint")
    for values in state["optimizer"]["state"].values():
        values["exp_avg"].zero_()
    store.write(key, "checkpoint", state)
    store.kills = None
    assert train(config, store).weights != whole("finetune").weights


def test_a_checkpoint_of_another_configuration_is_refused():
    store = MemoryStore(kills=lambda step: step == 2)
    with pytest.raises(Killed):
        train(tiny("finetune", **SMALL), store)
    (saved,) = store.kept.values()
    wider = tiny("finetune", **{**SMALL, "width": 12}, batch_size=32)
    probe = MemoryStore(kills=lambda step: True)
    with contextlib.suppress(Killed):
        train(wider, probe)
    (key,) = probe.kept
    other = MemoryStore()
    other.kept[key] = {"checkpoint": saved["checkpoint"]}
    with pytest.raises(UserError, match="another configuration"):
        train(wider, other)


# --- stages ---------------------------------------------------------------------------


def trainings(store: MemoryStore, config) -> list:
    """(task, phase) of the stages that this run had to train."""
    before = len(store.trained)
    train(config, store)
    return store.trained[before:]


def test_task_0_is_trained_once_for_all_rows_and_splits():
    store = MemoryStore()
    few = dict(epochs_base=1, generator_steps_base=4, generator_steps_later=4)
    split = dict(base=4, tasks=3)
    both = [(t, phase) for t in range(4) for phase in ("classifier", "generator")]

    def trained(method, **changes):
        return trainings(store, tiny(method, **{**few, **split, **changes}))

    assert trained("gfr") == both
    assert trained("gfr") == []
    for method in ("gfr-gaussian", "finetune", "frozen"):
        assert trained(method) == both[1:], method
    # fine-tuning has no generator either
    assert trained("lwf") == both[2:]
    # of fewer tasks: the generator of task 0 is shared, too
    assert trained("gfr", tasks=2) == both[2:6]
    other_split = trainings(store, tiny("gfr", split=(4, 1), **few))
    assert other_split[0] == (1, "classifier")
    assert trained("gfr", penalty_weight=2.0) == both[2:]
    assert trained("gfr", prediction="softmax", threads=2) == []
    for other in (
        dict(seed=1),
        dict(base=3, tasks=1),
        dict(width=12),
        dict(class_order="sorted"),
    ):
        assert (0, "classifier") in trained("finetune", **other), other


def test_a_shared_stage_does_not_depend_on_who_trained_it(whole):
    store = MemoryStore()
    train(tiny("lwf", **SMALL), store)
    train(tiny("gfr-gaussian", **SMALL), store)
    after_others = train(tiny("gfr", **SMALL), store)
    assert after_others.weights == whole("gfr").weights
    assert same_predictions(after_others.predictions, whole("gfr").predictions)


def test_joint_training_shares_nothing_with_the_sequential_rows():
    """With all outputs from the start, too: its one stage has seen all data."""
    for full_head in (False, True):
        store = MemoryStore()
        train(tiny("finetune", **SMALL, full_head=full_head), store)
        joint = trainings(store, tiny("joint", **SMALL, full_head=full_head))
        assert (2, "classifier") in joint, f"{full_head=}"


def test_frozen_rows_keep_their_own_prediction_rules():
    """A shared evaluation must not depend on which row came first."""
    frozen = tiny("frozen", **SMALL)
    alone = train(frozen).predictions
    store = MemoryStore()
    train(tiny("gfr", **SMALL, memory="means"), store)
    assert same_predictions(train(frozen, store).predictions, alone)


def test_rows_that_share_their_training_share_its_stages():
    """iCaRL's rows differ in prediction only: the second trains nothing."""
    store = MemoryStore()
    first = train(tiny("icarl-cnn", **SMALL), store)
    kept = len(store.trained)
    second = train(tiny("icarl-nme", **SMALL), store)
    assert second.weights == first.weights and len(store.trained) == kept > 0
