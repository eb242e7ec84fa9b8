"""Shared by the tests of the book: chapters executed with other parameters than the book's, and the site built from them."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from find_chromium import find
from helpers_core import SMALL, tiny, train

from gfrlib.book import chapters
from gfrlib.config import UserError

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = chapters.chapters()

# A second split and one seed, for every parameter of that name that a chapter has; exceptions by chapter below it.
SECOND = {"base": 2, "tasks": 4, "seeds": 1}
TWO_TASKS = {
    "base": 5,
    "tasks": 1,
    "seeds": 1,
}  # generators of images are slow: one of them is trained, not two or three
SECOND_OF = {
    "04_cifar100": {"seeds": 1},
    "09_comparison": {"seeds": 1},  # recorded: another split would train for hours
    "10_imagenet": {"base": 50, "tasks": 3, "seeds": 2},
    "06_where": TWO_TASKS,
    "07_images": TWO_TASKS,
    "08_extractor": {**TWO_TASKS, "search": False},
    "11_cost": TWO_TASKS,
    "12_after": {**TWO_TASKS, "cold_tasks": 1},
    "13_differences": TWO_TASKS,
}


def second_parameters(chapter: Path) -> dict:
    """What the tests run this chapter with."""
    known = chapters.declared(chapter)
    return {
        name: value
        for name, value in SECOND_OF.get(chapter.stem, SECOND).items()
        if name in known
    }


def cells(path: Path) -> list[dict]:
    """The cells of a notebook, each source as one string."""
    return [
        {**cell, "source": "".join(cell["source"])}
        for cell in json.loads(path.read_text())["cells"]
    ]


def differing(chapter: Path) -> dict:
    """Those of second_parameters that are not the chapter's defaults anyway."""
    return {
        name: value
        for name, value in second_parameters(chapter).items()
        if value != chapters.declared(chapter)[name][1]
    }


def missing(reason: str) -> None:
    """Skip the test, which counts as a failure in CI."""
    pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


@pytest.fixture(scope="session")
def browser_window():
    """The one window of the one Chromium that all browser tests of a process share."""
    if not find():
        missing("no Chromium (apt-get install chromium, or CHROMIUM=path)")
    from site_server import chromium

    with chromium() as window:
        yield window


@pytest.fixture(scope="session")
def whole():
    """whole(method, ...) -> the uninterrupted run of SMALL, trained once a process."""
    known = {}

    def get(method, **changes):
        key = (method, *sorted(changes.items()))
        if key not in known:
            known[key] = train(tiny(method, **{**SMALL, **changes}))
        return known[key]

    return get


@pytest.fixture(scope="session")
def executed(tmp_path_factory):
    """executed(chapter) -> its copy run with second_parameters, in the folder that `site` is built from.

    The first call runs all chapters, several at a time; one that failed is run again when it is asked for, and tells why.
    """
    folder = tmp_path_factory.mktemp("src") / "book"

    def run(chapter: Path) -> Path:
        if not folder.exists():
            with contextlib.suppress(UserError):
                chapters.execute({path: differing(path) for path in CHAPTERS}, folder)
        return chapters.execute({chapter: differing(chapter)}, folder)[0]

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
    built = subprocess.run(
        [
            sys.executable,
            ROOT / "book/_ext/build_site.py",
            executed.folder.parent,
            output,
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr
    return output / "_build" / "html"
