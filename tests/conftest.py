"""Shared by all tests: chapters, site and browser that exist once, and who runs first.

`make test` runs two processes (pytest-xdist). Tests of one file stay in one process, so
that its fixtures exist once; each chapter is executed by whichever process comes to it
first, behind a lock. Each has one thread (helpers_core): threads that wait for a busy
core only burn time.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from find_chromium import find
from helpers_core import SMALL, tiny, train

from gfrlib.book import chapters
from gfrlib.config import UserError

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = chapters.chapters()

# A second split and one seed, for every parameter of that name that a chapter has.
SECOND = {"base": 2, "tasks": 4, "seeds": 1}
TWO_TASKS = {"base": 5, "tasks": 1, "seeds": 1}
# Generators of images are slow: task 0 is the one that the book itself trains, and the
# last task trains none.
NO_OTHER_GENERATOR = {"base": 4, "tasks": 1, "seeds": 1}
SECOND_OF = {
    "01_tasks": TWO_TASKS,
    "02_replay": TWO_TASKS,
    "03_generators": TWO_TASKS,
    "04_cifar100": {"seeds": 1},
    "appendix_cifar100": {"seeds": 1},
    "09_comparison": {"seeds": 1},  # recorded: another split would train for hours
    "10_imagenet": {"base": 50, "few": 2, "many": 10, "seeds": 2},
    "06_where": NO_OTHER_GENERATOR,
    "07_images": NO_OTHER_GENERATOR,
    "08_extractor": {**TWO_TASKS, "search": False},
    "11_cost": NO_OTHER_GENERATOR,
    "12_after": {**TWO_TASKS, "cold_tasks": 1},
    "13_differences": TWO_TASKS,
    "14_still": {**TWO_TASKS, "gan": False},
    "appendix_settings": TWO_TASKS,
    "verdicts": {"digits": False},
}

# The longest first, so that no process waits for the other one's last file.
LONGEST = (
    "test_chapters",
    "test_device",
    "test_precision",
    "test_distributed",
    "test_resume",
    "test_grids",
    "test_browser",
    "test_resuming",
)
# What needs no other test of its file is given to the next free process.
ALONE = ("test_compiled_takes", "test_the_fast")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """The order of LONGEST, and for pytest-xdist who must stay together."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    for item in items:
        group = item.path.stem
        if item.get_closest_marker("browser"):
            group = "browser"  # one Chromium
        elif item.name.startswith(ALONE):
            group = item.name
        item.add_marker(pytest.mark.xdist_group(group))


def missing(reason: str) -> None:
    """Skip the test, which counts as a failure in CI."""
    pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


@pytest.fixture(scope="session")
def browser_window():
    """The one window of the one Chromium that all browser tests share."""
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


# Chapters and site --------------------------------------------------------------------


def second_parameters(chapter: Path) -> dict:
    """What the tests run this chapter with."""
    known = chapters.declared(chapter)
    wanted = SECOND_OF.get(chapter.stem, SECOND)
    return {name: value for name, value in wanted.items() if name in known}


def differing(chapter: Path) -> dict:
    """Those of second_parameters that are not the chapter's defaults anyway."""
    known = chapters.declared(chapter)
    wanted = second_parameters(chapter)
    return {name: value for name, value in wanted.items() if value != known[name][1]}


def cells(path: Path) -> list[dict]:
    """The cells of a notebook, each source as one string."""
    return [
        {**cell, "source": "".join(cell["source"])}
        for cell in json.loads(path.read_text())["cells"]
    ]


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A folder of this run of pytest that all its processes share."""
    own = tmp_path_factory.getbasetemp()
    folder = own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own
    return folder / "shared"


@pytest.fixture(scope="session")
def executed(shared):
    """executed(chapter) -> its copy run with second_parameters.

    It lies in the folder that `site` is built from. With one process the first call
    runs all chapters, several at a time; one that failed is run again when it is asked
    for, and tells why.
    """
    folder = shared / "src" / "book"

    def run(chapter: Path) -> Path:
        if "PYTEST_XDIST_WORKER" not in os.environ and not folder.exists():
            with contextlib.suppress(UserError):
                chapters.execute({path: differing(path) for path in CHAPTERS}, folder)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(shared / f"{chapter.stem}.lock"):
            return chapters.execute({chapter: differing(chapter)}, folder, 1)[0]

    run.folder = folder
    return run


@pytest.fixture(scope="session")
def site(shared, request) -> Path:
    """The folder of the built site.

    GFR_SITE where it names one, as .ci/run does; else built from those chapters.
    """
    if os.environ.get("GFR_SITE"):
        return Path(os.environ["GFR_SITE"]).resolve()
    executed = request.getfixturevalue("executed")
    for chapter in CHAPTERS:
        executed(chapter)
    output = shared / "site"
    with FileLock(shared / "site.lock"):
        if not output.exists():
            build_site(executed.folder.parent, output)
    return output / "_build" / "html"


def build_site(source: Path, output: Path) -> None:
    """As `make book` does, elsewhere."""
    built = subprocess.run(
        [sys.executable, ROOT / "book/_ext/build_site.py", source, output],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr
