"""Digests of the library's own code: what can change a run, and what its analysis.

A digest covers a module and, file by file, every module of gfrlib that it imports, but
for SETTINGS. It follows code and not comments, docstrings or layout, and is the same
under every version of Python. It is that of the files as they were when this process
began: what they say later is not the code that runs here.
"""

import ast
import functools
import hashlib
from pathlib import Path

from gfrlib.config import UserError

GFRLIB = Path(__file__).resolve().parents[1]
# A run: the training, what brings its data, what is written down of it.
RUN = ("training", "lab.runs")
ANALYSIS = ("lab.analysis",)
# What these say reaches a run as values of its settings, which are part of a record's
# identity and of a stage's key already. What a run asks of them is in `conditions`.
SETTINGS = {"config", "methods"}


@functools.cache
def code_digest() -> str:
    """Twelve hexadecimal digits over the code that can change a run."""
    return digest_of(AT_START, RUN)


@functools.cache
def analysis_digest() -> str:
    """The same for a run's analysis: it depends on the run's code, too."""
    return digest_of(AT_START, (*RUN, *ANALYSIS))


def check_unchanged() -> None:
    """Raises UserError where gfrlib's code is another on disk than in this process: a
    result would be kept under the name of code that has not made it.
    """
    now = texts()
    if now == AT_START:
        return
    try:
        same = digest_of(now, (*RUN, *ANALYSIS)) == analysis_digest()
    except (SyntaxError, KeyError):  # half written; a module is gone
        same = False
    if not same:
        changed = [name for name in now if now[name] != AT_START.get(name)]
        raise UserError(
            "gfrlib has changed on disk since this process began "
            f"({', '.join(changed[:3]) or 'a module is gone'}); restart it (in "
            "Jupyter the kernel), so that results and code belong together."
        )


def texts(folder: Path = GFRLIB) -> dict[str, str]:
    """{module, such as "lab.runs": what its file says now}."""
    files = sorted(folder.rglob("*.py"))
    names = (file.relative_to(folder).with_suffix("").as_posix() for file in files)
    return {
        name.replace("/", "."): file.read_text(encoding="utf-8")
        for name, file in zip(names, files, strict=True)
    }


AT_START = texts()


def closure(roots: tuple[str, ...], of: dict | None = None) -> list[str]:
    """The modules and all that they import, sorted, such as "lab.runs"; no SETTINGS."""
    of = AT_START if of is None else of
    found, waiting = set(), list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found | SETTINGS:
            found.add(name)
            waiting += _imports(of, name)
    return sorted(found)


def digest_of(of: dict[str, str], roots: tuple[str, ...]) -> str:
    """The digest of these texts' modules and of all that they import."""
    sha = hashlib.sha256()
    for name in closure(roots, of):
        tree = ast.parse(of[name])
        for node in ast.walk(tree):
            _drop_docstring(node)
        sha.update(told(tree).encode())
    return sha.hexdigest()[:12]


def told(node) -> str:
    """A syntax tree as one line.

    Without its places, and without what is empty: newer versions of Python have more
    fields, which only newer code fills.
    """
    if isinstance(node, list):
        return f"[{','.join(map(told, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = (
        f"{name}={told(value)}"
        for name, value in ast.iter_fields(node)
        if value is not None and value != [] and name not in ("ctx", "type_comment")
    )
    return f"{type(node).__name__}({','.join(fields)})"


def _imports(of: dict[str, str], name: str) -> list[str]:
    """Modules of gfrlib that one imports, anywhere in it, named below gfrlib."""
    found = []
    for node in ast.walk(ast.parse(of[name])):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module]
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    below = [name.removeprefix("gfrlib.") for name in found if name[:7] == "gfrlib."]
    return [name for name in below if name in of]


def _drop_docstring(node: ast.AST) -> None:
    body = getattr(node, "body", None)
    if not isinstance(body, list) or not body or not isinstance(body[0], ast.Expr):
        return
    value = body[0].value
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        del body[0]
