"""Runs on another device than the CPU, where there is no GPU: tests/pretended.py has
the device.
"""

import json
import subprocess
import sys

import pytest
from helpers_core import ROOT, environment

from gfrlib.methods import COLUMNS, METHODS

# one row at least of every memory, penalty and head (a test holds that)
RUNS = (
    "joint",
    "lwf",
    "mas",
    "gfr-mixture",
    "gfr-flow",
    "ewc",
    "icarl-nme",
    "lucir",
    "block-1",
    "gfr",
    "gfr-gaussian-drift",
    "fetril",
    "fecam",
    "frozen",
)
WAITS = ("lwf", "mas", "lucir", "block-3", "gfr", "fetril")


def test_the_rows_are_of_every_kind():
    for column in ("memory", "penalty", "head"):
        found = {METHODS[row].columns[column] for row in RUNS}
        assert found == set(COLUMNS[column]), column


def pretended(*words, home, **changes):
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "pretended.py", *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment(home) | changes,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return pretended("runs", *RUNS, home=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def waits(tmp_path_factory):
    return pretended("waits", *WAITS, home=tmp_path_factory.mktemp("waits"))


def test_the_pretended_device_notices(tmp_path):
    found = pretended("itself", home=tmp_path)
    assert found == {
        "mixed": "add: tensors of two devices",
        "number": 1,
        "rows": 1,
        "to": 1,
        "from": 1,
        "none": 0,
    }


@pytest.mark.parametrize("method", RUNS)
def test_a_run_does_not_depend_on_the_device(runs, method):
    """No tensors of two devices meet, in training, testing or analysis, and the result
    is the CPU's up to rounding.
    """
    got = runs[method]
    assert got["analysis"] and got["sheet"]
    assert got["same"] >= (
        0.9 if method == "block-1" else 0.99
    )  # a bias before a norm has no gradient but rounding
    assert method == "block-1" or got["weights"] < 1e-2


@pytest.mark.parametrize("method", WAITS)
def test_the_host_waits_for_no_step(waits, method):
    """Twice as many steps, and not one number more that the host must wait for: inside
    an epoch nothing synchronises.
    """
    few, many = waits[method]["n"], waits[method]["2 n"]
    assert few
    assert many == few


def test_the_host_waits_for_no_step_that_reads_from_disk(tmp_path):
    few, many = pretended("waits", "lwf", home=tmp_path, GFR_RESIDENT_BYTES="1")[
        "lwf"
    ].values()
    assert few and many == few
