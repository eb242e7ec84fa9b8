"""A checksum inside a JSON file, over everything else that the file says.

It is the last field, so that a file of before is sealed by adding to its end.
"""

import hashlib
import json
from pathlib import Path

from gfrlib.engine.store import write_atomically

FIELD = "checksum"


def checksum(fields: dict) -> str:
    """SHA-256 over the canonical JSON of all fields but the checksum itself.

    Keys sorted, no spaces, ASCII alone, numbers as Python prints them: it does not
    change when a file is laid out anew.
    """
    others = {name: value for name, value in fields.items() if name != FIELD}
    text = json.dumps(others, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(fields: dict) -> bytes:
    """The JSON of the fields, with their checksum at the end."""
    others = {name: value for name, value in fields.items() if name != FIELD}
    text = json.dumps(others, separators=(",", ":"))
    # as they are read again: a tuple is a list then, a number before ":" is text
    return _with_checksum(text, checksum(json.loads(text))).encode()


def is_sealed(fields: dict) -> bool:
    """Whether the fields carry a checksum, right or wrong."""
    return FIELD in fields


def is_damaged(fields: dict) -> bool:
    """Whether they carry a checksum that is not theirs."""
    return is_sealed(fields) and fields[FIELD] != checksum(fields)


def seal(path: Path, more: dict | None = None) -> bool:
    """Add the fields `more` and the checksum to a JSON file that has none.

    All other fields stay as they are written. Returns False where there is a checksum
    already. Raises ValueError for a file that holds no JSON object, UserError for one
    that cannot be written.
    """
    text = path.read_text(encoding="utf-8")
    fields = _object(text)
    if is_sealed(fields):
        return False
    for name, value in (more or {}).items():
        text = _with(text, name, value)
    text = _with_checksum(text, checksum(_object(text)))
    write_atomically(path, text.encode())
    return True


def _object(text: str) -> dict:
    fields = json.loads(text)
    if not isinstance(fields, dict) or not fields:
        raise ValueError("no JSON object with a field")
    return fields


def _with_checksum(text: str, value: str) -> str:
    return _with(text, FIELD, value)


def _with(text: str, name: str, value) -> str:
    """The JSON object `text`, which has fields, with one more at its end."""
    body = text.rstrip()
    rest = text[len(body) :]
    return f"{body[:-1].rstrip()},{json.dumps(name)}:{json.dumps(value)}}}{rest}"
