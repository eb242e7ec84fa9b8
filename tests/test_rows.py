"""The rows beyond the paper's own method: every component against a brute-force reference in float64."""

import copy
import math

import numpy as np
import pytest
import torch
from helpers_core import load_tasks, tiny, train
from torch.nn import functional

from gfrlib import losses, penalties, replay, training
from gfrlib.config import METHODS, UserError, make_config
from gfrlib.networks import (
    CosineHead,
    SpatialDiscriminator,
    SpatialGenerator,
    build_network,
    feature_shape,
    split,
    widest,
)

SMALL = dict(
    base=3,
    tasks=2,
    split=(3, 2, 2),
    epochs_base=1,
    epochs_task=1,
    generator_steps_base=4,
    generator_steps_later=4,
)


@pytest.fixture
def trained():
    """A double-precision digits network with heads of 3 and 2 classes, in eval mode, and images for it."""
    config = tiny("ewc", split=(3, 2, 2))
    stream = load_tasks(config)
    network = build_network(config, stream.shape, 0)
    network.head.grow(3, 0)
    network.head.grow(2, 1)
    network.train()
    with torch.no_grad():
        network(
            stream.normalise(stream.train_images[:200])
        )  # running statistics of its own
    return (
        config,
        network.double().eval(),
        stream.normalise(stream.train_images[:12]).double(),
    )


def importance_of(config, network):
    found = penalties.Importance(config, network)
    assert len(found.omegas) == len(list(network.stages.parameters()))
    return found


# --- importances -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 3])
def test_fisher_information_against_one_image_at_a_time(trained, first):
    config, network, images = trained
    importance = importance_of(config, network)
    importance.add(
        network, images, first, batch=1, rng=torch.Generator().manual_seed(5)
    )
    rng, parameters = (
        torch.Generator().manual_seed(5),
        list(network.stages.parameters()),
    )
    reference = [np.zeros(p.shape) for p in parameters]
    for x in images:
        p = network(x[None])[0, first:].softmax(0)
        y = int(p.detach().multinomial(1, generator=rng))
        network.zero_grad()
        p[y].log().backward()
        for total, parameter in zip(reference, parameters):
            total += parameter.grad.numpy() ** 2 / len(images)
    assert sum(r.sum() for r in reference) > 0
    for omega, r in zip(importance.omegas, reference):
        np.testing.assert_allclose(omega.numpy(), r, rtol=1e-8, atol=1e-14)


def test_the_fisher_information_is_that_of_the_models_own_labels(trained):
    """Averaged over many draws it comes to sum_y p(y|x) (d log p(y|x))^2, and not to the batched variant's square of a mean."""
    config, network, images = trained
    x, exact = images[:1], None
    for y in range(3):
        p = network(x)[0, :3].softmax(0)  # the first head alone
        gradients = torch.autograd.grad(
            p[y].log(), list(network.stages.parameters()), retain_graph=True
        )
        part = torch.cat([(p[y] * g.square()).flatten() for g in gradients]).detach()
        exact = part if exact is None else exact + part
    alone = copy.deepcopy(network)
    del alone.head.blocks[1]
    importance = importance_of(config, alone)
    importance.add(
        alone,
        x.expand(3000, -1, -1, -1)[:600],
        0,
        batch=1,
        rng=torch.Generator().manual_seed(0),
    )
    found = torch.cat([omega.flatten() for omega in importance.omegas])
    assert found.sum().item() == pytest.approx(exact.sum().item(), rel=0.15)
    batched = importance_of(config, alone)
    batched.add(
        alone,
        x.expand(600, -1, -1, -1),
        0,
        batch=100,
        rng=torch.Generator().manual_seed(0),
    )
    assert torch.cat([o.flatten() for o in batched.omegas]).sum() < 0.2 * found.sum()


def test_mas_sensitivity_against_one_image_at_a_time(trained):
    config, network, images = trained
    importance = importance_of(tiny("mas"), network)
    importance.add(network, images, 0, batch=1, rng=torch.Generator())
    parameters = list(network.stages.parameters())
    reference = [torch.zeros_like(p) for p in parameters]
    for x in images:
        for total, g in zip(
            reference, torch.autograd.grad((network(x[None]) ** 2).sum(), parameters)
        ):
            total += g.abs() / len(images)
    for omega, r in zip(importance.omegas, reference):
        torch.testing.assert_close(omega.data, r, rtol=1e-9, atol=1e-14)
    again = [omega.clone() for omega in importance.omegas]
    importance.add(
        network, images, 0, batch=1, rng=torch.Generator()
    )  # the next task's is added
    for omega, once in zip(importance.omegas, again):
        torch.testing.assert_close(omega.data, 2 * once)


def test_the_parameter_penalty_by_hand():
    p, old, omega = (
        [torch.tensor([3.0, 1.0]), torch.tensor([[2.0]])],
        [torch.tensor([1.0, 1.0]), torch.tensor([[5.0]])],
        [torch.tensor([0.5, 9.0]), torch.tensor([[2.0]])],
    )
    assert losses.parameter_penalty(p, old, omega).item() == pytest.approx(
        0.5 * 4 + 2 * 9
    )


def test_ewc_takes_half_of_the_sum_and_mas_all_of_it(trained):
    _, network, images = trained
    moved = copy.deepcopy(network)
    with torch.no_grad():
        for p in moved.parameters():
            p.add_(0.01 * torch.ones_like(p))
    for method, share in (("ewc", 0.5), ("mas", 1.0)):
        importance = importance_of(tiny(method), network)
        importance.add(
            network, images, 0, batch=1, rng=torch.Generator().manual_seed(1)
        )
        total = sum(float(o.sum()) for o in importance.omegas) * 1e-4
        assert importance.penalty(moved, network).item() == pytest.approx(
            share * total, rel=1e-6
        )
        assert importance.penalty(network, network).item() == 0


def test_a_strong_penalty_holds_the_extractor_and_old_heads_do_not_move():
    def run(weight):
        seen = []
        train(
            tiny("ewc", **{**SMALL, "penalty_weight": weight, "epochs_task": 3}),
            observe=lambda t, network, memory: seen.append(
                copy.deepcopy(network.state_dict())
            ),
        )
        moved = sum(
            float((seen[1][k] - seen[0][k]).square().sum())
            for k in seen[0]
            if k.endswith("weight") and "stages" in k
        )
        return moved, seen

    loose, seen = run(0.0)
    held, _ = run(1e7)
    assert held < 0.3 * loose
    for t in (1, 2):
        assert torch.equal(
            seen[t]["head.blocks.0.weight"], seen[0]["head.blocks.0.weight"]
        )
    assert not torch.equal(
        seen[2]["head.blocks.2.weight"], seen[1]["head.blocks.1.weight"]
    )


# --- exemplars ---------------------------------------------------------------------------------------------------------


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
    assert sorted(replay.herding(torch.from_numpy(u), 20).tolist()) == list(
        range(9)
    )  # no more than there are


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


def test_icarl_distils_one_softmax_and_lwf_one_per_head():
    logits, old = (
        torch.randn(5, 7, dtype=torch.float64),
        torch.randn(5, 7, dtype=torch.float64),
    )
    u = torch.zeros(5, 2)
    single = penalties.penalty(
        make_config("quick", "icarl-cnn", penalty_weight=1.0),
        u=u,
        u_old=u,
        logits=logits,
        logits_old=old,
        old_sizes=[3, 2],
        f=4.0,
    )
    target = (old[:, :5] / 2).softmax(1)
    assert single.item() == pytest.approx(
        4 * -(target * (logits[:, :5] / 2).log_softmax(1)).sum(1).mean().item()
    )
    heads = penalties.penalty(
        make_config("quick", "lwf", penalty_weight=1.0),
        u=u,
        u_old=u,
        logits=logits,
        logits_old=old,
        old_sizes=[3, 2],
        f=4.0,
    )
    assert heads.item() != pytest.approx(single.item())


# --- Rebalance -----------------------------------------------------------------------------------------------------------


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
    assert (
        losses.margin_ranking(torch.from_numpy(scores), torch.full((8,), 5), 4).item()
        == 0
    )  # no exemplar in the batch


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


def test_less_forget_weight_adapts_to_the_classes():
    config = make_config("quick", "lucir")
    u, u_old = (
        torch.randn(5, 4, dtype=torch.float64),
        torch.randn(5, 4, dtype=torch.float64),
    )
    logits = torch.randn(5, 12)
    found = penalties.penalty(
        config,
        u=u,
        u_old=u_old,
        logits=logits,
        logits_old=logits,
        old_sizes=[8, 1],
        f=99.0,
    )
    assert found.item() == pytest.approx(
        5
        * math.sqrt(9 / 3)
        * (1 - functional.cosine_similarity(u, u_old)).mean().item()
    )


# --- replay below the last cut ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(3, 32, 32), (16, 16, 16), (64, 8, 8), (1, 8, 8), (32, 4, 4), (3, 28, 28)]
)
def test_spatial_generator_and_discriminator_fit_their_shape_and_budget(shape):
    def generator(width):
        return SpatialGenerator(10, 16, shape, width, images=shape[0] < 4)

    def discriminator(width):
        return SpatialDiscriminator(10, shape, width)

    for build in (generator, discriminator):
        wide = widest(build, 200_000)
        assert sum(p.numel() for p in build(wide).parameters()) <= 200_000
        assert sum(p.numel() for p in build(wide + 4).parameters()) > 200_000
    c = torch.arange(5)
    u = generator(8)(c, torch.randn(5, 16))
    assert u.shape == (5, *shape) and (
        u.abs().max() <= 2.5 if shape[0] < 4 else u.min() >= 0
    )
    assert discriminator(8)(c, u).shape == (5,)


def test_spatial_discriminator_is_a_projection_discriminator():
    D = SpatialDiscriminator(6, (2, 8, 8), 8).double()
    u, c = torch.randn(7, 2, 8, 8, dtype=torch.float64), torch.arange(7) % 6
    phi = D.phi(u).sum(dim=(2, 3))
    expected = (
        phi @ D.score.weight[0]
        + D.score.bias
        + torch.stack([D.projection.weight[k] @ p for k, p in zip(c, phi)])
    )
    torch.testing.assert_close(D(c, u), expected)
    other = D((c + 1) % 6, u)
    assert not torch.allclose(other, expected)


def test_gradient_penalty_of_feature_maps_against_finite_differences():
    D = SpatialDiscriminator(3, (1, 4, 4), 4).double()
    real, fake = (
        torch.rand(2, 1, 4, 4, dtype=torch.float64),
        torch.rand(2, 1, 4, 4, dtype=torch.float64),
    )
    mix, c = (
        torch.tensor([0.3, 0.8], dtype=torch.float64).view(2, 1, 1, 1),
        torch.tensor([0, 2]),
    )
    found = losses.gradient_penalty(D, c, real, fake, mix).item()
    u, norms = mix * real + (1 - mix) * fake, []
    for b in range(2):
        slopes = []
        for i in range(16):
            step = torch.zeros(16, dtype=torch.float64)
            step[i] = 1e-6
            step = step.view(1, 1, 4, 4)
            slopes.append(
                (
                    D(c[b : b + 1], u[b : b + 1] + step)
                    - D(c[b : b + 1], u[b : b + 1] - step)
                ).item()
                / 2e-6
            )
        norms.append(np.linalg.norm(slopes))
    assert found == pytest.approx(np.mean([(n - 1) ** 2 for n in norms]), rel=1e-4)


@pytest.mark.parametrize("method", ["mergan", "block-1", "block-2", "block-3"])
def test_what_enters_at_a_cut_has_the_shape_that_leaves_the_extractor(method):
    config = tiny(method, **SMALL)
    seen = []
    outcome = train(
        config,
        observe=lambda t, network, memory: seen.append(
            copy.deepcopy((network, memory))
        ),
    )
    network, memory = seen[-1]
    shape = feature_shape(network, config.cut, (1, 8, 8))
    sample = memory.sample(torch.arange(3), torch.Generator().manual_seed(0))
    assert sample.shape[1:] == shape
    _, upper = split(network.eval(), config.cut)
    assert upper(sample).shape == (3, 7)
    assert {"generator", "discriminator"} <= set(outcome.bytes_kept[1])
    assert any("replayed" in row for row in outcome.losses) and any(
        "alignment" in row for row in outcome.losses
    )


def test_joint_retraining_shows_old_replays_as_real():
    outcome = train(tiny("mergan", **SMALL, alignment="retrain"))
    assert not any("alignment" in row for row in outcome.losses)
    config = tiny("gfr", **SMALL, generator_batch=4000)
    memory = replay.GAN(10, 6, 4, 8)
    phase = training.Phase(config, 1, "generator", training.NoStore(), None)
    u, c = torch.full((4000, 6), -1.0), torch.full((4000,), 4)
    v, k = training.with_replays(u, c, memory, (3, 5), phase)
    old = k < 3
    assert old.float().mean().item() == pytest.approx(3 / 5, abs=0.04)
    assert (
        (v[~old] == -1).all()
        and (v[old] >= 0).all()
        and set(k.tolist()) == {0, 1, 2, 4}
    )


# --- controls beyond the paper ----------------------------------------------------------------------------------------------


def test_translated_features_against_loops():
    memory = replay.Translated(5, 3)
    rng = np.random.default_rng(0)
    old = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    memory.means[:3] = torch.from_numpy(old).float()
    new = np.concatenate(
        [rng.normal([2, 0.1, 0.1], 0.1, (6, 3)), rng.normal([0.1, 2, 1.9], 0.1, (9, 3))]
    )
    labels = torch.tensor([3] * 6 + [4] * 9)
    memory.watch(torch.from_numpy(new).float(), labels)
    assert memory.like[:3].tolist() == [0, 1, 1]
    means = np.stack([new[:6].mean(0), new[6:].mean(0)])
    c = torch.arange(300) % 3
    found = memory.sample(c, torch.Generator().manual_seed(0)).numpy()
    for row, k in zip(found, c.tolist()):
        like = (0, 1, 1)[k]
        source = row - old[k] + means[like]
        distance = np.abs((new[:6], new[6:])[like] - source).max(1)
        assert distance.min() < 1e-5
    assert len({tuple(r.round(4)) for r in found}) > 20  # many different images


def test_mahalanobis_distances_against_numpy():
    rng = np.random.default_rng(2)
    u = [rng.gamma(2.0, 1.0, (40, 5)), rng.gamma(3.0, 0.5, (30, 5))]
    memory = replay.Covariances(2, 5)
    memory.fit(
        torch.from_numpy(np.concatenate(u)).float(), torch.tensor([0] * 40 + [1] * 30)
    )
    test = rng.gamma(2.0, 1.0, (7, 5))
    for c in range(2):
        v = np.sqrt(u[c])
        s = np.cov(v.T)
        off = s[~np.eye(5, dtype=bool)].mean()
        s = s + np.where(np.eye(5, dtype=bool), np.diag(s).mean(), off)
        s = s / np.sqrt(np.outer(np.diag(s), np.diag(s)))
        x, m = np.sqrt(test), v.mean(0)
        delta = x / np.linalg.norm(x, axis=1, keepdims=True) - m / np.linalg.norm(m)
        expected = np.einsum("ni,ij,nj->n", delta, np.linalg.inv(s), delta)
        np.testing.assert_allclose(
            memory.distances(torch.from_numpy(test).float(), 2)[:, c].numpy(),
            expected,
            rtol=2e-3,
        )


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_moved_gaussians_are_the_gaussians_of_moved_features(kind):
    rng = torch.Generator().manual_seed(0)
    u = torch.rand(4000, 4, generator=rng, dtype=torch.float64).float() + 1
    W = torch.rand(4, 4, generator=rng)
    memory = replay.Gaussians(1, 4, kind, clamp=False)
    memory.fit(u, torch.zeros(4000, dtype=torch.long))
    memory.move(W, torch.zeros_like(memory.means))
    v = u @ W.T
    torch.testing.assert_close(memory.means[0], v.mean(0), rtol=1e-4, atol=1e-4)
    spread = memory.spread[0]
    variance = (spread @ spread.T).diagonal() if kind == "full" else spread.square()
    # independent dimensions: the diagonal is exact up to their sample correlation
    torch.testing.assert_close(
        variance, v.var(0), rtol=0.05 if kind == "diagonal" else 2e-3, atol=1e-4
    )


def test_the_drift_map_is_least_squares():
    rng = np.random.default_rng(0)
    before = rng.random((500, 6))
    true = np.eye(6) + 0.3 * rng.normal(size=(6, 6))
    after = before @ true.T + 0.01 * rng.normal(size=(500, 6))
    means = torch.zeros(3, 6)
    found, still = replay.linear_drift(
        torch.from_numpy(before), torch.from_numpy(after), means
    )
    assert torch.equal(still, means)
    ridge = 1e-2 * np.trace(before.T @ before) / 6
    wide = np.concatenate(
        [before, np.sqrt(ridge) * np.eye(6)]
    )  # ridge towards the identity as extra rows
    target = np.concatenate([after, np.sqrt(ridge) * np.eye(6)])
    expected = np.linalg.lstsq(wide, target, rcond=None)[0].T
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(found.numpy() - true).max() < 0.5 * np.abs(true - np.eye(6)).max()
    before[:, 5] = after[:, 5] = (
        0  # a direction that the new classes never use stays where it is
    )
    found, _ = replay.linear_drift(
        torch.from_numpy(before), torch.from_numpy(after), means
    )
    np.testing.assert_allclose(found.numpy()[5], np.eye(6)[5], atol=1e-6)


def test_drift_compensation_moves_what_is_replayed():
    plain, moved = (
        train(
            tiny(
                m,
                **{
                    **SMALL,
                    "epochs_task": 4,
                    "penalty_weight": 0.0,
                    "learning_rate_task": 1e-2,
                },
            )
        )
        for m in ("gfr-gaussian", "gfr-gaussian-drift")
    )
    assert plain.losses[0] == moved.losses[0]  # the same task 0
    assert plain.weights != moved.weights
    gan = replay.GAN(4, 3, 2, 8)
    c, z = torch.arange(4), torch.randn(4, 2)
    before = gan.replay(c, z)
    W = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0.5, 0, 2]])
    b = torch.arange(12.0).view(4, 3) / 10
    rng = torch.Generator().manual_seed(0)
    expected = (
        gan.replay(c.repeat_interleave(100), gan.latent(400, rng))
        .view(4, 100, 3)
        .mean(1)
    )
    torch.testing.assert_close(gan.class_means(rng.manual_seed(0)), expected)
    gan.move(W, b)
    torch.testing.assert_close(
        gan.replay(c, z),
        torch.stack([(W @ u + b[k]).clamp_min(0) for k, u in enumerate(before)]),
    )


# --- the table ---------------------------------------------------------------------------------------------------------------


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
    """On a machine without a GPU the meta device stands for one: what is built must be moved there as a whole."""
    config = tiny(method)
    stream = load_tasks(config)
    monkeypatch.setattr(training, "resolve_device", lambda config: torch.device("meta"))
    monkeypatch.setattr(training, "feature_shape", lambda *_: (512,))
    chain = training.Chain(config, stream, None, None)
    network, memory, _ = chain.build()
    for t in range(2):
        chain.grow_head(network, t)
        assert {
            p.device.type for module in (network, memory) for p in module.parameters()
        } == {"meta"}


def test_rows_that_share_their_training_share_its_stages():
    """iCaRL's two rows differ in prediction only: the second trains nothing, and gives the same network."""
    from test_training import MemoryStore

    store = MemoryStore()
    first = train(tiny("icarl-cnn", **SMALL), store)
    kept = len(store.trained)
    second = train(tiny("icarl-nme", **SMALL), store)
    assert second.weights == first.weights and len(store.trained) == kept > 0
