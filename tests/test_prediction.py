"""The prediction column: which rules are evaluated, and each against NumPy."""

import copy

import numpy as np
import pytest
import torch
from helpers_core import SMALL, load_tasks, tiny, train

from gfrlib import prediction
from gfrlib.config import METHODS
from gfrlib.engine.machine import Machine
from gfrlib.engine.phase import Phase
from gfrlib.memory import Memory
from gfrlib.networks import build_network

PLAIN = {"softmax", "task-aware"}
PER_TASK = {"max-prob", "concat-logits", "over-chance", "task-aware"}
MEANS = {"softmax", "nearest-mean", "task-aware"}
EXEMPLARS = {"softmax", "nearest-exemplar-mean", "task-aware"}
RULES = {
    "finetune": PLAIN,
    "joint": PLAIN,
    "frozen": {"nearest-mean"},
    "lwf": PER_TASK,
    "ewc": PER_TASK,
    "mas": PER_TASK,
    "icarl-cnn": EXEMPLARS,
    "icarl-nme": EXEMPLARS,
    "lucir": EXEMPLARS,
    "mergan": PLAIN,
    "block-1": PLAIN,
    "block-2": PLAIN,
    "block-3": PLAIN,
    "gfr": PLAIN,
    "gfr-gaussian": MEANS,
    "gfr-gaussian-full": MEANS,
    "gfr-mixture": MEANS,
    "gfr-flow": PLAIN,
    "gfr-drift": PLAIN,
    "gfr-gaussian-drift": MEANS,
    "gfr-squared": MEANS,
    "ewc-gan": PLAIN,
    "mas-gan": PLAIN,
    "fetril": MEANS,
    "fecam": {"mahalanobis"},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_rule_that_applies_is_evaluated(whole, method):
    last = whole(method).predictions[-1]
    assert set(last) == RULES[method] and METHODS[method].columns["prediction"] in last
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
    phase = Phase("test", 2, 0, Machine.of(config))
    found = prediction.predict(network, Memory(), stream, 2, config, phase)
    with torch.no_grad():
        logits = network(stream.normalise(stream.test_images)).double().numpy()
    heads = [softmax(head) for head in np.split(logits, [6, 8], axis=1)]
    largest = np.concatenate(heads, 1)
    over_chance = np.concatenate([head * head.shape[1] for head in heads], 1)
    labels, task = stream.test_labels.numpy(), np.repeat([0, 1, 2], (6, 2, 2))
    own = np.where(task[None] == task[labels][:, None], logits, -np.inf)
    assert np.array_equal(found["max-prob"], largest.argmax(1))
    assert np.array_equal(found["concat-logits"], logits.argmax(1))
    assert np.array_equal(found["over-chance"], over_chance.argmax(1))
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
    test /= np.linalg.norm(test, axis=1, keepdims=True)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    cosine = test @ means.T
    found = outcome.predictions[-1]["nearest-mean"]
    assert (found == cosine.argmax(1)).mean() > 0.995
