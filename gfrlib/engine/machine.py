"""What this machine computes with: device, precision, compiler, and the chip's name."""

import contextlib
import gc
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from gfrlib.config import Config, UserError
from gfrlib.engine.values import counted

# what PyTorch compiles with for a CPU where CXX names nothing else
COMPILER = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
LAUNCHERS = ("gcc", "clang", "cl")  # and for a GPU: Triton compiles its launchers
# the first PyTorch that was seen to compile gradients of gradients; 2.11 cannot
GRADIENTS_OF_GRADIENTS = (2, 15)
WARM_UP = 3  # calls before a CUDA graph is recorded, as PyTorch's notes ask for
MANY_THREADS = 64  # that any machine may be asked for
GRAPHS = 64  # that one function may be compiled to in a process
CPUINFO = Path("/proc/cpuinfo")  # Linux alone has it
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}  # of an x86 processor that computes in bf16
SLOW_BF16 = (
    "precision bf16: this processor is not known to compute in bfloat16 (its flags "
    "name neither avx512_bf16 nor amx_bf16), and emulation was seen to be 8 times "
    "slower than float32 (23 against 193 images a second at width 16); it goes on, and "
    "precision = auto would take float32."
)
_told: set[str] = set()  # notices that this process has given


@dataclass(frozen=True)
class Machine:
    """What a run computes with, settled once for all that trains."""

    device: torch.device
    precision: str  # of convolutions: float32, bf16 or fp16
    threads: int = 0  # 0: PyTorch's default

    @classmethod
    def of(cls, config: Config) -> "Machine":
        """What the config means here. Raises UserError for a GPU that is not there, one
        without bf16, or more threads than there can be.
        """
        device = resolve_device(config)
        _check(config, device)
        precision = resolve_precision(config, device)
        return cls(device, precision, config.threads)

    @property
    def chip(self) -> str:
        """The processor's or GPU's name; asked when a process has taken its own GPU."""
        return chip(self.device)

    @property
    def half(self) -> torch.dtype | None:
        """The type of half-precision arithmetic, or None."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)

    def prepare(self) -> None:
        """Set up the GPU, if one is used: float32 means float32, and cuDNN chooses the
        fastest of its kernels for each shape.

        By PyTorch's default, convolutions of float32 keep 10 of the 23 bits of a factor
        on an A100 or later (TF32).
        """
        if self.device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.benchmark = True

    def tell(self, notice: Callable[[str], None]) -> None:
        """Give notice, once a process, of a precision that is likely slow here."""
        if self.device.type != "cpu" or self.precision != "bf16" or _native_bf16():
            return
        if SLOW_BF16 not in _told:
            _told.add(SLOW_BF16)
            notice(SLOW_BF16)

    @contextlib.contextmanager
    def limited(self) -> Iterator[None]:
        """PyTorch's and NumPy's threads as the config wants them; then as before."""
        before = torch.get_num_threads()
        if self.threads:
            torch.set_num_threads(self.threads)
        try:
            # NumPy's, too: threads of both would wait for each other
            with _numpy_threads(self.threads):
                yield
        finally:
            torch.set_num_threads(before)


def _numpy_threads(count: int) -> contextlib.AbstractContextManager:
    try:
        return threadpool_limits(count or None, "blas")
    except OSError:  # it looks for NumPy's libraries in /proc, which not all may read
        return contextlib.nullcontext()


def take_gpu(number: int) -> None:
    """Let this process compute on the GPU of that number, counted around and around;
    with fewer than two there is nothing to choose.
    """
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(number % torch.cuda.device_count())


def hush() -> None:
    """No notice of a slow precision from this process: another one has given it."""
    _told.add(SLOW_BF16)


def resolve_device(config: Config) -> torch.device:
    """cuda where there is one, if the config says auto.

    Raises UserError for a cuda that is not there.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no GPU here; use device = auto or cpu.")
    if config.device != "auto":
        return torch.device(config.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(config: Config, device: torch.device) -> str:
    """float32, bf16 or fp16: what `auto` means on this device.

    bf16 where the chip has it without emulation, else fp16 on a GPU. On a processor
    that does not tell in /proc/cpuinfo (macOS, Windows), and on ARM, float32: no
    bfloat16 was ever timed there.
    """
    if config.precision != "auto":
        return config.precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp16"
    return "bf16" if _native_bf16() else "float32"


def _native_bf16() -> bool:
    """Whether the processor says that it computes in bfloat16."""
    return bool(BF16_FLAGS & set(_cpuinfo("flags").split()))


def _check(config: Config, device: torch.device) -> None:
    processors = os.cpu_count() or 1
    if config.threads > max(MANY_THREADS, 4 * processors):
        raise UserError(
            f"'threads' is {config.threads}, and this machine has "
            f"{counted(processors, 'processor')}: so many would wait for each other; "
            f"take {processors}."
        )
    if device.type != "cuda" or config.precision != "bf16":
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(
            f"{torch.cuda.get_device_name()} has no bfloat16 arithmetic and would "
            "emulate it, slowly; use precision = auto (fp16 there) or float32."
        )


def compiled(module: nn.Module, device: torch.device) -> Callable:
    """torch.compile of a module; one without parameters comes back as it is.

    Raises UserError where a compiler is lacking, or Triton for a GPU.
    """
    if not any(True for _ in module.parameters()):
        return module
    _require_compiler(device)
    return torch.compile(module, dynamic=False)


def compiled_gradients(
    losses_of: Callable, weights: list[Tensor], device: torch.device
) -> Callable:
    """A function that returns what `losses_of` returns, and the loss's gradients.

    ``losses_of(*inputs) -> (loss, parts)``; the result is (loss, parts, gradients of
    `weights`), without history. Forward and backward are one piece: on a GPU a CUDA
    graph, on a CPU one graph of the compiler, since a loss that holds a gradient itself
    cannot be compiled otherwise. Raises UserError where a CPU has no C++ compiler, or
    PyTorch is too old to compile gradients of gradients for it.
    """

    def both(*inputs: Tensor) -> tuple[Tensor, dict[str, Tensor], tuple[Tensor, ...]]:
        loss, parts = losses_of(*inputs)
        gradients = torch.autograd.grad(loss, weights)
        return loss.detach(), {k: v.detach() for k, v in parts.items()}, gradients

    if device.type == "cuda":
        return as_cuda_graph(both)
    _require_compiler(device)
    if torch.__version__ < GRADIENTS_OF_GRADIENTS:
        wanted = ".".join(map(str, GRADIENTS_OF_GRADIENTS))
        raise UserError(
            f"'compiled' needs PyTorch {wanted} on a CPU, and this is "
            f"{torch.__version__}: update it, or set compiled to false."
        )
    torch._dynamo.config.trace_autograd_ops = True
    return torch.compile(both, fullgraph=True, dynamic=False)


def as_cuda_graph(function: Callable) -> Callable:
    """`function` of tensors as a CUDA graph: recorded once for each shape of inputs,
    then replayed by one launch.

    It must draw no random numbers, change nothing in place, and read its weights where
    they were at the first call. The next call overwrites what comes back.
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
    """(the graph, where it reads its inputs, what it leaves).

    Some calls come before it, by which the libraries set themselves up.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            function(*places)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # a stream of its own: graphs recorded on one stream share the libraries' workspace
    with _nothing_collected(), torch.cuda.graph(graph, stream=side):
        found = function(*places)
    return graph, places, found


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """No garbage is collected meanwhile.

    To free another graph or a compiled kernel breaks a recording ("operation not
    permitted when stream is capturing"), and PyTorch does not collect before it any
    more.
    """
    gc.collect()
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _require_compiler(device: torch.device) -> None:
    """Require a C++ compiler on a CPU, Triton and a C compiler on a GPU, and raise the
    limit of recompilations: a run compiles one function for several networks.
    """
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise UserError(
                "'compiled' needs Triton on a GPU, and it is not installed: pip "
                "install triton, or set compiled to false."
            )
        if not (os.environ.get("CC") or any(map(shutil.which, LAUNCHERS))):
            raise UserError(
                "'compiled' needs a C compiler on a GPU, and there is none: install "
                "gcc, or set compiled to false."
            )
    compiler = os.environ.get("CXX", "").strip() or COMPILER
    command = compiler.split()[0]  # options may follow, or blanks be in its path
    if device.type == "cpu" and not (shutil.which(compiler) or shutil.which(command)):
        raise UserError(
            f"'compiled' needs a C++ compiler on a CPU, and '{compiler}' is not there: "
            "install it, name another in the variable CXX, or set compiled to false."
        )
    settings = torch._dynamo.config
    limit = "recompile_limit"
    if not hasattr(settings, limit):
        limit = "cache_size_limit"  # until PyTorch 2.6
    setattr(settings, limit, max(GRAPHS, getattr(settings, limit)))


def chip(device: torch.device) -> str:
    """The GPU's or the processor's name, with its family and model where it has them.

    Clouds call many processors by one name, and their kinds round differently.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    family, model = _cpuinfo("cpu family"), _cpuinfo("model")
    return f"{name} (family {family}, model {model})" if family and model else name


def _cpuinfo(field: str) -> str:
    """A line of Linux's /proc/cpuinfo; elsewhere nothing."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    found = (value for name, value in pairs if name.strip() == field)
    return next(found, "").strip()
