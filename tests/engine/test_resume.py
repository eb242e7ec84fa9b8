"""kill -9 of the real command in both phases of training, and run again.

It ends as if nothing had been. `python tests/kill_test.py` does the same at length: ten
quick runs, and a slim run killed ten times.
"""

import json
import random
import shutil
import time

import pytest
from helpers_core import flags
from killing import begin, held, kept, kill_when, same

from gfrlib import cli

OPTIONS = dict(
    split="4,3,3",
    epochs_base=10,
    epochs_task=6,
    generator_steps_base=60,
    generator_steps_later=60,
    width=8,
    generator_hidden=32,
    latent_dim=8,
    feature_views=2,
    device="cpu",
)
WORDS = ["run", "--preset", "quick", "--method", "gfr", *flags(OPTIONS), "--json"]
EVERY = 0.1  # seconds between checkpoints


def run_here(home, capsys) -> dict:
    """The same command in this process, to its end; nobody disturbs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GFR_HOME", str(home))
        assert cli.main(WORDS) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One folder for all kills: each test goes on from where the one before was killed,
    as a reader would.
    """
    return tmp_path_factory.mktemp("killed")


# finished stages: 0 = in task 0's classifier, 4 = in task 1's generator (1 its first, 2
# predictions, 3 the classifier)
@pytest.mark.parametrize("finished", [0, 4], ids=["classifier", "generator"])
def test_killed_in_the_middle_of_a_phase(home, finished):
    process, seconds, seen = begin(WORDS, home, EVERY), random.uniform(0, 0.1), []

    def reached():
        if (
            not seen
            and len(kept(home, "done.pt")) == finished
            and kept(home, "checkpoint.pt")
        ):
            seen.append(time.time())
        return bool(seen) and time.time() - seen[0] > seconds

    killed = kill_when(process, home, reached)
    assert killed is not None, "the run ended before it could be killed"
    assert killed.finished >= finished and killed.lost < 60
    assert not held(home), "a lock ends with its process"


def test_the_run_killed_twice_equals_an_undisturbed_one(home, tmp_path, capsys):
    assert kept(home, "done.pt")
    process = begin(WORDS, home)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    record, whole = json.loads(out), run_here(tmp_path, capsys)
    assert record["status"] == whole["status"] == "computed now" and same(record, whole)
    assert not same({**record, "weights": record["weights"][::-1]}, whole)
    assert not kept(home, "checkpoint.pt")
    assert all(path.stat().st_size == 0 for path in kept(home, "lock"))


def test_killed_before_its_record_was_kept_nothing_is_trained_again(home, capsys):
    """At the border after the last task: all stages are there, the record is not."""
    first = run_here(home, capsys)
    shutil.rmtree(home / "data" / "cache" / "records")
    before = {p: p.stat().st_mtime_ns for p in kept(home, "done.pt")}
    assert len(before) == 9
    assert same(run_here(home, capsys), first)
    assert before == {p: p.stat().st_mtime_ns for p in kept(home, "done.pt")}


def test_kills_leave_no_large_litter(home):
    """A temporary file of a killed write is small change, and never taken for a
    checkpoint.
    """
    assert len([p for p in (home / "data").rglob(".*") if p.is_file()]) <= 2
