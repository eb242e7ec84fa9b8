"""What every memory is: an nn.Module that keeps something of the old classes."""

import copy

import numpy as np
from torch import Tensor, nn

from gfrlib.config import UserError


class Memory(nn.Module):
    """Nothing is carried; the base of all others.

    What a memory learns lies in parameters and buffers (`register_buffer`): these alone
    are kept with a stage and come back from the cache. `passing` names attributes that
    are constants, or live for one task and may be lost.
    """

    _built: dict | None = None  # its plain attributes before it learned anything

    trained = False  # by a loop (generator_training.py); else `fit` does it
    fits = False  # by `fit`, from all features of a task, without gradients
    replays = False  # samples enter the classifier's loss
    keeps_means = False  # a buffer `means` [classes, d], for nearest-mean prediction

    passing: tuple = ()  # attributes that change, or hold tensors, and are no state

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

        The default does nothing, and is refused with drift compensation.
        """

    def nbytes(self) -> dict[str, int]:
        """Bytes kept for the next task, item by item; of all its state, where a memory
        does not say less.
        """
        size = state_bytes(self)
        return {"memory": size} if size else {}

    def check(self, *, follows: bool = False) -> None:
        """Raises UserError where a memory does not declare what it does, or has no
        `move` where it `follows` drift. Called once, of what has learned nothing yet.
        """
        name, own = type(self).__name__, type(self)
        self._built = _plain(self)
        if follows and own.move is Memory.move:
            raise UserError(
                f"The memory '{name}' has no method move, so it would stay where it is "
                "under drift compensation; write one, or take drift = none."
            )
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
            learned = _holds_a_tensor(value)
            if not learned and self._built is not None and _is_plain(name, value):
                # as it was built it comes back from the cache, whatever it says now
                learned = name not in self._built or self._built[name] != value
            if learned:
                remedy = "make it a buffer (register_buffer)"
                if name == "rows":
                    remedy = "keep it in a buffer, and make rows a property of it"
                raise UserError(
                    f"The memory '{type(self).__name__}' keeps what it learns in "
                    f"'{name}', which no stage keeps; {remedy}, or name it in "
                    "`passing` if it is a constant or may be lost."
                )


def _holds_a_tensor(value: object) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(map(_holds_a_tensor, value))
    return isinstance(value, (Tensor, np.ndarray))


def _is_plain(name: str, value: object) -> bool:
    """Whether an attribute holds numbers, words or lists of them."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple, set)):
        return all(_is_plain("", part) for part in value)
    plain = value is None or isinstance(value, (bool, int, float, str, np.generic))
    return plain and name != "training"  # eval() and train() set that


def _plain(memory: nn.Module) -> dict:
    kept = {k: v for k, v in vars(memory).items() if not k.startswith("_")}
    return {k: copy.deepcopy(v) for k, v in kept.items() if _is_plain(k, v)}


def within(u: Tensor, signed: bool) -> Tensor:
    """Features that cannot be: negative ones become 0, where none is `signed`."""
    return u if signed else u.clamp_min(0)


def state_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers that are kept (persistent ones)."""
    return sum(v.nbytes for v in module.state_dict().values())
