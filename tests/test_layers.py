"""The import rule of the architecture, read from the source: which module may know which."""

import ast
import sys
from pathlib import Path

import pytest

import gfrlib

FOLDER = Path(gfrlib.__file__).parent
MODULES = sorted(p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("__"))
FIRST = {"config", "networks", "losses", "metrics", "similarity"}  # import nothing of gfrlib but config
SECOND = {"tasks", "penalties", "replay"}  # import the first layer (and replay's networks)
CORE = FIRST | SECOND | {"training"}
ENGINE = {"augment", "distributed", "machine", "streams"}  # know config only; the core runs on them
DRAWING = {"matplotlib", "seaborn", "mpl_toolkits"}
HEAVY = {"torch", "sklearn", "torchvision", "PIL", "IPython", "papermill", "pandas", "ipywidgets", "nbformat", "nbclient",
         "tqdm", "yaml", "matplotlib", "matplotlib_inline", "seaborn", "ray"}
MAY_IMPORT_OURS_LATE = {"cli"}  # a command loads only what it needs: --help and bad input answer at once


def imports(module: str) -> list[tuple[str, bool, int]]:
    """(imported name, inside a function, line) of every import statement."""
    tree, found = ast.parse((FOLDER / f"{module}.py").read_text()), []

    def walk(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((a.name, inside, child.lineno) for a in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{module}:{child.lineno} imports relatively"
                found.extend((f"{child.module}.{a.name}", inside, child.lineno) for a in child.names)
            walk(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    walk(tree, False)
    return found


def ours(module: str) -> set[str]:
    """Modules of gfrlib that this one imports anywhere."""
    names = set()
    for name, _, _ in imports(module):
        parts = name.split(".")
        if parts[0] == "gfrlib" and len(parts) > 1 and parts[1] in MODULES:
            names.add(parts[1])
    return names


def test_the_reader_of_imports_sees_them():
    assert ours("training") >= {"losses", "networks", "penalties", "replay", "tasks", "config"}
    assert any(name.startswith("sklearn") and inside for name, inside, _ in imports("datasets"))


@pytest.mark.parametrize("module", MODULES)
def test_import_rule(module):
    if module in FIRST:
        assert ours(module) <= {"config"}
    elif module in SECOND:
        assert ours(module) <= FIRST | ENGINE
    elif module in ENGINE:
        assert ours(module) <= {"config"}
    elif module == "training":
        assert ours(module) <= FIRST | SECOND | ENGINE
    if module == "config":
        assert not ours(module)


@pytest.mark.parametrize("module", MODULES)
def test_only_plots_draws(module):
    drawing = [(name, line) for name, _, line in imports(module) if name.split(".")[0] in DRAWING]
    assert module == "plots" or not drawing


@pytest.mark.parametrize("module", MODULES)
def test_only_heavy_packages_are_imported_inside_functions(module):
    for name, inside, line in imports(module):
        package = name.split(".")[0]
        allowed = package in HEAVY or package in sys.stdlib_module_names or (
            package == "gfrlib" and module in MAY_IMPORT_OURS_LATE)
        assert not inside or allowed, f"{module}.py:{line} imports {name} inside a function"


def test_metrics_is_numpy_only():
    assert {name.split(".")[0] for name, _, _ in imports("metrics")} == {"numpy"}


def test_there_are_no_cycles():
    edges, done = {m: ours(m) for m in MODULES}, set()

    def visit(module, path):
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for other in edges[module]:
                visit(other, [*path, module])
            done.add(module)

    for module in MODULES:
        visit(module, [])


def test_the_core_is_short_and_algorithm_1_fits_on_a_screen():
    lines = sum(len((FOLDER / f"{m}.py").read_text().splitlines()) for m in CORE if (FOLDER / f"{m}.py").exists())
    assert lines <= 2130  # 1,400 were planned; 21 rows, similarity, kinds of drift, processes and compilation took more
    tree = ast.parse((FOLDER / "training.py").read_text())
    run = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "run")
    assert run.end_lineno - run.lineno + 1 <= 45


def test_no_module_is_a_drawer():
    assert not {"utils", "util", "common", "helpers", "misc"} & set(MODULES)
