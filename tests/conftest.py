"""Shared by the tests of the book: chapters executed with other parameters than the book's, and the site built from them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gfrlib import chapters

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = chapters.chapters()

# A second split and one seed, for every parameter of that name that a chapter has; exceptions by chapter below it.
SECOND = {"base": 2, "tasks": 4, "seeds": 1}
SECOND_OF = {"04_cifar100": {"seeds": 1}}  # its runs are recorded: another split would train for hours


def second_parameters(chapter: Path) -> dict:
    """What the tests run this chapter with."""
    known = chapters.declared(chapter)
    return {name: value for name, value in SECOND_OF.get(chapter.stem, SECOND).items() if name in known}


def cells(path: Path) -> list[dict]:
    """The cells of a notebook, each source as one string."""
    return [{**cell, "source": "".join(cell["source"])} for cell in json.loads(path.read_text())["cells"]]


@pytest.fixture(scope="session")
def executed(tmp_path_factory):
    """executed(chapter) -> its copy run with second_parameters, in the folder that `site` is built from."""
    folder = tmp_path_factory.mktemp("src") / "book"

    def run(chapter: Path) -> Path:
        return chapters.run(chapter.stem, second_parameters(chapter), folder)[0]

    run.folder = folder
    return run


@pytest.fixture(scope="session")
def site(executed, tmp_path_factory) -> Path:
    """The folder of the built site: GFR_SITE where it names one (as .ci/run does), else built from the executed chapters."""
    if os.environ.get("GFR_SITE"):
        return Path(os.environ["GFR_SITE"]).resolve()
    for chapter in CHAPTERS:
        executed(chapter)
    output = tmp_path_factory.mktemp("site")
    built = subprocess.run([sys.executable, ROOT / "book/_ext/build_site.py", executed.folder.parent, output], check=False,
                           capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr
    return output / "_build" / "html"
