"""The book's figures by their names: records -> Axes or Figure. Nothing trains here.

They are drawn in four modules: `accuracy` (accuracy and forgetting), `inside` (logits,
losses, layers), `features` (features and images), `costs` (bytes). Those of one chapter
alone are in its own modules (`memories`, `mistakes`). `looks` holds the
style, and says what `records` may be; `words.show` displays a figure with the line that
says where its numbers are from.
"""

from gfrlib.book.accuracy import (
    accuracy_curves,
    accuracy_matrices,
    accuracy_matrix,
    accuracy_vs,
    bars,
    confusion_matrix,
    curves_by_split,
    effects,
    error_bars,
    final_bars,
    gain_over_drift,
    lead_curves,
    old_new_bars,
    two_sizes,
)
from gfrlib.book.costs import accuracy_against_bytes, bytes_bars
from gfrlib.book.features import planes, points, projection, sample_sheet
from gfrlib.book.inside import (
    largest_logit,
    layer_similarity,
    logit_bias,
    loss_curves,
    similarity_panels,
)
from gfrlib.book.looks import BLUE, look, style

__all__ = [
    "BLUE",
    "accuracy_against_bytes",
    "accuracy_curves",
    "accuracy_matrices",
    "accuracy_matrix",
    "accuracy_vs",
    "bars",
    "bytes_bars",
    "confusion_matrix",
    "curves_by_split",
    "effects",
    "error_bars",
    "final_bars",
    "gain_over_drift",
    "largest_logit",
    "layer_similarity",
    "lead_curves",
    "logit_bias",
    "look",
    "loss_curves",
    "old_new_bars",
    "planes",
    "points",
    "projection",
    "sample_sheet",
    "similarity_panels",
    "style",
    "two_sizes",
]
