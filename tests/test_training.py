"""Algorithm 1: what each row moves, logs and keeps; schedules and order of images."""

import copy
import math

import pytest
import torch
from helpers_core import SMALL, load_tasks, tiny, train
from memory_store import MemoryStore, until_done

from gfrlib import losses, training
from gfrlib.config import METHODS, UserError, make_config
from gfrlib.engine import chain, descent
from gfrlib.engine.machine import Machine
from gfrlib.engine.phase import Phase
from gfrlib.penalties import Past

# --- what the rows do -----------------------------------------------------------------


def states_of(config) -> list[dict]:
    """The network's weights and buffers after each task."""
    states = []
    train(
        config,
        observe=lambda t, network, memory: states.append(
            copy.deepcopy(network.state_dict())
        ),
    )
    return states


def moved(before: dict, after: dict, what: str) -> bool:
    """Whether anything of that name changed in the stages."""
    names = [n for n in before if n.startswith("stages") and what in n]
    assert names
    return any(not torch.equal(before[n], after[n]) for n in names)


def test_frozen_does_not_move_the_extractor_and_fine_tuning_does():
    frozen = states_of(tiny("frozen", **SMALL))
    assert len(frozen) == 3 and not moved(frozen[0], frozen[2], "")
    tuned = states_of(tiny("finetune", **SMALL))
    assert moved(tuned[0], tuned[1], "weight")
    assert moved(tuned[0], tuned[1], "running_mean")


def test_feature_replay_trains_weights_and_keeps_batch_statistics():
    states = states_of(tiny("gfr", **SMALL))
    assert moved(states[0], states[1], "weight")
    assert not moved(states[0], states[2], "running")
    states = states_of(tiny("gfr", **SMALL, batch_norm="train"))
    assert moved(states[0], states[1], "running")


def test_joint_has_one_row_the_last(whole):
    outcome = whole("joint")
    assert outcome.predictions[:2] == [None, None]
    assert outcome.bytes_kept[:2] == [None, None]
    assert {row["task"] for row in outcome.losses} == {2}
    stream = load_tasks(tiny("joint", **SMALL))
    images = sum(len(stream.test_index(t)) for t in range(3))
    assert len(outcome.predictions[2]["softmax"]) == images


def test_phases_come_in_the_order_of_algorithm_1(whole):
    terms = {}
    for row in whole("gfr").losses:
        terms[row["task"], row["phase"]] = set(row) - {"task", "phase", "step"}
    phases = [(t, phase) for t in range(3) for phase in ("classifier", "generator")]
    assert list(terms) == phases[:-1]  # no generator after the last task
    gan = {"loss", "wasserstein", "gradient_penalty", "adversarial"}
    assert terms[0, "classifier"] == {"loss", "new"}
    assert terms[2, "classifier"] == {"loss", "new", "replayed", "penalty"}
    assert terms[0, "generator"] == gan
    assert terms[1, "generator"] == gan | {"alignment"}


def test_logged_losses_add_up(whole):
    sizes = (3, 2, 2)
    for row in whole("gfr").losses:
        if row["phase"] == "generator":
            parts = row["adversarial"] + row.get("alignment", 0)
            assert row["loss"] == pytest.approx(parts, rel=1e-5, abs=1e-6)
        elif row["task"]:
            f = sum(sizes[: row["task"]]) / sizes[row["task"]]
            balanced = losses.balanced_classification(row["new"], row["replayed"], f)
            assert row["loss"] == pytest.approx(balanced + row["penalty"], rel=1e-5)
    for row in whole("lwf").losses:
        parts = row["new"] + row.get("penalty", 0)
        assert row["loss"] == pytest.approx(parts, rel=1e-5)


def test_bytes_kept_name_what_is_carried(whole):
    for method, carried in {
        "gfr": {"generator", "discriminator", "old network"},
        "gfr-gaussian": {"class means", "standard deviations", "old network"},
        "lwf": {"old network"},
    }.items():
        assert set(whole(method).bytes_kept[1]) == carried
    assert whole("finetune").bytes_kept == [{}, {}, {}]
    # drift is fitted to what the old network says
    moved = train(tiny("gfr-gaussian-drift", **SMALL, penalty="none"))
    assert "old network" in moved.bytes_kept[1]
    joint = load_tasks(tiny("joint", **SMALL))
    used = int((joint.train_labels < 7).sum()) * 64
    assert whole("joint").bytes_kept[2]["training images"] >= used


@pytest.mark.parametrize("method", [m for m in METHODS if m != "joint"])
def test_all_outputs_from_the_start(method):
    """full_head, as the official code: arg-max over classes yet to come, too."""
    if METHODS[method].columns["head"] != "single":
        with pytest.raises(UserError, match="it needs head = single"):
            tiny(method, **SMALL, full_head=True)
        return
    outcome = train(tiny(method, **SMALL, full_head=True))
    assert outcome.losses and len(outcome.predictions) == 3
    untrained = train(tiny(method, **SMALL, full_head=True, learning_rate=1e-9))
    for rule, predicted in untrained.predictions[0].items():
        yet_to_come = predicted.max() >= SMALL["split"][0]
        assert yet_to_come == (rule == "softmax"), rule


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(learning_rate=1e30), "task 0's classifier"),
        (dict(generator_learning_rate=1e30), "task 0's generator"),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run_with_one_sentence(changes, says):
    store = MemoryStore()
    with pytest.raises(UserError, match=says) as caught:
        train(tiny("gfr", **{**SMALL, "epochs_base": 2, **changes}), store)
    assert "NaN or infinite" in str(caught.value) and "\n" not in str(caught.value)
    unfinished = "classifier" if "learning_rate" in changes else "generator"
    assert (0, unfinished) not in store.trained


def test_nan_is_never_kept_in_a_checkpoint():
    store = MemoryStore(kills=lambda step: step > 2)
    with pytest.raises(UserError, match="NaN"):
        until_done(tiny("finetune", **SMALL, learning_rate=1e30), store)
    for key in store.kept:
        sums = store.read(key, "checkpoint")["sums"]
        assert all(math.isfinite(v) for v in sums.values())


# --- schedules ------------------------------------------------------------------------


def test_learning_rate_schedules():
    last = [descent.rate_factor("last-epoch", s, 50, 10) for s in (0, 39, 40, 49)]
    assert last == [1, 1, 0.1, 0.1]
    # a single epoch keeps its rate
    assert descent.rate_factor("last-epoch", 5, 10, 10) == 1
    # eleven steps of rise, then half a cosine over 99
    at = (0, 4, 10, 11, 60, 61, 110)
    found = [descent.rate_factor("cosine", s, 110, 10) for s in at]
    middle = [0.5 * (1 + math.cos(math.pi * s / 99)) for s in (49, 50)]
    assert found == pytest.approx([1 / 11, 5 / 11, 1, 1, *middle, 0])
    assert max(descent.rate_factor("cosine", s, 3, 3) for s in range(3)) == 1


def test_generator_steps_are_shared_by_the_later_tasks():
    config = make_config("paper")
    assert chain.generator_steps(config, 6, 0) == 19539
    for count in (6, 11, 26):  # 5, 10 and 25 tasks after the base; the last trains none
        shares = [chain.generator_steps(config, count, t) for t in range(count)]
        assert 0 <= 20040 - sum(shares[1:-1]) < count


def test_every_epoch_sees_every_image_at_most_once_and_in_another_order():
    def fresh():
        return Phase("classifier", 0, 0, Machine.of(tiny("gfr")))

    phase = fresh()
    epochs = [
        torch.cat([phase.epoch_rows(e * 6 + s, 50, 8) for s in range(6)]).tolist()
        for e in range(3)
    ]
    assert all(len(rows) == len(set(rows)) == 48 and max(rows) < 50 for rows in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    # whatever step it begins with
    assert fresh().epoch_rows(6 + 2, 50, 8).tolist() == epochs[1][16:24]
    assert len(phase.epoch_rows(0, 5, 8)) == 5  # fewer images than a batch


# --- the old network is asked only for what a penalty reads --------------------------


def asked(method: str, **changes) -> dict[str, int]:
    """How many batches the old stages and the old head saw in one later task."""
    config = tiny(method, **{**SMALL, "split": (3, 2), **changes})
    stream = load_tasks(config)
    network, memory, importance = training.build(config, stream, torch.device("cpu"))
    training.grow_head(network, config, stream.sizes, 0)
    past = Past(network, memory, importance, config, stream.sizes, 1)
    training.grow_head(network, config, stream.sizes, 1)
    seen = {"stages": 0, "last stage": 0, "head": 0}

    def count(what):
        return lambda *_: seen.__setitem__(what, seen[what] + 1)

    past.network.stages[0].register_forward_hook(count("stages"))
    past.network.stages[3].register_forward_hook(count("last stage"))
    past.network.head.register_forward_hook(count("head"))
    if memory.fits:
        real = torch.rand(60, network.features), torch.arange(60) % 3
        past.memory.fit(*real, torch.arange(60))
    phase = Phase("classifier", 1, 0, Machine.of(config))
    training.train_classifier(network, past, stream, 1, config, phase)
    return {"steps": phase.step, **seen}


@pytest.mark.parametrize("method", ["finetune", "ewc", "mas", "ewc-gan", "mas-gan"])
def test_rows_that_read_nothing_of_the_old_network_do_not_ask_it(method):
    found = asked(method)
    assert found["steps"] > 0
    assert (found["stages"], found["last stage"], found["head"]) == (0, 0, 0)


@pytest.mark.parametrize(
    "method, last, head",
    [("lwf", 1, 1), ("gfr", 1, 0), ("gfr-gaussian", 1, 0), ("block-2", 0, 0)],
)
def test_a_penalty_asks_the_old_network_up_to_what_it_reads(method, last, head):
    found = asked(method)
    steps = found["steps"]
    assert found["stages"] == steps > 0
    assert found["last stage"] == last * steps and found["head"] == head * steps
