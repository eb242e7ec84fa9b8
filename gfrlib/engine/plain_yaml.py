"""YAML of which nothing but plain data can come: what a reader's file may say.

Text, numbers in decimal digits, true and false, null, lists, and tables whose names are
text and stand once. Anchors and tags are refused, dates and numbers in other bases are
text: they are how a small file becomes a large object, or a number another one than it
looks. 1e-3 is a number.
"""

import re
import unicodedata
from pathlib import Path

import yaml

from gfrlib.config import UserError
from gfrlib.engine import paths

MOST_BYTES = 256 << 10
DEEPEST = 20  # lists and tables inside each other, with what lies in the last
LONGEST_NUMBER = 40  # characters of a whole number


def read(path: str | Path, what: str) -> object:
    """The content of a YAML file; `what` it is begins the sentence of a UserError."""
    text = paths.text_of(path, what, MOST_BYTES)
    loader = None
    try:
        loader = _Plain(text)
        return loader.get_single_data()
    except _Refused as problem:
        raise UserError(f"{what} '{path}', {problem}.") from None
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        where = f"line {mark.line + 1}" if mark else "somewhere"
        said = problem.problem or problem.context
        raise UserError(f"{what} '{path}' is not YAML: {where}, {said}.") from None
    except yaml.YAMLError as problem:
        said = " ".join(str(problem).split())
        raise UserError(f"{what} '{path}' is not YAML: {said}.") from None
    finally:
        if loader is not None:
            loader.dispose()


class _Refused(Exception):
    """What is YAML, but not plain: says where, and what."""

    def __init__(self, node, said: str):
        super().__init__(f"line {node.start_mark.line + 1}: {said}")


class _Plain(yaml.SafeLoader):
    """PyYAML's safe loader without all that is not plain data."""

    yaml_implicit_resolvers: dict = {}
    yaml_constructors: dict = {}
    depth = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _Refused(event, "anchors (& and *) are not read; write it out")
        if event.tag is not None:
            raise _Refused(event, f"the tag {event.tag} is not read; leave it out")
        if self.depth == DEEPEST:
            raise _Refused(event, f"more than {DEEPEST} lists inside each other")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node, deep=True) -> dict:
        found = {}
        for name_node, value_node in node.value:
            name = self.construct_object(name_node, deep=True)
            if not isinstance(name, str):
                raise _Refused(name_node, "a name must be text (in quotes if need be)")
            if name in found:
                raise _Refused(name_node, f"'{name}' stands there twice")
            found[name] = self.construct_object(value_node, deep=True)
        return found

    def text(self, node) -> str:
        for character in node.value:
            if unicodedata.category(character) in ("Cc", "Cs"):
                said = "a character that cannot be shown stands in a text"
                raise _Refused(node, said)
        return node.value

    def whole(self, node) -> int:
        if len(node.value) > LONGEST_NUMBER:
            raise _Refused(node, f"a number of {len(node.value)} digits")
        return int(node.value)

    def number(self, node) -> float:
        return float(node.value.replace(".inf", "inf").replace(".nan", "nan"))


def _scalar(tag: str, form: str, first: str, construct) -> None:
    form, name = re.compile(rf"(?:{form})\Z"), f"tag:yaml.org,2002:{tag}"
    _Plain.add_implicit_resolver(name, form, list(first) or [""])
    _Plain.add_constructor(name, construct)


_scalar("null", "~|null|", "~n", lambda loader, node: None)
_Plain.yaml_implicit_resolvers[""] = _Plain.yaml_implicit_resolvers["~"]
_scalar("bool", "true|false", "tf", lambda loader, node: node.value == "true")
_scalar("int", "[-+]?(0|[1-9][0-9]*)", "-+0123456789", _Plain.whole)
_scalar(
    "float",
    r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.inf|\.nan",
    "-+.0123456789",
    _Plain.number,
)
_Plain.add_constructor("tag:yaml.org,2002:str", _Plain.text)
_Plain.add_constructor(
    "tag:yaml.org,2002:seq",
    lambda loader, node: [loader.construct_object(n, deep=True) for n in node.value],
)
_Plain.add_constructor(
    "tag:yaml.org,2002:map", lambda loader, node: loader.construct_mapping(node)
)
