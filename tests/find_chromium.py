"""Print the path of a Chromium (or Chrome); exit 1 where there is none.

The variable CHROMIUM names one.
"""

import os
import shutil
import sys
from pathlib import Path

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
)
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)


def find() -> str | None:
    """The path, or None; where CHROMIUM names none that is there, SystemExit."""
    named = os.environ.get("CHROMIUM")
    if named and not Path(named).is_file():
        raise SystemExit(f"CHROMIUM is '{named}', and no such file is there.")
    return next(
        (
            path
            for path in (named, *map(shutil.which, NAMES), *PLACES)
            if path and Path(path).is_file()
        ),
        None,
    )


if __name__ == "__main__":
    print(find() or sys.exit(1))
