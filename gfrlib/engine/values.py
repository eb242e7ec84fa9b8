"""One reading of values, for the command line, grid files and chapters."""

WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
KINDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text",
    type(None): "none",
}  # fmt: skip


def from_text(text: str, kinds: tuple[type, ...]):
    """Text as one of these types: bool, int, float, None, or the text as it stands.

    Text comes last. Raises ValueError, whose message says what was wanted.
    """
    for kind in sorted(kinds, key=lambda kind: kind is str):
        try:
            if kind is bool:
                return WORDS[text.lower()]
            if kind is type(None):
                return {"none": None, "null": None}[text.lower()]
            return kind(text)
        except (KeyError, ValueError):
            continue
    raise ValueError(wanted(kinds))


def typed(value, kinds: tuple[type, ...]):
    """The value, if it has one of these types; an int serves as a float.

    Raises ValueError, whose message says what was wanted.
    """
    if type(value) in kinds:
        return value
    if type(value) is int and float in kinds:
        try:
            return float(value)
        except OverflowError:
            return float("inf")
    raise ValueError(wanted(kinds))


def wanted(kinds: tuple[type, ...]) -> str:
    """The types in words."""
    return " or ".join(KINDS[kind] for kind in kinds)
