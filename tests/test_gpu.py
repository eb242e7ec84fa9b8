"""The GPU quarter of an hour without a GPU: pieces, deadlines, table, resuming.

The whole way is rehearsed by `bash grids/gpu.sh dry MOSAICS`, which takes minutes.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers_core import SMALL, load_tasks, tiny, train
from PIL import Image

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import parts, pieces, rehearsal, state, table, work
from gfrlib.config import UserError, make_config
from gfrlib.engine import store
from gfrlib.lab import datasets, experiments, plans, seals

CLASSES, TRAIN, TEST = ("ape", "bee", "cat", "dog", "elk"), 20, 4


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A machine of its own: no findings, no data."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("GFR_HOME", str(tmp_path))
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.delenv("GFR_CACHE", raising=False)
    (tmp_path / "out").mkdir()
    return tmp_path


# Pieces -------------------------------------------------------------------------------


@pytest.fixture
def mosaics(tmp_path):
    """A folder of mosaics, and the arrays that they hold."""
    rng, arrays = np.random.default_rng(0), {}
    for part, (rows, columns) in (("train", (4, 5)), ("test", (2, 2))):
        images = []
        for name in CLASSES:
            own = rng.integers(0, 256, (rows, 32, columns, 32, 3), dtype=np.uint8)
            file = tmp_path / "mosaics" / part / f"{name}.webp"
            file.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(own.reshape(32 * rows, 32 * columns, 3))
            image.save(file, lossless=True)
            images.append(own.swapaxes(1, 2).reshape(-1, 32, 32, 3))
        arrays[f"{part}_images"] = np.concatenate(images)
        counts = rows * columns
        arrays[f"{part}_labels"] = np.repeat(np.arange(len(CLASSES)), counts)
    return tmp_path / "mosaics", arrays


def sizes(places) -> list[int]:
    return [sum(f.stat().st_size for f in p.rglob("*.webp")) for p in places]


def test_pieces_put_together_are_the_data_bit_for_bit(home, mosaics, tmp_path):
    folder, arrays = mosaics
    whole = sizes([folder])[0]
    for limit, count in ((whole, 1), (whole * 0.6, 2), (whole * 0.4, 3)):
        made = pieces.make(folder, limit)
        assert len(made) == count and max(sizes(made)) <= limit
        assert sum(sizes(made)) == whole and pieces.missing() == []
        assert sorted(p.name for p in pieces.folder().iterdir()) == [
            str(number) for number in range(1, count + 1)
        ]
    pieces.put_together("made-up")
    np.savez(tmp_path / "direct.npz", **arrays, class_names=np.array(CLASSES))
    datasets.add("direct", tmp_path / "direct.npz")
    ours, theirs = datasets.packed("made-up"), datasets.packed("direct")
    assert ours.content == theirs.content and ours.class_names == list(CLASSES)
    for name in arrays:
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))


def test_the_calls_are_told_one_for_each_piece(home, mosaics, capsys, monkeypatch):
    """With the working tree, no call takes along more than it can."""
    folder, _ = mosaics
    size = sizes([folder])[0]
    monkeypatch.setattr(pieces, "tree_bytes", lambda: 5000)
    monkeypatch.setattr(pieces, "CARRIED", 5000 + pieces.MARGIN + size * 2 // 5)
    assert gpu.main(["pieces", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split("command: ")[1] for line in lines] == [
        "bash grids/gpu.sh check --minutes 3.5",
        "true",
        "bash grids/gpu.sh train --minutes 8",
    ]
    assert sum(gpu.LEASED.values()) < 15 and max(gpu.LEASED.values()) < 10
    assert all(f"carry data/carry/{k} " in line for k, line in enumerate(lines, 1))
    monkeypatch.setattr(pieces, "CARRIED", 10 * pieces.MARGIN + 10 * size)
    assert gpu.main(["pieces", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert ["carry data/carry/1 " in line for line in lines] == [True, False]
    assert "carry nothing" in lines[1] and "train" in lines[1]


def test_a_rehearsal_leaves_what_a_session_has_brought_back(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "folder", lambda: tmp_path / "carry")
    archive, back = tmp_path / "archive", tmp_path / "carry" / "back"
    archive.write_text("rehearsed")
    for real in (None, "real"):
        if real:
            back.mkdir(parents=True)
            (back / state.ARCHIVE).write_text(real)
        with pytest.raises(ZeroDivisionError), rehearsal.brought_back(archive) as place:
            assert place == back
            assert (back / state.ARCHIVE).read_text() == "rehearsed"
            raise ZeroDivisionError
        assert back.exists() == bool(real)
    assert (back / state.ARCHIVE).read_text() == "real"
    (tmp_path / "carry" / "back-of-before").mkdir()
    with pytest.raises(UserError, match="had set aside"):
        rehearsal.brought_back(archive).__enter__()
    assert (back / state.ARCHIVE).read_text() == "real"


def test_a_rehearsal_that_ended_badly_says_why():
    good = state.empty() | {"said": ["resuming stage x at step 2"]}
    for name in state.PLANNED:
        state.note(good, row(name))
    rehearsal.judge(good, good)
    state.note(good, {**CHECK, "passed": False})
    bad = {**good, "rows": {}, "said": []}
    with pytest.raises(UserError) as told:
        rehearsal.judge(bad, good)
    for what in ("rows that are not", "checks that failed: one", "resumed", "other"):
        assert what in str(told.value)


def test_what_is_missing_or_damaged_is_named(home, mosaics):
    folder, _ = mosaics
    with pytest.raises(UserError, match="No piece of CIFAR-100 is here"):
        pieces.put_together("made-up")
    first, second = pieces.make(folder, 0.6 * sizes([folder])[0])
    (second / pieces.ABOUT).rename(home / "away")
    assert pieces.missing() == [2]
    with pytest.raises(UserError, match="data/carry/2 is not here yet"):
        pieces.put_together("made-up")
    (home / "away").rename(second / pieces.ABOUT)
    file = next(first.rglob("*.webp"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{file.name}' is missing or damaged"):
        pieces.put_together("made-up")
    with pytest.raises(UserError, match="too many for 8 pieces"):
        pieces.make(folder, 1000)
    with pytest.raises(UserError, match="a mosaic of each class in both"):
        pieces.make(home, 1000)
    (pieces.folder() / "1" / pieces.ABOUT).unlink()
    with pytest.raises(UserError, match="is no piece of this script"):
        pieces.make(folder, 10**9)


# Deadlines, failures, the table -------------------------------------------------------

# Stands for a process that works: says what it is told, then waits, fails or ends.
WORKER = """
import json, signal, sys, time
def end(*_):
    sys.exit(3)
signal.signal(signal.SIGTERM, end)
plan = json.load(open(sys.argv[1]))
words = [w for w in sys.argv[2:] if w != "--dry"]
key = " ".join(words[:2])
for event in plan.get(key, []):
    if event == "wait":
        time.sleep(60)
    elif event == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
    elif event == "fail":
        sys.exit("something broke")
    else:
        print(json.dumps(event), flush=True)
"""


@pytest.fixture
def worker(home, monkeypatch):
    """worker({"rows eager": [event, ...], ...}): what the processes will do."""
    script, plan = home / "worker.py", home / "plan.json"
    script.write_text(WORKER)
    monkeypatch.setattr(parts, "WORKER", (str(script), str(plan)))
    monkeypatch.setattr(parts, "bring_data", lambda part: None)
    return lambda planned: plan.write_text(json.dumps(planned))


def row(name: str, mode: str = "eager") -> dict:
    phases = [("classifier", 0, 40.0), ("classifier", 1, 6.0), ("classifier", 2, 8.0)]
    seconds = [dict(phase=p, task=t, seconds=s, steps=1000) for p, t, s in phases]
    curve = [80.0, 70.0, 60.0]
    about = dict(wall=60.0, record=f"{name}.json", seconds=seconds, curve=curve)
    return {"event": "row", "row": name, "status": "done", "mode": mode, **about}


CHECK = {"event": "check", "name": "one", "said": "fine", "seconds": 1.0}
TIMED = {"event": "timing", "what": "classifier, task 0", "floor": 2.0, "start": 9.0}
AT = dict(event="at", row="gfr", task=0, phase="classifier", step=7, total=9)


def call(*words: str) -> int:
    return gpu.main([*words, "--dry"])


def test_the_table_comes_whatever_happens(worker, home, capsys):
    worker(
        {
            "checks": [{**CHECK, "passed": True}, {**CHECK, "passed": False}, "fail"],
            "timing eager": [{**TIMED, "mode": "eager", "seconds": 6.0}],
            "rows eager": [row("gfr"), {**AT, "row": "frozen"}, "fail"],
        }
    )
    assert call("all") == 1  # a check failed
    said = capsys.readouterr().out
    assert "Checks: 0 passed, 1 failed" in said
    assert "classifier, task 0" in said and "3.0x" in said
    assert "80.0 70.0 60.0" in said and "78.0 71.3 69.0 65.1" in said
    assert "classifier of task 0, 7 of 9" in said and "ended with code 1" in said
    assert "Left: frozen, gfr-gaussian" in said
    assert "bash grids/gpu.sh train --dry" in said
    assert (home / "out" / state.TABLE).read_text().strip() in said
    assert "something broke" in (home / "out" / "gpu-log.txt").read_text()
    lines = (home / "out" / state.TABLE).read_text().splitlines()
    assert max(map(len, lines)) <= 88
    taken = next(line for line in lines if "gfr, classifier" in line)
    assert taken.split()[2:] == ["40.0", "7.0", "2.0", "27.0x"]


@pytest.mark.parametrize("kind", ["wait", "hang"])
def test_a_deadline_ends_what_works_and_keeps_what_it_said(worker, capsys, kind):
    worker({"rows eager": [row("gfr"), AT, kind]})
    began = time.monotonic()
    call("train", "--minutes", "0.05")  # 3 s
    assert time.monotonic() - began < 15
    said = capsys.readouterr().out
    assert "Left: frozen" in said and "gfr" in said
    assert "its time is over" in said
    found = state.load()
    assert state.is_done(found, "gfr") and not found["failed"]


def test_a_deadline_before_the_first_row_blames_no_mode(worker, capsys, monkeypatch):
    """And what was tested by then comes back."""
    monkeypatch.setattr(state, "fastest", lambda found: "compiled")
    tested = {"event": "tested", "row": "gfr", "curve": [77.7, 66.6]}
    worker({"rows compiled": [AT, tested, "hang"]})
    call("train", "--minutes", "0.05")
    found = state.load()
    assert found["failed"] == [] and found["kind"] == "compiled"
    assert "77.7 66.6" in capsys.readouterr().out
    assert found["rows"]["gfr"]["at"] and not state.is_done(found, "gfr")


def test_a_mode_whose_check_failed_is_not_trained_in(worker):
    found = state.empty() | {"steps": {"classifier, task 0": 1000}}
    found["timing"] = {"classifier, task 0": dict(eager=9.0, compiled=5.0, graphs=1.0)}
    assert state.fastest(found) == "graphs"
    wrong = {"passed": False, "said": ""}
    found["checks"] = {state.NETWORK_CHECK.format(mode="graphs"): wrong}
    assert state.fastest(found) == "compiled"
    found["checks"][state.GAN_CHECK] = wrong
    assert state.fastest(found) == "eager"
    # a timing that crashes
    worker({"timing compiled": ["fail"], "timing graphs": ["wait"]})
    part = parts.Part(1.0, dry=True)
    part.dry = False
    part.until = time.monotonic() + part.grace + 4
    parts.check(part)
    assert part.found["failed"] == ["compiled"]


def test_a_part_that_is_told_to_end_prints_its_table(worker, capsys):
    worker({"rows eager": [row("gfr"), "wait"]})

    def end() -> None:
        while not state.is_done(state.load(), "gfr"):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=end, daemon=True).start()
    assert call("train", "--minutes", "5") == 0
    assert "told to end (SIGTERM)" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_is_recorded_is_not_asked_for_again(worker, capsys):
    everything = [row(name) for name in state.PLANNED]
    worker({"rows eager": everything})
    assert call("train") == 0
    worker({"rows eager": ["fail"]})
    assert call("train") == 0
    assert "Left: nothing" in capsys.readouterr().out


def test_a_mode_that_fails_gives_way_to_the_next(worker, monkeypatch):
    """Where nothing was recorded in it; else rows would not share task 0."""
    monkeypatch.setattr(state, "fastest", lambda found: next(iter(left_of(found))))

    def left_of(found):
        return [m for m in ("graphs", "compiled", "eager") if m not in found["failed"]]

    whole = [row(name, "compiled") for name in state.PLANNED]
    worker({"rows graphs": ["fail"], "rows compiled": [whole[0], "fail"]})
    assert call("train") == 1
    found = state.load()
    assert found["failed"] == ["graphs"] and found["kind"] == "compiled"
    assert [name for name in state.PLANNED if state.is_done(found, name)] == ["frozen"]


def test_without_a_gpu_it_says_so(home, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main(["check"]) == 2
    assert "There is no GPU here" in capsys.readouterr().err
    assert gpu.main(["pieces"]) == 2
    assert "needs a folder" in capsys.readouterr().err


# What the modes cost ------------------------------------------------------------------


def test_the_fastest_mode_by_the_timings():
    a, b, more = "classifier, task 0", "generator, task 0", "classifier, later"
    found = state.empty() | {"steps": {a: 1000, b: 2000}}
    assert state.fastest(found) == "compiled"  # nothing timed
    assert state.fastest({**found, "failed": ["compiled"]}) == "eager"
    found["timing"] = {
        a: {"eager": 30.0, "compiled": 10.0, "graphs": 5.0},
        b: {"eager": 30.0, "compiled": 10.0},
    }
    found["start"] = {"compiled": 20.0, "graphs": 40.0}
    assert state.projected(found, "eager") == 90
    assert state.projected(found, "compiled") == 50
    assert state.projected(found, "graphs") == 65  # the GAN's graphs are compiled's
    assert state.fastest(found) == "compiled"
    assert state.fastest({**found, "failed": ["compiled"]}) == "graphs"
    # a later task that was timed in one mode alone
    found["steps"][more], found["timing"][more] = 1000, {"eager": 60.0}
    assert state.projected(found, "eager") == 150
    assert state.projected(found, "compiled") == 70
    del found["timing"][b]["eager"]
    assert state.projected(found, "eager") is None


def test_steps_are_those_of_the_papers_schedule():
    config = work.settings("gfr", "eager", dry=False)
    assert config == make_config("paper", "gfr")
    assert work.steps_of(config) == {
        "classifier, task 0": 195 * 201,
        "generator, task 0": 19539,
        "classifier, later": 5 * 39 * 201,
        "generator, later": 20040,
    }
    ten = work.settings("gfr 50 + 10 x 5", "compiled", dry=False)
    assert (ten.base, ten.tasks, ten.compiled) == (50, 10, True)


def test_timed_steps_leave_out_the_first(monkeypatch):
    """The clock is read once a step; the first `warm` steps do not count."""
    config, ticks = tiny("gfr", batch_size=16), iter([0.0, 100.0, 200.0, 200.25, 201.0])
    stage = plans.Stage("", 0, "classifier", 2)
    found = plans.seconds_per_step(
        config, load_tasks(config), stage, steps=2, warm=3, clock=lambda: next(ticks)
    )
    assert found == 0.5 and not list(ticks)


def test_long_steps_are_timed_once(monkeypatch):
    """On a CPU a plan of the paper's own network took a second a step, six a kind."""
    config, ticks = tiny("gfr", batch_size=16), iter([0.0, 100.0, 107.0, 108.0])
    stage = plans.Stage("", 0, "classifier", 2)
    found = plans.seconds_per_step(
        config, load_tasks(config), stage, warm=2, clock=lambda: next(ticks)
    )
    assert found == 7.0 and list(ticks) == [108.0]


# Stopping and resuming ----------------------------------------------------------------


def test_a_run_that_is_stopped_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    """A checkpoint lies where it was stopped, whatever the usual interval."""
    monkeypatch.setenv("GFR_CACHE", str(tmp_path))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(store, "CHECKPOINT_EVERY", 1e9)
    config = tiny("gfr", **SMALL, precision="float32")
    whole = train(config)
    resumed: list[str] = []

    class Asked(work.Report):
        def __call__(self, t, phase, step, *rest):
            if (t, phase, step) == (1, "generator", 2):
                self.ask()
            super().__call__(t, phase, step, *rest)

    report = Asked("gfr", config)
    with pytest.raises(work.Stopped):
        train(config, store.Store(), report=report)
    monkeypatch.setattr(store, "CHECKPOINT_EVERY", 1e9)
    again = train(config, store.Store(notice=resumed.append))
    assert len(resumed) == 1 and resumed[0].endswith("at step 2")
    assert again.weights == whole.weights
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {event["event"] for event in events} == {"at", "tested"}
    (found,) = (event for event in events if event["event"] == "tested")
    stream = load_tasks(config)
    seen = stream.test_labels[: len(whole.predictions[0][config.prediction])].numpy()
    share = (whole.predictions[0][config.prediction] == seen).mean()
    assert found["curve"] == [round(100 * float(share), 2)]


def test_a_costly_part_can_be_left_out(home):
    config = tiny("gfr", **SMALL)
    record = experiments.run_or_load(
        config, analyse="similarity", leave_out=("similarity",)
    )
    assert "similarity" not in record.analysis and "drift" in record.analysis


# The archive --------------------------------------------------------------------------


def results(home) -> state.Path:
    """An archive with one real record, made where git was not."""
    record = experiments.run_or_load(tiny("gfr", **SMALL))
    content = json.loads(record.path.read_text())
    content["provenance"]["commit"] = "unknown"
    for file in record.path.parent.glob(f"{record.path.stem}.*"):
        target = state.home() / "records" / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file.read_text())
    target = state.home() / "records" / record.path.name
    target.write_bytes(seals.sealed(content))
    found = state.empty()
    state.note(found, row("gfr"))
    state.save(found)
    state.archive(found, table.text(found))
    return state.out() / state.ARCHIVE


def test_a_fresh_machine_knows_what_came_back(home, monkeypatch, tmp_path):
    made = results(home)
    fresh = tmp_path / "fresh"
    (fresh / "data" / "carry" / "back").mkdir(parents=True)
    monkeypatch.setenv("GFR_HOME", str(fresh))
    back = pieces.folder() / "back" / state.ARCHIVE
    back.write_bytes(made.read_bytes())
    part = parts.Part(1.0, dry=False)
    assert state.is_done(part.found, "gfr")
    assert len(list((state.home() / "records").glob("*.json"))) == 2
    with pytest.raises(UserError, match="holds findings of a GPU; bring them home"):
        parts.Part(1.0, dry=True)
    back.write_bytes(b"no archive")
    (state.home() / "state.json").unlink()
    with pytest.raises(UserError, match="is no archive of gpu.sh"):
        parts.Part(1.0, dry=False)


def test_collected_records_name_the_code(home, monkeypatch, capsys):
    made = results(home)
    monkeypatch.setattr("gfrlib.lab.origin.code_commit", lambda: "c0de" * 10)
    assert gpu.main(["collect", str(made.parent)]) == 0
    (file,) = (
        f
        for f in (home / "data" / "records").glob("*.json")
        if not f.name.endswith("analysis.json")
    )
    assert json.loads(file.read_text())["provenance"]["commit"] == "c0de" * 10
    assert file.name in capsys.readouterr().out
    assert (pieces.folder() / "back" / state.ARCHIVE).exists()


def test_a_rehearsal_is_no_result(home, capsys):
    found = state.empty() | {"dry": True}
    state.archive(found, table.text(found))
    assert gpu.main(["collect", str(state.out())]) == 2
    assert "is of a rehearsal" in capsys.readouterr().err
    assert not (home / "data" / "records").exists()


SCRIPT = Path(__file__).resolve().parents[1] / "grids" / "gpu.sh"


def gpu_sh(*words, script=SCRIPT, folder, **names) -> subprocess.CompletedProcess:
    """`bash gpu.sh WORDS`, called from another folder."""
    return subprocess.run(
        ["bash", script, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **names},
        cwd=folder,
    )


def test_the_script_takes_the_python_that_is_named(tmp_path):
    done = gpu_sh("--help", folder=tmp_path, GPU_PYTHON=sys.executable)
    assert done.returncode == 0 and "without a GPU:" in done.stdout


@pytest.mark.parametrize(
    "able", ["GPU_PYTHON", ".venv/bin/python", "python3", "python"]
)
def test_the_script_finds_its_python(tmp_path, able):
    """The first that has the packages; one that is named is taken, or nothing is."""
    script = tmp_path / "grids" / "gpu.sh"
    where = {
        "GPU_PYTHON": tmp_path / "named",
        ".venv/bin/python": tmp_path / ".venv" / "bin" / "python",
        "python3": tmp_path / "bin" / "python3",
        "python": tmp_path / "bin" / "python",
    }
    lacks = 1
    for name, path in where.items():
        lacks = 0 if name == able else lacks  # and those after it have them, too
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'#!/bin/sh\n[ "$1" = -c ] && exit {lacks}\necho "{name}" "$@"\n'
        )
        path.chmod(0o755)
    script.parent.mkdir()
    script.write_bytes(SCRIPT.read_bytes())
    places = {
        "GPU_PYTHON": str(where["GPU_PYTHON"]),
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    if able != "GPU_PYTHON":
        done = gpu_sh("time", script=script, folder=tmp_path, **places)
        assert done.returncode == 2 and "lacks some of torch" in done.stderr
        places["GPU_PYTHON"] = ""
    done = gpu_sh("time", "--dry-run", script=script, folder=tmp_path, **places)
    assert done.stdout.split("\n")[0] == f"{able} -m benchmarks.gpu time --dry-run"
