"""Run or load: one call returns the recorded result whose settings are equal, else trains it."""

import dataclasses
import functools
from collections.abc import Callable

import torch
from threadpoolctl import threadpool_limits

from gfrlib import tasks, training
from gfrlib.config import Config, make_config
from gfrlib.engine import distributed, machine, store
from gfrlib.engine.machine import Machine
from gfrlib.lab import analysis, datasets, records
from gfrlib.lab.records import Record


@functools.lru_cache(maxsize=2)
def _load(identity: tuple, content: str, device: str) -> tasks.Tasks:
    config = Config(**dict(identity))
    return tasks.build(config, datasets.packed(config.dataset), torch.device(device))


def load_tasks(config: Config) -> tasks.Tasks:
    """The config's task stream, on its device; kept in memory for the next call. Raises UserError as `datasets.packed`."""
    names = ("dataset", "base", "tasks", "split", "class_order", "validation")
    names += ("seed",) * (
        config.class_order == "random"
    )  # all seeds share one copy of the images, else
    # looked up with every call: what a name stands for may be packed anew
    content = (
        ""
        if config.dataset in ("digits", *datasets.KNOWN)
        else datasets.packed(config.dataset).content
    )
    return _load(
        tuple((n, getattr(config, n)) for n in names),
        content,
        str(machine.resolve_device(config)),
    )


def settings(preset: str = "quick", method: str = "gfr", **changes) -> Config:
    """make_config, and a `dataset` that is a path is packed first and named by its content."""
    if isinstance(changes.get("dataset"), str):
        changes["dataset"] = datasets.resolve(changes["dataset"])
    return make_config(preset, method, **changes)


def run_or_load(
    config: Config, *, report: Callable | None = None, notice: Callable | None = None
) -> Record:
    """The record of `config`: found if its settings are equal, else trained, analysed and kept. See Record.status."""
    here = Machine.of(config)
    here.prepare()
    distributed.start(here.device)
    distributed.check(config)
    stream = load_tasks(config)
    found = distributed.broadcast(
        records.find(config, stream.sizes, stream.content)
        if distributed.rank() == 0
        else None
    )
    if found is not None:
        return found
    before = torch.get_num_threads()
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        observer = (
            analysis.Observer(config, stream) if distributed.rank() == 0 else None
        )
        with threadpool_limits(
            config.threads or None, "blas"
        ):  # NumPy's threads, too: they would wait for each other
            outcome = training.run(
                config,
                stream,
                machine=here,
                store=store.Store(notice=notice),
                report=report,
                observe=observer,
            )
        record = _record(config, stream, outcome, here)
        path = distributed.broadcast(
            records.save(record, observer.result(), observer.sheet())
            if observer
            else None
        )
    finally:
        torch.set_num_threads(before)
    return dataclasses.replace(record, path=path)


def seeds(config: Config, numbers: tuple | range = range(3)) -> list[Record]:
    """run_or_load for each seed."""
    return [run_or_load(dataclasses.replace(config, seed=s)) for s in numbers]


def _record(
    config: Config, stream: tasks.Tasks, outcome: training.Outcome, here: Machine
) -> Record:
    used = sum(stream.sizes)
    counts = torch.bincount(stream.test_labels, minlength=used)[:used].tolist()
    main = [
        None
        if p is None
        else p[config.prediction if config.prediction in p else next(iter(p))]
        for p in outcome.predictions
    ]
    bare = Record(
        config=config,
        class_names=stream.class_names[:used],
        task_sizes=list(stream.sizes),
        test_counts=counts,
        predictions=main,
        rules={},
        losses=outcome.losses,
        seconds=outcome.seconds,
        bytes_kept=outcome.bytes_kept,
        weights=outcome.weights,
        provenance=records.provenance(
            _machine(here), torch.get_num_threads(), here.precision, stream.content
        ),
    )
    edges = [0, *torch.tensor(stream.sizes).cumsum(0).tolist()]
    rules: dict[str, list] = {}
    for t, row in enumerate(outcome.predictions):
        for rule, predicted in (row or {}).items():
            correct = predicted == bare.labels(t)
            tasks_of = bare.labels(t)
            rows = rules.setdefault(rule, [None] * len(stream.sizes))
            rows[t] = [
                round(float(correct[(tasks_of >= a) & (tasks_of < b)].mean()), 6)
                for a, b in zip(edges[: t + 1], edges[1 : t + 2])
            ]
    losses = [
        {
            k: v if isinstance(v, (int, str)) else float(f"{v:.5g}")
            for k, v in row.items()
        }
        for row in outcome.losses
    ]
    return dataclasses.replace(bare, rules=rules, losses=losses)


def _machine(here: Machine) -> str:
    """The chip's name, for the provenance; with several processes, their number before it."""
    several = f"{distributed.size()} x " if distributed.size() > 1 else ""
    return several + here.chip
