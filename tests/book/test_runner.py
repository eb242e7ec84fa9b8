"""The runner: chapters run once, then fresh, then stale; nothing half done is kept."""

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from conftest import ROOT, cells
from small_book import small_fixture, write_notebook  # noqa: F401

from gfrlib.book import chapters
from gfrlib.cli import main
from gfrlib.config import UserError, make_config
from gfrlib.lab import records


def test_without_papermill_one_sentence_says_what_to_do(small, monkeypatch):
    """As in Colab, where gfrlib is installed alone."""
    monkeypatch.setattr(chapters, "VERSIONS", ("torch", "papermill-that-is-missing"))
    wanted = "pip install papermill-that-is-missing. In a notebook, change the cell"
    with pytest.raises(UserError, match=wanted):
        chapters.run()


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
    assert main(["book", "check"]) == 2 and "01_small: " in capsys.readouterr().out


def test_the_paths_are_printed_unless_it_is_the_book_as_it_stands(small, capsys):
    assert main(["book", "run"]) == 0 and ".ipynb" not in capsys.readouterr().out
    assert main(["book", "run", "01_small"]) == 0
    assert "build/src/book/01_small.ipynb" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, module",
    [
        ("gfrlib/player.js", ""),
        ("data/search.csv", "example"),
        ("grids/figure.yaml", "verdict_page"),
    ],
)
def test_other_files_that_chapters_read_make_them_stale(small, name, module):
    place, body = small / name, "print(base)"
    place.parent.mkdir(exist_ok=True)
    if name != "gfrlib/player.js":
        chapters.run()
        place.write_text("0")
        assert chapters.check() == [], "it does not read it"
        body += f"  # {module}"
    write_notebook(small / "book/01_small.ipynb", body=body)
    chapters.run()
    place.write_text("1")
    assert "changed since it was executed" in chapters.check()[0]
    chapters.run()
    assert chapters.check() == []
    place.write_text("2")
    assert chapters.check()


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
    stamp = json.loads(executed.read_text())["metadata"]["gfr"]
    assert name in stamp["records"] and len(stamp["records"]) == 2, (
        "and its split said in the other way"
    )
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


def test_a_copy_edited_by_hand_is_not_shown(small):
    """Whatever is edited: an output, a cell, the stamp itself."""
    executed = chapters.run()[0]
    kept = json.loads(executed.read_text())
    assert kept["cells"][-1]["outputs"][0]["text"] == "4\n"

    def edited(change) -> list[str]:
        notebook = json.loads(json.dumps(kept))
        change(notebook)
        executed.write_text(json.dumps(notebook))
        return chapters.check()

    assert edited(lambda n: None) == [], "another layout is the same notebook"
    for change in (
        lambda n: n["cells"][-1]["outputs"][0].update(text="5\n"),
        lambda n: n["cells"][-1].update(source="print(5)"),
        lambda n: n["cells"].pop(),
        lambda n: n["metadata"]["gfr"]["records"].update(x="y"),
        lambda n: n["metadata"]["gfr"].pop("content"),
    ):
        assert edited(change) == ["01_small: its executed copy was edited"]
    for text in ("[]", "", "{}", '{"cells": 3}', "[" * 100_000):
        executed.write_text(text)
        assert "changed since" in chapters.check()[0]
    chapters.run()
    assert chapters.check() == []


def test_two_runs_with_one_target_do_not_share_a_temporary_file(small, monkeypatch):
    """Both execute at once, as two commands would; each ends well."""
    meet, execute = threading.Barrier(2, timeout=60), chapters.notebooks.execute
    names = []

    def together(source, partial, values, folder):
        names.append(partial)
        meet.wait()
        found = execute(source, partial, values, folder)
        meet.wait()
        return found

    monkeypatch.setattr(chapters.notebooks, "execute", together)
    source, target = small / "book/01_small.ipynb", small / "01_small.ipynb"
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(
                chapters._execute, source, target, {}, chapters.digest(source, {})
            )
            for _ in range(2)
        ]
        for one in both:
            one.result()
    assert len(set(names)) == 2 and chapters.stale(source, target) == ""
    assert not list(small.glob(".*")), "a temporary file is left"


def test_ctrl_c_ends_the_kernels(small, monkeypatch):
    """The chapter would wait for an hour."""
    if not hasattr(signal, "pthread_kill"):
        pytest.skip("no signal to one thread here")
    started = small / "started"
    body = f"import time; open({str(started)!r}, 'w').close(); time.sleep(3600)"
    write_notebook(small / "book/01_small.ipynb", body)

    def interrupt():
        while not started.exists():
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    others = psutil.Process().children()  # the browser tests' own, in one process
    threading.Thread(target=interrupt, daemon=True).start()
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            chapters.run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 120
    assert set(psutil.Process().children()) <= set(others)
    assert list((small / "build/src/book").iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": [1]}', "[" * 100_000])
def test_a_damaged_source_is_one_sentence(small, text):
    (small / "book/01_small.ipynb").write_text(text)
    with pytest.raises(UserError, match="is no notebook"):
        chapters.run()


def test_a_pipe_in_place_of_a_notebook_is_not_waited_for(small):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    (small / "out").mkdir()
    os.mkfifo(small / "out" / "01_small.ipynb")
    with pytest.raises(UserError, match="is no file"):
        chapters.run("01", {"base": 2}, small / "out")
    os.mkfifo(small / "book" / "02_pipe.ipynb")
    assert [path.stem for path in chapters.chapters()] == ["01_small"]


def test_the_site_is_not_built_from_stale_chapters(small, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    import build_site

    for source in (None, small / "build" / "src"):
        with pytest.raises(UserError, match="Stale chapters: 01_small: not executed"):
            build_site.site(source, small / "site")
    assert not (small / "site").exists() and not (small / "build").exists()
    executed = chapters.run()[0]
    build_site.refuse_stale(None)
    executed.write_text(executed.read_text().replace("4\\n", "5\\n"))
    with pytest.raises(UserError, match="was edited"):
        build_site.site()


def test_the_folder_of_the_sources_is_refused(small):
    source = small / "book/01_small.ipynb"
    before = source.read_text()
    for parameters in ({}, {"base": 2}):
        with pytest.raises(UserError, match="holds the chapters' sources"):
            chapters.run("01", parameters, small / "book")
    assert source.read_text() == before
