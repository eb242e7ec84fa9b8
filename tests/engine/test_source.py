"""Which code a run's digest covers, and which its analysis': read from the imports."""

import shutil

import pytest
from helpers_core import ROOT, load_tasks, tiny

from gfrlib.engine import chain, source
from gfrlib.engine.store import NoStore

RUN, BOTH = source.code_digest.__wrapped__, source.analysis_digest.__wrapped__


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A copy of gfrlib to change."""
    ignore = shutil.ignore_patterns("__pycache__")
    folder = shutil.copytree(ROOT / "gfrlib", tmp_path / "gfrlib", ignore=ignore)
    monkeypatch.setattr(source, "GFRLIB", folder)
    return folder


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
    before = RUN(), BOTH()
    path = library / f"{module}.py"
    path.write_text(path.read_text() + "\nADDED = 1\n")
    assert (RUN() != before[0], BOTH() != before[1]) == (run, analysis)


def test_a_module_that_is_imported_anew_counts_from_then_on(library):
    before = RUN()
    (library / "engine" / "extra.py").write_text("FACTOR = 1\n")
    assert RUN() == before
    losses = library / "losses.py"
    text = losses.read_text()
    losses.write_text(text + "\n\ndef f():\n    from gfrlib.engine import extra\n")
    first = RUN()
    (library / "engine" / "extra.py").write_text("FACTOR = 2\n")
    assert RUN() != first != before


def test_comments_docstrings_and_layout_do_not_count(library):
    before = RUN(), BOTH()
    for name in ("losses", "similarity"):
        path = library / f"{name}.py"
        text = path.read_text()
        start = text.index('"""')
        text = text[: start + 3] + "Another word. " + text[start + 3 :]
        path.write_text("# a comment\n" + text)
    assert (RUN(), BOTH()) == before


def test_a_raised_result_version_takes_no_stage_of_the_old_one(monkeypatch):
    """What config.py says of a run (such as `fixed`) is in no digest of the code."""
    config, stream = tiny("gfr"), load_tasks(tiny("gfr"))
    before = chain.Chain(config, stream, NoStore()).key
    assert chain.Chain(config, stream, NoStore()).key == before
    monkeypatch.setattr(chain, "RESULT_VERSION", chain.RESULT_VERSION + 1)
    assert chain.Chain(config, stream, NoStore()).key != before
