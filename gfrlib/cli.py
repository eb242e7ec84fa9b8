"""The command line: run, methods, records, compare, data, book. Bad input: one sentence on stderr, exit code 2."""

import argparse
import dataclasses
import json
import os
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from gfrlib.config import FEATURES, METHODS, PRESETS, Config, UserError


class Parser(argparse.ArgumentParser):
    """Errors become UserError, so that all bad input is answered in one way."""

    def error(self, message: str):
        raise UserError(f"{message[:1].upper()}{message[1:]}; see {self.prog} --help.")


def main(arguments: list[str] | None = None) -> int:
    """Parse and run; returns the exit code (0, or 2 after bad input)."""
    try:
        options = _parser().parse_args(arguments)
        options.action(options)
        return 0
    except UserError as problem:
        print(f"gfrlib: {problem}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        print(
            "gfrlib: stopped; the same command goes on from the last checkpoint.",
            file=sys.stderr,
        )
        return 130


def _parser() -> Parser:
    parser = Parser(
        prog="python -m gfrlib",
        description="Generative feature replay for class-incremental learning.",
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    run = commands.add_parser(
        "run",
        help="train a run, or load the record of an equal one",
        allow_abbrev=False,
    )
    run.add_argument("--preset", default="quick", help=" | ".join(PRESETS))
    run.add_argument("--method", default="gfr", help=" | ".join(METHODS))
    run.add_argument(
        "--json",
        action="store_true",
        help="print the record and nothing else on standard output",
    )
    settings = run.add_argument_group("settings (any field of gfrlib.config.Config)")
    for field in dataclasses.fields(Config):
        if field.name != "preset":
            spellings = dict.fromkeys(
                [f"--{field.name.replace('_', '-')}", f"--{field.name}"]
            )
            settings.add_argument(
                *spellings,
                dest=field.name,
                default=None,
                metavar=_metavar(field.default),
            )
    run.set_defaults(action=_run)
    grid = commands.add_parser(
        "grid", help="many runs from a YAML file, such as those in grids/"
    )
    grid.add_argument("file", type=Path)
    grid.add_argument(
        "--dry-run",
        action="store_true",
        help="tell runs, shared stages and minutes, and train nothing",
    )
    grid.add_argument(
        "--jobs", type=int, default=1, help="processes at a time (default 1)"
    )
    grid.add_argument(
        "--ray",
        action="store_true",
        help="run on Ray: on the cluster of RAY_ADDRESS, or JOBS workers here",
    )
    grid.add_argument(
        "--commit", action="store_true", help="commit every record to git as it is done"
    )
    grid.set_defaults(action=_grid)
    commands.add_parser("methods", help="the table of methods").set_defaults(
        action=_methods
    )
    commands.add_parser("records", help="what is recorded").set_defaults(
        action=_records
    )
    compare = commands.add_parser(
        "compare",
        help="which settings of two records differ, and by how much the results do",
    )
    compare.add_argument("a", help="a record: its file, or the beginning of its name")
    compare.add_argument("b", help="another")
    compare.set_defaults(action=_compare)
    data = commands.add_parser(
        "data", help="bring a data set: decode it once into checked, packed arrays"
    )
    data.add_argument("name", help="the name it gets, such as cifar100")
    data.add_argument(
        "path",
        type=Path,
        help="a folder of images (train/<class>/, val/<class>/) or a packed .npz file",
    )
    large = data.add_argument_group(
        "large images (always for a name that begins with imagenet)",
        "decoded in parallel to squares, resumably; unreadable files are named and left out",
    )
    large.add_argument("--size", type=int, help="side of the stored squares (256)")
    large.add_argument(
        "--crop", type=int, help="side of the random resized crops in training (224)"
    )
    large.add_argument(
        "--classes",
        help="lucir | gfr: the 100 classes of ImageNet-Subset, chosen from a folder of 1,000",
    )
    large.add_argument(
        "--workers", type=int, help="processes that decode (all processors)"
    )
    data.set_defaults(action=_data)
    book = commands.add_parser(
        "book", help="run chapters with papermill, or check that they are fresh"
    )
    what = book.add_subparsers(dest="what", required=True, parser_class=Parser)
    chapter = what.add_parser("run", help="run one chapter, or all that are stale")
    chapter.add_argument(
        "chapter", nargs="?", help="such as 02_replay; all of them if left out"
    )
    chapter.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
    )
    chapter.add_argument(
        "--out",
        help="folder for the executed notebooks (default: the book's own build)",
    )
    chapter.set_defaults(action=_book_run)
    what.add_parser("check", help="name every chapter that is stale").set_defaults(
        action=_book_check
    )
    return parser


def _metavar(default) -> str:
    return (
        "COUNTS"
        if isinstance(default, tuple)
        else {bool: "BOOL", int: "INT", float: "FLOAT"}.get(type(default), "NAME")
    )


def parse_value(name: str, text: str, default):
    """The text of an option in its field's type; counts are written 25,25,25,25. Raises UserError."""
    try:
        if name == "cut" and text == "features":
            return FEATURES
        if isinstance(default, bool):
            return {
                "true": True,
                "1": True,
                "yes": True,
                "false": False,
                "0": False,
                "no": False,
            }[text.lower()]
        if isinstance(default, tuple):
            return tuple(
                int(part)
                for part in text.replace(" ", "").strip("[]()").split(",")
                if part
            )
        return type(default)(text)
    except (ValueError, KeyError):
        kind = (
            "counts such as 25,25,25,25"
            if isinstance(default, tuple)
            else {bool: "true or false", int: "a whole number", float: "a number"}[
                type(default)
            ]
        )
        raise UserError(f"'--{name}' takes {kind}, not '{text}'.") from None


def _run(options) -> None:
    from gfrlib.engine import distributed
    from gfrlib.lab import experiments

    changes = {
        f.name: parse_value(f.name, getattr(options, f.name), f.default)
        for f in dataclasses.fields(Config)
        if f.name != "preset" and getattr(options, f.name) is not None
    }
    config = experiments.settings(options.preset, options.method, **changes)
    progress = Progress()
    record = experiments.run_or_load(config, report=progress, notice=progress.notice)
    progress.close()
    if distributed.rank() > 0:
        return
    if options.json:
        json.dump(record.full_json(), sys.stdout)
        print()
        return
    print(f"{record.name}: {record.status}")
    print("after task    " + "".join(f"{t:>8}" for t in range(len(record.task_sizes))))
    _row("class-weighted", record.curve)
    from gfrlib import metrics

    _row("mean over tasks", metrics.mean_over_tasks(record.accuracy))
    _row("forgetting", metrics.forgetting(record.accuracy, record.task_sizes))
    print(f"in percent; {record.path}")


def _row(name: str, values) -> None:
    print(
        f"{name:<15}"
        + "".join("       -" if np.isnan(v) else f"{100 * v:8.1f}" for v in values)
    )


class Progress:
    """A bar on a terminal: task, phase, epoch, loss, time left. Silent in logs."""

    def __init__(self):
        self.bar, self.key = None, None

    def __call__(self, t: int, phase: str, step: int, total: int, losses: dict) -> None:
        if not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0":
            return
        from tqdm import tqdm

        if self.key != (t, phase):
            self.close()
            self.key = (t, phase)
            self.bar = tqdm(
                total=total,
                initial=step - 1,
                desc=f"task {t} {phase}",
                file=sys.stderr,
                unit="step",
                leave=False,
            )
        if losses:
            each = max(
                1,
                losses["step"] if step < 2 * losses["step"] else step - losses["step"],
            )
            self.bar.set_postfix_str(
                f"epoch {1 + step // each}, loss {losses['loss']:.3g}", refresh=False
            )
        self.bar.update(step - self.bar.n)

    def notice(self, text: str) -> None:
        """One line on stderr, beside the bar."""
        print(text, file=sys.stderr)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


def _grid(options) -> None:
    from gfrlib import metrics
    from gfrlib.lab import grids

    if options.jobs < 1:
        raise UserError(
            f"'--jobs' is the number of processes, at least 1, not {options.jobs}."
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "A grid runs one process a run; torchrun is for a single run (python -m gfrlib run)."
        )
    configs = grids.read(options.file)
    if options.dry_run:
        print(grids.table(grids.plan(configs)))
        return
    failed = []
    for number, (config, result) in enumerate(
        grids.run(configs, options.jobs, ray=options.ray), 1
    ):
        name = f"[{number}/{len(configs)}] {config.method} seed {config.seed}"
        if isinstance(result, UserError):
            failed.append(config)
            print(f"{name}: {result}", file=sys.stderr, flush=True)
        else:
            print(
                f"{name}: {result.status}, last {100 * result.curve[-1]:.1f} %, average incremental "
                f"{100 * metrics.average_incremental(result.curve):.1f} %, {result.name}",
                flush=True,
            )
            if options.commit and result.status == "computed now":
                _commit(result.path)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(configs)} runs stopped with the errors above; all others are recorded."
        )


def _commit(path: Path) -> None:
    """Commit a record with its analysis, and nothing else that is staged. What git refuses is said, and stops nothing."""
    import subprocess

    files = [str(p) for p in sorted(path.parent.glob(f"{path.stem}.*"))]
    for words in (
        ["add", "--", *files],
        ["commit", "--quiet", "-m", f"Record: {path.stem}", "--", *files],
    ):
        done = subprocess.run(
            ["git", "-C", str(path.parent), *words],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            print(
                f"not committed: {(done.stderr or done.stdout).strip()}",
                file=sys.stderr,
                flush=True,
            )
            return


def _cell(value) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _methods(options) -> None:
    columns = {
        "penalty": 13,
        "memory": 13,
        "head": 10,
        "prediction": 23,
        "batch_norm": 12,
        "cut": 5,
        "drift": 8,
    }
    print(f"{'method':<20}" + "".join(f"{c:<{width}}" for c, width in columns.items()))
    for name, row in METHODS.items():
        print(
            f"{name:<20}"
            + "".join(
                f"{_cell(row[c]):<{width}}" for c, width in columns.items()
            ).rstrip()
        )


def _records(options) -> None:
    from gfrlib import metrics
    from gfrlib.lab import records

    paths = records.every()
    if not paths:
        print("Nothing is recorded yet; python -m gfrlib run makes the first record.")
    for path in paths:
        try:
            record = records.load(path)
        except UserError as problem:
            print(f"{path.stem}: refused. {problem}")
            continue
        last = f"last {100 * record.curve[-1]:5.1f}, average incremental {100 * metrics.average_incremental(record.curve):5.1f}"
        print(f"{path.stem:<60} {last} %  {record.provenance['date']}  {record.status}")


def _resolve(text: str):
    """The records meant by a file, a name or its beginning: all seeds of one configuration."""
    from gfrlib.lab import records

    if Path(text).is_file():
        return [records.load(Path(text))]
    found = defaultdict(list)
    for path in records.every():
        if path.stem.startswith(text):
            record = records.load(path)
            found[dataclasses.replace(record.config, seed=0).digest()].append(record)
    if not found:
        raise UserError(
            f"No record begins with '{text}'; python -m gfrlib records lists them."
        )
    if len(found) > 1:
        raise UserError(
            f"'{text}' begins the names of records with {len(found)} different settings; "
            "write more of the name (python -m gfrlib records lists them)."
        )
    return next(iter(found.values()))


def _compare(options) -> None:
    from gfrlib import metrics
    from gfrlib.book import claims

    a, b = _resolve(options.a), _resolve(options.b)
    difference = {
        k: v for k, v in a[0].config.difference(b[0].config).items() if k != "seed"
    }
    print(
        "settings that differ:"
        if difference
        else "the settings are equal (but for the seed)"
    )
    for name, (ours, theirs) in difference.items():
        print(f"  {name:<24} {ours!s:<16} {theirs!s}")
    print(f"{'results in percent':<26} {'A':>16} {'B':>16} {'B - A':>8}")
    for name, value in (
        ("last, class-weighted", lambda r: r.curve[-1]),
        ("average incremental", lambda r: metrics.average_incremental(r.curve)),
        ("last, mean over tasks", lambda r: metrics.mean_over_tasks(r.accuracy)[-1]),
        ("forgetting", lambda r: metrics.forgetting(r.accuracy, r.task_sizes)[-1]),
    ):
        x, y = (100 * np.array([value(r) for r in group]) for group in (a, b))
        print(
            f"{name:<26} {claims.mean_and_spread(x):>16} {claims.mean_and_spread(y):>16} {y.mean() - x.mean():+8.1f}"
        )
    print(
        f"mean ± standard deviation over {len(a)} and {len(b)} seeds"
        if max(len(a), len(b)) > 1
        else "one seed each: a difference of a point or two is within the usual spread of seeds"
    )


def _data(options) -> None:
    from gfrlib.lab import datasets

    if not options.path.exists():
        raise UserError(
            f"'{options.path}' does not exist; give a folder of images or a packed .npz file."
        )
    if (
        options.name != Path(options.name).name
        or options.name.startswith(".")
        or options.name == "digits"
    ):
        raise UserError(
            f"'{options.name}' cannot name a data set; use letters, digits and hyphens (digits is built in)."
        )
    given = {
        k: getattr(options, k)
        for k in ("size", "crop", "classes", "workers")
        if getattr(options, k) is not None
    }
    if given or options.name.startswith("imagenet"):
        _pack_large(options, given)
    name = (
        options.name
        if given or options.name.startswith("imagenet")
        else datasets.add(options.name, options.path)
    )
    packed = datasets.packed(name)
    print(
        f"{name}: {len(packed.class_names)} classes, {len(packed.train_labels)} training and "
        f"{len(packed.test_labels)} test images of {'x'.join(map(str, packed.train_images.shape[1:]))}"
    )


def _pack_large(options, given: dict) -> None:
    from tqdm import tqdm

    from gfrlib.lab import shards

    if (
        options.name == "imagenet-subset"
        and "classes" not in given
        and options.path.is_dir()
    ):
        folders = [p for p in (options.path / "train").glob("*") if p.is_dir()]
        if len(folders) > shards.SUBSET:
            raise UserError(
                f"'{options.path}' holds {len(folders)} classes; say which {shards.SUBSET} with --classes lucir "
                "or --classes gfr (two lists circulate)."
            )
    if options.path.is_file():
        raise UserError(
            f"'{options.path}' is a file; --size, --crop and --classes are for a folder with train/ and val/."
        )
    with tqdm(
        unit="image", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False
    ) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        packing = shards.pack(options.name, options.path, report=report, **given)
    for file, reason in packing.faults.items():
        print(f"left out: {file} ({reason})", file=sys.stderr)
    print(
        f"{sum(packing.images.values()) - len(packing.faults)} images decoded, {len(packing.faults)} files left out"
    )


def _book_run(options) -> None:
    import yaml

    from gfrlib.book import chapters

    parameters = {}
    for name, text in options.parameters:
        try:
            parameters[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            parameters[name] = text
    for path in chapters.run(options.chapter, parameters, options.out):
        print(path)


def _book_check(options) -> None:
    from gfrlib.book import chapters

    stale = chapters.check()
    if stale:
        raise UserError(
            "Stale chapters: "
            + "; ".join(stale)
            + "; python -m gfrlib book run makes them anew."
        )
    print("every chapter is fresh")
