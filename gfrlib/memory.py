"""What every memory is: an nn.Module that keeps something of the old classes."""

from torch import Tensor, nn

from gfrlib.config import UserError


class Memory(nn.Module):
    """Nothing is carried; the base of all others.

    What a memory learns lies in parameters and buffers (`register_buffer`): these alone
    are kept with a stage and come back from the cache. `passing` names attributes that
    are constants, or live for one task and may be lost.
    """

    trained = False  # by a loop (generator_training.py); else `fit` does it
    fits = False  # by `fit`, from all features of a task, without gradients
    replays = False  # samples enter the classifier's loss
    keeps_means = False  # a buffer `means` [classes, d], for nearest-mean prediction

    passing: tuple = ()  # attributes with tensors that are no part of the state

    rows: Tensor | None = None  # training images kept: their row numbers

    def fit(self, features: Tensor, labels: Tensor, rows: Tensor | None = None) -> None:
        """Take up task t's classes from all their features u = F_t(x) [N, d].

        labels [N], row numbers of the images [N].
        """

    def watch(self, features: Tensor, labels: Tensor) -> None:
        """Hook before a task t >= 1 is learned with a frozen F, with its features
        [N, d] and labels [N].

        It is asked of what this task replays from, which is a copy where the memory
        `replays` or is `trained`: what it keeps there is lost after the task. The
        default does nothing.
        """

    def move(self, W: Tensor, b: Tensor) -> None:
        """Follow the features of old classes: those of class c moved from u to
        W u + b_c; W [d, d], b [classes, d].
        """

    def nbytes(self) -> dict[str, int]:
        """Bytes kept for the next task, item by item; of all its state, where a memory
        does not say less.
        """
        size = state_bytes(self)
        return {"memory": size} if size else {}

    def check(self) -> None:
        """Raises UserError where a memory does not declare what it does."""
        name, own = type(self).__name__, type(self)
        classes = own.__mro__[: own.__mro__.index(Memory)]
        stated = {word for each in classes for word in vars(each)}
        if "sample" in stated and "replays" not in stated:
            raise UserError(
                f"The memory '{name}' has a method sample and does not say whether it "
                "enters the loss; set replays = True (or False) in the class."
            )
        if "fit" in stated and "fits" not in stated:
            raise UserError(
                f"The memory '{name}' has a method fit and does not say whether it is "
                "called; set fits = True (or False) in the class."
            )

    def check_state(self) -> None:
        """Raises UserError where something learned lies in an ordinary attribute: it
        would be empty as soon as a stage comes from the cache.
        """
        for name, value in vars(self).items():
            if name.startswith("_") or name in self.passing:
                continue
            if _holds_a_tensor(value):
                remedy = "make it a buffer (register_buffer)"
                if name == "rows":
                    remedy = "keep it in a buffer, and make rows a property of it"
                raise UserError(
                    f"The memory '{type(self).__name__}' keeps tensors in '{name}', "
                    f"which no stage keeps; {remedy}, or name it in `passing` if it is "
                    "a constant or may be lost."
                )


def _holds_a_tensor(value: object) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(map(_holds_a_tensor, value))
    return isinstance(value, Tensor)


def within(u: Tensor, signed: bool) -> Tensor:
    """Features that cannot be: negative ones become 0, where none is `signed`."""
    return u if signed else u.clamp_min(0)


def state_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers that are kept (persistent ones)."""
    return sum(size_of(v) for v in module.state_dict().values())


def size_of(tensor: Tensor) -> int:
    """Bytes of a tensor."""
    return tensor.numel() * tensor.element_size()
