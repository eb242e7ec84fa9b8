"""The rows of the table: names, refused combinations, exemplars, Rebalance."""

import copy

import numpy as np
import pytest
import torch
from helpers_core import SMALL, load_tasks, tiny, train
from torch.nn import functional

from gfrlib import losses, replay, training
from gfrlib.config import METHODS, UserError, make_config
from gfrlib.heads import CosineHead
from gfrlib.networks import build_network, split

# --- the table ------------------------------------------------------------------------


def test_every_row_is_named_by_its_columns():
    for preset in ("quick", "slim", "paper"):
        names = [make_config(preset, method).method for method in METHODS]
        assert names == list(METHODS)
        assert len({make_config(preset, method).digest() for method in METHODS}) == len(
            METHODS
        )


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(method="gfr", prediction="mahalanobis"), "memory = covariances"),
        (dict(method="gfr", head="cosine"), "single"),
        (dict(method="lucir", penalty="features"), "belong together"),
        (dict(method="block-2", drift="linear"), "cut = features"),
        (dict(method="fecam", cut=2), "cut = features"),
        (dict(method="lwf", prediction="nearest-exemplar-mean"), "memory = exemplars"),
        (dict(method="icarl-cnn", exemplars=0), "at least 1"),
        (dict(method="icarl-cnn", cut=2), "cut = features"),
        (
            dict(method="icarl-cnn", head="per-task", prediction="max-prob"),
            "one softmax",
        ),
        (dict(method="frozen", prediction="softmax"), "translated"),
        (dict(method="fetril", penalty="features"), "FeTrIL"),
        (dict(method="fetril", memory="none"), "stands for features"),
        (dict(method="gfr", penalty="frozen", cut=3), "cut = features"),
        (dict(method="lucir", memory="none", cut=3), "compares feature vectors"),
        (dict(method="lwf", memory="means"), "one softmax over all classes"),
        (dict(method="joint", head="per-task", prediction="max-prob"), "one softmax"),
    ],
)
def test_combinations_that_cannot_be_meant(changes, says):
    with pytest.raises(UserError, match=says):
        make_config("quick", **changes)


@pytest.mark.parametrize("method", ["gfr", "gfr-gaussian"])
def test_on_a_frozen_extractor_replay_trains_the_head_and_nothing_else(method):
    config, seen = tiny(method, **{**SMALL, "penalty": "frozen", "epochs_task": 4}), []
    outcome = train(
        config,
        observe=lambda t, network, memory: seen.append(
            copy.deepcopy(network.state_dict())
        ),
    )
    for key, first in seen[0].items():
        if "stages" in key:
            assert all(torch.equal(later[key], first) for later in seen[1:]), key
    assert not torch.equal(
        seen[1]["head.blocks.0.weight"], seen[0]["head.blocks.0.weight"]
    )
    later = [
        row
        for row in outcome.losses
        if row["task"] == 1 and row["phase"] == "classifier"
    ]
    assert later and all("replayed" in row and "penalty" not in row for row in later)
    assert set(outcome.predictions[1]) >= {"softmax", "task-aware"}
    assert config.identity()["epochs_task"] == 4  # the head's schedule is read
    assert (
        config.method
        == {"gfr": "frozen+gan", "gfr-gaussian": "frozen+gaussian"}[method]
    )


def test_drift_compensation_shares_what_it_cannot_change():
    from gfrlib.lab import plans

    for plain in ("gfr", "gfr-gaussian"):
        stream = load_tasks(tiny(plain))
        a, b = (
            [s.key for s in plans.stages(tiny(m), stream)]
            for m in (plain, f"{plain}-drift")
        )
        assert a[:3] == b[:3], "task 0, and the classifier of task 1"
        assert not set(a[3:]) & set(b[3:])


@pytest.mark.parametrize("method", ["gfr", "lwf", "lucir"])
def test_every_parameter_is_on_the_runs_device(method, monkeypatch):
    """The meta device stands for a GPU: what is built must be moved as a whole."""
    config = tiny(method)
    stream = load_tasks(config)
    monkeypatch.setattr(training, "feature_shape", lambda *_: (512,))
    network, memory, _ = training.build(config, stream, torch.device("meta"))
    for t in range(2):
        training.grow_head(network, config, stream.sizes, t)
        parameters = [*network.parameters(), *memory.parameters()]
        assert {p.device.type for p in parameters} == {"meta"}


# --- exemplars ------------------------------------------------------------------------


def test_herding_against_trying_every_image():
    u = np.random.default_rng(0).random((9, 4)) + 0.1
    v = u / np.linalg.norm(u, axis=1, keepdims=True)
    chosen = []
    for _ in range(5):
        left = [i for i in range(9) if i not in chosen]
        chosen.append(
            min(left, key=lambda i: np.linalg.norm(v.mean(0) - v[[*chosen, i]].mean(0)))
        )
    assert replay.herding(torch.from_numpy(u), 5).tolist() == chosen
    # no more than there are
    assert sorted(replay.herding(torch.from_numpy(u), 20).tolist()) == [*range(9)]
    assert u[replay.herding(torch.from_numpy(u), 0)].shape == (0, 4)


def test_exemplars_are_rows_of_their_class_and_their_bytes_are_images():
    seen = []
    outcome = train(
        tiny("icarl-cnn", **SMALL, exemplars=6),
        observe=lambda t, network, memory: seen.append(
            (memory.rows.clone(), memory.kept.clone())
        ),
    )
    labels = load_tasks(tiny("icarl-cnn", **SMALL)).train_labels
    rows, kept = seen[-1]
    assert len(set(rows.tolist())) == 7 * 6 and (kept[7:] == -1).all()
    for c in range(7):
        assert (labels[kept[c]] == c).all()
    assert torch.equal(seen[0][0], seen[-1][0][:18]), "old exemplars stay"
    assert outcome.bytes_kept[1]["exemplars"] == 5 * 6 * 64


def test_nearest_exemplar_mean_against_numpy():
    kept = []
    config = tiny("icarl-nme", **SMALL)
    outcome = train(
        config,
        observe=lambda t, network, memory: kept.append(
            (copy.deepcopy(network).eval(), memory.rows)
        ),
    )
    network, rows = kept[-1]
    stream = load_tasks(config)
    F, _ = split(network, 4)

    def features(images):
        with torch.no_grad():
            u = F(stream.normalise(images)).double().numpy()
        return u / np.linalg.norm(u, axis=1, keepdims=True)

    assert not stream.mirror  # digits are not mirrored
    u, y = features(stream.train_images[rows]), stream.train_labels[rows].numpy()
    means = np.stack([u[y == c].mean(0) for c in range(7)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    scores = features(stream.test_images[stream.test_labels < 7]) @ means.T
    assert (
        outcome.predictions[-1]["nearest-exemplar-mean"] == scores.argmax(1)
    ).mean() > 0.995


# --- Rebalance ------------------------------------------------------------------------


def test_margin_ranking_against_loops():
    rng = np.random.default_rng(1)
    scores, labels = rng.uniform(-1, 1, (8, 7)), np.array([0, 6, 2, 4, 5, 1, 3, 0])
    parts = [
        max(0.0, 0.5 - (row[y] - rival))
        for row, y in zip(scores, labels)
        if y < 4
        for rival in sorted(row[4:], reverse=True)[:2]
    ]
    found = losses.margin_ranking(torch.from_numpy(scores), torch.from_numpy(labels), 4)
    assert found.item() == pytest.approx(np.mean(parts)) and found > 0
    no_exemplar = torch.full((8,), 5)
    found = losses.margin_ranking(torch.from_numpy(scores), no_exemplar, 4)
    assert found.item() == 0


def test_imprinting_and_the_cosine_head():
    head = CosineHead(6).double()
    head.grow(3, 0)
    head.grow(2, 1)
    head.double()
    u, labels = torch.rand(20, 6, dtype=torch.float64), torch.arange(20) % 2 + 3
    old = head.blocks[0].weight.detach().numpy().copy()
    head.imprint(u, labels, 3)
    v = u.numpy() / np.linalg.norm(u.numpy(), axis=1, keepdims=True)
    for k in range(2):
        mean = v[labels.numpy() == 3 + k].mean(0)
        expected = mean / np.linalg.norm(mean) * np.linalg.norm(old, axis=1).mean()
        np.testing.assert_allclose(
            head.blocks[1].weight.detach().numpy()[k], expected, rtol=1e-9
        )
    assert np.array_equal(head.blocks[0].weight.detach().numpy(), old)
    w = torch.cat([b.weight for b in head.blocks]).detach()
    with torch.no_grad():
        head.scale.fill_(3.0)
    torch.testing.assert_close(
        head(u), 3 * functional.cosine_similarity(u[:, None], w[None], dim=2)
    )
    assert all(b.bias is None for b in head.blocks)


def test_rebalance_has_signed_features_and_the_others_none():
    for name in ("quick", "slim"):
        for method, signed in (("lucir", True), ("gfr", False)):
            config = make_config(name, method, width=8)
            network = build_network(config, (3, 32, 32), 0).eval()
            u, _ = split(network, 4)
            with torch.no_grad():
                assert bool((u(torch.randn(4, 3, 32, 32)) < 0).any()) is signed


def test_the_cosine_heads_scale_begins_where_it_is_told_and_splits_no_other_run():
    config = make_config("quick", "lucir")
    assert (
        config.head_scale == 10
        and build_network(config, (1, 8, 8), 0).head.scale.item() == 10
    )
    one = make_config("quick", "lucir", head_scale=1.0)
    assert (
        build_network(one, (1, 8, 8), 0).head.scale.item() == 1
        and "head_scale" not in one.identity()
    )
    assert one.difference(config) == {"head_scale": ("-", 10.0)}
    assert (
        make_config("quick", "gfr").digest()
        == make_config("quick", "gfr", head_scale=3.0).digest()
    )
    with pytest.raises(UserError, match="'head_scale' must be a number above 0"):
        make_config("quick", "lucir", head_scale=0.0)
