"""Algorithm 1: determinism, resuming at every step, stages shared by methods and splits, and one committed result.

To renew tests/expected/slim_stage.json after RESULT_VERSION was raised: `python tests/test_training.py`.
"""

import contextlib
import copy
import hashlib
import io
import json
import math
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers_core import generated, same_predictions, tiny, train

from gfrlib import losses, tasks, training
from gfrlib.config import METHODS, RESULT_VERSION, UserError, make_config
from gfrlib.engine import distributed, machine
from gfrlib.lab.experiments import load_tasks
from gfrlib.networks import build_network
from gfrlib.replay import Memory

EXPECTED = Path(__file__).parent / "expected" / "slim_stage.json"


class Killed(Exception):
    """Stands for kill -9."""


class MemoryStore:
    """Stages kept as bytes in memory; `every` step saves a checkpoint and then dies, where `kills(number, step)` says so."""

    code = "test"

    def __init__(self, kills=None):
        self.kept, self.trained, self.opened, self.kills, self.resumed = (
            {},
            [],
            [],
            kills,
            [],
        )

    @contextlib.contextmanager
    def stage(self, key: str):
        self.opened.append(key)
        yield MemoryStage(self, key)


class MemoryStage:
    path = Path("memory")

    def __init__(self, store: MemoryStore, key: str):
        self.store, self.key, self.number, self.step = store, key, len(store.kept), 0

    def _read(self, what: str):
        content = self.store.kept.get(self.key, {}).get(what)
        return (
            None
            if content is None
            else torch.load(io.BytesIO(content), weights_only=True)
        )

    def _write(self, what: str, state: dict) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.store.kept.setdefault(self.key, {})[what] = buffer.getvalue()

    def result(self):
        return self._read("done")

    def checkpoint(self):
        state = self._read("checkpoint")
        if state is not None:
            self.step = state["step"]
            self.store.resumed.append(state["step"])
        return state

    def due(self) -> bool:
        self.step += 1
        return self.store.kills is not None and self.store.kills(self.step)

    def save(self, state: dict) -> None:
        assert state["step"] == self.step
        self._write("checkpoint", state)
        raise Killed

    def finish(self, state: dict) -> None:
        if "seconds" in state:
            self.store.trained.append(
                (state["seconds"]["task"], state["seconds"]["phase"])
            )
        self._write("done", state)


def until_done(
    config, store: MemoryStore, limit: int = 400
) -> tuple[training.Outcome, int]:
    """Run again after every kill; the outcome and the number of kills."""
    for kills in range(limit):
        with contextlib.suppress(Killed):
            return train(config, store), kills
    raise AssertionError("it never came to its end")


SMALL = dict(
    split=(3, 2, 2), epochs_base=1, generator_steps_base=6, generator_steps_later=5
)


@pytest.fixture(scope="module")
def whole():
    """whole(method, ...) -> the uninterrupted run of a small configuration, trained once."""
    known = {}

    def get(method, **changes):
        key = (method, *sorted(changes.items()))
        if key not in known:
            known[key] = train(tiny(method, **{**SMALL, **changes}))
        return known[key]

    return get


# --- determinism and resuming -----------------------------------------------------------------------------------------


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
    """As above for the paper's row, with longer epochs, so that kills fall inside them and at their borders."""
    store = MemoryStore(kills=lambda step: step % 3 == 1)
    config = tiny("gfr", **{**SMALL, "epochs_task": 2})
    resumed, kills = until_done(config, store)
    first = whole("gfr", epochs_task=2)
    assert (
        kills >= 8
        and resumed.losses == first.losses
        and resumed.weights == first.weights
    )
    assert {row["phase"] for row in resumed.losses} == {"classifier", "generator"}
    assert same_predictions(resumed.predictions, first.predictions)


def test_a_checkpoint_that_lost_something_is_noticed(whole):
    """The comparison above can fail: a resume that forgets the optimiser gives other weights."""
    store = MemoryStore(kills=lambda step: step == 2)
    config = tiny("finetune", **SMALL)
    with pytest.raises(Killed):
        train(config, store)
    (key,) = store.kept
    state = torch.load(io.BytesIO(store.kept[key]["checkpoint"]), weights_only=True)
    for values in state["optimizer"]["state"].values():
        values["exp_avg"].zero_()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    store.kept[key]["checkpoint"], store.kills = buffer.getvalue(), None
    assert train(config, store).weights != whole("finetune").weights


def test_a_checkpoint_of_another_configuration_is_refused():
    store = MemoryStore(kills=lambda step: step == 2)
    with pytest.raises(Killed):
        train(tiny("finetune", **SMALL), store)
    (saved,) = store.kept.values()
    wider = tiny("finetune", **SMALL, batch_size=32)
    wider = type(wider)(**{**wider.__dict__, "width": 12})
    other = MemoryStore()
    key = None
    with contextlib.suppress(Killed):
        probe = MemoryStore(kills=lambda step: True)
        train(wider, probe)
    (key,) = probe.kept
    other.kept[key] = {"checkpoint": saved["checkpoint"]}
    with pytest.raises(UserError, match="another configuration"):
        train(wider, other)


# --- stages -------------------------------------------------------------------------------------------------------------


def trainings(store: MemoryStore, config) -> list:
    """(task, phase) of the stages that this run had to train."""
    before = len(store.trained)
    train(config, store)
    return store.trained[before:]


def test_task_0_is_trained_once_for_all_rows_and_splits():
    store, base = (
        MemoryStore(),
        dict(epochs_base=1, generator_steps_base=4, generator_steps_later=4),
    )
    both = [(t, phase) for t in range(4) for phase in ("classifier", "generator")]
    assert trainings(store, tiny("gfr", base=4, tasks=3, **base)) == both
    assert trainings(store, tiny("gfr", base=4, tasks=3, **base)) == []
    for method in ("gfr-gaussian", "finetune", "frozen"):
        assert trainings(store, tiny(method, base=4, tasks=3, **base)) == both[1:], (
            method
        )
    assert (
        trainings(store, tiny("lwf", base=4, tasks=3, **base)) == both[2:]
    )  # fine-tuning has no generator either
    assert (
        trainings(store, tiny("gfr", base=4, tasks=2, **base)) == both[2:6]
    )  # its generator of task 0 as well
    assert trainings(store, tiny("gfr", split=(4, 1), **base))[0] == (1, "classifier")
    assert (
        trainings(store, tiny("gfr", base=4, tasks=3, **base, penalty_weight=2.0))
        == both[2:]
    )
    assert (
        trainings(
            store, tiny("gfr", base=4, tasks=3, **base, prediction="softmax", threads=2)
        )
        == []
    )
    for other in (
        dict(seed=1),
        dict(base=3, tasks=1),
        dict(width=12),
        dict(class_order="sorted"),
    ):
        config = tiny("finetune", **{**dict(base=4, tasks=3), **base, **other})
        assert (0, "classifier") in trainings(store, config), other


def test_a_shared_stage_does_not_depend_on_who_trained_it(whole):
    store = MemoryStore()
    train(tiny("lwf", **SMALL), store)
    train(tiny("gfr-gaussian", **SMALL), store)
    after_others = train(tiny("gfr", **SMALL), store)
    assert after_others.weights == whole("gfr").weights
    assert same_predictions(after_others.predictions, whole("gfr").predictions)


def test_joint_training_shares_nothing_with_the_sequential_rows():
    """Even with all outputs there from the start: its only stage has seen all data, theirs only task 0's."""
    for full_head in (False, True):
        store = MemoryStore()
        train(tiny("finetune", **SMALL, full_head=full_head), store)
        assert (2, "classifier") in trainings(
            store, tiny("joint", **SMALL, full_head=full_head)
        ), f"{full_head=}"


def test_frozen_rows_keep_their_own_prediction_rules():
    """A shared evaluation must not depend on which row came first."""
    frozen = tiny("frozen", **SMALL)
    means = tiny("gfr", **SMALL, memory="means")
    alone = train(frozen).predictions
    store = MemoryStore()
    train(means, store)
    assert same_predictions(train(frozen, store).predictions, alone)


# --- what the rows do ---------------------------------------------------------------------------------------------------


def observed(config) -> tuple[training.Outcome, list[dict]]:
    states = []
    outcome = train(
        config,
        observe=lambda t, network, memory: states.append(
            copy.deepcopy(network.state_dict())
        ),
    )
    return outcome, states


def moved(before: dict, after: dict, what: str) -> bool:
    names = [n for n in before if n.startswith("stages") and what in n]
    assert names
    return any(not torch.equal(before[n], after[n]) for n in names)


def test_frozen_does_not_move_the_extractor_and_fine_tuning_does():
    _, frozen = observed(tiny("frozen", **SMALL))
    assert len(frozen) == 3 and not moved(frozen[0], frozen[2], "")
    _, tuned = observed(tiny("finetune", **SMALL))
    assert moved(tuned[0], tuned[1], "weight") and moved(
        tuned[0], tuned[1], "running_mean"
    )


def test_feature_replay_trains_weights_and_keeps_batch_statistics():
    _, states = observed(tiny("gfr", **SMALL))
    assert moved(states[0], states[1], "weight") and not moved(
        states[0], states[2], "running"
    )
    _, states = observed(tiny("gfr", **SMALL, batch_norm="train"))
    assert moved(states[0], states[1], "running")


def test_joint_has_one_row_the_last(whole):
    outcome = whole("joint")
    assert outcome.predictions[:2] == [None, None] and outcome.bytes_kept[:2] == [
        None,
        None,
    ]
    assert {row["task"] for row in outcome.losses} == {2}
    assert len(outcome.predictions[2]["softmax"]) == len(
        torch.cat([load_tasks(tiny("joint", **SMALL)).test_index(t) for t in range(3)])
    )


def test_phases_come_in_the_order_of_algorithm_1(whole):
    order = list(
        dict.fromkeys((row["task"], row["phase"]) for row in whole("gfr").losses)
    )
    assert order == [
        (0, "classifier"),
        (0, "generator"),
        (1, "classifier"),
        (1, "generator"),
        (2, "classifier"),
    ]
    terms = {
        (row["task"], row["phase"]): set(row) - {"task", "phase", "step"}
        for row in whole("gfr").losses
    }
    assert terms[0, "classifier"] == {"loss", "new"}
    assert terms[2, "classifier"] == {"loss", "new", "replayed", "penalty"}
    assert terms[0, "generator"] == {
        "loss",
        "wasserstein",
        "gradient_penalty",
        "adversarial",
    }
    assert terms[1, "generator"] == {
        "loss",
        "wasserstein",
        "gradient_penalty",
        "adversarial",
        "alignment",
    }


def test_logged_losses_add_up(whole):
    sizes = (3, 2, 2)
    for row in whole("gfr").losses:
        if row["phase"] == "classifier" and row["task"]:
            f = sum(sizes[: row["task"]]) / sizes[row["task"]]
            expected = (
                losses.balanced_classification(row["new"], row["replayed"], f)
                + row["penalty"]
            )
            assert row["loss"] == pytest.approx(expected, rel=1e-5)
        elif row["phase"] == "generator":
            assert row["loss"] == pytest.approx(
                row["adversarial"] + row.get("alignment", 0), rel=1e-5, abs=1e-6
            )
    for row in whole("lwf").losses:
        assert row["loss"] == pytest.approx(
            row["new"] + row.get("penalty", 0), rel=1e-5
        )


def test_bytes_kept_name_what_is_carried(whole):
    assert set(whole("gfr").bytes_kept[1]) == {
        "generator",
        "discriminator",
        "old network",
    }
    assert set(whole("gfr-gaussian").bytes_kept[1]) == {
        "class means",
        "standard deviations",
        "old network",
    }
    assert set(whole("lwf").bytes_kept[1]) == {"old network"}
    assert whole("finetune").bytes_kept == [{}, {}, {}]
    joint = load_tasks(tiny("joint", **SMALL))
    used = int((joint.train_labels < 7).sum()) * 64
    assert whole("joint").bytes_kept[2]["training images"] >= used


RULES = {
    "finetune": {"softmax", "task-aware"},
    "joint": {"softmax", "task-aware"},
    "gfr": {"softmax", "task-aware"},
    "lwf": {"max-prob", "concat-logits", "over-chance", "task-aware"},
    "frozen": {"nearest-mean"},
    "gfr-gaussian": {"softmax", "nearest-mean", "task-aware"},
    "fecam": {"mahalanobis"},
    "fetril": {"softmax", "nearest-mean", "task-aware"},
}
RULES |= {
    "ewc": RULES["lwf"],
    "mas": RULES["lwf"],
    "gfr-gaussian-drift": RULES["gfr-gaussian"],
}
RULES |= {
    name: {"softmax", "nearest-exemplar-mean", "task-aware"}
    for name in ("icarl-cnn", "icarl-nme", "lucir")
}
RULES |= {
    name: RULES["gfr"]
    for name in (
        "mergan",
        "block-1",
        "block-2",
        "block-3",
        "ewc-gan",
        "mas-gan",
        "gfr-drift",
    )
}


@pytest.mark.parametrize("method", METHODS)
def test_every_rule_that_applies_is_evaluated(whole, method):
    last = whole(method).predictions[-1]
    assert set(last) == RULES[method] and METHODS[method]["prediction"] in last
    if "task-aware" in last:  # knowing the task cannot hurt
        stream = load_tasks(tiny(method, **SMALL))
        labels = stream.test_labels[stream.test_labels < 7].numpy()
        plain = last["softmax" if "softmax" in last else "concat-logits"]
        assert (last["task-aware"] == labels).sum() >= (plain == labels).sum()


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_prediction_rules_against_numpy():
    config = tiny("lwf", split=(6, 2, 2))
    stream = load_tasks(config)
    network = build_network(config, stream.shape, 0)
    for k, size in enumerate((6, 2, 2)):
        network.head.grow(size, k)
    with torch.no_grad():
        for block in network.head.blocks:
            block.weight.mul_(8)
    network.eval()
    phase = training.Phase(config, 2, "test", training.NoStore(), None)
    found = training.predict(network, Memory(), stream, 2, config, phase)
    with torch.no_grad():
        logits = network(stream.normalise(stream.test_images)).double().numpy()
    heads = np.split(logits, [6, 8], axis=1)
    probabilities = [softmax(h) for h in heads]
    labels, task = stream.test_labels.numpy(), np.repeat([0, 1, 2], (6, 2, 2))
    assert np.array_equal(found["max-prob"], np.concatenate(probabilities, 1).argmax(1))
    assert np.array_equal(found["concat-logits"], logits.argmax(1))
    assert np.array_equal(
        found["over-chance"],
        np.concatenate([p * p.shape[1] for p in probabilities], 1).argmax(1),
    )
    own = np.where(task[None] == task[labels][:, None], logits, -np.inf)
    assert np.array_equal(found["task-aware"], own.argmax(1))
    assert len({tuple(found[rule]) for rule in found}) == 4  # the rules do differ here


def test_nearest_mean_against_numpy():
    config = tiny("frozen", **SMALL)
    kept = []
    outcome = train(
        config,
        observe=lambda t, network, memory: kept.append(
            (copy.deepcopy(network), memory)
        ),
    )
    network, memory = kept[-1]
    stream = load_tasks(config)

    def features(images):
        with torch.no_grad():
            u = torch.nn.Sequential(*network.stages)(stream.normalise(images))
        return u.double().numpy()

    u, labels = features(stream.train_images), stream.train_labels.numpy()
    means = np.stack([u[labels == c].mean(0) for c in range(7)])
    np.testing.assert_allclose(memory.means[:7].numpy(), means, rtol=1e-3, atol=1e-4)
    test = features(stream.test_images[stream.test_labels < 7])
    cosine = (test / np.linalg.norm(test, axis=1, keepdims=True)) @ (
        means / np.linalg.norm(means, axis=1)[:, None]
    ).T
    assert (outcome.predictions[-1]["nearest-mean"] == cosine.argmax(1)).mean() > 0.995


@pytest.mark.parametrize("method", [m for m in METHODS if m != "joint"])
def test_all_outputs_from_the_start(method):
    """full_head, as the official code has it: arg-max over classes that have not come yet, too."""
    if METHODS[method]["head"] != "single":
        with pytest.raises(UserError, match="it needs head = single"):
            tiny(method, **SMALL, full_head=True)
        return
    outcome = train(tiny(method, **SMALL, full_head=True))
    assert outcome.losses and len(outcome.predictions) == 3


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
    for kept in store.kept.values():
        state = torch.load(io.BytesIO(kept["checkpoint"]), weights_only=True)
        assert all(math.isfinite(v) for v in state["sums"].values())


# --- schedules ----------------------------------------------------------------------------------------------------------


def test_learning_rate_schedules():
    last = [training.rate_factor("last-epoch", s, 50, 10) for s in (0, 39, 40, 49)]
    assert last == [1, 1, 0.1, 0.1]
    assert (
        training.rate_factor("last-epoch", 5, 10, 10) == 1
    )  # a single epoch keeps its rate
    cosine = [
        training.rate_factor("cosine", s, 110, 10) for s in (0, 4, 10, 11, 60, 61, 110)
    ]
    half = 0.5 * (
        1 + math.cos(math.pi * 49 / 99)
    )  # eleven steps of rise, then half a cosine over 99
    assert cosine == pytest.approx(
        [1 / 11, 5 / 11, 1, 1, half, 0.5 * (1 + math.cos(math.pi * 50 / 99)), 0]
    )
    assert max(training.rate_factor("cosine", s, 3, 3) for s in range(3)) == 1


def test_generator_steps_are_shared_by_the_later_tasks():
    config = make_config("paper")
    assert training.generator_steps(config, 6, 0) == 19539
    for count in (6, 11, 26):  # 5, 10 and 25 tasks after the base; the last trains none
        later = sum(
            training.generator_steps(config, count, t) for t in range(1, count - 1)
        )
        assert 0 <= 20040 - later < count


def test_every_epoch_sees_every_image_at_most_once_and_in_another_order():
    phase = training.Phase(tiny("gfr"), 0, "classifier", training.NoStore(), None)
    epochs = [
        torch.cat([phase.epoch_rows(e * 6 + s, 50, 8) for s in range(6)]).tolist()
        for e in range(3)
    ]
    assert all(len(rows) == len(set(rows)) == 48 and max(rows) < 50 for rows in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    again = training.Phase(tiny("gfr"), 0, "classifier", training.NoStore(), None)
    assert (
        again.epoch_rows(6 + 2, 50, 8).tolist() == epochs[1][16:24]
    )  # whatever step it begins with
    assert len(phase.epoch_rows(0, 5, 8)) == 5  # fewer images than a batch


# --- one committed result -------------------------------------------------------------------------------------------------


SLIM = dict(
    width=8,
    base=2,
    tasks=1,
    batch_size=16,
    learning_rate=1e-3,
    learning_rate_task=2e-3,
    epochs_base=6,
    epochs_task=24,
    penalty_weight=0.1,
    generator_steps_base=40,
    generator_steps_later=1,
    generator_hidden=32,
    latent_dim=8,
    generator_batch=32,
    device="cpu",
)


def slim_stage(store=None, methods=("gfr-gaussian", "gfr"), **changes) -> dict:
    """Slim-type runs of a second: ResNet-18 of width 8 on generated images, 2 + 2 classes, Gaussians and a GAN."""
    store, rows, final = store or MemoryStore(), [], {}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for method in methods:
            config = make_config("slim", method, **{**SLIM, **changes})
            stream = tasks.build(
                config, generated(4, per_class=40, size=16, seed=3), torch.device("cpu")
            )
            outcome = training.run(config, stream, store=store)
            rows += [
                {rule: p.tolist() for rule, p in row.items()}
                for row in outcome.predictions
            ]
            final |= {
                f"{method}, task {r['task']} {r['phase']}": float(f"{r['loss']:.4g}")
                for r in outcome.losses
            }
    finally:
        torch.set_num_threads(before)
    return {
        "result_version": RESULT_VERSION,
        "torch": torch.__version__,
        "cpu": cpu(),
        "sha256": hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest(),
        "final_losses": final,
        "predictions": rows,
    }


def cpu() -> str:
    """What decides which kernels PyTorch chooses: the vector extension, and whether there is bf16 arithmetic."""
    extra = [
        name
        for name in (
            "_is_avx512_bf16_supported",
            "_is_amx_tile_supported",
            "_is_arm_sve_supported",
        )
        if getattr(torch.cpu, name, lambda: False)()
    ]
    return " ".join(
        [
            torch.backends.cpu.get_cpu_capability(),
            *(n.removeprefix("_is_").removesuffix("_supported") for n in extra),
        ]
    )


def agreement(ours: dict, theirs: dict) -> float:
    """Share of equal predictions."""
    pairs = [
        (a, b)
        for x, y in zip(ours["predictions"], theirs["predictions"], strict=True)
        for rule in y
        for a, b in zip(x[rule], y[rule], strict=True)
    ]
    return sum(a == b for a, b in pairs) / len(pairs)


def compare(ours: dict, theirs: dict) -> str | None:
    """None, or what is wrong."""
    renew = "; if the change is meant, raise RESULT_VERSION in gfrlib/config.py and run python tests/test_training.py"
    if ours["result_version"] != theirs["result_version"]:
        return "tests/expected/slim_stage.json is of another RESULT_VERSION: run python tests/test_training.py"
    if (ours["torch"], ours["cpu"]) == (theirs["torch"], theirs["cpu"]):
        return (
            None
            if (ours["sha256"], ours["final_losses"])
            == (theirs["sha256"], theirs["final_losses"])
            else f"a result moved: {100 * agreement(ours, theirs):.1f} % of the predictions are equal"
            + renew
        )
    if agreement(ours, theirs) < 0.95:
        return (
            f"a result moved: on another torch or CPU {100 * agreement(ours, theirs):.1f} % are equal, not 95"
            + renew
        )
    return None


@pytest.fixture(scope="module")
def slim_store():
    """So that the variations below train only what their change concerns."""
    return MemoryStore()


@pytest.fixture(scope="module")
def slim_now(slim_store):
    return slim_stage(slim_store)


def test_a_slim_stage_gives_the_committed_result(slim_now):
    wrong = compare(slim_now, json.loads(EXPECTED.read_text()))
    assert wrong is None, wrong


def test_the_committed_result_is_worth_comparing():
    """It holds what it claims to hold, and its predictions are neither constant nor chance."""
    kept = json.loads(EXPECTED.read_text())
    assert (
        kept["sha256"]
        == hashlib.sha256(
            json.dumps(kept["predictions"], sort_keys=True).encode()
        ).hexdigest()
    )
    labels = np.repeat(
        range(4), 20
    )  # test labels are positions in the class order, ascending
    last = np.array(kept["predictions"][1]["softmax"])
    assert len(set(last.tolist())) == 4 and (last == labels).mean() > 0.5


@pytest.mark.parametrize(
    "method, changes",
    [
        ("gfr-gaussian", dict(penalty_weight=0.11)),
        ("gfr", dict(gradient_penalty_weight=9.0)),
    ],
)
def test_the_comparison_notices_a_small_change(slim_now, slim_store, method, changes):
    before = slim_stage(slim_store, [method])
    assert (
        before["predictions"]
        == slim_now["predictions"][
            slice(0, 2) if method == "gfr-gaussian" else slice(2, 4)
        ]
    )
    assert "moved" in compare(slim_stage(slim_store, [method], **changes), before)


def test_the_comparison_on_another_machine_allows_a_little_and_notices_more(slim_now):
    def changed(share: float) -> dict:
        rows = copy.deepcopy(slim_now["predictions"])
        for row in rows:
            for predictions in row.values():
                for i in range(round(share * len(predictions))):
                    predictions[i] += 1
        return {**slim_now, "cpu": "another", "predictions": rows, "sha256": ""}

    assert compare(slim_now, changed(0.04)) is None
    assert "moved" in compare(slim_now, changed(0.07))
    assert "moved" in compare(slim_now, {**changed(0.04), "cpu": slim_now["cpu"]})
    assert "RESULT_VERSION" in compare(
        slim_now, {**slim_now, "result_version": RESULT_VERSION + 1}
    )


if __name__ == "__main__":
    EXPECTED.parent.mkdir(exist_ok=True)
    EXPECTED.write_text(
        json.dumps(slim_stage(), indent=None, separators=(",", ":")) + "\n"
    )
    print(
        f"wrote {EXPECTED.relative_to(Path.cwd()) if EXPECTED.is_relative_to(Path.cwd()) else EXPECTED.name}"
    )
    sys.exit(0)


@pytest.mark.parametrize("method", ["gfr", "block-3"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_what_float32_trains(method, precision):
    """Same batches, same schedule: the losses of the first task stay close, and the weights are other ones."""
    few = dict(SMALL, epochs_base=3)
    whole, half = (
        train(tiny(method, **few)),
        train(tiny(method, **few, precision=precision)),
    )
    assert half.weights != whole.weights
    for a, b in zip(whole.losses[:3], half.losses[:3]):
        assert b["loss"] == pytest.approx(a["loss"], rel=0.05)
    assert all(np.isfinite(row["loss"]) for row in half.losses)


def test_auto_is_what_the_chip_has(monkeypatch):
    config = tiny("gfr", precision="auto")
    for flags, expected in (
        ("fpu avx2", "float32"),
        ("fpu avx512_bf16", "bf16"),
        ("amx_bf16 amx_tile", "bf16"),
        ("", "float32"),
    ):
        monkeypatch.setattr(machine, "_cpuinfo", lambda field, flags=flags: flags)
        assert machine.resolve_precision(config) == expected
    monkeypatch.setattr(machine, "resolve_device", lambda config: torch.device("cuda"))
    for has, expected in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has
        )
        assert machine.resolve_precision(config) == expected
    assert machine.resolve_precision(tiny("gfr", precision="float32")) == "float32"


def test_a_gpu_computes_what_the_record_says(monkeypatch):
    """float32 is not TF32, and bf16 that a chip would emulate is refused in one sentence; without a GPU, asking for one is."""
    monkeypatch.setattr(
        torch.backends, "cudnn", SimpleNamespace(allow_tf32=True, benchmark=False)
    )
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=True))
    machine.prepare(tiny("gfr", device="cpu"))
    assert torch.backends.cudnn.allow_tf32  # a run on the CPU leaves the GPU as it is
    with pytest.raises(UserError, match="There is no GPU here"):
        machine.prepare(tiny("gfr", device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation
    )
    with pytest.raises(UserError, match="Tesla T4 has no bfloat16 arithmetic"):
        machine.prepare(tiny("gfr", device="cuda", precision="bf16"))
    machine.prepare(tiny("gfr", device="cuda", precision="float32"))
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.benchmark


def test_a_run_in_fp16_resumes_with_its_scale():
    """The loss scaler's state is kept with the checkpoint: killed after every step, it ends as the whole run."""
    config = tiny("lwf", **SMALL, precision="fp16")
    whole = train(config)
    resumed, kills = until_done(config, MemoryStore(kills=lambda step: True))
    assert kills >= 8
    assert resumed.weights == whole.weights


@pytest.fixture
def compiler():
    """What `compiled` needs on a CPU; without it the test is skipped, which CI counts as a failure."""
    if (
        not any(map(shutil.which, machine.COMPILERS))
        or torch.__version__ < machine.GRADIENTS_OF_GRADIENTS
    ):
        reason = "'compiled' needs a C++ compiler and a newer PyTorch"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


@pytest.mark.usefixtures("compiler")
def test_compiled_takes_the_eager_steps():
    """Few steps of every kind of compiled update, the aligned generator's included: the same losses but for rounding."""
    few = dict(SMALL, generator_steps_base=3, generator_steps_later=3, split=(4, 3, 3))
    eager, fast = train(tiny("gfr", **few)), train(tiny("gfr", **few, compiled=True))
    assert [(row["task"], row["phase"], row["step"]) for row in eager.losses] == [
        (row["task"], row["phase"], row["step"]) for row in fast.losses
    ]
    for a, b in zip(eager.losses, fast.losses):
        assert a.keys() == b.keys()
        for name in a.keys() - {"phase"}:
            assert b[name] == pytest.approx(a[name], rel=2e-3, abs=2e-4), (
                a["task"],
                a["phase"],
                name,
            )


@pytest.mark.usefixtures("compiler")
def test_the_fast_path_reaches_what_float32_reaches():
    """Compiled and in bf16, the last accuracy lies within the spread of the reference's seeds."""

    def last(seed, **changes):
        config = make_config(
            "quick",
            "gfr",
            split=(4, 3, 3),
            seed=seed,
            generator_steps_later=225,
            **changes,
        )
        return 100 * float(
            (
                train(config).predictions[-1]["softmax"]
                == load_tasks(config).test_labels.numpy()
            ).mean()
        )

    reference = np.array([last(seed) for seed in range(3)])
    fast = last(0, compiled=True, precision="bf16")
    assert reference.min() > 60
    assert abs(fast - reference.mean()) < max(3, 2 * reference.std(ddof=1)), (
        fast,
        reference,
    )


@pytest.mark.parametrize("alignment", ["code", "paper"])
def test_ten_tasks_need_no_more_graphs_than_three(monkeypatch, alignment):
    """What differs from task to task (f_t, the number of old classes) is no constant of a compiled update."""
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda f, **kwargs: compile_(f, backend=count, **{**kwargs, "dynamic": False}),
    )
    seen = []
    for split in ((2, 1, 1), (1,) * 10):
        torch._dynamo.reset()
        graphs.clear()
        config = tiny(
            "gfr",
            split=split,
            generator_steps_base=2,
            generator_steps_later=16,
            alignment=alignment,
            compiled=True,
        )
        outcome = train(config)
        assert len(outcome.predictions) == len(split)
        seen.append(len(graphs))
    torch._dynamo.reset()
    assert seen[0] == seen[1] > 0


def test_compiled_where_it_cannot_be_is_refused(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    with pytest.raises(
        UserError, match="needs a C.. compiler on a CPU.*set compiled to false"
    ):
        train(tiny("gfr", **SMALL, compiled=True))
    monkeypatch.setattr(distributed, "size", lambda: 2)
    with pytest.raises(UserError, match="is for one process"):
        distributed.check(tiny("gfr", compiled=True))
