"""Stages on disk: round trips, what is refused, a full disk."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from helpers_core import tiny, train

from gfrlib.config import UserError
from gfrlib.engine import locks
from gfrlib.engine import store as stages

CONFIG = dict(epochs_base=1, split=(3, 2, 2))


# --- checkpoints ----------------------------------------------------------------------


def stage(folder: Path, key: str = "abc") -> stages.Stage:
    """A stage whose folder is there, without its lock."""
    (folder / key).mkdir(exist_ok=True)
    return stages.Stage(folder / key, key)


def test_a_checkpoint_comes_back_and_a_finished_stage_needs_none(tmp_path):
    notes = []
    store = stages.Store(tmp_path, notes.append)
    with store.stage("abc") as first:
        assert first.checkpoint() is None and first.result() is None
        first.save({"step": 7, "weights": torch.arange(5.0)})
    with store.stage("abc") as second:
        kept = second.checkpoint()
        assert kept["step"] == 7 and torch.equal(kept["weights"], torch.arange(5.0))
        assert "step 7" in notes[0]
        second.finish({"module": {}})
    files = {p.name: p.stat().st_size for p in (tmp_path / "abc").iterdir()}
    assert files.pop("done.pt") and files in ({}, {"lock": 0})
    with store.stage("abc") as third:
        assert third.result() == {"module": {}} and third.checkpoint() is None


@pytest.mark.parametrize("share", [0, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("name", ["checkpoint.pt", "done.pt"])
def test_a_half_cut_checkpoint_is_refused(tmp_path, name, share):
    first = stage(tmp_path)
    first._write(name, {"step": 1, "weights": torch.zeros(1000)})
    file = first.path / name
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="damaged") as caught:
        first._read(name)
    assert str(file) in str(caught.value)


def test_a_flipped_bit_in_a_checkpoint_is_noticed(tmp_path):
    first = stage(tmp_path)
    first.save({"step": 1, "weights": torch.zeros(1000)})
    file = first.path / "checkpoint.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        first.checkpoint()


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    stage(tmp_path).save({"step": 1})
    stage(tmp_path, "xyz")
    shutil.copy(tmp_path / "abc" / "checkpoint.pt", tmp_path / "xyz" / "checkpoint.pt")
    with pytest.raises(UserError, match="another configuration"):
        stage(tmp_path, "xyz").checkpoint()


def test_checkpoints_are_due_four_times_a_minute(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(stages.time, "monotonic", lambda: now[0])
    first = stage(tmp_path)
    assert stages.CHECKPOINT_EVERY <= 60 and not first.due()
    now[0] += stages.CHECKPOINT_EVERY + 0.1
    assert first.due()
    first.save({"step": 1})
    assert not first.due()


# --- a full disk ----------------------------------------------------------------------


@pytest.fixture(params=["replace", "fsync", "tmpfs"])
def full_disk(request, tmp_path, monkeypatch):
    """A folder in which no record can be written: a file system of 16 KiB where one may
    be mounted, or failing calls.
    """
    folder = tmp_path / "full"
    folder.mkdir()
    if request.param == "tmpfs":
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(
                "no file system can be mounted here; the other two cases stand for it"
            )
        yield folder
        subprocess.run(["umount", folder], check=True)
        return

    def no_space(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stages.os, request.param, no_space)
    yield folder


def test_a_full_disk_is_answered_by_one_sentence_and_leaves_nothing_half_written(
    full_disk,
):
    path = full_disk / "record.json"
    with pytest.raises(UserError, match="No space left on device") as caught:
        stages.write_atomically(path, b"x" * 200_000)
    assert "\n" not in str(caught.value)
    assert list(full_disk.iterdir()) == []


def test_a_full_disk_while_a_stage_is_claimed_is_one_sentence(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(locks.filelock.FileLock, "acquire", full)
    with (
        pytest.raises(UserError, match="No space"),
        stages.Store(tmp_path).stage("abc"),
    ):
        pass


def test_a_full_disk_during_training_loses_only_what_was_not_kept(
    tmp_path, monkeypatch
):
    store, config = stages.Store(tmp_path), tiny("finetune", **CONFIG)
    original, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(handle)

    with monkeypatch.context() as patch:
        patch.setattr(stages.os, "fsync", full)
        with pytest.raises(UserError, match="No space"):
            train(config, store)
    kept = sorted(
        p.name for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size
    )
    assert (
        kept == ["done.pt"] * 3
    )  # task 0's classifier, its (empty) generator stage, its predictions
    assert train(config, store).weights == train(config).weights
