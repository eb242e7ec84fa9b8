"""The page "Add a method", followed word by word on a copy of the library."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "book" / "add_a_method.md"


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A folder with the library's copy, the page's blocks at the ends of the files that
    stand before them.
    """
    home = tmp_path_factory.mktemp("followed")
    shutil.copytree(
        ROOT / "gfrlib", home / "gfrlib", ignore=shutil.ignore_patterns("__pycache__")
    )
    (home / "tests").mkdir()
    (home / "tests" / "test_rows.py").write_text(
        "import torch\n\nfrom gfrlib import replay\n\n\n"
    )
    steps = re.findall(r"`([\w/]+\.py)`.*?```python\n(.*?)```", PAGE.read_text(), re.S)
    assert [name for name, _ in steps] == [
        "gfrlib/replay.py",
        "gfrlib/config.py",
        "tests/test_rows.py",
    ]
    for name, block in steps:
        with open(home / name, "a") as file:
            file.write("\n\n" + block)
    environment = {**os.environ, "PYTHONPATH": str(home), "GFR_HOME": str(home)}

    def python(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            check=False,
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
        )

    return python


def test_the_page_is_short():
    assert len(PAGE.read_text().splitlines()) <= 40


def test_its_own_test_passes(followed):
    done = followed(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_rows.py"
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def test_it_is_listed_and_runs(followed):
    listed = followed("-m", "gfrlib", "methods")
    assert re.search(
        r"^gfr-gaussian-sdc +features +gaussian +single +softmax +frozen +4 +mean$",
        listed.stdout,
        re.M,
    )
    few = ("--epochs_base", "2", "--epochs_task", "2", "--json")
    runs = [
        followed("-m", "gfrlib", "run", "--method", m, *few)
        for m in ("gfr-gaussian-sdc", "gfr-gaussian")
    ]
    assert all(run.returncode == 0 for run in runs), runs[0].stderr
    sdc, plain = (json.loads(run.stdout) for run in runs)
    assert (
        sdc["config"]["drift"] == "mean" and sdc["accuracy"][0] == plain["accuracy"][0]
    )
    assert sdc["weights"] != plain["weights"], (
        "from task 2 on, the moved means are replayed"
    )


def test_against_a_brute_force_reference(followed):
    rng = torch.Generator().manual_seed(0)
    before, after, means = (
        torch.rand(n, 5, generator=rng, dtype=torch.float64) for n in (40, 40, 3)
    )
    found = followed(
        "-c",
        "import json, sys, torch; from gfrlib import replay;"
        "given = json.loads(sys.argv[1]);"
        "given = [torch.tensor(v, dtype=torch.float64) for v in given];"
        "W, b = replay.mean_drift(*given);"
        "print(json.dumps([W.tolist(), b.tolist()]))",
        json.dumps([v.tolist() for v in (before, after, means)]),
    )
    W, b = json.loads(found.stdout)
    sigma = 0.3 * sum(float(u @ u) ** 0.5 for u in before) / 40
    for c in range(3):
        weights = [
            float(torch.exp(-((u - means[c]) ** 2).sum() / (2 * sigma**2)))
            for u in before
        ]
        expected = sum(w * (v - u) for w, u, v in zip(weights, before, after)) / sum(
            weights
        )
        torch.testing.assert_close(torch.tensor(b[c], dtype=torch.float64), expected)
    assert torch.eye(5).tolist() == W
