"""The network cut in two (extractor F, classifier H); generators G, discriminators D.

A network is four stages and a head. `split(network, cut)` gives F, the stages below the
cut, and H, the rest.
"""

import torch
from torch import Tensor, nn

from gfrlib.config import Config
from gfrlib.heads import HEADS, Head


class Network(nn.Module):
    """M = H o F: four stages, then the head. x [B, C, H, W] -> logits [B, classes]."""

    def __init__(
        self, stages: list[nn.Module], features: int, head: Head | None = None
    ):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.features = features  # dimension d of u = F(x)
        self.head = head or Head(features)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.head(x)


def split(network: Network, cut: int) -> tuple[nn.Module, nn.Module]:
    """F = the stages below the cut, H = the stages above it and the head.

    At cut 0, F is the identity. Both share the network's parameters: nothing is copied.
    Raises ValueError for a cut that does not exist.
    """
    if not 0 <= cut <= len(network.stages):
        raise ValueError(f"cut must lie in 0..{len(network.stages)}, not {cut}")
    lower, upper = network.stages[:cut], network.stages[cut:]
    return nn.Sequential(*lower), nn.Sequential(*upper, network.head)


class Residual(nn.Module):
    """He et al.'s basic block: two 3x3 convolutions with batch norm, and a shortcut."""

    # Of so few input channels, the backward pass of PyTorch 2.15's channels-last 1x1
    # convolution with a stride writes beyond its memory on some processors.
    THIN = 8

    def __init__(self, inputs: int, outputs: int, stride: int, *, relu: bool = True):
        super().__init__()
        self.relu = relu
        # there the strides are taken first, which is the same
        self.skip = stride if inputs < self.THIN else 1
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            own = stride // self.skip
            project = nn.Conv2d(inputs, outputs, 1, own, bias=False)
            self.shortcut = nn.Sequential(project, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y)) + self.shortcut(
            x[..., :: self.skip, :: self.skip]
        )
        return torch.relu(y) if self.relu else y


def _conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


# How a ResNet begins: 3x3 as for CIFAR; 7x7 with stride 2, without or with max-pool
STEMS = ("3x3", "7x7", "7x7-pool")


def usual_stem(size: int) -> str:
    """Up to 32 pixels the paper's 3x3 stem; above that ImageNet's, 7x7 and stride 2.

    Its max-pool only above 64 pixels (ours: 64 pixels then cost as much as CIFAR's 32).
    """
    return STEMS[0] if size <= 32 else STEMS[1] if size <= 64 else STEMS[2]


def resnet18(
    channels: int, width: int, size: int, *, cosine: bool = False, stem: str = ""
) -> Network:
    """ResNet-18 for images of `size`, with its usual stem or a word of STEMS.

    u [B, 8 width] is never negative. With a cosine head the last ReLU is off, so that
    features point in all directions (LUCIR).
    """
    stem = stem or usual_stem(size)
    begin = _conv(channels, width)
    if stem != "3x3":
        wide = nn.Conv2d(channels, width, 7, 2, 3, bias=False)
        begin = [wide, nn.BatchNorm2d(width), nn.ReLU()]
    if stem == "7x7-pool":
        begin.append(nn.MaxPool2d(3, 2, 1))
    stages, inputs = [], width
    for k in range(4):
        outputs, stride = width * 2**k, 1 if k == 0 else 2
        relu = not (cosine and k == 3)
        first = Residual(inputs, outputs, stride)
        stages.append(nn.Sequential(first, Residual(outputs, outputs, 1, relu=relu)))
        inputs = outputs
    stages[0] = nn.Sequential(*begin, *stages[0])
    stages[3] = nn.Sequential(*stages[3], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(stages, inputs)


def start_by_fan_out(network: Network) -> None:
    """Convolutions from N(0, 2 / fan-out), torchvision's start of a ResNet.

    The official code keeps PyTorch's own, U(+-1/sqrt(fan-in)).
    """
    for module in network.stages.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def small_cnn(channels: int, width: int, size: int, *, cosine: bool = False) -> Network:
    """Four stages for small images such as the 8 x 8 digits.

    u [B, 32 width] after ReLU and pooling to 4 x 4. Where a stroke lies matters in a
    digit, so the features keep a coarse grid of places (ours; ResNet averages it away).
    """
    stages = [
        _conv(channels, width),
        _conv(width, 2 * width, 2),
        _conv(2 * width, 2 * width, 2 if size > 8 else 1),
        [*_conv(2 * width, 2 * width), nn.AdaptiveAvgPool2d(4), nn.Flatten()],
    ]
    if cosine:
        del stages[3][2]  # no ReLU, as in resnet18
    stages = [nn.Sequential(*layers) for layers in stages]
    return Network(stages, 2 * width * 16)


NETWORKS = {"resnet18": resnet18, "cnn": small_cnn}


def narrow(network: Network, features: int) -> None:
    """A last layer of F, linear: u = F(x) has so few `features`, of either sign.

    Ours. What a frozen extractor does not carry is lost, so that later classes have
    something to learn.
    """
    last = nn.Linear(network.features, features)
    network.stages[-1] = nn.Sequential(*network.stages[-1], last)
    network.features = features


def build_network(
    config: Config, shape: tuple[int, int, int], seed: int, *, stem: str = ""
) -> Network:
    """The preset's network for images of shape (channels, height, width).

    Its head has no blocks yet; its values depend on `seed` alone. stem: that of a
    pretrained extractor, which brings its own weights.
    """
    channels, *sides = shape
    own = {"stem": stem} if stem else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cosine = config.head == "cosine"
        build = NETWORKS[config.network]
        network = build(channels, config.width, max(sides), cosine=cosine, **own)
        fan_out = config.network == "resnet18" and not config.weights
        if fan_out and config.initial_convolutions == "fan-out":
            start_by_fan_out(network)
        if config.bottleneck:
            narrow(network, config.bottleneck)
    network.head = HEADS[config.head](network.features, config)
    return network.to(memory_format=torch.channels_last)


def _initialise(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.02)  # code
            nn.init.zeros_(layer.bias)


class Generator(nn.Module):
    """G(c, z): labels c [B], latents z [B, latent_dim] -> features u-hat [B, d] >= 0.

    Layers: Appendix D; the last ReLU: code. Without it where features are `signed`.
    """

    def __init__(
        self,
        classes: int,
        latent_dim: int,
        hidden: int,
        features: int,
        *,
        signed: bool = False,
    ):
        super().__init__()
        self.classes, self.latent_dim = classes, latent_dim
        last = nn.Identity() if signed else nn.ReLU()
        self.layers = nn.Sequential(
            nn.Linear(latent_dim + classes, hidden), nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden), nn.LeakyReLU(0.2),
            nn.Linear(hidden, features), last,
        )  # fmt: skip
        _initialise(self)

    def forward(self, labels: Tensor, z: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(labels, self.classes).to(z.dtype)
        return self.layers(torch.cat([z, one_hot], dim=1))


class LeakyReLU(nn.LeakyReLU):
    """PyTorch's, bit for bit in float32, but it has no second derivative.

    PyTorch's has one, a tensor of zeros, which the gradient penalty would multiply by
    every weight matrix below.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.full_like(x, self.negative_slope).masked_fill(x > 0, 1.0)


class Discriminator(nn.Module):
    """D(c, u): a score per row, labels [B], u [B, d] -> [B].

    An MLP phi, then w phi(u) + <V c, phi(u)> (projection discriminator; code).
    projection: how V starts, "normal" as the other layers, or "pytorch" as a linear
    layer of the one-hot class (code).
    """

    def __init__(
        self, classes: int, hidden: int, features: int, projection: str = "normal"
    ):
        super().__init__()
        self.phi = nn.Sequential(
            nn.Linear(features, hidden), LeakyReLU(0.2),
            nn.Linear(hidden, hidden), LeakyReLU(0.2),
        )  # fmt: skip
        self.score = nn.Linear(hidden, 1)
        self.projection = nn.Embedding(classes, hidden)
        _initialise(self)
        if projection == "pytorch":
            nn.init.uniform_(self.projection.weight, -(classes**-0.5), classes**-0.5)
        else:
            nn.init.normal_(self.projection.weight, 0.0, 0.02)

    def forward(self, labels: Tensor, u: Tensor) -> Tensor:
        h = self.phi(u)
        return self.score(h).squeeze(1) + (self.projection(labels) * h).sum(dim=1)


class Velocity(nn.Module):
    """v(x, s, c) of a flow: labels c [B], x [B, d], times s [B, 1] in 0..1 -> [B, d].

    As wide as the GAN's two networks, with fewer weights than they have together (in
    every preset); the time enters as sines and cosines of 1 to 8 half turns (ours: with
    whole turns, 0 and 1 would be the same time).
    """

    TURNS = 8

    def __init__(self, classes: int, hidden: int, features: int):
        super().__init__()
        self.classes = classes
        turns = torch.pi * torch.arange(1, self.TURNS + 1)
        self.register_buffer("turns", turns, persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(features + 2 * self.TURNS + classes, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, features),
        )  # fmt: skip

    def forward(self, labels: Tensor, x: Tensor, s: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(labels, self.classes).to(x.dtype)
        time = [torch.sin(s * self.turns), torch.cos(s * self.turns)]
        return self.layers(torch.cat([x, *time, one_hot], dim=1))


class SpatialGenerator(nn.Module):
    """G(c, z) for images (cut 0) or feature maps (cuts 1 to 3), ours.

    labels [B], z [B, latent_dim] -> [B, C, H, W]. A linear layer makes the smallest
    map; each further level doubles its side. Group norm needs no running statistics, so
    a replay does not depend on its batch. Feature maps end in the stage's ReLU; images
    in a scaled tanh.
    """

    def __init__(
        self,
        classes: int,
        latent_dim: int,
        shape: tuple[int, int, int],
        width: int,
        *,
        images: bool,
    ):
        super().__init__()
        self.classes, self.latent_dim, self.images = classes, latent_dim, images
        doublings = _doublings(shape)
        widths = [width * 2**k for k in reversed(range(doublings + 1))]
        sides = (shape[1] >> doublings, shape[2] >> doublings)
        smallest = widths[0] * sides[0] * sides[1]
        layers = [
            nn.Linear(latent_dim + classes, smallest),
            nn.Unflatten(1, (widths[0], *sides)),
        ]
        for inputs, outputs in zip(widths, widths[1:]):
            layers += [nn.GroupNorm(4, inputs), nn.LeakyReLU(0.2)]
            layers += [nn.Upsample(scale_factor=2)]
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1)]
        layers += [nn.GroupNorm(4, widths[-1]), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(widths[-1], shape[0], 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, labels: Tensor, z: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(labels, self.classes).to(z.dtype)
        u = self.layers(torch.cat([z, one_hot], dim=1))
        # ours: about where normalised pixels lie; of dark images, or with ImageNet's
        # moments, white is a little beyond
        return 2.5 * torch.tanh(u) if self.images else torch.relu(u)


class SpatialDiscriminator(nn.Module):
    """D(c, u) for u [B, C, H, W] -> [B].

    Convolutions down to the smallest map, summed over places, then the projection.
    """

    def __init__(self, classes: int, shape: tuple[int, int, int], width: int):
        super().__init__()
        widths = [width * 2**k for k in range(_doublings(shape) + 1)]
        layers = [nn.Conv2d(shape[0], width, 3, padding=1), nn.LeakyReLU(0.2)]
        for inputs, outputs in zip(widths, widths[1:]):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)]
            layers += [nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(widths[-1], widths[-1], 3, padding=1), nn.LeakyReLU(0.2)]
        self.phi = nn.Sequential(*layers)
        self.score = nn.Linear(widths[-1], 1)
        self.projection = nn.Embedding(classes, widths[-1])

    def forward(self, labels: Tensor, u: Tensor) -> Tensor:
        h = self.phi(u).sum(dim=(2, 3))
        return self.score(h).squeeze(1) + (self.projection(labels) * h).sum(dim=1)


def _doublings(shape: tuple[int, int, int]) -> int:
    """How often a map's side can be halved evenly before it is smaller than 4."""

    def fits(k: int) -> bool:
        return all(side >> k >= 4 and side % 2**k == 0 for side in shape[1:])

    k = 0
    while fits(k + 1):
        k += 1
    return k


def widest(build, parameters: int) -> int:
    """The largest multiple of 4 (at least 4) for which `build(width)` has at most so
    many parameters.
    """
    width = 4
    with torch.device("meta"):
        while sum(p.numel() for p in build(width + 4).parameters()) <= parameters:
            width += 4
    return width


@torch.no_grad()
def feature_shape(
    network: Network, cut: int, shape: tuple[int, int, int]
) -> tuple[int, ...]:
    """Shape of F(x) without the batch, for images of `shape`.

    (d,) at the cut named features, else (C, H, W).
    """
    training = network.training
    extractor, _ = split(network.eval(), cut)
    u = extractor(torch.zeros(1, *shape, device=next(network.parameters()).device))
    network.train(training)
    return tuple(u.shape[1:])
