"""One committed result: a slim-type stage gives what `renew_expected.py` kept of it."""

import copy

import numpy as np
import pytest
from memory_store import MemoryStore
from renew_expected import checksum, compare, expected, slim_stage

from gfrlib.config import RESULT_VERSION


@pytest.fixture(scope="module")
def slim_store():
    """So that the variations below train only what their change concerns."""
    return MemoryStore()


@pytest.fixture(scope="module")
def slim_now(slim_store):
    return slim_stage(slim_store)


def test_a_slim_stage_gives_the_committed_result(slim_now):
    wrong = compare(slim_now, expected())
    assert wrong is None, wrong


def test_the_committed_result_is_worth_comparing():
    """It holds what it claims to hold, and its predictions are not chance."""
    kept = expected()
    assert kept and len({entry["cpu"] for entry in kept}) == len(kept)
    # test labels are positions in the class order, ascending
    labels = np.repeat(range(4), 20)
    for entry in kept:
        assert entry["sha256"] == checksum(entry["predictions"])
        last = np.array(entry["predictions"][1]["softmax"])
        assert len(set(last.tolist())) == 4 and (last == labels).mean() > 0.5


@pytest.mark.parametrize(
    "method, changes, rows",
    [
        ("gfr-gaussian", dict(penalty_weight=0.11), slice(0, 2)),
        ("gfr", dict(gradient_penalty_weight=9.0), slice(2, 4)),
    ],
)
def test_the_comparison_notices_a_small_change(
    slim_now, slim_store, method, changes, rows
):
    before = slim_stage(slim_store, [method])
    assert before["predictions"] == slim_now["predictions"][rows]
    assert "moved" in compare(slim_stage(slim_store, [method], **changes), [before])


def test_the_comparison_on_another_machine_allows_a_little(slim_now):
    def changed(share: float) -> dict:
        rows = copy.deepcopy(slim_now["predictions"])
        for row in rows:
            for predictions in row.values():
                for i in range(round(share * len(predictions))):
                    predictions[i] += 1
        return {**slim_now, "cpu": "another", "predictions": rows, "sha256": ""}

    assert compare(slim_now, [changed(0.04)]) is None
    for name, factor, moved in (
        ("gfr-gaussian, task 1 classifier", 1.05, False),
        ("gfr-gaussian, task 1 classifier", 1.2, True),
        ("gfr, task 0 generator", 9.0, False),  # another way of the GAN
    ):
        other = changed(0)
        losses = slim_now["final_losses"]
        other["final_losses"] = {**losses, name: factor * losses[name]}
        assert (compare(slim_now, [other]) is not None) == moved, name
    assert "moved" in compare(slim_now, [changed(0.07)])
    here = {**changed(0.04), "cpu": slim_now["cpu"]}
    assert "moved" in compare(slim_now, [here])
    # where this kind of processor has an entry, no other counts
    assert compare(slim_now, [changed(0.07), slim_now]) is None
    assert "moved" in compare(slim_now, [changed(0), here])
    newer = {**slim_now, "result_version": RESULT_VERSION + 1}
    assert "RESULT_VERSION" in compare(slim_now, [newer])
