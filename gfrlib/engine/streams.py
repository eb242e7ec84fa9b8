"""Disk-backed images with prefetch: rows of an array on disk, read when needed."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gfrlib.engine.paths import whole

SHARE = 0.5  # of the free memory that resident images may take
CHUNK = 4096  # images that are copied at a time
UNKNOWN_MEMORY = 4 << 30  # bytes, where the system does not tell


def budget(device: torch.device) -> int:
    """Bytes that one array of images may take on the device (a stream has two, for
    training and for testing); a larger one is streamed.

    GFR_RESIDENT_BYTES overrides it.
    """
    if os.environ.get("GFR_RESIDENT_BYTES"):
        return whole("GFR_RESIDENT_BYTES", default=0)
    if device.type == "cuda":
        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    return int(SHARE * _free() / int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _free() -> int:
    """Bytes of main memory that can be had, caches of files included."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return 1024 * next(
            int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")
        )
    except (OSError, StopIteration):
        if not hasattr(os, "sysconf"):  # Windows
            return UNKNOWN_MEMORY
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


class Streamed:
    """Stands for a uint8 tensor [N, H, W, C] whose array stays on disk.

    `images[rows]` is a tensor on the device; `ahead(rows)` reads them beforehand.
    """

    def __init__(self, source: np.ndarray, rows: np.ndarray, device: torch.device):
        self.source, self.rows, self.device = source, rows, device
        self.shape = torch.Size((len(rows), *source.shape[1:]))
        self.is_cuda = device.type == "cuda"
        self._pool, self._ahead = ThreadPoolExecutor(1), (b"", None)

    def __len__(self) -> int:
        return len(self.rows)

    def numel(self) -> int:
        """Number of bytes of all images."""
        return self.shape.numel()

    def ahead(self, index: Tensor) -> None:
        """Begin to read these rows: the next call asks for them."""
        key = index.cpu().numpy().tobytes()
        self._ahead = (key, self._pool.submit(self._read, np.frombuffer(key, np.int64)))

    def __getitem__(self, index: Tensor | slice | int) -> Tensor:
        if isinstance(index, (int, slice)):
            rows = torch.arange(len(self))[index]
            return self[rows.view(-1)].view(*rows.shape, *self.shape[1:])
        index = index.cpu().numpy()
        key, future = self._ahead
        known = isinstance(future, Future) and key == index.tobytes()
        images = future.result() if known else self._read(index)
        return images.to(self.device, non_blocking=True)

    def _read(self, index: np.ndarray) -> Tensor:
        rows = self.rows[index]
        order = np.argsort(rows, kind="stable")  # read forwards
        images = np.empty((len(rows), *self.source.shape[1:]), np.uint8)
        images[order] = self.source[rows[order]]
        found = torch.from_numpy(images)
        return found.pin_memory() if self.is_cuda else found


def resident_or_streamed(
    source: np.ndarray, rows: np.ndarray, device: torch.device
) -> Tensor | Streamed:
    """Rows of a packed array as a tensor on the device; above the budget, streamed."""
    if len(rows) * int(np.prod(source.shape[1:])) > budget(device):
        return Streamed(source, rows, device)
    images = torch.empty(
        (len(rows), *source.shape[1:]), dtype=torch.uint8, device=device
    )
    for at in range(0, len(rows), CHUNK):  # never twice in main memory
        images[at : at + CHUNK] = torch.from_numpy(
            np.ascontiguousarray(source[rows[at : at + CHUNK]])
        )
    return images
