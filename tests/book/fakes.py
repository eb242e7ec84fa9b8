"""Runs made up by hand, with what figures and words read of a record."""

from types import SimpleNamespace

import matplotlib
import numpy as np

from gfrlib import metrics
from gfrlib.config import make_config

SIZES = [4, 2, 2, 2]
ROWS = {  # accuracy[t, k] of a run; joint training has the last row only
    "finetune": [[1.0], [0, 0.9], [0, 0, 0.9], [0, 0, 0, 0.8]],
    "gfr": [[1.0], [0.9, 0.6], [0.8, 0.5, 0.5], [0.7, 0.5, 0.4, 0.3]],
    "joint": [None, None, None, [0.98, 0.97, 0.99, 0.96]],
}


def fake(
    method="gfr", seed=0, status="computed now", preset="quick", shift=0.0, **more
):
    """What the plots read of a record."""
    accuracy = np.full((4, 4), np.nan)
    for t, row in enumerate(ROWS.get(method, ROWS["gfr"])):
        if row:
            accuracy[t, : t + 1] = np.array(row) - shift
    labels = np.repeat(np.arange(10), 5)
    logits = [
        {
            "after": 3,
            "old_classes": 8,
            "mean_logit": np.linspace(-2, 1, 10).tolist(),
            "bias": [0.1] * 10,
            "weight_norm": [1.0] * 10,
            "largest_logit": {
                "on_old_images": {"old_classes": 0.5, "new_classes": 2.0},
                "on_new_images": {},
            },
        }
    ]
    provenance = {
        "date": "2026-11-20 10:00 UTC",
        "commit": "0123456789abcdef",
        "device": "A <chip>",
        "threads": 2,
    }
    losses = [
        {"task": t, "phase": p, "step": s, "loss": 2.0 / s, "new": 1.0 / s}
        | ({"replayed": 0.5} if t else {})
        for t in range(3)
        for p in ("classifier",)
        for s in (10, 20, 30)
    ]
    return SimpleNamespace(
        **{
            "config": make_config(preset, method, seed=seed),
            "task_sizes": SIZES,
            "accuracy": accuracy,
            "name": "fake",
            "curve": metrics.class_weighted(accuracy, SIZES),
            "rule": lambda name: accuracy / 2,
            "status": status,
            "provenance": provenance,
            "losses": losses,
            "analysis": {"logits": logits},
            "labels": lambda t=None: labels[
                : 5 * sum(SIZES[: 4 if t is None else t + 1])
            ],
            "predictions": [None, None, None, np.where(labels < 8, 8, labels)],
        }
        | more
    )


def texts(figure) -> list[str]:
    """All words that a figure shows."""
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def luminance(color) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in matplotlib.colors.to_rgb(color)
    ]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(a, b) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


LAYERS = ("block 1", "block 2", "classifier")


def with_similarity(method="gfr", drop=0.1, seed=0, **more):
    entries = [
        {
            "after": t,
            "task": k,
            "layer": layer,
            "rows": 100,
            "svcca": 1 - drop * i,
            "pwcca": 1 - drop * i / 2,
            "cka": 1 - drop * i,
            "svcca_null": 0.1,
            "cka_null": 0.0,
        }
        for t in range(1, 4)
        for k in range(t)
        for i, layer in enumerate(LAYERS)
    ]
    return fake(method, seed, analysis={"similarity": entries, **more})
