"""What an analysis measures, by hand; and the record's own rule."""

from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers_core import load_tasks, tiny, train

from gfrlib import metrics, similarity
from gfrlib.book import looks
from gfrlib.engine.machine import Machine
from gfrlib.engine.phase import Phase
from gfrlib.lab import analysis, layers, replayed, runs
from gfrlib.lab.record import Record
from gfrlib.networks import build_network

SMALL = dict(split=(3, 2, 2), epochs_base=1)


def phase_of(config, t=1):
    return Phase("analysis", t, 0, Machine.of(config))


def network_of(config, stream, tasks=2):
    network = build_network(config, stream.shape, 0)
    for t in range(tasks):
        network.head.grow(stream.sizes[t], t)
    return network.eval()


# Similarity ---------------------------------------------------------------------------


def test_the_classifier_is_compared_by_its_tasks_own_logits():
    config = tiny("finetune", **SMALL)
    stream = load_tasks(config)
    network = network_of(config, stream)
    found = layers.Layers(stream)._activations(network, 1, phase_of(config))
    with torch.no_grad():
        x = stream.normalise(stream.test_images[stream.test_index(1)])
        wanted = network(x)[:, 3:5].numpy()
    np.testing.assert_allclose(found["classifier"], wanted, atol=1e-4)


@pytest.mark.parametrize("method, known", [("gfr", 0), ("gfr-gaussian", 1)])
def test_nothing_is_judged_that_was_never_trained(method, known):
    """With one task no GAN is trained, and its Gaussians are fitted all the same."""
    config = tiny(method, split=(4,), epochs_base=1)
    stream = load_tasks(config)
    observer = analysis.Observer(config, stream, ["recognised", "projection"])
    train(config, observe=observer)
    found = observer.result()
    assert found["recognised"] == [] and list(found["projection"]) == ["0"] * known


def test_chance_is_of_whole_images():
    """A pattern that all images share is alike between shuffled images, too."""
    rng = np.random.default_rng(0)
    pattern = np.tile(rng.normal(size=(16, 3)), (50, 1))
    now, then = (pattern + 0.3 * rng.normal(size=(800, 3)) for _ in range(2))
    found = layers._measured(now, then, 50)
    for name, measure in (("svcca", similarity.svcca), ("cka", similarity.linear_cka)):
        assert found[name] == pytest.approx(measure(now, then), abs=1e-3)
        assert found[f"{name}_null"] == pytest.approx(found[name], abs=0.05)
        assert found[f"{name}_null"] > 0.7


# Drift and logits ---------------------------------------------------------------------


def test_drift_is_in_units_of_the_length_then():
    """(3, 4) and (0, 5) became twice as long: each moved by 5, of 5 then."""
    config = tiny("finetune", **SMALL)
    observer = analysis.Observer(config, load_tasks(config))
    then = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    observer.then = {0: then}
    [row] = observer._moved((2 * then,), (torch.tensor([0, 1]),))
    assert row == {"task": 0, "features": 1.0, "class_means": 1.0}
    # of one class: its mean (1.5, 4.5) moved by its own length
    [row] = observer._moved((2 * then,), (torch.tensor([0, 0]),))
    assert row["class_means"] == pytest.approx(np.hypot(1.5, 4.5) / 5, rel=1e-3)


def test_logits_against_loops():
    config = tiny("finetune", **SMALL)
    stream = load_tasks(config)
    network = network_of(config, stream)
    rng = torch.Generator().manual_seed(0)
    u = torch.rand(40, network.features, generator=rng)
    y = torch.arange(40) % 5
    observer = analysis.Observer(config, stream)
    found = observer._logits(1, network, network.head, u, y)
    logits = network.head(u).detach().numpy()
    for c in range(5):
        others = [logits[i, c] for i in range(40) if y[i] != c]
        assert found["mean_logit"][c] == pytest.approx(np.mean(others), rel=2e-3)
    weight = torch.cat([b.weight for b in network.head.blocks]).detach().numpy()
    wanted = np.linalg.norm(weight, axis=1)
    assert found["weight_norm"] == pytest.approx(wanted, rel=2e-3)
    assert found["old_classes"] == 3
    for name, some in (("on_old_images", y < 3), ("on_new_images", y >= 3)):
        rows = logits[some.numpy()]
        assert found["largest_logit"][name] == {
            "old_classes": pytest.approx(rows[:, :3].max(1).mean(), rel=2e-3),
            "new_classes": pytest.approx(rows[:, 3:].max(1).mean(), rel=2e-3),
        }


def test_each_class_counts_the_same_in_the_logits(monkeypatch):
    """Of task 0's classes more features are looked at, for the projection."""
    config, found = tiny("finetune", **SMALL), []
    stream, counts = load_tasks(config), {}
    observer = analysis.Observer(config, stream, ())
    monkeypatch.setattr(
        observer,
        "_logits",
        lambda *a: found.append(torch.bincount(a[-1]).tolist()) or {},
    )
    train(config, observe=observer)
    for c in range(stream.classes(2).stop):
        counts[c] = int((stream.test_labels == c).sum())
    assert found[-1] == [min(analysis.PER_CLASS, n) for n in counts.values()]
    assert max(counts.values()) > analysis.PER_CLASS


# Replay -------------------------------------------------------------------------------


def test_later_replays_are_judged_by_the_network_of_task_0():
    """Whatever the network of today takes them for."""
    config = tiny("gfr", **SMALL)
    stream = load_tasks(config)
    judge = replayed.Replayed(config, stream)
    first, later = (network_of(config, stream, tasks=1) for _ in range(2))
    with torch.no_grad():
        for network, shift in ((first, 0), (later, 1)):
            block = network.head.blocks[0]
            block.weight.zero_(), block.bias.zero_()
            for c in range(3):
                block.weight[(c + shift) % 3, c] = 1
    memory = SimpleNamespace(sample=lambda c, rng: torch.eye(first.features)[c])
    for t, network in ((0, first), (1, later)):
        judge.judge(t, network, memory, phase_of(config, t))
    assert [row["share"] for row in judge.recognised] == [1, 1]


# Records ------------------------------------------------------------------------------


def test_a_record_holds_the_predictions_of_its_rows_own_rule():
    """iCaRL's two rows are one network, and differ by the rule alone."""
    found = {}
    for method, rule in (
        ("icarl-cnn", "softmax"),
        ("icarl-nme", "nearest-exemplar-mean"),
    ):
        config = tiny(method, **SMALL, exemplars=4)
        stream, outcome = load_tasks(config), train(config)
        kept = runs.numbers(config, stream, outcome)["predictions"]
        for row, every in zip(kept, outcome.predictions):
            assert np.array_equal(row, every[rule])
        found[method] = kept[-1]
    assert not np.array_equal(*found.values())


def test_both_averages_stand_in_the_json():
    """Four classes against one: (4 x 1 + 0.5) / 5 by class, 0.75 by task."""
    labels = np.repeat(np.arange(5), 2)
    last = labels.copy()
    last[-1] = 0
    record = Record(
        config=tiny("finetune", split=(4, 1)),
        class_names=list("abcde"),
        task_sizes=[4, 1],
        test_counts=[2] * 5,
        predictions=[labels[:8], last],
        rules={},
        losses=[],
        seconds=[],
        bytes_kept=[],
        weights="",
        provenance={},
    )
    found = record.full_json()
    assert found["class_weighted"] == [1, 0.9] and found["mean_over_tasks"] == [1, 0.75]
    assert metrics.mean_over_tasks(record.accuracy)[1] == 0.75


# Figures ------------------------------------------------------------------------------


def test_the_band_is_the_seeds_whole_range():
    _, ax = plt.subplots()
    how = looks.looks_of(["gfr"])[0]
    looks.band(ax, [0, 1], [[1.0, 2.0, 6.0], [3.0, 3.0, 9.0]], how)
    corners = ax.collections[0].get_paths()[0].vertices
    for x, low, high in ((0, 1, 6), (1, 3, 9)):
        y = corners[corners[:, 0] == x, 1]
        assert (y.min(), y.max()) == (low, high)
    assert ax.lines[0].get_ydata().tolist() == [3, 5]
    plt.close("all")
