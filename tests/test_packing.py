"""`data NAME FOLDER --size N`: photographs of any size, in folders of classes alone."""

import io
import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from gfrlib import cli, tasks
from gfrlib.cli import packing
from gfrlib.config import UserError, make_config
from gfrlib.lab import datasets, experiments


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def photos(home):
    """Two classes of ten: portrait and landscape, JPEG and PNG, 40 to 200 pixels."""
    rng = np.random.default_rng(4)
    for name in ("cat", "dog"):
        (home / "photos" / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            size = tuple(int(n) for n in rng.integers(40, 200, 2))
            photo = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
            kind = ("jpg", "png")[i % 2]
            photo.save(home / "photos" / name / f"{i}.{kind}")
    return home / "photos"


def run(*words) -> int:
    return cli.main([str(word) for word in words])


def test_a_flat_folder_is_packed_at_the_size_asked_for(photos, capsys):
    """Larger photographs and smaller ones; every fifth is for testing."""
    assert run("data", "mine", photos, "--size", 64) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "'photos': of each class, every fifth image is for testing, the others for "
        "training"
    ]
    assert said.out.splitlines() == [
        "20 images decoded, 0 files or folders left out",
        "mine: 2 classes, 16 training and 4 test images of 64x64x3",
        "training sees them shifted by up to 8 pixels, half of them mirrored (run "
        "--mirror false: none); a frozen extractor with --weights sees them as they "
        "are",
    ]
    packed = datasets.packed("mine")
    assert packed.crop == 0 and packed.test_labels.tolist() == [0, 0, 1, 1]
    stream = tasks.build(
        make_config("quick", base=2, tasks=0), packed, torch.device("cpu")
    )
    assert (stream.shape, stream.padding, stream.mirror) == ((3, 64, 64), 8, True)


def test_what_cannot_be_read_is_named_and_left_out(photos, capsys):
    (photos / "cat" / "x.jpg").write_bytes(
        (photos / "cat" / "0.jpg").read_bytes()[:300]
    )
    (photos / "dog" / "y.jpeg").write_bytes(b"no image")
    (photos / ".DS_Store").write_bytes(b"")
    (photos / "notes.txt").write_text("milk")
    assert run("data", "mine", photos, "--size", 32) == 0
    said = capsys.readouterr()
    assert "left out: cat/x.jpg (" in said.err
    assert "left out: dog/y.jpeg (unknown format)" in said.err
    assert "left out, beside the class folders: 1 (notes.txt)" in said.err
    assert "20 images decoded, 4 files or folders left out" in said.out
    packed = datasets.packed("mine")
    assert (packed.train_labels < 0).sum() + (packed.test_labels < 0).sum() == 2
    stream = tasks.build(
        make_config("quick", base=2, tasks=0), packed, torch.device("cpu")
    )
    assert len(stream.train_labels) + len(stream.test_labels) == 20
    assert run("data", "mine", "--verify") == 0


# What stands for pillow-heif: it takes a PNG behind four letters for HEIC.
READER = """
import io
from PIL import Image

def opened(file, name):
    file.seek(4)
    image = Image.open(io.BytesIO(file.read()))
    image.info["original_orientation"] = 6
    return image

def register_heif_opener():
    Image.register_open("HEIF", opened, lambda first: first[:4] == b"heic")
"""


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A module of that name, in all processes, which is there once it is written."""
    (tmp_path / "modules").mkdir()
    module = tmp_path / "modules" / "pillow_heif.py"
    module.write_text("raise ImportError")
    monkeypatch.syspath_prepend(module.parent)
    monkeypatch.setenv("PYTHONPATH", str(module.parent), prepend=os.pathsep)
    monkeypatch.delitem(sys.modules, "pillow_heif", raising=False)
    Image.init()
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    yield module
    sys.modules.pop("pillow_heif", None)


def test_photographs_of_an_iphone_are_read_with_pillow_heif(photos, reader, capsys):
    found = io.BytesIO()
    Image.new("RGB", (40, 50), "red").save(found, "PNG")
    (photos / "dog" / "x.HEIC").write_bytes(b"heic" + found.getvalue())
    assert run("data", "mine", photos, "--size", 32) == 0
    why = "HEIC: save it as JPEG, or pip install pillow-heif"
    assert f"left out: dog/x.HEIC ({why})" in capsys.readouterr().err
    reader.write_text(READER)
    # the same call takes what it left out before
    assert run("data", "mine", photos, "--size", 32) == 0
    said = capsys.readouterr()
    assert "21 images decoded, 0 files or folders left out" in said.out
    assert "images turned as their EXIF orientation says: 1" in said.err
    assert run("data", "mine", "--verify") == 0


@pytest.mark.parametrize(
    ("name", "more", "crop"),
    [
        ("mine", ("--size", 32), 0),
        ("mine", ("--size", 32, "--crop", 32), 32),
        ("mine", ("--size", 32, "--crop", 0), 0),
        ("mine", ("--size", 32, "--workers", 1), 0),
        ("imagenet-mine", ("--size", 32), 28),
        ("imagenet-mine", ("--size", 32, "--crop", 0), 0),
    ],
)
def test_which_part_of_the_images_training_sees(photos, capsys, name, more, crop):
    assert run("data", name, photos, *more) == 0
    assert datasets.packed(name).crop == crop
    meta = datasets.folder() / name / "meta.json"
    assert json.loads(meta.read_text())["crop"] == crop
    said = capsys.readouterr().out
    assert (f"random parts of them at {crop} pixels" in said) == bool(crop)


def test_a_run_of_photographs_that_are_padded_and_cropped(photos, capsys):
    run("data", "mine", photos, "--size", 32)
    words = ["--method", "gfr-gaussian", "--base", 1, "--tasks", 1, "--width", 8]
    more = ["--epochs-base", 1, "--epochs-task", 1, "--batch-size", 8]
    for mirror in ([], ["--mirror", "false"]):
        assert run("run", "--dataset", "mine", *words, *more, *mirror) == 0
    said = capsys.readouterr().out
    assert said.count("computed now") == 2, "another run without mirroring"


@pytest.fixture
def mine(home):
    """A data set of seven classes, packed under the name `mine`."""
    rng = np.random.default_rng(5)
    labels = np.arange(7).repeat(6)
    images = rng.integers(0, 256, (42, 8, 8, 3), dtype=np.uint8)
    parts = dict(train_images=images, train_labels=labels)
    parts |= dict(test_images=255 - images, test_labels=labels)
    np.savez(home / "mine.npz", **parts)
    assert run("data", "mine", home / "mine.npz") == 0
    return "mine"


@pytest.mark.parametrize(
    "preset, said, expected",
    [
        ("photos", {}, (5, 1, 1)),
        ("slim", {}, (5, 1, 1)),  # 50 + 5 x 10 does not fit seven classes
        ("quick", {}, (4, 1, 1, 1)),  # 4 and 3 tasks do
        ("slim", {"tasks": 3}, (4, 1, 1, 1)),
        ("photos", {"base": 3}, (3, 2, 2)),
        ("photos", {"split": (3, 2)}, (3, 2)),
        ("photos", {"base": 1, "tasks": 3}, (1, 2, 2, 2)),
    ],
)
def test_classes_of_ones_own_are_divided_where_nothing_is_said(
    mine, preset, said, expected
):
    config = experiments.settings(preset, "fecam", dataset=mine, **said)
    assert experiments.load_tasks(config).sizes == expected


def test_a_split_that_is_said_and_does_not_fit_is_refused(mine):
    config = experiments.settings("photos", dataset=mine, base=4, tasks=2)
    with pytest.raises(UserError, match="do not divide into 2 equal tasks"):
        experiments.load_tasks(config)


def test_data_sets_that_are_built_in_keep_the_presets_split():
    assert experiments.settings("slim", dataset="digits").base == 50
    assert experiments.settings("photos").tasks == 2


@pytest.mark.parametrize(
    "more, told",
    [
        ([], "7 classes: 5 in the first task, then 2 tasks of 1; "),
        (["--tasks", 1], "7 classes: 4 in the first task, then 1 task of 3; "),
        (["--base", 7, "--tasks", 0], ""),
        (["--split", "3,2"], ""),
    ],
)
def test_a_run_says_how_it_divides_the_classes(mine, capsys, more, told):
    capsys.readouterr()
    words = ["--preset", "photos", "--dataset", mine, "--method", "fecam"]
    assert run("run", *words, *more, "--dry-run") == 0
    said = capsys.readouterr().err
    wanted = f"{told}--base and --tasks divide them otherwise\n" if told else ""
    assert said == wanted


def test_a_long_decoding_is_told_before(capsys):
    clock = iter([100.0, 103.0, 104.0]).__next__
    tell = packing._expectation(clock)
    for done in (64, 128, 192):
        tell(done, 2048)
    said = capsys.readouterr().err
    assert said == "1920 images to decode: about 2 minutes\n"
    tell = packing._expectation(iter([0.0, 0.1]).__next__)
    tell(64, 2048), tell(128, 2048)
    assert capsys.readouterr().err == "", "seconds are not worth a line"


def test_a_crop_larger_than_the_squares_is_refused(photos, capsys):
    assert run("data", "mine", photos, "--size", 32, "--crop", 33) == 2
    said = capsys.readouterr().err
    assert "'crop' must lie from 1 to the stored size 32 (0: pad and crop)" in said
