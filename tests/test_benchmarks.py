"""The counting of operations in benchmarks/; speed itself is no test."""

import os

import pytest
import torch
from helpers_core import tiny

from benchmarks import __main__ as benchmarks
from benchmarks import floor
from gfrlib.lab import experiments, plans

OFFICIAL = os.environ.get("GFR_OFFICIAL")


def test_operations_of_products_forward_and_backward():
    x, w = torch.randn(3, 5), torch.randn(5, 7, requires_grad=True)
    with floor.Operations() as counter:
        loss = (x @ w).sum()
        assert counter.total == 2 * 3 * 5 * 7
        loss.backward()  # of w alone: one product more
    assert counter.total == 2 * (2 * 3 * 5 * 7)
    image, kernel = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    with floor.Operations() as counter:
        torch.nn.functional.conv2d(image, kernel, padding=1)
    assert counter.total == 2 * 2 * 4 * 8 * 8 * 3 * 3 * 3


def test_a_distilled_step_costs_a_forward_pass_more():
    """The teacher's pass over the batch, and the small head's on replayed features.

    F + 2F becomes F + 2F + F.
    """
    config = tiny("gfr", batch_size=64)
    stream = experiments.load_tasks(config)
    alone, later = (
        floor.operations_per_step(config, stream, plans.Stage("", t, "classifier", 1))
        for t in (0, 1)
    )
    image = floor.operations_of_features(config, stream, 0)
    assert alone / (64 * image) == pytest.approx(3, abs=0.3)
    assert (later - alone) / (64 * image) == pytest.approx(1, abs=0.3)


def test_a_record_is_told_phase_by_phase(tmp_path, monkeypatch):
    monkeypatch.setenv("GFR_HOME", str(tmp_path))
    record = experiments.run_or_load(tiny("gfr"))
    found = floor.main(str(record.path))
    assert sum(row["seconds"] for row in found["rows"]) == pytest.approx(
        sum(part["seconds"] for part in record.seconds)
    )
    assert {(row["phase"], row["tasks"]) for row in found["rows"]} >= {
        ("classifier", "0"),
        ("classifier", "later"),
        ("generator", "0"),
        ("generator", "later"),
    }
    assert all(row["floor"] > 0 for row in found["rows"] if row["steps"])


def test_bad_input_of_a_child_is_one_sentence(tmp_path, monkeypatch, capsys):
    record = tmp_path / "odd.json"
    record.write_text("{}")
    monkeypatch.setattr(
        "sys.argv", ["benchmarks", "--only", "floor", "--record", str(record)]
    )
    assert benchmarks.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "odd.json" in said and "Traceback" not in said


@pytest.mark.skipif(
    not OFFICIAL, reason="GFR_OFFICIAL names no checkout of xialeiliu/GFR-IL"
)
def test_the_official_classifier_step_ends_in_the_same_weights():
    """No failure in CI where it is missing: other people's code is not brought here."""
    found = benchmarks.child("agreement", OFFICIAL)
    assert found["moved"] > 1e-3  # so there is something to compare
    assert found["statistics"] < 1e-6 and found["losses"] < 1e-12
    assert found["weights"] < 1e-10
