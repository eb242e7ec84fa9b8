"""A trained network in one file, with all that it needs to name the class of a picture.

The weights of extractor and head; the classes in their order of arrival; how the data
set's image files were read, and the numbers that normalise them; what the run's own
prediction rule reads of the memory. No image of the training set is in it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gfrlib import prediction, pretrained
from gfrlib.batches import at_once
from gfrlib.config import Config, UserError, checked
from gfrlib.engine import paths, values
from gfrlib.engine.machine import Machine
from gfrlib.engine.phase import Phase
from gfrlib.lab import datasets, decoding, weights
from gfrlib.memory import Memory
from gfrlib.networks import Network, build_network, feature_shape
from gfrlib.pretrained import Unusable
from gfrlib.replay import build_memory
from gfrlib.tasks import Tasks

FORMAT = "gfrlib network 1"
LARGEST = 16 << 30  # bytes of a file; whole covariances of many classes are large
BEST = 3  # classes of an answer
WHERE = "python -m gfrlib run --save-network FILE writes one"


@dataclass(frozen=True)
class Answer:
    """What a network says of one picture: its best classes, the chosen one first.

    Each has its probability, 0 to 1, or None where the prediction rule gives an order
    alone. Under `max-prob` it is that among the classes of one task.
    """

    best: tuple[tuple[str, float | None], ...]

    @property
    def chosen(self) -> str:
        """The class."""
        return self.best[0][0]

    def __str__(self) -> str:
        shown = [
            values.line(name) + ("" if p is None else f" ({100 * p:.1f} %)")
            for name, p in self.best
        ]
        return ", then ".join(filter(None, (shown[0], ", ".join(shown[1:]))))


@dataclass(frozen=True, eq=False)
class Saved:
    """A network that names classes; `of_run` and `load` make it.

    It computes in float32 on the CPU, and always answers with one of its classes, also
    for a picture of none.
    """

    # plain values: "task" after which it was taken, "source" in words, "image" as
    # [H, W, C] of the packed images, and what else the file says beside its tensors
    about: dict
    state: dict[str, Tensor]  # what the network, the memory and the rule compute with
    config: Config
    stream: Tasks  # the run's, without its images and later tasks
    network: Network
    memory: Memory  # what the rule reads of it, or nothing

    @property
    def class_names(self) -> list[str]:
        """The classes that it can answer with, in their order of arrival."""
        return self.stream.class_names

    def classify(self, images: object) -> list[Answer]:
        """An answer for each picture.

        images: the path of a file, or a list of paths; or an array, uint8 [H, W, C] or
        [N, H, W, C] of the packed images' shape, or a list of such. Raises UserError
        for a file that is no readable image, and for other arrays.
        """
        alone = isinstance(images, (str, Path)) or getattr(images, "ndim", 0) == 3
        given = [images] if alone else images
        read = [x if hasattr(x, "ndim") else self.read(x) for x in given]
        for image in read:
            self._check(image)
        return self._answers(torch.from_numpy(np.stack(read))) if read else []

    def read(self, path: str | Path) -> np.ndarray:
        """A picture file, read as the data set's own were: uint8 [H, W, C].

        Raises UserError for one that is no readable image.
        """
        high, wide, channels = self.about["image"]
        if high != wide:
            raise UserError(
                f"The network reads images of {high} x {wide} pixels, and a picture "
                "file becomes a square; give arrays of that shape (from Python)."
            )
        path = paths.file_or_folder(path, "The picture")
        rules = decoding.Rules(**self.about["read"] or {})
        try:
            with decoding.guarded(rules):
                colours, _ = decoding.decode(path, high, rules)
        except decoding.Unreadable as problem:
            raise UserError(
                f"'{values.line(str(path))}' is no readable image "
                f"({values.line(str(problem))})."
            ) from problem
        return colours if channels == 3 else decoding.grey(colours)

    def _check(self, image) -> None:
        shape = tuple(self.about["image"])
        if image.dtype != np.uint8 or image.shape != shape:
            raise UserError(
                f"An image for this network is an array of uint8 {list(shape)}, not "
                f"{image.dtype} {list(image.shape)}; a file may have any size."
            )

    @torch.no_grad()
    def _answers(self, images: Tensor) -> list[Answer]:
        """Of uint8 [N, H, W, C]."""
        here = Machine(torch.device("cpu"), "float32")
        phase = Phase("test", self.about["task"], self.config.seed, here)
        rule, head, found = self.config.prediction, self.network.head, []
        known = (None, sum(self.stream.sizes), head.sizes, None, self.memory)
        means = self.state.get("exemplar_means")
        for some in images.split(at_once(self.stream)):
            u = prediction.features(self.network, some, self.stream, phase)
            seen = prediction.Seen(u, head(u), *known, means)
            chosen, scores = prediction.choose(rule, seen)
            shares = prediction.shares(rule, scores)
            order = scores.topk(min(BEST, scores.shape[1]), dim=1).indices
            for k, c in enumerate(chosen.tolist()):
                # of equal scores the chosen one comes first
                best = list(dict.fromkeys([c, *order[k].tolist()]))[:BEST]
                p = [None if shares is None else float(shares[k, c]) for c in best]
                names = [self.class_names[c] for c in best]
                found.append(Answer(tuple(zip(names, p))))
        return found


def of_run(
    config: Config,
    stream: Tasks,
    t: int,
    network: Network,
    memory: Memory,
    phase: Phase,
    source: str,
) -> Saved:
    """The network after task t, copied to the CPU; `source` tells of the run.

    network, memory: as training.run shows them; phase: the machine that computes the
    means of exemplars.
    """
    rule, sizes = config.prediction, stream.sizes[: t + 1]
    rules = datasets.rules_of(config.dataset)
    about = {
        "config": dataclasses.asdict(config),
        "task": t,
        "sizes": sizes,
        "outputs": network.head.sizes,
        "classes": stream.class_names[: sum(network.head.sizes)],
        "num_classes": stream.num_classes,
        "image": list(stream.train_images.shape[1:]),
        "crop": stream.crop,
        "mean": stream.mean.tolist(),
        "std": stream.std.tolist(),
        "stem": stream.stem,
        "read": rules and rules.kept()[decoding.READ],
        "source": source,
    }
    state = {f"network.{k}": v for k, v in network.state_dict().items()}
    if rule not in prediction.OF_LOGITS and memory.rows is None:
        state |= {f"memory.{k}": v for k, v in memory.state_dict().items()}
    elif rule not in prediction.OF_LOGITS:
        state["exemplar_means"] = prediction.nearest_exemplar_means(
            network, memory, stream, sum(sizes), phase
        )
    return _built(about, {k: v.to("cpu", copy=True) for k, v in state.items()})


def save(path: str | Path, network: Saved) -> None:
    """Write the file, all or nothing. Raises UserError where the disk refuses."""
    about = json.dumps(network.about)
    kept = {"format": FORMAT, "about": about, "state": network.state}
    weights.write(Path(path), {**kept, "sha256": _checksum(about, network.state)})


def load(path: str | Path) -> Saved:
    """The network in a file that `save`, or run --save-network, has written.

    Nothing in the file is executed. Raises UserError for any other file, and for one
    that is damaged.
    """

    def unusable(why: str) -> UserError:
        return UserError(f"'{path}' holds no network that classifies: {why}; {WHERE}.")

    found, _ = weights.opened(Path(path), unusable, "The network", LARGEST)
    try:
        network = _built(*_parts(found))
        network._answers(torch.zeros(1, *network.about["image"], dtype=torch.uint8))
        return network
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Unusable as problem:
        raise unusable(str(problem)) from problem
    except Exception as problem:  # made by other code, or by hand: many kinds
        raise unusable("its parts do not fit together") from problem


def _parts(found: object) -> tuple[dict, dict[str, Tensor]]:
    """What stands in the file, if it is whole. Raises Unusable, LookupError, ..."""
    kept = found if isinstance(found, Mapping) else {}
    kind, names = kept.get("format"), " ".join(map(str, kept))
    if kind == pretrained.FORMAT or kind is None and ".weight" in names:
        raise Unusable("it holds weights alone, and nothing of its classes")
    if kind != FORMAT:
        raise Unusable(f"its format is {str(kind)[:40]!r}, not {FORMAT!r}")
    about, state = kept["about"], kept["state"]
    plain = all(pretrained.is_plain(value) for value in state.values())
    if not plain or _checksum(about, state) != kept["sha256"]:
        raise Unusable("its content differs from its checksum, so it is damaged")
    return json.loads(about), state


def _checksum(about: str, state: dict[str, Tensor]) -> str:
    """SHA-256 over all that is kept: words, names, shapes, types, values."""
    sha = hashlib.sha256(about.encode())
    for name, value in sorted(state.items()):
        sha.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        sha.update(value.contiguous().numpy().tobytes())
    return sha.hexdigest()


def _built(about: dict, state: dict[str, Tensor]) -> Saved:
    """The network with these weights. Raises Unusable where they do not fit."""
    settings = {**about["config"], "split": tuple(about["config"]["split"])}
    config, stream, memory = checked(Config(**settings)), _stream(about), Memory()
    with torch.device("meta"):  # shapes alone: nothing is allocated
        network = build_network(config, stream.shape, 0, stem=about["stem"])
        for size in about["outputs"]:
            network.head.grow(size, 0)
        if any(name.startswith("memory.") for name in state):
            shape = feature_shape(network, config.cut, stream.shape)
            memory = build_memory(config, stream.num_classes, shape, 0)
    _fill(network, "network.", state)
    _fill(memory, "memory.", state)
    network = network.to(memory_format=torch.channels_last).eval()
    return Saved(about, state, config, stream, network, memory)


def _fill(module: nn.Module, prefix: str, state: dict[str, Tensor]) -> None:
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    wanted = {k: (v.shape, v.dtype) for k, v in module.state_dict().items()}
    if {k: (v.shape, v.dtype) for k, v in own.items()} != wanted:
        raise Unusable("its tensors are not those of its settings")
    module.load_state_dict(own, assign=True)


def _stream(about: dict) -> Tasks:
    """The run's stream without its images: how a network is shown them."""
    images, labels = torch.zeros(0, *about["image"]).byte(), torch.zeros(0)
    return Tasks(
        name=about["config"]["dataset"],
        sizes=tuple(about["sizes"]),
        num_classes=about["num_classes"],
        class_names=about["classes"],
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
        mean=torch.tensor(about["mean"]),
        std=torch.tensor(about["std"]),
        padding=0,
        mirror=False,
        crop=about["crop"],
    )
