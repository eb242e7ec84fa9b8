"""Run or load: one call returns the recorded result of equal settings, else trains."""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable

import torch

from gfrlib import pretrained, training
from gfrlib.config import Config, UserError, checked, make_config
from gfrlib.engine import distributed, limits, paths, store
from gfrlib.engine.machine import Machine
from gfrlib.engine.phase import Phase
from gfrlib.engine.source import analysis_digest, check_unchanged
from gfrlib.generator_training import TRAINERS
from gfrlib.heads import HEADS
from gfrlib.lab import (
    analysis,
    datasets,
    footprint,
    origin,
    plans,
    records,
    runs,
    saved,
    weights,
)
from gfrlib.lab.records import Record
from gfrlib.lab.runs import load_tasks
from gfrlib.lab.saved import Saved
from gfrlib.networks import NETWORKS
from gfrlib.penalties import FACIL, IMPORTANCES, PENALTIES
from gfrlib.prediction import PREDICTIONS
from gfrlib.presets import LIVE
from gfrlib.pretrained import Pretrained
from gfrlib.replay import DRIFTS, MEMORIES
from gfrlib.tasks import Tasks, task_sizes, usual_split


def settings(preset: str = "quick", method: str = "gfr", **changes) -> Config:
    """make_config; a `dataset` that is a path is packed first, named by its content.

    So are `weights` that are a file; network and width follow from them. A data set
    of the reader's own is divided as in tasks.usual_split where `changes` leave it open
    and the preset is `photos`, or has a split that does not fit. Raises UserError.
    """
    if isinstance(changes.get("dataset"), str):
        paths.file_or_folder(changes["dataset"], "The data set")
        changes["dataset"] = datasets.resolve(changes["dataset"])
    changes = weights.settings(changes)
    config = make_config(preset, method, **changes)
    split = _own_split(config, changes)
    return make_config(preset, method, **changes, **split) if split else config


def _own_split(config: Config, changes: dict) -> dict:
    """`base` and `tasks` of a data set of the reader's own, where they are open."""
    left = {"base", "tasks"} - changes.keys()
    if config.split or not left or not datasets.is_own(config.dataset):
        return {}
    classes = len(datasets.packed(config.dataset).class_names)
    if config.preset != "photos":
        with contextlib.suppress(UserError):
            task_sizes(classes, config.base, config.tasks)
            return {}
    given = {name: changes[name] for name in changes.keys() & {"base", "tasks"}}
    found = dict(zip(("base", "tasks"), usual_split(classes, **given)))
    return {name: found[name] for name in left}


def run_or_load(
    config: Config,
    *,
    analyse: str | Iterable[str] = (),
    leave_out: Iterable[str] = (),
    report: Callable | None = None,
    notice: Callable[[str], None] | None = None,
) -> Record:
    """The record of `config`: found if its settings are equal, else trained and kept.

    At a live preset (quick, example, photos) the costly parts of the analysis are
    computed when `analyse` names them ("similarity", "projection", "quality"), at once
    or later, from the stages in the cache; other presets compute all but what
    `leave_out` names (the similarity of wide layers takes the host minutes, in which a
    GPU waits). A live record that other code has analysed is analysed anew. A larger
    one gets what `analyse` names and it lacks, beside what is there; where its stages
    are gone it is trained again, and nothing is added unless the weights are the
    record's (Record.added). `report` hears of progress (training.run), `notice` of
    waiting and of a precision that is slow here.
    Record.status tells where the record came from. Raises UserError.
    """
    left = set(leave_out)
    asked = {analyse} if isinstance(analyse, str) else set(analyse)
    parts, asked = _parts(config, asked) - left, asked - left
    with limits.told():
        return _run_or_load(config, parts, asked, report, notice)


def _run_or_load(
    config: Config,
    parts: set[str],
    asked: set[str],
    report: Callable | None,
    notice: Callable[[str], None] | None,
) -> Record:
    check_unchanged()
    config = checked(config)
    check_own_code(config)
    here = Machine.of(config)
    here.prepare()
    distributed.start(here.device)
    distributed.check(config)
    stream = load_tasks(config)
    found, lacking = distributed.broadcast(
        _find(config, stream, parts, asked) if distributed.rank() == 0 else None
    )
    if found is not None and not lacking:
        return found
    if found is None:
        records.check_replaceable(config, stream.sizes, stream.content)
    footprint.check(config, stream, here)
    if records.is_committed(config):
        origin.refuse_changes()
    commit = origin.code_commit()  # the files may change while it trains
    alone = distributed.rank() == 0
    observer = None
    if alone:
        here.tell(notice or warnings.warn)
        observer = analysis.Observer(config, stream, lacking, here)
    with here.limited():
        outcome = training.run(
            config,
            stream,
            machine=here,
            store=store.Store(notice=notice),
            report=report,
            observe=observer,
        )
        provenance = _provenance(here, stream, commit, outcome.made)
    if found is not None:
        _check_weights(found, outcome.weights)
        if alone:
            parts = _result(observer, found)
            found = records.analysed(found, parts, observer.sheet())
        return distributed.broadcast(found if alone else None)
    numbers = runs.numbers(config, stream, outcome)
    record = Record(config=config, provenance=provenance, **numbers)
    if alone:
        parts = _result(observer, record)
        path = records.save(record, parts, observer.sheet())
        record = records.holding(dataclasses.replace(record, path=path), parts)
    return distributed.broadcast(record if alone else None)


def extractor_after(
    config: Config,
    after: int | None = None,
    *,
    report: Callable | None = None,
    notice: Callable[[str], None] | None = None,
) -> Pretrained:
    """F after task `after`, with what a run that starts from it must know.

    None: task 0, which is what a pretrained extractor has learned from, or all tasks of
    joint training. Its stages are loaded where they are known, else trained; later
    tasks are not. Raises UserError.
    """
    stream = load_tasks(config)
    t = _task(config, stream, after, usual=0)
    if config.network != "resnet18":
        raise UserError(
            "A pretrained extractor is a ResNet-18, and this run trains the small CNN; "
            "add --network resnet18."
        )
    if config.head == "cosine":
        raise UserError(
            "The extractor of this run ends without a ReLU, for its cosine head, and a "
            "pretrained one ends with it; take a method with another head, such as gfr."
        )
    source = _told_of(config, stream, t)
    if t == 0 and not config.full_head:  # the task's stage alone, no generator
        stream = dataclasses.replace(stream, sizes=stream.sizes[:1])

    def take(network, memory, phase) -> Pretrained:
        return pretrained.of_network(network, stream.mean, stream.std, source)

    return _after(config, stream, t, take, report, notice)


def network_after(
    config: Config,
    after: int | None = None,
    *,
    report: Callable | None = None,
    notice: Callable[[str], None] | None = None,
) -> Saved:
    """The network after task `after` (None: the last), with all that it needs to name
    the class of a picture (saved.Saved.classify).

    Its stages are loaded where they are known, else trained; `notice` hears of that.
    Raises UserError.
    """
    stream, t = load_tasks(config), network_task(config, after)
    if notice and not plans.are_kept(config, stream, t):
        notice("The network of this run is not kept in the cache: it is trained now.")
    source = _told_of(config, stream, t)

    def take(network, memory, phase) -> Saved:
        return saved.of_run(config, stream, t, network, memory, phase, source)

    return _after(config, stream, t, take, report, notice)


def network_task(config: Config, after: int | None = None) -> int:
    """The task after which `network_after` takes the network. Raises UserError where
    the run has no such task.
    """
    stream = load_tasks(config)
    return _task(config, stream, after, usual=len(stream.sizes) - 1)


def _task(config: Config, stream: Tasks, after: int | None, *, usual: int) -> int:
    """`after`, if this run has a network then; None: the usual task, or the only one of
    joint training. Raises UserError.
    """
    last, joint = len(stream.sizes) - 1, config.memory == "real"
    t = after if after is not None else last if joint else usual
    if not (last if joint else 0) <= t <= last:
        there = f"its one is {last}" if joint else f"they are 0 to {last}"
        raise UserError(f"There is no task {t} in this run; {there}.")
    return t


def _after(
    config: Config,
    stream: Tasks,
    after: int,
    take: Callable,
    report: Callable | None,
    notice: Callable[[str], None] | None,
):
    """What `take` makes of the network and the memory after a task, and of a phase in
    which they can be asked. Raises UserError.
    """
    check_unchanged()
    config = checked(config)
    check_own_code(config)
    here = Machine.of(config)
    here.prepare()
    distributed.start(here.device)
    distributed.check(config)
    footprint.check(config, stream, here)
    found = []

    def observe(t: int, network, memory) -> None:
        if t == after:
            found.append(take(network, memory, Phase("test", t, config.seed, here)))
            raise _Enough

    with limits.told(), here.limited(), contextlib.suppress(_Enough):
        kept = store.Store(notice=notice)
        training.run(
            config, stream, machine=here, store=kept, report=report, observe=observe
        )
    return found[0]


class _Enough(Exception):
    """The task that was asked for is learned."""


def _told_of(config: Config, stream: Tasks, t: int) -> str:
    """Where an extractor comes from, in words."""
    classes = sum(stream.sizes[: t + 1])
    start = f", from {config.weights}" if config.weights else ""
    return (
        f"{config.method} on {config.dataset}, {classes} classes, after task {t}, seed "
        f"{config.seed}, settings {config.digest()}{start}"
    )


def _parts(config: Config, asked: set[str]) -> set[str]:
    """The parts of the analysis that this run's record must have."""
    check_parts(asked)
    every = set(analysis.PARTS)
    return asked | (every - analysis.COSTLY if config.preset in LIVE else every)


def check_own_code(config: Config) -> None:
    """Raises UserError where a word of the config has its function outside gfrlib: no
    key would notice a change of it, and an old result would be shown for new code.
    """
    tables = (
        ("penalty", PENALTIES),
        ("penalty", IMPORTANCES),
        ("penalty", FACIL),
        ("memory", MEMORIES),
        ("memory", TRAINERS),
        ("head", HEADS),
        ("prediction", PREDICTIONS),
        ("drift", DRIFTS),
        ("network", NETWORKS),
    )
    for column, table in tables:
        word = getattr(config, column)
        function = table.get(word)
        while isinstance(function, functools.partial):
            function = function.func
        place = getattr(function, "__module__", "gfrlib")
        if place.partition(".")[0] != "gfrlib":
            raise UserError(
                f"The {column} '{word}' is code of '{place}', and a change of it would "
                "go unnoticed in what is kept; put it into gfrlib's own files (see Add "
                "a method), or call gfrlib.training.run, which keeps nothing."
            )


def check_parts(names: Iterable[str]) -> None:
    """Raises UserError unless all of these are parts of an analysis."""
    unknown = sorted(set(names) - set(analysis.PARTS))
    if unknown:
        raise UserError(
            f"An analysis has no part '{unknown[0]}'; "
            f"choose from {', '.join(analysis.PARTS)}."
        )


def _find(
    config: Config, stream: Tasks, parts: set[str], asked: set[str]
) -> tuple[Record | None, set[str]]:
    """The record, if there is one, and the parts of its analysis still to compute.

    A recorded analysis of a larger preset is taken as it is, as its stages may be gone;
    only what is asked for by name is added.
    """
    found = records.find(config, stream.sizes, stream.content)
    if found is None:
        return None, parts
    have = found.analysis or {}
    if config.preset not in LIVE:
        return found, asked - set(have)
    there = parts & set(have)
    if have.get("code") == _stamp(found):
        return found, parts - there
    return found, parts | (set(have) & set(analysis.PARTS))


def _check_weights(record: Record, weights: str) -> None:
    """Raises UserError unless these are the weights that the record was made with."""
    if weights != record.weights:
        made = record.provenance
        raise UserError(
            f"Trained again here, '{record.name}' ends with other weights than when it "
            f"was recorded (on {made['device']}, code {made['commit'][:10]}), so that "
            "nothing was added to its analysis: call it where its stages are kept, or "
            "on a machine like that one."
        )


def _result(observer: analysis.Observer, record: Record) -> dict:
    """The parts, with what made them."""
    return {"code": _stamp(record), **observer.result()}


def _stamp(record: Record) -> str:
    """The code that analyses, the weights that it looks at, and on which images."""
    content = record.provenance.get("content", "")
    images = f", {content}" if content else ""
    return f"{analysis_digest()} on {record.weights[:12]}{images}"


def _provenance(here: Machine, stream: Tasks, commit: str, made: list) -> dict:
    size = distributed.size()
    found = origin.provenance(
        f"{size} x {here.chip}" if size > 1 else here.chip,
        torch.get_num_threads(),
        here.precision,
        stream.content,
        commit,
    )
    own = {**found, "device": here.chip}
    others = [some for some in made if not some.items() <= own.items()]
    if others:  # stages that another machine, or another number of threads, has trained
        found["stages"] = others
    if stream.pretrained:
        names = ("name", "sha256", "source")
        found["pretrained"] = {name: getattr(stream.pretrained, name) for name in names}
    return found
