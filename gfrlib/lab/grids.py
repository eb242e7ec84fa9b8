"""Grids: many runs from one YAML file.

Stages are shared, what is recorded is skipped, an interrupted grid goes on.
"""

import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from gfrlib.config import Config, UserError
from gfrlib.engine import store
from gfrlib.engine.machine import Machine, hush
from gfrlib.lab import experiments
from gfrlib.lab.plans import plan as plan
from gfrlib.lab.plans import table as table

KEYS = {"methods", "splits", "seeds", "settings", "search"}
LISTS, TABLES = ("methods", "splits", "seeds"), ("settings", "search")
EXAMPLE = "runs: [{methods: [lwf, gfr], splits: [{base: 50, tasks: 5}], seeds: [0, 1]}]"
RETRIES = 3  # of a run whose worker died


def read(path: str | Path) -> list[Config]:
    """The file's runs, in its order, each once.

    preset: slim
    runs:                                 # blocks, in the order in which they are run
      - methods: [lwf, gfr]
        splits: [{base: 50, tasks: 5}]    # or {split: [25, 25]}; else the preset's
        seeds: [0, 1, 2]                  # [0] if left out
        settings: {class_order: sorted}   # any field of Config, for the whole block
        search: {penalty_weight: [1, 10]} # any field, each value in turn, combined

    Raises UserError with the file's name for anything else.
    """
    content = _content(path)
    configs = []
    for number, block in enumerate(content["runs"], 1):
        where = f"Block {number} of the grid '{path}'"
        _check_block(where, block)
        configs += _configs(where, block, content.get("preset", "quick"))
    return list(dict.fromkeys(configs))


def _content(path: str | Path) -> dict:
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as problem:
        raise UserError(
            f"The grid '{path}' cannot be read ({problem.strerror})."
        ) from None
    except yaml.YAMLError as problem:
        said = " ".join(str(problem).split())
        raise UserError(f"The grid '{path}' is not YAML: {said}.") from None
    known = isinstance(content, dict) and not set(content) - {"preset", "runs"}
    if not known or not isinstance(content.get("runs"), list):
        raise UserError(
            f"The grid '{path}' must have a list 'runs' and may have a 'preset', such "
            f"as {EXAMPLE}."
        )
    return content


def _check_block(where: str, block: object) -> None:
    if not isinstance(block, dict) or "methods" not in block or set(block) - KEYS:
        raise UserError(
            f"{where} must have 'methods' and nothing beside "
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
        raise UserError(
            f"{where}: '{wrong[0]}' has the wrong form; an example is {EXAMPLE}."
        )


def _configs(where: str, block: dict, preset: str) -> list[Config]:
    """All combinations that a block stands for, seeds faster than methods."""
    search, found = block.get("search", {}), []
    choices = (block.get("splits", [{}]), block["methods"], block.get("seeds", [0]))
    for split, method, seed, *values in itertools.product(*choices, *search.values()):
        searched = dict(zip(search, values))
        changes = {**split, **block.get("settings", {}), **searched}
        try:
            found.append(experiments.settings(preset, method, seed=seed, **changes))
        except UserError as problem:
            raise UserError(f"{where}: {problem}") from problem
        except TypeError as problem:
            raise UserError(
                f"{where} says something twice or in the wrong form ({problem})."
            ) from problem
    return found


def run(
    configs: list[Config],
    jobs: int = 1,
    *,
    ray: bool = False,
    notice: Callable[[str], None] = warnings.warn,
) -> Iterator[tuple[Config, object]]:
    """Yield (config, its Record, or the UserError that stopped it) as runs end.

    `jobs` processes at a time. They wait for each other's stages, so that a shared one
    is trained once. With `ray` the processes are Ray's, on all machines of the cluster
    (see `on_ray`). `notice` hears of waiting, and of a precision that is slow here.
    """
    if ray:
        yield from on_ray(configs, jobs)
    elif jobs == 1:
        yield from (_one(config, notice) for config in configs)
    else:
        with contextlib.suppress(UserError):  # each run tells its own
            for config in configs:
                Machine.of(config).tell(notice)
        yield from _processes(configs, jobs)


def _processes(configs: list[Config], jobs: int) -> Iterator[tuple[Config, object]]:
    """On this machine.

    Where a process is killed, all that were under way are begun again, up to RETRIES
    times.
    """
    spawn = multiprocessing.get_context("spawn")
    executor = concurrent.futures.ProcessPoolExecutor
    broken = concurrent.futures.process.BrokenProcessPool
    waiting, tries = dict.fromkeys(configs), 0
    while waiting and tries <= RETRIES:
        with executor(jobs, spawn, initializer=hush, max_tasks_per_child=1) as pool:
            begun = [pool.submit(_one, config) for config in waiting]
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
                "A process of the grid was killed again and again; is there enough "
                "memory?"
            ),
        )


def on_ray(configs: list[Config], jobs: int = 1) -> Iterator[tuple[Config, object]]:
    """As `run`, on Ray: the cluster of RAY_ADDRESS, or `jobs` workers of this machine.

    A run claims one GPU where the cluster has any, else one processor. One whose worker
    dies is tried again, up to RETRIES times, and resumes; the folder of GFR_HOME must
    be one that all machines share. Raises UserError without Ray.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            "Ray is missing here; pip install 'gfrlib[cluster]' brings it."
        ) from None
    here = {"num_cpus": jobs, "include_dashboard": False}
    ray.init(
        logging_level="ERROR",
        log_to_driver=False,
        runtime_env={"env_vars": _environment()},
        **({} if os.environ.get("RAY_ADDRESS") else here),
    )
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        claim = {"num_cpus": 0 if gpus else 1, "num_gpus": gpus}
        task = ray.remote(**claim, max_retries=RETRIES, max_calls=1)(_one)
        waiting = {task.remote(config): config for config in configs}
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
    config: Config, notice: Callable[[str], None] | None = None
) -> tuple[Config, object]:
    """What a process does: one run, whose failure stops no other."""
    try:
        return config, experiments.run_or_load(config, notice=notice)
    except UserError as problem:
        # its frames would keep the run's networks and features
        return config, problem.with_traceback(None)
    except Exception as problem:
        return config, UserError(
            f"The run stopped with {type(problem).__name__}: {problem}"
        )
