"""All benchmarks in one run, each in a process of its own, as a short table of ratios; what is skipped is named.

    python -m benchmarks [--official DIR] [--svcca DIR] [--record FILE] [--only NAME ...] [--images N] [--out FILE]

DIR are checkouts of xialeiliu/GFR-IL and google/svcca, FILE is a record made on this machine. Nothing should run beside it.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

from gfrlib.config import UserError

NAMES = ("official", "loops", "cca", "images", "cost", "floor")


def child(module: str, *arguments) -> dict:
    """The JSON that `python -m benchmarks.MODULE` prints last. Raises its UserError, or RuntimeError with its last words."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        if words.startswith(f"{UserError.__module__}.{UserError.__name__}: "):
            raise UserError(words.split(": ", 1)[1])
        raise RuntimeError(f"benchmarks.{module} stopped: {words}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def line(what: str, ours: float, theirs: float | None, unit: str) -> str:
    """One row: ours, theirs and how many times theirs takes as long."""
    if theirs is None:
        return f"{what:<58}{ours:>10.4g}{'-':>10}{'-':>9}  {unit}"
    return f"{what:<58}{ours:>10.4g}{theirs:>10.4g}{theirs / ours:>8.1f}x  {unit}"


def official(folder: str | None, images: int, found: dict) -> list[str]:
    """(a) and (e): both phases against the official code, and peak memory."""
    theirs = child("official", Path(folder).resolve(), images) if folder else {}
    found["official"] = {"theirs": theirs}
    lines = []
    for precision in ("float32", "bf16", "bf16 compiled"):
        ours = child("ours", images, *precision.split())
        found["official"][precision] = ours
        for task in (0, 1):
            for name, key in (
                ("classifier phase", "classifier"),
                ("generator phase, per critic update", "critic"),
            ):
                other = theirs.get(f"{key}_{task}")
                lines.append(
                    line(
                        f"{name}, task {task}, {precision}",
                        1000 * ours[f"{key}_{task}"],
                        other and 1000 * other,
                        "s / 1,000 steps",
                    )
                )
        lines.append(
            line(f"peak memory, {precision}", ours["mib"], theirs.get("mib"), "MiB")
        )
    return lines


def loops(images: int, found: dict) -> list[str]:
    """(b): ours against a plain loop, images per second turned into seconds per 1,000 images."""
    lines = []
    for width in (16, 64):
        got = child("loops", width, images)
        found[f"loops {width}"] = got
        lines += [
            line(
                f"task 0, width {width}, {p} against a plain loop",
                1000 / got[p],
                1000 / got["plain"],
                "s / 1,000 images",
            )
            for p in ("float32", "bf16")
        ]
    return lines


def cca(folder: str | None, found: dict) -> list[str]:
    """(c): CCA of 10,000 x 512."""
    got = child("cca", *([Path(folder).resolve()] if folder else []))
    found["cca"] = got
    lines = [
        line("CCA, 10,000 x 512", got["ours_seconds"], got.get("theirs_seconds"), "s")
    ]
    if folder:
        lines.append(
            f"{'':<4}values {got['ours']:.9f} and {got['theirs']:.9f}, apart {abs(got['ours'] - got['theirs']):.1e}"
        )
    return lines


def images_on_disk(found: dict) -> list[str]:
    """ImageNet's way in, on a generated folder."""
    got = child("images")
    found["images"] = got
    lines = [
        line(
            f"224 x 224 crops, packed, {kind}",
            1000 / got[kind],
            1000 / got["torchvision"],
            "s / 1,000 images",
        )
        for kind in ("resident", "streamed")
    ]
    return [
        *lines,
        f"{'':<4}packing {got['images']} files took {got['first start']:.1f} s, the second start "
        f"{got['second start']:.2f} s; {got['faults']} files named and left out",
    ]


def cost(found: dict) -> list[str]:
    """(d): seconds and bytes against classes, tasks and images."""
    got = child("cost")
    found["cost"] = got
    lines = []
    for what, values in got.items():
        unit = "MiB" if "bytes" in what else "s"
        for value, methods in values.items():
            scale = 2**-20 if unit == "MiB" else 1
            lines.append(
                f"{f'{what}: {value}':<44}"
                + "".join(f"{m} {scale * v:.4g} {unit}   " for m, v in methods.items())
            )
    return lines


def floor(path: str | None, found: dict) -> list[str]:
    """How far each phase of a record was from the time that its operations take at the speed of a large matrix product."""
    if not path:
        return []
    got = child("floor", Path(path).resolve())
    found["floor"] = got
    lines = [
        f"{'floor of a record, phase by phase':<46}{'PFLOP':>10}{'floor s':>10}{'took s':>10}{'ratio':>9}"
    ]
    for row in got["rows"]:
        tasks = "task 0" if row["tasks"] == "0" else "later tasks"
        ratio = (
            f"{row['seconds'] / row['floor']:>8.1f}x" if row["floor"] else f"{'-':>9}"
        )
        lines.append(
            f"    {row['phase']}, {tasks}".ljust(46)
            + f"{row['operations'] / 1e15:>10.4g}{row['floor']:>10.4g}"
            f"{row['seconds']:>10.4g}{ratio}"
        )
    return [
        *lines,
        f"{'':<4}at {got['speed'] / 1e12:.4g} TFLOP/s, measured just now in {got['precision']} on {got['here']}; "
        f"recorded on {got['recorded on']}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument(
        "--official", metavar="DIR", help="checkout of xialeiliu/GFR-IL"
    )
    parser.add_argument("--svcca", metavar="DIR", help="checkout of google/svcca")
    parser.add_argument(
        "--record",
        metavar="FILE",
        help="a record (.json) made on this machine, to be held against its floor",
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument(
        "--images", type=int, default=64, help="training images of each class (64)"
    )
    parser.add_argument("--out", metavar="FILE", help="write the numbers as JSON, too")
    options = parser.parse_args()
    for folder, file in (
        (options.official, "train.py"),
        (options.svcca, "cca_core.py"),
    ):
        if folder and not (Path(folder) / file).is_file():
            print(
                f"There is no {file} in '{folder}'; name the folder of a checkout.",
                file=sys.stderr,
            )
            return 2
    if options.record and not Path(options.record).is_file():
        print(
            f"There is no record '{options.record}'; name a .json file of data/records.",
            file=sys.stderr,
        )
        return 2
    where = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or platform.machine()
    )
    found: dict = {
        "date": time.strftime("%Y-%m-%d"),
        "device": where,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(f"{where}, {found['threads']} threads, PyTorch {torch.__version__}")
    print(f"{'':<58}{'ours':>10}{'theirs':>10}{'ratio':>9}")
    run = {
        "official": lambda: official(options.official, options.images, found),
        "loops": lambda: loops(options.images, found),
        "cca": lambda: cca(options.svcca, found),
        "images": lambda: images_on_disk(found),
        "cost": lambda: cost(found),
        "floor": lambda: floor(options.record, found),
    }
    for name in options.only:
        try:
            lines = run[name]()
        except UserError as problem:
            print(problem, file=sys.stderr)
            return 2
        if lines:
            print("\n".join(lines), flush=True)
    possible = {
        "the official code (--official)": "official" in options.only
        and not options.official,
        "google/svcca (--svcca)": "cca" in options.only and not options.svcca,
        "a record's floor (--record)": "floor" in options.only and not options.record,
        "the GPU (none here)": not torch.cuda.is_available(),
    }
    skipped = [what for what, missing in possible.items() if missing]
    if skipped:
        print("Skipped: " + ", ".join(skipped) + ".")
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
