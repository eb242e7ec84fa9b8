"""One reading of values, for the command line, grid files and chapters."""

import re
import unicodedata

WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
KINDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text",
    type(None): "none",
}  # fmt: skip
# Python reads more: 1_0, digits of other scripts, blanks, and numbers of any length.
WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
NUMBER = re.compile(
    r"[+-]?(inf|infinity|nan|([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})"
    r"(e[+-]?[0-9]{1,6})?)",
    re.IGNORECASE,
)
LONGEST = 800  # characters of a message
LONGEST_WORD = 300  # of a piece of it without a blank, such as a path
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # kinds of characters not shown


def counted(number: int, word: str, several: str = "") -> str:
    """'1 claim', '2 claims'; `several`: the plural, where an s does not make it."""
    return f"{number:,} {word if number == 1 else several or f'{word}s'}"


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
            if kind is str:
                return text
            return number(text, kind)
        except (KeyError, ValueError):
            continue
    raise ValueError(wanted(kinds))


def number(text: str, kind: type) -> int | float:
    """Decimal digits as an int or a float (of a float also inf and nan); raises
    ValueError for anything else.
    """
    form = WHOLE if kind is int else NUMBER
    if not form.fullmatch(text):
        raise ValueError(wanted((kind,)))
    return kind(text)


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


def shown(value: object) -> str:
    """The value as Python writes it, which it refuses for very long numbers."""
    if type(value) is int and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    return repr(value)


def line(text: str) -> str:
    """The text as one line of sane length, whatever a reader's name or file put in it.

    Line breaks, escape codes, marks that turn the direction of writing and halves of
    characters are written as such, `\\x1b`; long words, and the whole, are cut in their
    middle. A line that it made is left as it is.
    """
    shown = "".join(map(_shown, text[: 100 * LONGEST]))
    shown = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", _cut_word, shown)
    return _cut(shown, LONGEST)


def _shown(character: str) -> str:
    if character.isascii() and character.isprintable():
        return character
    if unicodedata.category(character) in HIDDEN:
        return character.encode("unicode_escape").decode("ascii")
    return character


LEFT_OUT = " [...] "  # two words of it: what was cut is not too long a second time


def _cut_word(match: re.Match) -> str:
    return _cut(match[0], LONGEST_WORD)


def _cut(text: str, length: int) -> str:
    """The text without its middle, where it is longer than so many characters."""
    if len(text) <= length:
        return text
    half = (length - len(LEFT_OUT)) // 2
    return f"{text[:half]}{LEFT_OUT}{text[-half:]}"
