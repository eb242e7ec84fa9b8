"""Digests of the library's own code: what can change a run, and what its analysis.

A digest covers a module and, file by file, every module of gfrlib that it imports. It
follows code and not comments, docstrings or layout.
"""

import ast
import functools
import hashlib
from pathlib import Path

GFRLIB = Path(__file__).resolve().parents[1]
# A run: the training, what brings its data, what is written down of it.
RUN = ("training", "lab.runs")
ANALYSIS = ("lab.analysis",)
# What these say reaches a run as values of its settings, which are part of a record's
# identity and of a stage's key already.
SETTINGS = {"config", "methods"}


@functools.cache
def code_digest() -> str:
    """Twelve hexadecimal digits over the code that can change a run."""
    return _digest(RUN)


@functools.cache
def analysis_digest() -> str:
    """The same for a run's analysis: it depends on the run's code, too."""
    return _digest((*RUN, *ANALYSIS))


def closure(roots: tuple[str, ...]) -> list[str]:
    """The modules and all that they import, sorted, such as "lab.runs"; no SETTINGS."""
    found, waiting = set(), list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found | SETTINGS:
            found.add(name)
            waiting += _imports(_file(name))
    return sorted(found)


def _digest(roots: tuple[str, ...]) -> str:
    sha = hashlib.sha256()
    for name in closure(roots):
        tree = ast.parse(_file(name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            _drop_docstring(node)
        sha.update(ast.unparse(tree).encode())
    return sha.hexdigest()[:12]


def _file(name: str) -> Path:
    return GFRLIB / (name.replace(".", "/") + ".py")


def _imports(path: Path) -> list[str]:
    """Modules of gfrlib that a file imports, anywhere in it, named below gfrlib."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module]
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    below = [name.removeprefix("gfrlib.") for name in found if name[:7] == "gfrlib."]
    return [name for name in below if _file(name).is_file()]


def _drop_docstring(node: ast.AST) -> None:
    body = getattr(node, "body", None)
    if not isinstance(body, list) or not body or not isinstance(body[0], ast.Expr):
        return
    value = body[0].value
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        value.value = ""
