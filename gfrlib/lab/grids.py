"""Grids: many runs from one YAML file. Stages are shared, what is recorded is skipped, an interrupted grid goes on."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from gfrlib import training
from gfrlib.config import Config, UserError
from gfrlib.engine import store
from gfrlib.engine.machine import Machine
from gfrlib.lab import experiments, records
from gfrlib.penalties import Past
from gfrlib.tasks import Tasks

KEYS = {"methods", "splits", "seeds", "settings", "search"}
EXAMPLE = "runs: [{methods: [lwf, gfr], splits: [{base: 50, tasks: 5}], seeds: [0, 1]}]"
RETRIES = 3  # of a run whose worker died
PROBE_STEPS, PROBE_IMAGES = (
    5,
    16,
)  # steps that are timed, training images of each class for them


def read(path: str | Path) -> list[Config]:
    """The file's runs, in its order, each once. Raises UserError with the file's name for anything that cannot be meant.

    preset: slim
    runs:                                 # blocks, in the order in which they are to be run
      - methods: [lwf, gfr]
        splits: [{base: 50, tasks: 5}]    # or {split: [25, 25, 25, 25]}; the preset's if left out
        seeds: [0, 1, 2]                  # [0] if left out
        settings: {class_order: sorted}   # any field of Config, for all runs of the block
        search: {penalty_weight: [1, 10]} # any field, every value in turn (all combinations of several)
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as problem:
        raise UserError(
            f"The grid '{path}' cannot be read ({problem.strerror})."
        ) from None
    except yaml.YAMLError as problem:
        raise UserError(
            f"The grid '{path}' is not YAML: {' '.join(str(problem).split())}."
        ) from None
    if (
        not isinstance(content, dict)
        or set(content) - {"preset", "runs"}
        or not isinstance(content.get("runs"), list)
    ):
        raise UserError(
            f"The grid '{path}' must have a list 'runs' and may have a 'preset', such as {EXAMPLE}."
        )
    configs = []
    for number, block in enumerate(content["runs"], 1):
        where = f"Block {number} of the grid '{path}'"
        if not isinstance(block, dict) or "methods" not in block or set(block) - KEYS:
            raise UserError(
                f"{where} must have 'methods' and nothing beside {', '.join(sorted(KEYS))}, such as {EXAMPLE}."
            )
        wrong = [
            k
            for k in ("methods", "splits", "seeds")
            if not isinstance(block.get(k, []), list)
        ]
        wrong += [
            k for k in ("settings", "search") if not isinstance(block.get(k, {}), dict)
        ]
        if not wrong:
            wrong = [
                f"search: {k}"
                for k, v in block.get("search", {}).items()
                if not isinstance(v, list)
            ]
        if wrong or not all(
            isinstance(split, dict) for split in block.get("splits", [])
        ):
            raise UserError(
                f"{where}: '{(wrong or ['splits'])[0]}' has the wrong form; an example is {EXAMPLE}."
            )
        search = block.get("search", {})
        for split, method, seed, *values in itertools.product(
            block.get("splits", [{}]),
            block["methods"],
            block.get("seeds", [0]),
            *search.values(),
        ):
            try:
                configs.append(
                    experiments.settings(
                        content.get("preset", "quick"),
                        method,
                        seed=seed,
                        **{
                            **split,
                            **block.get("settings", {}),
                            **dict(zip(search, values)),
                        },
                    )
                )
            except UserError as problem:
                raise UserError(f"{where}: {problem}") from problem
            except TypeError as problem:
                raise UserError(
                    f"{where} says something twice or in the wrong form ({problem})."
                ) from problem
    return list(dict.fromkeys(configs))


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
        alone = t == chain.numbers.start
        images = sum(
            len(stream.train_index(k))
            for k in (range(t + 1) if config.memory == "real" else [t])
        )
        if config.memory == "exemplars":
            images += config.exemplars * stream.classes(t).start
        epochs = config.epochs_base if alone else config.epochs_task
        if not alone and config.penalty == "frozen" and config.prediction != "softmax":
            epochs = 0
        steps = {
            "classifier": max(1, images // config.batch_size) * epochs,
            "generator": chain.generator_steps(t),
        }
        if config.penalty in ("fisher", "sensitivity"):
            steps["importance"] = 0
        found += [
            Stage(chain.next_key(phase, t), t, phase, count)
            for phase, count in steps.items()
        ]
    return found


def seconds_per_step(
    config: Config,
    stream: Tasks,
    stage: Stage,
    *,
    steps: int = PROBE_STEPS,
    images: int = PROBE_IMAGES,
    clock: Callable = time.perf_counter,
) -> float:
    """Measured here and now: a few steps of the stage's kind, on a few images of each class and untrained networks."""
    here = Machine.of(config)
    here.prepare()  # as the run will be
    t = min(stage.task, 1) if config.memory != "real" else stage.task
    rows = torch.cat(
        [
            torch.nonzero(stream.train_labels == c)[:images, 0]
            for c in range(stream.classes(t).stop)
        ]
    )
    few = dataclasses.replace(
        stream,
        train_images=stream.train_images[rows],
        train_labels=stream.train_labels[rows],
    )
    few_config = dataclasses.replace(
        config,
        batch_size=min(config.batch_size, images * min(few.sizes)),
        feature_views=1,
        epochs_base=999,
        epochs_task=999,
        generator_steps_base=999,
        generator_steps_later=9999,
    )
    chain = training.Chain(few_config, few, machine=here)
    network, memory, importance = training.build(few_config, few, here.device)
    first = stage.task == 0 or config.memory == "real"
    past = None
    if not first:
        training.grow_head(network, few_config, few.sizes, t - 1)
        past = Past(network, memory, importance, few_config, few.sizes, t)
    training.grow_head(network, few_config, few.sizes, t)
    ticks: list[float] = []

    def tick(*_):
        if few.train_images.is_cuda:
            torch.cuda.synchronize()
        ticks.append(clock())
        if len(ticks) > steps:
            raise _Enough

    chain.report = tick
    phase = chain.new_phase(stage.phase, t)
    with here.limited(), contextlib.suppress(_Enough):
        if stage.phase == "classifier":
            training.train_classifier(network, past, few, t, few_config, phase)
        else:
            training.train_generator(memory, network, past, few, t, few_config, phase)
    scale = (
        config.batch_size / few_config.batch_size
        if stage.phase == "classifier"
        else 1.0
    )
    return scale * (ticks[-1] - ticks[0]) / max(1, len(ticks) - 1)


class _Enough(Exception):
    """The timed steps are done."""


def plan(configs: list[Config], speed: Callable = seconds_per_step) -> list[dict]:
    """One row a run: method, split, seed, whether recorded, stages, how many of them are new to the grid, seconds for these.

    A stage that an earlier run of the grid trains, or that lies in the cache, costs nothing. The speed of compiled runs is
    that of uncompiled ones.
    """
    rows, seen, known = [], set(), {}
    for config in configs:
        stream = experiments.load_tasks(config)
        row = {
            "method": config.method,
            "split": "+".join(map(str, stream.sizes))
            if len(stream.sizes) < 5
            else f"{stream.sizes[0]} + {len(stream.sizes) - 1} x {stream.sizes[1]}",
            "seed": config.seed,
            "recorded": records.find(config, stream.sizes, stream.content) is not None,
            "stages": 0,
            "new": 0,
            "seconds": 0.0,
        }
        if not row["recorded"]:
            chain = stages(config, stream)
            place = store.Store().place
            new = [
                s
                for s in chain
                if s.key not in seen and not (place / s.key / "done.pt").exists()
            ]
            seen |= {s.key for s in chain}
            kind = dataclasses.replace(
                config,
                seed=0,
                penalty_weight=1.0,
                temperature=2.0,
                alignment_weight=1.0,
                compiled=False,
            )
            for stage in new:
                what = (kind, stage.phase, stage.task == 0)
                if stage.steps and what not in known:
                    known[what] = speed(
                        dataclasses.replace(config, compiled=False), stream, stage
                    )
                row["seconds"] += stage.steps * known.get(what, 0.0)
            row |= {"stages": len(chain), "new": len(new)}
        rows.append(row)
    return rows


def run(
    configs: list[Config], jobs: int = 1, *, ray: bool = False
) -> Iterator[tuple[Config, object]]:
    """Yield (config, its Record, or the UserError that stopped it) as runs end; `jobs` processes at a time.

    Processes wait for each other's stages, so that a shared one is trained once. With `ray` the processes are Ray's, on
    all machines of the cluster (see `on_ray`).
    """
    if ray:
        yield from on_ray(configs, jobs)
    elif jobs == 1:
        yield from map(_one, configs)
    else:
        yield from _processes(configs, jobs)


def _processes(configs: list[Config], jobs: int) -> Iterator[tuple[Config, object]]:
    """On this machine. Where a process is killed, all that were under way are begun again, up to RETRIES times."""
    waiting, tries = dict.fromkeys(configs), 0
    while waiting:
        spawn = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(
            jobs, spawn, max_tasks_per_child=1
        ) as pool:
            for future in concurrent.futures.as_completed(
                [pool.submit(_one, config) for config in waiting]
            ):
                if isinstance(
                    future.exception(), concurrent.futures.process.BrokenProcessPool
                ):
                    break
                config, result = future.result()
                del waiting[config]
                yield config, result
        tries += 1
        if waiting and tries > RETRIES:
            yield from (
                (
                    config,
                    UserError(
                        "A process of the grid was killed again and again; is there enough memory?"
                    ),
                )
                for config in waiting
            )
            return


def on_ray(configs: list[Config], jobs: int = 1) -> Iterator[tuple[Config, object]]:
    """As `run`, on Ray: the cluster that RAY_ADDRESS names, or `jobs` workers of this machine.

    A run claims one GPU where the cluster has any, else one processor. One whose worker dies is tried again, up to
    RETRIES times, and resumes; the folder of GFR_HOME must be one that all machines share. Raises UserError without Ray.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            "Ray is missing here; pip install 'gfrlib[cluster]' brings it."
        ) from None
    here = (
        {}
        if os.environ.get("RAY_ADDRESS")
        else {"num_cpus": jobs, "include_dashboard": False}
    )
    names = ("PYTHONPATH", "OMP_NUM_THREADS", "GFR_RESIDENT_BYTES")
    passed = {name: os.environ[name] for name in names if name in os.environ}
    passed |= {
        "GFR_HOME": str(store.root().resolve()),
        "GFR_CACHE": str(store.cache().resolve()),
    }
    ray.init(
        logging_level="ERROR",
        log_to_driver=False,
        runtime_env={"env_vars": passed},
        **here,
    )
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(
            num_cpus=0 if gpus else 1, num_gpus=gpus, max_retries=RETRIES, max_calls=1
        )(_one)
        waiting = {task.remote(config): config for config in configs}
        while waiting:
            for reference in ray.wait(list(waiting))[0]:
                config = waiting.pop(reference)
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayError as problem:
                    yield (
                        config,
                        UserError(
                            f"The run's worker failed: {str(problem).strip().splitlines()[-1]}"
                        ),
                    )
    finally:
        ray.shutdown()


def _one(config: Config) -> tuple[Config, object]:
    try:
        return config, experiments.run_or_load(config)
    except UserError as problem:
        return config, problem.with_traceback(
            None
        )  # whose frames would keep the run's networks and features
    except Exception as problem:  # whatever it is, it stops this run alone
        return config, UserError(
            f"The run stopped with {type(problem).__name__}: {problem}"
        )


def table(rows: list[dict]) -> str:
    """The plan as text, with its totals."""
    lines = [
        f"{'method':<20}{'split':<16}{'seed':>4}{'stages':>8}{'new':>5}{'minutes':>9}"
    ]
    for row in rows:
        minutes = "recorded" if row["recorded"] else f"{row['seconds'] / 60:.1f}"
        lines.append(
            f"{row['method']:<20}{row['split']:<16}{row['seed']:>4}{row['stages']:>8}{row['new']:>5}{minutes:>9}"
        )
    count = collections.Counter(row["recorded"] for row in rows)
    total, new = sum(row["stages"] for row in rows), sum(row["new"] for row in rows)
    lines.append(
        f"{len(rows)} runs, {count[True]} recorded, {count[False]} to do; their {total} stages are {new} to train "
        f"(the others are shared or done): {sum(row['seconds'] for row in rows) / 60:.0f} minutes at the speed "
        "measured just now, one process, evaluation and analysis not counted"
    )
    return "\n".join(lines)
