"""The memory that a run needs at least, estimated before it takes any."""

import torch

from gfrlib.batches import at_once
from gfrlib.conditions import fixed
from gfrlib.config import Config, UserError
from gfrlib.engine import distributed, limits
from gfrlib.engine.machine import Machine
from gfrlib.methods import FEATURES
from gfrlib.networks import Network, build_network
from gfrlib.replay import build_memory
from gfrlib.tasks import Tasks

FLOAT = 4  # bytes
TRAINED = 4  # copies of a trained weight: itself, its gradient, Adam's two moments


def check(config: Config, stream: Tasks, here: Machine) -> None:
    """Raises UserError where the run cannot fit the memory of its device.

    What is counted is less than what a run takes: the weights with what Adam keeps of
    them, and one batch in the widest layers. So no run is refused that would fit.
    """
    most = limits.memory(here.device)
    if most is None:
        return
    with limits.told():
        needed = least(config, stream)
    if needed > most:
        raise UserError(
            f"This run needs more than {_gigabytes(needed)}, and {here.device.type} "
            f"has {_gigabytes(most)} of memory; {limits.SMALLER}."
        )


def least(config: Config, stream: Tasks) -> int:
    """Bytes that a run certainly needs at once, without its images."""
    with torch.device("meta"):  # shapes alone: nothing is allocated
        network = build_network(config, stream.shape, 0, stem=stream.stem)
    weights = sum(value.numel() for value in network.parameters())
    copies = 1 if fixed(config) else TRAINED  # its head's are not counted
    _, high, wide = stream.shape
    # the stem of a ResNet for larger images
    shrunk = 1 if high <= 32 and stream.stem in ("", "3x3") else 16
    # a batch is never larger than the task
    batch = min(config.batch_size, len(stream.train_index(0)))
    # and read in parts by an F that is never trained, or by several processes
    batch = min(batch, at_once(stream)) if fixed(config) else batch
    batch = max(1, batch // distributed.size())
    first = batch * config.width * high * wide // shrunk
    classifier = FLOAT * (copies * weights + first)
    return max(classifier, FLOAT * weights + _of_memory(config, network, stream))


def _of_memory(config: Config, network: Network, stream: Tasks) -> int:
    """Bytes of what stands for old classes while it is trained, or kept."""
    if config.cut < FEATURES:
        return FLOAT * TRAINED * config.generator_parameters * (config.memory == "gan")
    shape, images = (network.features,), tuple(stream.train_images.shape)
    with torch.device("meta"):
        memory = build_memory(config, stream.num_classes, shape, 0, images=images)
    kept = _bytes(memory)
    if not memory.trained or len(stream.sizes) == 1:
        return kept
    # inputs of G and D, and two hidden layers
    latent = config.latent_dim * (config.memory == "gan")
    width = latent + network.features + 2 * config.generator_hidden
    return TRAINED * kept + FLOAT * config.generator_batch * width


def _bytes(module: torch.nn.Module) -> int:
    tensors = [*module.parameters(), *module.buffers()]
    return sum(value.numel() * value.element_size() for value in tensors)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
