"""Claims as lists of entries: how an entry is written, and read.

An entry has two lines: the claim, and below it, indented, its kind (`claims.KINDS`),
the two sides that are compared and, where they are not the whole list's, the splits:

    "row"              the accuracy of a row's runs after the last task
    "row: quantity"    another quantity of them (`claims.QUANTITIES`)
    "row - other @ s"  the row's lead over another one, on split s
"""

import re

from gfrlib.book.claims import Claim, Side

FOUR = ("4 × 25",)  # splits of the 100 classes; the others begin with half of them
TASKS = ("5 tasks", "10 tasks", "25 tasks")


def read(entries: str, printed: dict | None = None, **about) -> list[Claim]:
    """The claims of a list of entries; `about` are fields that all of them share.

    printed: {claim's two sides: the numbers that the paper prints for them}. Raises
    ValueError for an entry that has not the two lines.
    """
    lines = [line for line in entries.splitlines() if line.strip()]
    found = []
    for text, decided in zip(lines[::2], lines[1::2], strict=True):
        if text[0] == " " or decided[0] != " ":
            raise ValueError(f"not the two lines of a claim: '{text}', '{decided}'")
        kind, first, second, *splits = (w.strip() for w in decided.split("|"))
        own = {"splits": tuple(splits[0].split(", "))} if splits else {}
        numbers = (printed or {}).get((first, second), ())
        sides = side(first), side(second)
        found.append(
            Claim(text, kind, *sides, printed=tuple(numbers), **{**about, **own})
        )
    return found


def side(words: str) -> Side:
    """What is written for one side, as a Side."""
    words, _, split = words.partition(" @ ")
    words, _, quantity = words.partition(": ")
    row, *minus = re.split(" - ", words)
    return Side(row, quantity or "last", *minus, split=split)
