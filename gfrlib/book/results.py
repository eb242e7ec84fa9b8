"""What chapters ask of runs: which are recorded, and the numbers read from them.

`rows` are methods' names, or {label: settings}; the answers are {row: [Record, ...]},
one Record a seed. Numbers are in percent, one a seed, where nothing else is said.
"""

from collections.abc import Callable

import numpy as np

from gfrlib import metrics, tasks
from gfrlib.book import live, looks
from gfrlib.config import Config, UserError, make_config
from gfrlib.lab import datasets, experiments, records
from gfrlib.lab.records import Record

MEASURES = ("svcca", "svcca_null", "pwcca", "cka", "cka_null")  # of similarity
CLASSES = {"digits": 10, "cifar100": 100}  # known without a look at the data


# Which runs ---------------------------------------------------------------------------


def configs(
    preset: str, rows, seeds: int = 1, *, make=make_config, **shared
) -> dict[str, list[Config]]:
    """{row: its Configs, one a seed}; `shared` are settings of all rows.

    make: what makes a Config; `experiments.settings` packs a data set given as a path.
    """
    rows = rows if hasattr(rows, "keys") else {name: {"method": name} for name in rows}
    return {
        row: [make(preset, **{**shared, **own}, seed=s) for s in range(seeds)]
        for row, own in rows.items()
    }


def find(config: Config, classes: int | None = None) -> Record | None:
    """The recorded run of these settings, or None; nothing is trained.

    classes: how many the data set has, where it is not on this machine.
    """
    sizes = config.split
    if not sizes:
        classes = classes or CLASSES.get(config.dataset)
        classes = classes or len(datasets.packed(config.dataset).class_names)
        sizes = tasks.task_sizes(classes, config.base, config.tasks)
    return records.find(config, sizes)


def recorded(
    preset: str, rows, seeds: int = 3, *, classes: int | None = None, **shared
) -> dict[str, list[Record]]:
    """The recorded runs of the rows; those without any are left out, none is run."""
    wanted = configs(preset, rows, seeds, **shared)
    found = {row: [find(c, classes) for c in some] for row, some in wanted.items()}
    found = {row: [r for r in some if r is not None] for row, some in found.items()}
    return {row: some for row, some in found.items() if some}


def trained(
    preset: str, rows, seeds: int = 1, *, analyse=(), **shared
) -> dict[str, list[Record]]:
    """The runs of the rows: each is loaded if it is known, else trained now.

    analyse: the costly parts of the analysis that the records must hold: "similarity",
    "projection", "quality" (experiments.run_or_load).
    """
    wanted = configs(preset, rows, seeds, make=experiments.settings, **shared)
    return {
        row: [run_or_load(c, analyse=analyse) for c in some]
        for row, some in wanted.items()
    }


def run_or_load(config: Config, *, analyse=()) -> Record:
    """experiments.run_or_load, with a line in a running notebook that tells where the
    training stands.
    """
    line = live.report(f"{looks.look(config.method)['label']}, seed {config.seed}")
    try:
        return experiments.run_or_load(config, analyse=analyse, report=line)
    finally:
        if line is not None:
            line.close()


def only(found: dict, rows) -> dict:
    """Those of the found runs that belong to `rows`, in that order."""
    return {row: found[row] for row in rows if row in found}


# Their numbers ------------------------------------------------------------------------


def final(record: Record, rule: str | None = None) -> float:
    """Class-weighted accuracy after the last task, 0 to 1; or by another `rule`."""
    curve = record.curve
    if rule is not None:
        curve = metrics.class_weighted(record.rule(rule), record.task_sizes)
    known = [float(v) for v in curve if not np.isnan(v)]
    return known[-1] if known else float("nan")


def last(runs, rule: str | None = None) -> list[float]:
    """Class-weighted accuracy after the last task."""
    return [100 * final(r, rule) for r in runs]


def same_seeds(first: dict, second: dict) -> tuple[list[float], list[float]]:
    """Two groups {seed: value} as lists; of one seed where either has one, and shares
    it with the other: runs of a seed begin with the same network.
    """
    shared = [seed for seed in first if seed in second]
    if shared and min(len(first), len(second)) == 1:
        first, second = ({s: side[s] for s in shared} for side in (first, second))
    return list(first.values()), list(second.values())


def matched(
    first, second, of: Callable | None = None
) -> tuple[list[float], list[float]]:
    """A number of each of two rows of runs, by `same_seeds`.

    of: `after` task 0, say; it takes runs and gives one number a run. Default: `last`.
    """
    of = of or last
    sides = (
        dict(zip([run.config.seed for run in some], of(some), strict=True))
        for some in (first, second)
    )
    return same_seeds(*sides)


def after(runs, t: int) -> list[float]:
    """Class-weighted accuracy after task t."""
    return [100 * float(r.curve[t]) for r in runs]


def begun(runs) -> list[float]:
    """Class-weighted accuracy after task 0."""
    return after(runs, 0)


def gained(runs) -> list[float]:
    """Points of class-weighted accuracy from task 0 to the last task."""
    pairs = zip(last(runs), begun(runs), strict=True)
    return [now - then for now, then in pairs]


def average(runs) -> list[float]:
    """Average incremental accuracy: the mean of the curve over the tasks."""
    return [100 * metrics.average_incremental(r.curve) for r in runs]


def forgotten(runs) -> list[float]:
    """Class-weighted forgetting after the last task; NaN where there is one row."""
    return [100 * metrics.forgetting(r.accuracy, r.task_sizes)[-1] for r in runs]


def old_new(record: Record, t: int | None = None) -> np.ndarray:
    """[2] accuracy of one run on old classes and on task t's (default: the last)."""
    t = len(record.task_sizes) - 1 if t is None else t
    args = record.predictions[t], record.labels(t), record.task_sizes, t
    return 100 * np.array(metrics.old_new(*args))


def mistaken(record: Record, t: int | None = None) -> np.ndarray:
    """[3] percent of all test images after task t (default: the last) whose answer is a
    wrong class of their own task, a class of an older task, or one of a newer task.

    Task 0 has no older task, task t no newer one: compare with joint training, which
    prefers none.
    """
    t = len(record.task_sizes) - 1 if t is None else t
    true, answer = record.labels(t), np.asarray(record.predictions[t])
    task_of = np.repeat(np.arange(len(record.task_sizes)), record.task_sizes)
    later = task_of[answer] - task_of[true]
    kinds = (answer != true) & (later == 0), later < 0, later > 0
    return 100 * np.array([kind.mean() for kind in kinds])


def told(runs) -> list[float]:
    """`last`, told the task of every test image; empty for rows without that rule."""
    known = [r for r in runs if "task-aware" in r.rules]
    return last(known, "task-aware")


def arrived(runs, rule: str | None = None) -> list[float]:
    """Accuracy on later tasks when each had just been learned, their mean; by the
    runs' own rule, or by another `rule`.
    """
    return [100 * float(np.diagonal(_matrix(r, rule))[1:].mean()) for r in runs]


def stayed(runs, rule: str | None = None) -> list[float]:
    """Accuracy on later tasks after the last one, their mean; `rule` as `arrived`."""
    return [100 * float(_matrix(r, rule)[-1, 1:].mean()) for r in runs]


def _matrix(record: Record, rule: str | None) -> np.ndarray:
    return record.accuracy if rule is None else record.rule(rule)


def recognised(runs) -> list[tuple[int, list[float]]]:
    """[(after task t, percent of each run), ...] of the replays of task 0's classes.

    Percent of them that the network of task 0 takes for the class asked for, after each
    training of the generator.
    """
    steps = zip(*(r.analysis["recognised"] for r in runs), strict=True)
    return [(some[0]["after"], [100 * e["share"] for e in some]) for some in steps]


def leads(found: dict, control: str) -> dict[str, list[tuple[int, list[float]]]]:
    """{row: [(classes seen, points above the control, one a seed), ...]}.

    Each run is set beside the control's run of its seed; left out are rows that share
    no seed with it, and those without a curve (joint training). Empty without the
    control.
    """
    base, lines = {r.config.seed: r for r in found.get(control, ())}, {}
    for row, runs in found.items():
        pairs = [(r, base[r.config.seed]) for r in runs if r.config.seed in base]
        if not pairs or np.isnan(pairs[0][0].curve).any():
            continue
        gaps = 100 * np.array([own.curve - other.curve for own, other in pairs])
        seen = np.cumsum(runs[0].task_sizes).tolist()
        lines[row] = [(x, list(y)) for x, y in zip(seen, gaps.T, strict=True)]
    return lines


def seconds(record: Record, phase: str, when: str = "") -> float:
    """Seconds of training in a phase of one run; `when`: "task 0" or "later" only, or
    "to replay", all but those of the last task, from which nobody replays.
    """
    last = len(record.task_sizes) - 1
    known = {
        "": range(last + 1),
        "task 0": (0,),
        "later": range(1, last + 1),
        "to replay": range(last),
    }
    of = [s for s in record.seconds if s["phase"] == phase]
    return sum(s["seconds"] for s in of if s["task"] in known[when])


def carried(record: Record, without: tuple = ()) -> int:
    """Bytes for the old classes, carried into the last task."""
    known = [items for items in record.bytes_kept if items is not None]
    items = known[-2] if len(known) > 1 else known[-1]
    return sum(size for item, size in items.items() if item not in without)


def drift(record: Record, task: int = 0) -> list[float]:
    """How far the features of task's test images have moved, after each task.

    In units of their length when the task had just been learned; NaN before it was.
    """
    steps = [{row["task"]: row for row in s["of"]} for s in record.analysis["drift"]]
    return [step.get(task, {"features": float("nan")})["features"] for step in steps]


def drifts(runs, task: int = 0) -> list[tuple[int, list[float]]]:
    """[(after task t, one value a run), ...] of `drift`: the points of a curve."""
    steps = zip(*(drift(run, task) for run in runs), strict=True)
    return [(t, list(values)) for t, values in enumerate(steps)]


def drifted(runs) -> list[float]:
    """`drift` of task 0 after the last task, in percent, one value a run."""
    return [100 * drift(run)[-1] for run in runs]


def similarity(
    record: Record, measure: str = "svcca", *, task: int = 0, after: int | None = None
) -> dict[str, float]:
    """{layer: similarity of M_after and M_task on task's test images}, 0 to 1.

    measure: svcca, pwcca or cka, or svcca_null, cka_null; NaN where there is none.
    Raises UserError where the record's analysis holds no such comparison.
    """
    after = len(record.task_sizes) - 1 if after is None else after
    found = {
        entry["layer"]: entry.get(measure, float("nan"))
        for entry in (record.analysis or {}).get("similarity", ())
        if (entry["after"], entry["task"]) == (after, task)
    }
    if not found or all(np.isnan(v) for v in found.values()):
        raise UserError(
            f"The record '{record.name}' holds no {measure} of task {task} after task "
            f"{after}; experiments.run_or_load(config, analyse='similarity') computes "
            "it, but for a frozen extractor, which stays as it was."
        )
    return found


def similarities(records, measures: tuple = MEASURES) -> list[dict]:
    """All comparisons of records' layers as rows, for `words.show(..., data=...)`.

    Columns method, seed, after, task, layer, rows (how many were compared), measures.
    """
    names = ("after", "task", "layer", "rows", *measures)
    return [
        {"method": r.config.method, "seed": r.config.seed}
        | {name: entry.get(name) for name in names}
        for _, runs, _ in looks.groups(records)
        for r in runs
        for entry in r.analysis["similarity"]
    ]
