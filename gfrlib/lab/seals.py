"""A checksum inside a JSON file, over everything else that the file says."""

import hashlib
import json

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
    kept = {**others, FIELD: checksum(json.loads(text))}
    return json.dumps(kept, separators=(",", ":")).encode()


def is_damaged(fields: dict) -> bool:
    """Whether they carry another checksum than theirs, or none."""
    return fields.get(FIELD) != checksum(fields)
