"""Chapter 10's claims: each is asked of the right rows, splits and quantity."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers_core import ROOT

from gfrlib.book import claims

CELLS = json.loads((ROOT / "book" / "10_imagenet.ipynb").read_text())["cells"]
SYSTEMS = ("gfr", "gfr-gaussian", "lucir", "lwf", "icarl-cnn", "icarl-nme")


def source(name: str) -> str:
    [found] = ["".join(c["source"]) for c in CELLS if c["id"] == name]
    return found


def run(last: float, forgotten: float, seed: int = 0):
    """What is read of a record with two tasks of equal size."""
    accuracy = np.array([[0.9, np.nan], [0.9 - forgotten, 2 * last - 0.9 + forgotten]])
    curve, config = np.array([0.9, last]), SimpleNamespace(seed=seed)
    return SimpleNamespace(
        accuracy=accuracy, task_sizes=[5, 5], curve=curve, config=config
    )


@pytest.fixture
def judged(monkeypatch):
    """judged(panels) -> {claim: verdict} of the cell, as a reader gets them."""

    def of(panels):
        shown: list = []
        monkeypatch.setattr(claims, "show", lambda some, **_: shown.extend(some))
        around: dict = {}
        exec(source("parameters"), around)
        around |= {"panels": panels, "METHODS": SYSTEMS}
        exec(source("claims-table"), around)
        table = claims.table(shown)
        return dict(zip(table["claim"], table["verdict"]))

    return of


def test_without_records_every_claim_is_not_recorded(judged):
    assert set(judged({5: {}, 25: {}}).values()) == {"not recorded"}


def test_claims_ask_the_right_rows_and_splits(judged):
    at = {
        5: dict(gfr=(0.60, 0.1), lucir=(0.55, 0.2), lwf=(0.4, 0.3)),
        25: dict(gfr=(0.55, 0.1), lucir=(0.40, 0.05), lwf=(0.6, 0.3)),
    }
    at[25]["gfr-gaussian"], at[25]["icarl-nme"] = (0.5, 0.2), (0.3, 0.3)
    found = judged(
        {
            n: {m: [run(*v, seed) for seed in (0, 1)] for m, v in rows.items()}
            for n, rows in at.items()
        }
    )
    for (claim, split), verdict in {
        ("GFR (GAN) is far above Rebalance", 5): "above, not far",
        ("GFR (GAN) is far above Rebalance", 25): "holds",
        ("its lead over Rebalance is larger with 25 tasks than with 5", ""): "holds",
        ("GFR (GAN) is far above LwF", 5): "holds",
        ("GFR (GAN) is far above LwF", 25): "does not hold",
        ("the Gaussians are level with iCaRL-NME", 5): "not recorded",
        ("the Gaussians are far above iCaRL-NME", 25): "holds",
        ("GFR (GAN) forgets less than Rebalance", 5): "holds",
        ("GFR (GAN) forgets less than Rebalance", 25): "does not hold",
    }.items():
        end = f"({split} tasks)" if split else ""
        ours = [c for c in found if c.startswith(claim) and c.endswith(end)]
        assert [found[c] for c in ours] == [verdict], (claim, split)


@pytest.mark.parametrize("name", ["fig-imagenet-accuracy", "fig-imagenet-forgetting"])
def test_the_figures_that_other_pages_name_exist(name):
    figures = [c["metadata"].get("mystnb", {}).get("figure", {}) for c in CELLS]
    assert [f["name"] for f in figures if f].count(name) == 1
