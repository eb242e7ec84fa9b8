"""Stages on disk: round trips, what is refused, a full disk."""

import errno
import hashlib
import io
import os
import pickle
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from helpers_core import SMALL, another_user, tiny, train

from gfrlib.config import UserError
from gfrlib.engine import locks, paths
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


@pytest.mark.parametrize("took, wanted", [(0.1, 15), (0.3, 15), (0.6, 30), (9.0, 60)])
def test_what_takes_long_to_save_is_saved_less_often(
    tmp_path, monkeypatch, took, wanted
):
    """But once a minute at least."""
    now = [1000.0]
    monkeypatch.setattr(stages.time, "monotonic", lambda: now[0])
    some, write = stage(tmp_path), stages.Stage._write

    def slowly(self, name, state):
        write(self, name, state)
        now[0] += took

    monkeypatch.setattr(stages.Stage, "_write", slowly)
    some.save({"step": 1})
    now[0] += wanted - 0.1
    assert not some.due()
    now[0] += 0.2
    assert some.due()


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


# --- other content, with the right checksum -------------------------------------------


def sealed(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def kept(what) -> bytes:
    """A file of the stage abc with that as its state."""
    buffer = io.BytesIO()
    torch.save({"key": "abc", "state": what}, buffer)
    return sealed(buffer.getvalue())


class Own:
    """What no stage holds: reading it would run code."""

    def __reduce__(self):
        return print, ("run",)


CONTENT = {
    "nothing": b"",
    "an empty content": sealed(b""),
    "no checksum": b"x" * 200,
    "text": sealed(b"hello"),
    "a pickle": sealed(pickle.dumps({"key": "abc", "state": {}})),
    "a pickle that runs code": sealed(pickle.dumps(Own())),
    "a list": sealed(b"PK\x03\x04" + bytes(100)),
    "no state": kept(None),
    "a list as state": kept([1, 2]),
    "a tensor as state": kept(torch.zeros(3)),
}


@pytest.mark.parametrize("name", ["checkpoint.pt", "done.pt"])
@pytest.mark.parametrize("what", CONTENT)
def test_a_file_of_no_stage_is_one_sentence(tmp_path, name, what, capsys):
    first = stage(tmp_path)
    (first.path / name).write_bytes(CONTENT[what])
    with pytest.raises(UserError, match=f"{name} is damaged .* delete that file"):
        first._read(name)
    assert capsys.readouterr().out == ""


def put_folder(file: Path) -> None:
    file.mkdir()


def put_link(file: Path) -> None:
    file.symlink_to("/dev/zero")


@pytest.mark.parametrize("name", ["checkpoint.pt", "done.pt"])
@pytest.mark.parametrize("put", [put_folder, put_link, os.mkfifo])
def test_what_is_no_file_is_not_read(tmp_path, put, name):
    first = stage(tmp_path)
    put(first.path / name)
    with pytest.raises(UserError, match="is no file"):
        first._read(name)


def test_a_link_to_nowhere_is_replaced_and_one_to_a_file_is_read(tmp_path):
    file = stage(tmp_path).path / "done.pt"
    file.symlink_to(tmp_path / "nowhere")
    with stages.Store(tmp_path).stage("abc") as first:
        assert first.result() is None
        first.finish({"module": {}})
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with stages.Store(tmp_path).stage("abc") as second:
        assert second.result() == {"module": {}}


@pytest.mark.parametrize("what", ["file", "folder as lock", "link as lock"])
def test_a_stage_without_a_folder_or_a_lock_is_one_sentence(tmp_path, what):
    place = tmp_path / "abc"
    if what == "file":
        place.write_text("")
    else:
        place.mkdir()
        put = {"folder as lock": put_folder, "link as lock": put_link}[what]
        put(place / "lock")
    with (
        pytest.raises(UserError, match="could not be written|cannot be written"),
        stages.Store(tmp_path).stage("abc"),
    ):
        pass


@pytest.fixture(scope="module")
def stages_of_a_run(tmp_path_factory):
    """Stages of a run of a replaying method, to be changed in copies."""
    place = tmp_path_factory.mktemp("stages")
    train(tiny("gfr", **SMALL), stages.Store(place))
    return place


def of_kind(place: Path, part: str) -> Path:
    """A finished stage whose state has that part."""
    for file in sorted(place.glob("*/done.pt")):
        if part in torch.load(io.BytesIO(file.read_bytes()[65:]))["state"]:
            return file
    raise AssertionError(part)


def changed(file: Path, change) -> None:
    """Change the state in a stage's file, and seal it again."""
    whole = torch.load(io.BytesIO(file.read_bytes()[65:]))
    change(whole["state"])
    buffer = io.BytesIO()
    torch.save(whole, buffer)
    file.write_bytes(sealed(buffer.getvalue()))


def other_shapes(state):
    state["module"] = {name: torch.zeros(2, 5) for name in state["module"]}


STATES = {
    "no module": ("module", lambda state: state.pop("module")),
    "a module of other shapes": ("module", other_shapes),
    "a module without keys": ("module", lambda state: state.update(module={})),
    "a number as module": ("module", lambda state: state.update(module=7)),
    "no losses": ("module", lambda state: state.pop("losses")),
    "nothing of what made it": ("module", lambda state: state.pop("made")),
    "numbers as losses": ("module", lambda state: state.update(losses=[1, 2])),
    "no seconds": ("module", lambda state: state.pop("seconds")),
    "text as seconds": ("module", lambda s: s.update(seconds={"seconds": "x"})),
    "no predictions": ("rules", lambda state: state.update(rules={})),
    "predictions of none": ("rules", lambda state: state.update(rules={"softmax": 1})),
    "too few predictions": (
        "rules",
        lambda state: state.update(rules={"softmax": torch.zeros(3)}),
    ),
}


@pytest.mark.parametrize("what", STATES)
def test_a_stage_of_other_content_is_one_sentence(tmp_path, stages_of_a_run, what):
    place = shutil.copytree(stages_of_a_run, tmp_path / "stages")
    part, change = STATES[what]
    file = of_kind(place, part)
    changed(file, change)
    with pytest.raises(UserError, match="does not fit its stage") as caught:
        train(tiny("gfr", **SMALL), stages.Store(place))
    assert str(file.parent) in str(caught.value) and "\n" not in str(caught.value)
    shutil.rmtree(file.parent)  # as the sentence says
    train(tiny("gfr", **SMALL), stages.Store(place))


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError])
def test_too_little_memory_is_not_told_as_a_damaged_file(tmp_path, monkeypatch, kind):
    """The advice would be to delete what is whole."""
    with stages.Store(tmp_path).stage("key") as stage:
        with pytest.raises(kind), stages.fitting(stage):
            raise kind("no memory")
        stage.finish({"x": torch.zeros(2)})

    def refuse(*_, **__):
        raise MemoryError

    monkeypatch.setattr(torch, "load", refuse)
    with stages.Store(tmp_path).stage("key") as stage, pytest.raises(MemoryError):
        stage.result()


CHECKPOINTS = {
    "no step": lambda state: state.pop("step"),
    "text as step": lambda state: state.update(step="seven"),
    "another network": lambda s: s.update(network={"x": torch.zeros(2)}),
    "no optimizer": lambda state: state.pop("optimizer"),
    "no sums": lambda state: state.pop("sums"),
    "a number as history": lambda state: state.update(history=7),
    "text as seconds": lambda state: state.update(seconds="x"),
}


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_a_checkpoint_of_other_content_is_one_sentence(tmp_path, monkeypatch, what):
    monkeypatch.setattr(stages, "CHECKPOINT_EVERY", -1.0)  # after every step
    store = stages.Store(tmp_path)

    def stop(task, phase, step, total, losses):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny("finetune", **CONFIG), store, report=stop)
    (file,) = tmp_path.glob("*/checkpoint.pt")
    changed(file, CHECKPOINTS[what])
    with pytest.raises(UserError, match="does not fit its stage"):
        train(tiny("finetune", **CONFIG), store)


# --- what killed processes leave ------------------------------------------------------

LEFT = ("lock", "checkpoint.pt", ".done.pt-abc123", ".checkpoint.pt-x_y")


def leave(folder: Path, names=LEFT) -> None:
    for name in names:
        (folder / name).write_bytes(b"half")


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_leftovers_beside_a_finished_stage_are_removed(tmp_path):
    store = stages.Store(tmp_path)
    with store.stage("abc") as first:
        first.finish({"module": {}})
    assert files(first.path) == ["done.pt"]
    leave(first.path)
    (first.path / "notes.txt").write_text("a reader's own")
    with store.stage("abc") as second:
        assert second.result() == {"module": {}}
    assert files(first.path) == ["done.pt", "notes.txt"]


def test_leftovers_beside_a_damaged_stage_stay(tmp_path):
    """Its checkpoint saves most of the work once done.pt is deleted."""
    store = stages.Store(tmp_path)
    with store.stage("abc") as first:
        first.save({"step": 7})
    (first.path / "done.pt").write_bytes(b"half")
    with pytest.raises(UserError, match="damaged"), store.stage("abc") as second:
        second.result()
    (first.path / "done.pt").unlink()
    with store.stage("abc") as third:
        assert third.checkpoint() == {"step": 7}


def test_leftovers_stay_while_another_process_holds_the_lock(tmp_path):
    store = stages.Store(tmp_path)
    with store.stage("abc") as first:
        stage(tmp_path).finish({"module": {}})
        leave(first.path, LEFT[1:])
        with store.stage("abc") as second:
            assert second.result() == {"module": {}}
        assert set(LEFT) <= set(files(first.path))


def test_half_files_are_removed_by_who_trains_the_stage_next(tmp_path):
    leave(stage(tmp_path).path, LEFT[2:])
    with stages.Store(tmp_path).stage("abc") as first:
        assert files(first.path) == ["lock"]


def test_half_files_are_left_alone_where_there_are_no_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_take", lambda lock: None)
    monkeypatch.setattr(locks, "_told", {tmp_path})
    leave(stage(tmp_path).path, LEFT[2:])
    with stages.Store(tmp_path).stage("abc") as first:
        first.finish({"module": {}})
    assert files(first.path) == [*sorted(LEFT[2:]), "done.pt"]


def test_half_files_beside_any_file_are_removed_after_an_hour(tmp_path):
    leave(tmp_path, (".record.json-young", ".record.json-old", ".other.json-old"))
    for name in (".record.json-old", ".other.json-old"):
        os.utime(tmp_path / name, (0, 0))
    stages.write_atomically(tmp_path / "record.json", b"{}")
    assert files(tmp_path) == [".other.json-old", ".record.json-young", "record.json"]


# --- another user ---------------------------------------------------------------------


@pytest.fixture
def place():
    """A folder for stages that other users may read; pytest's own they may not."""
    if os.name == "nt" or os.geteuid() != 0:
        pytest.skip("only root can become another user")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder / "stages"
    shutil.rmtree(folder)


def test_another_users_finished_stages_are_read(place):
    with stages.Store(place).stage("abc") as first:
        first.finish({"module": {}})
    leave(first.path)
    with another_user(), stages.Store(place).stage("abc") as second:
        assert second.result() == {"module": {}}
    assert set(LEFT) < set(files(first.path)), "they are not theirs to remove"


@pytest.mark.parametrize("begun", [False, True])
def test_what_another_user_has_not_finished_is_one_sentence(place, begun):
    place.mkdir()
    if begun:
        with stages.Store(place).stage("abc") as first:
            first.save({"step": 7})
    with (
        another_user(),
        pytest.raises(UserError, match="set GFR_CACHE to a folder of yours"),
        stages.Store(place).stage("abc"),
    ):
        pass


def test_a_closed_cache_is_one_sentence(place):
    with stages.Store(place).stage("abc") as first:
        first.finish({"module": {}})
    first.path.chmod(0o700)
    with (
        another_user(),
        pytest.raises(UserError, match="Permission denied.*another user's"),
        stages.Store(place).stage("abc"),
    ):
        pass


def test_another_users_running_stage_is_waited_for(place, monkeypatch):
    monkeypatch.setattr(locks, "POLL", 0.02)
    notes = []
    with stages.Store(place).stage("abc") as first:

        def finish():
            first._write("done.pt", {"module": {}})

        def noticed(text):  # back to the first user, who goes on meanwhile
            notes.append(text)
            os.seteuid(0)
            finish()
            os.seteuid(65534)

        with another_user(), stages.Store(place, noticed).stage("abc") as second:
            assert second.result() == {"module": {}}
    assert notes == ["waiting for another process that trains stage abc"]


def test_a_home_in_quotes_is_expanded(tmp_path, monkeypatch):
    """`GFR_HOME="~/x"`: the shell leaves the tilde to us."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GFR_HOME", "~/x")
    monkeypatch.setenv("GFR_CACHE", "~/y")
    assert stages.root() == tmp_path / "x" and stages.cache() == tmp_path / "y"


def test_a_folder_of_google_drive_must_be_mounted(tmp_path, monkeypatch):
    """Else it lies on Colab's machine, and is lost with it."""
    drive = tmp_path / "drive"
    monkeypatch.setattr(paths, "DRIVE", drive)
    monkeypatch.setenv("GFR_CACHE", str(drive / "MyDrive/gfr"))
    with pytest.raises(UserError, match=r"Google Drive is not mounted: mount it"):
        stages.cache()
    assert not drive.exists()
    monkeypatch.setattr("os.path.ismount", lambda path: path == drive)
    assert stages.cache() == drive / "MyDrive/gfr"
    monkeypatch.setenv("GFR_CACHE", str(tmp_path / "driveway"))
    assert stages.cache() == tmp_path / "driveway"
