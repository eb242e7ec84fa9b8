"""ImageNet's way in: real JPEG files with the real thing's faults, packed in parallel,
resumed, streamed, and trained on.
"""

import io
import json
import os

import numpy as np
import pytest
import torch
from helpers_core import generated, train
from PIL import Image
from test_tasks import write_folder

from gfrlib import cli, tasks
from gfrlib.config import UserError, make_config
from gfrlib.engine import streams
from gfrlib.lab import datasets, decoding, resumable, shards

CLASSES, SIDE = 4, 72


def jpeg(rng, mode: str = "RGB", size=(96, 80)) -> bytes:
    """A JPEG of smooth random colours."""
    small = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode).save(
        file, "JPEG", quality=90
    )
    return file.getvalue()


def png(rng) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (90, 80, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """train/n0..n3 and val/, 12 and 4 files a class; some odd, three faulty."""
    rng, top = np.random.default_rng(0), tmp_path / "imagenet"
    for part, count in (("train", 12), ("val", 4)):
        for c in range(CLASSES):
            place = top / part / f"n{c:08d}"
            place.mkdir(parents=True)
            for i in range(count):
                (place / f"{part}_{i}.JPEG").write_bytes(jpeg(rng))
    odd = top / "train" / "n00000000"
    (odd / "train_0.JPEG").write_bytes(jpeg(rng, "L"))
    (odd / "train_1.JPEG").write_bytes(jpeg(rng, "CMYK"))
    (odd / "train_2.JPEG").write_bytes(png(rng))  # as n02105855_2933.JPEG is
    (top / "train" / "n00000001" / "train_3.JPEG").write_bytes(jpeg(rng)[:700])
    (top / "train" / "n00000002" / "train_4.JPEG").write_bytes(b"<html>404</html>")
    (top / "val" / "n00000003" / "val_1.JPEG").write_bytes(b"")
    return top


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


FAULTY = {
    "train/n00000001/train_3.JPEG",
    "train/n00000002/train_4.JPEG",
    "val/n00000003/val_1.JPEG",
}


def pack(folder, **more):
    return shards.pack(
        "imagenet-four", folder, **{"size": SIDE, "crop": 64, "workers": 2, **more}
    )


def test_faults_are_named_counted_and_left_out(folder):
    packing = pack(folder)
    assert set(packing.faults) == FAULTY and packing.images == {"train": 48, "test": 16}
    packed = datasets.packed("imagenet-four")
    assert packed.train_images.shape == (48, SIDE, SIDE, 3) and packed.crop == 64
    assert ((packed.train_labels < 0).sum(), (packed.test_labels < 0).sum()) == (2, 1)
    grey = np.asarray(packed.train_images[0]).astype(int)
    assert np.abs(grey[..., 0] - grey[..., 2]).max() == 0 and grey.std() > 5
    stream = tasks.build(
        make_config("quick", "gfr", base=2, tasks=1), packed, torch.device("cpu")
    )
    assert (
        len(stream.train_labels) == 46
        and len(stream.test_labels) == 15
        and stream.shape == (3, 64, 64)
    )
    assert (stream.train_labels >= 0).all()


def test_an_image_is_scaled_and_its_centre_kept(tmp_path):
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = 200  # the centre square
    Image.fromarray(image).save(tmp_path / "wide.png")
    found, changes = decoding.decode(tmp_path / "wide.png", 40, decoding.Rules())
    assert found.shape == (40, 40, 3) and (found == 200).all() and not changes


def test_packing_goes_on_where_it_stopped(folder, monkeypatch):
    def stop(done, total):
        if done >= resumable.CHUNK // 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(resumable, "CHUNK", 8)
    with pytest.raises(KeyboardInterrupt):
        pack(folder, report=stop)
    half = next(datasets.folder().glob(".imagenet-four-*.partial"))
    done = sum(
        (np.load(half / f"{part}_state.npy")["state"] != resumable.TO_DO).sum()
        for part in ("train", "test")
    )
    assert 0 < done < 64
    seen = []
    assert set(pack(folder, report=lambda *now: seen.append(now)).faults) == FAULTY
    assert seen[0][0] > done and seen[-1] == (64, 64) and not half.exists()
    seen.clear()
    assert set(pack(folder, report=lambda *now: seen.append(now)).faults) == FAULTY
    assert not seen, "the second start decodes nothing"


def fail_on_work(*_):
    raise AssertionError("decoded again")


def stopped(folder, monkeypatch, chunk: int = 8):
    """A packing that stopped half-way; returns its folder."""

    def stop(done, total):
        if done >= total // 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(resumable, "CHUNK", chunk)
        with pytest.raises(KeyboardInterrupt):
            pack(folder, report=stop)
    return next(datasets.folder().glob(".imagenet-four-*.partial"))


def arrays_of(name: str = "imagenet-four") -> list:
    packed = datasets.packed(name)
    return [np.array(getattr(packed, key)) for key in datasets.ARRAYS]


def equal(one: list, other: list) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other))


def test_a_repaired_file_is_looked_at_again(folder):
    pack(folder)
    before = datasets.packed("imagenet-four").content
    rng, seen = np.random.default_rng(5), []
    (folder / "train" / "n00000001" / "train_3.JPEG").write_bytes(jpeg(rng))
    packing = pack(folder, report=lambda *now: seen.append(now))
    assert set(packing.faults) == FAULTY - {"train/n00000001/train_3.JPEG"}
    packed = datasets.packed("imagenet-four")
    assert (packed.train_labels < 0).sum() == 1 and packed.content != before
    # the repaired one, and what is still faulty: the rest is kept from before
    assert len(seen) == 2 and seen[0][0] >= 62 and seen[1] == (64, 64)


def test_a_file_that_the_system_gave_later_is_taken(folder, monkeypatch):
    """A drive that was gone for a moment: nothing of the file itself changes."""
    whole, gone = decoding.decode, "train_7.JPEG"

    def failing(file, size, rules):
        if file.name == gone and file.parent.name == "n00000001":
            raise decoding.Unreadable("Input/output error") from OSError(5, "I/O")
        return whole(file, size, rules)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode", failing)
        lost = f"train/n00000001/{gone}"
        assert set(pack(folder).faults) == FAULTY | {lost}
    seen = []
    packing = pack(folder, report=lambda *now: seen.append(now))
    assert set(packing.faults) == FAULTY and seen[-1] == (64, 64)
    assert pack(folder, report=lambda *now: pytest.fail("packed again")).faults


def test_a_damaged_data_set_is_not_the_beginning_of_another(folder):
    """A file changed, and so did what is packed: all is decoded again."""
    pack(folder)
    images = datasets.folder() / "imagenet-four" / "train_images.npy"
    content = bytearray(images.read_bytes())
    content[5000] ^= 1
    images.write_bytes(content)
    (folder / "train" / "n00000001" / "train_3.JPEG").unlink()
    (folder / "train" / "n00000001" / "train_3.JPEG").write_bytes(b"no image")
    pack(folder)
    shards.pack("anew", folder, size=SIDE, crop=64, workers=2)
    assert equal(arrays_of(), arrays_of("anew"))


@pytest.mark.parametrize("finished", [False, True])
def test_an_image_that_changed_is_decoded_again(folder, monkeypatch, finished):
    """Of the same size, even: the time of its change tells it."""
    pack(folder) if finished else stopped(folder, monkeypatch)
    file = folder / "train" / "n00000003" / "train_5.JPEG"
    other = folder / "train" / "n00000003" / "train_6.JPEG"
    about = file.stat()
    content = other.read_bytes().ljust(about.st_size, b"\0")[: about.st_size]
    file.write_bytes(content)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns + 10_000_000))
    pack(folder)
    found = arrays_of()
    shards.pack("anew", folder, size=SIDE, crop=64, workers=2)
    assert equal(found, arrays_of("anew"))
    one, two = (datasets.packed(name).content for name in ("imagenet-four", "anew"))
    assert one == two


def test_the_checksum_is_that_of_the_files_content(folder, tmp_path):
    """Not of where they lie, when they were written, or what they are called."""
    pack(folder)
    for file in sorted(folder.rglob("*.JPEG"), reverse=True):
        os.utime(file, (1, 1))
        file.rename(file.with_name(f"x{file.name}"))
    folder = folder.rename(tmp_path / "moved")
    shards.pack("moved", folder, size=SIDE, crop=64, workers=2)
    assert equal(arrays_of(), arrays_of("moved"))
    one, two = (datasets.packed(name).content for name in ("imagenet-four", "moved"))
    assert one == two


def cut_state(half):
    file = half / "train_state.npy"
    file.write_bytes(file.read_bytes()[:300])


def odd_header(half):
    file = half / "train_state.npy"
    file.write_bytes(file.read_bytes().replace(b"{", b"(", 1))


def empty_state(half):
    (half / "test_state.npy").write_bytes(b"")


def other_state(half):
    np.save(half / "train_state.npy", np.ones(48, np.uint8))


def cut_images(half):
    file = half / "train_images.npy"
    file.write_bytes(file.read_bytes()[:1000])


def former_faults(half):
    (half / "faults.json").write_text('{"train/n0')


@pytest.mark.parametrize(
    "spoil",
    [cut_state, odd_header, empty_state, other_state, cut_images, former_faults],
)
def test_an_interrupted_packing_with_cut_files_goes_on(folder, monkeypatch, spoil):
    shards.pack("whole", folder, size=SIDE, crop=64, workers=2)
    spoil(stopped(folder, monkeypatch))
    assert set(pack(folder).faults) == FAULTY
    assert equal(arrays_of(), arrays_of("whole"))


def test_packings_that_were_never_ended_are_swept(folder, monkeypatch):
    stopped(folder, monkeypatch)
    others = datasets.folder() / ".imagenet-four-more-00000000.partial"
    others.mkdir()
    pack(folder, size=80)
    left = {place.name for place in datasets.folder().iterdir()}
    assert left == {".lock", "imagenet-four", others.name}


def test_a_process_that_dies_is_one_sentence(folder, monkeypatch):
    def dies(*_, **__):
        os._exit(1)

    monkeypatch.setattr(decoding, "decode", dies)
    with pytest.raises(UserError, match="A process that decodes images died"):
        pack(folder)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"size": 0}, "'size' is"),
        ({"size": 10**30}, "'size' is"),
        ({"crop": SIDE + 1}, "'crop' must lie from 1 to the stored size 72"),
        ({"crop": -(10**30)}, "'crop' must"),
        ({"workers": -1}, "'workers' is"),
        ({"workers": 10**9}, "'workers' is"),
    ],
)
def test_numbers_out_of_range_are_one_sentence(folder, wrong, says):
    with pytest.raises(UserError, match=says) as caught:
        pack(folder, **wrong)
    assert len(str(caught.value)) < 200


def test_many_faults_are_listed_in_a_few_lines(folder, capsys):
    for i in range(12):
        (folder / "train" / "n00000000" / f"x{i:02}.JPEG").write_bytes(b"no image")
    words = ["data", "imagenet-four", folder, "--size", SIDE, "--crop", 64]
    assert cli.main([str(word) for word in words]) == 0
    said = capsys.readouterr()
    assert said.err.count("left out: ") == 11 and "5 unreadable files more" in said.err
    assert "61 images decoded, 15 files or folders left out" in said.out


@pytest.mark.parametrize(
    "spoil, says",
    [
        (
            lambda top: [
                f.write_bytes(b"") for f in (top / "train" / "n00000001").iterdir()
            ],
            "n00000001' can be read",
        ),
        (
            lambda top: [f.unlink() for f in (top / "val" / "n00000002").iterdir()],
            "empty or missing; put images in it or remove the class for training, too",
        ),
        (
            lambda top: [f.unlink() for f in (top / "train" / "n00000002").iterdir()],
            "empty or missing; put images in it or remove it",
        ),
        (lambda top: (top / "val").rename(top / "train" / "val"), "lies among the"),
    ],
)
def test_folders_that_cannot_be_used(folder, spoil, says):
    spoil(folder)
    with pytest.raises(UserError, match=says):
        pack(folder)


def test_a_streamed_run_is_the_resident_one(folder, monkeypatch):
    pack(folder)
    config = make_config(
        "quick",
        "gfr",
        dataset="imagenet-four",
        base=2,
        tasks=1,
        network="resnet18",
        width=16,
        epochs_base=2,
        epochs_task=1,
        batch_size=8,
        generator_batch=8,
        generator_steps_base=3,
        generator_steps_later=3,
        device="cpu",
    )
    packed, outcomes = datasets.packed("imagenet-four"), []
    for limit in ("1000000000", "1000"):
        monkeypatch.setenv("GFR_RESIDENT_BYTES", limit)
        stream = tasks.build(config, packed, torch.device("cpu"))
        assert isinstance(stream.train_images, streams.Streamed) == (limit == "1000")
        monkeypatch.setattr(
            "helpers_core.load_tasks", lambda config, stream=stream: stream
        )
        outcomes.append(train(config))
    assert outcomes[0].weights == outcomes[1].weights


def test_the_command_names_what_it_leaves_out(folder, home, capsys):
    words = ["data", "imagenet-four", folder, "--size", SIDE, "--crop"]
    words = [str(word) for word in words]
    assert cli.main([*words, "64"]) == 0
    said = capsys.readouterr()
    assert all(f"left out: {name} (" in said.err for name in FAULTY)
    assert "4 classes, 46 training and 15 test images of 72x72x3" in said.out
    assert "61 images decoded, 3 files or folders left out" in said.out
    meta = home / "data" / "packed" / "imagenet-four" / "meta.json"
    assert json.loads(meta.read_text())["crop"] == 64
    assert cli.main([*words, "300"]) == 2
    assert "'crop' must lie" in capsys.readouterr().err


def test_a_data_set_packed_anew_is_another_one(folder, monkeypatch):
    """A name does not tell the content: runs and records of the old images are not
    taken for the new ones'.
    """
    from gfrlib.lab import experiments

    pack(folder)
    config = make_config(
        "quick",
        "finetune",
        dataset="imagenet-four",
        base=2,
        tasks=1,
        width=8,
        epochs_base=1,
        epochs_task=1,
        batch_size=8,
        device="cpu",
    )
    first = experiments.run_or_load(config)
    assert (
        first.status == "computed now"
        and experiments.run_or_load(config).status == "loaded"
    )
    pack(folder, size=80)
    again = experiments.run_or_load(config)
    assert again.status == "computed now" and again.weights != first.weights
    assert again.provenance["content"] != first.provenance["content"]


@pytest.mark.parametrize("how", [dict(size=32), dict(crop=28), dict(workers=1)])
def test_a_known_data_set_is_not_packed_as_photographs(tmp_path, monkeypatch, how):
    """Its arrays would lie in another order, in the place of those that are there."""
    monkeypatch.setenv("GFR_HOME", str(tmp_path))
    there = tmp_path / "data" / "packed" / "cifar100"
    there.mkdir(parents=True)
    (there / "meta.json").write_text("{}")
    write_folder(tmp_path / "some", generated(2, per_class=5))
    with pytest.raises(UserError, match="'cifar100' is known as it is"):
        shards.pack("cifar100", tmp_path / "some", **how)
    assert [p.name for p in there.iterdir()] == ["meta.json"]
