"""kill -9 at random moments, at length.

    python tests/kill_test.py [quick] [slim] [--option value ...]

quick  ten runs of the quick preset (seeds 0-9), each killed once at a random moment,
       run again, and compared with an undisturbed run: predictions, losses and the
       weights' checksum must be equal
slim   one run of the slim preset, killed ten times, compared with an undisturbed one
Options after the names go to the run, such as --epochs_base 2. Prints the seconds lost
at each kill (what had been trained since the last checkpoint), and ends with code 1 if
a result differs or a kill cost more than a minute.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from killing import begin, held, kill_after, kill_when, moments, same, to_its_end

ROOT = Path(__file__).resolve().parents[1]
MOST = 60.0  # seconds that a kill may cost
SPREAD = 0.95  # kills fall within this share of the undisturbed run's length


def new_home() -> Path:
    """A folder for records and stages, with the data sets of this repository linked
    into it.
    """
    home = Path(tempfile.mkdtemp(prefix="kill-test-"))
    (home / "data").mkdir()
    if (ROOT / "data" / "packed").exists():
        (home / "data" / "packed").symlink_to(ROOT / "data" / "packed")
    return home


def tell(killed, number: int, of: int) -> float:
    print(
        f"  kill {number} of {of}: after {killed.running:6.1f} s, "
        f"{killed.finished} stages finished, "
        f"{killed.lost:5.1f} s lost",
        flush=True,
    )
    return killed.lost


def quick(options: list[str], seed: int, runs: int) -> tuple[bool, list[float]]:
    """Ten runs, one kill each; the kills fall in ten different tenths of a run."""
    good, lost, longest = True, [], None
    for number in range(runs):
        words = [
            "run",
            "--preset",
            "quick",
            "--method",
            "gfr",
            "--seed",
            number,
            *options,
            "--json",
        ]
        home, undisturbed = new_home(), new_home()
        whole, seconds = to_its_end(words, undisturbed)
        longest = seconds if longest is None else longest
        at = moments(runs, SPREAD * longest, seed)[number]
        process = begin(words, home)
        killed = kill_after(process, home, at)
        if (
            killed is None
        ):  # faster than the undisturbed one: kill it at once, the second time at half
            shutil.rmtree(home / "data" / "cache")
            killed = kill_after(begin(words, home), home, at / 2)
        record, again = to_its_end(words, home)
        equal = same(record, whole) and killed is not None
        good &= equal
        print(
            f"quick, seed {number}: {seconds:.1f} s undisturbed, "
            f"{again:.1f} s the second time, "
            f"{'equal' if equal else 'DIFFERENT'}, weights {record['weights'][:12]}",
            flush=True,
        )
        if killed is None:
            print("  it ended twice before it could be killed")
        else:
            lost.append(tell(killed, number + 1, runs))
        shutil.rmtree(home)
        shutil.rmtree(undisturbed)
    return good, lost


def slim(options: list[str], seed: int, kills: int) -> tuple[bool, list[float]]:
    """One run, killed ten times, each time after a tenth of its length or so."""
    words = ["run", "--preset", "slim", "--method", "gfr", *options, "--json"]
    home, undisturbed, lost = new_home(), new_home(), []
    whole, seconds = to_its_end(words, undisturbed)
    print(
        f"slim: {seconds:.1f} s undisturbed, weights {whole['weights'][:12]}",
        flush=True,
    )
    parts = moments(kills, SPREAD * seconds, seed)
    spans = [b - a for a, b in zip([0.0, *parts[:-1]], parts, strict=True)]
    began = time.time()
    for number, span in enumerate(spans):
        # a restart loses some seconds itself: count the span from the moment at which
        # training goes on
        process = begin(words, home)
        goes_on = []

        def reached(home=home, span=span, goes_on=goes_on):
            if not goes_on and held(home):
                goes_on.append(time.time())
            return bool(goes_on) and time.time() - goes_on[0] > span

        killed = kill_when(process, home, reached, within=span + 600)
        if killed is None:
            print("  the run ended before its remaining kills")
            break
        lost.append(tell(killed, number + 1, kills))
    if (home / "data" / "records").exists() and any(
        (home / "data" / "records").glob("*.json")
    ):
        print("  (it was done before the last restart)")
    record, _ = to_its_end(words, home)
    equal = same(record, whole) and len(lost) == kills
    print(
        f"slim: {time.time() - began:.1f} s with {len(lost)} kills, "
        f"{'equal' if same(record, whole) else 'DIFFERENT'}, "
        f"weights {record['weights'][:12]}",
        flush=True,
    )
    shutil.rmtree(home)
    shutil.rmtree(undisturbed)
    return equal, lost


def main() -> int:
    parser = argparse.ArgumentParser(
        description="kill -9 at random moments; the results must be equal"
    )
    parser.add_argument("what", nargs="*", help="quick, slim or both (default)")
    parser.add_argument(
        "--kill-seed", type=int, default=0, help="for the random moments"
    )
    parser.add_argument("--kills", type=int, default=10)
    known, options = parser.parse_known_args()
    what = [w for w in known.what if w in ("quick", "slim")] or ["quick", "slim"]
    options += [w for w in known.what if w not in ("quick", "slim")]
    good, lost = True, []
    for name in what:
        equal, seconds = {"quick": quick, "slim": slim}[name](
            options, known.kill_seed, known.kills
        )
        good, lost = good and equal, lost + seconds
    lost = lost or [float("inf")]
    print(
        f"{len(lost)} kills: at most {max(lost):.1f} s lost, "
        f"{sum(lost) / len(lost):.1f} s on average; "
        f"results {'all equal' if good else 'DIFFER'}"
    )
    return 0 if good and max(lost) <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
