"""Parameters of chapters: what is unknown or mistyped is refused, whoever set it."""

import json

import pytest
from conftest import cells
from small_book import papermill, small_fixture, write_notebook  # noqa: F401

from gfrlib.book import chapters
from gfrlib.book.parameters import check_parameters, from_text, typed
from gfrlib.config import UserError


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"bse": 2}, "Unknown parameter 'bse' .did you mean 'base'.*base, rate, name"),
        ({"base": 2.5}, "'base' must be int, not float"),
        ({"base": "three"}, "'base' must be int, not str"),
        ({"base": True}, "'base' must be int, not bool"),
        ({"rate": "1e-x"}, "'rate' must be float"),
        ({"name": 3}, "'name' must be str, not int"),
        ({"base": None}, "'base' must be int"),
    ],
)
def test_bad_parameters_are_refused_before_anything_runs(small, values, sentence):
    with pytest.raises(UserError, match=sentence):
        chapters.run("01_small", values)
    assert not (small / "build").exists()


PARAMETERS = (
    "from gfrlib.book.parameters import check_parameters\nbase: int = 4\nname: str = ''"
)


@pytest.mark.parametrize(
    "cells, values, sentence",
    [
        # the injected cell of a failed copy, corrected and run again
        (["# Parameters\nbse = 2", "# Parameters\nbase = 2"], {"base": 2}, None),
        (["# Parameters\nbase = 2", "# Parameters\nbse = 2"], {}, "parameter 'bse'"),
        (["# Parameters\nbse = 2", PARAMETERS], {}, None),
        # the reader's own cells
        (["# Parameters of my plot\nlw = 3"], {}, None),
        (["found: list = []"], {}, None),
        (["threshold: float = 0.5"], {"base": "wrong"}, "'base' must be int"),
    ],
)
def test_of_what_was_run_the_last_counts(cells, values, sentence):
    space = {"In": ["", PARAMETERS, *cells], "base": 4, "name": "", **values}
    if sentence is None:
        return check_parameters(space)
    with pytest.raises(UserError, match=sentence):
        check_parameters(space)


@pytest.mark.parametrize(
    "name, value, types, sentence",
    [
        ("seeds", 0, (int,), "'seeds' must be at least 1"),
        ("seeds", 101, (int,), "'seeds' must be at most 100"),
        ("base", -1, (int,), "'base' must be at least 1"),
        ("tasks", 0, (int,), "'tasks' must be at least 1"),
        ("width", 10**9, (int,), "'width' must be at most 4096"),
        pytest.param(
            "few", 10**5000, (int,), "not a number of more than 40 digits", id="long"
        ),
        ("rate", float("nan"), (float,), "a finite number"),
        ("rate", 1e300, (float,), "a finite number"),
        ("folder", "a\0b", (str,), "no text"),
        ("folder", "\udcff", (str,), "no text"),
    ],
)
def test_a_value_out_of_bounds_is_one_sentence(name, value, types, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        typed(name, value, types)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text", ["../my data #2: set", "2021", "on", "~", "1e-3", "- a", "{x", "'"]
)
def test_text_for_a_str_arrives_as_it_stands(small, text):
    """Through the command, papermill and the kernel; YAML would cut or retype it."""
    write_notebook(small / "book/01_small.ipynb", "print(repr(name))")
    copy = chapters.run("01", {"name": text})[0]
    assert cells(copy)[-1]["outputs"][0]["text"] == f"{text!r}\n"


def test_text_from_a_command_line_is_read_as_the_type():
    assert from_text("1e-3", (float,)) == 0.001
    assert from_text("3", (int,)) == 3 and from_text("3", (str,)) == "3"
    assert from_text("False", (bool,)) is False
    assert from_text("none", (int, type(None))) is None
    assert from_text("nan?", (int,)) == "nan?"


def test_unknown_chapter_and_bad_parameter_cells(small):
    with pytest.raises(UserError, match="There is no chapter '09'; there are 01_small"):
        chapters.run("09")
    notebook = json.loads((small / "book/01_small.ipynb").read_text())
    notebook["cells"][0]["source"] = "base = 4"
    (small / "book/01_small.ipynb").write_text(json.dumps(notebook))
    with pytest.raises(UserError, match="a parameter is written 'name: type = value"):
        chapters.run()
    notebook["cells"][0]["metadata"]["tags"] = []
    (small / "book/01_small.ipynb").write_text(json.dumps(notebook))
    with pytest.raises(UserError, match="one cell tagged 'parameters', not 0"):
        chapters.run()


def test_check_parameters_under_plain_papermill(tmp_path):
    """As How to run it says: `-p` takes 1e-3 for a number, and `-r` text as it is."""
    write_notebook(tmp_path / "a.ipynb", body="base = accuracy = 0.5")
    words = ["-p", "base", "2", "-p", "rate", "1e-3", "-r", "name", "2021"]
    done = papermill(tmp_path / "a.ipynb", tmp_path / "good.ipynb", *words)
    assert done.returncode == 0, done.stderr
    for wrong, sentence in (
        (["bse", "2"], "Unknown parameter 'bse' (did you mean 'base'?)"),
        (["_hidden", "2"], "Unknown parameter '_hidden'"),
        (["rate", "high"], "'rate' must be float"),
        (["name", "2021"], "'name' must be str"),
        (["base", "0"], "'base' must be at least 1"),
    ):
        done = papermill(tmp_path / "a.ipynb", tmp_path / "bad.ipynb", "-p", *wrong)
        assert done.returncode == 1 and sentence in done.stderr


def test_check_parameters_never_complains_of_the_readers_own_names():
    history = ["", "import os\nbase: int = 4", "accuracy = 0.9  # Parameters", "!pip x"]
    check_parameters({"In": history, "base": 4, "accuracy": 0.9, "x": 3})
    history = ["base: int | None = None"]
    check_parameters({"In": history, "base": None})
    with pytest.raises(UserError, match="'base' has no value"):
        check_parameters({"In": history})
    with pytest.raises(UserError, match="'base' must be int or NoneType, not str"):
        check_parameters({"In": history, "base": "4"})


def test_check_parameters_reads_the_cell_as_it_was_run_last():
    history = [
        "base: int = 4",
        "# Parameters\nbase = 2",
        "base: int = 4\nrate: float = 1.0",
    ]
    check_parameters({"In": history, "base": 2, "rate": 1.0})
    with pytest.raises(UserError, match="Unknown parameter 'bse'.*'base'"):
        check_parameters(
            {"In": [*history, "# Parameters\nbse = 2"], "base": 2, "rate": 1}
        )
    with pytest.raises(UserError, match="run the chapter's parameters cell"):
        check_parameters({"In": ["x = 3"], "x": 3})
    with pytest.raises(UserError, match="written 'name: type = value"):
        check_parameters({"In": ["base: list = 4"], "base": 4})
