"""Chapters: every one runs with other parameters, starts from an empty folder, refuses bad input; none is shown stale."""

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import CHAPTERS, ROOT, cells, differing

from gfrlib.book import chapters
from gfrlib.book.parameters import check_parameters, from_text
from gfrlib.config import UserError, make_config
from gfrlib.lab import records

each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


# The real chapters ------------------------------------------------------------------------------------------------------


@each_chapter
def test_chapter_runs_with_a_second_split_and_one_seed(chapter, executed):
    copy = executed(chapter)
    outputs = [output for cell in cells(copy) for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"], (
        "a chapter prints no warning"
    )
    assert json.loads(copy.read_text())["metadata"]["gfr"]["parameters"] == differing(
        chapter
    )
    assert str(ROOT) not in copy.read_text(), (
        "the executed chapter shows a path of this machine"
    )


def test_chapters_refuse_what_they_do_not_know():
    for chapter in CHAPTERS:
        with pytest.raises(
            UserError,
            match="Unknown parameter 'sedes'.*did you mean 'seeds'"
            if "seeds" in chapters.declared(chapter)
            else "Unknown parameter 'sedes'",
        ):
            chapters.run(chapter.stem, {"sedes": 1})
        for name, (types, default) in chapters.declared(chapter).items():
            if str not in types:
                with pytest.raises(UserError, match=f"'{name}' must be"):
                    chapters.run(chapter.stem, {name: "three"})
            assert type(default) in types, (
                f"{chapter.stem}: {name} = {default!r} is not of its own type"
            )


@each_chapter
def test_the_cell_after_the_parameters_checks_them(chapter):
    code = [cell for cell in cells(chapter) if cell["cell_type"] == "code"]
    tags = [cell["metadata"].get("tags", []) for cell in code]
    at = next(i for i, of in enumerate(tags) if "parameters" in of)
    calls = [
        node
        for node in ast.walk(ast.parse(code[at + 1]["source"]))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "check_parameters"
    ]
    assert len(calls) == 1 and not calls[0].args and not calls[0].keywords


@pytest.mark.parametrize(
    "wrong, sentence",
    [("sedes 1", "Unknown parameter 'sedes'"), ("seeds three", "'seeds' must be int")],
)
def test_plain_papermill_fails_on_a_bad_parameter(wrong, sentence, tmp_path):
    chapter = next(path for path in CHAPTERS if "seeds" in chapters.declared(path))
    done = papermill(chapter, tmp_path / "out.ipynb", "-p", *wrong.split())
    assert done.returncode == 1 and sentence in done.stderr


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Python with this environment's packages but without gfrlib, and a repository holding this working tree."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    # Python 3.11 puts an old setuptools there; without it, this environment's is found.
    subprocess.run(
        [python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools"],
        check=True,
        capture_output=True,
    )
    inside = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # A line of a .pth file adds the folder but reads no .pth file in it, so the editable gfrlib stays out.
    Path(inside, "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    repository = folder / "repository"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file() and not name.startswith("data/records/"):
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            (repository / name).write_bytes((ROOT / name).read_bytes())
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (
        ["init", "--quiet"],
        ["add", "--all"],
        [*who, "commit", "--quiet", "-m", "the tree"],
    ):
        subprocess.run(["git", *command], cwd=repository, check=True)
    return python, repository.as_uri(), Path(inside)


# The first cell of all chapters is the same (test_repository): one has to show it.
@pytest.mark.parametrize("chapter", CHAPTERS[:1], ids=lambda path: path.stem)
def test_first_cell_from_an_empty_folder(chapter, bare, tmp_path):
    python, address, packages = bare
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH"
    } | {"GFR_REPOSITORY": address}
    if (
        chapter != CHAPTERS[0]
    ):  # pip builds in an environment of its own, as in Colab, once; that takes most of the time
        environment["PIP_NO_BUILD_ISOLATION"] = "0"
    first = next(cell for cell in cells(chapter) if cell["cell_type"] == "code")[
        "source"
    ]
    try:

        def start(script):
            return subprocess.run(
                [python, "-c", script],
                check=False,
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
            )

        gone = start("import gfrlib")
        assert gone.returncode, (
            "the bare Python has gfrlib already, so this test would show nothing"
        )
        script = (
            first + "\nimport gfrlib, gfrlib.book.chapters\nprint(gfrlib.__file__)\n"
        )
        done = start(script)
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.split()[-1]).is_relative_to(tmp_path)
        again = start(script.replace('"git"', '"no-such-program"'))
        assert again.returncode == 0, (
            "the second time the first cell must find gfrlib and do nothing"
        )
    finally:
        for installed in packages.glob(
            "*gfrlib*"
        ):  # by hand: pip may take the other one
            shutil.rmtree(installed) if installed.is_dir() else installed.unlink()


# The runner, on a small book of its own ---------------------------------------------------------------------------------


def papermill(*arguments):
    """Plain papermill, as a reader would call it."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "papermill",
            "--no-progress-bar",
            "-k",
            "python3",
            *map(str, arguments),
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def write_notebook(path, body="print(base)"):
    """A chapter of three code cells: parameters, their check, and the body."""

    def cell(name, source, tags=()):
        return {
            "cell_type": "code",
            "id": name,
            "metadata": {"tags": list(tags)},
            "execution_count": None,
            "outputs": [],
            "source": source,
        }

    found = [
        cell(
            "parameters",
            "import os\n\nbase: int = 4  # classes\nrate: float = 0.5  # a rate\n"
            'name: str = "digits"',
            ["parameters"],
        ),
        cell(
            "check",
            "from gfrlib.book.parameters import check_parameters\ncheck_parameters()",
        ),
        cell("body", body),
    ]
    kernel = {
        "kernelspec": {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
    }
    path.write_text(
        json.dumps(
            {"cells": found, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
        )
    )


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A book of one chapter with a library and a record, in place of the real one."""
    for folder in ("book", "gfrlib", "data/records"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "gfrlib" / "losses.py").write_text("WEIGHT = 1\n")
    (tmp_path / "data" / "records" / "one.json").write_text("{}")
    write_notebook(tmp_path / "book" / "01_small.ipynb")
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    # the kernel starts in tmp_path, where the stand-in would hide the real library
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(chapters, "_execute", _in_root(chapters._execute, monkeypatch))
    return tmp_path


def _in_root(execute, monkeypatch):
    def with_real_library(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(chapters, "ROOT", ROOT)
            return execute(*arguments)

    return with_real_library


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
    write_notebook(tmp_path / "a.ipynb", body="base = accuracy = 0.5")
    assert (
        papermill(
            tmp_path / "a.ipynb",
            tmp_path / "good.ipynb",
            "-p",
            "base",
            "2",
            "-p",
            "rate",
            "1",
        ).returncode
        == 0
    )
    for wrong, sentence in (
        (["bse", "2"], "Unknown parameter 'bse' (did you mean 'base'?)"),
        (["_hidden", "2"], "Unknown parameter '_hidden'"),
        (["rate", "high"], "'rate' must be float"),
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


# What an executed chapter has read --------------------------------------------------------


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
    path = small / "book/01_small.ipynb"
    write_notebook(path, body)
    notebook = json.loads(path.read_text())
    notebook["cells"][-1]["metadata"]["mystnb"] = {"figure": {"caption": "A figure."}}
    path.write_text(json.dumps(notebook))
    figure, below = cells(chapters.run()[0])[-2:]
    kinds = [list(output["data"]) for output in figure["outputs"]]
    assert len(kinds) == 1 and any("image/" in kind for kind in kinds[0])
    assert "gfr-provenance" in "".join(below["outputs"][0]["data"]["text/html"])
    assert below["metadata"] == {"tags": ["remove-input"]} and below["source"]
