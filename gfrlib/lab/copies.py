"""Copies of one image in a folder: what is tested must not have been trained on.

Files are compared byte by byte, by their checksums. What was scaled or saved anew is
another file, and is not found.
"""

import hashlib
from collections import defaultdict
from pathlib import Path

from gfrlib.engine import values

Files = list[tuple[Path, int]]  # images with their labels
MOST = 200_000  # files that are compared; all of ImageNet would be read once more


def lines(files: dict[str, Files]) -> list[str]:
    """A line for the reader on images that are in both parts, and one on those that are
    in two classes; [] where there are none, and of more files than MOST.

    files: {"train": ..., "test": ...}, as a Survey holds them.
    """
    if sum(map(len, files.values())) > MOST:
        return []
    same = _groups(files)
    both = [g for g in same if len({part for part, *_ in g}) > 1]
    tested = [file for group in both for part, _, file in group if part == "test"]
    mixed = [g for g in same if len({label for _, label, _ in g}) > 1]
    said = []
    if tested:
        train = next(file for part, _, file in both[0] if part == "train")
        said.append(
            "images for testing that are copies of images for training, so that they "
            f"are known too well: {len(tested)} ({_pair(train, tested[0])})"
        )
    if mixed:
        first = mixed[0][0]
        other = next(file for _, label, file in mixed[0] if label != first[1])
        count = sum(map(len, mixed))
        said.append(
            f"images that have a copy in another class: {count} "
            f"({_pair(first[2], other)})"
        )
    return said


def _pair(one: Path, other: Path) -> str:
    names = (values.line(f"{p.parent.name}/{p.name}") for p in (one, other))
    return " and ".join(names)


def _groups(files: dict[str, Files]) -> list[list[tuple[str, int, Path]]]:
    """Files of equal content, two or more each, as (part, label, file)."""
    by_size = defaultdict(list)
    for part, listed in files.items():
        for file, label in listed:
            try:
                by_size[file.stat().st_size].append((part, label, file))
            except OSError:
                continue  # told when it is read
    found = []
    for size, some in by_size.items():
        if len(some) < 2 or not size:
            continue
        equal = defaultdict(list)
        for entry in some:
            equal[_checksum(entry[2])].append(entry)
        found += [group for key, group in equal.items() if key and len(group) > 1]
    return found


def _checksum(file: Path) -> str:
    """ "" for one that cannot be read."""
    try:
        with file.open("rb") as data:
            return hashlib.file_digest(data, "blake2b").hexdigest()
    except OSError:
        return ""
