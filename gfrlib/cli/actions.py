"""What the commands do: each takes the parsed options and prints."""

import contextlib
import dataclasses
import json
import os
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from gfrlib.cli import trained
from gfrlib.cli.progress import Progress
from gfrlib.config import METHODS, Config, UserError, from_text, make_config
from gfrlib.engine import paths, values

NAMED = 3  # records that a message names
PATHS = ("folder", "weights")  # parameters of chapters that are paths


def settings() -> list[dataclasses.Field]:
    """The fields of Config that are options of `run`."""
    return [f for f in dataclasses.fields(Config) if f.name != "preset"]


def run(options) -> None:
    """Train or load, and print the record; with --save-weights keep F instead, with
    --save-network all of the network, too.
    """
    from gfrlib import metrics
    from gfrlib.engine import distributed
    from gfrlib.lab import datasets, experiments, outlook, weights

    given = {field.name: getattr(options, field.name) for field in settings()}
    changes = {
        name: from_text(name, text) for name, text in given.items() if text is not None
    }
    try:
        config = experiments.settings(options.preset, options.method, **changes)
    except UserError:
        # network and width follow from weights, where these are here
        if not weights.missing(changes.get("weights")):
            raise
        weights.load(changes["weights"])
        raise
    experiments.check_parts(options.analyse)
    if options.dry_run and options.json:
        raise UserError("--dry-run makes no record; leave out --json.")
    path = trained.check_options(options)
    progress = Progress()
    first = os.environ.get("RANK", "0") == "0"  # of torchrun's processes
    told = "split" in changes or changes.keys() >= {"base", "tasks"}
    own = datasets.is_own(config.dataset)
    if first and own and not told:
        progress.notice(_divided(config))
    if first and options.preset == "photos" and "dataset" not in changes:
        progress.notice(
            "the preset photos is for images of your own (--dataset FOLDER); this run "
            "is of the digits"
        )
    for name in config.unread(changes) if first else ():
        progress.notice(f"this run never reads '{name}': it changes nothing")
    if first and _weight_of_another(config, options.method, changes):
        progress.notice(
            f"penalty_weight is {config.penalty_weight:g}, which is that of "
            f"'{options.method}' with another penalty; --penalty-weight says another"
        )
    if options.dry_run:
        print(outlook.sentence([config], analyse=options.analyse))
        return
    if options.save_weights is not None:
        trained.save_weights(config, path, options, progress)
        return
    if options.save_network is not None:
        experiments.network_task(config, options.after)
    if own and distributed.announced() == 1:  # others' times are in the book
        outlook.tell([config], progress.notice)
    record = experiments.run_or_load(
        config, analyse=options.analyse, report=progress, notice=progress.notice
    )
    kept = path and trained.save_network(record, path, options, progress)
    progress.close()
    if distributed.rank() > 0:
        return
    if options.json:
        json.dump(record.full_json(), sys.stdout)
        print()
        return
    print(f"{record.name}: {_status(record)}")
    print("after task    " + "".join(f"{t:>8}" for t in range(len(record.task_sizes))))
    _row("class-weighted", record.curve)
    _row("mean over tasks", metrics.mean_over_tasks(record.accuracy))
    _row("forgetting", metrics.forgetting(record.accuracy, record.task_sizes))
    print(f"in percent; {record.path}")
    if kept:
        print(kept)


def _weight_of_another(config: Config, method: str, changes: dict) -> bool:
    """Whether the row has brought the weight of its own penalty, which is changed."""
    row = make_config(config.preset, method)
    changed = config.penalty != row.penalty and "penalty_weight" not in changes
    own = row.unread(["penalty_weight"]) or row.penalty in ("none", "frozen")
    return changed and not own and not config.unread(["penalty_weight"])


def _divided(config: Config) -> str:
    """How the classes are divided into tasks, where that was left to the library."""
    from gfrlib.lab import runs

    first, *later = runs.load_tasks(config).sizes
    then = "no other task"
    if later:
        then = f"then {len(later)} task{'s' * (len(later) > 1)} of {later[0]}"
    return (
        f"{first + sum(later)} classes: {first} in the first task, {then}; --base and "
        "--tasks divide them otherwise"
    )


def _row(name: str, values) -> None:
    shares = ["       -" if np.isnan(v) else f"{100 * v:8.1f}" for v in values]
    print(f"{name:<15}" + "".join(shares))


def grid(options) -> None:
    """Run a grid; each run is printed as it ends."""
    from gfrlib.engine import distributed
    from gfrlib.lab import experiments, grids, naming, origin, plans

    if distributed.announced() > 1:
        raise UserError(
            "A grid runs one process a run; torchrun is for a single run "
            "(python -m gfrlib run)."
        )
    progress = Progress()
    configs = grids.read(options.file, progress.notice)
    experiments.check_parts(options.analyse)
    if options.dry_run:
        print(plans.table(plans.plan(configs, analyse=options.analyse)))
        return
    if options.commit:
        _refuse_uncommittable(configs)
        origin.refuse_changes()
    results = grids.run(
        configs,
        options.jobs,
        ray=options.ray,
        notice=progress.notice,
        analyse=options.analyse,
    )
    # closed at once when this is stopped, so that its processes end, too
    with contextlib.closing(results):
        told = _tell_results(results, naming.apart(configs), commit=options.commit)
    failed, uncommitted = told
    if failed:
        raise UserError(
            f"{failed} of {len(configs)} runs stopped with the errors above; all "
            "others are recorded."
        )
    if uncommitted:
        raise UserError(
            f"Not committed, as said above: {values.counted(uncommitted, 'record')}; "
            "mend it, and the same command commits what is left."
        )


def _tell_results(results, apart: dict, *, commit: bool) -> tuple[int, int]:
    """Print each run as it ends, and commit its record, also one that an earlier call
    has left uncommitted; returns how many failed, and how many are not committed.

    apart: by which settings each differs from others of its name.
    """
    failed = uncommitted = 0
    for number, (config, result) in enumerate(results, 1):
        name = f"[{number}/{len(apart)}] {config.method} seed {config.seed}"
        name += f", {apart[config]}" if apart.get(config) else ""
        if isinstance(result, UserError):
            failed += 1
            print(f"{name}: {result}", file=sys.stderr, flush=True)
            continue
        print(
            f"{name}: {_status(result)}, {_in_short(result)}, {result.name}", flush=True
        )
        if commit:
            added = "".join(f", {part}" for part in result.added)
            kind = "Analysis" if added else "Record"
            done = _commit(result.path, f"{kind}: {result.path.stem}{added}")
            uncommitted += not done
    return failed, uncommitted


def _refuse_uncommittable(configs: list[Config]) -> None:
    """Raises UserError where records would lie outside the repository's folder."""
    from gfrlib.lab import records

    if os.environ.get("GFR_CACHE"):
        raise UserError(
            "--commit commits the records in data/records, and with GFR_CACHE set they "
            "are kept in that folder instead: unset GFR_CACHE, or leave out --commit."
        )
    live = [c.preset for c in configs if not records.is_committed(c)]
    if live:
        raise UserError(
            "--commit commits the records in data/records, and those of the preset "
            f"{live[0]} are kept in data/cache: leave out --commit."
        )


def _in_short(record) -> str:
    from gfrlib import metrics

    average = 100 * metrics.average_incremental(record.curve)
    shown = "    –  " if np.isnan(average) else f"{average:5.1f} %"
    return f"last {100 * record.curve[-1]:5.1f} %, average incremental {shown}"


def _status(record) -> str:
    """Where the record came from, and what was added to its analysis now."""
    added = ", ".join(record.added)
    return f"{record.status}, now with {added}" if added else record.status


def _commit(path: Path, message: str) -> bool:
    """Commit a record with its analysis, if git does not have them as they are, and
    nothing else that is staged; whether it has them now.

    What git refuses is said, and stops nothing.
    """
    import subprocess

    files = [str(p) for p in sorted(path.parent.glob(f"{path.stem}.*"))]
    for words in (
        ["status", "--porcelain"], ["add"], ["commit", "--quiet", "-m", message]
    ):  # fmt: skip
        command = ["git", "-C", str(path.parent), *words, "--", *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = values.line((done.stderr or done.stdout).strip())
            print(f"not committed: {said}", file=sys.stderr, flush=True)
            return False
        if words[0] == "status" and not done.stdout.strip():
            return True  # nothing is new
    return True


def methods(options) -> None:
    """Print the table of methods."""
    names = ("penalty", "memory", "head", "prediction", "batch_norm", "cut", "drift")
    rows = [("method", *names)]
    rows += [(name, *map(row.columns.get, names)) for name, row in METHODS.items()]
    widths = [max(len(str(cell)) for cell in column) + 2 for column in zip(*rows)]
    for row in rows:
        cells = [f"{cell!s:<{wide}}" for cell, wide in zip(row, widths)]
        print("".join(cells).rstrip())


def records(options) -> None:
    """Print what is recorded."""
    from gfrlib.lab import records

    every = records.every()
    if not every:
        print("Nothing is recorded yet; python -m gfrlib run makes the first record.")
    paths = [path for path in every if path.stem.startswith(options.name)]
    if every and not paths:
        raise UserError(
            f"No record begins with '{options.name}'; python -m gfrlib records lists "
            "all of them."
        )
    for path in paths:
        try:
            line = _listed(records.whole(path))
        except UserError as problem:
            line = f"refused. {problem}"
        print(f"{path.stem:<60} {line}")


def _listed(record) -> str:
    so = f"{_in_short(record)}  {record.provenance['date']}  {record.status}"
    return f"{so}; {_settings(record.config)}"


def _settings(config: Config) -> str:
    """'slim gfr, penalty_weight 10': preset, row, and what differs from both, but for
    the split and the seed, which the record's name says.
    """
    from gfrlib.lab import naming

    row, changes = naming.row_of(config)
    left = {k: v for k, v in changes.items() if k not in (*naming.SPLIT, "seed")}
    left.pop("dataset", None)
    return ", ".join(filter(None, (f"{config.preset} {row}", naming.in_words(left))))


def _resolve(text: str):
    """The records meant by a file, a name or its beginning.

    All seeds of one configuration; of these, one that is damaged is named and left out.
    Raises UserError where there is none, or several.
    """
    from gfrlib.lab import records

    path = paths.given(text, "The record")
    if path.is_file():
        if path.name.endswith(".analysis.json"):
            beside = path.name.replace(".analysis.json", ".json")
            raise UserError(
                f"'{path}' is the analysis of a record; give the record beside it, "
                f"{beside}."
            )
        if path.suffix != ".json":
            raise UserError(
                f"'{path}' is no record; give a .json file of data/records."
            )
        return [records.load(path)]
    found, bad, seen = defaultdict(list), [], set()
    for path in records.every():
        if path.stem.startswith(text) and path.stem not in seen:
            seen.add(path.stem)  # the committed one comes first
            try:
                record = records.load(path)
            except UserError as problem:
                bad.append(problem)
                continue
            found[dataclasses.replace(record.config, seed=0).digest()].append(record)
    if bad and not found:
        raise bad[0]
    for problem in bad:
        print(f"left out: {problem}", file=sys.stderr)
    if not found:
        raise UserError(
            f"No record begins with '{text}'; python -m gfrlib records lists them."
        )
    if len(found) > 1:
        first = [some[0] for some in found.values()][:NAMED]
        those = [f"{record.name} ({_settings(record.config)})" for record in first]
        raise UserError(
            f"'{text}' begins the names of records with {len(found)} different "
            f"settings; write more of the name, such as {'; '.join(those)} (python -m "
            f"gfrlib records {text} lists them)."
        )
    return next(iter(found.values()))


def _measures() -> dict:
    """What two records are compared by: {name: function of a record}."""
    from gfrlib import metrics

    return {
        "last, class-weighted": lambda r: r.curve[-1],
        "average incremental": lambda r: metrics.average_incremental(r.curve),
        "last, mean over tasks": lambda r: metrics.mean_over_tasks(r.accuracy)[-1],
        "forgetting": lambda r: metrics.forgetting(r.accuracy, r.task_sizes)[-1],
    }


def compare(options) -> None:
    """Print what differs between two records."""
    from gfrlib.book import claims

    a, b = _resolve(options.a), _resolve(options.b)
    difference = a[0].config.difference(b[0].config)
    difference.pop("seed", None)
    print(
        "settings that differ:"
        if difference
        else "the settings are equal (but for the seed)"
    )
    for name, (ours, theirs) in difference.items():
        print(f"  {name:<24} {ours!s:<16} {theirs!s}")
    print(f"{'results in percent':<26} {'A':>16} {'B':>16} {'B - A':>8}")
    for name, value in _measures().items():
        x, y = (100 * np.array([value(r) for r in group]) for group in (a, b))
        ours, theirs = claims.mean_and_spread(x), claims.mean_and_spread(y)
        gap = y.mean() - x.mean()
        gap = "–" if np.isnan(gap) else f"{gap:+.1f}"
        print(f"{name:<26} {ours:>16} {theirs:>16} {gap:>8}")
    print(
        f"mean ± standard deviation over {len(a)} and {len(b)} seeds"
        if max(len(a), len(b)) > 1
        else "one seed each: a difference of a point or two is within the usual "
        "spread of seeds"
    )


def book_run(options) -> None:
    """Run chapters; print where they are, unless it is the book as it stands."""
    from gfrlib.book import chapters

    # text, read as each parameter's type
    parameters = {name: _absolute(name, text) for name, text in options.parameters}
    for name in parameters:
        if sum(given == name for given, _ in options.parameters) > 1:
            raise UserError(f"'-p {name}' is given twice; leave one of them out.")
    made = chapters.run(options.chapter, parameters, options.out)
    if options.chapter or parameters or options.out:
        print(*made, sep="\n")


def _absolute(name: str, text: str) -> str:
    """A path as it is meant where the command is typed: chapters run elsewhere."""
    if name not in PATHS or not text:
        return text
    path = paths.given(text, f"The parameter '{name}',")
    return str(path.absolute()) if path.exists() else text


def book_check(options) -> None:
    """Name the stale chapters, one a line, and raise UserError where there are any."""
    from gfrlib.book import chapters

    stale = chapters.check()
    if stale:
        print(*stale, sep="\n")
        raise UserError(
            f"Stale: {len(stale)} of {len(chapters.chapters())} chapters; "
            "python -m gfrlib book run makes them anew."
        )
    print("every chapter is fresh")
