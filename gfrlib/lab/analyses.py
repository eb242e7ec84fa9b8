"""What lies beside a record: its analysis (JSON) and its sheet of images (PNG)."""

import hashlib
import json
import os
import re
from pathlib import Path

from gfrlib.config import UserError
from gfrlib.engine.store import write_atomically
from gfrlib.lab import seals

# which weights an analysis says that it looks at (experiments)
OF = re.compile(r" on ([0-9a-f]{12})\b")
SHEET = "sheet"  # the analysis's field with the SHA-256 of the sheet's file


class Analysis(dict):
    """The parts of a record's analysis; one that is not there is a UserError."""

    def __init__(self, parts: dict, name: str):
        super().__init__(parts)
        self.name = name

    def __missing__(self, part: str):
        raise UserError(
            f"The analysis of '{self.name}' has no '{part}'; "
            f'experiments.run_or_load(config, analyse="{part}") computes it.'
        )

    def __reduce__(self):
        return Analysis, (dict(self), self.name)


def beside(record: Path, ending: str) -> Path:
    """The path of a record's analysis (`json`) or sheet (`png`)."""
    return record.with_name(f"{record.stem}.analysis.{ending}")


def read(record: Path, name: str, *, weights: str = "") -> Analysis | None:
    """The analysis beside a record's file, or None where there is none.

    weights: the record's. Raises UserError for an analysis that is damaged (without a
    checksum, too), or of other weights.
    """
    path = beside(record, "json")
    if not os.path.exists(path):
        return None
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(parts, dict) and not seals.is_damaged(parts)
    except (OSError, ValueError, RecursionError):
        whole = False
    if not whole:
        raise _damaged(path)
    del parts[seals.FIELD]
    looked_at = OF.search(str(parts.get("code", "")))
    if weights and looked_at and not weights.startswith(looked_at[1]):
        raise UserError(
            f"'{path}' is of another run than the record beside it (it looks at other "
            "weights); restore both from git, or delete both and run that again."
        )
    return Analysis(parts, name)


def write(record: Path, parts: dict, sheet: bytes | None = None) -> None:
    """Keep the analysis beside a record's file, after its sheet if there is a new one.

    Raises UserError where the disk refuses.
    """
    parts = dict(parts)
    if sheet is not None:
        write_atomically(beside(record, "png"), sheet)
        parts[SHEET] = hashlib.sha256(sheet).hexdigest()
    write_atomically(beside(record, "json"), seals.sealed(parts))


def sheet(record: Path, analysis: dict) -> bytes | None:
    """The file of the sheet of images beside a record, or None where there is none.

    Raises UserError where it is not the one that the analysis was kept with.
    """
    path = beside(record, "png")
    if not os.path.exists(path):
        return None
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise _damaged(path) from problem
    wanted = analysis.get(SHEET)  # not there if older code has kept the analysis
    if wanted and wanted != hashlib.sha256(content).hexdigest():
        raise _damaged(path)
    return content


def _damaged(path: Path) -> UserError:
    return UserError(
        f"'{path}' is damaged (it is cut off, or differs from its checksum); restore "
        "it from git, or delete it with its record and run that again."
    )
