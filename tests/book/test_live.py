"""The line of a running notebook."""

from types import SimpleNamespace

import pytest

from gfrlib.book import live, results, verdict_page
from gfrlib.config import make_config
from gfrlib.lab import experiments


@pytest.fixture
def notebook(monkeypatch):
    """A kernel's shell; returns the texts that its one line has held."""
    held = []

    def display(data, *, raw, display_id):
        assert raw and display_id and not held, "one line, then changes of it"
        held.append(data["text/plain"])
        return SimpleNamespace(update=lambda d, raw: held.append(d["text/plain"]))

    monkeypatch.delenv(live.QUIET, raising=False)
    monkeypatch.setattr(live, "get_ipython", lambda: SimpleNamespace(kernel=1))
    monkeypatch.setattr(live, "display", display)
    return held


def test_a_line_changes_once_a_second_and_ends_empty(notebook):
    line = live.Line("GFR", clock=iter([10.0, 10.5, 11.2, 11.3]).__next__)
    for step in (1, 2, 3, 4):
        line(2, "classifier", step, 400, {})
    line.close()
    told = [f"GFR: task 2, classifier, step {step} of 400 …" for step in (1, 3)]
    assert notebook == [*told, ""]


def test_a_run_that_is_loaded_shows_no_line(notebook):
    live.report("GFR").close()
    assert notebook == []


def test_only_a_notebook_of_a_readers_has_a_line(notebook, monkeypatch):
    assert isinstance(live.report("GFR"), live.Line)
    monkeypatch.setenv(live.QUIET, "1")  # the book is made
    assert live.report("GFR") is None
    monkeypatch.delenv(live.QUIET)
    for shell in (None, SimpleNamespace()):  # Python, IPython in a terminal
        monkeypatch.setattr(live, "get_ipython", lambda shell=shell: shell)
        assert live.report("GFR") is None


def test_a_readers_notebook_has_no_links_that_lead_nowhere(notebook, monkeypatch):
    assert verdict_page.link("fig-comparison-tasks") == "chapter\u00a09"
    assert live.link("guide", "guide") == "guide"
    monkeypatch.setenv(live.QUIET, "1")  # the book is made
    found = verdict_page.link("fig-comparison-tasks")
    assert found == "[chapter\u00a09](#fig-comparison-tasks)"
    assert live.link("guide", "guide") == "[guide](#guide)"


def test_rows_are_trained_under_their_names(notebook, monkeypatch):
    def train(config, *, analyse, report):
        report(0, "classifier", 1, 9, {})
        return config.seed

    monkeypatch.setattr(experiments, "run_or_load", train)
    assert results.trained("quick", ["gfr"], 1) == {"gfr": [0]}
    assert notebook == ["GFR, GAN, seed 0: task 0, classifier, step 1 of 9 …", ""]


def test_the_line_is_emptied_where_training_fails(notebook, monkeypatch):
    def train(config, *, analyse, report):
        report(0, "classifier", 1, 9, {})
        raise ValueError

    monkeypatch.setattr(experiments, "run_or_load", train)
    with pytest.raises(ValueError):
        results.run_or_load(make_config("quick", "finetune"))
    assert notebook[-1] == ""
