"""All benchmarks in one run, each in a process of its own, as a table of ratios.

    python -m benchmarks [--official DIR] [--svcca DIR] [--record FILE]
        [--only NAME ...] [--images N] [--minutes N] [--out FILE]

DIR are checkouts of xialeiliu/GFR-IL and google/svcca, FILE is a record made on this
machine. A line is printed as soon as it is measured; what is skipped, or left out
because its minutes were over, is named. Nothing should run beside it.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.official import IMAGES as THEIR_IMAGES
from benchmarks.ours import IMAGES
from gfrlib.config import UserError

NAMES = ("official", "agreement", "loops", "cca", "images", "cost", "floor")
PHASES = {
    "classifier": "classifier phase",
    "critic": "generator phase, per critic update",
}
WIDTH = 58
LEAST_IMAGES = 3  # of each of 50 classes, for a batch of 128
# of the minutes of the comparison with the official code: when each part must end
SHARE = 0.5
OURS = {"float32": 0.75, "bf16": 0.9, "bf16 compiled": 1.0}


def answers(module: str, *arguments, until: float | None = None) -> Iterator[dict]:
    """Each JSON line of `python -m benchmarks.MODULE`, as it comes.

    Stops, and the process with it, when time.monotonic() passes `until`. Raises the
    process's UserError, or RuntimeError with its last words.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    said: list[str] = []
    listener = threading.Thread(target=lambda: said.append(process.stderr.read()))
    listener.start()
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        process.kill()

    left = None if until is None else max(0.1, until - time.monotonic())
    clock = threading.Timer(left, stop) if left else None
    if clock:
        clock.start()
    try:
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
    finally:
        if clock:
            clock.cancel()
        if process.poll() is None and stopped.is_set():
            process.kill()
        process.wait()
        listener.join()
    if process.returncode and not stopped.is_set():
        words = ("".join(said).strip().splitlines() or ["without a word"])[-1]
        if words.startswith(f"{UserError.__module__}.{UserError.__name__}: "):
            raise UserError(words.split(": ", 1)[1])
        raise RuntimeError(f"benchmarks.{module} stopped: {words}")


def child(module: str, *arguments) -> dict:
    """The last of its answers."""
    return list(answers(module, *arguments))[-1]


def line(what: str, ours: float, theirs: float | None, unit: str) -> str:
    """One row: ours, theirs and how many times theirs takes as long."""
    if theirs is None:
        return f"{what:<{WIDTH}}{ours:>10.4g}{'-':>10}{'-':>9}  {unit}"
    ratio = f"{theirs / ours:>8.1f}x"
    return f"{what:<{WIDTH}}{ours:>10.4g}{theirs:>10.4g}{ratio}  {unit}"


def spread(ours: list[float], theirs: list[float] | None) -> str:
    """Least and most of both, and of the ratio."""
    text = f"    ours {ours[1]:.4g} - {ours[2]:.4g}"
    if theirs is None:
        return text
    least, most = theirs[1] / ours[2], theirs[2] / ours[1]
    return (
        f"{text}, theirs {theirs[1]:.4g} - {theirs[2]:.4g}: "
        f"between {least:.1f} and {most:.1f} times"
    )


def official(options, found: dict) -> Iterator[str]:
    """Both phases against the official code, and peak memory."""
    began, limit = time.monotonic(), 60 * options.minutes
    theirs: dict[str, list[float]] = {}
    found["official"] = {"theirs": theirs}
    if options.official:
        folder = Path(options.official).resolve()
        for answer in answers("official", folder, until=began + SHARE * limit):
            theirs.update(answer)
            for key, seconds in answer.items():
                if key != "mib":
                    name = described(key)
                    yield f"    theirs: {name}, {1000 * seconds[0]:.4g} s / 1,000 steps"
    for precision, share in OURS.items():
        ours, until = {}, began + share * limit
        found["official"][precision] = ours
        for answer in answers("ours", *precision.split(), until=until):
            ours.update(answer)
            for key, value in answer.items():
                yield from compared(key, value, theirs.get(key), precision)
        if "mib" not in ours:
            yield (
                f"{precision}: the rest is left out, its share of the "
                f"{options.minutes:g} minutes is over (--minutes)"
            )


def described(key: str) -> str:
    """classifier_1 -> "classifier phase, task 1"."""
    phase, task = key.rsplit("_", 1)
    return f"{PHASES[phase]}, task {task}"


def compared(
    key: str, ours: list[float], theirs: list[float] | None, precision: str
) -> Iterator[str]:
    """The row of one figure, and its spread."""
    if key == "mib":
        other = theirs and theirs[0]
        yield line(f"peak memory, {precision}", ours[0], other, "MiB")
        if other:
            yield (
                f"    of a process that holds {IMAGES} images of each class; theirs "
                f"holds {THEIR_IMAGES}"
            )
        return
    ours = [1000 * seconds for seconds in ours]
    theirs = theirs and [1000 * seconds for seconds in theirs]
    what = f"{described(key)}, {precision}"
    yield line(what, ours[0], theirs and theirs[0], "s / 1,000 steps")
    yield spread(ours, theirs)


def agreement(options, found: dict) -> Iterator[str]:
    """A later classifier phase by both codes, from the same weights."""
    if not options.official:
        return
    got = child("agreement", Path(options.official).resolve())
    found["agreement"] = got
    ours, theirs = got["last loss"]
    yield (
        f"{'the same steps of task 1 by both codes, in float64':<{WIDTH}}"
        f"{ours:>10.6g}{theirs:>10.6g}           last loss"
    )
    yield (
        f"    apart: weights by {got['weights']:.1e} of the way that they went, losses "
        f"by {got['losses']:.1e}, statistics by {got['statistics']:.1e} (in float32)"
    )


def loops(options, found: dict) -> Iterator[str]:
    """Ours against a plain loop: images per second as seconds per 1,000 images."""
    for width in (16, 64):
        got = child("loops", width, options.images)
        found[f"loops {width}"] = got
        for precision in ("float32", "bf16"):
            what = f"task 0, width {width}, {precision} against a plain loop"
            ours, theirs = 1000 / got[precision], 1000 / got["plain"]
            yield line(what, ours, theirs, "s / 1,000 images")


def cca(options, found: dict) -> Iterator[str]:
    """CCA of 10,000 x 512."""
    got = child("cca", *([Path(options.svcca).resolve()] if options.svcca else []))
    found["cca"] = got
    yield line("CCA, 10,000 x 512", got["ours_seconds"], got.get("theirs_seconds"), "s")
    if options.svcca:
        ours, theirs = got["ours"], got["theirs"]
        apart = abs(ours - theirs)
        yield f"    values {ours:.9f} and {theirs:.9f}, apart {apart:.1e}"


def images_on_disk(options, found: dict) -> Iterator[str]:
    """ImageNet's way in, on a generated folder."""
    got = child("images")
    found["images"] = got
    for kind in ("resident", "streamed"):
        ours, theirs = 1000 / got[kind], 1000 / got["torchvision"]
        what = f"224 x 224 crops, packed, {kind}"
        yield line(what, ours, theirs, "s / 1,000 images")
    yield (
        f"    packing {got['images']} files took {got['first start']:.1f} s, the "
        f"second start {got['second start']:.2f} s; {got['faults']} files named and "
        "left out"
    )


def cost(options, found: dict) -> Iterator[str]:
    """Seconds and bytes against classes, tasks and images."""
    found["cost"] = {}
    for answer in answers("cost"):
        for what, values in answer.items():
            known = found["cost"].setdefault(what, {})
            for value, methods in values.items():
                known.setdefault(value, {}).update(methods)
                unit, scale = ("MiB", 2**-20) if "bytes" in what else ("s", 1)
                cells = [f"{m} {scale * v:.4g} {unit}" for m, v in methods.items()]
                yield f"{f'{what}: {value}':<44}" + "   ".join(cells)


def floor(options, found: dict) -> Iterator[str]:
    """How far each phase of a record was from its operations' time at full speed."""
    if not options.record:
        return
    got = child("floor", Path(options.record).resolve())
    found["floor"] = got
    columns = f"{'PFLOP':>10}{'floor s':>10}{'took s':>10}{'ratio':>9}"
    yield f"{'floor of a record, phase by phase':<46}{columns}"
    for row in got["rows"]:
        tasks = "task 0" if row["tasks"] == "0" else "later tasks"
        ratio = "-"
        if row["floor"]:
            ratio = f"{row['seconds'] / row['floor']:.1f}x"
        yield (
            f"    {row['phase']}, {tasks}".ljust(46)
            + f"{row['operations'] / 1e15:>10.4g}{row['floor']:>10.4g}"
            f"{row['seconds']:>10.4g}{ratio:>9}"
        )
    speeds = f"{got['speed'] / 1e12:.4g} TFLOP/s in {got['precision']}"
    if got["precision"] != "float32":
        speeds += f" and {got['speed in float32'] / 1e12:.4g} in float32"
    yield (
        f"    at {speeds}, measured just now on {got['here']}; recorded on "
        f"{got['recorded on']}"
    )


RUN = {
    "official": official,
    "agreement": agreement,
    "loops": loops,
    "cca": cca,
    "images": images_on_disk,
    "cost": cost,
    "floor": floor,
}


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n\n")[0]
    )
    checkout, on_this = "checkout of xialeiliu/GFR-IL", "a record made on this machine"
    parser.add_argument("--official", metavar="DIR", help=checkout)
    parser.add_argument("--svcca", metavar="DIR", help="checkout of google/svcca")
    parser.add_argument("--record", metavar="FILE", help=f"{on_this}: its floor")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    each, longest = "of `loops`, of each class (64)", "of `official`, at most (4)"
    parser.add_argument("--images", type=int, default=64, help=each)
    parser.add_argument("--minutes", type=float, default=4, help=longest)
    parser.add_argument("--out", metavar="FILE", help="write the numbers as JSON, too")
    return parser


def wrong(options) -> str | None:
    """What of the options cannot be, in one sentence."""
    checkouts = ((options.official, "train.py"), (options.svcca, "cca_core.py"))
    for folder, file in checkouts:
        if folder and not (Path(folder) / file).is_file():
            return f"There is no {file} in '{folder}'; name the folder of a checkout."
    if options.images < LEAST_IMAGES:
        return (
            f"--images is {options.images}, and {LEAST_IMAGES} of each of 50 classes "
            "are the least that fill a batch of 128."
        )
    if options.out and not Path(options.out).absolute().parent.is_dir():
        return (
            f"The folder of '{options.out}' does not exist; make it, or name another."
        )
    if options.record and not Path(options.record).is_file():
        return (
            f"There is no record '{options.record}'; name a .json file of data/records."
        )
    return None


def skipped(options) -> list[str]:
    """What was asked for and cannot be measured."""
    only = set(options.only)
    possible = {
        "the official code (--official)": bool({"official", "agreement"} & only)
        and not options.official,
        "google/svcca (--svcca)": "cca" in only and not options.svcca,
        "a record's floor (--record)": "floor" in only and not options.record,
        "the GPU (none here)": not torch.cuda.is_available(),
    }
    return [what for what, missing in possible.items() if missing]


def main() -> int:
    """Print the table; exit code 2 where the input was wrong."""
    options = arguments().parse_args()
    problem = wrong(options)
    if problem:
        print(problem, file=sys.stderr)
        return 2
    where = platform.processor() or platform.machine()
    if torch.cuda.is_available():
        where = torch.cuda.get_device_name()
    found: dict = {
        "date": time.strftime("%Y-%m-%d"),
        "device": where,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(f"{where}, {found['threads']} threads, PyTorch {torch.__version__}")
    print(f"{'':<{WIDTH}}{'ours':>10}{'theirs':>10}{'ratio':>9}", flush=True)
    try:
        for name in options.only:
            for row in RUN[name](options, found):
                print(row, flush=True)
    except (UserError, RuntimeError) as problem:
        print(problem, file=sys.stderr)
        return 2
    finally:  # what was measured before something stopped is kept
        if options.out:
            text = json.dumps(found, indent=1) + "\n"
            Path(options.out).write_text(text, encoding="utf-8")
    missing = skipped(options)
    if missing:
        print("Skipped: " + ", ".join(missing) + ".")
    return 0


if __name__ == "__main__":
    sys.exit(main())
