"""The repository itself: clean notebooks, one address, versions that agree."""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import CHAPTERS, ROOT, cells
from strip_notebooks import stripped

import gfrlib
from gfrlib.book import chapters

TOP = {
    ".ci",
    ".github",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "_config.yml",
    "_toc.yml",
    "benchmarks",
    "book",
    "data",
    "gfrlib",
    "grids",
    "pyproject.toml",
    "requirements.lock",
    "requirements.txt",
    "tests",
}
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())

each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


def tracked() -> list[Path]:
    """The files that a commit of this tree would hold."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


def is_text(path: Path) -> bool:
    return b"\0" not in path.read_bytes()[:8192]


@each_chapter
def test_notebooks_are_clean(chapter):
    notebook = nbformat.read(chapter, as_version=4)
    nbformat.validate(notebook)
    names = [cell["id"] for cell in notebook.cells]
    assert len(set(names)) == len(names)
    assert not [
        name for name in names if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}.*)?", name)
    ], "name cells, no hashes"
    text = chapter.read_text()
    assert json.loads(stripped(text)) == json.loads(text), (
        "outputs, counts or an editor's traces: tests/strip_notebooks.py"
    )


@each_chapter
def test_chapters_begin_alike(chapter):
    first, second, third, fourth = cells(chapter)[:4]
    assert first["cell_type"] == "markdown" and re.match(
        r"(\(\S+\)=\n)?# \S", first["source"]
    ), "first the title"
    assert "question" in first["source"].lower() and "minute" in first["source"], (
        "then the question, and how long it takes"
    )
    assert second["source"] == chapters.bootstrap(), "call `make address`"
    assert second["metadata"]["tags"] == ["remove-cell"], "not shown on the site"
    assert third["metadata"]["tags"] == ["hide-input", "parameters"], "the folded cell"
    assert fourth["source"].strip() == "check_parameters()"
    assert fourth["metadata"]["tags"] == ["remove-cell"]
    tags = [cell["metadata"].get("tags", []) for cell in cells(chapter)]
    assert sum("parameters" in of for of in tags) == 1


@each_chapter
def test_figures_have_words(chapter):
    names = []
    for cell in cells(chapter):
        shown = cell["metadata"].get("mystnb", {})
        if shown:
            assert len(shown.get("image", {}).get("alt", "")) > 20, (
                f"{cell['id']}: a text alternative that says what is shown"
            )
        if "figure" in shown:
            assert shown["figure"].get("caption"), cell["id"]
            names.append(shown["figure"]["name"])
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "chapter",
    [path for path in CHAPTERS if path.stem[0].isdigit()],  # verdicts has none
    ids=lambda path: path.stem,
)
def test_exercises_have_folded_solutions(chapter):
    text = "\n".join(cell["source"] for cell in cells(chapter))
    exercises = re.findall(r"\{exercise\}.*\n:label: (\S+)", text)
    solutions = dict(re.findall(r"\{solution\} (\S+)\n((?::.*\n)*)", text))
    assert 2 <= len(exercises) <= 4 and set(exercises) == set(solutions)
    titles = re.findall(r"\{exercise\} (★+) (.+)\n", text)
    assert len(titles) == len(exercises), "each says how hard it is: ★, ★★ or ★★★"
    assert "Change, predict, run" in [title for _, title in titles]
    assert all(":class: dropdown" in options for options in solutions.values())


def test_one_address():
    url, places = CONFIG["repository"]["url"], set()
    for path in tracked():
        if is_text(path) and url in path.read_text():
            places.add(path)
    assert places <= {ROOT / "_config.yml", *CHAPTERS}, (
        "the address stands in _config.yml; all else follows from it"
    )


def test_requirements():
    wanted = [
        line
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line and line[0] != "#"
    ]
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock + "".join(wanted) and "--" not in "".join(wanted), (
        "no address, no option"
    )
    pinned = set(re.findall(r"^([a-z0-9_.-]+)==", lock, flags=re.MULTILINE))
    assert {re.match(r"[a-z0-9-]+", line)[0] for line in wanted} <= pinned, (
        "call `make lock`"
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["dependencies"]) <= set(wanted), (
        "pyproject.toml and requirements.txt give different ranges"
    )


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (
        project["version"]
        == gfrlib.__version__
        == yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    )
    assert f"## {gfrlib.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_nothing_foreign_is_committed():
    for path in tracked():
        name = path.relative_to(ROOT)
        assert name.parts[0] in TOP, f"{name} does not belong at the top"
        if name.parts[0] == "data":
            lists = ("tiny-imagenet-64.txt", "tiny-imagenet-64-unseen.txt")
            small = ("README.md", "records", "example-search.csv")
            assert name.parts[1] in (*small, *lists), (
                f"{name}: data sets are not committed"
            )
        assert path.stat().st_size < 450_000, (
            f"{name} is {path.stat().st_size / 1e3:.0f} kB"
        )
        assert path.suffix not in (
            ".npz",
            ".npy",
            ".pt",
            ".pth",
            ".pkl",
            ".zip",
            ".gz",
            ".whl",
            ".woff2",
        ), name
        assert not name.name.endswith(".min.js") and name.name != "embed.js", (
            f"{name}: third-party code comes with the build"
        )


def test_no_path_of_a_machine():
    homes = re.compile(r"(?<![\w.:/])/(work|home|root|Users)/\w")
    here = str(ROOT)
    for path in tracked():
        if is_text(path) and path != Path(__file__):
            text = path.read_text()
            assert here not in text and not homes.search(text), (
                f"{path.relative_to(ROOT)} names a path of some machine"
            )


def test_readers_pages_point_at_files_that_exist():
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md"):
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"
        for command in re.findall(r"`make (\w+)`", text):
            assert re.search(
                rf"^{command}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE
            ), f"{page}: make {command}"


def test_ci_calls_the_two_commands():
    script = (ROOT / ".ci" / "run").read_text()
    assert (
        "make book" in script
        and "make test" in script
        and os.access(ROOT / ".ci" / "run", os.X_OK)
    )
    jobs = yaml.safe_load((ROOT / ".github/workflows/book.yml").read_text())["jobs"]
    assert any(".ci/run" in step.get("run", "") for step in jobs["build"]["steps"])
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in (hook for repository in hooks for hook in repository["hooks"]):
        assert repository_file(hook["entry"]), hook["entry"]


def repository_file(entry: str) -> bool:
    """Whether the file of ours that a hook's command names exists."""
    return all(
        (ROOT / word).exists() for word in entry.split() if word.startswith("tests/")
    )


def test_strip_notebooks_takes_out_what_a_run_leaves():
    dirty = {
        "cells": [
            {
                "cell_type": "code",
                "id": "a",
                "source": ["1"],
                "execution_count": 3,
                "outputs": [{"output_type": "stream"}],
                "metadata": {"tags": ["x"], "collapsed": True},
            }
        ],
        "metadata": {"widgets": {}, "kernelspec": {"name": "mine"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    clean = json.loads(stripped(json.dumps(dirty)))
    assert clean["cells"][0] == {
        "cell_type": "code",
        "id": "a",
        "source": ["1"],
        "execution_count": None,
        "outputs": [],
        "metadata": {"tags": ["x"]},
    }
    assert (
        clean["metadata"]["kernelspec"]["name"] == "python3"
        and "widgets" not in clean["metadata"]
    )
    assert stripped(json.dumps(clean)) == stripped(json.dumps(dirty))


def test_tests_of_one_file_stay_in_one_process(request):
    """pytest-xdist reads the group from the name of a test, where it must stand."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("needs two processes: make test")
    assert request.node.nodeid.endswith("@test_repository")
