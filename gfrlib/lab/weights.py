"""Weights for a pretrained extractor: checked, kept by content, found by name.

data/weights/NAME.pt    NAME is the file's stem and a hash of its content (git ignores
                        the folder); see pretrained.read for what a file may hold
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from gfrlib import pretrained
from gfrlib.config import UserError
from gfrlib.engine import paths
from gfrlib.engine.store import root, write_atomically
from gfrlib.pretrained import Pretrained, Unusable

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*-[0-9a-f]{8}")
LONGEST = 60  # characters of a stem
LARGEST = 2 << 30  # bytes of a file; a ResNet-18 of width 64 has 45 million
IMAGENET = "imagenet"  # stands for torchvision's
IMAGENET_SOURCE = "torchvision, ResNet18_Weights.IMAGENET1K_V1"
WHAT = (
    "a state dict of torchvision's ResNet-18, or a file that run --save-weights has "
    "written"
)


def folder() -> Path:
    """Where weights lie: data/weights below the repository (git ignores it)."""
    return root() / "data" / "weights"


def settings(changes: dict) -> dict:
    """The changes to a preset, with `weights` as the name under which they are kept,
    and with what follows from them: network, width, bottleneck.

    A name that is not known here stays as it is: who looks for its records needs no
    weights (but their network and width, if they are not the preset's), and `load` says
    so to all others. Raises UserError where they say another
    thing, and as `resolve`.
    """
    if not isinstance(changes.get("weights"), str) or not changes["weights"]:
        return changes
    if missing(changes["weights"]):
        return changes
    name = resolve(changes["weights"])
    follows = load(name).settings()
    for setting, value in follows.items():
        if changes.get(setting, value) != value:
            raise UserError(
                f"'{setting}' follows from the weights '{name}': it is {value}, and "
                f"not {changes[setting]}; leave it out."
            )
    return {**changes, "weights": name, **follows}


def missing(text: object) -> bool:
    """Whether it is a name under which weights could be kept, and neither these nor a
    file called like it are here.
    """
    if not isinstance(text, str) or not NAME.fullmatch(text):
        return False
    return not (os.path.lexists(_path(text)) or os.path.lexists(text))


def resolve(text: str) -> str:
    """The name under which weights can be loaded: of a known name, of a file that is
    brought in, or of torchvision's after "imagenet".

    Raises UserError for a file that is missing or holds no such weights.
    """
    if text == IMAGENET:
        return _imagenet()
    if NAME.fullmatch(text) and os.path.exists(_path(text)):
        return text
    path = paths.file_or_folder(text, "The file of weights")
    if path.is_dir():
        raise UserError(f"'{path}' is a folder, and no file of weights; give {WHAT}.")
    if not path.exists():
        have = sorted(p.stem for p in folder().glob("*.pt") if NAME.fullmatch(p.stem))
        known = f"; known are {', '.join(have)}" if have else ""
        raise UserError(
            f"There are no weights '{text}'; give {WHAT}, or 'imagenet'{known}."
        )
    return add(path)


def add(path: Path) -> str:
    """Check a file and keep what it holds; returns the name. Raises UserError.

    Nothing in the file is executed, and nothing is kept of one that does not fit.
    """
    return _keep(_read(path), path.stem)


def load(name: str) -> Pretrained:
    """The weights of that name. Raises UserError for a name that is not known here,
    and for a file that is damaged.
    """
    path = _path(name)
    if not NAME.fullmatch(name) or not os.path.exists(path):
        raise UserError(
            f"There are no weights '{name}' here; bring them in with --weights FILE "
            f"({WHAT})."
        )
    found = path.stat()
    return _loaded(path, found.st_mtime_ns, found.st_size)


def save(path: Path, weights: Pretrained, advice: str = "") -> None:
    """Write a file that --weights takes, all or nothing. Raises UserError, with the
    advice on what to do where the disk refuses.
    """
    write(path, weights.kept(), advice)


def write(path: Path, content: dict, advice: str = "") -> None:
    """Write tensors and plain values as PyTorch does; else as `save`."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    elsewhere = "free some space, or give a file where you may write"
    write_atomically(path, buffer.getvalue(), advice or elsewhere)


def _path(name: str) -> Path:
    return folder() / f"{name}.pt"


@functools.lru_cache(maxsize=2)
def _loaded(path: Path, changed: int, size: int) -> Pretrained:
    """`changed` and `size` are part of the key alone."""
    try:
        found = _read(path)
    except UserError as problem:
        raise UserError(f"{problem} Delete it and bring its file again.") from problem
    if found.sha256[:8] != path.stem.rpartition("-")[2]:
        raise UserError(
            f"'{path}' holds other weights than its name tells; delete it and bring "
            "its file again."
        )
    return dataclasses.replace(found, name=path.stem)


def _keep(found: Pretrained, stem: str) -> str:
    """Keep weights as <stem>-<hash>; those that are there, undamaged, stay."""
    digest = found.sha256[:8]
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem.removesuffix(f"-{digest}"))
    name = f"{stem[:LONGEST].strip('.-') or 'weights'}-{digest}"
    try:
        load(name)
    except UserError:
        ours = "free some space, or set GFR_HOME to a folder of yours"
        save(_path(name), found, ours)
    return name


def _read(path: Path) -> Pretrained:
    """What a file holds, checked. Raises UserError."""

    def unusable(why: str) -> UserError:
        return UserError(
            f"'{path}' holds no weights for an extractor: {why}; give {WHAT}."
        )

    found, digest = opened(path, unusable, "The file of weights", LARGEST)
    try:
        return pretrained.read(found, f"{path.name} (SHA-256 {digest[:12]}…)")
    except Unusable as problem:
        raise unusable(str(problem)) from problem


def opened(
    path: Path, unusable: Callable[[str], UserError], what: str, most: int
) -> tuple[object, str]:
    """What a file of PyTorch's holds, on the CPU, and the file's SHA-256.

    Nothing in it is executed. `unusable` makes a sentence of why it cannot be read,
    `what` names the file, `most` is how many bytes it may have. Raises UserError.
    """
    import torch

    path = paths.file_or_folder(path, what)  # a pipe blocks its reader
    try:
        if path.stat().st_size > most:
            raise unusable(f"it is larger than {most >> 30} GB")
        content = path.read_bytes()
    except OSError as problem:
        raise UserError(f"'{path}' cannot be read ({problem.strerror}).") from problem
    try:
        with warnings.catch_warnings():  # the sentence says enough
            warnings.simplefilter("ignore")
            found = torch.load(io.BytesIO(content), "cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as problem:  # half a file, other content: many kinds
        raise unusable(_reason(problem)) from problem
    return found, hashlib.sha256(content).hexdigest()


def _reason(problem: Exception) -> str:
    said = str(problem)
    if isinstance(problem, pickle.UnpicklingError) and "GLOBAL" in said:
        return (
            "it holds Python objects, which could run code, and is not opened (of a "
            "network save its state_dict())"
        )
    return "it is cut short, damaged, or no file of PyTorch's"


def _imagenet() -> str:
    """torchvision's weights, from here or downloaded. Raises UserError."""
    for path in sorted(folder().glob(f"{IMAGENET}-*.pt")):
        if NAME.fullmatch(path.stem) and load(path.stem).source == IMAGENET_SOURCE:
            return path.stem
    found = pretrained.read(download_imagenet(), IMAGENET_SOURCE)
    return _keep(found, IMAGENET)


def download_imagenet() -> dict:
    """torchvision's state dict of a ResNet-18 trained on ImageNet, which it keeps in
    its own folder. Raises UserError.
    """
    from torchvision.models import ResNet18_Weights

    try:
        with contextlib.redirect_stdout(sys.stderr):  # it tells where it puts the file
            return ResNet18_Weights.IMAGENET1K_V1.get_state_dict(
                check_hash=True, weights_only=True
            )
    except Exception as problem:  # no network, no space, a broken file: many kinds
        raise UserError(
            "torchvision's ImageNet weights could not be downloaded "
            f"({type(problem).__name__}); without a network bring the file yourself: "
            f"download {ResNet18_Weights.IMAGENET1K_V1.url} elsewhere, and give it as "
            "--weights FILE."
        ) from problem
