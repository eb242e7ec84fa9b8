"""A pretrained extractor: the same features, and what follows from the weights."""

from dataclasses import replace

import pytest
import torch
import torchvision
from helpers_core import TINY, generated, same_predictions
from torch.nn.functional import adaptive_avg_pool2d

from gfrlib import batches, pretrained, tasks, training
from gfrlib.config import UserError, make_config
from gfrlib.engine.machine import Machine
from gfrlib.engine.phase import Phase
from gfrlib.networks import STEMS, build_network, resnet18, split, usual_stem
from gfrlib.pretrained import Unusable
from gfrlib.training import build

CPU = torch.device("cpu")


def shaken(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights and random running statistics, in eval mode."""
    rng = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=rng)
        elif value.is_floating_point():
            spread = 1.0 if value.ndim == 1 else (value[0].numel()) ** -0.5
            value.normal_(0.0, spread, generator=rng)
    return network.eval()


def torchvisions(width: int = 64) -> torch.nn.Module:
    """torchvision's ResNet-18 with random weights."""
    net = torchvision.models.resnet18(weights=None)
    if width != 64:
        net.inplanes = width
        net.conv1 = torch.nn.Conv2d(3, width, 7, 2, 3, bias=False)
        net.bn1 = torch.nn.BatchNorm2d(width)
        for k in range(4):
            layer = net._make_layer(
                torchvision.models.resnet.BasicBlock, width * 2**k, 2, 1 + (k > 0)
            )
            setattr(net, f"layer{k + 1}", layer)
    return shaken(net)


def their_features(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """u [B, d]: all of it but the last layer."""
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = layer(x)
    return adaptive_avg_pool2d(x, 1).flatten(1)


def stream_of(weights: pretrained.Pretrained, *, size: int = 64, **changes):
    """A config and a stream of two classes of coloured squares that start from them."""
    follows = weights.settings()
    config = make_config(
        "quick", "frozen", split=(1, 1), weights="random-01234567", **follows, **changes
    )
    packed = generated(2, per_class=4, size=size)
    return config, tasks.build(config, packed, CPU).starting_from(weights)


@pytest.mark.parametrize("size", [64, 128, 224])
def test_features_are_torchvisions(size, tmp_path):
    net = torchvisions()
    torch.save(net.state_dict(), tmp_path / "resnet18.pt")
    content = torch.load(tmp_path / "resnet18.pt", weights_only=True)
    config, stream = stream_of(pretrained.read(content, "random"), size=size)
    network, *_ = build(config, stream, CPU)
    F, _ = split(network.eval(), 4)
    images = stream.test_images[:2]  # uint8 [2, H, W, 3]
    normalise = torchvision.transforms.Normalize(
        (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    with torch.no_grad():
        ours = F(stream.normalise(images))
        theirs = their_features(net, normalise(images.permute(0, 3, 1, 2) / 255))
    assert ours.shape == (2, 512) and theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [4, 64])
def test_the_width_follows_from_the_file(width):
    found = pretrained.read(torchvisions(width).state_dict(), "random")
    assert found.settings() == {"network": "resnet18", "width": width, "bottleneck": 0}
    assert (found.stem, found.channels, len(found.sha256)) == ("7x7-pool", 3, 64)
    assert (found.mean, found.std) == pretrained.IMAGENET


def ours(stem: str = "3x3", *, channels: int = 3, bottleneck: int = 0, seed: int = 0):
    """Our network of width 4 with random weights, and with a head."""
    config = make_config("quick", network="resnet18", width=4, bottleneck=bottleneck)
    network = build_network(config, (channels, 16, 16), 0, stem=stem)
    network.head.grow(3, 0)
    return shaken(network, seed)


@pytest.mark.parametrize("stem", STEMS)
def test_our_own_file_gives_the_same_features(stem):
    network, moments = ours(stem), (torch.rand(3), torch.rand(3) + 0.1)
    kept = pretrained.of_network(network, *moments, "a test").kept()
    found = pretrained.read(kept, "file")
    assert (found.stem, found.width, found.source) == (stem, 4, "a test")
    config, stream = stream_of(found, size=40)
    again, *_ = build(config, stream, CPU)
    x = stream.normalise(stream.test_images)
    centred = stream.test_images / 255 - moments[0]
    torch.testing.assert_close(x, (centred / moments[1]).permute(0, 3, 1, 2))
    with torch.no_grad():
        torch.testing.assert_close(
            split(again.eval(), 4)[0](x), split(network, 4)[0](x), atol=0, rtol=0
        )


@pytest.mark.parametrize("stem", STEMS)
def test_a_bare_state_dict_of_ours_tells_its_stem(stem):
    """With a head or without; images are normalised as from scratch."""
    state = ours(stem).state_dict()
    bare = {k: v for k, v in state.items() if not k.startswith("head")}
    whole, without = (pretrained.read(s, "file") for s in (state, bare))
    assert whole.stem == without.stem == stem and whole.mean is None
    assert whole.sha256 == without.sha256
    _, stream = stream_of(whole)
    mean = stream.train_images.float().mean((0, 1, 2)) / 255
    torch.testing.assert_close(stream.mean, mean)


def test_a_bottleneck_follows_too():
    found = pretrained.read(ours(bottleneck=5).state_dict(), "file")
    assert found.settings()["bottleneck"] == 5
    network, *_ = build(*stream_of(found), CPU)
    assert network.features == 5
    last = network.stages[-1][-1].weight
    assert torch.equal(last, found.state["stages.3.4.weight"])


def test_the_checksum_follows_every_value():
    state = ours().state_dict()
    before = pretrained.read(state, "file")
    assert pretrained.read(state, "another").sha256 == before.sha256
    moved = dict(state)
    moved["stages.2.1.norm2.bias"] = state["stages.2.1.norm2.bias"] + 1e-4
    assert pretrained.read(moved, "file").sha256 != before.sha256
    moments = torch.zeros(3), torch.ones(3)
    other = pretrained.of_network(ours(), *moments, "file")
    assert other.sha256 != before.sha256, "normalised in another way"


def test_the_network_from_scratch_is_what_it_was():
    assert [usual_stem(size) for size in (8, 32, 33, 64, 65)] == [
        "3x3", "3x3", "7x7", "7x7", "7x7-pool",
    ]  # fmt: skip
    for size in (32, 64, 96):
        names = [
            resnet18(3, 4, size, stem=s).state_dict() for s in ("", usual_stem(size))
        ]
        assert names[0].keys() == names[1].keys()


def test_grey_images_are_seen_in_three_channels():
    found = pretrained.read(torchvisions(4).state_dict(), "random")
    packed = generated(2, per_class=4)
    for part in ("train_images", "test_images"):
        setattr(packed, part, getattr(packed, part)[..., :1])
    config = make_config("quick", split=(1, 1))
    grey = tasks.build(config, packed, CPU)
    stream = grey.starting_from(found)
    x = stream.normalise(stream.test_images)
    assert (grey.shape, stream.shape) == ((1, 16, 16), (3, 16, 16))
    mean, std = (torch.tensor(m)[:, None, None] for m in pretrained.IMAGENET)
    back = 255 * (x * std + mean)
    wanted = stream.test_images.permute(0, 3, 1, 2).expand(-1, 3, -1, -1).float()
    torch.testing.assert_close(back, wanted, atol=1e-4, rtol=0)


def test_colours_are_not_for_weights_of_one_channel():
    found = pretrained.read(ours(channels=1).state_dict(), "file")
    config = make_config("quick", weights="w-01234567", **found.settings())
    found.check(config, 1)
    with pytest.raises(
        UserError, match="images of 1 channel, and those of the data set have 3"
    ):
        found.check(config, 3)


def changed(**values) -> dict:
    """torchvision's state dict of width 4 with some entries replaced, or left out."""
    state = {**torchvisions(4).state_dict(), **{k: v for k, v in values.items()}}
    return {name: value for name, value in state.items() if value is not None}


def damaged(**values) -> dict:
    """The content of a file of ours, with some of it replaced."""
    moments = torch.zeros(3), torch.ones(3)
    return {**pretrained.of_network(ours(), *moments, "a test").kept(), **values}


NAN = torch.full((4,), torch.nan)
HUGE = torch.full((4,), 1e300, dtype=torch.float64)  # more than float32 can hold
BAD = {
    "nothing": ([], "no state dict"),
    "no names": ({}, "no state dict"),
    "a number": (3, "no state dict"),
    "other names": ({"weight": torch.ones(2)}, "not those of torchvision's ResNet-18"),
    "no tensors": ({"stages.0.0.weight": 3}, "other things than named tensors"),
    "names are numbers": ({1: torch.ones(2)}, "other things than named tensors"),
    "meta": (changed(**{"bn1.bias": torch.ones(4, device="meta")}), "other things"),
    "complex": (changed(**{"bn1.bias": torch.ones(4) * 1j}), "other things"),
    "NaN": (changed(**{"bn1.bias": NAN}), "NaN or infinite"),
    "too large": (changed(**{"bn1.bias": HUGE}), "NaN"),
    "negative": (changed(**{"bn1.running_var": -torch.ones(4)}), "negative"),
    "one is missing": (changed(**{"layer2.0.downsample.0.weight": None}), "missing"),
    "resnet50": (torchvision.models.resnet50(weights=None).state_dict(), "no 'layer1"),
    "resnet34": (torchvision.models.resnet34(weights=None).state_dict(), "no 'layer1"),
    "wide": (changed(**{"layer4.0.conv1.weight": torch.ones(64, 16, 3, 3)}), "64 x 16"),
    "grey": (changed(**{"conv1.weight": torch.ones(4, 1, 7, 7)}), "reads 1 channels"),
    "a 3x3 stem": (changed(**{"conv1.weight": torch.ones(4, 3, 3, 3)}), "7 x 7"),
    "squeezenet": (
        *(torchvision.models.squeezenet1_1(weights=None).state_dict(),),
        "not those of torchvision's ResNet-18",
    ),
    "our small CNN": (
        build_network(make_config("quick"), (1, 8, 8), 0).state_dict(), "small CNN",
    ),
    "wrapped": ({"state_dict": torchvisions(4).state_dict()}, "other things"),
    "format": (damaged(format="gfrlib weights 9"), "its format is"),
    "no mean": (damaged(mean=None), "damaged"),
    "two means": (damaged(mean=[0.0, 0.0]), "damaged"),
    "a word": (damaged(std=["a", "b", "c"]), "damaged"),
    "no spread": (damaged(std=[0.0, 1.0, 1.0]), "damaged"),
    "no source": (damaged(source=1), "damaged"),
    "no state": (damaged(state=None), "no state dict"),
    "another": (damaged(state=ours(seed=1).state_dict()), "checksum"),
    "another mean": (damaged(mean=[0.0, 0.0, 0.5]), "checksum"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_an_extractors_weights(what):
    content, why = BAD[what]
    with pytest.raises(Unusable, match=why):
        pretrained.read(content, "file")


def test_settings_that_do_not_go_together():
    with pytest.raises(UserError, match="need network = resnet18, not cnn"):
        make_config("quick", weights="mine-01234567")
    with pytest.raises(UserError, match="names weights that were brought in"):
        make_config("slim", weights="mine.pt")
    found = pretrained.read(torchvisions(4).state_dict(), "random")
    config = make_config("slim", weights="mine-01234567", width=5)
    with pytest.raises(UserError, match="need width = 4, not 5"):
        found.check(config, 3)


def test_the_identity_holds_the_content_and_not_the_name():
    one, same, other = (
        make_config("slim", weights=name)
        for name in ("a-01234567", "b-c-01234567", "a-01234568")
    )
    assert one.digest() == same.digest() != other.digest()
    assert "weights" not in make_config("slim").identity()


def test_rows_that_freeze_a_pretrained_extractor_share_its_first_stage():
    rows = {}
    for method in ("frozen", "fecam", "fetril", "gfr-gaussian", "gfr", "lwf", "joint"):
        for weights in ("", "a-01234567"):
            config = make_config("slim", method, weights=weights)
            first = config.stage_settings("classifier", first=True)
            rows[method, weights] = tuple(sorted(map(str, first.items())))
    still, free = rows["frozen", "a-01234567"], rows["gfr", "a-01234567"]
    assert rows["fecam", "a-01234567"] == rows["fetril", "a-01234567"] == still
    assert rows["gfr-gaussian", "a-01234567"] == rows["lwf", "a-01234567"] == free
    assert still != free
    assert len({rows[method, ""] for method, _ in rows}) == 1, "from scratch, one"


@pytest.mark.parametrize("method", ["frozen", "gfr-gaussian", "fetril", "fecam", "gfr"])
def test_a_frozen_pretrained_extractor_stays_as_it_came(method):
    found = pretrained.read(ours().state_dict(), "file")
    config, stream = frozen_run(found, method)
    networks = []
    training.run(config, stream, observe=lambda t, net, memory: networks.append(net))
    state = networks[-1].state_dict()
    for name, value in found.state.items():
        assert torch.equal(state[name], value), name
    counters = [v for name, v in state.items() if name.endswith("num_batches_tracked")]
    assert counters and not any(counters)


def frozen_run(found: pretrained.Pretrained, method: str, **changes):
    """A short run of a row on F as it came, and its stream of four classes."""
    settings = {**TINY, **found.settings(), "split": (2, 1, 1), "penalty": "frozen"}
    settings |= {"weights": "w-01234567", **changes}
    config = make_config("quick", method, **settings)
    stream = tasks.build(config, generated(4), CPU).starting_from(found)
    return config, stream


@pytest.mark.parametrize("method", ["frozen", "gfr-gaussian", "fecam"])
def test_features_computed_once_are_those_computed_each_time(method, monkeypatch):
    """Losses and predictions are the same where nothing is kept, bit by bit."""
    found = pretrained.read(ours().state_dict(), "file")
    config, stream = frozen_run(found, method)
    once = training.run(config, stream)
    assert {(part, t) for part, t, *_ in stream.known} == {
        (part, t) for part in ("train", "test") for t in range(3)
    }
    again = training.run(config, stream)
    monkeypatch.setattr(batches, "FEATURE_BUDGET", 0)
    config, other = frozen_run(found, method)
    each = training.run(config, other)
    assert not other.known
    for run in (again, each):
        assert run.losses == once.losses and run.weights == once.weights
        assert same_predictions(run.predictions, once.predictions)


def test_features_computed_once_are_the_networks():
    found = pretrained.read(ours().state_dict(), "file")
    config, stream = frozen_run(found, "frozen")
    network, *_ = build(config, stream, CPU)
    phase = Phase("test", 1, 0, Machine.of(config))
    u, labels = batches.real_features(network, stream, 1, config, phase)
    F, _ = split(network.eval(), 4)
    index = stream.train_index(1)
    with torch.no_grad():
        wanted = F(stream.normalise(stream.train_images[index]))
    torch.testing.assert_close(u, wanted)
    assert labels.tolist() == [2] * len(index)
    few = replace(stream, train_images=stream.train_images.flip(0))
    assert not few.known, "another stream keeps features of its own"


def test_fine_tuning_begins_at_the_weights():
    """All but frozen rows train F from there, in task 0 already."""
    found = pretrained.read(ours().state_dict(), "file")
    config, stream = frozen_run(found, "gfr-gaussian", penalty="features")
    starts, ends = build(config, stream, CPU)[0].state_dict(), []
    training.run(config, stream, observe=lambda t, net, memory: ends.append(
        {name: value.clone() for name, value in net.state_dict().items()}
    ))  # fmt: skip
    for name, value in found.state.items():
        assert torch.equal(starts[name], value)
    weight = "stages.1.0.conv1.weight"
    assert not torch.equal(ends[0][weight], starts[weight])
    assert not torch.equal(ends[1][weight], ends[0][weight])
    assert not stream.known, "what is trained is computed each time"


def test_a_large_image_makes_a_small_batch():
    found = pretrained.read(ours().state_dict(), "file")
    _, small = stream_of(found, size=64)
    _, large = stream_of(found, size=224)
    assert (batches.at_once(small), batches.at_once(large)) == (500, 40)


def test_a_number_repeated_is_no_weight():
    """A small file could stand for weights of any size."""
    state = ours().state_dict()
    name = next(name for name, value in state.items() if value.ndim == 4)
    state[name] = torch.ones(1, 1, 1, 1).expand(state[name].shape)
    with pytest.raises(Unusable, match="named tensors of numbers"):
        pretrained.read(state, "a file")


def test_moments_that_are_a_tensor_are_damaged():
    kept = pretrained.of_network(ours(), torch.rand(3), torch.ones(3), "a test").kept()
    with pytest.raises(Unusable, match="format is damaged"):
        pretrained.read({**kept, "mean": torch.rand(3)}, "a file")
