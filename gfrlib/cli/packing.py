"""The command `data`: pack a data set, say what of it was used, how long it takes."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from gfrlib.config import UserError
from gfrlib.engine import paths, values

LARGE = ("size", "crop", "workers")  # options for large images
FAULTS = 10  # unreadable files that are listed
_packing: list[str] = []  # the large data set that this process packs now


def at_work() -> bool:
    """Whether large images are being packed: who stops that can go on later."""
    return bool(_packing)


def data(options) -> None:
    """Pack a data set, or check one that is packed.

    Of a folder it says what was used for what, and what was left out.
    """
    from gfrlib.lab import arrays, class_lists, datasets, decoding

    name = datasets.checked(options.name)
    if options.path is None:
        _check_alone(options)
        _verify(name, options.verify)
        return
    if options.verify:
        raise UserError(
            f"--verify checks '{name}' as it is packed, and takes no PATH; leave one "
            "of them out."
        )
    if options.classes is not None and not options.classes.strip():
        raise UserError(
            "--classes names no list of classes; leave it out, or name one."
        )
    path = paths.file_or_folder(options.path, "The data set")
    if not path.exists():
        raise UserError(
            f"'{path}' does not exist; give a folder of images or a packed .npz file."
        )
    if path.is_file():
        arrays.check_no_archive(path)
    given = {k: getattr(options, k) for k in LARGE if getattr(options, k) is not None}
    classes = options.classes or ""
    large = bool(given) or name.startswith("imagenet")
    large = large or classes in class_lists.SUBSETS
    if large and "size" not in given and not _is_imagenet(name, classes):
        raise UserError(
            f"--{' and --'.join(given)} is for images that are packed at a size of "
            "their own; give --size PIXELS, too."
        )
    pixels = decoding.PIXELS if options.pixels is None else options.pixels
    rules = decoding.Rules(turned=not options.as_stored, pixels=pixels)
    for_folders = large or classes or rules != decoding.Rules()
    if path.is_file() and name.startswith("imagenet") and not given:
        raise UserError(
            f"'{path}' is a file, and a name that begins with imagenet is for a folder "
            "of photographs; take another name."
        )
    if path.is_file() and for_folders:
        raise UserError(
            f"'{path}' is a file; --size, --crop, --classes, --workers, "
            "--pixels and --as-stored are for a folder of images."
        )
    before = _content(name)
    if large:
        if not _is_imagenet(name, classes):
            given.setdefault("crop", 0)  # a reader's own: pad and crop
        _pack_large(name, path, {**given, "classes": classes, "rules": rules})
    else:
        datasets.add(name, path, classes, rules=rules, notice=_say)
    if before not in ("", _content(name)):
        _say(
            f"'{name}' held other images before, which these have replaced; records of "
            "them stay."
        )
    _print_counts(name)
    if large:
        _print_views(name)


def _is_imagenet(name: str, classes: str) -> bool:
    """Whether images are packed as those of ImageNet are, where no size is said."""
    from gfrlib.lab import class_lists

    return name.startswith("imagenet") or classes in class_lists.SUBSETS


def _content(name: str) -> str:
    """What names the images that are packed under a name now; "" for none."""
    from gfrlib.lab import datasets

    try:
        return datasets.packed(name).content
    except (UserError, OSError):
        return ""


def _check_alone(options) -> None:
    """Raises UserError for options that say how to pack, where nothing is packed."""
    names = (*LARGE, "classes", "pixels")
    said = [name for name in names if getattr(options, name) is not None]
    said += ["as-stored"] if options.as_stored else []
    if said:
        raise UserError(
            f"--{said[0]} says how to pack a folder; give its PATH, or leave it out."
        )


def _print_counts(name: str) -> None:
    from gfrlib.lab import datasets

    packed = datasets.packed(name)
    shape = "x".join(map(str, packed.train_images.shape[1:]))
    # a label of -1 marks a file that could not be read
    train, test = (
        (part >= 0).sum() for part in (packed.train_labels, packed.test_labels)
    )
    print(
        f"{name}: {len(packed.class_names)} classes, {train} training and {test} test "
        f"images of {shape}"
    )


def _verify(name: str, wanted: bool) -> None:
    from gfrlib.lab import datasets

    if not wanted:
        raise UserError(
            "Give the PATH of a folder of images or of a packed .npz file, or --verify "
            f"to check '{name}' as it is packed."
        )
    datasets.verify(name)
    _print_counts(name)
    print("its content is as it was packed")


def _pack_large(name: str, path: Path, given: dict) -> None:
    from tqdm import tqdm

    from gfrlib.lab import shards

    silent, expect = not sys.stderr.isatty(), _expectation()
    with tqdm(unit="image", file=sys.stderr, disable=silent, leave=False) as bar:

        def report(done: int, total: int) -> None:
            expect(done, total)
            bar.total = total
            bar.update(done - bar.n)

        _packing.append(name)  # stays where it is interrupted
        packing = shards.pack(name, path, report=report, **given)
        _packing.clear()
    faults = [f"{file} ({reason})" for file, reason in packing.faults.items()]
    lines = packing.account + [f"left out: {fault}" for fault in faults[:FAULTS]]
    if len(faults) > FAULTS:
        more = values.counted(len(faults) - FAULTS, "unreadable file")
        lines.append(f"left out: {more} more")
    for line in lines:
        _say(line)
    decoded = sum(packing.images.values()) - len(faults)
    left_out = len(faults) + packing.left_out
    print(f"{decoded} images decoded, {left_out} files or folders left out")


def _expectation(clock: Callable[[], float] = time.monotonic) -> Callable:
    """A function of images done and of all: at its second call it says what is left,
    at the speed since the first one, if that is long.
    """
    from gfrlib.lab import outlook

    known: list[tuple[float, int]] = []

    def tell(done: int, total: int) -> None:
        known.append((clock(), done))
        if len(known) != 2:
            return
        (began, before), (now, after) = known
        left = (now - began) * (total - after) / max(1, after - before)
        if left > outlook.LONG:
            _say(f"{total - after} images to decode: {outlook.in_words(left)}")

    return tell


def _print_views(name: str) -> None:
    """What training will see of the images."""
    from gfrlib import tasks
    from gfrlib.lab import datasets

    packed = datasets.packed(name)
    side = packed.train_images.shape[1]
    how = f"random parts of them at {packed.crop} pixels"
    if not packed.crop:
        how = f"them shifted by up to {round(side * tasks.PADDING_SHARE)} pixels"
    print(
        f"training sees {how}, half of them mirrored (run --mirror false: none); a "
        "frozen extractor with --weights sees them as they are"
    )


def _say(line: str) -> None:
    print(values.line(line), file=sys.stderr)
