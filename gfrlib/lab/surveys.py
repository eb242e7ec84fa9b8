"""What a folder of images holds: its classes, which images are for what, the rest.

One rule for both ways of packing (folders.py, shards.py). Links are followed, save
those that lead nowhere or round in a circle. What is not taken is counted and named.
"""

import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from gfrlib.config import UserError
from gfrlib.engine import values
from gfrlib.lab import class_lists

EVERY = 5  # without images for testing, every fifth one of a class is held out
# What the parts of a data set are called, in any case of letters.
PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
PARTS |= {"val": "val", "valid": "val", "validation": "val"}
# Made by macOS, Windows and network drives; and whatever begins with a dot.
SYSTEMS_OWN = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found"}
SYSTEMS_OWN |= {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
ANNOTATIONS = "val_annotations.txt"  # of Tiny-ImageNet's own validation folder
NAMED = 3  # files that a line names
Files = list[tuple[Path, int]]  # images with their labels

HIDDEN = "hidden, or the system's own"
NOWHERE = "links that lead nowhere"
CIRCLE = "links to a folder that is read anyway"
NO_FILE = "neither files nor folders"
BESIDE = "beside the class folders"
BOXES = "boxes of Tiny-ImageNet"
UNLISTED = f"images that {ANNOTATIONS} does not name"


@dataclass
class LeftOut:
    """What is not taken of the folder `top`: {reason: names below it}."""

    top: Path
    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, place: Path) -> None:
        """One more; a folder counts once, and its name ends with a slash."""
        name = place.relative_to(self.top).as_posix()
        slash = "/" if place.is_dir() else ""
        self.found.setdefault(reason, []).append(name + slash)

    def count(self) -> int:
        """Of all reasons together."""
        return sum(map(len, self.found.values()))

    def lines(self) -> list[str]:
        """One a reason, with the number and the first names."""
        return [
            f"left out, {reason}: {named(sorted(found))}"
            for reason, found in sorted(self.found.items())
        ]


@dataclass
class Survey:
    """What is to be packed of a folder.

    `every` are all its classes, `names` those that are taken. `files` has the parts
    train and test. `use` says in a line which folder is for what.
    """

    path: Path
    every: list[str]
    names: list[str]
    files: dict[str, Files]
    use: str
    left_out: LeftOut


def survey(path: Path, classes: str = "") -> Survey:
    """train/<class>/* with test/<class>/* or val/<class>/*; or <class>/* alone.

    Where both are there, test/ is for testing, and val/ is not used; one without
    classes (the unlabelled test/ of many archives) does not count beside the other, and
    is refused alone. Without either, every fifth image of a class is for testing.
    Folders in class folders belong to the class. Tiny-ImageNet's own validation folder
    is read, too. `classes` takes some of the classes (class_lists.choose). Raises
    UserError.
    """
    out = LeftOut(path)
    parts = _parts(path, out)
    train = parts["train"]
    folders = _class_folders(train, out)
    every = sorted(folders)
    _check_count(path, train, every)
    _check_nested(folders)
    names = class_lists.choose(every, classes) if classes else every
    held = _held(path, parts, every)
    files = {"train": _listing(train, folders, names, out, trained=True)}
    if held is None:
        files = _every_fifth(path, files["train"], names)
    elif _is_annotated(held):
        files["test"] = _annotated(held, names, out, some=bool(classes))
    else:
        theirs = _class_folders(held, out)
        _check_apart(train, folders, held, theirs, whole=not classes)
        files["test"] = _listing(held, theirs, names, out, trained=False)
    _check_once(files)
    return Survey(path, every, names, files, _use(path, parts, held), out)


def images(folder: Path) -> list[Path]:
    """All files in it and in its folders, but for what is hidden or the system's own;
    sorted. Raises UserError.
    """
    above = {os.path.realpath(place) for place in folder.absolute().parents}
    return _images(folder, "", above, LeftOut(folder))


def named(names: list[str], most: int = NAMED) -> str:
    """The number of them, and the first names in brackets."""
    first = [values.line(name) for name in names[:most]] + ["…"] * (len(names) > most)
    return f"{len(names)} ({', '.join(first)})"


def _entries(folder: Path, out: LeftOut) -> tuple[list[Path], list[Path]]:
    """Files and folders in `folder`, each sorted. Raises UserError."""
    files, folders = [], []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                place = folder / entry.name
                if entry.name[0] == "." or entry.name.casefold() in SYSTEMS_OWN:
                    out.add(HIDDEN, place)
                elif entry.is_symlink() and not place.exists():
                    out.add(NOWHERE, place)
                elif entry.is_dir():
                    folders.append(place)
                elif entry.is_file():
                    files.append(place)
                else:
                    out.add(NO_FILE, place)
    except OSError as problem:
        raise UserError(
            f"The folder '{values.line(str(folder))}' cannot be read "
            f"({problem.strerror}); make it readable, or move it away."
        ) from problem
    return sorted(files), sorted(folders)


def _parts(path: Path, out: LeftOut) -> dict[str, Path]:
    """{train, and test and val where they are: folder}; train may be `path` itself."""
    hidden = LeftOut(path)
    files, folders = _entries(path, hidden)
    parts: dict[str, Path] = {}
    others = list(files)
    for place in folders:
        part = PARTS.get(place.name.casefold())
        if part is None:
            others.append(place)
        elif part in parts:
            raise UserError(
                f"'{path}' holds both '{parts[part].name}/' and '{place.name}/', and "
                "one of them is enough; put their images together, or move one away."
            )
        else:
            parts[part] = place
    if not parts:
        return {"train": path}
    if "train" not in parts:
        first = min(place.name for place in parts.values())
        raise UserError(
            f"'{path}' holds '{first}/' and no 'train/'; put the images for training "
            "in train/<class>/, or give the class another name if it is one."
        )
    out.found.update(hidden.found)
    for place in others:
        out.add(BESIDE, place)
    return parts


def _class_folders(top: Path, out: LeftOut) -> dict[str, Path]:
    """{class: folder} in `top`; the names in Unicode's composed form (NFC)."""
    files, folders = _entries(top, out)
    for place in files:
        if place.name != ANNOTATIONS:
            out.add(BESIDE, place)
    above = {os.path.realpath(place) for place in (top, *top.absolute().parents)}
    found: dict[str, Path] = {}
    for place in folders:
        if os.path.realpath(place) in above:
            out.add(CIRCLE, place)
            continue
        name = unicodedata.normalize("NFC", place.name)
        if name in found:
            raise UserError(
                f"'{top}' holds the class '{name}' twice, in two Unicode spellings "
                "that look alike; put their images together in one folder."
            )
        if not name.isprintable():
            raise UserError(
                f"The name of the class folder '{values.line(str(place))}' holds line "
                "breaks, control characters or broken letters; give it another one."
            )
        found[name] = place
    return found


def _check_count(path: Path, train: Path, names: list[str]) -> None:
    if not names:
        raise UserError(
            f"'{train}' holds no class folders; put the images in "
            f"{path}/train/<class>/ and {path}/val/<class>/ (or in {path}/<class>/)."
        )
    inside = train / names[0]
    alone = train == path and len(names) == 1 and inside.is_dir()
    if alone and (_has_train(inside) or _has_classes(inside)):
        what = "train/ is" if _has_train(inside) else "other folders are"
        raise UserError(
            f"'{path}' holds only the folder '{names[0]}', in which {what}; give "
            f"'{inside}' as the folder."
        )
    if len(names) == 1:
        raise UserError(
            f"'{train}' holds only one class, '{names[0]}'; class-incremental learning "
            "needs at least two."
        )


def _check_nested(folders: dict[str, Path]) -> None:
    """Raises UserError for a part of the data set that lies among the classes."""
    for name, place in folders.items():
        if PARTS.get(name.casefold()):
            _, inside = _entries(place, LeftOut(place))
            if {folder.name for folder in inside} & set(folders):
                raise UserError(
                    f"'{place}' lies among the classes and holds class folders itself; "
                    "put it beside train/, or give it another name."
                )


def _has_classes(folder: Path) -> bool:
    """Whether it holds folders, two at least, and no file of its own."""
    files, folders = _entries(folder, LeftOut(folder))
    return len(folders) > 1 and not files


def _has_train(folder: Path) -> bool:
    return any(
        PARTS.get(place.name.casefold()) == "train"
        for place in _entries(folder, LeftOut(folder))[1]
    )


def _held(path: Path, parts: dict[str, Path], names: list[str]) -> Path | None:
    """The folder for testing, or None if there is none. Raises UserError."""
    offered = [parts[part] for part in ("test", "val") if part in parts]
    known = set(names)
    for place in offered:
        _, folders = _entries(place, LeftOut(path))
        theirs = {unicodedata.normalize("NFC", folder.name) for folder in folders}
        if _is_annotated(place) or theirs & known:
            return place
    if offered:
        raise UserError(
            f"'{offered[-1]}' has no folder of the classes in '{parts['train']}'; sort "
            "its images into such folders, or move it away (every fifth image of "
            "train is then for testing)."
        )
    return None


def _use(path: Path, parts: dict[str, Path], held: Path | None) -> str:
    """Which folder is for what, in one line."""
    train = parts["train"]
    if held is None:
        where = "each class" if train == path else f"each class in {train.name}/"
        return f"of {where}, every fifth image is for testing, the others for training"
    use = f"{train.name}/ is for training, {held.name}/ for testing"
    rest = [place.name for place in parts.values() if place not in (train, held)]
    return use + "".join(f"; {name}/ is not used" for name in rest)


def _is_annotated(top: Path) -> bool:
    return (top / ANNOTATIONS).is_file() and (top / "images").is_dir()


def _check_apart(
    train: Path, ours: dict[str, Path], held: Path, theirs: dict[str, Path], whole: bool
) -> None:
    """Raises UserError for a class of `held` alone, and for a folder that is in both.

    `whole`: all classes are taken.
    """
    strange = sorted(set(theirs) - set(ours))
    if strange and whole:
        raise UserError(
            f"'{held}' holds the class '{strange[0]}', which '{train}' lacks; give "
            "both the same classes."
        )
    real = {os.path.realpath(place): place for place in ours.values()}
    for place in theirs.values():
        if os.path.realpath(place) in real:
            raise UserError(
                f"'{real[os.path.realpath(place)]}' and '{place}' are one folder "
                "(linked), so that training images would be tested; give them images "
                "of their own."
            )


def _check_once(files: dict[str, Files]) -> None:
    """Raises UserError for a file that links bring into both parts, or two classes."""
    seen: dict[tuple[int, int], tuple[str, int, Path]] = {}
    for part, listed in files.items():
        for file, label in listed:
            try:
                about = os.stat(file)
            except OSError:
                continue  # told when it is read
            key = about.st_dev, about.st_ino
            before = seen.setdefault(key, (part, label, file))
            if about.st_ino and before[:2] != (part, label):
                both = "trained on and tested"
                use = both if before[0] != part else "of two classes"
                raise UserError(
                    f"'{before[2]}' and '{file}' are one file (linked), which would be "
                    f"{use}; remove the link, or copy the file of its own class."
                )


def _listing(
    top: Path,
    folders: dict[str, Path],
    names: list[str],
    out: LeftOut,
    *,
    trained: bool,
) -> Files:
    """The images of these classes, class by class; `trained` or tested on."""
    listed: Files = []
    for label, name in enumerate(names):
        found: list[Path] = []
        if name in folders:
            above = {os.path.realpath(p) for p in folders[name].absolute().parents}
            found = _images(folders[name], f"{name}_boxes.txt", above, out)
        if not found:
            remedy = "remove it" if trained else "remove the class for training, too"
            raise UserError(
                f"The class folder '{top / name}' is empty or missing; put images in "
                f"it or {remedy}."
            )
        listed += [(file, label) for file in found]
    return listed


def _images(folder: Path, boxes: str, seen: set[str], out: LeftOut) -> list[Path]:
    """All files in it and in its folders, each of which is read once; sorted."""
    seen.add(os.path.realpath(folder))
    files, folders = _entries(folder, out)
    for place in [file for file in files if file.name == boxes]:
        out.add(BOXES, place)
        files.remove(place)
    for place in folders:
        if os.path.realpath(place) in seen:
            out.add(CIRCLE, place)
        else:
            files += _images(place, boxes, seen, out)
    return sorted(files)


def _every_fifth(path: Path, everything: Files, names: list[str]) -> dict[str, Files]:
    """Images of index 4 mod 5 within their class are for testing. Raises UserError."""
    parts: dict[str, Files] = {"train": [], "test": []}
    seen = [0] * len(names)
    for file, label in everything:
        part = "test" if seen[label] % EVERY == EVERY - 1 else "train"
        parts[part].append((file, label))
        seen[label] += 1
    if min(seen) < EVERY:
        raise UserError(
            f"The class '{names[seen.index(min(seen))]}' has fewer than {EVERY} "
            "images, too few to set some aside for testing; add images, or give "
            f"'{path}' the folders train/ and val/."
        )
    return parts


def _annotated(top: Path, names: list[str], out: LeftOut, *, some: bool) -> Files:
    """Tiny-ImageNet's own validation folder: images/* and val_annotations.txt.

    Its lines hold file, class and box, separated by tabs. `some`: lines of other
    classes than `names` are passed over.
    """
    listing = top / ANNOTATIONS
    files, folders = _entries(top, out)
    for place in [*files, *folders]:
        if place.name not in (ANNOTATIONS, "images"):
            out.add(BESIDE, place)
    try:
        rows = [line.split("\t") for line in class_lists.lines(listing) if line.strip()]
    except UserError as problem:
        raise UserError(
            f"'{listing}' cannot be read; unpack Tiny-ImageNet anew."
        ) from problem
    rows = [[unicodedata.normalize("NFC", text) for text in row] for row in rows]
    images, deeper = _entries(top / "images", out)
    for place in deeper:
        out.add(BESIDE, place)
    here = {unicodedata.normalize("NFC", place.name): place for place in images}
    if not some:
        named_there = {row[0] for row in rows}
        for name in sorted(set(here) - named_there):
            out.add(UNLISTED, here[name])
    label = {name: i for i, name in enumerate(names)}
    if some:
        rows = [row for row in rows if row[1:] and row[1] in label]
    for row in rows:
        if len(row) < 2 or row[1] not in label or row[0] not in here:
            raise UserError(
                f"'{listing}' names a file or a class that is not here ("
                f"'{values.line(' '.join(row[:2]))}'); unpack Tiny-ImageNet anew."
            )
    lacking = set(names) - {row[1] for row in rows}
    if lacking:
        raise UserError(
            f"'{listing}' has no image of the class '{min(lacking)}'; "
            "unpack Tiny-ImageNet anew."
        )
    return sorted((here[row[0]], label[row[1]]) for row in rows)
