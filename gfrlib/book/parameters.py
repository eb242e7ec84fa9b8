"""Parameters of chapters: declared in one cell, checked in the next, whoever sets them.

A chapter's cell tagged "parameters" holds imports and lines
``name: type = value  # meaning``; types are int, float, str, bool, None, or several of
them with ``|``.
"""

import ast
import difflib
from pathlib import Path

from IPython import get_ipython

from gfrlib.book import notebooks
from gfrlib.config import DECLARED, UserError
from gfrlib.engine import values

SCALARS = {"int": int, "float": float, "str": str, "bool": bool, "None": type(None)}
Types = tuple[type, ...]
# Lowest and highest whole number, where it is not that of a setting of the same name,
# and at least 1.
BOUNDS = {"seeds": (1, 100), "ablation_seeds": (1, 100), "": (1, 10**6)}
BOUNDS["side"] = (0, 4096)  # pixels; 0: a chapter's own choice
LARGEST = 1e30  # of other numbers


def check_parameters(namespace: dict | None = None) -> None:
    """Refuse unknown chapter parameters and mistyped values; the next cell calls it.

    The names and types are read from the parameters cell itself, in IPython's input
    history: the last cell of imports and typed assignments only, and of such cells one
    that imports this function. Values are checked however they came in (an int is a
    float too, a bool is no int). papermill writes what it is given into a cell of its
    own and runs it whether the chapter knows the name or not. That cell is recognised
    by its first line, and every name it sets must be a parameter; the last run after
    the parameters counts, so that a corrected one is taken.

    namespace: the notebook's variables (default: those of the running IPython). Raises
    UserError, so that plain ``papermill`` fails too.
    """
    if namespace is None:
        namespace = get_ipython().user_ns
    history = [_parsed(source) for source in namespace.get("In", ())]
    cells = [k for k, (_, body) in enumerate(history) if _is_parameters(body)]
    cells = [k for k in cells if _imports_this(history[k][1])] or cells
    if not cells:
        raise UserError(
            "No cell with lines 'name: type = value' was run; run the chapter's "
            "parameters cell before this one."
        )
    known = _read(history[cells[-1]][1], "The parameters cell")
    injected = [
        body
        for source, body in history[cells[-1] + 1 :]
        if source.strip().partition("\n")[0].rstrip() == "# Parameters"
    ]
    for body in injected[-1:]:
        for name in _assigned(body):
            check_name(name, known)
    for name, (types, _) in known.items():
        if name not in namespace:
            raise UserError(
                f"Parameter '{name}' has no value; give it one in the parameters cell."
            )
        typed(name, namespace[name], types)


def _parsed(source: str) -> tuple[str, list]:
    """(source, its statements); none where it is no plain Python (``!pip``)."""
    try:
        return source, ast.parse(source).body
    except SyntaxError:
        return source, []


def _is_parameters(body: list) -> bool:
    allowed = (ast.Import, ast.ImportFrom, ast.AnnAssign)
    typed_lines = [line for line in body if isinstance(line, ast.AnnAssign)]
    return bool(typed_lines) and all(isinstance(line, allowed) for line in body)


def _imports_this(body: list) -> bool:
    return any(
        alias.name == check_parameters.__name__
        for line in body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    )


def _assigned(body: list) -> list[str]:
    assignments = [line for line in body if isinstance(line, ast.Assign)]
    return [target.id for line in assignments for target in line.targets]


def _read(body: list, where: str) -> dict[str, tuple[Types, object]]:
    """Name → (types, default) of the lines ``name: type = value`` among statements."""
    found = {}
    for line in body:
        if isinstance(line, (ast.Import, ast.ImportFrom)):
            continue
        try:
            words = ast.unparse(line.annotation).split("|")
            types = tuple(SCALARS[word.strip()] for word in words)
            found[line.target.id] = types, ast.literal_eval(line.value)
        except (AttributeError, KeyError, ValueError) as problem:
            raise UserError(
                f"{where}: a parameter is written 'name: type = value  # meaning', "
                f"not '{ast.unparse(line)}'."
            ) from problem
    return found


def declared(chapter: Path) -> dict[str, tuple[Types, object]]:
    """Name → (types, default) of the parameters of a notebook.

    Raises UserError unless one cell is tagged "parameters", with such lines only.
    """
    cells = [
        "".join(cell["source"])
        for cell in notebooks.read(chapter)["cells"]
        if "parameters" in cell["metadata"].get("tags", [])
    ]
    if len(cells) != 1:
        raise UserError(
            f"{chapter.name} must have one cell tagged 'parameters', not {len(cells)}."
        )
    return _read(ast.parse(cells[0]).body, chapter.name)


def check_name(name: str, allowed) -> None:
    """Raise UserError, with the nearest name, unless the parameter exists."""
    if name not in allowed:
        near = difflib.get_close_matches(name, allowed, 1)
        meant = f" (did you mean '{near[0]}'?)" if near else ""
        known = ", ".join(allowed) or "none"
        raise UserError(f"Unknown parameter '{name}'{meant}; there are {known}.")


def typed(name: str, value, types: Types):
    """The value as one of the parameter's types, and within bounds, or a UserError.

    A whole number counts something: it is at least 1, if BOUNDS does not say otherwise.
    Text can be shown.
    """
    try:
        value = values.typed(value, types)
    except ValueError:
        kinds = " or ".join(kind.__name__ for kind in types)
        kind = type(value).__name__
        raise UserError(
            f"Parameter '{name}' must be {kinds}, not {kind} ({values.shown(value)})."
        ) from None
    _check_value(name, value)
    return value


def _check_value(name: str, value) -> None:
    if type(value) is int:
        low, high = _bounds(name)
        if not low <= value <= high:
            where = f"at least {low}" if value < low else f"at most {high}"
            raise UserError(
                f"Parameter '{name}' must be {where}, not {values.shown(value)}."
            )
    elif type(value) is float and not abs(value) <= LARGEST:
        raise UserError(f"Parameter '{name}' must be a finite number, not {value}.")
    elif type(value) is str and not _is_text(value):
        raise UserError(
            f"Parameter '{name}' holds characters that are no text: {value!r}."
        )


def _bounds(name: str) -> tuple[int, int]:
    if name in BOUNDS or name not in DECLARED:
        return BOUNDS.get(name, BOUNDS[""])
    low, high = DECLARED[name]["bounds"]
    return max(1, low), high


def _is_text(value: str) -> bool:
    """Whether a notebook can hold it: no NUL and no half of a character."""
    return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def from_text(value, types: Types):
    """A value from the command line as the parameter's type if possible, else as is."""
    try:
        return values.from_text(value, types) if isinstance(value, str) else value
    except ValueError:
        return value
