"""Grids: what a file may say, the plan against what training really opens, and running
with shared stages.
"""

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers_core import ROOT, TINY, environment, gfrlib, load_tasks, tiny, train
from memory_store import MemoryStore

from gfrlib.cli import words
from gfrlib.config import METHODS, UserError, make_config
from gfrlib.engine import store as stages
from gfrlib.lab import experiments, grids, plans, records

SMALL = dict(TINY, split=[3, 2, 2], epochs_base=1)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GFR_HOME", str(tmp_path))
    return tmp_path


def write(folder, text):
    path = folder / "grid.yaml"
    path.write_text(text)
    return path


def test_blocks_multiply_out_in_order_and_each_run_counts_once(tmp_path):
    path = write(
        tmp_path,
        """
preset: quick
runs:
  - {methods: [lwf, gfr], splits: [{base: 4, tasks: 3}, {split: [6, 4]}], seeds: [0, 1]}
  - methods: [lwf]
    search: {penalty_weight: [10.0, 3], temperature: [1, 2]}
    settings: {validation: 0.2}
  - {methods: [gfr]}
""",
    )
    found = grids.read(path)
    assert [(c.method, c.split, c.seed) for c in found[:8]] == [
        (m, s, k) for s in ((), (6, 4)) for m in ("lwf", "gfr") for k in (0, 1)
    ]
    assert [(c.penalty_weight, c.temperature, c.validation) for c in found[8:]] == [
        (w, t, 0.2) for w in (10.0, 3.0) for t in (1.0, 2.0)
    ]
    assert len(found) == 12, "the last block repeats a run of the first"
    assert found[1] == make_config("quick", "lwf", base=4, tasks=3, seed=1)


@pytest.mark.parametrize(
    "text, says",
    [
        ("runs: [", "not YAML"),
        ("preset: quick", "list 'runs'"),
        ("runs: [{seeds: [0]}]", "must have 'methods'"),
        ("runs: [{methods: [gfr], method: 3}]", "has 'method' .*nothing beside"),
        (
            "runs: [{methods: [gfr], split: [5]}]",
            r"'split' \(did you mean 'splits'\?\)",
        ),
        ("runs: [{methods: gfr}]", "'methods' has the wrong form, it must be a list"),
        ("runs: [{methods: [gfr], settings: 3}]", "must be settings with values"),
        ("runs: [{methods: [gfr], splits: [5]}]", "'splits' has the wrong form"),
        ("runs: [{methods: [gfx]}]", "no method 'gfx'"),
        ("runs: [{methods: [gfr], settings: {widht: 3}}]", "no setting 'widht'"),
        ("runs: [{methods: [gfr], search: {seed: 3}}]", "search: seed"),
        ("{preset: quikc, runs: [{methods: [gfr]}]}", "no preset 'quikc'"),
        ("{sneeds: 1, runs: []}", "may have a 'preset'"),
        ("runs: []", "has no runs"),
        ("runs: [{methods: []}]", "'methods' is an empty list; say what it holds"),
        ("runs: [{methods: [gfr], seeds: []}]", "'seeds' is an empty list"),
        ("runs: [{methods: [gfr], splits: []}]", "'splits' is an empty list"),
        ("runs: [{methods: [gfr], splits: [{split: []}]}]", "'split' is an empty list"),
        (
            "runs: [{methods: [gfr], search: {width: []}}]",
            "'search: width' is an empty",
        ),
        ("runs: [{methods: [gfr], seeds: }]", "'seeds' has the wrong form"),
        ("runs: [{methods: [[gfr]]}]", "There is no method"),
        ("{preset: [quick], runs: [{methods: [gfr]}]}", "There is no preset"),
        ("{preset: , runs: [{methods: [gfr]}]}", "There is no preset"),
        ("runs: [{methods: [gfr], methods: [lwf]}]", "'methods' stands there twice"),
        ("runs: [{methods: [gfr]}]\nruns: []", "line 2: 'runs' stands there twice"),
        (
            "runs: [{methods: [gfr], seeds: [1], settings: {seed: 2}}]",
            "says 'seed' twice",
        ),
        (
            "runs: [{methods: [gfr], splits: [{base: 4}], settings: {base: 5}}]",
            "says 'base' twice",
        ),
        ("runs: [{methods: [gfr], settings: {method: lwf}}]", "'method' is no setting"),
        (
            "runs: [{methods: [gfr], splits: [{split: [5, 5], base: 5}]}]",
            "leave one out",
        ),
        (
            f"runs: [{{methods: [gfr], search: {{seed: {list(range(101))}, "
            f"width: {list(range(1, 101))}}}}}]",
            "more than 10000 runs",
        ),
        # what is YAML, but no plain data
        (
            "runs: [{methods: [gfr], seeds: [2026-01-01]}]",
            "'seed' must be a whole number",
        ),
        ("runs: [{methods: [gfr], seeds: [0x10]}]", "'seed' must be a whole number"),
        ("runs: [{methods: [gfr], seeds: [017]}]", "'seed' must be a whole number"),
        ("runs: [{methods: [gfr], seeds: [1_0]}]", "'seed' must be a whole number"),
        ("runs: [{methods: [gfr], seeds: [1:30]}]", "'seed' must be a whole number"),
        ("runs: [{methods: [gfr], seeds: [on]}]", "'seed' must be a whole number"),
        ("runs: [{methods: [gfr], seeds: [!!int x]}]", "the tag tag:yaml.org,2002:int"),
        ("runs: [{methods: [!!binary aGk=]}]", "the tag tag:yaml.org,2002:binary"),
        ("runs: !!python/object/apply:os.system [ls]", "the tag tag:yaml.org"),
        ("a: &a [x, x]\nruns: [*a, *a]", "anchors"),
        ("1: 2", "a name must be text"),
        ("[1, 2]: 2", "a name must be text"),
        ("[" * 100_000, "more than 20 lists inside each other"),
        ("runs: " + "{a: " * 500, "more than 20 lists inside each other"),
        (
            "runs: [{methods: [gfr], settings: {epochs_base: " + "9" * 400 + "}}]",
            "a number of 400 digits",
        ),
        ("runs: [{methods: [gfr], settings: {dataset: '\\x'}}]", "no data set"),
        ('runs: [{methods: ["\\ud800"]}]', "cannot be shown"),
        ('runs: [{methods: ["\\e[31m"]}]', "cannot be shown"),
        ("runs: [{methods: [\u202egfr]}]", "\\\\u202egfr"),
        ("# " + "x" * 300_000, "is larger than"),
        ("--- a\n--- b", "another document"),
    ],
    ids=lambda text: repr(text[:50]),
)
def test_a_file_that_cannot_be_meant(tmp_path, text, says):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=says) as caught:
        # loading alone: `data` says what data sets there are
        for config in grids.read(path):
            load_tasks(config)
    assert "data set" in says or str(path) in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) <= 800


def test_a_grid_that_is_no_text_file_is_one_sentence(tmp_path):
    for content, says in (
        ("runs: [{methods: [grün]}]".encode("latin-1"), "not text in UTF-8"),
        ("runs: []".encode("utf-16"), "not text in UTF-8"),
        (b"\x7fELF\x00\x01", "is not YAML"),
    ):
        (tmp_path / "grid.yaml").write_bytes(content)
        with pytest.raises(UserError, match=says):
            grids.read(tmp_path / "grid.yaml")
    (tmp_path / "grid.yaml").write_text("\ufeffruns: [{methods: [gfr]}]")
    assert len(grids.read(tmp_path / "grid.yaml")) == 1, "Windows writes such a mark"
    with pytest.raises(UserError, match="cannot be read"):
        grids.read(tmp_path / "none.yaml")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.yaml")
        with pytest.raises(UserError, match="is a device or a pipe"):
            grids.read(tmp_path / "pipe.yaml")


def test_anchors_inside_each_other_are_refused_at_once(tmp_path):
    """464 bytes that stand for 10^9 words, whose error message hung."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for k in range(1, 10):
        lines.append(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]")
    path = write(tmp_path, "\n".join([*lines, "runs: *a9"]))
    began = time.monotonic()
    with pytest.raises(UserError, match="line 1: anchors"):
        grids.read(path)
    assert time.monotonic() - began < 5


def test_numbers_are_read_as_they_look(tmp_path):
    path = write(
        tmp_path,
        "runs: [{methods: [gfr], settings: {learning_rate: 1e-3, full_head: true, "
        "weight_decay: 0, latent_dim: 12}}]",
    )
    (config,) = grids.read(path)
    assert config.learning_rate == 0.001 and config.full_head is True
    assert config.weight_decay == 0.0 and config.latent_dim == 12


@pytest.mark.parametrize(
    "path", sorted((ROOT / "grids").glob("*.yaml")), ids=lambda p: p.stem
)
def test_the_papers_grids_can_be_read(path, monkeypatch):
    monkeypatch.setattr("gfrlib.lab.datasets.resolve", lambda name: name)
    assert grids.read(path)


def test_settings_that_no_run_of_a_block_reads_are_said(tmp_path):
    path, said = tmp_path / "grid.yaml", []
    path.write_text(
        "runs: [{methods: [finetune, lwf], settings: {exemplars: 3, temperature: 4}}]"
    )
    assert len(grids.read(path, said.append)) == 2  # `lwf` reads the temperature
    [line] = said
    assert "none of its runs reads 'exemplars': it changes nothing" in line


@pytest.mark.parametrize(
    ("method", "more"),
    [*((m, {}) for m in METHODS), ("icarl-cnn", {"exemplars": 1000})],
)
def test_the_plan_names_the_stages_that_training_opens(method, more, home):
    settings = {k: v for k, v in SMALL.items() if k not in TINY} | more
    config = tiny(method, **settings, epochs_base=1)
    stream, store = load_tasks(config), MemoryStore()
    store.code = stages.code_digest()
    outcome = train(config, store)
    opened = [s.key for s in plans.stages(config, stream)]
    kept = {key: store.read(key, "done")["seconds"] for key in opened}
    assert [
        key for key in store.opened if key in opened
    ] == opened  # evaluations lie between
    assert len(store.opened) - len(opened) == len(
        [p for p in outcome.predictions if p is not None]
    )
    steps = {
        (row["task"], row["phase"]): row["steps"]
        for row in kept.values()
        if row["phase"] != "importance"
    }
    planned = {(s.task, s.phase): s.steps for s in plans.stages(config, stream)}
    assert {k: v for k, v in planned.items() if v} == {
        k: v for k, v in steps.items() if v
    }


def test_the_plan_counts_shared_stages_once_and_measured_steps(home):
    configs = [
        tiny(m, **{k: v for k, v in SMALL.items() if k not in TINY}, epochs_base=1)
        for m in ("finetune", "lwf", "gfr")
    ]
    rows = plans.plan(configs, speed=lambda config, stream, stage: 60.0)
    assert rows[0]["new"] == rows[0]["stages"] == 6
    assert rows[1]["new"] == 6 - 2, (
        "task 0's two stages are the first run's: neither method has a memory"
    )
    first = sum(s.steps for s in plans.stages(configs[0], load_tasks(configs[0])))
    assert rows[0]["seconds"] == 60 * first
    train(configs[0], stages.Store())
    assert plans.plan(configs, speed=lambda *_: 1.0)[0]["seconds"] == 0, (
        "what lies in the cache costs nothing"
    )
    assert "3 runs, 0 recorded, 3 to do" in plans.table(rows)


def test_a_record_without_a_part_that_is_asked_for_is_to_do(home):
    config = tiny("finetune", **{k: v for k, v in SMALL.items() if k not in TINY})
    experiments.run_or_load(config)
    [known] = plans.plan([config])
    assert known["recorded"]
    [lacking] = plans.plan([config], lambda *_: 1.0, analyse=["similarity"])
    assert not lacking["recorded"]
    assert lacking["stages"] == 6 and lacking["new"] == 0  # its stages are there


def test_a_split_is_told_as_it_is():
    assert plans._split((50, 10, 10, 10, 10, 10)) == "50 + 5 x 10"
    assert plans._split((10, 20, 5, 5, 5)) == "10+20+5+5+5"


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_step_can_be_timed(method):
    config = tiny(method)
    stream = load_tasks(config)
    for stage in plans.stages(config, stream):
        if stage.steps:
            assert 0 < plans.seconds_per_step(config, stream, stage) < 5


def test_steps_are_timed_with_the_runs_own_threads(monkeypatch):
    seen, before = [], torch.get_num_threads()
    train_classifier = plans.training.train_classifier
    monkeypatch.setattr(
        plans.training,
        "train_classifier",
        lambda *a: (seen.append(torch.get_num_threads()), train_classifier(*a)),
    )
    config = tiny("finetune", threads=before + 1)
    plans.seconds_per_step(
        config, load_tasks(config), plans.Stage("", 0, "classifier", 1)
    )
    assert seen == [before + 1] and torch.get_num_threads() == before


def test_processes_share_all_gpus_of_a_machine(monkeypatch):
    taken, configs = [], [tiny("gfr", seed=seed) for seed in range(5)]

    class Pool:
        def submit(self, run, config, analyse, **others):
            future = grids.concurrent.futures.Future()
            future.set_result(run(config, analyse, **others))
            return future

    monkeypatch.setattr(grids, "_pool", lambda jobs: contextlib.nullcontext(Pool()))
    monkeypatch.setattr(experiments, "run_or_load", lambda config, **_: config.seed)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for gpus, wanted in ((2, [0, 1, 0, 1, 0]), (1, []), (0, [])):
        taken.clear()
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        found = dict(grids.run(configs, 2))
        assert sorted(found.values()) == [0, 1, 2, 3, 4] and taken == wanted


def test_a_gpu_is_timed_with_whole_batches(monkeypatch):
    """A step of half a batch may take as long: launches, not images, fill the time."""
    few, taken = plans._few, []

    def counted(stream, t, images):
        taken.append(images)
        return few(stream, t, images)

    class OnGPU:
        is_cuda = True

        def __init__(self, images):
            self.shape, self.images = images.shape, images

        def __getitem__(self, rows):
            return self.images[rows]

    monkeypatch.setattr(plans, "_few", counted)
    config = tiny("finetune", split=(5, 2, 3), batch_size=33)
    stream, stage = load_tasks(config), plans.Stage("", 1, "classifier", 1)
    plans.seconds_per_step(config, stream, stage, images=4)
    there = dataclasses.replace(stream, train_images=OnGPU(stream.train_images))
    plans.seconds_per_step(config, there, stage, images=4)
    assert taken == [4, 17]  # 2 x 17 are 33 and more


def test_a_grid_runs_goes_on_and_names_what_failed(home):
    small = {k: v for k, v in SMALL.items() if k not in ("base", "tasks")}
    settings = ", ".join(f"{k}: {v}" for k, v in small.items())
    path = write(
        home,
        f"""
preset: quick
runs:
  - methods: [finetune, frozen]
    settings: {{{settings}}}
""",
    )
    done = gfrlib("grid", path, "--dry-run", home=home)
    assert (
        done.returncode == 0
        and "2 runs, 0 recorded" in done.stdout
        and not records_in(home)
    )
    done = gfrlib("grid", path, "--jobs", 2, home=home)
    assert done.returncode == 0 and len(records_in(home)) == 2, done.stderr
    assert (
        len(
            re.findall(
                r"^\[\d/2\] (finetune|frozen) seed 0: .* last +[\d.]+ %",
                done.stdout,
                re.M,
            )
        )
        == 2
    )
    assert "2 recorded, 0 to do" in gfrlib("grid", path, "--dry-run", home=home).stdout
    text = (
        path.read_text()
        + "  - {methods: [finetune], settings: {learning_rate: 1.0e+30, "
        + "epochs_base: 1, device: cpu}}\n"
    )
    path.write_text(text)
    done = gfrlib("grid", path, home=home)
    assert (
        done.returncode == 2
        and "NaN" in done.stderr
        and "1 of 3 runs stopped" in done.stderr
    )
    assert gfrlib("grid", path, "--jobs", 0, home=home).returncode == 2


def records_in(home):
    return [
        p
        for p in Path(home, "data", "cache", "records").glob("*.json")
        if "analysis" not in p.name
    ]


def test_on_ray_a_killed_worker_is_tried_again_and_one_failure_is_listed(
    home, tmp_path, monkeypatch
):
    """12 runs, two workers; one of them is killed, one run diverges: 11 records, one
    error, no stage trained twice.
    """
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'gfrlib[cluster]'")
    import os
    import signal
    import threading
    import time

    import psutil

    monkeypatch.setenv("GFR_HOME", str(home))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    )
    methods = ("finetune", "lwf", "gfr-gaussian", "gfr", "frozen")
    good = [
        tiny(m, seed=s, epochs_base=6, epochs_task=4) for s in (0, 1) for m in methods
    ]
    configs = [
        *good,
        tiny("fecam", seed=0, epochs_base=6),
        tiny("finetune", seed=2, learning_rate=1e30),
    ]
    killed = []

    def kill_one():
        while not killed:
            for process in psutil.process_iter(["name", "cmdline"]):
                busy = "ray::_one" in " ".join(process.info["cmdline"] or [])
                if (
                    busy
                    and list((home / "data").rglob("lock"))
                    and len(records.every()) >= 2
                ):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    return
            time.sleep(0.05)

    threading.Thread(target=kill_one, daemon=True).start()
    results = list(grids.run(configs, 2, ray=True))
    assert killed and len(results) == 12
    failed = [(c, r) for c, r in results if isinstance(r, UserError)]
    assert [c for c, _ in failed] == [configs[-1]] and "NaN or infinite" in str(
        failed[0][1]
    )
    assert {c for c, _ in results} == set(configs)
    stages = [s.key for c in configs[:-1] for s in plans.stages(c, load_tasks(c))]
    done = list((home / "data" / "cache" / "stages").glob("*/done.pt"))
    assert {p.parent.name for p in done} >= set(stages) and len(set(stages)) < len(
        stages
    )


def test_without_ray_the_flag_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"gfrlib\[cluster\]"):
        list(grids.run([tiny("finetune")], 2, ray=True))


def _runs_that_end_badly(config, analyse, **others):
    """Stands for grids._one in a child process: seed 1 kills its process, once."""
    import os
    import signal

    flag = stages.root() / "killed"
    if config.seed == 1 and not flag.exists():
        flag.write_text("once")
        os.kill(os.getpid(), signal.SIGKILL)
    return _REAL_ONE(config, analyse, **others)


_REAL_ONE = grids._one


def test_a_killed_process_is_begun_again_and_an_odd_error_stops_one_run(
    home, monkeypatch
):
    monkeypatch.setattr(grids, "_one", _runs_that_end_badly)
    configs = [
        tiny("finetune", seed=0),
        tiny("finetune", seed=1),
        tiny("finetune", seed=2, threads=2),
    ]
    results = dict(grids.run(configs, 2))
    assert (home / "killed").exists() and set(results) == set(configs)
    assert all(isinstance(r, records.Record) for r in results.values())
    monkeypatch.setattr(grids.experiments, "run_or_load", lambda config, **_: 1 / 0)
    _, problem = _REAL_ONE(configs[0])
    assert isinstance(problem, UserError) and "ZeroDivisionError" in str(problem)


# As a terminal's Ctrl-C does it: all processes hear it. A shell's background job would
# ignore it.
HEARS = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from gfrlib.cli import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no groups of processes here")
def test_ctrl_c_in_a_grid_prints_one_line_and_leaves_no_child(home):
    import psutil

    path = write(
        home,
        "runs: [{methods: [finetune], seeds: [0, 1], settings: {epochs_base: 5000}}]",
    )
    command = [sys.executable, "-c", HEARS, "grid", str(path), "--jobs", "2"]
    grid = subprocess.Popen(
        command,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while len(list(home.rglob("lock"))) < 2:  # both are in their first stage
            assert grid.poll() is None, grid.communicate()
            time.sleep(0.1)
        children = psutil.Process(grid.pid).children(recursive=True)
        assert len(children) >= 2
        os.killpg(grid.pid, signal.SIGINT)
        out, err = grid.communicate(timeout=60)
        _, alive = psutil.wait_procs(children, timeout=30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(grid.pid, signal.SIGKILL)
    assert grid.returncode == 130 and out == "" and not alive
    assert err == f"gfrlib: {words.INTERRUPTED}\n"


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_whoever_stops_reading_results_ends_the_processes(home):
    import multiprocessing

    results = grids.run([tiny("finetune", seed=s) for s in range(5)], 2)
    next(results)
    results.close()
    assert not multiprocessing.active_children()
    assert len(records_in(home)) < 5


def test_a_grid_under_torchrun_is_refused(tmp_path, monkeypatch, capsys):
    from gfrlib import cli

    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["grid", str(write(tmp_path, "runs: [{methods: [lwf]}]"))]) == 2
    assert "torchrun is for a single run" in capsys.readouterr().err
