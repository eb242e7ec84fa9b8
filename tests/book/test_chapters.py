"""The chapters: each runs with other parameters and starts from an empty folder."""

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
from small_book import papermill

from gfrlib.book import chapters
from gfrlib.book.parameters import declared
from gfrlib.config import UserError

each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


def code_of(chapter: Path) -> list[dict]:
    return [cell for cell in cells(chapter) if cell["cell_type"] == "code"]


@each_chapter
def test_chapter_runs_with_other_parameters(chapter, executed):
    copy = executed(chapter)
    outputs = [output for cell in cells(copy) for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    warned = [output for output in outputs if output.get("name") == "stderr"]
    assert not warned, "a chapter prints no warning"
    stamp = json.loads(copy.read_text())["metadata"]["gfr"]
    assert stamp["parameters"] == differing(chapter)
    assert str(ROOT) not in copy.read_text(), "it shows a path of this machine"


def test_chapters_refuse_what_they_do_not_know():
    for chapter in CHAPTERS:
        known, near = declared(chapter), ".*did you mean 'seeds'"
        sentence = "Unknown parameter 'sedes'" + (near if "seeds" in known else "")
        with pytest.raises(UserError, match=sentence):
            chapters.run(chapter.stem, {"sedes": 1})
        for name, (types, default) in known.items():
            if str not in types:
                with pytest.raises(UserError, match=f"'{name}' must be"):
                    chapters.run(chapter.stem, {name: "three"})
            assert type(default) in types, f"{chapter.stem}: {name} is not of its type"


@each_chapter
def test_the_cell_after_the_parameters_checks_them(chapter):
    code = code_of(chapter)
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
    chapter = next(path for path in CHAPTERS if "seeds" in declared(path))
    done = papermill(chapter, tmp_path / "out.ipynb", "-p", *wrong.split())
    assert done.returncode == 1 and sentence in done.stderr


# From an empty folder, as in Colab ----------------------------------------------------


def called(*command, **more) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(command, check=True, capture_output=True, text=True, **more)
    return done.stdout


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Python with this environment's packages but without gfrlib; a repository.

    The repository holds this working tree.
    """
    folder = tmp_path_factory.mktemp("bare")
    called(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    # Python 3.11 puts an old setuptools there; without it, this environment's is found.
    called(python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools")
    where = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    inside = Path(called(python, "-c", where).strip())
    # A line of a .pth file adds the folder but reads no .pth file in it, so the
    # editable gfrlib stays out.
    (inside / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    repository = folder / "repository"
    ours = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    for name in called(*ours, cwd=ROOT).splitlines():
        if (ROOT / name).is_file() and not name.startswith("data/records/"):
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            (repository / name).write_bytes((ROOT / name).read_bytes())
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    called("git", "init", "--quiet", cwd=repository)
    called("git", "add", "--all", cwd=repository)
    called("git", *who, "commit", "--quiet", "-m", "the tree", cwd=repository)
    return python, repository.as_uri(), inside


# The first cell of all chapters is the same (test_repository): one has to show it.
@pytest.mark.parametrize("chapter", CHAPTERS[:1], ids=lambda path: path.stem)
def test_first_cell_from_an_empty_folder(chapter, bare, tmp_path):
    python, address, packages = bare
    environment = {**os.environ, "GFR_REPOSITORY": address}
    environment.pop("PYTHONPATH", None)
    # pip builds in an environment of its own, as in Colab, once: that takes most of
    # the time
    if chapter != CHAPTERS[0]:
        environment["PIP_NO_BUILD_ISOLATION"] = "0"

    def start(script):
        return subprocess.run(
            [python, "-c", script],
            check=False,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )

    first = code_of(chapter)[0]["source"]
    script = f"{first}\nimport gfrlib, gfrlib.book.chapters\nprint(gfrlib.__file__)\n"
    try:
        gone = start("import gfrlib")
        assert gone.returncode, "the bare Python has gfrlib: this would show nothing"
        done = start(script)
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.split()[-1]).is_relative_to(tmp_path)
        again = start(script.replace('"git"', '"no-such-program"'))
        assert again.returncode == 0, "the second time it must find gfrlib"
    finally:
        # by hand: pip may take the other one
        for installed in packages.glob("*gfrlib*"):
            shutil.rmtree(installed) if installed.is_dir() else installed.unlink()


def test_first_cell_without_a_published_address_says_what_to_do(bare, tmp_path):
    python, _, _ = bare
    unknown = ("GFR_REPOSITORY", "PYTHONPATH")
    environment = {k: v for k, v in os.environ.items() if k not in unknown}
    first = chapters.BOOTSTRAP.replace("{url}", "https://example.org/OWNER/book")
    done = subprocess.run(
        [python, "-c", first],
        check=False,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and not done.stdout and not list(tmp_path.iterdir())
    assert done.stderr.count("\n") == 1 and "GFR_REPOSITORY" in done.stderr
