"""How the running example was looked for: the runs of `grids/example.yaml` as a table.

`python -m gfrlib.book.example` writes what it finds of them, after
`python -m gfrlib grid grids/example.yaml`, to `data/example-search.csv`.
"""

import sys

import pandas as pd

from gfrlib.config import Config, UserError
from gfrlib.engine.store import root, write_atomically
from gfrlib.lab import grids, records
from gfrlib.lab.records import Record
from gfrlib.tasks import task_sizes

CLASSES = 10  # of the digits
# What a run is called, by (penalty, memory)
NAMES = {
    ("frozen", "means"): "Frozen F, nearest mean",
    ("frozen", "covariances"): "FeCAM",
    ("frozen", "gaussian"): "frozen F, same memory",
    ("none", "none"): "Fine-tuning",
    ("none", "gaussian"): "replay only",
    ("none", "real"): "Joint training",
    ("logits", "none"): "LwF",
    ("features", "none"): "distillation only",
    ("features", "gan"): "both guards, GAN",
    ("features", "gaussian"): "both guards, Gaussians",
}
DISTANCES = {"batch": "the paper's length", "mse": "squared distance"}
# the weight of the penalty that the book shows
WEIGHTS = {"LwF": 3.0, DISTANCES["batch"]: 1.0, DISTANCES["mse"]: 2.0}


def name_of(config: Config) -> str:
    """What a run of the search is called."""
    name = NAMES[config.penalty, config.memory]
    more = []
    if config.penalty == "features":
        more.append(DISTANCES[config.distance])
    if config.memory == "gaussian" and config.gaussian != "full":
        more.append(config.gaussian)
    return ", ".join([name, *more])


def line(record: Record) -> dict:
    """One run as a row: settings, percent at the end, seconds beyond task 0."""
    config = record.config
    read = config.identity()
    return {
        "method": name_of(config),
        "base": config.base,
        "tasks": config.tasks,
        "features": config.bottleneck or 32 * config.width,
        "epochs a task": config.epochs_task,
        "weight": config.penalty_weight if "penalty_weight" in read else "",
        "seed": config.seed,
        "last": round(100 * float(record.curve[-1]), 2),
        "average incremental": round(100 * float(record.curve.mean()), 2),
        "seconds": round(sum(p["seconds"] for p in record.seconds if p["task"]), 1),
        "code": record.provenance["commit"][:8],
    }


def found() -> pd.DataFrame:
    """The runs of the grid, a row each.

    Raises UserError where one is not in the cache, made by this very code.
    """
    configs = grids.read(root() / "grids" / "example.yaml")
    runs = [
        records.find(config, task_sizes(CLASSES, config.base, config.tasks))
        for config in configs
    ]
    if missing := runs.count(None):
        raise UserError(
            f"{missing} of the {len(runs)} runs of the search are not made by this "
            "code; first run python -m gfrlib grid grids/example.yaml."
        )
    return pd.DataFrame([line(run) for run in runs])


def search() -> pd.DataFrame:
    """What was found when the example was chosen, a row a run."""
    path = root() / "data" / "example-search.csv"
    return pd.read_csv(path, keep_default_na=False)


def weight_of(name: str) -> float | str:
    """The weight that the book shows for what is called so; "" where it has none."""
    return next((WEIGHTS[part] for part in name.split(", ") if part in WEIGHTS), "")


def shown(runs: pd.DataFrame) -> pd.DataFrame:
    """Those of the runs that have the weight, and the epochs, that the book shows."""
    weight = runs["method"].map(weight_of)
    same = runs["weight"].astype(str) == weight.astype(str)
    return runs[same & (runs["epochs a task"] == 100)]


def summary(runs: pd.DataFrame, by: list[str], value: str = "last") -> pd.DataFrame:
    """A row for each group of runs that differ by the seed alone, best last.

    Columns `by`, seeds, mean, deviation (sample, empty for one seed), lowest, highest,
    in percent.
    """
    of = runs.groupby(by, sort=False)[value]
    frame = of.agg(seeds="count", mean="mean", deviation="std", lowest="min")
    frame["highest"] = of.max()
    return frame.sort_values("mean").reset_index()


def main() -> int:
    """Write the table, whole or not at all; the exit code."""
    path = root() / "data" / "example-search.csv"
    try:
        text = found().to_csv(index=False, lineterminator="\n")
        write_atomically(path, text.encode("utf-8"))
    except UserError as problem:
        print(problem, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
