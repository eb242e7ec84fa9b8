"""Some of a folder's classes: lists, numbers, names, and Tiny-ImageNet both ways."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_core import ROOT, generated
from PIL import Image
from test_folders import both, counts
from test_tasks import arrays, write_folder

from gfrlib import cli, tasks
from gfrlib.config import UserError, make_config
from gfrlib.lab import class_lists, datasets, shards, surveys

LIST = ROOT / "data" / "tiny-imagenet-64.txt"
NAMES = [f"n{k:08d}" for k in range(6)]
CHOSEN = [NAMES[1], NAMES[2], NAMES[4]]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def command(home, capsys):
    """command(words ...) -> (exit code, standard output, standard error)."""

    def call(*words):
        code = cli.main(["data", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_the_two_lists_of_imagenet_subset():
    names = [f"n{k:08d}" for k in range(1000)]
    a, b = (set(class_lists.choose(names, which)) for which in ("lucir", "gfr"))
    # methods: "shares 9 of 100 classes"
    assert len(a) == len(b) == 100 and len(a & b) == 9
    lucirs_own_call = np.random.RandomState(1993).choice(1000, 100, replace=False)
    assert a == {names[i] for i in lucirs_own_call}
    with pytest.raises(UserError, match="cannot be chosen from 20"):
        class_lists.choose(names[:20], "lucir")


def test_imagenet_subset_arrives_in_the_official_order(home):
    """The first 100 of the inverse shuffle of 1,000 classes; not shuffled again."""
    names = [f"n{k:08d}" for k in range(1000)]
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (9, 99, 199)).save(file, "JPEG")
    for part in ("train", "val"):
        for name in names:
            place = home / "imagenet" / part / name
            place.mkdir(parents=True)
            (place / "one.JPEG").write_bytes(file.getvalue())

    def stream(which, order):
        shards.pack(
            "imagenet-subset", home / "imagenet", size=16, crop=16, classes=which
        )
        packed = datasets.packed("imagenet-subset")
        config = make_config("quick", "gfr", base=50, tasks=5, class_order=order)
        return tasks.build(config, packed, torch.device("cpu"))

    shuffled = np.random.RandomState(1993).permutation(1000)
    # class c arrives at place shuffled[c]: its inverse, sorted out by hand
    official = sorted(range(1000), key=lambda c: shuffled[c])[:100]
    assert stream("gfr", "gfr").class_names == [names[c] for c in official]
    # LUCIR's code sorts its 100 and shuffles them with the same seed
    its_own = sorted(names[c] for c in shuffled[:100])
    again = np.random.RandomState(1993).permutation(100)
    assert stream("lucir", "lucir").class_names == [its_own[k] for k in again]
    assert datasets.packed("imagenet-subset").arrival == ()


def test_the_repositorys_list_holds_100_wordnet_numbers_with_names():
    lines = LIST.read_text().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    names = [number for number, _ in rows]
    assert len(names) == 100 and names == sorted(set(names))
    assert all(n[0] == "n" and len(n) == 9 and n[1:].isdecimal() for n in names)
    assert all(english.strip() for _, english in rows)
    assert class_lists.choose(sorted([*names, "n00000000"]), str(LIST)) == names


def test_a_number_takes_the_first_of_the_seed_1993_shuffle():
    names = [f"n{k:08d}" for k in range(100)]
    first = np.random.RandomState(1993).permutation(100)[:10]
    assert class_lists.choose(names, "10") == sorted(names[i] for i in first)
    assert set(class_lists.choose(names, "10")) < set(class_lists.choose(names, "20"))


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("1", "cannot be chosen"),
        ("7", "cannot be chosen from 6 class folders"),
        ("nowhere.txt", "no list of classes 'nowhere.txt'"),
        ("n00000001,n00000009", "'n00000009' of the list"),
        ("n00000001,", "names 1 of them"),
        ("gfr", "cannot be chosen from 6"),
    ],
)
def test_a_list_that_cannot_be_meant(which, says):
    with pytest.raises(UserError, match=says) as caught:
        class_lists.choose(NAMES, which)
    assert "\n" not in str(caught.value)


def jpeg(rng, mode: str = "RGB") -> bytes:
    """A JPEG file of smooth random colours, 64 x 64."""
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    file = io.BytesIO()
    large = small.resize((64, 64), Image.Resampling.BICUBIC)
    large.convert(mode).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def folders(home):
    """The same images as Stanford packs them (six classes), and reduced to three."""
    rng, usual, reduced = np.random.default_rng(0), home / "usual", home / "reduced"
    (usual / "val" / "images").mkdir(parents=True)
    (usual / "test" / "images").mkdir(parents=True)
    lines = []
    for name in NAMES:
        inside = usual / "train" / name / "images"
        inside.mkdir(parents=True)
        (inside.parent / f"{name}_boxes.txt").write_text("a box")
        for part, count in (("train", 4), ("val", 2)):
            for i in range(count):
                content = jpeg(rng, "L" if i == 1 else "RGB")
                file = f"{name}_{i}.JPEG" if part == "train" else f"val_{name}_{i}.JPEG"
                place = inside if part == "train" else usual / "val" / "images"
                (place / file).write_bytes(content)
                if name in CHOSEN:
                    own = reduced / part / name
                    own.mkdir(parents=True, exist_ok=True)
                    (own / file).write_bytes(content)
                if part == "val":
                    lines.append(f"{file}\t{name}\t0\t0\t9\t9\n")
    (usual / "val" / "val_annotations.txt").write_text("".join(lines))
    (reduced / "class_names.txt").write_text("no class folder")
    (home / "list.txt").write_text("# three\n" + "\tname\n".join([*CHOSEN, ""]))
    return usual, reduced, home / "list.txt"


def test_both_layouts_of_tiny_imagenet_are_the_same_data(folders):
    usual, reduced, listed = folders
    datasets.add("tiny-imagenet-64", usual, str(listed))
    packed = datasets.packed("tiny-imagenet-64")
    assert packed.class_names == CHOSEN
    assert packed.train_images.shape == (12, 64, 64, 3) and packed.crop == 0
    assert packed.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    grey = [(image == image[..., :1]).all() for image in packed.train_images]
    assert sum(grey) == 3, "one grey image a class, as RGB"
    for classes in ("", str(listed), ",".join(CHOSEN)):
        datasets.add("again", reduced, classes)
        assert datasets.packed("again").content == packed.content


def spoil_class(usual, listed):
    listed.write_text(listed.read_text() + "n09999999\n")


def spoil_files(usual, listed):
    for file in (usual / "train" / CHOSEN[0] / "images").iterdir():
        file.unlink()


def spoil_image(usual, listed):
    file = usual / "train" / CHOSEN[0] / "images" / f"{CHOSEN[0]}_2.JPEG"
    file.write_bytes(file.read_bytes()[:400])


def spoil_validation(usual, listed):
    (usual / "val" / "images" / f"val_{CHOSEN[0]}_0.JPEG").unlink()


def spoil_annotations(usual, listed):
    (usual / "val" / "val_annotations.txt").write_bytes(b"\xff\xfe\xfa")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_annotations, "cannot be read; unpack Tiny-ImageNet anew"),
        (spoil_class, "'n09999999' of the list"),
        (spoil_files, "is empty or missing"),
        (spoil_image, "_2.JPEG' is no readable image"),
        (spoil_validation, "names a file or a class that is not here"),
    ],
)
def test_what_is_missing_or_damaged_is_one_sentence(
    home, command, folders, spoil, says
):
    usual, _, listed = folders
    spoil(usual, listed)
    code, out, err = command("tiny-imagenet-64", usual, "--classes", listed)
    assert code == 2 and out == ""
    assert says in err and err.count("\n") == 1
    assert not list((home / "home").rglob("meta.json"))


def test_a_class_that_is_not_chosen_may_be_damaged(command, folders):
    usual, _, listed = folders
    spoiled = usual / "train" / NAMES[0] / "images" / f"{NAMES[0]}_0.JPEG"
    spoiled.write_bytes(b"no image")
    (usual / "val" / "images" / f"val_{NAMES[0]}_0.JPEG").unlink()
    code, out, err = command("tiny-imagenet-64", usual, "--classes", listed)
    assert code == 0, err
    assert "3 classes, 12 training and 6 test images of 64x64x3" in out


def test_classes_are_for_folders(home, command):
    (home / "some.npz").write_bytes(b"")
    code, _, err = command("mine", home / "some.npz", "--classes", "10")
    assert code == 2 and "are for a folder" in err


# --- Tiny-ImageNet as its archive lays it out -----------------------------------------


def stanford(top: Path, source) -> Path:
    """The images laid out as in Tiny-ImageNet's own archive."""
    write_folder(top, source)
    for name in source.class_names:
        within = top / "train" / name / "images"
        within.mkdir()
        for file in sorted((top / "train" / name).glob("*.png")):
            file.rename(within / file.name)
        (within.parent / f"{name}_boxes.txt").write_text("0000.png\t0\t0\t7\t7\n")
    lines = []
    (top / "val" / "images").mkdir()
    for file in sorted(top.glob("val/class */*.png")):
        file.rename(top / "val" / "images" / file.name)
        lines.append(f"{file.name}\t{file.parent.name}\t0\t0\t7\t7\n")
    for name in source.class_names:
        (top / "val" / name).rmdir()
    (top / "val" / "val_annotations.txt").write_text("".join(lines))
    return top


def test_tiny_imagenet_as_its_archive_lays_it_out(home):
    source = generated(3, per_class=6)
    data = datasets.packed(datasets.resolve(str(stanford(home / "tiny", source))))
    expected = datasets.canonical(arrays(source))
    assert all(
        np.array_equal(getattr(data, key), expected[key]) for key in datasets.ARRAYS
    )
    assert data.class_names == source.class_names


def test_a_folder_among_tiny_imagenets_images_is_named(home):
    top = stanford(home / "tiny", generated(3, per_class=6))
    before = surveys.survey(top).left_out.count()
    (top / "val" / "images" / "more").mkdir()
    left = surveys.survey(top).left_out
    assert left.count() == before + 1 and "images/more/" in str(left.found)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda text: text.replace("class 1", "class 9", 1),
            "names a file or a class that is not here",
        ),
        (
            lambda text: text + "lost.png\tclass 0\n",
            "names a file or a class that is not here",
        ),
        (
            lambda text: "".join(
                line for line in text.splitlines(True) if "class 2" not in line
            ),
            "no image of the class 'class 2'",
        ),
        (lambda text: text + "lonely\n", "names a file or a class that is not here"),
    ],
)
def test_tiny_imagenet_with_wrong_annotations_is_refused(home, spoil, says):
    file = (
        stanford(home / "tiny", generated(3, per_class=6))
        / "val"
        / "val_annotations.txt"
    )
    file.write_text(spoil(file.read_text()))
    with pytest.raises(UserError, match=says):
        datasets.resolve(str(file.parents[1]))
    assert not list((home / "home").rglob("meta.json"))


@both
def test_tiny_imagenets_own_layout_is_read_both_ways(home, way):
    top = stanford(home / "tiny", generated(3, per_class=6))
    (top / "val" / "images" / "unnamed.png").write_bytes(b"")
    packed, said = way(top)
    assert counts(packed)[1:] == ([6, 6, 6], [3, 3, 3])
    boxes = [f"train/class {c}/class {c}_boxes.txt" for c in range(3)]
    assert said[1] == f"left out, boxes of Tiny-ImageNet: 3 ({', '.join(boxes)})"
    assert said[2].endswith("does not name: 1 (val/images/unnamed.png)")


def test_a_long_list_of_names_is_a_list_and_no_file():
    """A file's name has at most 255 characters; names may begin with a ~."""
    many = [f"a class with a long name, number {k:03d}" for k in range(20)]
    many = [name.replace(",", " -") for name in many]
    assert class_lists.choose(many, ",".join(many[:15])) == many[:15]
    assert class_lists.choose(["~cat", "dog", "eel"], "~cat,dog") == ["dog", "~cat"]
    for which in ("9" * 5000, "~nobody-of-that-name", "\0"):
        with pytest.raises(UserError):
            class_lists.choose(many, which)
