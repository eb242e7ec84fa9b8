"""What a grid would train, and how long: its stages, without training them."""

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from gfrlib import training
from gfrlib.batches import real_features
from gfrlib.config import Config, UserError
from gfrlib.engine import limits, store
from gfrlib.engine.machine import Machine
from gfrlib.engine.values import counted
from gfrlib.lab import footprint, naming, records
from gfrlib.lab.runs import load_tasks
from gfrlib.penalties import Past
from gfrlib.tasks import Tasks

# Steps that are timed, and training images of each class for them. After so many
# seconds no further step is timed: long ones tell what they take without repetition.
PROBE_STEPS, PROBE_IMAGES, PROBE_SECONDS = 5, 16, 1.0
# For the timed steps: more than enough, so that the steps alone end them.
ENDLESS = {
    "epochs_base": 999,
    "epochs_task": 999,
    "generator_steps_base": 999,
    "generator_steps_later": 9999,
}
# Settings that do not change how long a step takes, or are not counted (`compiled`).
AS_FAST = {
    "seed": 0,
    "penalty_weight": 1.0,
    "temperature": 2.0,
    "alignment_weight": 1.0,
    "compiled": False,
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """One link of a run's chain."""

    key: str
    task: int
    phase: str  # classifier, generator or importance
    steps: int  # of training; 0 where nothing is trained


def stages(config: Config, stream: Tasks) -> list[Stage]:
    """The stages of a run in their order, without training any."""
    chain = training.Chain(config, stream, store.Store())
    found = []
    for t in chain.numbers:
        for phase, count in _steps(chain, t).items():
            found.append(Stage(chain.next_key(phase, t), t, phase, count))
    return found


def are_kept(config: Config, stream: Tasks, t: int) -> bool:
    """Whether all stages up to task t lie in the cache."""
    place = store.Store().place
    return all(_is_done(place, s) for s in stages(config, stream) if s.task <= t)


def _steps(chain: training.Chain, t: int) -> dict[str, int]:
    """{phase: steps of training} of task t."""
    config, stream, first = chain.config, chain.tasks, t == chain.numbers.start
    learned = range(t + 1) if config.memory == "real" else [t]
    images = sum(len(stream.train_index(k)) for k in learned)
    images += exemplars_kept(config, stream, t - 1)
    epochs = config.epochs_base if first else config.epochs_task
    if not first and config.penalty == "frozen" and config.prediction != "softmax":
        epochs = 0
    per_epoch = max(1, images // config.batch_size)
    steps = {"classifier": per_epoch * epochs, "generator": chain.generator_steps(t)}
    if config.penalty in ("fisher", "sensitivity"):
        steps["importance"] = 0
    return steps


def exemplars_kept(config: Config, stream: Tasks, t: int) -> int:
    """Images that the memory holds after task t; none before task 0."""
    if config.memory != "exemplars" or t < 0:
        return 0
    seen = stream.train_labels < stream.classes(t).stop
    counts = torch.bincount(stream.train_labels[seen])
    return int(counts.clamp_max(config.exemplars).sum())


class _Enough(Exception):
    """The timed steps are done."""


def seconds_per_step(
    config: Config,
    stream: Tasks,
    stage: Stage,
    *,
    steps: int = PROBE_STEPS,
    images: int = PROBE_IMAGES,
    warm: int = 1,
    longest: float | None = None,
    clock: Callable = time.perf_counter,
) -> float:
    """Measured here and now: a few steps of the stage's kind.

    On a few images of each class, with untrained networks. On a CPU a step takes as
    long as its images; on a GPU it may take as long as its launches, so that there are
    images enough for a whole batch. The first `warm` steps, in which libraries set
    themselves up, do not count. Between the others nothing waits for a GPU, as in
    training. On a CPU the last is the one after which `longest` seconds are over (None:
    PROBE_SECONDS), or the last of `steps`.
    """
    enough = PROBE_SECONDS if longest is None else longest
    here = Machine.of(config)
    here.prepare()  # as the run will be
    t = min(stage.task, 1) if config.memory != "real" else stage.task
    if stream.train_images.is_cuda:
        images = max(images, -(-config.batch_size // min(stream.sizes)))
    few = _few(stream, t, images)
    batch = min(config.batch_size, images * min(few.sizes))
    small = dataclasses.replace(config, batch_size=batch, feature_views=1, **ENDLESS)
    ticks: list[float] = []

    def tick(*_):
        done, waits = len(ticks) + 1, few.train_images.is_cuda
        if waits and done in (warm, warm + steps):
            torch.cuda.synchronize()
        ticks.append(clock())
        long = not waits and done > warm and ticks[-1] - ticks[warm - 1] > enough
        if long or done == warm + steps:
            raise _Enough

    with here.limited(), contextlib.suppress(_Enough):
        _train(training.Chain(small, few, report=tick, machine=here), t, stage)
    scale = config.batch_size / batch if stage.phase == "classifier" else 1.0
    counted = ticks[warm - 1 :]
    return scale * (counted[-1] - counted[0]) / max(1, len(counted) - 1)


def _few(stream: Tasks, t: int, images: int) -> Tasks:
    """The stream with so many training images of each class up to task t."""
    classes = range(stream.classes(t).stop)
    chosen = [torch.nonzero(stream.train_labels == c)[:images, 0] for c in classes]
    rows = torch.cat(chosen)
    return dataclasses.replace(
        stream,
        train_images=stream.train_images[rows],
        train_labels=stream.train_labels[rows],
    )


def _train(chain: training.Chain, t: int, stage: Stage) -> None:
    """Train a stage of that kind, as task t; nothing is kept."""
    config, stream = chain.config, chain.tasks
    network, memory, importance = training.build(config, stream, chain.machine.device)
    past = None
    if stage.task > 0 and config.memory != "real":
        training.grow_head(network, config, stream.sizes, t - 1)
        if memory.fits:  # some memories cannot be sampled before
            phase = chain.new_phase("test", 0)
            real = real_features(network, stream, 0, config, phase)
            memory.fit(*real, stream.train_index(0))
        past = Past(network, memory, importance, config, stream.sizes, t)
    training.grow_head(network, config, stream.sizes, t)
    phase = chain.new_phase(stage.phase, t)
    if stage.phase == "classifier":
        training.train_classifier(network, past, stream, t, config, phase)
    else:
        training.train_generator(memory, network, past, stream, t, config, phase)


def plan(
    configs: list[Config],
    speed: Callable = seconds_per_step,
    *,
    analyse: Iterable[str] = (),
) -> list[dict]:
    """One row a run: method, split, seed, whether recorded, stages, new ones, seconds,
    and the settings by which it differs from others of its name.

    What lacks a part of its analysis that `analyse` names is not recorded yet. New to
    the grid, that is: a stage that an earlier run of it trains, or that lies in the
    cache, costs nothing. Compiled runs count as fast as uncompiled ones.
    """
    rows, seen, known, place = [], set(), {}, store.Store().place
    apart = naming.apart(configs)
    for number, config in enumerate(configs, 1):
        with _named(config, number, len(configs)):
            stream = load_tasks(config)
            found = records.find(config, stream.sizes, stream.content)
            if found is None:
                records.check_replaceable(config, stream.sizes, stream.content)
        lacking = set(analyse) - set(found and found.analysis or {})
        row = {
            "method": config.method,
            "split": _split(stream.sizes),
            "seed": config.seed,
            "recorded": found is not None and not lacking,
            "stages": 0,
            "new": 0,
            "seconds": 0.0,
            "settings": apart[config],
        }
        if not row["recorded"]:
            with _named(config, number, len(configs)):
                footprint.check(config, stream, Machine.of(config))
            chain = stages(config, stream)
            new = [s for s in chain if s.key not in seen and not _is_done(place, s)]
            seen |= {s.key for s in chain}
            kind = dataclasses.replace(config, **AS_FAST)
            for stage in new:
                what = (kind, stage.phase, stage.task == 0)
                if stage.steps and what not in known:
                    plain = dataclasses.replace(config, compiled=False)
                    with limits.told():
                        known[what] = speed(plain, stream, stage)
                row["seconds"] += stage.steps * known.get(what, 0.0)
            row |= {"stages": len(chain), "new": len(new)}
        rows.append(row)
    return rows


@contextlib.contextmanager
def _named(config: Config, number: int, count: int) -> Iterator[None]:
    """A UserError of one of several runs says of which."""
    try:
        yield
    except UserError as problem:
        if count == 1:
            raise
        raise UserError(
            f"Run {number} of {count} ({config.method}, seed {config.seed}): {problem}"
        ) from problem


def _split(sizes: tuple[int, ...]) -> str:
    if len(sizes) < 5 or len(set(sizes[1:])) > 1:
        return "+".join(map(str, sizes))
    return f"{sizes[0]} + {len(sizes) - 1} x {sizes[1]}"


def _is_done(place: Path, stage: Stage) -> bool:
    return (place / stage.key / "done.pt").exists()


def table(rows: list[dict]) -> str:
    """The plan as text, with its totals."""
    heads = ("method", "split", "seed", "stages", "new", "minutes")
    searched = any(row.get("settings") for row in rows)
    lines = [_line(*heads, "settings" if searched else "")]
    for row in rows:
        minutes = "recorded" if row["recorded"] else f"{row['seconds'] / 60:.1f}"
        own = row.get("settings", "")
        lines.append(_line(*(row[name] for name in heads[:-1]), minutes, own))
    count = collections.Counter(row["recorded"] for row in rows)
    total, new = sum(row["stages"] for row in rows), sum(row["new"] for row in rows)
    minutes = sum(row["seconds"] for row in rows) / 60
    said = f"{counted(len(rows), 'run')}, {count[True]} recorded, {count[False]} to do"
    if count[False]:
        said += (
            f"; their {counted(total, 'stage')} are {new} to train (the others are "
            f"shared or done): {counted(round(minutes), 'minute')} at the speed "
            "measured just now, one process, evaluation and analysis not counted"
        )
    lines.append(said)
    return "\n".join(lines)


def _line(method, split, seed, stages, new, minutes, settings) -> str:
    line = f"{method:<20}{split:<16}{seed:>4}{stages:>8}{new:>5}{minutes:>9}"
    return f"{line}  {settings}" if settings else line
