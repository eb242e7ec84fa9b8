"""Paths and variables as readers give them, looked at before anything uses them."""

import errno
import os
import stat
from pathlib import Path

from gfrlib.config import UserError
from gfrlib.engine import values

# What is said of a path by later checks, in words of their own.
DRIVE = Path("/content/drive")  # where Colab mounts Google Drive
ABSENT = (errno.ENOENT, errno.ENOTDIR)


def given(text: str | Path, what: str) -> Path:
    """The path, with ~ expanded; it need not exist.

    `what` begins the sentence. Raises UserError for one that no file can have here.
    """
    text = str(text)
    try:
        path = Path(text).expanduser()
        path.stat()
    except RuntimeError:  # of expanduser
        raise UserError(f"{what} '{text}' names a user who has no home here.") from None
    except ValueError:  # a NUL, or half of a character
        raise UserError(
            f"{what} '{text}' is no path: it holds a character that none can have."
        ) from None
    except OSError as problem:
        if problem.errno not in ABSENT:
            raise UserError(
                f"{what} '{text}' cannot be used ({problem.strerror})."
            ) from None
    return path


def file_or_folder(text: str | Path, what: str) -> Path:
    """As `given`; raises UserError for a device, a pipe or a socket, too."""
    path = given(text, what)
    if path.exists() and not path.is_dir():
        _check_regular(path.stat(), f"{what} '{path}'")
    return path


def text_of(path: str | Path, what: str, most: int) -> str:
    """The text of a file of at most `most` bytes, in UTF-8.

    Raises UserError for anything else, and never waits for a pipe.
    """
    path = given(path, what)
    name = f"{what} '{path}'"
    try:
        _check_regular(path.stat(), name)  # opening a pipe waits for who writes into it
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as problem:
        raise UserError(
            f"{name} cannot be read ({problem.strerror}); give a file that is there "
            "and that you may read."
        ) from None
    if len(content) > most:
        raise UserError(f"{name} is larger than {most} bytes, and is not read.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise UserError(
            f"{name} is not text in UTF-8 (byte {problem.start}); save it as UTF-8."
        ) from None


def _check_regular(found: os.stat_result, name: str) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f"{name} is a folder, and no file; name a file in it.")
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{name} is a device or a pipe, and no file.")


def check_mounted(path: Path, name: str) -> None:
    """Raises UserError for a folder of Google Drive that is not mounted in Colab: what
    is written there lies on the machine, and goes with it.
    """
    if path.is_relative_to(DRIVE) and not os.path.ismount(DRIVE):
        raise UserError(
            f"{name} is '{path}', and Google Drive is not mounted: mount it before "
            "(in Colab with the button of the panel Files), or name another folder."
        )


def check_variables() -> None:
    """Raises UserError where a variable that gfrlib reads has no sense."""
    for name in ("GFR_HOME", "GFR_CACHE"):
        if os.environ.get(name):
            _check_place(name, os.environ[name])
    for name in ("GFR_RESIDENT_BYTES", "LOCAL_WORLD_SIZE"):
        whole(name, default=1, low=name != "GFR_RESIDENT_BYTES")


def _check_place(name: str, text: str) -> None:
    """The place is a folder, or could become one."""
    path = given(text, name)
    above = next((p for p in (path, *path.parents) if os.path.lexists(p)), path)
    if os.path.lexists(above) and not above.is_dir():
        raise UserError(
            f"{name} names '{path}', which cannot be a folder, because '{above}' is "
            f"none; choose another one, or unset {name}."
        )


def whole(name: str, *, default: int, low: int = 0, high: int = 10**15) -> int:
    """A whole number that a variable of the environment holds; unset, the default.

    Raises UserError for anything else.
    """
    text = os.environ.get(name, "")
    try:
        value = values.number(text, int) if text else default
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        remedy = "" if name.startswith("GFR_") else ", or let torchrun set its own"
        raise UserError(
            f"The variable {name} must be a whole number from {int(low)} to {high}, "
            f"not '{text}'; unset it{remedy}."
        )
    return value
