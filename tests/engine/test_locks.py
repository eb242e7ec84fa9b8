"""Locks between processes: who waits, who goes on; a killed and a stopped one.

`python tests/locks.py` does the same at length: 20 kills, a stop of 90 seconds.
"""

import errno
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import filelock
import pytest
from killing import Race, holder, trained_at_once, wait_for

from gfrlib.engine import distributed, locks, store


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(locks, "_told", set())
    monkeypatch.setattr(locks, "POLL", 0.02)


def try_stage(place: Path, seconds: float, notes: list | None = None) -> bool:
    """Whether the stage can be entered within that time."""
    entered, stop = threading.Event(), threading.Event()

    def enter():
        with store.Store(place, (notes if notes is not None else []).append).stage("k"):
            entered.set()
            stop.wait(60)

    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    got = entered.wait(seconds)
    if not got:  # let the waiting thread end
        (place / "k" / "done.pt").write_bytes(b"")
        entered.wait(10)
        (place / "k" / "done.pt").unlink()
    stop.set()
    thread.join(10)
    return got


def test_the_stores_and_their_stages_have_one_interface():
    found = [
        store.Store(Path("x")),
        store.NoStore(),
        distributed.Store(store.NoStore()),
    ]
    assert all(isinstance(each.code, str) and each.stage for each in found)
    stages = [store.Stage(Path("x"), "k"), store.NoStore(), distributed._Heard()]
    stages += [distributed._Told(store.NoStore())]
    for name in ("path", "result", "checkpoint", "due", "save", "finish"):
        assert all(hasattr(stage, name) for stage in stages), name


def test_a_held_stage_is_waited_for_and_the_reader_is_told_once(tmp_path):
    notes = []
    with store.Store(tmp_path).stage("k"):
        assert not try_stage(tmp_path, 0.3, notes)
    assert notes == ["waiting for another process that trains stage k"]
    assert try_stage(tmp_path, 5)


def test_a_stage_that_fails_gives_its_lock_back(tmp_path):
    with pytest.raises(ZeroDivisionError), store.Store(tmp_path).stage("k"):
        raise ZeroDivisionError
    assert try_stage(tmp_path, 5)


def test_a_stage_that_is_done_needs_no_lock(tmp_path):
    with store.Store(tmp_path).stage("k") as stage:
        stage.finish({"module": {}})
        (tmp_path / "k" / "lock").unlink(missing_ok=True)
        with store.Store(tmp_path).stage("k") as again:
            assert again.result() == {"module": {}}
        assert not (tmp_path / "k" / "lock").exists()


def test_a_stage_that_is_done_meanwhile_is_not_waited_for_any_longer(tmp_path):
    with store.Store(tmp_path).stage("k"):
        timer = threading.Timer(
            0.2, lambda: (tmp_path / "k" / "done.pt").write_bytes(b"")
        )
        timer.start()
        with store.Store(tmp_path).stage("k"):
            assert (tmp_path / "k" / "done.pt").exists()


def test_a_left_file_holds_nobody_up(tmp_path):
    """An empty lock file, or one that older code wrote its process into."""
    (tmp_path / "k").mkdir()
    for content in ("", '{"host": "elsewhere", "pid": 1, "started": "1"}'):
        (tmp_path / "k" / "lock").write_text(content)
        assert try_stage(tmp_path, 5)


def test_a_killed_process_loses_its_lock_at_once(tmp_path):
    process = holder(tmp_path, "k")
    try:
        assert not try_stage(tmp_path, 0.3)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert try_stage(tmp_path, 5)
    finally:
        process.kill()


def test_a_forked_child_does_not_keep_its_dead_parents_lock(tmp_path):
    process = holder(tmp_path, "k", child=True)
    child = int(process.stdout.readline())
    try:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        os.kill(child, 0)  # it lives
        assert try_stage(tmp_path, 5)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_stopped_process_keeps_its_lock_until_it_goes_on(tmp_path):
    race = Race(tmp_path, stages=1, seconds=1.0)
    race.start(2)
    wait_for(race.entered)
    first = race.entered()[0]
    os.kill(first, signal.SIGSTOP)
    time.sleep(3)
    assert race.entered() == [first], "nobody else has entered the stage"
    os.kill(first, signal.SIGCONT)
    race.join()
    assert race.trained() == {"0": [first]}


def test_three_processes_at_once_train_each_stage_once(tmp_path):
    race = Race(tmp_path, stages=4, seconds=0.2)
    race.start(3)
    race.join()
    assert {key: len(by) for key, by in race.trained().items()} == dict.fromkeys(
        "0123", 1
    )


def test_three_runs_at_once_train_what_they_share_once(tmp_path):
    """Of two classifiers each, task 0's is one and the same."""
    assert sum(trained_at_once(tmp_path, ["finetune", "lwf", "ewc"])) == 4


def test_kills_at_random_moments_leave_no_stage_to_two(tmp_path):
    race = Race(tmp_path, stages=3, seconds=0.4)
    race.start(3)
    assert race.kill_at_random(5, longest=0.5) > 0
    race.join()
    assert set(race.trained()) == set("012") and race.overlaps() == 0


@pytest.mark.parametrize(
    "problem",
    [
        NotImplementedError("no flock here"),
        OSError(errno.ENOSYS, "Function not implemented"),
        OSError(errno.ENOTSUP, "Operation not supported"),
        OSError(errno.ENOLCK, "No locks available"),
    ],
    ids=["NotImplementedError", "ENOSYS", "ENOTSUP", "ENOLCK"],
)
def test_a_file_system_without_locks_is_named_once_and_used_all_the_same(
    tmp_path, monkeypatch, problem
):
    def none(*args, **kwargs):
        raise problem

    monkeypatch.setattr(filelock.FileLock, "acquire", none)
    notes = []
    for key in ("a", "b"):
        with store.Store(tmp_path, notes.append).stage(key) as stage:
            stage.finish({"key": key})
    assert len(notes) == 1 and "knows no locks" in notes[0]
    assert {p.parent.name for p in tmp_path.glob("*/done.pt")} == {"a", "b"}


def test_the_mere_existence_of_a_file_is_never_taken_for_a_lock(tmp_path, monkeypatch):
    """What filelock falls back to would outlive a killed process."""
    unix = sys.modules[filelock.FileLock.__module__]
    if not hasattr(unix, "fcntl"):
        pytest.skip("no fcntl here")

    def no_flock(*args):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(unix.fcntl, "flock", no_flock)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            with store.Store(tmp_path).stage("k"):
                pass
    said = [str(warning.message) for warning in caught]
    assert len(said) == 1 and "knows no locks" in said[0]
