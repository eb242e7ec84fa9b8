"""Grids: many runs from one YAML file.

Stages are shared, what is recorded is skipped, an interrupted grid goes on.
"""

import concurrent.futures
import contextlib
import difflib
import functools
import itertools
import math
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from gfrlib.config import DEFAULTS, Config, UserError
from gfrlib.engine import plain_yaml, store
from gfrlib.engine.machine import Machine, hush, take_gpu
from gfrlib.lab import experiments
from gfrlib.lab.plans import plan as plan
from gfrlib.lab.plans import table as table

KEYS = {"methods", "splits", "seeds", "settings", "search"}
LISTS, TABLES = ("methods", "splits", "seeds"), ("settings", "search")
EXAMPLE = "runs: [{methods: [lwf, gfr], splits: [{base: 50, tasks: 5}], seeds: [0, 1]}]"
MOST_RUNS = 10_000
RETRIES = 3  # of a run whose worker died


def read(path: str | Path, notice: Callable[[str], None] | None = None) -> list[Config]:
    """The file's runs, in its order, each once.

    preset: slim
    runs:                                 # blocks, in the order in which they are run
      - methods: [lwf, gfr]
        splits: [{base: 50, tasks: 5}]    # or {split: [25, 25]}; else the preset's
        seeds: [0, 1, 2]                  # [0] if left out
        settings: {class_order: sorted}   # any field of Config, for the whole block
        search: {penalty_weight: [1, 10]} # any field, each value in turn, combined

    `notice` hears of settings that no run of their block reads. Raises UserError with
    the file's name for anything else (see engine.plain_yaml for what a file may say).
    """
    content = plain_yaml.read(path, "The grid")
    _check_content(path, content)
    blocks = [
        (f"Block {number} of the grid '{path}'", block)
        for number, block in enumerate(content["runs"], 1)
    ]
    count = 0
    for where, block in blocks:
        _check_block(where, block)
        count += _count(block)
    if count > MOST_RUNS:
        raise UserError(
            f"The grid '{path}' stands for more than {MOST_RUNS} runs; make it smaller."
        )
    preset = content.get("preset", "quick")
    found: list[Config] = []
    for where, block in blocks:
        configs = _configs(where, block, preset)
        for name in _unread(block, configs) if notice else ():
            notice(f"{where}: none of its runs reads '{name}': it changes nothing")
        found += configs
    return list(dict.fromkeys(found))


def _unread(block: dict, configs: list[Config]) -> list[str]:
    """Settings of the block, for all of its runs, that none of them reads."""
    names = block.get("settings", {})
    return [name for name in names if all(c.unread([name]) for c in configs)]


def _check_content(path: str | Path, content: object) -> None:
    known = isinstance(content, dict) and not set(content) - {"preset", "runs"}
    if not known or not isinstance(content.get("runs"), list):
        raise UserError(
            f"The grid '{path}' must have a list 'runs' and may have a 'preset', such "
            f"as {EXAMPLE}."
        )
    if not content["runs"]:
        raise UserError(f"The grid '{path}' has no runs; an example is {EXAMPLE}.")


def _check_block(where: str, block: object) -> None:
    if not isinstance(block, dict) or "methods" not in block:
        raise UserError(f"{where} must have 'methods', such as {EXAMPLE}.")
    for key in block:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            meant = f" (did you mean '{near[0]}'?)" if near else ""
            raise UserError(
                f"{where} has '{key}'{meant}, and a block holds nothing beside "
                f"{', '.join(sorted(KEYS))}, such as {EXAMPLE}."
            )
    wrong = [k for k in LISTS if not isinstance(block.get(k, []), list)]
    wrong += [k for k in TABLES if not isinstance(block.get(k, {}), dict)]
    if not wrong:
        values = block.get("search", {})
        wrong = [f"search: {k}" for k, v in values.items() if not isinstance(v, list)]
        if not all(isinstance(split, dict) for split in block.get("splits", [])):
            wrong.append("splits")
    if wrong:
        form = "settings with values" if wrong[0] in TABLES else "a list"
        raise UserError(
            f"{where}: '{wrong[0]}' has the wrong form, it must be {form}; an example "
            f"is {EXAMPLE}."
        )
    _check_lists(where, block)
    _check_twice(where, block)


def _check_lists(where: str, block: dict) -> None:
    """A list that is there is not empty: nothing, or all, could be meant."""
    lists = {k: block[k] for k in LISTS if k in block}
    lists |= {f"search: {k}": v for k, v in block.get("search", {}).items()}
    empty = [name for name, entries in lists.items() if entries == []]
    if any(split.get("split") == [] for split in block.get("splits", [])):
        empty.append("split")
    if empty:
        remedy = "" if empty[0] == "methods" else "leave it out, or "
        raise UserError(
            f"{where}: '{empty[0]}' is an empty list; {remedy}say what it holds, such "
            f"as {EXAMPLE}."
        )


def _check_twice(where: str, block: dict) -> None:
    """What one part of the block says, no other one says again."""
    settings, search = set(block.get("settings", {})), set(block.get("search", {}))
    splits = {name for split in block.get("splits", []) for name in split}
    seeds = {"seed"} if "seeds" in block else set()
    for one, other in itertools.combinations((settings, search, splits, seeds), 2):
        for name in sorted(one & other):
            raise UserError(f"{where} says '{name}' twice; leave one of them out.")
    for name in sorted((settings | search | splits) & {"method", "preset"}):
        raise UserError(
            f"{where}: '{name}' is no setting; the grid has 'methods' and a 'preset', "
            f"such as {EXAMPLE}."
        )


def _count(block: dict) -> int:
    lists = (block["methods"], block.get("splits", [{}]), block.get("seeds", [0]))
    return math.prod(map(len, (*lists, *block.get("search", {}).values())))


def _configs(where: str, block: dict, preset: str) -> list[Config]:
    """All combinations that a block stands for, seeds faster than methods."""
    search, found, known = block.get("search", {}), [], {}
    choices = (block.get("splits", [{}]), block["methods"], block.get("seeds", [0]))
    for split, method, seed, *values in itertools.product(*choices, *search.values()):
        searched = dict(zip(search, values))
        changes = {"seed": seed, **split, **block.get("settings", {}), **searched}
        given = changes.get("dataset")
        if isinstance(given, str):  # a folder is packed once, and has a name then
            changes["dataset"] = known.get(given, given)
        try:
            found.append(experiments.settings(preset, method, **changes))
            known[given] = found[-1].dataset
        except UserError as problem:
            raise UserError(f"{where}: {problem}") from problem
    for name in search:
        unusual = [c for c in found if getattr(c, name) != DEFAULTS[name]]
        if unusual and all(name in c.unread([name]) for c in unusual):
            raise UserError(
                f"{where} searches '{name}', which none of its runs reads: all its "
                "values are one run; leave it out, or take other methods."
            )
    return found


def run(
    configs: list[Config],
    jobs: int = 1,
    *,
    ray: bool = False,
    notice: Callable[[str], None] = warnings.warn,
    analyse: Iterable[str] = (),
) -> Iterator[tuple[Config, object]]:
    """Yield (config, its Record, or the UserError that stopped it) as runs end.

    `jobs` processes at a time. They wait for each other's stages, so that a shared one
    is trained once. With `ray` the processes are Ray's, on all machines of the cluster
    (see `on_ray`). `notice` hears of a precision that is slow here, and with one job of
    waiting; of neither with `ray`.
    Parts of the analysis that `analyse` names are added to what is recorded without
    them (experiments.run_or_load).
    """
    analyse = tuple(analyse)
    if ray:
        yield from on_ray(configs, jobs, analyse)
    elif jobs == 1:
        yield from (_one(config, analyse, notice) for config in configs)
    else:
        with contextlib.suppress(UserError):  # each run tells its own
            for config in configs:
                Machine.of(config).tell(notice)
        yield from _processes(configs, jobs, analyse)


def _processes(
    configs: list[Config], jobs: int, analyse: tuple[str, ...]
) -> Iterator[tuple[Config, object]]:
    """On this machine, and on all of its GPUs in turn.

    Where a process is killed, all that were under way are begun again, up to RETRIES
    times. Where the caller stops, by Ctrl-C or otherwise, they are ended.
    """
    broken = concurrent.futures.process.BrokenProcessPool
    waiting, tries = dict.fromkeys(configs), 0
    while waiting and tries <= RETRIES:
        with _pool(min(jobs, len(waiting))) as pool:
            with _uninterrupted():
                begun = [
                    pool.submit(_one, config, analyse, gpu=number)
                    for number, config in enumerate(waiting)
                ]
            for future in concurrent.futures.as_completed(begun):
                if isinstance(future.exception(), broken):
                    break
                config, result = future.result()
                del waiting[config]
                yield config, result
        tries += 1
    for config in waiting:
        yield (
            config,
            UserError(
                "A process of the grid was killed again and again, perhaps of lack of "
                "memory; take fewer at once (--jobs 1)."
            ),
        )


@contextlib.contextmanager
def _pool(count: int) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """So many fresh processes at a time; none is left, however the block ends."""
    spawn, others = multiprocessing.get_context("spawn"), _children()
    executor = concurrent.futures.ProcessPoolExecutor
    pool = executor(count, spawn, initializer=hush, max_tasks_per_child=1)
    try:
        yield pool
    except BaseException:
        with _uninterrupted():
            end = functools.partial(pool.shutdown, cancel_futures=True)
            ending = threading.Thread(target=end)
            ending.start()
            while ending.is_alive():  # it waits for the runs that have begun
                for child in _children() - others:
                    child.terminate()
                ending.join(0.1)
        raise
    finally:
        pool.shutdown()


def _children() -> set:
    return set(multiprocessing.active_children())


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """No Ctrl-C for this thread meanwhile, nor ever for what it starts.

    A terminal sends it to all processes, and each would print its traceback. A thread
    and a process inherit what is blocked where they begin.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def on_ray(
    configs: list[Config], jobs: int = 1, analyse: tuple[str, ...] = ()
) -> Iterator[tuple[Config, object]]:
    """As `run`, on Ray: the cluster of RAY_ADDRESS, or `jobs` workers of this machine.

    A run claims one GPU where the cluster has any, so that their number is that of the
    workers, else one processor. One whose worker
    dies is tried again, up to RETRIES times, and resumes; the folder of GFR_HOME must
    be one that all machines share. Raises UserError without Ray.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            "Ray is missing here; pip install 'gfrlib[cluster]' brings it."
        ) from None
    address = os.environ.get("RAY_ADDRESS")
    here = {"num_cpus": jobs, "include_dashboard": False}
    try:
        ray.init(
            logging_level="ERROR",
            log_to_driver=False,
            runtime_env={"env_vars": _environment()},
            **({} if address else here),
        )
    except (OSError, RuntimeError, ValueError) as problem:
        raise UserError(
            f"Ray did not start{f' at RAY_ADDRESS {address}' if address else ''}: "
            f"{problem}."
        ) from problem
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        claim = {"num_cpus": 0 if gpus else 1, "num_gpus": gpus}
        task = ray.remote(**claim, max_retries=RETRIES, max_calls=1)(_one)
        waiting = {task.remote(config, analyse): config for config in configs}
        while waiting:
            for reference in ray.wait(list(waiting))[0]:
                config = waiting.pop(reference)
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayError as problem:
                    last = str(problem).strip().splitlines()[-1]
                    yield config, UserError(f"The run's worker failed: {last}")
    finally:
        ray.shutdown()


def _environment() -> dict[str, str]:
    """What Ray's workers must know of this process's environment."""
    names = ("PYTHONPATH", "OMP_NUM_THREADS", "GFR_RESIDENT_BYTES")
    passed = {name: os.environ[name] for name in names if name in os.environ}
    passed["GFR_HOME"] = str(store.root().resolve())
    if os.environ.get("GFR_CACHE"):
        passed["GFR_CACHE"] = str(store.cache().resolve())
    return passed


def _one(
    config: Config,
    analyse: tuple[str, ...] = (),
    notice: Callable[[str], None] | None = None,
    gpu: int | None = None,
) -> tuple[Config, object]:
    """What a process does: one run, whose failure stops no other.

    gpu: see `take_gpu`; None: PyTorch's own.
    """
    if gpu is not None:
        take_gpu(gpu)
    try:
        record = experiments.run_or_load(config, analyse=analyse, notice=notice)
        return config, record
    except UserError as problem:
        # its frames would keep the run's networks and features
        return config, problem.with_traceback(None)
    except Exception as problem:
        return config, UserError(
            f"The run stopped with {type(problem).__name__}: {problem}"
        )
