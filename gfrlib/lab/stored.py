"""A packed data set on disk: is it what was packed?

Its folder holds four arrays and meta.json, which carries a checksum of its own and one
of the arrays' content. Sizes, types and labels are checked at every opening. The
content is read once a process where it is small, and where files of a larger set are
others than those of the last check (size and time are noted in checked.json); above
AT_ONCE such a set is refused until `data NAME --verify` has read it.
"""

import contextlib
import hashlib
import json
import os
import stat
from pathlib import Path

import numpy as np

from gfrlib.config import UserError
from gfrlib.engine.store import write_atomically
from gfrlib.lab import seals
from gfrlib.lab.arrays import ARRAYS

META, NOTE = "meta.json", "checked.json"
ALWAYS = 512 << 20  # bytes that are read by every process: about half a second
AT_ONCE = 16 << 30  # more is read by `data NAME --verify`, and to pack it again, alone
BLOCK = 1 << 20  # bytes read at a time
_checked: dict[Path, dict] = {}  # folders that this process has read, with their files


class Damage(ValueError):
    """What is wrong with a packed data set, in a few words."""


# Writing ------------------------------------------------------------------------------


def write_meta(work: Path, about: dict) -> dict:
    """Write meta.json beside the arrays in `work`, with a checksum of their content.

    `about` has class_names, sha256 (the data set's identity) and what else is known of
    it. Returns it with the arrays' shapes. Raises OSError, UserError.
    """
    arrays = {key: np.load(work / f"{key}.npy", mmap_mode="r") for key in ARRAYS}
    shapes = {key: list(array.shape) for key, array in arrays.items()}
    about = {**about, "shapes": shapes}
    about["content"] = digest(work, arrays, about["class_names"])
    write_atomically(work / META, seals.sealed(about))
    _note(work, arrays)
    return about


def checksum(arrays: dict, class_names: list[str]) -> str:
    """SHA-256 over class names, shapes and bytes of canonical arrays."""
    sha = hashlib.sha256(json.dumps(class_names).encode())
    for key in ARRAYS:
        sha.update(str(arrays[key].shape).encode())
        sha.update(np.ascontiguousarray(arrays[key]))
    return sha.hexdigest()


def digest(folder: Path, arrays: dict, class_names: list[str]) -> str:
    """`checksum` of arrays that lie in files, a block at a time. Raises OSError."""
    sha = hashlib.sha256(json.dumps(class_names).encode())
    for key in ARRAYS:
        array = arrays[key]
        sha.update(str(array.shape).encode())
        if not isinstance(array, np.memmap) or not array.flags.c_contiguous:
            sha.update(np.ascontiguousarray(array))
            continue
        with open(folder / f"{key}.npy", "rb") as file:
            file.seek(array.offset)
            while block := file.read(BLOCK):
                sha.update(block)
    return sha.hexdigest()


# Reading ------------------------------------------------------------------------------


def meta_of(folder: Path) -> dict:
    """What a packed data set says of itself. Raises Damage, OSError."""
    _check_file(folder / META)
    try:
        meta = json.loads((folder / META).read_bytes())
        whole = not seals.is_damaged(meta)
        del meta[seals.FIELD]
        texts = all(isinstance(name, str) for name in meta["class_names"])
        texts = texts and all(isinstance(meta[k], str) for k in ("sha256", "content"))
        texts = texts and meta["shapes"].keys()
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as bad:
        raise Damage(f"{META} cannot be read") from bad
    if not (whole and texts):
        raise Damage(f"{META} is not as it was written")
    return meta


def _check_file(path: Path) -> None:
    """Raises Damage unless it is a file: anything else might block its reader."""
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        raise Damage(f"{path.name} is missing") from None
    if not regular:
        raise Damage(f"{path.name} is no file")


def arrays_of(folder: Path, meta: dict) -> dict:
    """The arrays, on disk but for labels; sizes, types and labels are checked.

    Raises Damage, OSError.
    """
    arrays = {}
    for key in ARRAYS:
        file = folder / f"{key}.npy"
        _check_file(file)
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
            shape = list(array.shape)
            right = shape == meta["shapes"][key] and array.dtype == _type_of(key)
        except OSError:
            raise
        except Exception as problem:  # a header is parsed as Python: many kinds
            raise Damage(f"{file.name} is no array of numbers") from problem
        if not right:
            raise Damage(f"{file.name} has another shape or type than was packed")
        if file.stat().st_size != array.offset + array.nbytes:
            raise Damage(f"{file.name} is longer or shorter than was packed")
        arrays[key] = array
    for part in ("train", "test"):
        _check_labels(part, arrays, meta)
        arrays[f"{part}_labels"] = np.array(arrays[f"{part}_labels"])
    return arrays


def _type_of(key: str) -> np.dtype:
    return np.dtype("u1" if key.endswith("images") else "i8")


def _check_labels(part: str, arrays: dict, meta: dict) -> None:
    images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
    if images.ndim != 4 or labels.shape != images.shape[:1] or not images.size:
        raise Damage(f"{part}_labels.npy has not one label for each image")
    lowest = -1 if "crop" in meta else 0  # of large images, -1 marks a faulty one
    if labels.min() < lowest or labels.max() >= len(meta["class_names"]):
        raise Damage(f"{part}_labels.npy has labels of no class")


def opened(folder: Path, known: str | None = None) -> tuple[dict, dict]:
    """(meta, arrays) of a packed data set, checked. `known`: what its content must be.

    Raises UserError for one that is damaged, or cannot be read.
    """
    with _told(folder):
        meta = meta_of(folder)
        arrays = arrays_of(folder, meta)
        files = _files(folder)
        if _checked.get(folder) != files:
            if _size(arrays) <= ALWAYS or _noted(folder) != files:
                _check_at_opening(folder, meta, arrays, known)
            _checked[folder] = files
    return meta, arrays


def _check_at_opening(
    folder: Path, meta: dict, arrays: dict, known: str | None
) -> None:
    if _size(arrays) > AT_ONCE:
        raise UserError(
            f"The packed data set '{folder.name}' was copied or changed since its "
            f"content was checked: python -m gfrlib data {folder.name} --verify "
            "reads it once."
        )
    _check(folder, meta, arrays, known)
    _note(folder, arrays)


def verify(folder: Path, known: str | None = None) -> None:
    """Read all of a packed data set and compare it with its checksum.

    Raises UserError for one that is damaged, or cannot be read.
    """
    with _told(folder):
        meta = meta_of(folder)
        arrays = arrays_of(folder, meta)
        _check(folder, meta, arrays, known)
        _note(folder, arrays)
        _checked[folder] = _files(folder)


def whole(folder: Path, identity: str | None = None) -> dict:
    """What a packed data set says of itself; {} unless it is there, undamaged.

    identity: its sha256 must be that. Content that this process has read is not read
    again, nor hundreds of gigabytes whose files are those of the last check.
    """
    try:
        meta = meta_of(folder)
        if identity not in (None, meta["sha256"]):
            return {}
        arrays, files = arrays_of(folder, meta), _files(folder)
        trusted = _size(arrays) > AT_ONCE and _noted(folder) == files
        if _checked.get(folder) != files and not trusted:
            verify(folder)
    except (OSError, Damage, UserError):
        return {}
    return meta


def _check(folder: Path, meta: dict, arrays: dict, known: str | None) -> None:
    """Raises Damage where the content is not as it was packed."""
    found = digest(folder, arrays, meta["class_names"])
    if found != (known or meta["content"]):
        raise Damage("its content differs from its checksum")


@contextlib.contextmanager
def _told(folder: Path):
    """What goes wrong inside becomes one sentence."""
    try:
        yield
    except Damage as problem:
        raise UserError(
            f"The packed data set '{folder.name}' is truncated or damaged ({problem}); "
            f"python -m gfrlib data {folder.name} PATH packs it again"
            f"{_by_hand(folder)}."
        ) from problem
    except OSError as problem:
        raise UserError(
            f"The packed data set '{folder.name}' cannot be read "
            f"({problem.strerror or problem}): {folder} is another user's, or its disk "
            "fails; ask for the right to read it, or pack one of your own under "
            "another name."
        ) from problem


def _by_hand(folder: Path) -> str:
    if folder.name != "cifar100":
        return ""
    return f", or delete {folder} and it is downloaded"


# Files that were read -----------------------------------------------------------------


def _files(folder: Path) -> dict[str, list[int]]:
    """{file: [bytes, nanoseconds of its last change]}."""
    found = {}
    for name in (META, *(f"{key}.npy" for key in ARRAYS)):
        about = os.stat(folder / name)
        found[name] = [about.st_size, about.st_mtime_ns]
    return found


def _size(arrays: dict) -> int:
    return sum(array.nbytes for array in arrays.values())


def _noted(folder: Path) -> dict:
    try:
        return json.loads((folder / NOTE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}


def _note(folder: Path, arrays: dict) -> None:
    """Note the files of a larger data set as they are now.

    Where that cannot be written, the next process reads them again.
    """
    if _size(arrays) <= ALWAYS:
        return
    with contextlib.suppress(UserError):
        write_atomically(folder / NOTE, json.dumps(_files(folder)).encode())
