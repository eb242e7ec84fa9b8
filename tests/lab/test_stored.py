"""Packed data on disk: what is damaged is refused, and packing again mends it."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers_core import another_user, generated
from PIL import Image

from gfrlib.cli import main
from gfrlib.config import UserError
from gfrlib.lab import datasets, shards, stored
from gfrlib.lab.datasets import ARRAYS


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(stored, "_checked", {})
    return tmp_path


@pytest.fixture
def mine(home) -> Path:
    """The folder of a packed data set; mine.npz, which it was made of, lies in home."""
    source = generated(3)
    np.savez(home / "mine.npz", **{key: getattr(source, key) for key in ARRAYS})
    datasets.add("mine", home / "mine.npz")
    return datasets.folder() / "mine"


@pytest.fixture
def large(home) -> Path:
    """The same of large images, packed from the folder home/images."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("val", 2)):
        for label in ("ape", "bee"):
            top = home / "images" / part / label
            top.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(top / f"{i}.png")
    pack_large(home)
    return datasets.folder() / "large"


def pack_large(home):
    return shards.pack("large", home / "images", size=8, crop=8, workers=1)


def flip(file: Path, at: int, bit: int = 0) -> None:
    """Change one bit; a negative place counts from the end."""
    content = bytearray(file.read_bytes())
    content[at] ^= 1 << bit
    file.write_bytes(content)


def without_checksum(meta: Path) -> None:
    """meta.json as code before the checksums has written it."""
    kept = json.loads(meta.read_text())
    del kept["checksum"], kept["content"]
    meta.write_text(json.dumps(kept))


def forget() -> None:
    """What a new process knows."""
    stored._checked.clear()


def cut(file: Path, share: float = 0.5) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


# Damage -------------------------------------------------------------------------------

DAMAGE = {
    "a pixel": lambda mine: flip(mine / "train_images.npy", 5000),
    "the last pixel": lambda mine: flip(mine / "test_images.npy", -1, 7),
    "a label": lambda mine: flip(mine / "train_labels.npy", -8),
    "a label of no class": lambda mine: flip(mine / "train_labels.npy", -8, 6),
    "a header": lambda mine: flip(mine / "train_images.npy", 21),
    "no header": lambda mine: flip(mine / "train_images.npy", 0),
    "a cut array": lambda mine: cut(mine / "train_images.npy"),
    "an empty array": lambda mine: cut(mine / "test_labels.npy", 0),
    "a longer array": lambda mine: (mine / "test_images.npy").write_bytes(
        (mine / "test_images.npy").read_bytes() + b"\0"
    ),
    "another shape": lambda mine: np.save(
        mine / "train_images.npy", np.zeros((72, 16, 8, 6), np.uint8)
    ),
    "another type": lambda mine: np.save(
        mine / "train_images.npy", np.zeros((72, 16, 16, 3), np.int8)
    ),
    "a pickle": lambda mine: np.save(
        mine / "test_labels.npy", np.array([{}] * 36), allow_pickle=True
    ),
    "no array": lambda mine: (mine / "train_images.npy").unlink(),
    "a folder": lambda mine: (
        (mine / "train_images.npy").unlink(),
        (mine / "train_images.npy").mkdir(),
    ),
    "a pipe": lambda mine: (
        (mine / "train_labels.npy").unlink(),
        os.mkfifo(mine / "train_labels.npy"),
    ),
    "a cut meta.json": lambda mine: cut(mine / "meta.json"),
    "an empty meta.json": lambda mine: cut(mine / "meta.json", 0),
    "meta.json of a list": lambda mine: (mine / "meta.json").write_text("[]"),
    "meta.json of nests": lambda mine: (mine / "meta.json").write_text("[" * 10**5),
    "another class name": lambda mine: flip(mine / "meta.json", 17),
    "another checksum": lambda mine: flip(mine / "meta.json", -5),
    "no word checksum": lambda mine: (mine / "meta.json").write_text(
        (mine / "meta.json").read_text().replace("checksum", "chebksum")
    ),
    "no checksum": lambda mine: without_checksum(mine / "meta.json"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_one_sentence_and_packing_again_mends_it(home, mine, what, capsys):
    before = datasets.packed("mine")
    before = {key: np.array(getattr(before, key)) for key in ARRAYS}
    DAMAGE[what](mine)
    forget()
    with pytest.raises(UserError, match="'mine' is truncated or damaged"):
        datasets.packed("mine")
    assert main(["data", "mine", "--verify"]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "data mine PATH packs it again" in said
    assert main(["data", "mine", str(home / "mine.npz")]) == 0
    after = datasets.packed("mine")
    assert all(np.array_equal(getattr(after, k), v) for k, v in before.items())
    assert main(["data", "mine", "--verify"]) == 0
    assert "its content is as it was packed" in capsys.readouterr().out


def test_a_header_of_the_other_order_of_bytes_is_refused(mine):
    file = mine / "train_labels.npy"
    file.write_bytes(file.read_bytes().replace(b"'<i8'", b"'>i8'", 1))
    with pytest.raises(UserError, match="another shape or type"):
        datasets.packed("mine")


def test_damage_between_two_openings_of_one_process_is_seen(mine):
    datasets.packed("mine")
    flip(mine / "train_images.npy", 5000)
    with pytest.raises(UserError, match="content differs"):
        datasets.packed("mine")


def test_damage_that_leaves_size_and_time_is_seen_by_the_next_process(mine):
    file = mine / "train_images.npy"
    about = file.stat()
    flip(file, 5000)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    forget()
    with pytest.raises(UserError, match="content differs"):
        datasets.packed("mine")


def test_a_damaged_data_set_trains_nothing(mine, capsys):
    flip(mine / "train_images.npy", 5000)
    words = ["run", "--dataset", "mine", "--base", "1", "--tasks", "2"]
    assert main([*words, "--method", "finetune"]) == 2
    assert "data mine PATH packs it again" in capsys.readouterr().err
    home = datasets.folder().parent
    assert not list(home.rglob("*.pt")) and not list(home.rglob("records/*"))


def test_cifar100_must_have_the_content_that_is_known(mine):
    cifar = mine.rename(mine.with_name("cifar100"))
    with pytest.raises(UserError, match=f"or delete {cifar} and it is downloaded"):
        datasets.packed("cifar100")


def test_the_checksum_is_the_same_over_files_and_over_arrays(mine):
    meta, arrays = stored.opened(mine)
    found = stored.digest(mine, arrays, meta["class_names"])
    whole = {key: np.load(mine / f"{key}.npy") for key in ARRAYS}
    assert found == stored.checksum(whole, meta["class_names"]) == meta["sha256"]


def test_what_is_to_be_verified_must_be_packed(home, capsys):
    for words in (["data", "nothing", "--verify"], ["data", "nothing"]):
        assert main(words) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


# Larger data sets, whose content is not read at every opening -------------------------


@pytest.fixture
def reads(monkeypatch) -> list:
    """The folders whose content was read, one entry each time."""
    found, original = [], stored.digest

    def digest(folder, *others):
        found.append(folder)
        return original(folder, *others)

    monkeypatch.setattr(stored, "digest", digest)
    return found


def test_a_larger_data_set_is_read_again_only_if_its_files_are_others(
    home, mine, monkeypatch, reads
):
    monkeypatch.setattr(stored, "ALWAYS", 0)
    for _ in range(3):  # no note yet; then there is one
        forget()
        datasets.packed("mine")
    assert len(reads) == 1 and (mine / "checked.json").exists()
    os.utime(mine / "train_images.npy")
    for _ in range(2):
        forget()
        datasets.packed("mine")
    assert len(reads) == 2
    (mine / "checked.json").write_text("{")
    forget()
    datasets.packed("mine")
    assert len(reads) == 3
    flip(mine / "train_images.npy", 5000)
    forget()
    with pytest.raises(UserError, match="content differs"):
        datasets.packed("mine")


def test_a_very_large_data_set_is_read_on_demand(home, large, monkeypatch, reads):
    monkeypatch.setattr(stored, "ALWAYS", 0)
    monkeypatch.setattr(stored, "AT_ONCE", 0)
    with pytest.raises(UserError, match="data large --verify reads it once"):
        datasets.packed("large")
    assert main(["data", "large", "--verify"]) == 0 and len(reads) == 1
    forget()
    datasets.packed("large")
    assert len(reads) == 1


LARGE_DAMAGE = ("a pixel", "a label", "meta.json", "no checksum", "a cut meta.json")


@pytest.mark.parametrize("what", LARGE_DAMAGE)
def test_damaged_large_images_are_refused_and_mended(home, large, what):
    before = np.array(datasets.packed("large").train_images)
    if what == "meta.json":
        text = (large / "meta.json").read_text()
        (large / "meta.json").write_text(text.replace('"crop":8', '"crop":0'))
    elif what == "no checksum":
        without_checksum(large / "meta.json")
    else:
        places = {"a pixel": "train_images.npy", "a label": "train_labels.npy"}
        if what in places:
            flip(large / places[what], -8)
        else:
            cut(large / "meta.json")
    with pytest.raises(UserError, match="'large' is truncated or damaged"):
        datasets.packed("large")
    pack_large(home)
    assert np.array_equal(datasets.packed("large").train_images, before)


def test_a_label_of_a_faulty_image_belongs_to_large_images_alone(mine):
    labels = np.load(mine / "train_labels.npy")
    labels[0] = -1
    np.save(mine / "train_labels.npy", labels)
    with pytest.raises(UserError, match="labels of no class"):
        datasets.packed("mine")


def test_a_packed_data_set_can_be_read_by_others(mine):
    before = os.umask(0)
    os.umask(before)
    assert mine.stat().st_mode & 0o777 == 0o777 & ~before


def test_a_copied_data_set_is_the_same(mine, home):
    before = datasets.packed("mine").content
    shutil.copytree(mine, mine.with_name("copy"), copy_function=shutil.copy)
    assert datasets.packed("copy").content == before


# What killed processes leave ----------------------------------------------------------


def hidden() -> list[str]:
    inside = datasets.folder().iterdir()
    return sorted(p.name for p in inside if p.name[0] == "." and p.name != ".lock")


def test_half_packed_folders_are_removed(mine, home):
    top = datasets.folder()
    (top / ".other-abcd_123" / "made").mkdir(parents=True)
    (top / ".old-abcd1234").mkdir()
    np.save(top / ".old-abcd1234" / "train_images.npy", np.zeros(3))
    (top / ".notes-abcd1234").mkdir()
    (top / ".notes-abcd1234" / "a readers own.txt").write_text("")
    (top / ".large-abcd1234.partial").mkdir()
    datasets.add("mine", home / "mine.npz")
    assert hidden() == [".large-abcd1234.partial", ".notes-abcd1234"]


def test_a_data_set_that_was_moved_away_comes_back(mine, home):
    """A process was killed when its new data set was not yet in place."""
    before = datasets.packed("mine").content
    place = datasets.folder() / ".mine-abcd1234"
    place.mkdir()
    mine.rename(place / "former")
    with datasets.packing():
        pass
    assert datasets.packed("mine").content == before and hidden() == []


def test_a_half_file_in_a_data_set_does_not_stop_packing(mine, home):
    (mine / ".meta.json-abcd1234").write_text("{")
    (mine / "meta.json").write_text("")
    datasets.add("mine", home / "mine.npz")
    assert datasets.packed("mine").class_names == ["0", "1", "2"]


# Another user -------------------------------------------------------------------------


@pytest.fixture
def shared(monkeypatch):
    """A home that other users may read, with a packed data set."""
    if os.name == "nt" or os.geteuid() != 0:
        pytest.skip("only root can become another user")
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    monkeypatch.setenv("GFR_HOME", str(top))
    source = generated(3)
    np.savez(top / "mine.npz", **{key: getattr(source, key) for key in ARRAYS})
    datasets.add("mine", top / "mine.npz")
    forget()
    yield top
    shutil.rmtree(top)


def test_another_users_data_are_read_and_verified(shared, monkeypatch):
    with another_user():
        assert datasets.packed("mine").class_names == ["0", "1", "2"]
        datasets.verify("mine")
        assert datasets.add("mine", shared / "mine.npz") == "mine"  # it is there
    monkeypatch.setattr(stored, "ALWAYS", 0)
    forget()
    with another_user():  # who cannot note that it was read
        assert datasets.packed("mine").content
        datasets.verify("mine")


def test_another_users_closed_data_are_one_sentence(shared):
    (shared / "data" / "packed" / "mine").chmod(0o700)
    with another_user():
        for attempt in (datasets.packed, datasets.verify):
            with pytest.raises(UserError, match="Permission denied.*another user's"):
                attempt("mine")
        for name in ("mine", "other"):
            with pytest.raises(UserError, match="could not be written.*GFR_HOME"):
                datasets.add(name, shared / "mine.npz")
