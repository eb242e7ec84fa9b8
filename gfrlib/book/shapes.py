"""Ten classes of drawn pictures, for a chapter whose reader brings no images.

Each class is a rule: which points belong to it. Training mirrors images at random, so
no class is the mirror image of another.
"""

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 16  # pixels
SHAPES = {  # x and y run from -1 to 1 or a little further, from the shape's middle
    "disc": lambda x, y: x**2 + y**2 < 1,
    "ring": lambda x, y: abs(x**2 + y**2 - 0.75) < 0.35,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.85,
    "frame": lambda x, y: abs(np.maximum(abs(x), abs(y)) - 0.8) < 0.2,
    "diamond": lambda x, y: abs(x) + abs(y) < 1.15,
    "cross": lambda x, y: (
        (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 1.1)
    ),
    "triangle": lambda x, y: (abs(y) < 0.9) & (2 * abs(x) < y + 0.9),
    "ladder": lambda x, y: np.sin(5 * y) > 0,
    "fence": lambda x, y: np.sin(5 * x) > 0,
    "checkers": lambda x, y: np.sin(5 * x) * np.sin(5 * y) > 0,
}
# Each is the mirror image of the other: training must not mirror them.
SIGNS = {
    "left": lambda x, y: (abs(y) < x + 0.9) & (x < 0.3),
    "right": lambda x, y: (abs(y) < 0.9 - x) & (x > -0.3),
}


def picture(name: str, rng: np.random.Generator) -> Image.Image:
    """One shape: a random place, size and two colours, and noise."""
    middle, size = rng.uniform(5, 10, (2, 1, 1)), rng.uniform(4, 6.5)
    y, x = (np.mgrid[:SIDE, :SIDE] - middle) / size
    dark, bright = rng.uniform(0, 120, 3), rng.uniform(120, 255, 3)
    ink, paper = (dark, bright) if rng.random() < 0.5 else (bright, dark)
    image = np.where({**SHAPES, **SIGNS}[name](x, y)[..., None], ink, paper)
    image += rng.normal(0, 25, (SIDE, SIDE, 3))
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def draw(home: Path, names=tuple(SHAPES), **counts: int) -> Path:
    """Write PNG files: draw(home, train=80, val=25) makes that many of each class.

    They are the same ones every time. Returns `home`.
    """
    for part, count in counts.items():
        for name in names:
            (home / part / name).mkdir(parents=True)
            rng = np.random.default_rng([*f"{part} {name}".encode()])
            for i in range(count):
                picture(name, rng).save(home / part / name / f"{i:03}.png")
    return home
