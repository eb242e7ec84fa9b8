"""The table of the search: whole or not at all, and what the pages take from it."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from gfrlib.book import example
from gfrlib.config import make_config
from gfrlib.engine.store import root
from gfrlib.lab import grids


def test_a_search_that_is_not_made_leaves_the_table_as_it_is(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("GFR_CACHE", str(tmp_path))
    path = root() / "data" / "example-search.csv"
    before = path.read_bytes()
    assert example.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "grid grids/example.yaml" in said
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "row, changes, name",
    [
        ("frozen", {}, "Frozen F, nearest mean"),
        ("gfr-squared", {}, "both guards, Gaussians, squared distance"),
        ("gfr-gaussian", {}, "both guards, Gaussians, the paper's length, diagonal"),
        ("gfr-squared", dict(penalty="frozen"), "frozen F, same memory"),
        ("gfr", dict(distance="mse"), "both guards, GAN, squared distance"),
    ],
)
def test_a_run_is_called_by_what_it_does(row, changes, name):
    assert example.name_of(make_config("example", row, **changes)) == name


def test_a_summary_is_of_the_seeds():
    runs = pd.DataFrame({"method": ["a", "b", "a"], "last": [1.0, 9.0, 3.0]})
    first, second = example.summary(runs, ["method"]).to_dict("records")
    assert (first["method"], first["seeds"], first["mean"]) == ("a", 2, 2.0)
    assert first["deviation"] == pytest.approx(2**0.5)
    assert (first["lowest"], first["highest"], second["method"]) == (1.0, 3.0, "b")


def test_the_table_holds_the_grid_and_shows_five_seeds_of_the_method():
    """Run for run, by what the settings say of each."""
    search = example.search()
    settings = ["method", "base", "tasks", "features", "epochs a task", "weight"]
    settings = [*settings, "seed"]
    told = dict(curve=np.zeros(1), seconds=[], provenance={"commit": ""})
    grid = [
        example.line(SimpleNamespace(config=config, **told))
        for config in grids.read(root() / "grids" / "example.yaml")
    ]
    rows = search[settings].astype(str).values.tolist()
    assert rows == [[str(line[name]) for name in settings] for line in grid]
    shown = example.shown(search)
    ours = "both guards, Gaussians, squared distance"
    usual = shown[(shown["features"] == 16) & (shown["base"] == 4)]
    usual = usual[(usual["tasks"] == 2) & (usual["method"] == ours)]
    assert sorted(usual["seed"]) == [0, 1, 2, 3, 4]
    assert set(usual["weight"].astype(str)) == {"2.0"}
