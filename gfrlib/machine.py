"""What this machine computes with: device, precision, compiler, and the chip's name."""

import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gfrlib.config import Config, UserError

COMPILERS = ("g++", "clang++", "cl")  # one of them must be there to compile for a CPU
GRAPHS = 64  # that one function may be compiled to in a process: a GAN's updates, for every shape of network


def resolve_device(config: Config) -> torch.device:
    """cuda where there is one, if the config says auto."""
    wanted = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    return torch.device(wanted)


def resolve_precision(config: Config) -> str:
    """float32, bf16 or fp16: what `auto` means here. bf16 where the chip has it without emulation, else fp16 on a GPU."""
    if config.precision != "auto":
        return config.precision
    if resolve_device(config).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(_cpuinfo("flags").split()) else "float32"


def prepare(config: Config) -> None:
    """Set up the GPU, if one is used: float32 means float32, and cuDNN takes the fastest of its ways for each shape.

    (By PyTorch's default, convolutions of float32 keep 10 of the 23 bits of a factor on an A100 or later: TF32.)
    Raises UserError where the config asks for a GPU that is not there, or for bf16 that this one would emulate.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no GPU here; use device = auto or cpu.")
    if resolve_device(config).type != "cuda":
        return
    if config.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(f"{torch.cuda.get_device_name()} has no bfloat16 arithmetic and would emulate it, slowly; "
                        "use precision = auto (fp16 there) or float32.")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


def compiled(function: Callable, device: torch.device, *, small: bool = False) -> Callable:
    """torch.compile of a function or module; with `small` the whole is one graph, which a GPU replays without launches.

    Raises UserError where PyTorch is too old to trace gradients of gradients, or a CPU has no C++ compiler.
    """
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        raise UserError(f"'compiled' needs a newer PyTorch than {torch.__version__} (2.15 will do): set compiled to false.")
    if device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise UserError("'compiled' needs a C++ compiler on a CPU, and there is none: install g++, or set compiled to false.")
    torch._dynamo.config.trace_autograd_ops = True
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    graphs = {"mode": "reduce-overhead"} if small and device.type == "cuda" else {}
    return torch.compile(function, fullgraph=small, dynamic=False, **graphs)


def compiled_gradients(losses_of: Callable, weights: list[Tensor], device: torch.device) -> Callable:
    """A function that returns what `losses_of` returns, (loss, parts), without history, and the loss's gradients of `weights`.

    Forward and backward are one graph: a loss that holds a gradient itself cannot be compiled otherwise.
    """
    def both(*inputs: Tensor) -> tuple[Tensor, dict[str, Tensor], tuple[Tensor, ...]]:
        loss, parts = losses_of(*inputs)
        return loss.detach(), {k: v.detach() for k, v in parts.items()}, torch.autograd.grad(loss, weights)

    return compiled(both, device, small=True)


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
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")
