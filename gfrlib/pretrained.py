"""A pretrained extractor: what a file of weights may be, and what follows from it.

A state dict of torchvision's ResNet-18, or of a run of ours, gives F its weights. The
stem, the width and the normalisation of the images follow from it; heads are ignored.
"""

import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gfrlib.config import Config, UserError
from gfrlib.engine.values import counted
from gfrlib.networks import Network, narrow, resnet18

FORMAT = "gfrlib weights 1"
# Of the images that torchvision's weights were trained on, in 0-1.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WIDEST = 4096  # as Config's `width` and `bottleneck`
# What batch norm counts and no result depends on, and what is no part of F.
COUNTER, HEADS = "num_batches_tracked", ("head.", "fc.")
# torchvision's name of a part of its basic block -> ours (networks.Residual).
PARTS = {
    "conv1": "conv1", "bn1": "norm1", "conv2": "conv2", "bn2": "norm2",
    "downsample.0": "shortcut.0", "downsample.1": "shortcut.1",
}  # fmt: skip
OWN_NAME = re.compile(r"stages\.\d")


class Unusable(ValueError):
    """Why something cannot be an extractor's weights, in a few words."""


@dataclass(frozen=True, eq=False)
class Pretrained:
    """The weights of F, of a ResNet-18, with what they were trained on."""

    state: dict[str, Tensor]  # float32, by our names: those of networks.Network
    # per channel, in 0-1; None: the data set's own, as from scratch
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    source: str  # where they come from, in words
    name: str = ""  # under which they are kept here

    @property
    def width(self) -> int:
        """Channels of the first block."""
        return self.state["stages.0.0.weight"].shape[0]

    @property
    def channels(self) -> int:
        """Channels of the images that F reads."""
        return self.state["stages.0.0.weight"].shape[1]

    @property
    def stem(self) -> str:
        """A word of networks.STEMS."""
        return _stem_of(self.state)

    @property
    def bottleneck(self) -> int:
        """Features of a linear layer at F's end; 0: it has none."""
        return _bottleneck_of(self.state)

    @functools.cached_property
    def sha256(self) -> str:
        """Over all that F computes with: names, shapes, values, mean and deviation."""
        sha = hashlib.sha256(json.dumps([self.stem, self.mean, self.std]).encode())
        for name, value in sorted(self.state.items()):
            sha.update(f"{name} {tuple(value.shape)}".encode())
            sha.update(value.numpy().astype("<f4", copy=False).tobytes())
        return sha.hexdigest()

    def settings(self) -> dict:
        """What the weights say about a run's network."""
        width, bottleneck = self.width, self.bottleneck
        return {"network": "resnet18", "width": width, "bottleneck": bottleneck}

    def check(self, config: Config, channels: int) -> None:
        """Raises UserError unless they fit a run's network and its images' channels."""
        for name, value in self.settings().items():
            given = getattr(config, name)
            if given != value:
                raise UserError(
                    f"The weights '{self.name or self.source}' need {name} = {value}, "
                    f"not {given}; leave it out, it follows from them."
                )
        if channels not in (1, self.channels):
            raise UserError(
                f"The weights '{self.name or self.source}' read images of "
                f"{counted(self.channels, 'channel')}, and those of the data set have "
                f"{channels}; take weights of as many, or none."
            )

    def put_into(self, network: Network) -> None:
        """Give F these weights; the head stays as it is."""
        network.stages.load_state_dict(
            {name.removeprefix("stages."): value for name, value in self.state.items()},
            strict=False,  # batch norm's counters begin at 0
        )

    def kept(self) -> dict:
        """What a file of ours holds: tensors and plain values alone."""
        return {
            "format": FORMAT,
            "mean": self.mean and list(self.mean),
            "std": self.std and list(self.std),
            "source": self.source,
            "sha256": self.sha256,
            "state": self.state,
        }


def of_network(network: Network, mean: Tensor, std: Tensor, source: str) -> Pretrained:
    """The extractor of a network, with the moments of the images that it was trained
    on. Raises UserError for another network than a ResNet-18, and for NaN in it.
    """
    try:
        state = _checked_state(network.state_dict())
    except Unusable as problem:
        raise UserError(
            f"This network cannot be kept as a pretrained extractor: {problem}."
        ) from problem
    return Pretrained(state, tuple(mean.tolist()), tuple(std.tolist()), source)


def read(content: object, source: str) -> Pretrained:
    """The weights in what was loaded from a file; `source` names it.

    A file of ours says all that is needed. Of a bare state dict of ours the stem and
    the width are known by its names and shapes, and images are normalised as from
    scratch; torchvision's were trained with ImageNet's moments. Raises Unusable.
    """
    if not isinstance(content, Mapping) or not content:
        raise Unusable("it holds no state dict")
    if "format" in content:
        return _of_our_file(content)
    if "conv1.weight" in content:
        found = Pretrained(_checked_state(_renamed(content)), *IMAGENET, source)
        if found.channels != len(IMAGENET[0]):
            raise Unusable(
                f"its first convolution reads {found.channels} channels, and "
                "torchvision's ResNet-18 reads 3"
            )
        return found
    return Pretrained(_checked_state(content), None, None, source)


def _of_our_file(content: Mapping) -> Pretrained:
    try:
        if content["format"] != FORMAT:
            raise Unusable(f"its format is {content['format']!r}, not {FORMAT!r}")
        state = _checked_state(content["state"])
        mean, std = (content[key] and tuple(content[key]) for key in ("mean", "std"))
        source, digest = content["source"], content["sha256"]
    except (LookupError, TypeError, RuntimeError) as problem:
        raise Unusable("its format is damaged") from problem
    found = Pretrained(state, mean, std, source)
    moments = (mean or ()) + (std or ())
    sound = all(type(x) is float and math.isfinite(x) for x in moments)
    sound = sound and len(moments) in (0, 2 * found.channels) and min(std or (1,)) > 0
    if not sound or (mean is None) != (std is None) or not isinstance(source, str):
        raise Unusable("its format is damaged")
    if found.sha256 != digest:
        raise Unusable("its content differs from its checksum, so it is damaged")
    return found


def _renamed(state: Mapping) -> dict:
    """torchvision's names -> ours. Raises Unusable for a name that a ResNet-18 has not.

    Its stem has a max-pool at every size, so that its blocks begin at 4.
    """
    modules = {"conv1": "stages.0.0", "bn1": "stages.0.1"}
    for k in range(4):
        for b in range(2):
            for theirs, ours in PARTS.items():
                place = f"stages.{k}.{b + 4 * (k == 0)}"
                modules[f"layer{k + 1}.{b}.{theirs}"] = f"{place}.{ours}"
    found = {}
    for name, value in state.items():
        module, _, leaf = str(name).rpartition(".")
        if str(name).startswith(HEADS):
            continue
        if module not in modules:
            raise Unusable(f"a ResNet-18 has no '{name}': it is another architecture")
        found[f"{modules[module]}.{leaf}"] = value
    kernel = getattr(found.get("stages.0.0.weight"), "shape", ())[2:]
    if tuple(kernel) != (7, 7):
        raise Unusable("the first convolution of torchvision's ResNet-18 is 7 x 7")
    return found


def _checked_state(state: Mapping) -> dict[str, Tensor]:
    """F's weights among a state dict by our names, as float32 on the CPU.

    Raises Unusable.
    """
    if not isinstance(state, Mapping):
        raise Unusable("it holds no state dict")
    if not all(isinstance(n, str) and is_plain(v) for n, v in state.items()):
        raise Unusable("it holds other things than named tensors of numbers")
    own = {n: v for n, v in state.items() if not n.startswith(HEADS)}
    own = {n: v for n, v in own.items() if not n.endswith(COUNTER)}
    if not any(OWN_NAME.match(name) for name in own):
        raise Unusable("its names are not those of torchvision's ResNet-18, nor ours")
    _check_shapes({name: tuple(value.shape) for name, value in own.items()}, own)
    own = {n: v.detach().to("cpu", torch.float32, copy=True) for n, v in own.items()}
    for name, value in own.items():
        if not value.isfinite().all():
            raise Unusable(f"'{name}' has values that are NaN or infinite")
        if name.endswith("running_var") and (value < 0).any():
            raise Unusable(f"'{name}' is a variance and has negative values")
    return {name: value.contiguous() for name, value in own.items()}


def is_plain(value: object) -> bool:
    """Whether a value is an ordinary tensor of real numbers."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    if value.device.type == "meta" or value.is_complex() or value.is_quantized:
        return False
    # one number, repeated without taking room, would be a tensor of any size
    return value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def _check_shapes(shapes: dict[str, tuple], state: Mapping) -> None:
    """Raises Unusable unless they are those of a ResNet-18 of the stem's width."""
    first = shapes.get("stages.0.0.weight", ())
    if "stages.1.0.weight" in shapes:
        raise Unusable(
            "it is the small CNN, and a pretrained extractor is a ResNet-18 (train it "
            "with --network resnet18)"
        )
    fits = len(first) == 4 and 1 <= first[0] <= WIDEST and first[1] in range(1, 5)
    if not fits or first[2:] not in ((3, 3), (7, 7)):
        raise Unusable("its first convolution is not that of a ResNet-18")
    bottleneck = _bottleneck_of(state)
    if bottleneck > WIDEST:
        raise Unusable(f"its last layer has more than {WIDEST} features")
    with torch.device("meta"):  # shapes alone: nothing is allocated
        network = resnet18(first[1], first[0], 0, stem=_stem_of(state))
        if bottleneck:
            narrow(network, bottleneck)
    wanted = {
        f"stages.{name}": tuple(value.shape)
        for name, value in network.stages.state_dict().items()
        if not name.endswith(COUNTER)
    }
    for name in [*wanted, *shapes]:
        if shapes.get(name) != wanted.get(name):
            raise Unusable(
                f"'{name}' is {_shape(shapes.get(name))}, and in a ResNet-18 of width "
                f"{first[0]} {_shape(wanted.get(name))}"
            )


def _shape(shape: tuple | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape)) or "one number"


def _stem_of(state: Mapping) -> str:
    if state["stages.0.0.weight"].shape[-1] == 3:
        return "3x3"
    # after convolution, batch norm and ReLU comes the first block, or the max-pool
    return "7x7" if "stages.0.3.conv1.weight" in state else "7x7-pool"


def _bottleneck_of(state: Mapping) -> int:
    # after two blocks, the pooling and the flattening
    last = state.get("stages.3.4.weight")
    return 0 if last is None or last.ndim != 2 else last.shape[0]
