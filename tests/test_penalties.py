"""The penalty column: Fisher information, sensitivity, distillation, less-forget."""

import copy

import numpy as np
import pytest
import torch
from helpers_core import SMALL, load_tasks, tiny, train
from torch.nn import functional

from gfrlib import losses, penalties, replay, training
from gfrlib.config import make_config
from gfrlib.networks import build_network
from gfrlib.penalties import PENALTIES, Batch, Past


@pytest.fixture
def trained():
    """A network with heads of 3 and 2 classes, in float64 and eval; and images."""
    config = tiny("ewc", split=(3, 2, 2))
    stream = load_tasks(config)
    network = build_network(config, stream.shape, 0)
    network.head.grow(3, 0)
    network.head.grow(2, 1)
    network.train()
    with torch.no_grad():  # running statistics of its own
        network(stream.normalise(stream.train_images[:200]))
    images = stream.normalise(stream.train_images[:12]).double()
    return config, network.double().eval(), images


def importance_of(config, network):
    found = penalties.build_importance(config, network)
    assert len(found.omegas) == len(list(network.stages.parameters()))
    return found


# --- importances ----------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 3])
def test_fisher_information_against_one_image_at_a_time(trained, first):
    config, network, images = trained
    importance = importance_of(config, network)
    importance.add(
        network, images, first, batch=1, rng=torch.Generator().manual_seed(5)
    )
    rng = torch.Generator().manual_seed(5)
    parameters = list(network.stages.parameters())
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
    """Over many draws it comes to sum_y p(y|x) (d log p(y|x))^2.

    And not to the batched variant's square of a mean.
    """
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
        squares = (network(x[None]) ** 2).sum()
        gradients = torch.autograd.grad(squares, parameters)
        for total, g in zip(reference, gradients):
            total += g.abs() / len(images)
    for omega, r in zip(importance.omegas, reference):
        torch.testing.assert_close(omega.data, r, rtol=1e-9, atol=1e-14)
    again = [omega.clone() for omega in importance.omegas]
    # the next task's is added
    importance.add(network, images, 0, batch=1, rng=torch.Generator())
    for omega, once in zip(importance.omegas, again):
        torch.testing.assert_close(omega.data, 2 * once)


class Product(torch.nn.Module):
    """Two heads of one class each, logits w x and 2 w x; w is the extractor."""

    def __init__(self, w: float):
        super().__init__()
        self.stages = torch.nn.ParameterList([torch.tensor(w)])

    def forward(self, x):
        u = self.stages[0] * x
        return torch.stack([u, 2 * u], dim=1)


@pytest.mark.parametrize("method", ["ewc", "mas"])
def test_importances_as_facils_code_by_hand(method):
    """Over all heads, squared after the batch's mean, and halved with the old ones.

    w = 1. EWC: the likeliest class of x > 0 is 1, of x < 0 it is 0, and d/dw of
    -log p is -|x| (1 - sigmoid(|x|)). MAS: ||f|| = sqrt(5) |w x|, without the square.
    """
    network = Product(1.0)
    importance = importance_of(tiny(method, importance="facil"), network)

    def of(batch):
        a = np.abs(np.array(batch))
        if method == "mas":
            return abs(5**0.5 * a.mean())
        return (a * (1 - 1 / (1 + np.exp(-a)))).mean() ** 2

    batches = [[1.0, -2.0], [0.5, 3.0]]
    rng = torch.Generator()
    images = torch.tensor(sum(batches, []))
    importance.add(network, images, 1, batch=2, rng=rng)
    first = np.mean([of(b) for b in batches])
    assert importance.omegas[0].item() == pytest.approx(first / 2, rel=1e-5)
    importance.add(network, images[:2], 1, batch=2, rng=rng)
    expected = first / 4 + of(batches[0]) / 2
    assert importance.omegas[0].item() == pytest.approx(expected, rel=1e-5)
    # a short last batch counts as its images do
    fresh = importance_of(tiny(method, importance="facil"), network)
    fresh.add(network, images[:3], 1, batch=2, rng=rng)
    expected = (2 * of(batches[0]) + of(batches[1][:1])) / 3 / 2
    assert fresh.omegas[0].item() == pytest.approx(expected, rel=1e-5)


def test_images_are_prepared_batch_by_batch():
    network, seen = Product(1.0), []

    def prepare(x):
        seen.append(len(x))
        return 2 * x

    one, two = (importance_of(tiny("mas"), network) for _ in range(2))
    images, rng = torch.tensor([1.0, -2.0, 3.0]), torch.Generator()
    one.add(network, images, 1, batch=1, rng=rng, prepare=prepare)
    two.add(network, 2 * images, 1, batch=1, rng=rng)
    assert seen == [1, 1, 1] and torch.equal(one.omegas[0], two.omegas[0])


@pytest.mark.parametrize("method, copied", [("fecam", False), ("gfr-gaussian", True)])
def test_only_a_memory_that_is_sampled_is_copied(method, copied):
    """FeCAM's covariances are large, and stay as they are while a task is learned."""
    config = tiny(method)
    network, memory, _ = training.build(config, load_tasks(config), "cpu")
    past = Past(network, memory, None, config, (4, 2), 1)
    assert (past.memory is not memory) == copied and past.network is not network


def test_the_parameter_penalty_by_hand():
    theta = torch.tensor([3.0, 1.0, 2.0])
    old, omega = torch.tensor([1.0, 1.0, 5.0]), torch.tensor([0.5, 9.0, 2.0])
    found = losses.parameter_penalty(theta, old, omega).item()
    assert found == pytest.approx(0.5 * 4 + 2 * 9)


def test_ewc_takes_half_of_the_sum_and_mas_all_of_it(trained):
    _, network, images = trained
    moved = copy.deepcopy(network)
    with torch.no_grad():
        for p in moved.parameters():
            p.add_(0.01 * torch.ones_like(p))
    for method, share in (("ewc", 0.5), ("mas", 1.0)):
        config = tiny(method, penalty_weight=1.0)
        importance = importance_of(config, network)
        rng = torch.Generator().manual_seed(1)
        importance.add(network, images, 0, batch=1, rng=rng)
        past = penalties.Past(
            network, replay.Memory(), importance, config, (3, 2, 2), 2
        )
        total = sum(float(o.sum()) for o in importance.omegas) * 1e-4

        def penalty(now, past=past, config=config):
            batch = penalties.Batch(now, None, None, None, None)
            return penalties.PENALTIES[config.penalty](past, batch).item()

        assert penalty(moved) == pytest.approx(share * total, rel=1e-6)
        assert penalty(network) == 0


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
    for t, block in ((1, 0), (2, 0), (2, 1)):
        name = f"head.blocks.{block}.weight"
        assert torch.equal(seen[t][name], seen[t - 1][name]), (t, block)


# --- distillation ---------------------------------------------------------------------


# --- the column: what a penalty adds, and what it asks of the old network -----------


class Given:
    """Stands for Past: what a penalty may ask, and a note of what it asked."""

    def __init__(self, config, u_old, logits_old, sizes, new_classes=1):
        self.config, self.u_old, self.logits_old = config, u_old, logits_old
        self.sizes, self.classes, self.new_classes = sizes, sum(sizes), new_classes
        self.f, self.asked = self.classes / new_classes, []

    def features(self, batch):
        self.asked.append("features")
        return self.u_old

    def logits(self, batch):
        self.asked.append("logits")
        return self.logits_old


def penalty_of(config, u, u_old, logits, logits_old, sizes, new_classes=1):
    """(the penalty, what it asked of the old network)"""
    past = Given(config, u_old, logits_old, sizes, new_classes)
    batch = Batch(None, None, u, logits, None)
    return PENALTIES[config.penalty](past, batch).item(), past.asked


def test_penalty_is_the_weighted_loss_of_its_column():
    rng = torch.Generator().manual_seed(0)
    wide = dict(generator=rng, dtype=torch.float64)
    u, old = (torch.randn(6, 4, **wide) for _ in range(2))
    logits, logits_old = torch.randn(6, 6, **wide), torch.randn(6, 5, **wide)
    given = u, old, logits, logits_old, (3, 2)
    gfr = make_config("quick", "gfr", penalty_weight=0.5)
    found, asked = penalty_of(gfr, *given)
    expected = 0.5 * 5 * losses.feature_distillation(u, old).item()  # f = 5 / 1
    assert found == pytest.approx(expected, rel=1e-12) and asked == ["features"]
    lwf = make_config("quick", "lwf", penalty_weight=3.0, temperature=4.0)
    found, asked = penalty_of(lwf, *given)
    raw = losses.lwf_distillation(logits, logits_old, [3, 2], temperature=4.0)
    # f does not enter
    assert found == pytest.approx(3 * raw.item(), rel=1e-12) and asked == ["logits"]
    icarl = make_config("quick", "icarl-cnn", penalty_weight=1.0)
    single, _ = penalty_of(icarl, *given)
    target = (logits_old / 2).softmax(1)
    own = (logits[:, :5] / 2).log_softmax(1)
    assert single == pytest.approx(4 * -(target * own).sum(1).mean().item())
    heads, _ = penalty_of(make_config("quick", "lwf", penalty_weight=1.0), *given)
    assert heads != pytest.approx(single)


def test_less_forget_weight_adapts_to_the_classes():
    lucir, wide = make_config("quick", "lucir"), dict(dtype=torch.float64)
    u, old = torch.randn(5, 4, **wide), torch.randn(5, 4, **wide)
    logits = torch.randn(5, 12, **wide)
    found, asked = penalty_of(lucir, u, old, logits, logits, (8, 1), 3)
    apart = (1 - functional.cosine_similarity(u, old)).mean().item()
    assert found == pytest.approx(5 * 3**0.5 * apart) and asked == ["features"]
