"""The parts: each lets processes of its own work until its time is over.

Whatever ends a part (its time, SIGTERM, a failure), the findings are kept and the table
is printed. This process computes nothing itself but the packing of CIFAR-100.
"""

import collections
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from benchmarks.gpu import pieces, state, table
from benchmarks.gpu.state import MODES, PLANNED
from benchmarks.gpu.work import STOPPED
from gfrlib.config import UserError
from gfrlib.engine.store import root

# seconds that each may take; `compiled` compiles three kinds of pass
CHECKS, TIMING = 60.0, {"eager": 50.0, "compiled": 130.0, "graphs": 80.0}
PATIENCE = 4  # times as long in a rehearsal, on a processor that others use
GRACE, HURRY = 25.0, 8.0  # for a checkpoint at the end; after SIGTERM
PACKED = "cifar100"
WORKER = ("-m", "benchmarks.gpu.work")


class Ended(Exception):
    """The part was told to end."""


class Part:
    """One call of the script: its findings, its clock."""

    def __init__(self, minutes: float, dry: bool):
        state.restore(pieces.folder() / "back" / state.ARCHIVE)
        self.found = state.load()
        self.until = time.monotonic() + 60 * minutes
        self.dry, self.grace = dry, min(GRACE, 6 * minutes)
        if self.found["dry"] != dry and (self.found["checks"] or self.found["rows"]):
            if self.found["dry"]:
                raise UserError(
                    f"'{state.home()}' holds findings of a rehearsal; remove it first."
                )
            raise UserError(
                f"'{state.home()}' holds findings of a GPU; bring them home (bash "
                f"grids/gpu.sh collect {state.out()}), or move the folder away."
            )
        self.found["dry"] = dry
        self.process: subprocess.Popen | None = None
        self.why = ""

    @contextlib.contextmanager
    def reported(self) -> Iterator[None]:
        """Whatever happens inside, the table comes last, and the archive is written."""
        before = signal.signal(signal.SIGTERM, self._told_to_end)
        try:
            yield
        except Ended:
            self.why = "told to end (SIGTERM)"
        except KeyboardInterrupt:
            self.why = "interrupted"
        except UserError as problem:
            self.why = str(problem)
            raise
        except Exception as problem:
            self.why = f"{type(problem).__name__}: {problem}"
            raise
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self._end_process(HURRY)
            said = table.text(self.found, self.why)
            print("\n" + said, flush=True)
            self._keep(said)
            signal.signal(signal.SIGTERM, before)

    def _told_to_end(self, *_) -> None:
        raise Ended

    def _keep(self, said: str) -> None:
        state.save(self.found)
        state.archive(self.found, said)

    def left(self) -> float:
        """Seconds until the work must stop, the time for a checkpoint kept back."""
        return self.until - time.monotonic() - self.grace

    def work(self, *words: str, seconds: float, mode: str = "eager") -> int | None:
        """The exit code of a process that works, STOPPED where its time was over; None
        where something else killed it.
        """
        if self.dry:
            words = (*words, "--dry")
        if seconds <= 0:
            return STOPPED
        with open(state.out() / "gpu-log.txt", "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, *WORKER, *words],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=root(),
                env=environment(mode, self.dry),
            )
            late = self._listen(time.monotonic() + seconds)
        code = self.process.wait()
        self.process = None
        if code < 0:  # by a signal, ours or another's
            return STOPPED if late else None
        return code

    def _listen(self, until: float) -> bool:
        """Take up each finding as it comes; at `until`, and again later, end it.

        Returns whether it came to that.
        """
        lines: queue.Queue = queue.Queue()
        process = self.process

        def read() -> None:
            for line in process.stdout:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        ending = collections.deque([(until, process.terminate)])
        ending.append((until + self.grace, process.kill))
        while True:
            try:
                line = lines.get(timeout=0.2)
            except queue.Empty:
                line = ""
            if line is None:
                return len(ending) < 2
            if line.startswith("{"):
                self.take(json.loads(line))
            if ending and time.monotonic() > ending[0][0]:
                ending.popleft()[1]()

    def take(self, event: dict) -> None:
        """Note a finding, show it, and keep what has been found so far."""
        kind = event["event"]
        said = state.note(self.found, event)
        if said and kind != "at":
            print(said, flush=True)
        if kind in ("check", "timing", "tested", "row"):
            self._keep(table.text(self.found, "still under way"))
        else:
            state.save(self.found)

    def _end_process(self, seconds: float) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def environment(mode: str, dry: bool) -> dict[str, str]:
    """Of the working process: its caches survive the call."""
    kept = state.home()
    fixed = {
        "GFR_CACHE": str(kept),
        "PYTHONPATH": str(root()),
        "TORCHINDUCTOR_CACHE_DIR": str(kept / "inductor"),
        "TRITON_CACHE_DIR": str(kept / "triton"),
        **dict(MODES[mode].environment),
    }
    # the host prepares launches; more threads than these wait for each other
    threads = "1" if dry else str(min(8, os.cpu_count() or 1))
    return {"OMP_NUM_THREADS": threads, **os.environ, **fixed}


def bring_data(part: Part) -> None:
    """CIFAR-100 packed: as it lies here, from the pieces, or by the usual download.

    Raises UserError where a piece is missing, or nothing can be fetched.
    """
    from gfrlib.lab import datasets

    if (datasets.folder() / PACKED / "meta.json").exists():
        return
    absent = pieces.missing()
    began = time.monotonic()
    if absent is None:
        datasets.packed(PACKED)
    elif absent:
        raise UserError(pieces.told_missing(absent))
    else:
        pieces.put_together(PACKED)
    took = f"CIFAR-100 was packed in {time.monotonic() - began:.0f} s"
    part.take({"event": "said", "text": took})


def check(part: Part) -> None:
    """A minute of checks, a minute of timing; compiling comes on top, while it fits."""
    patience = PATIENCE if part.dry else 1
    code = part.work("checks", seconds=min(patience * CHECKS, part.left()))
    if code == STOPPED:
        part.take({"event": "said", "text": "not all checks came to their turn"})
    for mode in ["eager"] if part.dry else MODES:
        part.found["start"].pop(mode, None)
        if mode in part.found["failed"]:
            part.found["failed"].remove(mode)
        seconds = min(patience * TIMING[mode], part.left())
        code = part.work("timing", mode, seconds=seconds, mode=mode)
        if code not in (0, STOPPED):
            text = f"timing {mode} ended with code {code}; see gpu-log.txt"
            part.take({"event": "said", "text": text})
            if mode != "eager":  # which is the last to be left
                part.found["failed"].append(mode)


def train(part: Part) -> None:
    """Every row that is not recorded yet, in the fastest mode that works."""
    found = part.found
    while left := [name for name in PLANNED if not state.is_done(found, name)]:
        bring_data(part)
        if not found["kind"] or found["kind"] in state.distrusted(found):
            found["kind"] = state.fastest(found)
        mode = found["kind"]
        code = part.work("rows", mode, *left, seconds=part.left(), mode=mode)
        if code == 0:
            return
        if code == STOPPED:
            part.why = "its time is over"
            return
        text = f"training in mode {mode} ended with code {code}; see gpu-log.txt"
        part.take({"event": "said", "text": text})
        if mode == "eager" or any(row.get("mode") == mode for row in _rows(found)):
            part.why = text  # rows of two modes would not share task 0
            return
        found["failed"].append(mode)


def _rows(found: dict) -> list[dict]:
    return list(found["rows"].values())


def failed(found: dict) -> bool:
    """Whether a check failed, or a mode."""
    return bool(found["failed"]) or any(
        row["passed"] is False for row in found["checks"].values()
    )
