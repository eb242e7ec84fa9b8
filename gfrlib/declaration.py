"""How a setting is declared, and what a declaration means for a value.

`config.py` is the table; here is its grammar.
"""

import dataclasses
from collections.abc import Callable, Mapping

from gfrlib.engine import values

ABSENT = object()
FRACTION = (0.0, 0.89)
NOT_NEGATIVE = (0.0, 1e30)
POSITIVE = (1e-30, 1e30)
COUNT = (1, 10**9)
MOST_TASKS = 10_000


class UserError(Exception):
    """Bad input: the message is one sentence: what is wrong and what to do.

    It is kept as one line (values.line), so that what a reader typed cannot break it.
    """

    def __init__(self, message: object = ""):
        super().__init__(values.line(str(message)))


def always(c) -> bool:
    """The condition of a setting that every run reads."""
    return True


def setting(
    default,
    *,
    choices: tuple = (),
    bounds: tuple = (),
    read: Callable = always,
    unread=ABSENT,
    known_by: Callable | None = None,
    stage: str = "start",
):
    """A field of Config.

    choices  its words, or `bounds` (lowest, highest) of a number
    read     condition on the Config under which a run reads it
    unread   what the identity holds where nothing reads it: a value, a function of the
             Config, or nothing at all. A value where committed records have one
    known_by what of a value the identity holds: a function of it; else all of it
    stage    the first stage of a run that it changes: "start" (task 0's classifier),
             "memory" (what is fitted or trained to stand for a task's classes),
             "later" (the classifier from task 1 on), "later memory", "stream" and
             "steps" (which the stages count themselves), "result" (predictions), or
             "nothing", if no result depends on it
    """
    about = dict(choices=choices, bounds=bounds, read=read, unread=unread)
    about |= dict(known_by=known_by, stage=stage)
    return dataclasses.field(default=default, metadata=about)


def from_text(name: str, text: str, default):
    """A setting's value from text, as a command line has it; `default` tells its type.

    Counts are written 25,25,25,25 or [25, 25, 25, 25]. Raises UserError for text that
    is no such value.
    """
    try:
        if isinstance(default, tuple):
            return _counts(text)
        return values.from_text(text, (type(default),))
    except ValueError as problem:
        kind = "counts such as 25,25,25,25" if default == () else str(problem)
        kind += " or 'features'" if name == "cut" else ""
        raise UserError(f"'--{name}' takes {kind}, not '{text}'.") from None


def _counts(text: str) -> tuple[int, ...]:
    """One count, or several with commas, bare or in brackets of one kind."""
    text = text.strip()
    bare = text[:1] + text[-1:] not in ("[]", "()")
    inside = text if bare else text[1:-1].strip()
    if not inside and not bare:
        return ()
    return tuple(values.number(part.strip(), int) for part in inside.split(","))


def typed(name: str, value, default):
    """The value in its field's type, or a UserError. An int serves as a float."""
    if isinstance(default, tuple):
        listed = isinstance(value, (list, tuple))
        if not listed or not all(type(v) is int for v in value):
            raise UserError(
                "'split' is a list of class counts such as [25, 25, 25, 25], not "
                f"{values.shown(value)}."
            )
        return tuple(value)
    try:
        return values.typed(value, (type(default),))
    except ValueError:
        kind = values.wanted((type(default),))
        also = ", or 'features'" if name == "cut" else ""
        example = f" (such as {default!r}{also})" if default != "" else ""
        raise UserError(
            f"'{name}' must be {kind}{example}, not {values.shown(value)}."
        ) from None


def check(name: str, value, words: tuple, about: Mapping) -> None:
    """Raises UserError for a value that is none of the words, or out of bounds."""
    if words and value not in words:
        listed = ", ".join(words)
        raise UserError(f"'{name}' must be one of {listed}, not '{value}'.")
    if isinstance(value, tuple):
        _check_counts(name, value, *about["bounds"])
    elif about["bounds"]:
        low, high = about["bounds"]
        if not low <= value <= high:
            raise UserError(_out_of_bounds(name, value, low, high))


def _check_counts(name: str, counts: tuple, low: int, high: int) -> None:
    if len(counts) > MOST_TASKS:
        raise UserError(
            f"'{name}' must have at most {MOST_TASKS} tasks, not {len(counts)}."
        )
    for count in counts:
        if not low <= count <= high:
            raise UserError(
                f"'{name}' is a list of class counts from {low} to {high}, and "
                f"{values.shown(count)} is none."
            )


def _out_of_bounds(name: str, value, low, high) -> str:
    shown = values.shown(value)
    if name == "cut":
        return f"'cut' counts stages, 0 to {high} (or 'features'), not {shown}."
    if (low, high) == FRACTION:
        return (
            f"'{name}' is a share of the training images from 0 to {high}, not {shown}."
        )
    if isinstance(value, int):
        if value < low == 0:
            return f"'{name}' must not be negative, and is {shown}."
        where = f"at least {low}" if value < low else f"at most {high}"
        return f"'{name}' must be {where}, not {shown}."
    if low > 0:
        return f"'{name}' must be a number above 0 (1e-30 to 1e30), not {shown}."
    return (
        f"'{name}' must not be negative, infinite or NaN (nor above 1e30), and is "
        f"{shown}."
    )
