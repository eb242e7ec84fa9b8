"""The staged network and its cuts, heads, sizes against Table 1, imports."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from helpers_core import SMALL, environment, tiny, train
from torch import nn

from gfrlib.config import make_config
from gfrlib.memory import state_bytes
from gfrlib.networks import (
    Discriminator,
    Generator,
    Head,
    LeakyReLU,
    Network,
    Residual,
    build_network,
    split,
)
from gfrlib.replay import build_memory

NETWORKS = {
    "cnn": dict(network="cnn", width=4),
    "resnet18": dict(network="resnet18", width=4),
}
SHAPES = {"cnn": (1, 8, 8), "resnet18": (3, 16, 16)}


def build(kind: str, seed: int = 0, **changes):
    network = build_network(
        make_config("quick", **{**NETWORKS[kind], **changes}), SHAPES[kind], seed
    )
    network.head.grow(4, seed=1)
    network.head.grow(2, seed=2)
    return network


def images(kind: str, count: int = 5) -> torch.Tensor:
    return torch.randn(count, *SHAPES[kind], generator=torch.Generator().manual_seed(0))


def parameter_mib(module: nn.Module) -> float:
    return sum(p.numel() * p.element_size() for p in module.parameters()) / 2**20


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("cut", range(5))
def test_classifier_after_extractor_is_the_network_at_every_cut(kind, cut):
    network, x = build(kind).eval(), images(kind)
    extractor, classifier = split(network, cut)
    u = extractor(x)
    assert torch.equal(classifier(u), network(x))
    assert len(extractor) == cut and len(classifier) == 5 - cut
    ours = {id(p) for p in extractor.parameters()} | {
        id(p) for p in classifier.parameters()
    }
    assert ours == {
        id(p) for p in network.parameters()
    }  # shared, nothing copied, nothing lost
    if cut == 0:
        assert torch.equal(u, x)
    if cut == 4:
        assert u.shape == (5, network.features)


@pytest.mark.parametrize("cut", [-1, 5])
def test_a_cut_that_does_not_exist_is_refused(cut):
    with pytest.raises(ValueError, match="0..4"):
        split(build("cnn"), cut)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("cut", range(1, 5))
def test_features_are_never_negative(kind, cut):
    network = build(kind).eval()
    u = split(network, cut)[0](images(kind, 20))
    assert u.min() >= 0 and (u > 0).float().mean() > 0.05


def test_head_grows_by_blocks_and_keeps_the_old_ones():
    head, u = Head(3), torch.randn(6, 3)
    head.grow(4, seed=1)
    before = head(u)
    head.grow(2, seed=2)
    after = head(u)
    assert head.sizes == [4, 2] and after.shape == (6, 6)
    assert torch.equal(after[:, :4], before)
    assert torch.equal(after[:, 4:], head.blocks[1](u))


def test_a_block_depends_on_its_seed_alone():
    def block(seed: int, earlier: int) -> torch.Tensor:
        torch.manual_seed(earlier)
        head = Head(3)
        for k in range(earlier):
            head.grow(1, seed=100 + k)
        head.grow(4, seed)
        return head.blocks[-1].weight

    assert torch.equal(block(5, 0), block(5, 3)) and not torch.equal(
        block(5, 0), block(6, 0)
    )


@pytest.mark.parametrize("kind", NETWORKS)
def test_initial_values_depend_on_the_seed_alone(kind):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    a = build(kind).state_dict()
    assert torch.equal(
        torch.get_rng_state(), state
    )  # and the caller's random numbers are left alone
    torch.manual_seed(2)
    b, c = build(kind).state_dict(), build(kind, seed=1).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a if "head" not in k)


def test_sizes_of_generator_and_discriminator_are_table_1s():
    # methods.md, row 20: 100 classes, features and hidden layers of 512, 200 latent
    # dimensions
    G, D = (
        Generator(classes=100, latent_dim=200, hidden=512, features=512),
        Discriminator(100, 512, 512),
    )
    assert round(parameter_mib(G), 2) == 2.59 and round(parameter_mib(D), 2) == 2.20
    assert state_bytes(G) == sum(p.numel() * 4 for p in G.parameters())


def test_size_of_resnet18_is_table_1s():
    network = build_network(make_config("paper"), (3, 32, 32), 0)
    network.head.grow(100, 0)
    assert network.features == 512
    assert sum(p.numel() for p in network.parameters()) == 11_220_132
    assert round(parameter_mib(network), 1) == 42.8


def test_resnet18_keeps_the_resolution_of_small_images_and_shrinks_large_ones():
    def shapes(size):
        network, x, found = (
            build_network(make_config("slim", width=2), (3, size, size), 0).eval(),
            None,
            [],
        )
        x = torch.zeros(1, 3, size, size)
        for stage in network.stages:
            x = stage(x)
            found.append(tuple(x.shape[1:]))
        return found

    assert shapes(32) == [(2, 32, 32), (4, 16, 16), (8, 8, 8), (16,)]
    # the ImageNet stem without its max-pool: 64 pixels cost what 32 do
    assert shapes(64) == shapes(32)
    assert shapes(128) == [
        (2, 32, 32),
        (4, 16, 16),
        (8, 8, 8),
        (16,),
    ]  # the ImageNet stem divides by four


def test_resnet18_is_torchvisions_with_another_stem():
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.resnet18(num_classes=10).eval()
    ours = build_network(make_config("paper"), (3, 96, 96), 0).eval()
    ours.head.grow(10, 0)
    source = [v for k, v in theirs.state_dict().items()]
    target = ours.state_dict()
    # the same order of layers, so that the weights can be copied one by one and the
    # outputs compared
    assert [v.shape for v in source] == [v.shape for v in target.values()]
    ours.load_state_dict(dict(zip(target, source)))
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_generator_is_conditional_and_ends_in_a_relu():
    G = Generator(classes=3, latent_dim=4, hidden=16, features=6)
    with torch.no_grad():
        for p in G.parameters():
            p.normal_(0, 0.5)
    z = torch.randn(50, 4)
    a, b = (
        G(torch.zeros(50, dtype=torch.long), z),
        G(torch.ones(50, dtype=torch.long), z),
    )
    assert a.shape == (50, 6) and a.min() == 0 and not torch.equal(a, b)


def test_discriminator_uses_the_class_through_the_projection_only():
    D = Discriminator(classes=3, hidden=8, features=6)
    u, zeros, ones = (
        torch.randn(4, 6),
        torch.zeros(4, dtype=torch.long),
        torch.ones(4, dtype=torch.long),
    )
    h = D.phi(u)
    difference = (D.projection.weight[1] - D.projection.weight[0]) @ h.T
    torch.testing.assert_close(D(ones, u) - D(zeros, u), difference)
    assert D(ones, u).shape == (4,)


def test_weights_of_the_gan_start_as_the_official_codes():
    D, G = Discriminator(100, 512, 512), Generator(100, 200, 512, 512)
    for layer in (*D.modules(), *G.modules()):
        if isinstance(layer, nn.Linear | nn.Embedding):
            assert abs(layer.weight.std().item() - 0.02) < 2e-3
            assert getattr(layer, "bias", None) is None or not layer.bias.any()


def test_the_projection_starts_as_a_linear_layer_of_the_one_hot_class_does():
    for classes in (10, 100):
        torch.manual_seed(0)
        official = nn.Linear(classes, 512, bias=False).weight
        bound = classes**-0.5
        assert official.abs().max() <= bound  # PyTorch's own start has this bound
        D = Discriminator(classes, 512, 512, "pytorch")
        for weight in (official, D.projection.weight):
            assert 0.95 * bound < weight.abs().max() <= bound
            assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert abs(D.score.weight.std().item() - 0.02) < 2e-3  # and nothing else moves
    config = make_config("quick", "gfr", initial_projection="pytorch")
    memory = build_memory(config, 10, (8,), 0)
    assert memory.discriminator.projection.weight.std() > 0.15  # 0.18, not 0.02


def test_a_resnets_convolutions_start_by_fan_out_or_as_pytorchs():
    """By hand, for width 16: sqrt(2 / fan-out) against 1 / sqrt(3 fan-in)."""

    def deviations(start):
        config = make_config("slim", initial_convolutions=start)
        stages = build_network(config, (3, 32, 32), 0).stages
        stem, deep, projection = (
            stages[0][0],
            stages[3][1].conv2,
            stages[3][0].shortcut[0],
        )
        return [c.weight.std().item() for c in (stem, deep, projection)]

    by_hand = {
        "fan-out": [(2 / 144) ** 0.5, (2 / 1152) ** 0.5, (2 / 128) ** 0.5],
        "pytorch": [81**-0.5, 3456**-0.5, 192**-0.5],
    }
    for start, expected in by_hand.items():
        assert deviations(start) == pytest.approx(expected, rel=0.1), start


def test_the_small_network_has_pytorchs_start_whatever_is_said():
    a, b = (
        build("cnn", initial_convolutions=s).state_dict()
        for s in ("fan-out", "pytorch")
    )
    assert all(torch.equal(a[k], b[k]) for k in a)
    weight = a["stages.1.0.weight"]  # 4 channels in, 3 x 3
    assert 0.9 * 36**-0.5 < weight.abs().max() <= 36**-0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_discriminator_s_activation_is_pytorchs_without_second_derivative(dtype):
    x = torch.tensor(
        [-torch.inf, -3.7, -1e-40, -0.0, 0.0, 0.3, 1e30],
        dtype=dtype,
        requires_grad=True,
    )
    ours, theirs = LeakyReLU(0.2)(x), nn.functional.leaky_relu(x, 0.2)
    assert torch.equal(ours, theirs) and torch.equal(ours.signbit(), theirs.signbit())
    weights = torch.linspace(-1, 1, len(x), dtype=dtype, requires_grad=True)
    first = [
        torch.autograd.grad((y * weights).sum(), x, create_graph=True)[0]
        for y in (ours, theirs)
    ]
    assert torch.equal(*first)
    outer = [
        torch.autograd.grad(g.square().sum(), [weights, x], allow_unused=True)
        for g in first
    ]
    assert torch.equal(outer[0][0], outer[1][0])
    assert (
        outer[0][1] is None and not outer[1][1].any()
    )  # nothing, where PyTorch has zeros


def test_head_blocks_learn_through_the_network():
    network = build("cnn")
    assert isinstance(network, Network)
    network(images("cnn")).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_importing_the_library_does_not_import_what_takes_seconds(tmp_path):
    code = (
        "import sys, gfrlib.lab.experiments, gfrlib.cli; "
        "print([m for m in ('torchvision', 'sklearn', 'matplotlib', 'pandas', "
        "'papermill', 'IPython', 'PIL') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment(tmp_path),
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("width", [2, 4, 6, 8])
def test_a_thin_shortcut_is_the_convolution_with_a_stride(width):
    """Below 8 channels the strides are taken first: PyTorch's own step there writes
    beyond its memory on some processors.
    """
    torch.manual_seed(0)
    block = Residual(width, 2 * width, 2).to(memory_format=torch.channels_last)
    x = torch.randn(3, width, 9, 9).to(memory_format=torch.channels_last)
    taken = x[..., :: block.skip, :: block.skip]
    found = block.shortcut[0](taken)
    weight = block.shortcut[0].weight
    with torch.no_grad():
        expected = nn.functional.conv2d(x, weight, stride=2)
    torch.testing.assert_close(found, expected)
    assert block.skip == (2 if width < 8 else 1)


def test_a_thin_resnet_trains():
    """Many small steps: memory that is written beyond its end shows late."""
    config = tiny("finetune", **SMALL, network="resnet18")
    for width in (2, 4):
        outcome = train(dataclasses.replace(config, width=width))
        assert outcome.predictions[-1]
