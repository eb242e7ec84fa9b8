"""Which systems chapter 5 trains on a reader's images, and at which size."""

from pathlib import Path

import numpy as np

from gfrlib.book import results, words
from gfrlib.lab import datasets
from gfrlib.lab.decoding import Rules

SIDE, PRETRAINED_SIDE = 64, 128  # pixels: from scratch, and on a pretrained extractor
# A head on features that were computed once: its steps cost next to nothing.
HEAD = dict(epochs_base=50, epochs_task=50)


def pack(home: Path, side: int, weights: str, *, exact: bool) -> tuple:
    """(name, lines about what was used for what) of the packed folder `home`.

    side: of the squares; 0 for what suits the `weights`. Without `exact` it is the
    most: if the first image is smaller, all are brought to its size.
    """
    told: list[str] = []
    side = side or (PRETRAINED_SIDE if weights else SIDE)
    rules = Rules(side=side, exact=exact)
    return datasets.resolve(str(home), told.append, rules), told


def systems(weights: str, fine_tune: bool) -> tuple[str, dict]:
    """(preset, {row: settings}): the last row is the one that is looked at closely.

    Without weights five that start from scratch. With them three whose extractor is
    frozen, or, to `fine_tune` it, two that train it on.
    """
    if not weights:
        rows = ("finetune", "frozen", "fecam", "gfr-gaussian", "gfr")
        return "quick", {row: {"method": row} for row in rows}
    if fine_tune:
        rows = ("finetune", "gfr-gaussian-full")
        return "photos", {row: {"method": row} for row in rows}
    gaussians = dict(method="gfr-gaussian-full", penalty="frozen", **HEAD)
    return "photos", {
        "frozen": {"method": "frozen"},
        "frozen F, whole covariances": gaussians,
        "fecam": {"method": "fecam"},
    }


def forgotten(runs: dict) -> str:
    """What fine-tuning still knows of earlier tasks' classes; empty without its run."""
    if "finetune" not in runs:
        return ""
    old = np.mean([results.old_new(r)[0] for r in runs["finetune"]])
    return f" {words.label('finetune')} still knows {old:.0f} % of the earlier ones."
