"""`data NAME FOLDER --size N`: photographs of any size, in folders of classes alone."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from gfrlib import cli, tasks
from gfrlib.cli import packing
from gfrlib.config import make_config
from gfrlib.lab import datasets


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
        "--mirror false: none)",
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
    (photos / "dog" / "y.heic").write_bytes(b"no image")
    (photos / ".DS_Store").write_bytes(b"")
    (photos / "notes.txt").write_text("milk")
    assert run("data", "mine", photos, "--size", 32) == 0
    said = capsys.readouterr()
    assert "left out: cat/x.jpg (" in said.err
    assert "left out: dog/y.heic (unknown format)" in said.err
    assert "left out, beside the class folders: 1 (notes.txt)" in said.err
    assert "20 images decoded, 4 files or folders left out" in said.out
    packed = datasets.packed("mine")
    assert (packed.train_labels < 0).sum() + (packed.test_labels < 0).sum() == 2
    stream = tasks.build(
        make_config("quick", base=2, tasks=0), packed, torch.device("cpu")
    )
    assert len(stream.train_labels) + len(stream.test_labels) == 20
    assert run("data", "mine", "--verify") == 0


@pytest.mark.parametrize(
    ("name", "more", "crop"),
    [
        ("mine", ("--size", 32), 0),
        ("mine", ("--size", 32, "--crop", 32), 32),
        ("mine", ("--size", 32, "--crop", 0), 0),
        ("mine", ("--workers", 1), 224),
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
