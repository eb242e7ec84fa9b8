"""Print how much of the chapters' code is hidden: python tests/hidden_share.py
[FILE...]

A line counts as hidden where its cell's code is folded or left out of the page. The
folded checks of exercises (hide-cell) are counted apart.
"""

import json
import sys
from pathlib import Path

HIDDEN = {"hide-input", "remove-input", "remove-cell"}
BOOK = Path(__file__).resolve().parents[1] / "book"


def lines_of(chapter: Path) -> tuple[int, int, int]:
    """(lines of code, of them hidden, of them in folded solutions) of a notebook."""
    total = hidden = solutions = 0
    for cell in json.loads(chapter.read_text())["cells"]:
        if cell["cell_type"] == "code":
            count = len("".join(cell["source"]).splitlines())
            tags = set(cell["metadata"].get("tags", []))
            total += count
            hidden += count if tags & HIDDEN else 0
            solutions += count if "hide-cell" in tags else 0
    return total, hidden, solutions


def main(names: list[str]) -> None:
    """A line a chapter, and their sum."""
    chapters = [Path(name) for name in names] or sorted(BOOK.glob("*.ipynb"))
    counts = [(chapter.stem, *lines_of(chapter)) for chapter in chapters]
    sums = [sum(column) for column in list(zip(*counts))[1:]]
    print(f"{'':<16} lines hidden  share   with solutions")
    for name, total, hidden, solutions in [*counts, ("all", *sums)]:
        both = (hidden + solutions) / total
        print(f"{name:<16} {total:5} {hidden:6} {hidden / total:6.0%} {both:10.0%}")


if __name__ == "__main__":
    main(sys.argv[1:])
