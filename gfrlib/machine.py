"""What this machine computes with: device, precision, and the chip's name."""

import platform
from pathlib import Path

import torch

from gfrlib.config import Config


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
