"""500 flipped bits and 60 cut files: none is read as something else, or a traceback.

Records, analyses, sheets, packed data (small and large images) and stages are damaged
at random places, always the same. Each reading must end with one sentence (UserError)
or with what the whole file says.
"""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_core import ROOT, SMALL, generated, tiny, train
from PIL import Image

from gfrlib.cli import main
from gfrlib.config import UserError
from gfrlib.engine import store
from gfrlib.lab import analyses, datasets, records, seals, shards, stored
from gfrlib.lab.datasets import ARRAYS

SEED = 15
FLIPS = {
    "record": 130,
    "analysis": 130,
    "sheet": 20,
    "packed": 60,
    "packed meta": 40,
    "large": 30,
    "large meta": 40,
    "stage": 50,
}
CUTS = {
    "record": 10,
    "analysis": 10,
    "sheet": 4,
    "packed": 8,
    "packed meta": 8,
    "large": 4,
    "large meta": 8,
    "stage": 8,
}
# Of the committed records: one with a sheet of images, and two small ones.
SOME = ("4x25-mergan-s0", "4x25-finetune-s0", "50+10-lwf-s0-391a15430d")


@dataclass
class Kind:
    """Files of one kind, and what reading all of them gives."""

    files: list[Path]
    read: Callable


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with records, packed data and stages."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("GFR_HOME", str(home))
        patch.delenv("GFR_CACHE", raising=False)
        place = home / "data" / "records"
        place.mkdir(parents=True)
        for name in SOME:
            for file in (ROOT / "data" / "records").glob(f"cifar100-{name}*"):
                shutil.copy(file, place)
        source = generated(3, per_class=6, size=4)
        np.savez(home / "mine.npz", **{key: getattr(source, key) for key in ARRAYS})
        datasets.add("mine", home / "mine.npz")
        pack_large(home)
        train(tiny("gfr", **SMALL), store.Store(home / "stages"))
        yield home


def pack_large(home: Path) -> None:
    rng = np.random.default_rng(SEED)
    for part in ("train", "val"):
        for label in ("ape", "bee"):
            (home / "images" / part / label).mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
                file = home / "images" / part / label / f"{i}.png"
                Image.fromarray(pixels).save(file)
    shards.pack("large", home / "images", size=4, crop=4, workers=1)


# What reading gives -------------------------------------------------------------------


def read_record(file: Path) -> dict:
    record = records.load(file)
    return {**record.to_json(), "curve": record.curve.tolist()}


def read_beside(file: Path) -> tuple:
    """The analysis and the sheet of the record that `file` lies beside."""
    record = records.load(file.with_name(file.name.split(".analysis")[0] + ".json"))
    return dict(record.analysis), analyses.sheet(record.path, record.analysis)


def read_packed(file: Path) -> dict:
    stored._checked.clear()  # as a new process
    packed = vars(datasets.packed(file.parent.name))
    return {k: np.array(v) if k in ARRAYS else v for k, v in packed.items()}


def read_stage(file: Path) -> dict:
    return store.Stage(file.parent, file.parent.name).result()


def kinds(home: Path) -> dict[str, Kind]:
    place, packed = home / "data" / "records", home / "data" / "packed"
    beside = sorted(place.glob("*.analysis.json"))
    stages = sorted((home / "stages").glob("*/done.pt"))
    found = {
        "record": Kind(
            [p for p in place.glob("*.json") if p not in beside], read_record
        ),
        "analysis": Kind(beside, read_beside),
        "sheet": Kind(list(place.glob("*.png")), read_beside),
        "stage": Kind(sorted(stages, key=lambda f: f.stat().st_size), read_stage),
    }
    for name, folder in (("packed", "mine"), ("large", "large")):
        arrays = [packed / folder / f"{key}.npy" for key in ARRAYS]
        found[name] = Kind(arrays, read_packed)
        found[f"{name} meta"] = Kind([packed / folder / "meta.json"], read_packed)
    assert all(kind.files for kind in found.values())
    return found


def same(a, b) -> bool:
    """Whether two contents are equal, arrays and tensors included."""
    if isinstance(a, dict):
        equal = isinstance(b, dict) and a.keys() == b.keys()
        return equal and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (np.ndarray, torch.Tensor)):
        return a.dtype == b.dtype and np.array_equal(np.asarray(a), np.asarray(b))
    return a == b or (a != a and b != b)


# Damage -------------------------------------------------------------------------------


def flipped(content: bytes, rng: random.Random) -> bytes:
    """One bit is another; half of the time among the first or last 200 bytes."""
    at = rng.randrange(len(content))
    if rng.random() < 0.5:
        edge = min(200, len(content))
        at = rng.choice([rng.randrange(edge), len(content) - 1 - rng.randrange(edge)])
    changed = bytearray(content)
    changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(content: bytes, rng: random.Random) -> bytes:
    """Without its end, sometimes without its last byte alone."""
    return content[: rng.choice([0, len(content) - 1, rng.randrange(len(content))])]


def outcomes(kind: Kind, damage: Callable, count: int, seed) -> dict[str, int]:
    """How often a damaged file was refused, read as the whole one or as another."""
    rng = random.Random(f"{SEED} {seed}")
    found = dict.fromkeys(("refused", "the same", "other", "traceback"), 0)
    whole = {file: kind.read(file) for file in kind.files}
    for number in range(count):
        file = kind.files[number % len(kind.files)]
        content = file.read_bytes()
        try:
            file.write_bytes(damage(content, rng))
            read = kind.read(file)
            found["the same" if same(read, whole[file]) else "other"] += 1
        except UserError as problem:
            assert "\n" not in str(problem)
            found["refused"] += 1
        except Exception:  # whatever is no sentence
            found["traceback"] += 1
        finally:
            file.write_bytes(content)
    print(seed, found)
    return found


@pytest.mark.parametrize("name", FLIPS)
def test_no_flipped_bit_is_read_as_something_else(home, name):
    found = outcomes(kinds(home)[name], flipped, FLIPS[name], name)
    assert found["other"] == found["traceback"] == 0, found
    assert found["refused"] >= 0.95 * FLIPS[name], found


@pytest.mark.parametrize("name", CUTS)
def test_no_cut_file_is_read(home, name):
    found = outcomes(kinds(home)[name], cut, CUTS[name], name)
    assert found["refused"] == CUTS[name], found


def test_there_are_500_flips_and_60_cuts():
    assert sum(FLIPS.values()) == 500 and sum(CUTS.values()) == 60


class Anything:
    """Equal to every checksum."""

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 0


def unsealed(stage, name: str) -> bytes:
    """What `Stage._unsealed` gives, without a look at the checksum."""
    return (stage.path / name).read_bytes().partition(b"\n")[2]


SWITCHES = {  # that turn a check off
    "record": (seals, "is_damaged", lambda fields: False),
    "analysis": (seals, "is_damaged", lambda fields: False),
    "sheet": (analyses, "SHEET", "no such field"),
    "packed": (stored, "_check", lambda *args: ""),
    "large": (stored, "_check", lambda *args: ""),
    "large meta": (seals, "checksum", lambda fields: Anything()),
    "stage": (store.Stage, "_unsealed", unsealed),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_without_its_check_a_flip_is_read_as_something_else(home, monkeypatch, name):
    """So the tests above can fail."""
    monkeypatch.setattr(*SWITCHES[name])
    found = outcomes(kinds(home)[name], flipped, FLIPS[name], name)
    assert found["other"] >= 1, found


# The commands that read them ----------------------------------------------------------


def commands(kind: str, file: Path) -> list[list[str]]:
    if kind in ("record", "analysis", "sheet"):
        name = file.name.split(".")[0]
        return [["records"], ["compare", name, name]]
    if kind == "stage":
        return []
    return [["data", file.parent.name, "--verify"]]


@pytest.mark.parametrize("name", [name for name in FLIPS if name != "stage"])
def test_the_commands_say_one_sentence(home, name, capsys):
    kind, rng = kinds(home)[name], random.Random(f"{SEED} commands {name}")
    for damage in (flipped, cut, flipped):
        file = rng.choice(kind.files)
        content = file.read_bytes()
        try:
            file.write_bytes(damage(content, rng))
            for words in commands(name, file):
                stored._checked.clear()
                code = main(words)
                heard = capsys.readouterr()
                assert code in (0, 2) and len(heard.err.splitlines()) <= 1
                assert "Traceback" not in heard.err
                if words == ["records"]:
                    assert code == 0 and len(heard.out.splitlines()) == len(SOME)
        finally:
            file.write_bytes(content)


def test_a_run_over_damaged_stages_says_one_sentence(home):
    files = kinds(home)["stage"].files
    whole = train(tiny("gfr", **SMALL), store.Store(home / "stages"))
    rng = random.Random(f"{SEED} run")
    for number in range(12):
        file, damage = files[number % len(files)], (flipped, cut)[number % 2]
        content = file.read_bytes()
        file.write_bytes(damage(content, rng))
        with pytest.raises(UserError, match="is damaged .* delete that file"):
            train(tiny("gfr", **SMALL), store.Store(home / "stages"))
        file.write_bytes(content)
    file.unlink()  # as the sentence says
    again = train(tiny("gfr", **SMALL), store.Store(home / "stages"))
    assert again.weights == whole.weights
