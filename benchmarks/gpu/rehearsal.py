"""The whole way on a CPU: a copied tree plays the machine with the GPU.

Only what git knows or would add travels, as on a lent machine, and one piece of the
data a call. The schedule is cut; checks that need a GPU are left out.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.gpu import pieces, state
from gfrlib.config import UserError
from gfrlib.engine.store import root

MINUTES = "12"  # that a call may take, on a processor that others use


def run(mosaics: Path) -> int:
    """Returns the exit code; prints what each step took."""
    began = time.monotonic()
    limit = pieces.CARRIED - pieces.MARGIN - pieces.tree_bytes()
    made = pieces.make(mosaics, limit)
    took = {"pieces": time.monotonic() - began}
    with tempfile.TemporaryDirectory(prefix="gpu-rehearsal-") as place:
        there = Machine(Path(place) / "first")
        took["check"] = there.call("check", carry=made[:1])
        for piece in made[1:-1]:
            there.carry([piece])
        took["data"] = there.call("data", carry=made[-1:])
        took["train, stopped"] = there.call("train", until=under_way)
        took["train, gone on"] = there.call("train")
        with brought_back(there.out / state.ARCHIVE) as back:
            fresh = Machine(Path(place) / "second")
            took["train, on a fresh machine"] = fresh.call("train", carry=[back])
        judge(there.found(), fresh.found())
    for what, seconds in took.items():
        print(f"{what:<30}{seconds:>7.0f} s")
    print(f"{'the whole rehearsal':<30}{time.monotonic() - began:>7.0f} s")
    return 0


@contextlib.contextmanager
def brought_back(archive: Path) -> Iterator[Path]:
    """The folder of what comes back, with this archive alone; what a real session has
    left there is set aside, and stands there again afterwards.
    """
    back = pieces.folder() / "back"
    aside = back.with_name("back-of-before")
    if back.exists():
        if aside.exists():
            raise UserError(
                f"'{aside}' is what a rehearsal that was killed had set aside; move it "
                f"to '{back}', or away."
            )
        back.rename(aside)
    try:
        back.mkdir(parents=True)
        shutil.copyfile(archive, back / state.ARCHIVE)
        yield back
    finally:
        shutil.rmtree(back, ignore_errors=True)
        if aside.exists():
            aside.rename(back)


def under_way(found: dict) -> bool:
    """Whether the first row has begun to train."""
    return bool(found["rows"])


def judge(first: dict, second: dict) -> None:
    """Raises UserError where the rehearsal did not end as it must."""
    left = [name for name in state.PLANNED if not state.is_done(first, name)]
    bad = [name for name, row in first["checks"].items() if row["passed"] is False]
    resumed = any(text.startswith("resuming stage") for text in first["said"])
    problems = {
        f"rows that are not recorded: {', '.join(left)}": left,
        f"checks that failed: {', '.join(bad)}": bad,
        "no stage was resumed": not resumed,
        "the fresh machine knows other rows": first["rows"] != second["rows"],
    }
    told = [text for text, wrong in problems.items() if wrong]
    if told:
        raise UserError(f"The rehearsal failed: {'; '.join(told)}.")


class Machine:
    """A folder with a copy of the working tree, and what calls leave in it."""

    def __init__(self, place: Path):
        self.place, self.out = place, place.with_name(f"{place.name}-out")
        words = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
        listed = subprocess.run(words, cwd=root(), check=True, capture_output=True)
        for name in listed.stdout.decode().split("\0"):
            if name and (root() / name).is_file():
                target = place / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root() / name, target)

    def carry(self, paths: list[Path]) -> None:
        """Bring ignored paths along; they replace those there."""
        for path in paths:
            target = self.place / path.relative_to(root())
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(path, target)

    def call(
        self, part: str, *, carry: tuple | list = (), until: Callable | None = None
    ) -> float:
        """`bash grids/gpu.sh PART` there; returns its seconds.

        SIGTERM comes as soon as `until` is true of its findings.
        """
        self.carry(list(carry))
        shutil.rmtree(self.out, ignore_errors=True)  # empty before each call
        self.out.mkdir()
        words = ["bash", "grids/gpu.sh", part, "--dry", "--minutes", MINUTES]
        print(f"--- {' '.join(words)}", flush=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GFR_")}
        changed = {"OUT": str(self.out), "GPU_PYTHON": sys.executable}
        changed["CUDA_VISIBLE_DEVICES"] = ""
        began = time.monotonic()
        process = subprocess.Popen(words, cwd=self.place, env={**kept, **changed})
        while process.poll() is None:
            time.sleep(0.2)
            if until and until(self._findings()):
                process.terminate()
                until = None
        if process.returncode:
            raise UserError(
                f"The part '{part}' ended with code {process.returncode}: its own "
                "words above say why; mend that and start the rehearsal again."
            )
        return time.monotonic() - began

    def _findings(self) -> dict:
        """Those on the machine, so far."""
        place = self.place / state.home().relative_to(root()) / "state.json"
        return (
            json.loads(place.read_text(encoding="utf-8"))
            if place.exists()
            else state.empty()
        )

    def found(self) -> dict:
        """Its findings, as they came back."""
        with tarfile.open(self.out / state.ARCHIVE) as tar:
            return json.load(tar.extractfile("state.json"))
