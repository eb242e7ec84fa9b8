"""Running the command line in a folder of its own and killing it (SIGKILL), for
test_resume.py, test_locks.py and the scripts.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import filelock
from helpers_core import environment

# `python -m gfrlib`, with checkpoints as often as said: a short run would end before
# its first checkpoint is due.
OFTEN = (
    "import runpy, sys; from gfrlib.engine import store; "
    "store.CHECKPOINT_EVERY = float(sys.argv[1]); "
    "sys.argv = ['gfrlib', *sys.argv[2:]]; "
    "runpy.run_module('gfrlib', run_name='__main__')"
)


@dataclass
class Kill:
    """When a run was killed, and what that cost."""

    finished: int  # stages finished by then
    running: float  # seconds since the process had begun
    # seconds since the last thing that was kept (a checkpoint, a finished stage) or
    # since it had begun
    lost: float


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
    """Files of that name in the stages' folders: done.pt, checkpoint.pt or lock."""
    return list((home / "data" / "cache" / "stages").glob(f"*/{name}"))


def held(home: Path) -> list[Path]:
    """Locks of stages that a process holds now."""
    found = []
    for path in kept(home, "lock"):
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
            lock.release()
        except filelock.Timeout:
            found.append(path)
    return found


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
    """Whether two printed records have equal predictions, accuracies, losses and
    weights.
    """
    return all(
        a[k] == b[k] for k in ("predictions", "accuracy", "rules", "weights", "losses")
    )


def moments(count: int, longest: float, seed: int) -> list[float]:
    """Random seconds at which to kill, spread over the run's length: one in each of
    `count` equal parts.
    """
    rng = random.Random(seed)
    return [longest * (i + rng.random()) / count for i in range(count)]


# --- locks: processes that race for stages --------------------------------------------

HOLD = """
import os, pathlib, sys, time
from gfrlib.engine import store
with store.Store(pathlib.Path(sys.argv[1])).stage(sys.argv[2]):
    print("held", flush=True)
    if sys.argv[3] == "child":
        child = os.fork()
        if child:
            print(child, flush=True)
    time.sleep(600)
"""
# Appends lines "enter KEY PID TIME" and "leave ..." to a log; a stage takes a while.
RACE = """
import os, pathlib, sys, time
from gfrlib.engine import locks, store
locks.POLL = 0.02
place, count, seconds = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
log = os.open(place / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def note(what, key):
    os.write(log, f"{what} {key} {os.getpid()} {time.monotonic()}\\n".encode())

for key in map(str, range(count)):
    with store.Store(place / "stages").stage(key) as stage:
        if stage.result() is None:
            note("enter", key)
            time.sleep(seconds)
            note("leave", key)
            stage.finish({"by": os.getpid()})
"""


# Prints how many classifiers this process trained of a run of two tasks.
COUNT = """
import sys
from gfrlib import training
from gfrlib.config import make_config
from gfrlib.lab import experiments
original, trained = training.train_classifier, []

def counted(*args, **kwargs):
    trained.append(1)
    return original(*args, **kwargs)

training.train_classifier = counted
small = dict(epochs_base=25, epochs_task=1, width=8, split=(3, 2), device="cpu")
experiments.run_or_load(make_config("quick", sys.argv[1], **small))
print(len(trained))
"""


def trained_at_once(home: Path, methods: list[str]) -> list[int]:
    """Classifiers trained by each of some runs that are begun at the same moment."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COUNT, method],
            env=environment(home),
            stdout=subprocess.PIPE,
            text=True,
        )
        for method in methods
    ]
    found = [int(process.communicate(timeout=600)[0] or -1) for process in processes]
    assert not any(process.returncode for process in processes)
    return found


def holder(place: Path, key: str, child: bool = False) -> subprocess.Popen:
    """A process that holds a stage's lock; with `child`, it then prints its child."""
    words = [str(place), key, "child" if child else "alone"]
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, *words],
        env=environment(place),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def wait_for(reached, within: float = 60) -> None:
    """Return as soon as `reached()` is true; TimeoutError if it never is."""
    until = time.time() + within
    while not reached():
        if time.time() > until:
            raise TimeoutError("what was waited for never came")
        time.sleep(0.02)


class Race:
    """Processes that all want the same stages; a log says who was in which."""

    def __init__(self, place: Path, stages: int, seconds: float):
        self.place, self.stages, self.seconds = place, stages, seconds
        self.processes: list[subprocess.Popen] = []

    def start(self, count: int) -> None:
        """So many more processes."""
        words = [self.place, self.stages, self.seconds]
        for _ in range(count):
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", RACE, *map(str, words)],
                    env=environment(self.place),
                )
            )

    def lines(self) -> list[list[str]]:
        """The log: what, stage, process, time; a half line is left out."""
        path = self.place / "log"
        text = path.read_text() if path.exists() else ""
        return [line.split() for line in text.split("\n")[:-1]]

    def inside(self) -> dict[str, int]:
        """Stage -> the process that entered it last and has not left it."""
        found: dict[str, int] = {}
        for what, key, pid, _ in self.lines():
            if what == "enter":
                found[key] = int(pid)
            else:
                found.pop(key, None)
        return found

    def entered(self) -> list[int]:
        """Processes that entered a stage, in order."""
        return [int(line[2]) for line in self.lines() if line[0] == "enter"]

    def trained(self) -> dict[str, list[int]]:
        """Stage -> the processes that trained it to its end."""
        found: dict[str, list[int]] = {}
        for what, key, pid, _ in self.lines():
            if what == "leave":
                found.setdefault(key, []).append(int(pid))
        return found

    def overlaps(self) -> int:
        """How often a process entered a stage that another living one was in."""
        inside: dict[str, int] = {}
        dead = {p.pid: p.killed_at for p in self.processes if hasattr(p, "killed_at")}
        count = 0
        for what, key, pid, at in self.lines():
            other = inside.get(key)
            if what == "leave":
                inside.pop(key, None)
            else:
                count += other is not None and dead.get(other, float("inf")) > float(at)
                inside[key] = int(pid)
        return count

    def kill_at_random(self, kills: int, longest: float, seed: int = 0) -> int:
        """Kill one that is in a stage, and start another; how many died.

        At a random moment, at most `longest` seconds after a living one was seen there.
        """
        rng, done = random.Random(seed), 0
        while done < kills:
            wait_for(lambda: self._living() == {} or self._busy())
            time.sleep(longest * rng.random())
            victims = self._busy() or list(self._living().values())
            if not victims:
                break
            victim = rng.choice(victims)
            # noted before: whoever enters after this moment overlaps with nobody
            victim.killed_at = time.monotonic()
            victim.kill()
            done += victim.wait() == -signal.SIGKILL
            self.start(1)
        return done

    def _living(self) -> dict[int, subprocess.Popen]:
        return {p.pid: p for p in self.processes if p.poll() is None}

    def _busy(self) -> list[subprocess.Popen]:
        """Living processes that are in a stage."""
        living = self._living()
        return [living[pid] for pid in self.inside().values() if pid in living]

    def join(self, timeout: float = 120) -> None:
        """Wait for all of them; those that were not killed must have ended well."""
        for process in self.processes:
            code = process.wait(timeout)
            assert code == (-signal.SIGKILL if hasattr(process, "killed_at") else 0)
