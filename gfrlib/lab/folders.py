"""A folder of images -> arrays of one size, with the names of the classes."""

import contextlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gfrlib.config import UserError
from gfrlib.engine import values
from gfrlib.lab import copies, decoding, surveys


@dataclass
class Folder:
    """The arrays of both parts, the classes' names by label, and an account.

    Its lines say what was used for what, what was changed, and what was left out.
    """

    arrays: dict[str, np.ndarray]
    class_names: list[str]
    account: list[str]


def read_folder(
    path: Path, classes: str = "", rules: decoding.Rules | None = None
) -> Folder:
    """All images that surveys.survey finds, brought to the size of the first one.

    The shorter side is scaled and the centre kept, `rules.side` at most; exactly that
    with `rules.exact`. Raises UserError, also for a file that is no image; it names the
    first ones of these.
    """
    rules = rules or decoding.Rules()
    found = surveys.survey(path, classes)
    arrays, changed = {}, Counter()
    with decoding.guarded(rules):
        first = _side_of(found.files["train"][0][0], rules)
        side = min(first, rules.side)
        others = _other_sides(found, first, rules)
        for part, listed in found.files.items():
            images = _decode_all([file for file, _ in listed], side, rules, changed)
            labels = [label for _, label in listed]
            arrays[f"{part}_images"] = images
            arrays[f"{part}_labels"] = np.array(labels, dtype=np.int64)
    return Folder(arrays, found.names, account(found, changed) + others)


def account(found: surveys.Survey, changed: dict[int, int]) -> list[str]:
    """Lines for the reader; `changed` counts images by decoding.CHANGES' keys."""
    name = values.line(found.path.absolute().name)
    lines = [f"'{name}': {found.use}"]
    for key, what in decoding.CHANGES.items():
        if changed.get(key):
            lines.append(f"images {what}: {changed[key]}")
    lines += _together(found) + copies.lines(found.files)
    return lines + found.left_out.lines()


def _together(found: surveys.Survey) -> list[str]:
    """A line on classes whose images all lie in several folders of theirs: these may
    have been meant as classes. [] where there are none.
    """
    folders: dict[int, set[Path]] = {}
    for file, label in found.files["train"]:
        folders.setdefault(label, set()).add(file.parent)
    several = [k for k, some in folders.items() if _several(some)]
    if not several:
        return []
    first = several[0]
    inside = surveys.named(sorted(place.name for place in folders[first]))
    others = values.counted(len(several) - 1, "other class", "other classes")
    also = f", and so {others}" if len(several) > 1 else ""
    return [
        f"the class '{values.line(found.names[first])}' is made of folders in it: "
        f"{inside}{also}; if these are classes, move them up"
    ]


def _several(folders: set[Path]) -> bool:
    """Whether there are two or more, and none that holds all others."""
    return len(folders) > 1 and Path(os.path.commonpath(folders)) not in folders


def _side_of(file: Path, rules: decoding.Rules) -> int:
    if rules.exact:
        return rules.side
    try:
        return decoding.shorter_side(file, rules)
    except decoding.Unreadable as problem:
        raise _unreadable([(file, str(problem))]) from problem


def _other_sides(found: surveys.Survey, first: int, rules: decoding.Rules) -> list[str]:
    """A line on how many images are larger or smaller than the size of all, that of the
    first or the most; [] where all are as large, or the size is given.
    """
    if rules.exact:
        return []
    side = min(first, rules.side)

    def of(file: Path) -> int:
        with contextlib.suppress(decoding.Unreadable):  # named when it is decoded
            return decoding.shorter_side(file, rules)
        return side

    files = [file for listed in found.files.values() for file, _ in listed]
    with ThreadPoolExecutor() as pool:
        sides = list(pool.map(of, files))
    larger = sum(other > side for other in sides)
    smaller = sum(other < side for other in sides)
    if not larger + smaller:
        return []
    why = "the size of the first" if first == side else "the most without a given size"
    return [
        f"all images are brought to {side} x {side}, {why}: {larger} are larger, "
        f"{smaller} smaller (python -m gfrlib data NAME PATH --size N sets another)"
    ]


def _decode_all(
    files: list[Path], side: int, rules: decoding.Rules, changed: Counter
) -> np.ndarray:
    """uint8 [N, side, side, 3]; `changed` counts what was done to them."""
    images = np.empty((len(files), side, side, 3), np.uint8)
    faults = []

    def decode(k: int) -> int:
        try:
            images[k], changes = decoding.decode(files[k], side, rules)
            return changes
        except decoding.Unreadable as problem:
            faults.append((files[k], str(problem)))
            return 0

    with ThreadPoolExecutor() as pool:
        done = list(pool.map(decode, range(len(files))))
    if faults:
        raise _unreadable(sorted(faults))
    for key in decoding.CHANGES:
        changed[key] += sum(bool(changes & key) for changes in done)
    return images


def _unreadable(faults: list[tuple[Path, str]]) -> UserError:
    file, why = faults[0]
    more = [place.name for place, _ in faults[1:]]
    verb = "nor is" if len(more) == 1 else "nor are"
    others = f", {verb} {surveys.named(more)}" if more else ""
    return UserError(
        f"'{values.line(str(file))}' is no readable image "
        f"({values.line(why)}){others}; repair or remove what is named."
    )
