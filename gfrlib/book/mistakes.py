"""What a network mixes up: class by class, pair by pair, with the test images."""

from collections import Counter
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np

from gfrlib.book import looks
from gfrlib.book.looks import NEW, OLD, SMALL, styled
from gfrlib.lab.records import Record
from gfrlib.tasks import Tasks

MOST = 20  # classes that a figure has room for
EXAMPLES = 2  # images of the class that others were taken for
LONGEST = 18  # characters of a class's name beside images


@dataclass(frozen=True)
class Pair:
    """Images of class `true` that were taken for class `taken`, after the last task."""

    true: int  # positions in the class order
    taken: int
    rows: tuple[int, ...]  # of the stream's test images
    share: float  # of the class's test images


def confused(record: Record) -> list[Pair]:
    """Every pair of classes that is mixed up, the largest share of a class first."""
    predicted, labels = np.asarray(record.predictions[-1]), record.labels()
    wrong = np.flatnonzero(predicted != labels)
    pairs = Counter(zip(labels[wrong].tolist(), predicted[wrong].tolist()))
    found = []
    for true, taken in pairs:
        rows = wrong[(labels[wrong] == true) & (predicted[wrong] == taken)]
        share = len(rows) / record.test_counts[true]
        found.append(Pair(true, taken, tuple(rows.tolist()), share))
    return sorted(found, key=lambda pair: (-pair.share, pair.true, pair.taken))


def class_accuracy(record: Record) -> np.ndarray:
    """[classes] percent of each class's test images that are right after the last task,
    in the order in which the classes arrived.
    """
    right = np.asarray(record.predictions[-1]) == record.labels()
    edges = np.cumsum([0, *record.test_counts[:-1]])
    return 100 * np.add.reduceat(right.astype(float), edges) / record.test_counts


@styled
def class_bars(record: Record, ax=None):
    """Accuracy of each class after the last task, the lowest first.

    Of many classes the MOST lowest. Classes of earlier tasks have another colour than
    the last one's.
    """
    values = class_accuracy(record)
    order = np.argsort(values, kind="stable")[:MOST]
    first_new = len(values) - record.task_sizes[-1]
    ax, named = looks.axes(ax, height=1.1 + 0.26 * len(order)), set()
    for y, c in enumerate(order):
        name, color = ("old classes", OLD) if c < first_new else ("new classes", NEW)
        label = None if name in named else name
        named.add(name)
        looks.bar(ax, y, [values[c]], color, f"{values[c]:.0f}", label=label)
    ax.set(xlim=(0, 100), xlabel="%")
    names = [{"label": record.class_names[c]} for c in order]
    looks.rows(ax, names, legend="Accuracy on")
    return ax


@styled
def confused_images(record: Record, stream: Tasks, *, pairs: int = 4, each: int = 4):
    """The pairs with the largest share of a class's images, a line each: test images
    that were answered wrongly, and two of the class that they were taken for.
    """
    found = confused(record)[:pairs]
    if not found:
        return None
    columns = each + EXAMPLES
    shape = dict(width_ratios=[1] * each + [0.3] + [1] * EXAMPLES)
    figure, grid = plt.subplots(
        len(found),
        columns + 1,
        figsize=(5.2, 1.1 * len(found)),
        squeeze=False,
        gridspec_kw=shape,
    )
    for line, pair in zip(grid, found):
        true, taken = (_short(record.class_names[c]) for c in (pair.true, pair.taken))
        rows = [*pair.rows[:each], *[None] * (each - len(pair.rows)), None]
        rows += _examples(record, pair.taken)
        for ax in line:
            ax.axis("off")
        for ax, row in zip(line, rows):
            if row is not None:
                ax.imshow(_pixels(stream, row), cmap="gray", vmin=0, vmax=255)
        count, of = len(pair.rows), record.test_counts[pair.true]
        _write_above(line[0], f"{true}, taken for {taken}: {count} of {of}")
        _write_above(line[each + 1], taken)
    return figure


def _write_above(ax, text: str) -> None:
    """A title that is longer than an image is wide, and does not widen its column."""
    ax.set_title(" ", fontsize=SMALL)  # its height
    ax.text(
        0,
        1.07,
        text,
        transform=ax.transAxes,
        fontsize=SMALL,
        fontweight="bold",
        in_layout=False,
    )


def _examples(record: Record, c: int) -> list[int]:
    """Rows of test images of a class, those first that were answered rightly."""
    rows = np.flatnonzero(record.labels() == c)
    wrong = np.asarray(record.predictions[-1])[rows] != c
    return rows[np.argsort(wrong, kind="stable")][:EXAMPLES].tolist()


def _pixels(stream: Tasks, row: int) -> np.ndarray:
    """uint8 [H, W, 3] of a test image, or [H, W] of a grey one."""
    pixels = stream.test_images[row].cpu().numpy()
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
