"""A small book of one chapter, for tests of the runner, and plain papermill."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

from gfrlib.book import chapters

PARAMETERS = """\
import os

base: int = 4  # classes
rate: float = 0.5  # a rate
name: str = "digits\""""
CHECK = """\
from gfrlib.book.parameters import check_parameters
check_parameters()"""
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def papermill(*arguments):
    """Plain papermill, as a reader would call it."""
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "-k", "python3"]
    return subprocess.run(
        [*command, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def write_notebook(path, body="print(base)", **metadata):
    """A chapter of three code cells: parameters, their check, and the body.

    metadata: of the body's cell.
    """

    def cell(name, source, metadata):
        about = {"cell_type": "code", "id": name, "metadata": metadata}
        return {**about, "source": source, "execution_count": None, "outputs": []}

    notebook = {
        "cells": [
            cell("parameters", PARAMETERS, {"tags": ["parameters"]}),
            cell("check", CHECK, {}),
            cell("body", body, metadata),
        ],
        "metadata": {"kernelspec": KERNEL},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(notebook))


@pytest.fixture(name="small")
def small_fixture(tmp_path, monkeypatch):
    """A book of one chapter with a library and a record, in place of the real one."""
    for folder in ("book", "gfrlib", "data/records"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "gfrlib" / "losses.py").write_text("WEIGHT = 1\n")
    (tmp_path / "data" / "records" / "one.json").write_text("{}")
    write_notebook(tmp_path / "book" / "01_small.ipynb")
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    # the kernel works in ROOT: in tmp_path the stand-in would hide the real library
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    execute = chapters.notebooks.execute
    monkeypatch.setattr(
        chapters.notebooks,
        "execute",
        lambda source, partial, values, folder: execute(source, partial, values, ROOT),
    )
    return tmp_path
