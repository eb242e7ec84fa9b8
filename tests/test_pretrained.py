"""A pretrained extractor: the same features, and what follows from the weights."""

import pytest
import torch
import torchvision
from helpers_core import generated
from torch.nn.functional import adaptive_avg_pool2d

from gfrlib import pretrained, tasks
from gfrlib.config import make_config
from gfrlib.networks import split
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
