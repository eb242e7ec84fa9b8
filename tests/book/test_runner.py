"""The runner: chapters run once, then fresh, then stale; nothing half done is kept."""

import json

import pytest
from conftest import cells
from small_book import small_fixture, write_notebook  # noqa: F401

from gfrlib.book import chapters
from gfrlib.config import UserError, make_config
from gfrlib.lab import records


def test_run_once_then_fresh_then_stale(small, capsys):
    executed = small / "build/src/book/01_small.ipynb"
    assert chapters.check() == ["01_small: not executed yet"]
    assert chapters.run() == [executed] and chapters.check() == []
    before = executed.stat().st_mtime_ns
    chapters.run()
    assert "fresh" in capsys.readouterr().out and executed.stat().st_mtime_ns == before
    assert "papermill" not in json.loads(executed.read_text())["metadata"], (
        "times and paths of this machine"
    )

    (small / "gfrlib/losses.py").write_text("WEIGHT = 2\n")
    assert chapters.check() == [
        "01_small: the notebook, gfrlib or a package changed since it was executed"
    ]
    chapters.run()
    assert chapters.check() == []
    write_notebook(small / "book/01_small.ipynb", body="print(base + 1)")
    assert chapters.check()
    executed.write_text(executed.read_text()[:100])
    assert chapters.check()
    assert chapters.main("check") == 1


def test_other_parameters_do_not_touch_the_site(small):
    chapters.run()
    copy = chapters.run("01", {"base": "2"})[0]
    assert copy == small / "build/runs/01_small.ipynb" and chapters.check() == []
    assert json.loads(copy.read_text())["metadata"]["gfr"]["parameters"] == {"base": 2}
    chapters.run(
        "01_small", {"base": 2, "rate": 1, "name": "digits"}, small / "build/src/book"
    )
    assert chapters.check() == [
        "01_small: executed with other parameters than the book's"
    ]
    chapters.run(parameters={"base": 4})
    assert (
        "injected-parameters" not in (small / "build/runs/01_small.ipynb").read_text()
    ), "only what differs is injected"


def test_a_failing_chapter_leaves_the_old_copy(small):
    executed = chapters.run()[0]
    before = executed.read_text()
    write_notebook(small / "book/01_small.ipynb", body="raise ValueError('too hot')")
    with pytest.raises(
        UserError, match="01_small stopped in cell 3: ValueError: too hot"
    ):
        chapters.run()
    assert executed.read_text() == before and chapters.check()
    assert sorted(path.name for path in executed.parent.iterdir()) == [
        "01_small.failed",
        "01_small.ipynb",
    ]


def looks_for(small, **settings):
    """The small chapter, looking for one recorded run; returns the name of its file."""
    config = make_config("slim", "gfr", **settings)
    words = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    write_notebook(
        small / "book/01_small.ipynb",
        "from gfrlib.book import results\nfrom gfrlib.config import make_config\n"
        f"print(results.find(make_config('slim', 'gfr', {words})))",
    )
    return f"{records.name_of(config, (50, 10, 10, 10, 10, 10))}.json"


def test_a_record_makes_stale_what_looked_for_it(small, monkeypatch):
    monkeypatch.setenv("GFR_HOME", str(small))
    monkeypatch.setenv("GFR_CACHE", str(small / "cache"))
    name, folder = looks_for(small, seed=5), small / "data" / "records"
    executed = chapters.run()[0]
    assert list(json.loads(executed.read_text())["metadata"]["gfr"]["records"]) == [
        name
    ]
    (folder / "another.json").write_text("{}")
    assert chapters.check() == [], "a record that it does not look for"
    for ending in (".json", ".analysis.json", ".analysis.png"):
        path = folder / name.replace(".json", ending)
        path.write_text("{}")
        assert chapters.check() == [
            f"01_small: record {name} changed since it was executed"
        ]
        path.unlink()
        assert chapters.check() == []


def test_a_chapter_that_lists_all_records_is_stale_with_every_name(small, monkeypatch):
    monkeypatch.setenv("GFR_HOME", str(small))
    body = "from gfrlib.lab import records\nprint(len(records.every()))"
    write_notebook(small / "book/01_small.ipynb", body)
    chapters.run()
    (small / "data/records/one.json").write_text("{ }")
    assert chapters.check() == [], "it read the names only"
    (small / "data/records/two.json").write_text("{}")
    assert "list of records changed" in chapters.check()[0]


def test_only_the_picture_of_a_figure_cell_gets_the_caption(small):
    body = (
        "import matplotlib.pyplot as plt\nfrom gfrlib.book import words\n"
        "words.show(plt.subplots()[1], data={'x': [1]})"
    )
    about = {"figure": {"caption": "A figure."}}
    write_notebook(small / "book/01_small.ipynb", body, mystnb=about)
    figure, below = cells(chapters.run()[0])[-2:]
    kinds = [list(output["data"]) for output in figure["outputs"]]
    assert len(kinds) == 1 and any("image/" in kind for kind in kinds[0])
    assert "gfr-provenance" in "".join(below["outputs"][0]["data"]["text/html"])
    assert below["metadata"] == {"tags": ["remove-input"]} and below["source"]


def test_the_folder_of_the_sources_is_refused(small):
    source = small / "book/01_small.ipynb"
    before = source.read_text()
    for parameters in ({}, {"base": 2}):
        with pytest.raises(UserError, match="holds the chapters' sources"):
            chapters.run("01", parameters, small / "book")
    assert source.read_text() == before
