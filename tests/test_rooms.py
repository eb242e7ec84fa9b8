"""The rooms of the house, read from the source: which folder may import which."""

import ast
from pathlib import Path

import pytest

import gfrlib

FOLDER = Path(gfrlib.__file__).parent
MODULES = sorted(FOLDER.rglob("*.py"), key=str)
# A room may import itself and these. The root is the paper; `cli` is the door.
MAY = {
    "engine": {"config"},
    "root": {"root", "engine"},
    "lab": {"root", "engine"},
    "book": {"root", "engine", "lab"},
    "cli": {"root", "engine", "lab", "book"},
    "__main__": {"cli"},
}


def name_of(path: Path) -> str:
    """gfrlib/lab/grids.py -> lab.grids"""
    parts = path.relative_to(FOLDER).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(name: str) -> str:
    first = name.split(".")[0]
    return first if first in MAY else "root"


NAMES = {name_of(path) for path in MODULES}


def imports(path: Path) -> set[str]:
    """Names of all modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path) -> set[str]:
    """Modules of gfrlib among them, as names below it."""
    found = set()
    for name in imports(path):
        below = name.removeprefix("gfrlib.")
        if name.startswith("gfrlib."):
            found.add(below if below in NAMES else below.rpartition(".")[0])
    return found - {""}


def test_imports_are_seen():
    assert {"losses", "networks", "tasks", "config"} <= ours(FOLDER / "training.py")
    assert "sklearn.datasets.load_digits" in imports(FOLDER / "lab" / "datasets.py")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_room_imports_only_what_it_may(path):
    room = room_of(name_of(path))
    for other in ours(path):
        may = MAY[room] | {room}
        assert other in may or room_of(other) in may, f"{name_of(path)} knows {other}"


def test_only_the_room_of_the_book_draws():
    for path in MODULES:
        packages = {name.split(".")[0] for name in imports(path)}
        if room_of(name_of(path)) != "book":
            assert not packages & {"matplotlib", "seaborn", "IPython", "ipywidgets"}


def test_metrics_is_numpy_only():
    assert {n.split(".")[0] for n in imports(FOLDER / "metrics.py")} == {"numpy"}


def test_there_are_no_cycles():
    edges, done = {name_of(path): ours(path) for path in MODULES}, set()

    def visit(module, way):
        assert module not in way, " -> ".join([*way, module])
        if module not in done:
            for other in edges[module]:
                visit(other, [*way, module])
            done.add(module)

    for module in edges:
        visit(module, [])


def test_no_module_is_a_drawer():
    drawers = {"utils", "util", "common", "helpers", "misc"}
    assert not drawers & {name.rpartition(".")[2] for name in NAMES}
