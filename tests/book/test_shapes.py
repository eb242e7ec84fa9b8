"""The pictures that chapter 5 draws for readers who bring none."""

import numpy as np
from PIL import Image

from gfrlib.book import shapes


def test_the_same_pictures_are_drawn_every_time(tmp_path):
    first = shapes.draw(tmp_path / "a", train=2, val=1)
    second = shapes.draw(tmp_path / "b", ("ring",), train=2)
    names = sorted(path.name for path in (first / "train").iterdir())
    assert names == sorted(shapes.SHAPES) and len(names) == 10
    assert len(list((first / "val").rglob("*.png"))) == 10
    for number in ("000", "001"):
        one, other = (home / f"train/ring/{number}.png" for home in (first, second))
        assert one.read_bytes() == other.read_bytes()
    pixels = np.asarray(Image.open(first / "train/ring/000.png"))
    assert pixels.shape == (shapes.SIDE, shapes.SIDE, 3)


def test_training_and_test_pictures_differ(tmp_path):
    home = shapes.draw(tmp_path / "a", ("disc",), train=1, val=1)
    pair = [(home / part / "disc/000.png").read_bytes() for part in ("train", "val")]
    assert pair[0] != pair[1]
