"""One image file -> a square of bytes, as a viewer shows it; both ways of packing.

An image is turned as its EXIF orientation says, transparency is laid on white, 16-bit
grey keeps its upper eight bits, grey, CMYK and palette images become RGB. Of a file
with several images the first is taken.
"""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gfrlib.config import UserError

PIXELS = 178_956_970  # where Pillow, too, calls a file a decompression bomb
SIDE, WIDEST = 256, 4096  # of packed squares: what is usual, and the most
# A JPEG is decoded smaller as long as so many pixels stay for one of the square. With
# four the square differs from that of the whole image by half a level of 255 on
# average, with one by four levels: it is sharper, since the filter then has less to do
SPARE = 4
MOST_PIXELS = 2**31  # the highest limit: an image of 6 GB
# What reading may do to an image: one bit each, so that many can be counted in an array
TURNED, BLENDED, SHORTENED, DIM, FIRST = 1, 2, 4, 8, 16
CHANGES = {
    TURNED: "turned as their EXIF orientation says",
    BLENDED: "transparent in places: laid on white",
    SHORTENED: "grey of 16 bits: the upper 8 kept",
    DIM: "that are nearly black by that, as they use 12 of their 16 bits or fewer "
    "(scale their values up before)",
    FIRST: "of several frames or pages: the first taken",
}
DIM_BELOW = 2**12  # 16-bit grey that stays below it has 16 of 256 levels left
# Pillow's modes for grey of 16 bits; "I" is that of older versions and of PGM files
DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")
CLEAR = ("RGBA", "RGBa", "LA", "La", "PA")  # those with transparency
ORIENTATION = 0x0112  # the EXIF tag
HEIC = (".heic", ".heif", ".hif")  # an iPhone's photographs
LONGEST = 120  # characters of a decoder's own message
READ = "read"  # the field of a packed data set's meta.json with what Rules.kept says


@dataclass(frozen=True)
class Rules:
    """How image files are read.

    `turned`: as the EXIF orientation says; False: as stored, torchvision's way.
    `pixels`: an image of more is not decoded. `side`: of the squares that a folder's
    images are brought to (lab.folders); that of the first image where it is smaller,
    unless `exact`. Raises UserError for an odd limit.
    """

    turned: bool = True
    pixels: int = PIXELS
    side: int = SIDE
    exact: bool = False

    def __post_init__(self):
        if not 1 <= self.pixels <= MOST_PIXELS:
            raise UserError(
                f"'pixels' is the most that an image may have, from 1 to "
                f"{MOST_PIXELS}, not {str(self.pixels)[:20]}."
            )
        if not 1 <= self.side <= WIDEST:
            raise UserError(
                f"'side' is the most that a side of the packed images may have, from 1 "
                f"to {WIDEST} pixels, not {str(self.side)[:20]}."
            )

    def kept(self) -> dict:
        """What is noted beside the packed images, whose shape tells the side."""
        return {READ: {"turned": self.turned, "pixels": self.pixels}}


class Unreadable(Exception):
    """The file is no image that can be taken; the text says why."""


def reads_heic() -> bool:
    """Whether Pillow reads HEIC from now on: where pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


@contextlib.contextmanager
def guarded(rules: Rules) -> Iterator[None]:
    """While it lasts, Pillow keeps to the limit, and warns of nothing by itself.

    It reads HEIC where pillow-heif is installed. For the main thread of a process;
    `decode` may then be called in many.
    """
    from PIL import Image

    reads_heic()
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = rules.pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def shorter_side(file: Path, rules: Rules) -> int:
    """Of an image as it is stored. Raises Unreadable."""
    from PIL import Image

    with _explained(file, rules), Image.open(file) as image:
        _check_size(image.size, rules)
        return min(image.size)


def decode(file: Path, side: int, rules: Rules) -> tuple[np.ndarray, int]:
    """uint8 [side, side, 3], and what was changed: a sum of CHANGES' keys.

    The shorter side is scaled (bilinear, antialiased) and the centre kept. A large JPEG
    is decoded at a half, quarter or eighth, SPARE times the square's side at least.
    Raises Unreadable, whatever the decoder raises.
    """
    from PIL import Image

    # an open file, not its name: Pillow maps a named TIFF without compression into
    # memory, and scrambles one that is turned
    with _explained(file, rules), open(file, "rb") as data, Image.open(data) as image:
        _check_size(image.size, rules)
        image.draft("RGB", (SPARE * side, SPARE * side))  # does nothing to a PNG
        first = _first_of_several(image)
        by_itself = _turns_itself(image)
        image.load()
        upright, turned = _upright(image) if rules.turned else (image, 0)
        colours, changed = _to_rgb(upright, image)
        changed |= first | by_itself | turned
        return np.asarray(_square(colours, side, rules)), changed


def grey(colours: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> [H, W, 1]; grey in three channels stays as it is."""
    from PIL import Image

    return np.asarray(Image.fromarray(colours).convert("L"))[..., None]


@contextlib.contextmanager
def _explained(file: Path, rules: Rules) -> Iterator[None]:
    """Whatever is raised becomes Unreadable: decoders raise many kinds."""
    from PIL import Image

    try:
        yield
    except Unreadable:
        raise
    except Image.DecompressionBombError as problem:
        raise Unreadable(_too_large(rules)) from problem
    except Image.UnidentifiedImageError as problem:
        raise Unreadable(_unknown(file)) from problem
    except Exception as problem:
        said = " ".join(str(problem).replace(str(file), file.name).split())
        raise Unreadable(said[:LONGEST] or type(problem).__name__) from problem


def _unknown(file: Path) -> str:
    if file.stat().st_size == 0:
        return "it is empty"
    if file.suffix.lower() in HEIC and not reads_heic():
        return "HEIC: save it as JPEG, or pip install pillow-heif"
    return "unknown format"


def _too_large(rules: Rules) -> str:
    return (
        f"more than {rules.pixels} pixels, the limit that python -m gfrlib data NAME "
        "PATH --pixels N sets"
    )


def _check_size(size: tuple[int, int], rules: Rules) -> None:
    if size[0] * size[1] > rules.pixels:
        raise Unreadable(_too_large(rules))
    if min(size) < 1:
        raise Unreadable("it has no pixels")


def _first_of_several(image) -> int:
    """FIRST or 0. A phone's MPO is a JPEG with a preview behind it: one image."""
    several = getattr(image, "is_animated", False) and image.format != "MPO"
    return FIRST if several else 0


def _turns_itself(image) -> int:
    """TURNED where Pillow follows the orientation as it loads the file, a TIFF or HEIC,
    even if the rules say not to: so does whatever else reads with Pillow.
    """
    itself = image.format == "TIFF" and _way(image) is not None
    # pillow-heif has done it already, and keeps what the file says under this name
    itself |= image.info.get("original_orientation") not in (None, 1)
    return TURNED if itself else 0


def _upright(image) -> tuple:
    """(image, TURNED or 0). A TIFF has no orientation any more once it is loaded."""
    way = _way(image)
    return (image, 0) if way is None else (image.transpose(way), TURNED)


def _way(image):
    """The transposition that its EXIF orientation asks for, or None."""
    from PIL import Image

    turns = Image.Transpose
    ways = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_270,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_90,
    }
    try:
        return ways.get(image.getexif().get(ORIENTATION))
    except Exception:  # damaged EXIF data; viewers, too, show the image all the same
        return None


def _to_rgb(image, opened) -> tuple:
    """(RGB image, changes); `opened` knows the file's format and transparency."""
    from PIL import Image

    if image.mode in DEEP:
        return _shortened(image, opened)
    if image.mode == "F":
        raise Unreadable("it holds fractions; save it with 8 bits a colour")
    if image.mode in CLEAR or "transparency" in image.info:
        over = image.convert("RGBA")
        if over.getextrema()[3][0] < 255:
            paper = Image.new("RGBA", over.size, "white")
            return Image.alpha_composite(paper, over).convert("RGB"), BLENDED
    return image.convert("RGB"), 0


def _shortened(image, opened) -> tuple:
    """16-bit grey -> RGB: the upper 8 bits, which Pillow takes of 16-bit colours."""
    from PIL import Image

    if image.mode == "I" and opened.format not in ("PNG", "PPM"):
        raise Unreadable("it holds 32-bit numbers; save it with 8 or 16 bits a pixel")
    values = np.asarray(image)
    grey = (values.clip(0, 65535) >> 8).astype(np.uint8)
    clear = opened.info.get("transparency")
    changes = SHORTENED | (DIM if 0 < values.max() < DIM_BELOW else 0)
    if isinstance(clear, int) and (values == clear).any():
        grey[values == clear] = 255
        changes |= BLENDED
    return Image.fromarray(grey).convert("RGB"), changes


def _square(image, side: int, rules: Rules):
    from PIL import Image

    if image.size == (side, side):
        return image
    scale = side / min(image.size)
    wide, high = (max(side, round(length * scale)) for length in image.size)
    if wide * high > rules.pixels:
        raise Unreadable(f"{image.width} x {image.height} pixels, too narrow to scale")
    image = image.resize((wide, high), Image.Resampling.BILINEAR)
    left, top = (wide - side) // 2, (high - side) // 2
    return image.crop((left, top, left + side, top + side))
