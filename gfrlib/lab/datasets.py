"""Real images -> packed uint8 arrays, decoded once, checked, in an order of their own.

`packed(name)` knows "digits" (inside scikit-learn), "cifar100" (torchvision's
download), and every data set that `add(name, path)` has brought in from a folder of
images or a packed .npz file.
"""

import contextlib
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gfrlib.config import UserError
from gfrlib.engine import locks, paths, values
from gfrlib.engine.store import root
from gfrlib.lab import stored
from gfrlib.lab.arrays import ARRAYS, download_cifar100, read_npz
from gfrlib.lab.decoding import READ, Rules
from gfrlib.lab.folders import read_folder
from gfrlib.lab.stored import checksum

# SHA-256 of the canonical arrays: every source of CIFAR-100 is known to be the same.
KNOWN = {"cifar100": "eefa1939e19bc24add62861e6f539c03d21acaa8c03ce4eb6e61d7078cb28db2"}
BUILT_IN = ("digits", *KNOWN)
# Data sets of the grids, which a reader brings: the rest of the command that does.
BROUGHT = {
    "imagenet-subset": " --classes lucir",
    "imagenet-1000": "",
    "tiny-imagenet-32": "",
    "tiny-imagenet-64": " --classes data/tiny-imagenet-64.txt",
    "unseen": " --classes data/tiny-imagenet-64-unseen.txt",
}
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
LONGEST = 100  # characters of a name
# What a packed data set consists of; another folder is never removed.
OWN = {f"{key}.npy" for key in ARRAYS} | {stored.META, stored.NOTE, "faults.json"}
OWN |= {"train_state.npy", "test_state.npy"}
_told: set[str] = set()  # a grid asks for its folder once a run


@dataclass
class Packed:
    """Images uint8 [N, H, W, C]; labels int64 [N]; class_names by label.

    Sorted by label, then by the pixels' hash; those that shards.py packed as their
    files are, with a label of -1 for a faulty one.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: list[str]
    # names the content where the name does not (all but digits and cifar100)
    content: str = ""
    # side of the random resized crops that training sees; 0: pad and crop
    crop: int = 0
    # labels in the order `gfr`, where the data set has its own: ImageNet-Subset's
    # official order is that of the 1,000 classes. (): of its classes, as elsewhere
    arrival: tuple[int, ...] = ()


def folder() -> Path:
    """Where packed data sets lie: data/packed below the repository (git ignores it)."""
    return root() / "data" / "packed"


def checked(name: str) -> str:
    """The name, if it can name a data set to be packed; else raises UserError.

    It becomes a folder's name, so that it must not lead anywhere else.
    """
    taken = [known for known in BUILT_IN if name.lower() == known and name not in KNOWN]
    if taken and taken[0] in KNOWN:
        raise UserError(
            f"'{name}' is too much like '{taken[0]}'; write that, or take another name."
        )
    if taken:
        raise UserError(f"'{taken[0]}' is built in; give the data set another name.")
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise UserError(
            f"'{name}' cannot name a data set; use a to z, A to Z, 0 to 9, '.', '_' "
            f"and '-' (at most {LONGEST}, no dot or hyphen in front). The name comes "
            "first, the PATH after it."
        )
    return name


def packed(name: str) -> Packed:
    """The data set of that name; CIFAR-100 is downloaded on first use.

    Raises UserError if it cannot be had.
    """
    if name == "digits":
        return _digits()
    if _is_packed(name):
        return _open(folder() / name)
    if name == "cifar100":
        with packing():
            if not _is_packed(name):  # no other process has brought it meanwhile
                _store(name, *download_cifar100(root() / "data" / "download"))
        return _open(folder() / name)
    if name and paths.given(name, "The data set").exists():
        raise UserError(
            f"'{name}' is a path, and a Config takes the name of a data set: "
            "gfrlib.lab.experiments.settings takes the path and packs it, and so does "
            "python -m gfrlib data NAME PATH."
        )
    if name in BROUGHT:
        raise UserError(
            f"The data set '{name}' is not here; bring it with python -m gfrlib data "
            f"{name} FOLDER{BROUGHT[name]} (data/README.md says more)."
        )
    have = [*BUILT_IN, *sorted(p.parent.name for p in folder().glob("*/meta.json"))]
    raise UserError(
        f"There is no data set '{name}'; choose one of "
        f"{', '.join(dict.fromkeys(have))}, or bring your own: "
        "python -m gfrlib data NAME PATH (a folder of images or a packed .npz file)."
    )


def is_own(name: str) -> bool:
    """Whether the data set of that name was brought here, and is not built in."""
    return name not in BUILT_IN and _is_packed(name)


def rules_of(name: str) -> Rules | None:
    """How a data set's image files were read; None where it came as arrays, or older
    code has packed it, which did not note it.
    """
    if not _is_packed(name):
        return None
    kept = stored.meta_of(folder() / name).get(READ)
    return kept and Rules(**kept)


def _is_packed(name: str) -> bool:
    if name != Path(name).name or name.startswith("."):
        return False
    try:
        os.lstat(folder() / name / stored.META)
    except PermissionError:
        return True  # another user's: opening it says so
    except OSError:
        return False
    return True


def resolve(
    dataset: str,
    notice: Callable[[str], None] | None = None,
    rules: Rules | None = None,
) -> str:
    """The name under which `dataset` can be loaded.

    A path is packed first, and named by its stem and its content. `rules` says how a
    folder's images are read. `notice` hears what
    `add` says, and of a folder that is passed over for a known name. Raises UserError
    for a path that does not exist or cannot be read.
    """
    path = Path(dataset).expanduser()
    bare = "/" not in dataset and os.sep not in dataset and not dataset.endswith(".npz")
    known = dataset in BUILT_IN or _is_packed(dataset)
    if bare and (known or not dataset or not path.is_dir()):
        if known and path.is_dir():
            (notice or _tell)(
                f"'{dataset}' is the known data set of that name; for the folder "
                f"write ./{dataset}"
            )
        return dataset
    if not path.exists():
        raise UserError(
            f"'{dataset}' does not exist; give a folder of images or a packed .npz "
            "file."
        )
    return add(None, path, rules=rules, notice=notice)


def add(
    name: str | None,
    path: Path,
    classes: str = "",
    *,
    rules: Rules | None = None,
    notice: Callable[[str], None] | None = None,
) -> str:
    """Pack a folder of images or an .npz file under `name`, and return the name.

    None: the path's stem and a hash of the content. `classes`: only these of a folder
    (class_lists.choose). `rules`: how its images are read. `notice` hears, line by
    line, what of a folder is used for what and what is left out; without it they go to
    standard error. Raises UserError for a name that cannot be one, or what cannot be
    read or written.
    """
    if name is not None:
        checked(name)
    account: list[str] = []
    about: dict = {}
    with packing():
        if path.is_file():
            arrays, class_names = read_npz(path)
        else:
            found = read_folder(path, classes, rules)
            arrays, class_names = found.arrays, found.class_names
            account, about = found.account, (rules or Rules()).kept()
        name = _store(name, arrays, class_names, about, stem=path.resolve().stem)
    for line in account:
        (notice or _tell)(line)
    return name


def _tell(text: str) -> None:
    """One line on standard error: once, and of one process of many."""
    if text not in _told and os.environ.get("RANK", "0") == "0":
        _told.add(text)
        print(text, file=sys.stderr)


def _digits() -> Packed:
    """scikit-learn's 1,797 digits, 8 x 8.

    Each class's images of index 3 mod 4 are the test images (ours).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    rank = np.zeros(len(labels), dtype=int)
    for c in range(10):
        rank[labels == c] = np.arange((labels == c).sum())
    test = rank % 4 == 3
    arrays = {
        "train_images": images[~test],
        "train_labels": labels[~test],
        "test_images": images[test],
        "test_labels": labels[test],
    }
    names = [str(c) for c in range(10)]
    return Packed("digits", **canonical(arrays), class_names=names)


def canonical(arrays: dict) -> dict:
    """Both parts sorted by label, then by the hash of the pixels.

    So the same data come out, whatever the source's order.
    """
    result = {}
    for part in ("train", "test"):
        images = arrays[f"{part}_images"]
        labels = np.asarray(arrays[f"{part}_labels"], dtype=np.int64)
        keys = [
            (int(c), hashlib.sha1(np.ascontiguousarray(x)).digest())
            for x, c in zip(images, labels)
        ]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        # of Fortran's order, NumPy would keep it
        result[f"{part}_images"] = np.ascontiguousarray(images[order])
        result[f"{part}_labels"] = labels[order]
    return result


def _say(text: str) -> None:
    print(values.line(text), file=sys.stderr, flush=True)


@contextlib.contextmanager
def packing() -> Iterator[None]:
    """One process at a time downloads or packs.

    The others wait here and then find what it made. Raises UserError where the folder
    cannot be written.
    """
    try:
        folder().mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(
            f"The folder {folder()} cannot be written ({problem.strerror}); "
            f"{locks.advice(problem)}, and try again."
        ) from problem
    waiting = "waiting for another process that packs a data set"
    with locks.held(folder() / ".lock", waiting=waiting, notice=_say) as ours:
        if ours:
            _clear()
        yield


def _clear() -> None:
    """Remove what killed processes have left in the folder; nobody else is at work.

    A data set that one of them had moved away, to put another in its place, comes back.
    """
    for place in folder().iterdir():
        name = re.fullmatch(r"\.(.+)-[a-z0-9_]{8}", place.name)  # as mkdtemp names it
        if not name or place.is_symlink() or not place.is_dir():
            continue
        if {path.name for path in place.iterdir()} <= {"made", "former"} | OWN:
            with contextlib.suppress(OSError):
                former, target = place / "former", folder() / name[1]
                if os.path.lexists(former) and not os.path.lexists(target):
                    former.rename(target)
                _remove_former(place)


def _store(
    name: str | None,
    arrays: dict,
    class_names: list[str],
    about: dict | None = None,
    *,
    stem: str = "",
) -> str:
    """Write canonical arrays below data/packed, all or nothing; returns the name.

    about: what meta.json tells beside the images. The same images with other such words
    are written again.
    """
    arrays = canonical(arrays)
    digest = checksum(arrays, class_names)
    if name is None:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-") or "images"
        name = f"{stem[: LONGEST - 9]}-{digest[:8]}"
    checked(name)
    if name in KNOWN and digest != KNOWN[name]:
        raise UserError(
            f"This is not the complete, unchanged data set '{name}' (its checksum "
            "differs); give it another name to use it all the same."
        )
    target = folder() / name
    about, there = about or {}, stored.whole(target, digest)
    if there and there.get(READ) == about.get(READ):
        return name
    temporary = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder()))
        made = temporary / "made"
        made.mkdir()  # others may read it, as the umask says; mkdtemp's they may not
        for key in ARRAYS:
            np.save(made / f"{key}.npy", arrays[key])
        said = {"class_names": class_names, "sha256": digest, **about}
        stored.write_meta(made, said)
        put_in_place(made, target)
    except OSError as problem:
        raise UserError(
            f"The packed data set could not be written to {folder()} "
            f"({problem.strerror}); {locks.advice(problem)}, and try again."
        ) from problem
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
    return name


def put_in_place(made: Path, target: Path) -> None:
    """Rename the folder `made` to `target`; a packed data set there is replaced.

    Raises UserError where `target` is anything else, and OSError.
    """
    if not os.path.lexists(target):
        made.rename(target)
        return
    check_replaceable(target)
    former = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    target.rename(former / "former")
    try:
        made.rename(target)
    except OSError:
        (former / "former").rename(target)
        former.rmdir()
        raise
    _remove_former(former)


def check_replaceable(target: Path) -> None:
    """Raises UserError where there is something that packing did not make."""
    if not os.path.lexists(target):
        return
    inside = {path.name for path in target.iterdir()} if target.is_dir() else {""}
    unfinished = tuple(f".{name}-" for name in OWN)  # a killed process's
    inside = {name for name in inside if not name.startswith(unfinished)}
    if inside - OWN or "meta.json" not in inside:
        raise UserError(
            f"'{target}' is no packed data set, and is left as it is; move it away or "
            "take another name."
        )


def _remove_former(place: Path) -> None:
    """The packed data set that was renamed into `place`; of a link, the link alone."""
    if (place / "former").is_symlink():
        (place / "former").unlink()
    shutil.rmtree(place, ignore_errors=True)


def _open(path: Path) -> Packed:
    meta, arrays = stored.opened(path, KNOWN.get(path.name))
    return Packed(
        path.name,
        **arrays,
        class_names=meta["class_names"],
        content="" if path.name in KNOWN else meta["sha256"][:12],
        crop=meta.get("crop", 0),
        arrival=tuple(meta.get("arrival", ())),
    )


def verify(name: str) -> None:
    """Read all of a packed data set and compare it with its checksum.

    Raises UserError for one that is damaged, or not packed.
    """
    if not _is_packed(name):
        raise UserError(
            f"No data set '{name}' is packed here; python -m gfrlib data {name} PATH "
            "packs one."
        )
    stored.verify(folder() / name, KNOWN.get(name))
