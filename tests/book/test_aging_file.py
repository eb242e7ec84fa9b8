"""The file below the figure of aging holds what the figure shows."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pytest
from fakes import fake

from gfrlib.book import memories


def measured(coverage):
    def row(x):
        about = dict(task=0, classes=4, spread=4.0, frechet=1.0, coverage=x)
        return about | {"precision": 0.5, "recall": 0.5, "density": 1.0}

    perfect = {"of": [row(0.95)], "augmented": {"of": [row(0.85)]}}
    entry = {"after": 0, "of": [row(coverage)], "reference": perfect}
    return fake("gfr-flow", analysis={"quality": [entry]})


def test_the_file_of_aging_holds_the_lines_of_the_figure():
    """As on 5 and 25 tasks of CIFAR-100: the first row's records lack the measure."""
    panels = {"25 tasks": {"gfr-gaussian": [fake()], "gfr-flow": [measured(0.8)]}}
    [ax] = memories.aging(panels).axes
    drawn = [y for line in ax.lines for y in line.get_ydata()]
    plt.close("all")
    rows = memories.aged_rows(panels)
    assert drawn == pytest.approx([80, 95, 85])
    assert [row["coverage"] for row in rows] == pytest.approx(drawn)


def test_runs_that_were_not_measured_are_no_rows_of_it():
    panels = {"4": {"gfr-flow": [measured(0.8), fake("gfr-flow", 1)]}}
    rows = memories.aged_rows(panels)
    assert [row["coverage"] for row in rows] == pytest.approx([80, 95, 85])
