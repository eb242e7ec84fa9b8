"""Parts of the GPU quarter of an hour: bash grids/gpu.sh PART; its help tells which."""

import argparse
import itertools
import os
import sys
from pathlib import Path

from benchmarks.gpu import parts, pieces, rehearsal, state, table
from gfrlib.config import UserError
from gfrlib.engine.store import root

HELP = """\
on the machine with the GPU:
  all               checks, timings and as many rows as 15 minutes hold
  check             checks and timings alone (5 minutes at most; no data needed)
  data              bring CIFAR-100 alone
  train             the rows alone (9 minutes); again: goes on
  table             print the table once more

for a machine without network:
  pieces FOLDER     here: mosaics of CIFAR-100 -> data/carry/1, data/carry/2, ...
  collect FOLDER    here: what came back -> data/records, and data/carry/back

without a GPU:
  dry FOLDER        all of it on the CPU with a cut schedule, in a copied tree
"""
MINUTES = {"all": 15.0, "check": 5.0, "data": 9.0, "train": 9.0}
# of a lease of 15 minutes, which starts and moves files, too
LEASED = {"check": 3.5, "train": 8.0}


def main(words: list[str] | None = None) -> int:
    """Exit code: 0, 1 where a check failed, 2 after bad input."""
    parser = argparse.ArgumentParser(
        prog="bash grids/gpu.sh",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = (*MINUTES, "table", "pieces", "collect", "dry")
    parser.add_argument("part", choices=names, metavar="PART")
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--minutes", type=float, help="of this call, at most")
    parser.add_argument("--dry", action="store_true", help="a cut schedule, on a CPU")
    options = parser.parse_args(words)
    try:
        return _act(options)
    except UserError as problem:
        print(f"gpu.sh: {problem}", file=sys.stderr)
        return 2


def _act(options) -> int:
    if options.part in MINUTES:
        return _measured(options)
    if options.part == "table":
        print(table.text(state.load()))
        return 0
    if options.folder is None or not options.folder.exists():
        raise UserError(f"'{options.part}' needs a folder that exists; see --help.")
    if options.part == "pieces":
        return _pieces(options.folder)
    if options.part == "collect":
        names = state.collect(options.folder, pieces.folder() / "back")
        print("\n".join(["in data/records now:", *names]))
        return 0
    return rehearsal.run(options.folder)


def _pieces(source: Path) -> int:
    tree = pieces.tree_bytes()
    limit = pieces.CARRIED - pieces.MARGIN - tree
    made = pieces.make(source, limit)
    print(f"The working tree is {tree / 2**20:.1f} MiB. One call for each piece:")
    first, last = (f"bash grids/gpu.sh {p} --minutes {m:g}" for p, m in LEASED.items())
    calls = [first, *["true"] * (len(made) - 2), last]
    for place, command in itertools.zip_longest(made, calls):
        carried = "carry nothing"
        if place:
            size = sum(f.stat().st_size for f in place.rglob("*") if f.is_file())
            carried = f"carry {place.relative_to(root())} ({size / 2**20:.1f} MiB)"
        print(f"  {carried}, command: {command}")
    return 0


def _measured(options) -> int:
    minutes = MINUTES[options.part] if options.minutes is None else options.minutes
    if not minutes > 0:
        raise UserError(f"--minutes takes a number above 0, not {minutes:g}.")
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    state.out().mkdir(parents=True, exist_ok=True)
    if not options.dry:
        _require_gpu()
    part = parts.Part(minutes, options.dry)
    with part.reported():
        if options.part in ("all", "check"):
            parts.check(part)
        if options.part == "data":
            parts.bring_data(part)
        if options.part in ("all", "train"):
            parts.train(part)
    return 1 if parts.failed(part.found) else 0


def _require_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise UserError("There is no GPU here; `dry FOLDER` rehearses without one.")


if __name__ == "__main__":
    sys.exit(main())
