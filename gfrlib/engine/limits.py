"""What does not fit a machine, or a number's range, is one sentence."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from gfrlib.config import UserError

# Where Linux tells how much memory this process's group may take (cgroups 2 and 1).
GROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
# How PyTorch says that there is no memory, or that no memory could be as large.
NO_MEMORY = ("allocate memory", "out of memory", "overflow", "Invalid size")
# How it says that a batch of one image has no spread.
ONE_VALUE = "Expected more than 1 value per channel"
SMALLER = (
    "make the network (width, generator_hidden) or the batch smaller, or take a "
    "machine with more memory"
)


def memory(device: torch.device) -> int | None:
    """Bytes that a process could have on the device at most; None: it does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if not hasattr(os, "sysconf"):  # Windows
        return None
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in GROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            found.append(int(path.read_text(encoding="utf-8")))
    return min(found)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Within the block, what memory or arithmetic cannot do becomes a UserError."""
    try:
        yield
    except (MemoryError, torch.cuda.OutOfMemoryError) as problem:
        raise UserError(f"There is not enough memory; {SMALLER}.") from problem
    except (np.linalg.LinAlgError, torch.linalg.LinAlgError) as problem:
        raise UserError(
            "A matrix of the features could not be decomposed: they became too large "
            "or too much alike; lower the learning rate or a weight, or take precision "
            "float32."
        ) from problem
    except ValueError as problem:
        if ONE_VALUE not in str(problem):
            raise
        raise UserError(
            "Batch norm cannot train on a batch of one image whose last maps are one "
            "place each; take a batch_size of at least 2, tasks of at least 2 training "
            "images, or larger images."
        ) from problem
    except RuntimeError as problem:
        if not any(words in str(problem) for words in NO_MEMORY):
            raise
        raise UserError(f"There is not enough memory; {SMALLER}.") from problem
