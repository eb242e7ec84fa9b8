"""What every memory is: an nn.Module that keeps something of the old classes."""

from torch import Tensor, nn


class Memory(nn.Module):
    """Nothing is carried; the base of all others."""

    trained = False  # by a loop (generator_training.py); else `fit` does it
    fits = False  # closed-form, from all features of a task
    replays = False  # samples enter the classifier's loss
    keeps_means = False  # a buffer `means` [classes, d], for nearest-mean prediction

    rows: Tensor | None = None  # training images kept: their row numbers

    def fit(self, features: Tensor, labels: Tensor, rows: Tensor | None = None) -> None:
        """Take up task t's classes from all their features u = F_t(x) [N, d].

        labels [N], row numbers of the images [N].
        """

    def watch(self, features: Tensor, labels: Tensor) -> None:
        """Hook before a task is learned with a frozen F, with its features [N, d] and
        labels [N].

        The default does nothing.
        """

    def move(self, W: Tensor, b: Tensor) -> None:
        """Follow the features of old classes: those of class c moved from u to
        W u + b_c; W [d, d], b [classes, d].
        """

    def nbytes(self) -> dict[str, int]:
        """Bytes kept for the next task, item by item."""
        return {}


def within(u: Tensor, signed: bool) -> Tensor:
    """Features that cannot be: negative ones become 0, where none is `signed`."""
    return u if signed else u.clamp_min(0)


def state_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(size_of(v) for v in module.state_dict().values())


def size_of(tensor: Tensor) -> int:
    """Bytes of a tensor."""
    return tensor.numel() * tensor.element_size()
