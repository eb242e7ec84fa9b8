"""Where training stands, as a line below the cell of a running notebook."""

import os
import time
from collections.abc import Callable

from IPython import get_ipython
from IPython.display import display

# Set where the book itself is made: its pages show results, and no work in progress.
QUIET = "GFR_QUIET"
OFTEN = 1.0  # seconds between two changes of the line


def report(what: str) -> Callable | None:
    """For `report=` of run_or_load: a line that names `what` is trained, and is empty
    once it is. None outside of a notebook, where a terminal may have a bar, and where
    the book is made. A run that is loaded reports nothing, and shows none.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    return Line(what) if kernel is not None and not os.environ.get(QUIET) else None


class Line:
    """It hears of progress as training.run tells it."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic):
        self.what, self.clock, self.handle = what, clock, None
        self.shown = 0.0

    def __call__(self, t: int, phase: str, step: int, total: int, losses: dict) -> None:
        now = self.clock()
        if self.handle is not None and now - self.shown < OFTEN:
            return
        self.shown = now
        self.show(f"{self.what}: task {t}, {phase}, step {step} of {total} …")

    def show(self, text: str) -> None:
        data = {"text/plain": text}
        if self.handle is None:
            self.handle = display(data, raw=True, display_id=True)
        else:
            self.handle.update(data, raw=True)

    def close(self) -> None:
        """Empty the line."""
        if self.handle is not None:
            self.show("")
