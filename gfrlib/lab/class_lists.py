"""Which classes of a folder are taken: a known list, a number, names, or a file."""

import contextlib
import unicodedata
from pathlib import Path

from gfrlib.config import UserError
from gfrlib.engine import values
from gfrlib.engine.values import counted
from gfrlib.tasks import class_order

SUBSET = 100  # classes of ImageNet-Subset
SUBSETS = ("lucir", "gfr")  # its two lists


def choose(names: list[str], which: str) -> list[str]:
    """Those of a folder's sorted class names that `which` means, sorted.

    `which` is `lucir` or `gfr`, the 100 classes of ImageNet-Subset (see `subset`); a
    number, the first so many of the seed-1993 shuffle, the class order `lucir`; names,
    separated by commas; or a file with one class a line: its name, and after a tab
    whatever you like. Lines that begin with # are comments.

    Raises UserError for anything else, and for a class that is not among `names`.
    """
    if which in SUBSETS:
        return subset(names, which)
    with contextlib.suppress(ValueError):
        return _first(names, values.number(which, int))
    wanted = _listed(which)
    lacking = sorted(set(wanted) - set(names))
    if lacking:
        raise UserError(
            f"The class '{lacking[0]}' of the list '{which}' is not among the "
            f"{len(names)} class folders; complete the folder or correct the list."
        )
    return sorted(set(wanted))


def subset(names: list[str], which: str) -> list[str]:
    """The 100 of ImageNet's sorted class names that ImageNet-Subset holds.

    9 classes are in both. A third list that is in use, the first 100 in alphabetical
    order (BiC, PODNet), has no name here.

    lucir  the first 100 of the seed-1993 shuffle (LUCIR's code)
    gfr    the first 100 of its inverse (the official code of feature replay)
    """
    if len(names) < SUBSET:
        raise UserError(
            f"A list of {SUBSET} classes cannot be chosen from "
            f"{counted(len(names), 'class folder')}; leave --classes out, or give a "
            "number or a file of names."
        )
    return sorted(names[i] for i in class_order(which, len(names))[:SUBSET])


def arrival(names: list[str], which: str) -> list[int]:
    """Positions within `choose(names, which)`, in the official code's order of arrival.

    Only the list `gfr` has an order of its own, that of the 1,000 classes; [] for all
    others, LUCIR's among them, whose code shuffles the 100 anew.
    """
    if which != "gfr":
        return []
    place = {name: k for k, name in enumerate(subset(names, which))}
    return [place[names[i]] for i in class_order(which, len(names))[:SUBSET]]


def _first(names: list[str], count: int) -> list[str]:
    if not 2 <= count <= len(names):
        raise UserError(
            f"{counted(count, 'class', 'classes')} cannot be chosen from "
            f"{counted(len(names), 'class folder')}; give a number from 2 to "
            f"{len(names)}."
        )
    return sorted(names[i] for i in class_order("lucir", len(names))[:count])


def _listed(which: str) -> list[str]:
    """The names of a file, or those written out. Raises UserError."""
    path = _file(which)
    if path:
        found = [line.split("\t")[0].strip() for line in lines(path)]
        found = [name for name in found if name and not name.startswith("#")]
    elif "," in which:
        found = [name.strip() for name in which.split(",") if name.strip()]
    else:
        raise UserError(
            f"There is no list of classes '{which}'; give a file with one class a "
            "line, a number, names separated by commas, or lucir or gfr for "
            "ImageNet-Subset."
        )
    if len(set(found)) < 2:
        raise UserError(
            f"The list of classes '{which}' names {len(set(found))} of them; "
            "class-incremental learning needs at least two."
        )
    return [unicodedata.normalize("NFC", name) for name in found]


def _file(which: str) -> Path | None:
    """The file of that name; None where there is none, or none can be: a list of names
    may be longer than names of files are, or begin with a ~.
    """
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        path = Path(which).expanduser()
        return path if path.is_file() else None


def lines(file: Path) -> list[str]:
    """Of a text file that lists classes: UTF-8, as the folders' names.

    What Windows' editor puts in front is no part of the first line. Raises UserError.
    """
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as problem:
        raise UserError(
            f"The list of classes '{file}' cannot be read; give a text file (UTF-8) "
            "with one class a line."
        ) from problem
