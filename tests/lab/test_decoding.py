"""Images as files hold them: turned, deep, transparent, broken; the same both ways."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from gfrlib import cli
from gfrlib.config import UserError
from gfrlib.lab import datasets, decoding, folders, shards
from gfrlib.lab.decoding import Rules, Unreadable

ORIENTATION = 0x0112
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "home"))
    return tmp_path


def picture(seed: int = 0, size=(40, 24)) -> Image.Image:
    """Smooth random colours, so that a JPEG keeps them."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def read(file, side: int = 24, rules: Rules | None = None) -> tuple:
    rules = rules or Rules()
    with decoding.guarded(rules):
        return decoding.decode(file, side, rules)


# --- orientation ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_viewers_turn_it(tmp_path, kind, orientation):
    picture(size=(50, 30)).save(tmp_path / f"a.{kind}", exif=turned(orientation))
    with Image.open(tmp_path / f"a.{kind}") as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    upright.save(tmp_path / "upright.png")
    found, changes = read(tmp_path / f"a.{kind}")
    expected, _ = read(tmp_path / "upright.png")
    assert np.array_equal(found, expected)
    assert changes == (decoding.TURNED if orientation > 1 else 0)
    stored, unasked = read(tmp_path / f"a.{kind}", rules=Rules(turned=False))
    if kind == "tif":  # Pillow itself turns these, and it is said
        assert unasked == changes and np.array_equal(stored, expected)
    else:
        assert unasked == 0
        assert np.array_equal(stored, expected) == (orientation == 1)


UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_grey_tiff_without_compression_is_turned(tmp_path, deep, orientation):
    """Pillow 13 scrambles one that it opens by its name: it maps it as if turned."""
    grey = np.asarray(picture(size=(50, 30)).convert("L"))
    grey = grey.astype(np.uint16) * 257 if deep else grey
    Image.fromarray(grey).save(tmp_path / "a.tif", exif=turned(orientation))
    upright = np.ascontiguousarray(UPRIGHT[orientation](grey))
    Image.fromarray(upright).save(tmp_path / "upright.png")
    found, _ = read(tmp_path / "a.tif")
    assert np.array_equal(found, read(tmp_path / "upright.png")[0])


def test_damaged_or_odd_exif_data_turn_nothing(tmp_path):
    picture().save(tmp_path / "plain.jpg")
    expected, _ = read(tmp_path / "plain.jpg")
    for k, exif in enumerate((b"Exif\0\0MM", b"Exif\0\0II*\0\xff\xff\xff\xff", b"x")):
        picture().save(tmp_path / f"{k}.jpg", exif=exif)
        found, changes = read(tmp_path / f"{k}.jpg")
        assert np.array_equal(found, expected) and changes == 0
    picture().save(tmp_path / "odd.jpg", exif=turned(99))
    assert np.array_equal(read(tmp_path / "odd.jpg")[0], expected)


# --- colours --------------------------------------------------------------------------


def test_grey_of_16_bits_keeps_its_upper_eight(tmp_path):
    values = np.linspace(0, 65535, 24 * 24).astype(np.uint16).reshape(24, 24)
    for kind in ("png", "tif", "pgm"):
        Image.fromarray(values).save(tmp_path / f"deep.{kind}")
        found, changes = read(tmp_path / f"deep.{kind}")
        assert changes == decoding.SHORTENED
        assert (found == (values >> 8)[..., None]).all()


@pytest.mark.parametrize("brightest, dim", [(4095, True), (4096, False), (0, False)])
def test_16_bits_of_which_few_are_used_are_said(tmp_path, brightest, dim):
    """A scanner's or a microscope's 12 bits in a file of 16 are nearly black in 8."""
    values = np.linspace(0, brightest, 24 * 24).astype(np.uint16).reshape(24, 24)
    Image.fromarray(values).save(tmp_path / "deep.png")
    found, changes = read(tmp_path / "deep.png")
    assert changes == decoding.SHORTENED | (decoding.DIM if dim else 0)
    assert found.max() == brightest >> 8


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tif"])
def test_of_several_frames_the_first_is_taken_and_it_is_said(tmp_path, kind):
    red, blue = (Image.new("RGB", (24, 24), c) for c in ("#c80a0a", "#0a0ac8"))
    lossless = {"lossless": True} if kind == "webp" else {}
    red.save(
        tmp_path / f"a.{kind}", save_all=True, append_images=[blue, red], **lossless
    )
    found, changes = read(tmp_path / f"a.{kind}")
    assert changes == decoding.FIRST
    assert (found == [200, 10, 10]).all()


def test_a_phones_jpeg_with_its_preview_is_one_image(tmp_path):
    picture().save(
        tmp_path / "a.jpg", "MPO", save_all=True, append_images=[picture(size=(20, 12))]
    )
    assert read(tmp_path / "a.jpg")[1] == 0


def test_a_transparent_value_among_16_bits_is_white(tmp_path):
    values = np.full((24, 24), 1000, np.uint16)
    values[:12] = 40000
    Image.fromarray(values).save(tmp_path / "deep.png", transparency=1000)
    content = (tmp_path / "deep.png").read_bytes()
    if b"tRNS" not in content:  # Pillow does not write it for this mode
        chunk = b"tRNS" + (1000).to_bytes(2, "big")
        chunk = b"\0\0\0\2" + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        at = content.index(b"IDAT") - 4
        (tmp_path / "deep.png").write_bytes(content[:at] + chunk + content[at:])
    found, changes = read(tmp_path / "deep.png")
    assert changes == decoding.SHORTENED | decoding.BLENDED
    assert (found[:12] == 40000 >> 8).all() and (found[12:] == 255).all()


def test_transparency_is_laid_on_white(tmp_path):
    """A black square whose shape is in its alpha channel alone."""
    alpha = np.zeros((24, 24), np.uint8)
    alpha[6:18, 6:18], alpha[0, 0] = 255, 51
    black = Image.new("RGB", (24, 24))
    black.putalpha(Image.fromarray(alpha))
    black.save(tmp_path / "shape.png")
    black.convert("LA").save(tmp_path / "grey.png")
    for name in ("shape.png", "grey.png"):
        found, changes = read(tmp_path / name)
        assert changes == decoding.BLENDED
        assert (found[6:18, 6:18] == 0).all() and (found[0, 0] == 204).all()
        assert (found[alpha == 0] == 255).all()


@pytest.mark.parametrize("kind", ["gif", "png"])
def test_a_transparent_colour_of_a_palette_is_white(tmp_path, kind):
    image = Image.new("P", (24, 24), 1)
    image.putpalette([0, 0, 0, 200, 10, 10])
    image.paste(0, (0, 0, 12, 24))
    image.save(tmp_path / f"a.{kind}", transparency=0)
    found, changes = read(tmp_path / f"a.{kind}")
    assert changes == decoding.BLENDED
    assert (found[:, :12] == 255).all() and (found[:, 12:] == [200, 10, 10]).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK"])
def test_what_is_opaque_is_only_made_rgb(tmp_path, mode):
    image = picture(size=(24, 24)).convert(mode)
    file = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(file)
    found, changes = read(file)
    assert changes == 0 and np.array_equal(found, image.convert("RGB"))


def test_numbers_without_a_range_are_refused(tmp_path):
    for dtype, says in ((np.float32, "fractions"), (np.int32, "32-bit numbers")):
        Image.fromarray(np.ones((24, 24), dtype)).save(tmp_path / "a.tif")
        with pytest.raises(Unreadable, match=says):
            read(tmp_path / "a.tif")


# --- what is no image, or too large a one ---------------------------------------------


def bomb(kind: str, side: int = 60_000) -> bytes:
    """A small file that says that it is side x side pixels."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, kind)
    content = bytearray(file.getvalue())
    if kind == "PNG":
        header = b"IHDR" + side.to_bytes(4, "big") * 2 + bytes(content[24:29])
        content[12:29] = header
        content[29:33] = zlib.crc32(header).to_bytes(4, "big")
    elif kind == "GIF":
        content[6:10] = side.to_bytes(2, "little") * 2
    elif kind == "BMP":
        content[18:26] = side.to_bytes(4, "little") * 2
    elif kind == "TIFF":
        for tag in (256, 257):  # width and height, each a long or a short number
            for number in (3, 4):
                before = struct.pack("<HHII", tag, number, 1, 8)
                after = struct.pack("<HHII", tag, number, 1, side)
                content = content.replace(before, after)
    else:
        content = f"P5 {side} {side} 255\n".encode() + b"\0"
    return bytes(content)


def flat(home, content: bytes):
    """A folder of two classes of six images; the last one holds `content`."""
    for first, name in ((0, "cat"), (10, "dog")):  # no image is in both
        (home / "images" / name).mkdir(parents=True)
        for i in range(6):
            picture(first + i).save(home / "images" / name / f"{i}.png")
    (home / "images" / "dog" / "last.png").write_bytes(content)
    return home / "images"


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "PPM"])
def test_a_bomb_is_one_sentence_with_its_name(home, kind, capsys):
    top = flat(home, bomb(kind))
    assert cli.main(["data", "mine", str(top)]) == 2
    said = capsys.readouterr().err
    assert "last.png' is no readable image (more than 178956970 pixels" in said
    assert said.count("\n") == 1
    packing = shards.pack("large", top, size=24, crop=24, workers=1)
    assert list(packing.faults) == ["dog/last.png"]
    assert "--pixels" in packing.faults["dog/last.png"]


def test_the_limit_is_a_setting(home, capsys):
    top = flat(home, b"")
    picture(size=(200, 200)).save(top / "dog" / "last.png")
    words = ["data", "mine", str(top), "--pixels"]
    assert cli.main([*words, "39999"]) == 2
    assert "more than 39999 pixels" in capsys.readouterr().err
    assert cli.main([*words, "40000"]) == 0
    capsys.readouterr()
    for wrong in ("0", "-5", "1" + 30 * "0"):
        assert cli.main([*words, wrong]) == 2
        said = capsys.readouterr().err
        assert "--pixels: takes a whole number" in said and said.count("\n") == 1


def test_the_limit_of_pillow_is_as_before_afterwards(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(Unreadable, match="it is empty"):
        read(tmp_path / "a.png", rules=Rules(pixels=10))
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_narrow_image_is_not_blown_up(tmp_path):
    Image.new("L", (60_000, 1)).save(tmp_path / "line.png")
    with pytest.raises(Unreadable, match="60000 x 1 pixels, too narrow"):
        read(tmp_path / "line.png", 256)


def test_mutated_files_are_read_or_refused(tmp_path):
    """30 of each of seven formats, bytes changed or cut; nothing else is raised."""
    rng, refused = np.random.default_rng(0), 0
    file = tmp_path / "mutated"
    for kind in FORMATS:
        whole = io.BytesIO()
        picture().save(whole, kind)
        for _ in range(30):
            content = bytearray(whole.getvalue())
            for at in rng.integers(0, min(len(content), 200), rng.integers(1, 6)):
                content[at] = rng.integers(256)
            cut = rng.integers(1, len(content)) if rng.random() < 0.3 else None
            file.write_bytes(content[:cut])
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                try:
                    found, _ = read(file)
                    assert found.shape == (24, 24, 3) and found.dtype == np.uint8
                except Unreadable as problem:
                    refused += 1
                    assert 0 < len(str(problem)) <= 150 and str(file) not in str(
                        problem
                    )
            assert not said
    assert 40 < refused < 200


# --- large photographs ---------------------------------------------------------------


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_smaller_and_hardly_differs(
    tmp_path, orientation, monkeypatch
):
    rng = np.random.default_rng(8)
    small = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    photo = Image.fromarray(small).resize((1600, 1200), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "a.jpg", quality=90, exif=turned(orientation))
    loaded, resize = [], Image.Image.resize

    def noted(image, *args):
        loaded.append(min(image.size))
        return resize(image, *args)

    monkeypatch.setattr(Image.Image, "resize", noted)
    found, changes = read(tmp_path / "a.jpg", 64)
    assert changes == (decoding.TURNED if orientation > 1 else 0)
    monkeypatch.setattr(decoding, "SPARE", 10**4)
    whole, _ = read(tmp_path / "a.jpg", 64)
    assert loaded == [300, 1200]  # a quarter: four times 64 and more are left
    apart = np.abs(found.astype(int) - whole)
    assert 0 < apart.mean() < 1 and np.quantile(apart, 0.99) <= 8


# --- both ways ------------------------------------------------------------------------


def test_changes_are_said_and_both_ways_agree(home, capsys):
    top = flat(home, b"")
    picture(7).save(top / "dog" / "last.png", exif=turned(6))
    Image.new("RGBA", (40, 24)).save(top / "cat" / "clear.png")
    Image.fromarray(np.full((24, 40), 9000, np.uint16)).save(top / "cat" / "deep.png")
    said = [
        "'images': of each class, every fifth image is for testing, the others for "
        "training",
        "images turned as their EXIF orientation says: 1",
        "images transparent in places: laid on white: 1",
        "images grey of 16 bits: the upper 8 kept: 1",
    ]
    found = folders.read_folder(top)
    packing = shards.pack("large", top, size=24, crop=24, workers=1)
    assert found.account == packing.account == said
    large = datasets.packed("large")
    assert np.array_equal(found.arrays["train_images"], large.train_images)
    as_stored = folders.read_folder(top, rules=Rules(turned=False))
    assert as_stored.account == [said[0], *said[2:]]
    assert cli.main(["data", "mine", str(top), "--as-stored"]) == 0
    assert said[1] not in capsys.readouterr().err
    again = shards.pack("large", top, size=24, crop=24, workers=1)
    assert again.account == said, "also of what is packed already"
    shards.pack("large", top, size=24, crop=24, rules=Rules(turned=False))
    assert datasets.packed("large").content != large.content


def test_options_of_folders_are_refused_for_a_file(home, capsys):
    (home / "some.npz").write_bytes(b"")
    for more in (["--as-stored"], ["--pixels", "9"]):
        assert cli.main(["data", "mine", str(home / "some.npz"), *more]) == 2
        assert "are for a folder" in capsys.readouterr().err
    with pytest.raises(UserError, match="the most that an image may have"):
        Rules(pixels=0)
