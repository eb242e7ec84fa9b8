"""What a reader's own running notebook has, and the site has not.

Where training stands is a line below the cell. A label of the book leads nowhere in one
notebook, so that text which is a link on the site is plain there.
"""

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
    return Line(what) if running() else None


def running() -> bool:
    """Whether a notebook asks that is not run to make the book."""
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and not os.environ.get(QUIET)


def link(text: str, label: str) -> str:
    """Markdown for `text` that leads to a label of the book, or the text alone."""
    return text if running() else f"[{text}](#{label})"


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
