"""Class orders, splits, augmentation against a slow reference, packing, reading."""

import numpy as np
import pytest
import torch
from helpers_core import generated
from PIL import Image

from gfrlib import tasks
from gfrlib.config import UserError, make_config
from gfrlib.lab import datasets
from gfrlib.lab.experiments import load_tasks

CPU = torch.device("cpu")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "home"))
    return tmp_path


# --- class orders ---------------------------------------------------------------------


def test_first_ten_classes_of_both_orders():
    assert tasks.class_order("lucir", 100)[:10] == [
        68,
        56,
        78,
        8,
        23,
        84,
        90,
        65,
        74,
        76,
    ]
    assert tasks.class_order("gfr", 100)[:10] == [69, 23, 57, 12, 89, 87, 34, 84, 3, 15]


def test_orders_are_permutations_and_inverses():
    lucir, gfr = tasks.class_order("lucir", 100), tasks.class_order("gfr", 100)
    assert [lucir[i] for i in gfr] == list(range(100))
    assert len(set(lucir[:50]) & set(gfr[:50])) == 24  # methods.md, row 6
    assert tasks.class_order("sorted", 7) == list(range(7))
    for seed in (0, 1):
        assert sorted(tasks.class_order("random", 30, seed)) == list(range(30))
    assert (
        tasks.class_order("random", 30, 1)
        == tasks.class_order("random", 30, 1)
        != tasks.class_order("random", 30, 2)
    )
    assert tasks.class_order("lucir", 30, 1) == tasks.class_order("lucir", 30, 2)
    with pytest.raises(UserError, match="alphabetical"):
        tasks.class_order("alphabetical", 10)


# --- splits ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, expected",
    [
        ((100, 50, 5), (50, 10, 10, 10, 10, 10)),
        ((100, 25, 3), (25, 25, 25, 25)),
        ((100, 50, 25), (50, *[2] * 25)),
        ((10, 10, 0), (10,)),
        ((10, 4, 3), (4, 2, 2, 2)),
        ((10, 4, 3, (3, 1, 2)), (3, 1, 2)),
        ((10, 4, 3, (5, 5)), (5, 5)),
    ],
)
def test_splits(given, expected):
    assert tasks.task_sizes(*given) == expected


@pytest.mark.parametrize(
    "given, says",
    [
        ((10, 4, 4), r"do not divide.*\[1, 2, 3, 6\]"),
        ((10, 9, 2), r"1 class after a base of 9 does not divide.*\[1\]"),
        ((10, 11, 1), "base is 11"),
        ((10, 0, 1), "base is 0"),
        ((10, 4, 0), "at least 1 task"),
        ((10, 10, 2), "2 tasks; choose a smaller base, or tasks = 0"),
        ((10, 4, -1), "at least 1 task"),
        ((10, 4, 3, (6, 6)), "needs 12 classes"),
        ((10, 4, 3, (5, 0, 5)), "at least 1 a task"),
    ],
)
def test_impossible_splits_are_refused(given, says):
    with pytest.raises(UserError, match=says):
        tasks.task_sizes(*given)


@pytest.mark.parametrize(
    "given, expected",
    [
        ((10,), (6, 2)),
        ((100,), (50, 2)),
        ((7,), (5, 2)),
        ((4,), (2, 2)),
        ((3,), (2, 1)),
        ((2,), (1, 1)),
        ((100, 0, 5), (50, 5)),
        ((7, 0, 3), (4, 3)),
        ((7, 4), (4, 3)),
        ((17, 8), (8, 3)),
        ((9, 2), (2, 1)),  # 7 classes remain: one task, not seven
        ((6, 6), (6, 1)),  # nothing remains: refused as ever
        ((12, 4, 3), (4, 3)),  # what is said stays, whether it fits or not
    ],
)
def test_usual_splits(given, expected):
    assert tasks.usual_split(*given) == expected


def test_usual_splits_hold_every_class_and_begin_with_half():
    for classes in range(2, 1001):
        sizes = tasks.task_sizes(classes, *tasks.usual_split(classes))
        assert sum(sizes) == classes and classes / 2 <= sizes[0] <= classes / 2 + 2


def test_a_task_is_an_index_of_its_classes():
    stream = tasks.build(
        make_config("quick", base=3, tasks=2, class_order="random", seed=4),
        generated(7),
        CPU,
    )
    order = tasks.class_order("random", 7, 4)
    assert stream.sizes == (3, 2, 2) and stream.shape == (3, 16, 16)
    assert stream.class_names == [f"class {c}" for c in order]
    source, seen = generated(7), []
    for t in range(3):
        index = stream.train_index(t)
        labels = stream.train_labels[index]
        assert sorted(set(labels.tolist())) == list(stream.classes(t))
        for position in stream.classes(
            t
        ):  # the images are those of the class that the order puts there
            ours = stream.train_images[index[labels == position]]
            assert np.array_equal(
                ours.numpy(),
                source.train_images[source.train_labels == order[position]],
            )
        seen += index.tolist()
        assert set(stream.test_labels[stream.test_index(t)].tolist()) == set(
            stream.classes(t)
        )
    assert sorted(seen) == list(range(len(source.train_labels)))
    assert stream.test_labels.tolist() == sorted(stream.test_labels.tolist())


def test_a_split_may_leave_classes_unused():
    stream = tasks.build(make_config("quick", split=(2, 1)), generated(5), CPU)
    assert stream.num_classes == 5 and stream.sizes == (2, 1)
    assert set(
        torch.cat([stream.train_labels[stream.train_index(t)] for t in (0, 1)]).tolist()
    ) == {0, 1, 2}


# --- augmentation and normalisation ---------------------------------------------------


def test_augmentation_against_one_image_at_a_time():
    stream = tasks.build(make_config("quick", base=3, tasks=2), generated(7), CPU)
    assert (stream.padding, stream.mirror) == (2, True)  # an eighth of 16 pixels
    images = stream.train_images[:60]
    draws = stream.draw(60, torch.Generator().manual_seed(0))
    assert (
        draws[:, :2].min() == 0
        and draws[:, :2].max() == 4
        and set(draws[:, 2].tolist()) == {0, 1}
    )
    result = stream.augment(images, draws)
    assert result.dtype == torch.uint8 and result.shape == images.shape
    for image, (top, left, mirrored), ours in zip(
        images.numpy(), draws.tolist(), result.numpy()
    ):
        padded = np.zeros((20, 20, 3), dtype=np.uint8)
        padded[2:18, 2:18] = image
        crop = padded[top : top + 16, left : left + 16]
        assert np.array_equal(ours, crop[:, ::-1] if mirrored else crop)


def test_augmentation_draws_every_shift_and_mirrors_half():
    stream = tasks.build(make_config("quick", base=3, tasks=2), generated(7), CPU)
    draws = stream.draw(6000, torch.Generator().manual_seed(1))
    counts = torch.bincount(draws[:, 0] * 5 + draws[:, 1], minlength=25)
    assert (
        counts.min() > 160 and counts.max() < 330
    )  # 240 expected, 5 standard deviations
    assert abs(draws[:, 2].float().mean() - 0.5) < 0.04


def test_digits_are_shifted_by_one_pixel_and_never_mirrored():
    stream = load_tasks(make_config("quick", device="cpu"))
    draws = stream.draw(500, torch.Generator().manual_seed(0))
    assert stream.padding == 1 and draws[:, :2].max() == 2 and not draws[:, 2].any()


def test_draws_depend_on_the_generator_alone():
    stream = load_tasks(make_config("quick", device="cpu"))
    a, b, c = (stream.draw(50, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_normalised_training_images_have_mean_0_and_deviation_1():
    stream = tasks.build(make_config("quick", base=3, tasks=2), generated(7), CPU)
    x = stream.normalise(stream.train_images)
    assert x.dtype == torch.float32 and x.shape == (168, 3, 16, 16)
    np.testing.assert_allclose(x.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(x.std((0, 2, 3), correction=0), 1, atol=1e-4)
    images = stream.train_images.numpy() / 255
    mean, std = images.mean((0, 1, 2)), images.std((0, 1, 2))
    np.testing.assert_allclose(
        x[5].numpy(), ((images[5] - mean) / std).transpose(2, 0, 1), atol=1e-4
    )


def test_test_images_are_normalised_by_the_training_images():
    source = generated(7)
    source.test_images[:] = 0
    stream = tasks.build(make_config("quick", base=3, tasks=2), source, CPU)
    black = stream.normalise(stream.test_images)
    np.testing.assert_allclose(black[:, 0], -stream.mean[0] / stream.std[0], rtol=1e-4)


# --- validation -----------------------------------------------------------------------


def test_held_out_images_are_disjoint_from_those_trained_on():
    source = generated(5, per_class=20)
    # every image gets a signature of its own, so that sets of images can be compared
    source.train_images[:, 0, 0, 0], source.train_images[:, 0, 0, 1] = np.divmod(
        np.arange(100), 10
    )
    stream = tasks.build(
        make_config("quick", base=3, tasks=1, validation=0.25), source, CPU
    )

    def signatures(images):
        return {tuple(x) for x in images[:, 0, 0, :2].tolist()}

    trained, held = signatures(stream.train_images), signatures(stream.test_images)
    assert len(trained) == 75 and len(held) == 25 and not trained & held
    assert torch.bincount(stream.train_labels).tolist() == [15] * 5
    assert torch.bincount(stream.test_labels).tolist() == [5] * 5
    order = tasks.class_order("lucir", 5)
    for image, label in zip(
        stream.test_images, stream.test_labels
    ):  # and they keep their label
        row = int(image[0, 0, 0]) * 10 + int(image[0, 0, 1])
        assert source.train_labels[row] == order[label]
    untouched = tasks.build(make_config("quick", base=3, tasks=1), source, CPU)
    assert len(untouched.train_images) == 100


@pytest.mark.parametrize("share", [0.1, 0.5, 0.89])
def test_no_share_holds_out_all_images_of_a_class(share):
    source = generated(5, per_class=4)
    two = np.flatnonzero(source.train_labels == 3)[2:]
    keep = np.setdiff1d(np.arange(len(source.train_labels)), two)
    source.train_images, source.train_labels = (
        source.train_images[keep], source.train_labels[keep]
    )  # fmt: skip
    config = make_config("quick", base=3, tasks=1, validation=share)
    stream = tasks.build(config, source, CPU)
    for labels in (stream.train_labels, stream.test_labels):
        assert (torch.bincount(labels, minlength=5) >= 1).all()
    one = np.flatnonzero(source.train_labels == 3)[1:]
    keep = np.setdiff1d(np.arange(len(source.train_labels)), one)
    source.train_images, source.train_labels = (
        source.train_images[keep], source.train_labels[keep]
    )  # fmt: skip
    name = source.class_names[3]
    with pytest.raises(UserError, match=f"'{name}' has a single training image"):
        tasks.build(config, source, CPU)


# --- packing --------------------------------------------------------------------------


def arrays(source) -> dict:
    return {key: getattr(source, key) for key in datasets.ARRAYS}


def test_canonical_arrays_do_not_depend_on_the_source_order():
    source, rng = arrays(generated(5)), np.random.default_rng(0)
    mixed = {}
    for part in ("train", "test"):
        order = rng.permutation(len(source[f"{part}_labels"]))
        for what in ("images", "labels"):
            mixed[f"{part}_{what}"] = source[f"{part}_{what}"][order]
    a, b = datasets.canonical(source), datasets.canonical(mixed)
    names = [str(c) for c in range(5)]
    assert all(np.array_equal(a[key], b[key]) for key in datasets.ARRAYS)
    assert datasets.checksum(a, names) == datasets.checksum(b, names)
    assert (np.diff(a["train_labels"]) >= 0).all()
    changed = {**a, "train_images": a["train_images"].copy()}
    changed["train_images"][0, 0, 0, 0] ^= 1
    assert datasets.checksum(changed, names) != datasets.checksum(a, names)
    assert datasets.checksum(a, names[::-1]) != datasets.checksum(a, names)


def test_digits_are_all_there_once():
    data = datasets.packed("digits")
    assert data.train_images.shape == (1352, 8, 8, 1) and data.test_images.shape == (
        445,
        8,
        8,
        1,
    )
    assert data.train_images.dtype == np.uint8 and data.train_images.max() == 255
    from sklearn.datasets import load_digits

    bunch = load_digits()
    ours = np.concatenate([data.train_images, data.test_images]).reshape(1797, 64)
    labels = np.concatenate([data.train_labels, data.test_labels])
    theirs = np.round(bunch.images * 255 / 16).astype(np.uint8).reshape(1797, 64)
    assert sorted(zip(labels, map(bytes, ours))) == sorted(
        zip(bunch.target, map(bytes, theirs))
    )


def write_folder(top, source, held: str | None = "val"):
    for part, name in (("train", "train" if held else ""), ("test", held)):
        if name is None:
            continue
        images, labels = (
            getattr(source, f"{part}_images"),
            getattr(source, f"{part}_labels"),
        )
        for i, (image, label) in enumerate(zip(images, labels)):
            folder = top / name / source.class_names[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i:04}.png")
    return top


def test_packing_the_same_name_twice_with_other_images_replaces_it(home):
    np.savez(home / "a.npz", **arrays(generated(2, seed=0)))
    np.savez(home / "b.npz", **arrays(generated(3, seed=1)))
    assert (
        datasets.add("mine", home / "a.npz") == "mine"
        and len(datasets.packed("mine").class_names) == 2
    )
    assert (
        datasets.add("mine", home / "b.npz") == "mine"
        and len(datasets.packed("mine").class_names) == 3
    )
    kept = [p.name for p in datasets.folder().iterdir() if p.name != ".lock"]
    assert kept == ["mine"]  # nothing half-written beside it


def test_changed_cifar100_is_refused(home):
    np.savez(home / "cifar.npz", **arrays(generated(3)))
    with pytest.raises(UserError, match="checksum"):
        datasets.add("cifar100", home / "cifar.npz")
    assert not (datasets.folder() / "cifar100").exists()


def bad_npz(home, **changes):
    np.savez(
        home / "bad.npz",
        **{
            k: v
            for k, v in {**arrays(generated(3)), **changes}.items()
            if v is not None
        },
    )
    return home / "bad.npz"


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(test_labels=None), "lacks test_labels"),
        (dict(train_images=np.zeros((72, 16, 16, 3))), "uint8"),
        (dict(train_images=np.zeros((71, 16, 16, 3), np.uint8)), "one label each"),
        (dict(train_labels=np.zeros(72) + 0.5), "whole numbers"),
        (dict(class_names=["only one"]), "a name for each"),
        (
            dict(train_labels=np.zeros(72, int), test_labels=np.zeros(36, int)),
            "two classes",
        ),
    ],
)
def test_bad_packed_files_are_refused(home, changes, says):
    with pytest.raises(UserError, match=says):
        datasets.resolve(str(bad_npz(home, **changes)))
    assert not list((home / "home").rglob("*.npy"))


def test_truncated_packed_file_is_refused(home):
    np.savez(home / "whole.npz", **arrays(generated(3)))
    whole = (home / "whole.npz").read_bytes()
    for share in (0.1, 0.5, 0.99):
        (home / "cut.npz").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UserError, match="truncated"):
            datasets.resolve(str(home / "cut.npz"))


def test_a_damaged_packed_data_set_is_refused(home):
    np.savez(home / "a.npz", **arrays(generated(3)))
    name = datasets.add("mine", home / "a.npz")
    file = datasets.folder() / name / "train_images.npy"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="truncated or damaged"):
        datasets.packed(name)
