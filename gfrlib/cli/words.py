"""Words of the command line: numbers with bounds, and one way to end badly."""

import argparse
import difflib
import errno
import itertools
import os
import re
import sys
from collections.abc import Callable

from gfrlib.config import UserError
from gfrlib.engine import values

MOST_JOBS = 1024
_APPENDS = (argparse._AppendAction, argparse._ExtendAction)
INTERRUPTED = "stopped; the same command goes on from the last checkpoint."


class Parser(argparse.ArgumentParser):
    """Errors become UserError, so that all bad input is answered in one way."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        # argparse takes -1e-3 and -inf for options, and then misses a value
        self._negative_number_matcher = re.compile(
            r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$|-inf(inity)?$|-nan$", re.IGNORECASE
        )

    def error(self, message: str):
        raise UserError(f"{message[:1].upper()}{message[1:]}; see {self.prog} --help.")

    def parse_known_args(self, args=None, namespace=None):
        """What is left over is told by the command that it was given to, whose --help
        tells what it takes; argparse leaves that to the program.
        """
        self._check_twice(args if args is not None else sys.argv[1:])
        found, left = super().parse_known_args(args, namespace)
        if left:
            word, known = left[0].partition("=")[0], self._option_string_actions
            near = difflib.get_close_matches(word, known, 1, 0.8)
            meant = f" (did you mean {near[0]}?)" if near else ""
            if os.path.exists(left[0]):  # a name with a hyphen in front
                meant = f" (the path {left[0]} is written ./{left[0]})"
            self.error(f"unrecognized arguments: {' '.join(left)}{meant}")
        return found, left

    def _check_twice(self, arguments) -> None:
        """An option with one value is given once: else the last wins, unsaid."""
        known = self._option_string_actions
        seen: set = set()
        for word in itertools.takewhile(lambda word: word != "--", arguments):
            action = known.get(str(word).partition("=")[0])
            if action is None or action.nargs == 0 or isinstance(action, _APPENDS):
                continue
            if action in seen:
                name = str(word).partition("=")[0]
                self.error(f"{name} is given twice; leave one of them out")
            seen.add(action)


def interrupted(arguments: list[str], *, packing: bool = False) -> str:
    """What Ctrl-C leaves behind, in words: some commands have checkpoints. packing:
    whether large images were being packed, which goes on, too.
    """
    command, *others = arguments or [""]
    resumed = command in ("run", "grid") or arguments[:2] == ["book", "run"]
    resumed = (resumed and "--dry-run" not in others) or packing
    return INTERRUPTED if resumed else "stopped."


def whole(low: int, high: int) -> Callable[[str], int]:
    """The type of an option: a whole number in decimal digits, within the bounds."""

    def read(text: str) -> int:
        try:
            value = values.number(text, int)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"takes a whole number from {low} to {high}, not '{text}'"
            )
        return value

    return read


def parts(text: str) -> tuple[str, ...]:
    """The type of an option: words between commas, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def prepare_streams() -> None:
    """What a terminal's encoding lacks is written as an escape, and ends no command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """All that was printed is through. Raises UserError where the output is full."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as problem:
        drop_output()
        raise UserError(
            f"What was printed could not be written ({problem.strerror})."
        ) from None


def drop_output() -> None:
    """Nobody reads on (`| head`), or nothing can be written: Python's own last flush
    must not complain again.
    """
    try:
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, sys.stdout.fileno())
        os.close(handle)
    except (OSError, ValueError):  # no real file, as in a test
        pass


def sentence(problem: BaseException) -> str:
    """What an error that nobody foresaw says of the machine, as a sentence."""
    if isinstance(problem, MemoryError):
        return (
            "There is not enough memory for this; make the numbers smaller (data: "
            "--size packs on disk, --classes takes fewer)."
        )
    reason = problem.strerror or problem
    if problem.errno in (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE):
        return (
            f"The system has no more of what this needs ({reason}); end other "
            "programs, or do less at once (--jobs, --workers)."
        )
    if not getattr(problem, "filename", None):
        return f"What was printed or sent could not be written or read ({reason})."
    return f"'{problem.filename}' cannot be used ({reason})."
