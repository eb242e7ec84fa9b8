"""The page "Add a method", followed word by word on a copy of the library."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "book" / "add_a_method.md"
FEW = ("--epochs-base", "2", "--epochs-task", "2", "--json")
CASES = {
    "test_relations_of_three_features": "tests/test_penalties.py",
    "test_classes_share_one_covariance": "tests/test_replay.py",
}


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """python(*arguments): Python in a copy of the library with the page's blocks.

    Each block stands at the end of the file that is named before it.
    """
    home = tmp_path_factory.mktemp("followed")
    for folder in ("gfrlib", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "expected")
        shutil.copytree(ROOT / folder, home / folder, ignore=ignored)
    steps = re.findall(r"`([\w/]+\.py)`.*?```python\n(.*?)```", PAGE.read_text(), re.S)
    assert Counter(name for name, _ in steps) == {
        "gfrlib/penalties.py": 1,
        "gfrlib/replay.py": 1,
        "gfrlib/methods.py": 2,
        "tests/test_penalties.py": 1,
        "tests/test_replay.py": 1,
    }
    for name, block in steps:
        with open(home / name, "a") as file:
            file.write("\n\n" + block)
    environment = {**os.environ, "PYTHONPATH": str(home), "GFR_HOME": str(home)}
    environment.pop("GFR_CACHE", None)

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            check=False,
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
        )

    return run


def trained(python, method: str) -> dict:
    done = python("-m", "gfrlib", "run", "--method", method, *FEW)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_part_is_short():
    _, *parts = PAGE.read_text().split("\n## ")
    titles = [part.split("\n")[0] for part in parts]
    assert titles == ["A penalty", "A memory", "Before you publish numbers"]
    for part in parts:
        lines = [line for line in part.splitlines() if line.strip("`python ")]
        assert len(lines) <= 40, "lines of code and text"


@pytest.mark.parametrize("case", CASES)
def test_its_own_tests_pass(python, case):
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", f"{CASES[case]}::{case}")
    done = python(*command)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def test_both_are_listed(python):
    listed = python("-m", "gfrlib", "methods").stdout
    for row in (
        "gfr-gaussian-relations relations gaussian single softmax frozen 4 none",
        "gfr-shared features shared single softmax frozen 4 none",
    ):
        assert re.search("^" + row.replace(" ", " +") + "$", listed, re.M), listed


def test_both_train(python):
    usual = trained(python, "gfr-gaussian")
    for method, column in (
        ("gfr-gaussian-relations", "penalty"),
        ("gfr-shared", "memory"),
    ):
        run = trained(python, method)
        assert run["config"][column] != usual["config"][column]
        assert run["accuracy"][0] == usual["accuracy"][0], "the same task 0"
        assert run["weights"] != usual["weights"]


def test_a_new_penalty_makes_the_cut_part_of_a_run(python):
    """With no memory, too: two runs with other cuts are not one."""
    code = (
        "from gfrlib.config import make_config as m\n"
        "of = lambda c: m('quick', 'gfr-gaussian-relations', memory='none', cut=c)\n"
        "print(of(3).digest() != of(4).digest())"
    )
    done = python("-c", code)
    assert done.stdout.strip() == "True", done.stderr


def test_a_shared_covariance_on_a_frozen_extractor_weighs_old_tasks(python):
    """What weighs replay is part of such a run."""
    code = (
        "from gfrlib.config import make_config as m\n"
        "of = lambda w: m('quick', 'gfr-shared', penalty='frozen',"
        " old_task_weighting=w)\n"
        "print(of(True).digest() != of(False).digest())"
    )
    done = python("-c", code)
    assert done.stdout.strip() == "True", done.stderr
