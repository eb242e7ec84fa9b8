"""Running the command line in a folder of its own and killing it (SIGKILL), for test_resume.py and kill_test.py."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from helpers_core import environment

# `python -m gfrlib`, with checkpoints as often as said: a short run would end before its first checkpoint is due.
OFTEN = (
    "import runpy, sys; from gfrlib.engine import store; store.CHECKPOINT_EVERY = float(sys.argv[1]); "
    "sys.argv = ['gfrlib', *sys.argv[2:]]; runpy.run_module('gfrlib', run_name='__main__')"
)


@dataclass
class Kill:
    """When a run was killed, and what that cost."""

    finished: int  # stages finished by then
    running: float  # seconds since the process had begun
    lost: float  # seconds since the last thing that was kept (a checkpoint, a finished stage) or since it had begun


def command(words: list, checkpoint_every: float | None) -> list[str]:
    """`python -m gfrlib WORDS`, with the usual time between checkpoints or another."""
    start = (
        ["-m", "gfrlib"]
        if checkpoint_every is None
        else ["-c", OFTEN, str(checkpoint_every)]
    )
    return [sys.executable, *start, *map(str, words)]


def begin(
    words: list, home: Path, checkpoint_every: float | None = None
) -> subprocess.Popen:
    """Start the command; its record's folder, stages and working folder are `home`."""
    return subprocess.Popen(
        command(words, checkpoint_every),
        env=environment(home),
        cwd=home,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def to_its_end(
    words: list,
    home: Path,
    checkpoint_every: float | None = None,
    timeout: float = 3600,
) -> tuple[dict, float]:
    """The record that the command prints (with --json), and the seconds it took."""
    began = time.time()
    process = begin(words, home, checkpoint_every)
    out, err = process.communicate(timeout=timeout)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {err}")
    return json.loads(out), time.time() - began


def kept(home: Path, name: str) -> list[Path]:
    """Files of that name in the stage folder: done.pt or checkpoint.pt."""
    return list((home / "data" / "cache" / "stages").glob(f"*/{name}"))


def kill(process: subprocess.Popen, home: Path, began: float) -> Kill | None:
    """SIGKILL; None if the process had already come to its end."""
    if process.poll() is not None:
        return None
    now = time.time()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    if process.returncode != -signal.SIGKILL:
        return None
    times = [
        p.stat().st_mtime
        for p in (*kept(home, "done.pt"), *kept(home, "checkpoint.pt"))
    ]
    return Kill(
        len(kept(home, "done.pt")),
        now - began,
        now - max([t for t in times if t > began], default=began),
    )


def kill_when(
    process: subprocess.Popen, home: Path, reached, *, within: float = 300
) -> Kill | None:
    """Kill as soon as `reached()` is true; None if the process ends before that."""
    began = time.time()
    while time.time() - began < within:
        if process.poll() is not None:
            return None
        if reached():
            return kill(process, home, began)
        time.sleep(0.02)
    process.kill()
    raise TimeoutError("the moment to kill never came")


def kill_after(process: subprocess.Popen, home: Path, seconds: float) -> Kill | None:
    """Kill after so many seconds; None if the process ends before that."""
    began = time.time()
    return kill_when(
        process, home, lambda: time.time() - began >= seconds, within=seconds + 60
    )


def same(a: dict, b: dict) -> bool:
    """Whether two printed records have equal predictions, accuracies, losses and weights."""
    return all(
        a[k] == b[k] for k in ("predictions", "accuracy", "rules", "weights", "losses")
    )


def moments(count: int, longest: float, seed: int) -> list[float]:
    """Random seconds at which to kill, spread over the run's length: one in each of `count` equal parts."""
    rng = random.Random(seed)
    return [longest * (i + rng.random()) / count for i in range(count)]
