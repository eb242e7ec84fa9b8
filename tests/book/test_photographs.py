"""Chapter 10's claims: each is asked of the right rows, splits and quantity."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers_core import ROOT

from gfrlib.book import claims, results, words

CELLS = json.loads((ROOT / "book" / "10_imagenet.ipynb").read_text())["cells"]


def run(last: float, forgotten: float):
    """What is read of a record with two tasks of equal size."""
    accuracy = np.array([[0.9, np.nan], [0.9 - forgotten, 2 * last - 0.9 + forgotten]])
    return SimpleNamespace(
        accuracy=accuracy, task_sizes=[5, 5], curve=np.array([0.9, last])
    )


def judged(panels: dict) -> dict:
    """{claim: verdict} of the cell, as a reader gets them."""
    shown = []
    [source] = [c["source"] for c in CELLS if c["id"] == "claims-table"]
    around = {"panels": panels, "few": 5, "many": 25, "results": results}
    around |= {"words": words, "claims": SimpleNamespace(show=shown.extend)}
    exec("".join(source), around)
    table = claims.table(shown)
    return dict(zip(table["claim"], table["verdict"]))


def test_without_records_every_claim_is_not_recorded():
    assert set(judged({5: {}, 25: {}}).values()) == {"not recorded"}


def test_claims_ask_the_right_rows_and_splits():
    at = {
        5: dict(gfr=(0.60, 0.1), lucir=(0.55, 0.2), lwf=(0.5, 0.3)),
        25: dict(gfr=(0.55, 0.1), lucir=(0.40, 0.05), lwf=(0.6, 0.3)),
    }
    at[25]["gfr-gaussian"], at[25]["icarl-nme"] = (0.5, 0.2), (0.3, 0.3)
    found = judged(
        {n: {m: [run(*v)] for m, v in rows.items()} for n, rows in at.items()}
    )
    for claim, verdict in {
        "GFR (GAN) is far above Rebalance (5 tasks)": "above, not far",
        "GFR (GAN) is far above Rebalance (25 tasks)": "holds",
        "its lead over Rebalance is larger with 25 tasks than with 5": "holds",
        "GFR (GAN) is above LwF (5 tasks)": "holds",
        "GFR (GAN) is above LwF (25 tasks)": "does not hold",
        "the Gaussians are level with iCaRL-NME (5 tasks)": "not recorded",
        "the Gaussians are far above iCaRL-NME (25 tasks)": "holds",
        "GFR (GAN) forgets less than Rebalance (5 tasks)": "holds",
        "GFR (GAN) forgets less than Rebalance (25 tasks)": "does not hold",
    }.items():
        assert found[claim] == verdict, claim


@pytest.mark.parametrize("name", ["fig-imagenet-accuracy", "fig-imagenet-forgetting"])
def test_the_figures_that_other_pages_name_exist(name):
    figures = [c["metadata"].get("mystnb", {}).get("figure", {}) for c in CELLS]
    assert [f["name"] for f in figures if f].count(name) == 1
