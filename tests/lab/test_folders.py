"""Folders as people have them, packed both ways: what is used, what is left out."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from helpers_core import generated
from PIL import Image
from test_tasks import arrays, write_folder

from gfrlib import cli
from gfrlib.config import UserError, make_config
from gfrlib.lab import copies, datasets, decoding, folders, shards
from gfrlib.lab.experiments import load_tasks, settings


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize("held", ["val", "test"])
def test_a_folder_and_a_packed_file_of_the_same_images_are_the_same_data(home, held):
    source = generated(3, per_class=6)
    folder = write_folder(home / "images", source, held)
    np.savez(home / "images.npz", **arrays(source), class_names=source.class_names)
    a, b = datasets.resolve(str(folder)), datasets.resolve(str(home / "images.npz"))
    assert a == b and a.startswith("images-")
    data = datasets.packed(a)
    expected = datasets.canonical(arrays(source))
    assert all(
        np.array_equal(getattr(data, key), expected[key]) for key in datasets.ARRAYS
    )
    assert data.class_names == source.class_names
    stream = load_tasks(
        settings("quick", dataset=str(folder), base=1, tasks=2, device="cpu")
    )
    assert stream.name == a and stream.sizes == (1, 1, 1)


def test_a_folder_without_a_held_out_part_gives_every_fifth_image_to_testing(home):
    data = datasets.packed(
        datasets.resolve(
            str(write_folder(home / "flat", generated(2, per_class=10), None))
        )
    )
    assert np.bincount(data.train_labels).tolist() == [8, 8] and np.bincount(
        data.test_labels
    ).tolist() == [2, 2]


def test_images_of_other_sizes_and_modes_are_brought_to_one(home):
    folder = write_folder(home / "odd", generated(2, per_class=6, size=16))
    Image.fromarray(np.full((20, 40), 77, dtype=np.uint8)).save(
        folder / "train" / "class 0" / "9999.png"
    )  # grey, wide
    Image.new("RGBA", (16, 31), (10, 200, 30, 255)).save(
        folder / "train" / "class 1" / "9999.png"
    )
    data = datasets.packed(datasets.resolve(str(folder)))
    assert data.train_images.shape == (14, 16, 16, 3)
    assert (data.train_images == 77).all((1, 2, 3)).sum() == 1
    assert (data.train_images == [10, 200, 30]).all((1, 2, 3)).sum() == 1


def test_bad_folders_are_refused_and_name_what_is_wrong(home):
    with pytest.raises(UserError, match="does not exist"):
        datasets.resolve(str(home / "nowhere"))
    (home / "empty").mkdir()
    with pytest.raises(UserError, match="no class folders"):
        datasets.resolve(str(home / "empty"))
    with pytest.raises(UserError, match="only one class, 'class 0'"):
        datasets.resolve(str(write_folder(home / "one", generated(1, per_class=4))))
    folder = write_folder(home / "notes", generated(2, per_class=4))
    (folder / "train" / "class 1" / "readme.png").write_text("not an image")
    with pytest.raises(UserError, match="readme.png' is no readable image"):
        datasets.resolve(str(folder))
    folder = write_folder(home / "hollow", generated(2, per_class=4))
    (folder / "train" / "class 3").mkdir()
    with pytest.raises(UserError, match="class 3' is empty"):
        datasets.resolve(str(folder))
    with pytest.raises(UserError, match="no data set 'mnist'"):
        datasets.packed("mnist")
    assert not (home / "home").exists() or not list((home / "home").rglob("*.npy"))


# --- one rule for both ways of packing ------------------------------------------------


def plain(folder: Path) -> tuple:
    """(packed data set, what was said) of the plain way."""
    said: list[str] = []
    datasets.add("plain", folder, notice=said.append)
    return datasets.packed("plain"), said


def large(folder: Path) -> tuple:
    """The same of the large way."""
    packing = shards.pack("large", folder, size=16, crop=16, workers=1)
    return datasets.packed("large"), packing.account


def counts(packed) -> tuple:
    """Names, and how many images each class has for training and for testing."""
    parts = (packed.train_labels, packed.test_labels)
    return packed.class_names, *(np.bincount(labels).tolist() for labels in parts)


def content(packed) -> str:
    """Of the arrays alone, in the plain way's order."""
    canonical = datasets.canonical(arrays(packed))
    return datasets.checksum(canonical, packed.class_names)


both = pytest.mark.parametrize("way", [plain, large])


@pytest.fixture
def folder(home):
    """train/ and val/ of three classes with 6 and 3 images."""
    return write_folder(home / "images", generated(3, per_class=6))


def common(top: Path) -> Path:
    """PNG files of usual kinds and several sizes, the first one 24 x 24."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 2)):
        for name in ("apple", "pear", "plum"):
            place = top / part / name
            place.mkdir(parents=True)
            for i in range(count):
                first = (part, name, i) == ("train", "apple", 0)
                size = (24, 24) if first else (24 + 5 * i, 40)
                image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                mode = ("RGB", "L", "P", "RGBA", "1", "RGB")[i]
                Image.fromarray(image).convert(mode).save(place / f"{i}.png")
    return top


def test_usual_images_are_packed_as_earlier_code_packed_them(home):
    """The two checksums are those of the version before surveys and decoding."""
    name = datasets.resolve(str(common(home / "base-folder")))
    assert name == "base-folder-5ead552c"
    shards.pack("large", home / "base-folder", size=24, crop=20, workers=1)
    packed = datasets.packed("large")
    found = datasets.checksum(arrays(packed), packed.class_names)
    assert found == "b3786c446cfd2cf25d1830e18ce5d98da1d9774c0382a06904451c32598b72a0"


@both
def test_what_systems_leave_in_folders_is_left_out_and_counted(folder, way):
    clean = content(way(folder)[0])
    image = next((folder / "val" / "class 0").iterdir()).read_bytes()
    places = (".ipynb_checkpoints", "train/.ipynb_checkpoints", "__MACOSX/train/x")
    places += ("train/class 0/.ipynb_checkpoints", "val/@eaDir", "val/class 1/@eaDir")
    for place in places:
        (folder / place).mkdir(parents=True)
        (folder / place / "copy.png").write_bytes(image)
    for file in (".DS_Store", "train/Thumbs.db", "val/class 2/desktop.ini"):
        (folder / file).write_bytes(b"system")
    (folder / "train" / "class 1" / "._0001.png").write_bytes(b"system")
    packed, said = way(folder)
    assert content(packed) == clean
    assert said[0] == "'images': train/ is for training, val/ for testing"
    (line,) = said[1:]
    assert line.startswith("left out, hidden, or the system's own: 10 (")


@both
def test_hidden_folders_are_no_classes(home, way):
    top = write_folder(home / "flat", generated(2, per_class=10), None)
    checkpoints = top / ".ipynb_checkpoints"
    checkpoints.mkdir()
    for file in (top / "class 0").iterdir():
        (checkpoints / file.name).write_bytes(file.read_bytes())
    packed, said = way(top)
    assert counts(packed) == (["class 0", "class 1"], [8, 8], [2, 2])
    assert "every fifth image is for testing" in said[0]
    assert said[1].endswith("1 (.ipynb_checkpoints/)")


@both
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("TRAIN", "VAL"),
        ("training", "validation"),
        ("train", "valid"),
        ("Training", "testing"),
    ],
)
def test_parts_go_by_their_usual_names_in_any_case(folder, way, train, test):
    expected = content(way(folder)[0])
    (folder / "train").rename(folder / train)
    (folder / "val").rename(folder / test)
    packed, said = way(folder)
    assert content(packed) == expected
    assert said == [f"'images': {train}/ is for training, {test}/ for testing"]


@both
def test_of_three_parts_test_is_for_testing_and_the_other_is_named(home, way):
    top = write_folder(home / "three", generated(2, per_class=8))
    write_folder(home / "more", generated(2, per_class=4, seed=1), "test")
    (home / "more" / "test").rename(top / "test")
    packed, said = way(top)
    assert counts(packed) == (["class 0", "class 1"], [8, 8], [2, 2])
    use = "'three': train/ is for training, test/ for testing; val/ is not used"
    assert said == [use]


@both
def test_a_folder_of_images_without_classes_is_none_for_testing(folder, way):
    """ImageNet's and Tiny-ImageNet's test/, whose labels nobody gives away."""
    (folder / "test" / "images").mkdir(parents=True)
    (folder / "test" / "images" / "0.png").write_bytes(b"")
    packed, said = way(folder)
    assert counts(packed)[2] == [3, 3, 3]
    assert said[0].endswith("val/ for testing; test/ is not used")


def without_classes(top):
    """As ImageNet's validation images come: all in one folder."""
    for file in (top / "val").rglob("*.png"):
        file.rename(top / "val" / f"{file.parent.name} {file.name}")
    for name in ("class 0", "class 1", "class 2"):
        (top / "val" / name).rmdir()


def linked(top):
    (top / "val" / "class 1").rename(top / "away")
    (top / "val" / "class 1").symlink_to(top / "train" / "class 1")


def part_linked(top):
    """The folder for testing, in a class folder: its images would be of that class."""
    (top / "train" / "class 0" / "more").symlink_to(top / "val")


def file_linked(top):
    other = sorted((top / "train" / "class 1").glob("*.png"))[0]
    (top / "train" / "class 0" / "other.png").symlink_to(other)


def within_itself(top):
    (top / "inner").mkdir()
    for part in ("train", "val"):
        (top / part).rename(top / "inner" / part)


def two_spellings(top):
    """One name, composed as on Linux and decomposed as on macOS."""
    for form, name in (("NFC", "class 0"), ("NFD", "class 1")):
        place = top / "train" / unicodedata.normalize(form, "café")
        (top / "train" / name).rename(place)


@both
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda top: (top / "Train").mkdir(), "holds both 'Train/' and 'train/'"),
        (lambda top: (top / "valid").mkdir(), "holds both 'val/' and 'valid/'"),
        (lambda top: (top / "train").rename(top / "x"), "'val/' and no 'train/'"),
        (without_classes, "val' has no folder of the classes"),
        (lambda top: (top / "val").rename(top / "train/val"), "lies among the classes"),
        (lambda top: (top / "val" / "class 3").mkdir(), "'class 3', which"),
        (lambda top: (top / "train" / "class 3").mkdir(), "class 3' is empty"),
        (lambda top: (top / "val/class 1").rename(top / "x"), "class 1' is empty or"),
        (linked, r"are one folder \(linked\)"),
        (part_linked, r"are one file \(linked\), which would be trained on and tested"),
        (file_linked, r"are one file \(linked\), which would be of two classes"),
        (within_itself, "holds only the folder 'inner'"),
        (two_spellings, "'café' twice, in two Unicode spellings"),
        (lambda top: (top / "train" / "a\nb").mkdir(), r"train/a\\nb' holds line"),
        (lambda top: (top / "train" / "a\udce9").mkdir(), r"a\\udce9' holds"),
    ],
)
def test_what_is_ambiguous_is_refused_in_one_sentence(folder, way, spoil, says):
    spoil(folder)
    with pytest.raises(UserError, match=says) as caught:
        way(folder)
    assert str(caught.value).isprintable()
    assert not list(datasets.folder().glob("*/meta.json"))


@both
def test_what_lies_beside_the_images_is_named(folder, way):
    clean = content(way(folder)[0])
    (folder / "README.txt").write_text("mine")
    (folder / "models").mkdir()
    (folder / "train" / "labels.csv").write_text("a,b")
    (folder / "train" / "class 0" / "lost.png").symlink_to(folder / "nowhere")
    (folder / "val" / "class 0" / "itself").symlink_to("itself")
    (folder / "val" / "class 0" / "round").symlink_to(folder)
    (folder / "train" / "again").symlink_to(folder / "train")
    os.mkfifo(folder / "val" / "class 1" / "pipe")
    packed, said = way(folder)
    assert content(packed) == clean
    beside = "left out, beside the class folders: 3 (README.txt, models/, "
    assert said[1:] == [
        beside + "train/labels.csv)",
        "left out, links that lead nowhere: 2 (train/class 0/lost.png, "
        "val/class 0/itself)",
        "left out, links to a folder that is read anyway: 2 (train/again/, "
        "val/class 0/round/)",
        "left out, neither files nor folders: 1 (val/class 1/pipe)",
    ]


@both
def test_folders_in_class_folders_and_linked_ones_belong_to_the_class(folder, way):
    expected = content(way(folder)[0])
    inner = folder / "train" / "class 0" / "close" / "up"
    inner.mkdir(parents=True)
    for file in sorted((folder / "train" / "class 0").glob("*.png"))[:3]:
        file.rename(inner / file.name)
    (folder / "val" / "class 2").rename(folder.parent / "elsewhere")
    (folder / "val" / "class 2").symlink_to(folder.parent / "elsewhere")
    (folder / "val" / "class 1").rename(folder.parent / "more")
    (folder / "val" / "class 1").mkdir()
    (folder / "val" / "class 1" / "linked").symlink_to(folder.parent / "more")
    packed, said = way(folder)
    assert content(packed) == expected and len(said) == 1


@both
def test_a_class_is_the_same_in_both_unicode_forms(folder, way):
    composed, decomposed = (unicodedata.normalize(f, "café") for f in ("NFC", "NFD"))
    (folder / "train" / "class 0").rename(folder / "train" / decomposed)
    (folder / "val" / "class 0").rename(folder / "val" / composed)
    packed, _ = way(folder)
    names = [composed, "class 1", "class 2"]
    assert counts(packed) == (names, [6, 6, 6], [3, 3, 3])
    datasets.add("some", folder, f"{decomposed},class 1", notice=str)
    assert datasets.packed("some").class_names == names[:2]


def test_all_unreadable_files_are_counted_at_once(folder):
    for c in range(3):
        for i in range(2):
            (folder / "train" / f"class {c}" / f"z{i}.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match="z0.png' is no readable image") as caught:
        plain(folder)
    assert "nor are 5 (z1.png, z0.png, z1.png, …)" in str(caught.value)


def test_a_folder_called_as_a_known_data_set_is_passed_over_aloud(
    home, monkeypatch, capsys
):
    monkeypatch.setattr(datasets, "_told", set())
    write_folder(home / "digits", generated(2, per_class=6))
    monkeypatch.chdir(home)
    assert datasets.resolve("digits") == "digits"
    said = capsys.readouterr().err
    assert "for the folder write ./digits" in said and said.count("\n") == 1
    assert datasets.resolve("./digits").startswith("digits-")
    monkeypatch.chdir(home / "digits")
    capsys.readouterr()
    assert datasets.resolve("digits") == "digits" and not capsys.readouterr().err


def test_a_folder_is_told_of_once_however_often_it_is_asked_for(
    folder, monkeypatch, capsys
):
    monkeypatch.setattr(datasets, "_told", set())
    monkeypatch.chdir(folder)
    for _ in range(3):
        assert datasets.resolve("./").startswith("images-")
    told = "'images': train/ is for training, val/ for testing\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("more", [(), ("--size", 16, "--crop", 16)])
def test_the_command_says_what_it_used_and_what_it_left_out(folder, capsys, more):
    for i in range(20):
        (folder / "train" / f".{i}").write_text("hidden")
    words = ["data", "mine", folder, *more]
    assert cli.main([str(word) for word in words]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "'images': train/ is for training, val/ for testing",
        "left out, hidden, or the system's own: 20 (train/.0, train/.1, train/.10, …)",
    ]
    assert "3 classes, 18 training and 9 test images of 16x16x3" in said.out
    assert ("27 images decoded, 20 files or folders left out" in said.out) == bool(more)


def test_a_folder_is_packed_no_larger_than_asked_for(home):
    """Photographs of 96 x 80 pixels as squares of 20; small ones stay as they are."""
    rng = np.random.default_rng(5)
    for name in ("cat", "dog"):
        (home / "photos" / name).mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 256, (80, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / "photos" / name / f"{i}.png")

    def side(**rules):
        name = datasets.resolve(str(home / "photos"), rules=decoding.Rules(**rules))
        return datasets.packed(name).train_images.shape[1:3]

    assert (
        side() == (80, 80) and side(side=20) == (20, 20) and side(side=99) == (80, 80)
    )
    assert side(side=99, exact=True) == (99, 99)
    for wrong in (0, -1, 10**9):
        with pytest.raises(UserError, match="'side' is the most"):
            decoding.Rules(side=wrong)


def test_the_first_image_sets_the_size_and_that_is_said(tmp_path):
    """One thumbnail that comes first would shrink every photograph."""
    for k, side in enumerate((12, 40, 40, 9, 40, 40)):
        for name in ("ape", "bee"):
            place = tmp_path / name
            place.mkdir(exist_ok=True)
            Image.new("RGB", (side + 5, side)).save(place / f"{k}.png")
    found = folders.read_folder(tmp_path)
    assert found.arrays["train_images"].shape[1:3] == (12, 12)
    [line] = [line for line in found.account if "the size of the first" in line]
    assert "brought to 12 x 12" in line and "8 are larger, 2 smaller" in line
    exact = folders.read_folder(tmp_path, rules=decoding.Rules(side=10, exact=True))
    assert not any("the size of the first" in line for line in exact.account)
    # the first is larger than what is packed at most, and so are others
    most = folders.read_folder(tmp_path, rules=decoding.Rules(side=10))
    [line] = [line for line in most.account if "brought to" in line]
    assert "10 x 10, the most without a given size: 10 are larger, 2 smaller" in line


# --- what spoils a result, and is said ------------------------------------------------


@both
def test_copies_of_what_is_trained_on_are_counted(folder, way):
    train, val = folder / "train", folder / "val"
    ours = sorted((train / "class 0").glob("*.png"))
    for k in (0, 1):
        (val / "class 0" / f"again {k}.png").write_bytes(ours[k].read_bytes())
    (train / "class 1" / "same.png").write_bytes(ours[0].read_bytes())
    (train / "class 0" / "twice.png").write_bytes(ours[5].read_bytes())  # no harm
    _, said = way(folder)
    assert said[1:] == [
        "images for testing that are copies of images for training, so that they are "
        f"known too well: 2 (class 0/{ours[0].name} and class 0/again 0.png)",
        "images that have a copy in another class: 3 "
        f"(class 0/{ours[0].name} and class 1/same.png)",
    ]


@both
def test_copies_are_found_where_every_fifth_image_is_for_testing(home, way):
    flat = write_folder(home / "flat", generated(2, per_class=10), None)
    files = sorted((flat / "class 1").glob("*.png"))
    for file in files[1:]:
        file.write_bytes(files[0].read_bytes())
    _, said = way(flat)
    assert said[1:] == [
        "images for testing that are copies of images for training, so that they are "
        f"known too well: 2 (class 1/{files[0].name} and class 1/{files[4].name})"
    ]


def test_very_many_files_are_not_compared(folder, monkeypatch):
    file = next((folder / "train" / "class 0").glob("*.png"))
    (folder / "val" / "class 0" / "again.png").write_bytes(file.read_bytes())
    assert len(plain(folder)[1]) == 2
    monkeypatch.setattr(copies, "MOST", 3)
    assert len(plain(folder)[1]) == 1


@both
def test_classes_that_lie_one_level_deeper_are_said(home, way):
    """Three classes below each of two folders were two classes, without a word."""
    deep = home / "deep"
    for seed, top in enumerate(("a", "b")):
        write_folder(deep / top, generated(3, per_class=5, seed=seed), None)
    packed, said = way(deep)
    assert packed.class_names == ["a", "b"]
    assert said[1:] == [
        "the class 'a' is made of folders in it: 3 (class 0, class 1, class 2), and so "
        "1 other class; if these are classes, move them up"
    ]


@both
def test_a_folder_around_the_classes_is_named(home, way):
    """What unpacking an archive often leaves."""
    inner = write_folder(home / "photos" / "my photos", generated(3, per_class=5), None)
    with pytest.raises(UserError, match="in which other folders are") as caught:
        way(home / "photos")
    assert f"give '{inner}' as the folder" in str(caught.value)
    assert len(way(inner)[0].class_names) == 3


@pytest.mark.parametrize("words", [(), ("--size", "16")])
def test_an_archive_is_to_be_unpacked(home, capsys, words):
    (home / "own.zip").write_bytes(b"PK")
    assert cli.main(["data", "mine", str(home / "own.zip"), *words]) == 2
    said = capsys.readouterr().err
    assert "own.zip' is an archive; unpack it, and give the folder" in said


def test_a_path_where_a_name_belongs_is_told_the_way(folder):
    """`make_config` takes names; the folder was "no data set", although it is there."""
    with pytest.raises(UserError, match=r"is a path.*experiments\.settings takes the"):
        load_tasks(make_config("photos", "frozen", dataset=str(folder)))
    assert settings("photos", "frozen", dataset=str(folder)).dataset != str(folder)
