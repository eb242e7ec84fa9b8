"""Small pictures of the classes of a data set, for the explorer of task splits."""

import html
import io

import numpy as np
from PIL import Image

from gfrlib.book.controls import address, css_name

ONE_BY_ONE = 20  # up to so many classes each picture stands for itself
COLUMNS = 10  # of the sheet that more classes share


def class_pictures(name: str, packed) -> tuple[list[str], str]:
    """(a picture of every class as HTML, the rules of a style sheet).

    A picture is three examples of a small image, one of a larger. Many of them lie on
    one sheet, which the rules show a part of: the page stays small.
    """
    height = packed.train_images.shape[1]
    examples, step = (3, 1) if height <= 16 else (1, -(-height // 32))
    shown = 26 if height <= 16 else 32  # pixels high on the page
    classes = range(len(packed.class_names))
    strips = [_strip(packed, c, examples, step) for c in classes]
    if len(strips) <= ONE_BY_ONE:
        what = f"{examples} images of" if examples > 1 else "image of"
        pictures = []
        for label, strip in zip(packed.class_names, strips, strict=True):
            alt = html.escape(f"{what} {label}", quote=True)
            pictures.append(
                f"<img class='dark-light k' alt='{alt}' style='height:{shown}px' "
                f"src='{_picture(strip)}'>"
            )
        return pictures, ""
    spans = [f"<span class='k k{c}'></span>" for c in classes]
    return spans, _sheet_rules(css_name(name), strips, shown)


def _strip(packed, c: int, examples: int, step: int) -> np.ndarray:
    """[h, examples * w, channels]: the first images of a class, every step-th pixel."""
    rows = np.resize(np.flatnonzero(packed.train_labels == c)[:examples], examples)
    images = [np.asarray(packed.train_images[i])[::step, ::step] for i in rows]
    return np.concatenate(images, axis=1)


def _sheet_rules(name: str, strips: list, shown: int) -> str:
    """All pictures on one sheet, and which part of it stands for which class."""
    count, width = len(strips), shown * strips[0].shape[1] // strips[0].shape[0]
    strips = strips + [np.zeros_like(strips[0])] * (-count % COLUMNS)
    starts = range(0, len(strips), COLUMNS)
    lines = [np.concatenate(strips[i : i + COLUMNS], axis=1) for i in starts]
    rules = [
        f".gfr-{name} .k {{width: {width}px; height: {shown}px; "
        f"background: url({_picture(np.concatenate(lines))}) "
        f"0 0 / {width * COLUMNS}px auto}}"
    ]
    for c in range(count):
        left, top = c % COLUMNS * width, c // COLUMNS * shown
        rules.append(f".gfr-{name} .k{c} {{background-position: -{left}px -{top}px}}")
    return "\n".join(rules)


def _picture(pixels: np.ndarray) -> str:
    """uint8 [H, W, 1 or 3] as a data address.

    A grey picture as PNG of 16 shades, a coloured one as WebP.
    """
    buffer, grey = io.BytesIO(), pixels.shape[-1] == 1
    picture = Image.fromarray(pixels[..., 0] if grey else pixels)
    if grey:
        picture.quantize(16).save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "WEBP", quality=70, method=6)
    return address(buffer.getvalue(), "png" if grey else "webp")
