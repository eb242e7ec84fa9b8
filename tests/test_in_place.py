"""Each part of Algorithm 1 where it is used: with the old network's parts, the right
classes, the right rows. Every test here was seen to fail with one line made wrong.
"""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers_core import SMALL, generated, load_tasks, tiny, train
from torch.nn import functional

from gfrlib import batches, losses, penalties, prediction, replay, tasks, training
from gfrlib import generator_training as makers
from gfrlib.engine.machine import Machine
from gfrlib.engine.phase import Phase
from gfrlib.generators import Flow
from gfrlib.penalties import Past

CPU = torch.device("cpu")


def phase_of(config, name="generator", t=1):
    return Phase(name, t, 0, Machine.of(config))


def later(method: str, **changes):
    """(config, stream, network, memory, Past of task 2) of three untrained tasks."""
    config = tiny(method, **{**SMALL, **changes})
    stream = load_tasks(config)
    network, memory, importance = training.build(config, stream, CPU)
    for t in range(3):
        training.grow_head(network, config, stream.sizes, t)
        if t == 1:
            network.eval()
            past = Past(network, memory, importance, config, stream.sizes, 2)
    return config, stream, network.eval(), memory, past


def heard(monkeypatch, owner, name: str, note) -> list:
    """What `note(*arguments)` says of every call of owner.name, which goes on."""
    calls, real = [], getattr(owner, name)

    def listening(*args, **keywords):
        calls.append(note(*args, **keywords))
        return real(*args, **keywords)

    monkeypatch.setattr(owner, name, listening)
    return calls


def per_class(labels) -> torch.Tensor:
    return torch.bincount(torch.as_tensor(labels), minlength=10)


# Generators in later tasks ------------------------------------------------------------


@pytest.mark.parametrize("form", ["code", "paper"])
def test_alignment_is_with_what_the_old_memory_replays(form):
    """Equation 3, in the paper's form and the code's: the old generator's features as
    they have moved since, for the same latent numbers.
    """
    weight = dict(alignment_weight=0.5) if form == "code" else {}
    config = tiny("gfr", alignment=form, **weight)
    torch.manual_seed(0)
    old, new = (replay.GAN(10, 6, 4, 8) for _ in range(2))
    for gan in (old, new):
        for p in gan.generator.parameters():
            p.data.normal_(0, 0.5)
    old.move(2 * torch.eye(6), torch.zeros(10, 6))
    past = SimpleNamespace(memory=old, classes=3, new_classes=2, f=1.5, sizes=(3,))
    losses_of = makers.generator_losses(new, past, config, phase_of(config))
    c, c_old, z = torch.full((64,), 4), torch.arange(64) % 3, torch.randn(64, 4)
    with torch.no_grad():
        u = new.generator(c_old, z)
        away = u - 2 * old.generator(c_old, z)
        apart = float(away.square().sum(1).mean())
        adversarial = -float(new.discriminator(c, new.generator(c, z)).mean())
    loss, parts = losses_of(c, z, c_old)
    # a sum over a batch, or over classes
    times = 0.5 * 1.5 * 128 if form == "code" else 3
    wanted = apart * times
    assert apart > 0.1
    assert parts["alignment"].item() == pytest.approx(wanted, rel=1e-4)
    assert loss.item() == pytest.approx(wanted + adversarial, rel=1e-4)
    # it trains the new generator: by the last bias, where the ReLU is open
    bias = new.generator.layers[4].bias
    (found,) = torch.autograd.grad(parts["alignment"], bias)
    by_bias = 2 * times * (away * (u > 0)).mean(0)
    torch.testing.assert_close(found, by_bias, rtol=1e-4, atol=1e-4)


def test_every_old_class_is_aligned_and_no_other(monkeypatch):
    config, stream, _, memory, past = later("gfr", generator_steps_later=12)
    network = past.network
    seen = heard(monkeypatch, past.memory, "replay", lambda c, z: c)
    # as if task 1 came again: it is not the last, which trains no generator
    makers.train_gan(memory, network, past, stream, 1, config, phase_of(config))
    counts = per_class(torch.cat(seen))
    assert counts[5:].sum() == 0
    assert counts[:5].min() > 0.5 * counts[:5].max()


def test_the_rates_of_the_gan(monkeypatch):
    """Two drops to 0.3 of it, after 2/5 and 4/5 of the steps; the code's betas."""
    config, stream, network, memory, past = later("gfr", generator_steps_later=20)
    rates = heard(monkeypatch, makers, "set_rate", lambda _, rate: rate)
    betas = heard(monkeypatch, makers, "adam", lambda *_, **more: more.get("betas"))
    makers.train_gan(memory, network, past, stream, 1, config, phase_of(config))
    r = config.generator_learning_rate
    wanted = [r] * 8 + [0.3 * r] * 8 + [0.09 * r] * 4
    assert rates[::2] == pytest.approx(wanted) and betas == [(0.5, 0.999)] * 2


def test_retraining_shows_replays_of_old_classes(monkeypatch):
    changes = dict(alignment="retrain", generator_steps_later=12)
    config, stream, network, memory, past = later("mergan", **changes)
    seen = heard(monkeypatch, makers, "with_replays", lambda u, c, past, n, *_: n)
    makers.train_gan(memory, network, past, stream, 1, config, phase_of(config))
    assert seen == [5] * (12 * config.critic_steps)


def test_a_flow_in_a_later_task(monkeypatch):
    """Old classes alone are aligned, all of them; features keep their first scale."""
    config, stream, network, memory, past = later("gfr-flow", generator_steps_later=20)
    first = phase_of(config, t=0)
    u, _ = batches.real_features(network, stream, 0, config, first)
    memory.standardise(u)
    past.memory.load_state_dict(memory.state_dict())
    scale = memory.shift.clone(), memory.scale.clone()
    seen = heard(monkeypatch, past.memory.velocity, "forward", lambda c, *_: c)
    rates = heard(monkeypatch, makers, "set_rate", lambda _, rate: rate)
    phase = phase_of(config)
    makers.train_flow(memory, network, past, stream, 1, config, phase)
    assert torch.equal(memory.shift, scale[0]) and torch.equal(memory.scale, scale[1])
    # behind those that draw the replays
    drawn = config.flow_steps * -(-5 * makers.REPLAYS // batches.EVALUATION_BATCH)
    counts = per_class(torch.cat(seen[drawn:]))
    assert (counts[:5] > 0).all() and counts[5:].sum() == 0
    assert "alignment" in phase.history[-1]
    assert max(rates) == pytest.approx(config.generator_learning_rate)
    assert rates[-1] < 0.1 * max(rates)


def test_a_flows_two_parts_are_weighted_by_f():
    torch.manual_seed(0)
    old, new = replay.Flow(10, 6, 8, 3), replay.Flow(10, 6, 8, 3)
    u, z, s = torch.rand(20, 6), torch.randn(20, 6), torch.rand(20, 1)
    c = torch.arange(20) % 5
    losses_of = makers.flow_losses(new, SimpleNamespace(f=2.5, memory=old))
    loss, parts = losses_of(u, c, z, s, u, c, z, s)
    wanted = (parts["flow"] + 2.5 * parts["alignment"]) / 3.5
    assert float(loss) == pytest.approx(float(wanted))


def test_a_flow_begins_with_normal_noise():
    z = Flow(3, 8, 4, 2).latent(4000, torch.Generator().manual_seed(0))
    assert float(z.mean()) == pytest.approx(0, abs=0.03)
    assert float(z.std()) == pytest.approx(1, abs=0.03)


def test_views_of_a_class_are_several_and_keep_its_label():
    config = tiny("gfr", **SMALL)
    stream = dataclasses.replace(load_tasks(config), padding=2)
    network, _, _ = training.build(config, stream, CPU)
    found = phase_of(config, t=0)
    real = batches.real_features(network, stream, 0, config, found, views=2)
    first, second = real[0].chunk(2)
    labels = real[1].chunk(2)
    assert torch.equal(labels[0], stream.train_labels[stream.train_index(0)])
    assert torch.equal(*labels) and not torch.allclose(first, second)


# The classifier in later tasks --------------------------------------------------------


@pytest.mark.parametrize("method, outputs", [("lwf", (3, 2, 2)), ("gfr", (3, 5, 7))])
def test_what_competes_for_new_images(method, outputs, monkeypatch):
    """Per-task heads: the task's own classes; one head: all classes so far."""
    seen = heard(
        *(monkeypatch, losses, "classification"),
        lambda logits, labels: (logits.shape[1], int(labels.max())),
    )
    train(tiny(method, **SMALL))
    assert {n for n, _ in seen} == set(outputs)
    assert all(top < n for n, top in seen)


def test_new_images_train_the_extractor_of_a_later_task():
    """Without a penalty nothing else does."""
    states = []
    train(
        tiny("finetune", **SMALL),
        observe=lambda t, network, _: states.append(
            [p.detach().clone() for p in network.stages.parameters()]
        ),
    )
    moved = [not torch.equal(a, b) for a, b in zip(states[0], states[1], strict=True)]
    assert any(moved)


def test_every_old_class_is_replayed_alike():
    config, _, _, _, past = later("gfr-gaussian")
    _, c = past.replay(5000, phase_of(config, "classifier", 2))
    counts = per_class(c)
    assert counts[5:].sum() == 0 and (counts[:5] - 1000).abs().max() < 150


def test_rows_of_a_later_task():
    """Exemplars join the new images; joint training reads all tasks' images."""
    config, stream, network, _, past = later("icarl-cnn", exemplars=4)
    past.memory.kept[:5] = torch.arange(5)[:, None] * 170 + torch.arange(4)

    def rows(config, past) -> list[int]:
        phase = phase_of(config, "classifier", 2)
        data = training.training_data(network, past, stream, 2, config, phase)
        return sorted(data.index.tolist())

    new = stream.train_index(2).tolist()
    kept = past.memory.kept[:5].flatten().tolist()
    assert rows(config, past) == sorted([*new, *kept])
    every = [i for t in range(3) for i in stream.train_index(t).tolist()]
    assert rows(tiny("joint", **SMALL), None) == sorted(every)


def test_the_distance_is_the_configs():
    config, *_ = later("gfr", distance="mse")
    u, old = torch.randn(6, 4), torch.randn(6, 4)
    past = SimpleNamespace(config=config, f=2.0, features=lambda batch: old)
    found = float(penalties.features(past, SimpleNamespace(u=u)))
    assert found == pytest.approx(2 * float(functional.mse_loss(u, old)), rel=1e-5)


def test_lwf_trains_its_old_heads():
    states = []
    train(
        tiny("lwf", **SMALL),
        observe=lambda t, network, _: states.append(
            copy.deepcopy(network.state_dict())
        ),
    )
    name = "head.blocks.0.weight"
    assert not torch.equal(states[0][name], states[1][name])


def test_all_outputs_are_there_from_the_start():
    sizes = []
    train(
        tiny("gfr", **SMALL, full_head=True),
        observe=lambda t, network, _: sizes.append(len(network.head.blocks)),
    )
    assert sizes == [3, 3, 3]


def test_rebalance_adds_its_margin_and_imprints():
    for row in train(tiny("lucir", **SMALL)).losses:
        if row["task"]:
            whole = row["new"] + row["penalty"] + row["margin"]
            assert row["margin"] > 0 and row["loss"] == pytest.approx(whole, rel=1e-5)
    config, stream, network, _, past = later("lucir")
    phase, head = phase_of(config, "classifier", 2), network.head
    head.blocks[0].weight.requires_grad_(True)
    training.begin_later_task(head, past, stream, 2, config, phase)
    u, y = batches.real_features(past.network, stream, 2, config, phase)
    for k, c in enumerate(stream.classes(2)):
        mean = functional.normalize(u[y == c], dim=1).mean(0)
        alike = functional.cosine_similarity(mean, head.blocks[2].weight[k], dim=0)
        assert float(alike) > 0.9999
    trained = [block.weight.requires_grad for block in head.blocks]
    assert trained == [False, False, True]
    logits, labels = head(u[:20]), torch.arange(20) % 5
    margin = head.extra_losses(logits, labels, 5)["margin"]
    wanted = losses.margin_ranking(logits / head.scale, labels, 5)
    torch.testing.assert_close(margin, wanted)


# Importances and drift ----------------------------------------------------------------


def test_importance_is_of_all_classes_of_each_task(monkeypatch):
    seen = []

    def add(self, network, images, first, *, batch, rng, prepare):
        seen.append((images, first, batch, prepare))

    monkeypatch.setattr(penalties.Importance, "add", add)
    config = tiny("ewc", **SMALL, importance_images=60)
    train(config)
    stream = load_tasks(config)
    assert [(first, batch) for _, first, batch, _ in seen] == [(0, 1), (3, 1)]
    for t, (images, *_, prepare) in enumerate(seen):
        index = stream.train_index(t)
        every = stream.train_images[index].flatten(1)
        rows = [index[(every == x.flatten()).all(1)][0] for x in images]
        labels = stream.train_labels[torch.stack(rows)]
        assert set(labels.tolist()) == set(stream.classes(t))
        torch.testing.assert_close(prepare(images), stream.normalise(images))


def test_the_sensitivity_of_a_batch_is_a_mean():
    """Four equal images at once count as one of them."""
    config, stream, network, *_ = later("mas")
    image = stream.normalise(stream.train_images[:1])
    rng = torch.Generator().manual_seed(0)
    one, four = (
        float(penalties.output_sensitivity(network(x), 0, rng)[0])
        for x in (image, image.repeat(4, 1, 1, 1))
    )
    assert four == pytest.approx(one, rel=1e-4)


def test_drift_is_from_the_old_network_to_the_new(monkeypatch):
    config, stream, network, memory, past = later("gfr-gaussian-drift")
    with torch.no_grad():
        for p in network.stages.parameters():
            p.mul_(1.1)
    seen = []

    def noted(before, after, means):
        seen.append((before, after))
        return torch.eye(before.shape[1]), torch.zeros_like(means)

    monkeypatch.setitem(training.DRIFTS, "linear", noted)
    phase = phase_of(config, "generator", 2)
    training.follow_drift(memory, network, past, stream, 2, config, phase)
    [pair] = seen
    for found, of in zip(pair, (past.network, network), strict=True):
        u, _ = batches.real_features(of, stream, 2, config, phase)
        torch.testing.assert_close(found, u)
    assert not torch.allclose(*pair)


@pytest.mark.parametrize(
    "method, moved", [("gfr-gaussian-drift", "new"), ("gfr-drift", "old")]
)
def test_what_moves_is_what_is_replayed_from_next(method, moved, monkeypatch):
    """Statistics themselves; of a GAN, what the old one replays while it is trained."""
    config, stream, network, memory, past = later(method)
    called = []
    for name, one in (("new", memory), ("old", past.memory)):
        monkeypatch.setattr(one, "move", lambda *_, name=name: called.append(name))
    phase = phase_of(config, "generator", 2)
    training.follow_drift(memory, network, past, stream, 2, config, phase)
    assert called == [moved]


# Memories, prediction, data -----------------------------------------------------------


def test_exemplars_are_those_of_herding():
    rng = torch.Generator().manual_seed(0)
    u, y = torch.rand(40, 5, generator=rng), torch.arange(40) % 2
    memory = replay.Exemplars(2, 4, 64)
    memory.fit(u, y, 100 + torch.arange(40))
    for c in range(2):
        own = torch.nonzero(y == c)[:, 0]
        wanted = 100 + own[replay.herding(u[own], 4)]
        assert memory.kept[c].tolist() == wanted.tolist()


def test_the_mirror_image_counts():
    """iCaRL's means are of each exemplar and its mirror image, left and right."""
    config, stream, network, memory, _ = later("icarl-nme", exemplars=2)
    memory.kept[:7] = torch.arange(7)[:, None] * 150 + torch.arange(2)
    labels, phase = stream.train_labels[memory.rows], phase_of(config)
    stream = dataclasses.replace(stream, mirror=True)  # the cached one stays
    found = prediction.nearest_exemplar_means(network, memory, stream, 10, phase)
    extractor = torch.nn.Sequential(*network.stages)
    for c in labels.unique().tolist():
        x = stream.normalise(stream.train_images[memory.rows[labels == c]])
        with torch.no_grad():
            u = torch.cat([extractor(x), extractor(x.flip(3))])
        mean = functional.normalize(functional.normalize(u, dim=1).sum(0), dim=0)
        torch.testing.assert_close(found[c], mean)


def test_held_out_images_are_the_last_of_each_class():
    images = generated(4, per_class=20, size=8)
    stream, whole = (
        tasks.build(tiny("gfr", split=(2, 2), validation=share), images, CPU)
        for share in (0.25, 0.0)
    )
    for c in range(4):
        every = whole.train_images[whole.train_labels == c]
        held = stream.test_images[stream.test_labels == c]
        assert torch.equal(held, every[-len(held) :]) and len(held) == 5
    assert np.isclose(len(stream.train_labels), 0.75 * len(whole.train_labels))


def test_a_mixture_moves_as_a_linear_map_moves_normal_features():
    """The diagonal of W Sigma W^T, with a W that mixes features."""
    memory = replay.Mixtures(2, 2, 3, signed=True)
    rng = torch.Generator().manual_seed(0)
    memory.fit(torch.randn(400, 2, generator=rng), torch.zeros(400).long(), None)
    W, b = torch.tensor([[1.0, 2.0], [-1.0, 0.5]]), torch.zeros(2, 2) + 3
    spreads, centres = memory.spreads.clone(), memory.centres.clone()
    memory.move(W, b)
    for k in range(3):
        wanted = W @ torch.diag(spreads[0, k].square()) @ W.T
        torch.testing.assert_close(memory.spreads[0, k].square(), wanted.diagonal())
        torch.testing.assert_close(memory.centres[0, k], W @ centres[0, k] + 3)
