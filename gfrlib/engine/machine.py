"""What this machine computes with: device, precision, compiler, and the chip's name."""

import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from gfrlib.config import Config, UserError

COMPILERS = ("g++", "clang++", "cl")  # one of them must be there to compile for a CPU
GRADIENTS_OF_GRADIENTS = (
    2,
    15,
)  # the first PyTorch that was seen to compile them; 2.11 cannot
WARM_UP = 3  # calls before a CUDA graph is recorded, as PyTorch's notes on CUDA graphs ask for
GRAPHS = 64  # that one function may be compiled to in a process


def resolve_device(config: Config) -> torch.device:
    """cuda where there is one, if the config says auto."""
    wanted = (
        ("cuda" if torch.cuda.is_available() else "cpu")
        if config.device == "auto"
        else config.device
    )
    return torch.device(wanted)


def resolve_precision(config: Config) -> str:
    """float32, bf16 or fp16: what `auto` means here. bf16 where the chip has it without emulation, else fp16 on a GPU."""
    if config.precision != "auto":
        return config.precision
    if resolve_device(config).type == "cuda":
        return (
            "bf16"
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else "fp16"
        )
    return (
        "bf16"
        if {"avx512_bf16", "amx_bf16"} & set(_cpuinfo("flags").split())
        else "float32"
    )


def prepare(config: Config) -> None:
    """Set up the GPU, if one is used: float32 means float32, and cuDNN takes the fastest of its ways for each shape.

    (By PyTorch's default, convolutions of float32 keep 10 of the 23 bits of a factor on an A100 or later: TF32.)
    Raises UserError where the config asks for a GPU that is not there, or for bf16 that this one would emulate.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no GPU here; use device = auto or cpu.")
    if resolve_device(config).type != "cuda":
        return
    if config.precision == "bf16" and not torch.cuda.is_bf16_supported(
        including_emulation=False
    ):
        raise UserError(
            f"{torch.cuda.get_device_name()} has no bfloat16 arithmetic and would emulate it, slowly; "
            "use precision = auto (fp16 there) or float32."
        )
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


def compiled(module: nn.Module, device: torch.device) -> Callable:
    """torch.compile of a module. Raises UserError where a CPU has no C++ compiler."""
    _compiler(device)
    return torch.compile(module, dynamic=False)


def compiled_gradients(
    losses_of: Callable, weights: list[Tensor], device: torch.device
) -> Callable:
    """A function that returns what `losses_of` returns, (loss, parts), without history, and the loss's gradients of `weights`.

    Forward and backward are one piece: on a GPU a graph that is replayed without launches (see `replayed`), on a CPU one
    graph of the compiler, since a loss that holds a gradient itself cannot be compiled otherwise. Raises UserError where a
    CPU has no C++ compiler, or PyTorch is too old to compile gradients of gradients for it.
    """

    def both(*inputs: Tensor) -> tuple[Tensor, dict[str, Tensor], tuple[Tensor, ...]]:
        loss, parts = losses_of(*inputs)
        return (
            loss.detach(),
            {k: v.detach() for k, v in parts.items()},
            torch.autograd.grad(loss, weights),
        )

    if device.type == "cuda":
        return replayed(both)
    _compiler(device)
    if torch.__version__ < GRADIENTS_OF_GRADIENTS:
        raise UserError(
            f"'compiled' needs PyTorch {'.'.join(map(str, GRADIENTS_OF_GRADIENTS))} on a CPU, and this is "
            f"{torch.__version__}: update it, or set compiled to false."
        )
    torch._dynamo.config.trace_autograd_ops = True
    return torch.compile(both, fullgraph=True, dynamic=False)


def replayed(function: Callable) -> Callable:
    """`function` of tensors as a CUDA graph: recorded once for each shape of inputs, then replayed by one launch.

    It must draw no random numbers, change nothing in place, and read its weights where they were at the first call. What
    comes back is overwritten by the next call.
    """
    known: dict[tuple, tuple] = {}

    def call(*inputs: Tensor):
        key = tuple((x.shape, x.dtype) for x in inputs)
        if key not in known:
            known[key] = _recorded(function, [x.clone() for x in inputs])
        graph, places, found = known[key]
        for place, value in zip(places, inputs):
            place.copy_(value)
        graph.replay()
        return found

    return call


def _recorded(function: Callable, places: list[Tensor]) -> tuple:
    """(the graph, where it reads its inputs, what it leaves), after some calls by which the libraries set themselves up."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            function(*places)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(
        graph, stream=side
    ):  # its own: graphs recorded on one stream share the libraries' workspace
        found = function(*places)
    return graph, places, found


def _compiler(device: torch.device) -> None:
    """Is there one? And it may compile one function for as many networks as a run has."""
    if device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise UserError(
            "'compiled' needs a C++ compiler on a CPU, and there is none: install g++, or set compiled to false."
        )
    limit = (
        "recompile_limit"
        if hasattr(torch._dynamo.config, "recompile_limit")
        else "cache_size_limit"
    )  # until PyTorch 2.6
    setattr(
        torch._dynamo.config, limit, max(GRAPHS, getattr(torch._dynamo.config, limit))
    )


def chip(config: Config) -> str:
    """The GPU's or the processor's name."""
    if resolve_device(config).type == "cuda":
        return torch.cuda.get_device_name()
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    """A line of Linux's /proc/cpuinfo; elsewhere nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), ""
    )
