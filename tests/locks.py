"""The locks at length: `python tests/locks.py [kills] [stop] [three]`; all if none.

kills  20 kill -9 at random moments among three processes that race for stages
stop   a process stopped (SIGSTOP) for 90 s while another wants its stage, continued
three  three quick runs at once train each stage once
Ends with code 1 where a stage was written by two, or lost. pytest does not collect it.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from killing import Race, trained_at_once, wait_for


def kills(place: Path, count: int) -> bool:
    """Three at a time, a new one for each that was killed."""
    race = Race(place, stages=12, seconds=4.0)
    race.start(3)
    died = race.kill_at_random(count, longest=5.0, seed=int(time.time()))
    race.join(600)
    trained, entered = race.trained(), len(race.entered())
    twice = sum(len(by) - 1 for by in trained.values())
    print(
        f"kills: {died} processes killed in stages of 4 s, {len(trained)} of 12 stages "
        f"trained in {entered} attempts; {race.overlaps()} entered while another was "
        f"inside, {twice} trained to the end again (killed before they were kept)"
    )
    return died == count and len(trained) == 12 and race.overlaps() == 0


def stop(place: Path, seconds: float) -> bool:
    """One holds a stage and is stopped, one waits for it."""
    race = Race(place, stages=1, seconds=5.0)
    race.start(2)
    wait_for(race.entered)
    first = race.entered()[0]
    os.kill(first, signal.SIGSTOP)
    time.sleep(seconds)
    meanwhile = len(race.entered()) - 1
    os.kill(first, signal.SIGCONT)
    race.join(600)
    by = race.trained()
    print(
        f"stop: stopped for {seconds:.0f} s; {meanwhile} others entered meanwhile; "
        f"then trained by {len(by['0'])} process"
    )
    return meanwhile == 0 and by == {"0": [first]}


def three(place: Path) -> bool:
    """Three methods that share task 0's stage, begun at once by three processes."""
    methods = ["finetune", "lwf", "ewc"]
    counts = trained_at_once(place, methods)
    again = trained_at_once(place, methods)
    print(
        f"three: runs of 2 classifiers, of which they share one, trained {counts} "
        f"({sum(counts)} in all, 4 are needed); a second time {again}"
    )
    return sum(counts) == 4 and not any(again)


def main() -> int:
    """Run what was asked for; exit code 1 where something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", choices=("kills", "stop", "three", []))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=90.0)
    options = parser.parse_args()
    good = True
    for name in options.what or ("kills", "stop", "three"):
        with tempfile.TemporaryDirectory(prefix="locks-") as folder:
            place = Path(folder)
            if name == "kills":
                good &= kills(place, options.kills)
            elif name == "stop":
                good &= stop(place, options.seconds)
            else:
                good &= three(place)
    print("all as it must be" if good else "WRONG")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
