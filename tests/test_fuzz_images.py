"""Mutated images in seven formats: packed, or named in one sentence; never a traceback.

Seeded; the same files on every machine.
"""

import io
import re

import numpy as np
import pytest
from PIL import Image

from gfrlib.cli import main
from gfrlib.lab import datasets

FORMATS = {"PNG": "png", "JPEG": "jpg", "GIF": "gif", "WEBP": "webp", "BMP": "bmp"}
FORMATS |= {"TIFF": "tif", "PPM": "ppm"}
COUNT, CLASSES, SIDE = 200, 4, 24
NAMED = re.compile(r"'([^']+)'")


def encoded(rng, kind: str) -> bytes:
    """A small picture of smooth colours as a file of that format."""
    small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((SIDE + 8, SIDE)).save(file, kind)
    return file.getvalue()


def mutated(rng, content: bytes) -> bytes:
    """Flipped, cut, repeated, overwritten or lengthened at a random place."""
    data = bytearray(content)
    # where the format, the sides and the tables stand: at the beginning, mostly
    at = int(rng.integers(0, min(len(data), 64) if rng.random() < 0.6 else len(data)))
    way = rng.integers(0, 6)
    if way == 0:
        data[at] ^= 1 << int(rng.integers(0, 8))
    elif way == 1:
        del data[at:]
    elif way == 2:
        data[at : at + 4] = b"\xff\xff\xff\x7f"
    elif way == 3:
        data[at : at + 8] = bytes(8)
    elif way == 4:
        data[at:at] = data[: int(rng.integers(1, 40))]
    else:
        data[at : at + 6] = rng.integers(0, 256, 6, dtype=np.uint8).tobytes()
    return bytes(data)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """train/<class>/ and val/<class>/: sound images in val, 200 others in train."""
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "home"))
    rng, top, kinds = np.random.default_rng(1993), tmp_path / "mutated", list(FORMATS)
    for k in range(COUNT):
        kind = kinds[k % len(kinds)]
        place = top / "train" / f"class{k % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        content = encoded(rng, kind)
        name = f"{k:03d}.{FORMATS[kind]}"
        (place / name).write_bytes(mutated(rng, content))
        if k < 2 * len(kinds) * CLASSES:
            held = top / "val" / f"class{k % CLASSES}"
            held.mkdir(parents=True, exist_ok=True)
            (held / name).write_bytes(content)
    return top


def command(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    return code, said.out, said.err


def test_each_unreadable_file_is_one_sentence_and_without_it_the_rest_is_packed(
    folder, capsys
):
    removed = 0
    while True:
        code, out, err = command(capsys, "data", "mutated", folder)
        if code == 0:
            break
        assert code == 2
        (line,) = [each for each in err.splitlines() if each.startswith("gfrlib: ")]
        faulty = folder.parent / NAMED.search(line).group(1)
        assert faulty.is_file() and faulty.is_relative_to(folder / "train"), line
        faulty.unlink()
        removed += 1
    # both must happen, else nothing was tried
    assert 40 < removed < COUNT - 20, removed
    packed = datasets.packed("mutated")
    assert len(packed.train_labels) == COUNT - removed
    assert len(np.unique(packed.train_labels)) == CLASSES


def test_large_packing_leaves_out_the_same_files_and_names_them(folder, capsys):
    words = ("--size", SIDE, "--crop", SIDE - 4, "--workers", 1)
    code, out, err = command(capsys, "data", "large", folder, *words)
    assert code == 0, err
    packed = datasets.packed("large")
    left_out = int((packed.train_labels < 0).sum())
    assert 40 < left_out < COUNT - 20
    assert f"{left_out} files or folders left out" in out
    assert not (packed.test_labels < 0).any()
