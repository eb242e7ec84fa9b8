"""Costs: bytes of the paper's objects and of runs, and what they buy, as figures."""

import numpy as np

from gfrlib import networks, replay
from gfrlib.book import looks
from gfrlib.book.looks import styled
from gfrlib.config import make_config
from gfrlib.memory import state_bytes


def human(count: float) -> str:
    """Bytes for people, in powers of 1,024 with three digits: 512 B, 4.79 MiB."""
    power = 0
    if count >= 1000:
        power = min(3, max(1, int(np.log(count * 1.024) / np.log(1024))))
    return f"{count / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"


# Data sets of the paper: classes, side of the images that its network reads, of those
# that are stored.
SETS = {
    "CIFAR-100": (100, 32, 32),
    "ImageNet-Subset": (100, 224, 256),
    "ImageNet-1000": (1000, 224, 256),
}


def network_bytes(classes: int, side: int) -> int:
    """The paper's network with all its outputs, for images of this side."""
    network = networks.resnet18(3, make_config("paper").width, side)
    network.head.grow(classes, 0)
    return state_bytes(network)


def memory_bytes(method: str, classes: int, shape=(512,), **changes) -> int:
    """The paper's memory of a method with all classes seen: G and D, or others.

    shape: of what is replayed, the feature vector or an image (channels first).
    """
    config = make_config("paper", method, **changes)
    memory = replay.build_memory(config, classes, shape, 0)
    if hasattr(memory, "counts"):
        memory.counts += 1  # as if every class had been seen
    return sum(memory.nbytes().values())


def exemplar_bytes(classes: int, side: int) -> int:
    """20 stored RGB images a class, raw."""
    return 20 * classes * side**2 * 3


@styled
def bytes_bars(kept: dict, ax=None, *, title: str = "Kept for the next task"):
    """{label: bytes, or {item: bytes} as in Record.bytes_kept} on a logarithmic scale.

    The sum stands at each end.
    """
    totals = {}
    for label, items in kept.items():
        totals[label] = sum(items.values()) if hasattr(items, "values") else items
    ax, named = looks.axes(ax, height=0.95 + 0.4 * len(kept)), looks.looks_of(totals)
    known = [v for v in totals.values() if v] or [1]
    low, high = 2.0 ** (10 * int(np.log2(min(known)) // 10)), max(known)
    for i, total in enumerate(totals.values()):
        ax.barh(i, max(total - low, 0), 0.66, left=low, color=named[i]["color"])
        words = human(total) if total else "nothing"
        looks.write_beside(ax, max(total, low), i, words, 6)
    looks.rows(ax, named)
    ax.set_xscale("log", base=2)
    step = 5 if high / low > 2**10 else 2
    ticks = 2.0 ** np.arange(np.log2(low), np.log2(high) + 1, step)
    ax.set_xticks(ticks, [human(x) for x in ticks])
    ax.minorticks_off()
    ax.set_xlim(low, max(high * (high / low) ** 0.25, 4 * low))
    ax.set_title(title)
    return ax


@styled
def accuracy_against_bytes(
    points: dict, ax=None, *, title: str = "Accuracy after the last task (%)"
):
    """{label: (bytes, percent or list of percents)}: one mark each, labelled beside it.

    The axis of bytes is logarithmic.
    """
    ax, named = looks.axes(ax, height=3.7), looks.looks_of(points)
    known = [max(count, 1) for count, _ in points.values()]
    means = [float(np.mean(values)) for _, values in points.values()]
    for i, (_, values) in enumerate(points.values()):
        ax.plot(known[i], means[i], named[i]["marker"], color=named[i]["color"], ms=7)
        span = np.min(values), np.max(values)
        ax.vlines(known[i], *span, color=named[i]["color"], lw=1.5)
    ax.set_xscale("log", base=2)
    lowest = 0 if min(known) == 1 else int(np.log2(min(known)))
    ticks = 2.0 ** np.arange(lowest, np.log2(max(known)) + 3, 4)
    ax.set_xticks(ticks, ["nothing" if x == 1 else human(x) for x in ticks])
    ax.minorticks_off()
    ax.set_xlim(min(known) / 2, max(known) * 4)
    ax.set(xlabel="bytes kept for the old classes", title=title)
    ax.margins(y=0.12)
    ax.grid(axis="y")
    looks.label_points(ax, known, means, named)
    return ax
