"""Which code a run's digest covers, and which its analysis': read from the imports."""

import ast
import functools
import os
import shutil
import subprocess

import pytest
from helpers_core import ROOT, load_tasks, tiny

from gfrlib.config import UserError
from gfrlib.engine import chain, source
from gfrlib.engine.store import NoStore
from gfrlib.lab import experiments


@pytest.fixture
def library(tmp_path):
    """A copy of gfrlib to change."""
    ignore = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(ROOT / "gfrlib", tmp_path / "gfrlib", ignore=ignore)


def run_digest(library):
    return source.digest_of(source.texts(library), source.RUN)


def digests(library):
    both = (*source.RUN, *source.ANALYSIS)
    return run_digest(library), source.digest_of(source.texts(library), both)


def test_the_closure_follows_imports_from_file_to_file():
    run = set(source.closure(source.RUN))
    changing_a_run = {"training", "losses", "networks", "tasks", "replay", "penalties"}
    changing_a_run |= {"engine.machine", "engine.augment", "engine.store"}
    changing_a_run |= {"lab.datasets", "lab.folders", "lab.arrays", "lab.runs"}
    changing_a_run |= {"lab.surveys", "lab.decoding", "lab.class_lists"}
    assert changing_a_run <= run
    assert "config" not in run, "its values are part of the settings' digest"
    assert not {"similarity", "lab.analysis", "lab.experiments", "cli"} & run
    of_analyses = {"similarity", "lab.analysis", "lab.layers", "lab.replayed"}
    assert of_analyses <= set(source.closure(source.ANALYSIS))


@pytest.mark.parametrize(
    "module, run, analysis",
    [
        ("losses", True, True),
        ("engine/machine", True, True),
        ("lab/datasets", True, True),
        ("lab/folders", True, True),
        ("lab/arrays", True, True),
        ("lab/runs", True, True),
        ("conditions", True, True),
        ("similarity", False, True),
        ("lab/layers", False, True),
        ("lab/analysis", False, True),
        ("lab/grids", False, False),
        ("lab/records", False, False),
        ("config", False, False),
        ("book/figures", False, False),
    ],
)
def test_what_a_change_makes_stale(library, module, run, analysis):
    before = digests(library)
    path = library / f"{module}.py"
    path.write_text(path.read_text() + "\nADDED = 1\n")
    after = digests(library)
    assert (after[0] != before[0], after[1] != before[1]) == (run, analysis)


def test_a_module_that_is_imported_anew_counts_from_then_on(library):
    before = run_digest(library)
    (library / "engine" / "extra.py").write_text("FACTOR = 1\n")
    assert run_digest(library) == before
    losses = library / "losses.py"
    text = losses.read_text()
    losses.write_text(text + "\n\ndef f():\n    from gfrlib.engine import extra\n")
    first = run_digest(library)
    (library / "engine" / "extra.py").write_text("FACTOR = 2\n")
    assert run_digest(library) != first != before


def test_comments_docstrings_and_layout_do_not_count(library):
    before = digests(library)
    for name in ("losses", "similarity"):
        path = library / f"{name}.py"
        text = path.read_text()
        start = text.index('"""')
        text = text[: start + 3] + "Another word. " + text[start + 3 :]
        path.write_text("# a comment\n" + text)
    assert digests(library) == before


def test_a_docstring_that_was_not_there_does_not_count(library):
    losses = library / "losses.py"
    text = losses.read_text()
    losses.write_text(text + "\n\ndef extra():\n    return 1\n")
    before = run_digest(library)
    losses.write_text(text + '\n\ndef extra():\n    """One."""\n    return 1\n')
    assert run_digest(library) == before
    losses.write_text(text + '\n\ndef extra():\n    """One."""\n    return 2\n')
    assert run_digest(library) != before


def test_the_digests_of_this_process_are_those_of_its_files():
    here = digests(ROOT / "gfrlib")
    assert (source.code_digest(), source.analysis_digest()) == here


@pytest.mark.parametrize("version", ["3.12", "3.13", "3.14"])
def test_another_python_is_not_other_code(version):
    words = "from gfrlib.engine import source; print(source.code_digest())"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYENV_VERSION": version}
    ask = functools.partial(
        subprocess.run, env=env, capture_output=True, text=True, check=True
    )
    try:
        ask([f"python{version}", "-c", "pass"])
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"no Python {version} here")
    found = ask([f"python{version}", "-c", words])
    assert found.stdout.strip() == source.code_digest()


def test_a_tree_is_told_without_what_is_empty():
    tree = ast.parse("def f(x):\n    return x + 1  # more\n")
    assert source.told(tree) == (
        "Module(body=[FunctionDef(name='f',args=arguments(args=[arg(arg='x')]),"
        "body=[Return(value=BinOp(left=Name(id='x'),op=Add(),right=Constant(value=1)))]"
        ")])"
    )


def test_code_that_changes_under_a_process_is_refused(library, monkeypatch, tmp_path):
    """An edited library under a running notebook: neither its results nor those of
    later processes would belong to the code that they name.
    """
    began = source.texts(library)
    monkeypatch.setattr(source, "AT_START", began)
    monkeypatch.setattr(source, "texts", functools.partial(source.texts, library))
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "home"))
    source.check_unchanged()
    losses = library / "losses.py"
    losses.write_text(losses.read_text() + "# a comment\n")
    (library / "book" / "words.py").write_text("")
    source.check_unchanged()
    losses.write_text(losses.read_text() + "ADDED = 1\n")
    with pytest.raises(UserError, match=r"changed on disk .*\(.*losses.*restart"):
        source.check_unchanged()
    with pytest.raises(UserError, match="restart it"):
        experiments.run_or_load(tiny("gfr-gaussian"))
    losses.write_text("def half_written(\n")
    with pytest.raises(UserError, match=r"\(.*losses.*restart"):
        source.check_unchanged()
    (library / "training.py").unlink()
    with pytest.raises(UserError, match="restart it"):
        source.check_unchanged()
    assert not (tmp_path / "home").exists()


def test_a_raised_result_version_takes_no_stage_of_the_old_one(monkeypatch):
    """What config.py declares of a run is in no digest of the code."""
    config, stream = tiny("gfr"), load_tasks(tiny("gfr"))
    before = chain.Chain(config, stream, NoStore()).key
    assert chain.Chain(config, stream, NoStore()).key == before
    monkeypatch.setattr(chain, "RESULT_VERSION", chain.RESULT_VERSION + 1)
    assert chain.Chain(config, stream, NoStore()).key != before
