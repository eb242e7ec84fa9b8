"""One run over several processes (torchrun), each with its share of every batch.

All processes draw the random numbers of the whole batch from the same seeds and keep
their own rows, so that a run does not depend on their number, up to rounding. With one
process each does what it would do without the others.
"""

import contextlib
import datetime
import os
import socket
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gfrlib.config import Config, UserError, generated
from gfrlib.engine import paths
from gfrlib.engine.store import NoStore, Stage

MOST = 10_000  # processes of one run
TORCHRUN = "torchrun --standalone --nproc_per_node=N -m gfrlib run"


def announced() -> int:
    """Number of processes that torchrun says it started; 1 without it.

    Raises UserError where the variable is no such number.
    """
    return paths.whole("WORLD_SIZE", default=1, low=1, high=MOST)


def start(device: torch.device) -> None:
    """Join the processes that torchrun has started, if it has.

    Each takes the GPU of its local rank, where there are GPUs. Raises UserError where
    there are more processes than GPUs, or where they cannot meet.
    """
    count = announced()
    if count == 1 or dist.is_initialized():
        return
    _check_meeting(count)
    if device.type == "cuda":
        local = paths.whole("LOCAL_RANK", default=0, high=MOST)
        if local >= torch.cuda.device_count():
            raise UserError(
                f"The GPUs here are {torch.cuda.device_count()}, and the processes "
                "more; start as many, or take --device cpu."
            )
        torch.cuda.set_device(local)
    try:
        # objects travel by gloo; a day: process 0 may wait for another run's stage
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            timeout=datetime.timedelta(days=1),
        )
    except (RuntimeError, ValueError, OSError) as problem:
        raise UserError(
            f"The {count} processes could not meet ({problem}); start them all by "
            f"{TORCHRUN}."
        ) from problem


def _check_meeting(count: int) -> None:
    """Raises UserError unless torchrun's other variables are there, too."""
    unset = [
        name
        for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        if not os.environ.get(name)
    ]
    if unset:
        raise UserError(
            f"WORLD_SIZE says that there are {count} processes, and {unset[0]} is not "
            f"set; start them by {TORCHRUN}, or unset WORLD_SIZE."
        )
    paths.whole("RANK", default=0, high=count - 1)
    paths.whole("MASTER_PORT", default=0, high=65_535)
    host = os.environ["MASTER_ADDR"]
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as problem:  # else it would try for a day
        raise UserError(
            f"MASTER_ADDR names '{host}', which is no machine known here; start the "
            f"processes by {TORCHRUN}."
        ) from problem


def size() -> int:
    """Number of processes of this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0; process 0 writes, prints and waits for locks."""
    return dist.get_rank() if dist.is_initialized() else 0


def check(config: Config) -> None:
    """Raises UserError where a batch cannot be shared evenly, or for `compiled`."""
    if size() > 1 and config.compiled:
        raise UserError("'compiled' is for one process: set it to false, or start one.")
    batches = ("batch_size", "generator_batch")
    for name in batches if generated(config) else batches[:1]:
        if getattr(config, name) % size():
            raise UserError(
                f"'{name}' is the global batch and must be divisible by the {size()} "
                f"processes, not {getattr(config, name)}."
            )


def share(*batches: Tensor) -> Tensor | tuple[Tensor, ...]:
    """This process's rows of global batches [B, ...].

    Raises UserError where B is not divisible by the number of processes.
    """
    if size() > 1:
        count, odd = divmod(len(batches[0]), size())
        if odd:
            raise UserError(
                f"A batch of {len(batches[0])} images cannot be shared by {size()} "
                "processes; take another number."
            )
        batches = tuple(b[rank() * count : (rank() + 1) * count] for b in batches)
    return batches if len(batches) > 1 else batches[0]


class _Step(nn.Module):
    """What DistributedDataParallel wraps: forward calls any function of the module."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, compute: Callable, *arguments):
        return compute(*arguments)


def together(module: nn.Module) -> Callable:
    """A function that calls what it is given; backward() then averages gradients.

    What is called returns the loss of this process's share, a mean over its rows, and
    backward() leaves the processes' mean gradient in `module`. Made anew for each phase
    of training, and kept until its last backward() is through.
    """
    if size() == 1:
        return lambda compute, *arguments: compute(*arguments)
    # batch norm's buffers are equal: it is synchronised
    return DistributedDataParallel(_Step(module), broadcast_buffers=False)


class _Sum(torch.autograd.Function):
    """The processes' sum; its gradient is the sum of theirs.

    torch.distributed.nn.functional.all_reduce is the same for gloo and NCCL, but
    PyTorch 2.15 calls it deprecated, in favour of a private module.
    """

    @staticmethod
    def forward(context, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient.contiguous())


def root_mean_square(value: Tensor) -> Tensor:
    """sqrt of the processes' mean of value^2.

    So norms over equal shares become the L2 norm over the global batch. Differentiable;
    next to 0, with gradient 0, where all are 0.
    """
    if size() == 1:
        return value
    mean = _Sum.apply(value.square()) / size()
    return mean.clamp_min(torch.finfo(value.dtype).tiny).sqrt()


def weight_of(count: Tensor) -> Tensor | float:
    """Factor for a mean over `count` rows of this process.

    With it the processes' mean is the mean over all such rows.
    """
    if size() == 1:
        return 1.0
    total = count.clone()
    dist.all_reduce(total)
    return count * size() / total.clamp_min(1)


def mean_of(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The processes' means of scalars, by one exchange."""
    if size() == 1:
        return values
    packed = torch.stack([value.detach().double() for value in values.values()])
    dist.all_reduce(packed)
    return dict(zip(values, packed / size()))


def broadcast(value: object = None) -> object:
    """Process 0's value, in every process."""
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the global batch, on any backend (PyTorch's own needs GPUs)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or size() == 1:
            return super().forward(x)
        dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
        count = x.numel() // x.shape[1] * size()
        mean = _Sum.apply(x.sum(dim=(0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = (variance * count / (count - 1)).to(self.running_var.dtype)
            self.running_var.lerp_(unbiased, self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(dtype)


def synchronised(network: nn.Module) -> nn.Module:
    """The network with its batch norm over the global batch while it trains.

    Values and names of its state stay.
    """
    if size() == 1:
        return network
    if next(network.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm
    return network


class Store:
    """A store of stages that process 0 keeps; the others hear what it found."""

    def __init__(self, store):  # store.Store, or NoStore
        self.store, self.code = store, store.code

    @contextlib.contextmanager
    def stage(self, key: str) -> Iterator["_Told | _Heard"]:
        if rank() > 0:
            yield _Heard()
            return
        with self.store.stage(key) as stage:
            yield _Told(stage)


class _Told:
    """Process 0's stage: tells the others its result and checkpoint."""

    def __init__(self, stage: Stage | NoStore):
        self.path = stage.path
        self.stage = stage
        self.due, self.save, self.finish = stage.due, stage.save, stage.finish

    def result(self):
        return broadcast(self.stage.result())

    def checkpoint(self):
        return broadcast(self.stage.checkpoint())


class _Heard(NoStore):
    """A stage in the other processes: never writes."""

    def result(self):
        return broadcast()

    checkpoint = result
