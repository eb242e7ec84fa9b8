"""What a machine has not: variables without sense, memory, room for the output."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_core import SMALL, environment, flags, tiny, train
from test_cli import QUICK, home_fixture, left, refused, run_fixture  # noqa: F401

from gfrlib import training
from gfrlib.config import UserError
from gfrlib.engine import limits
from gfrlib.lab import experiments


@pytest.mark.parametrize(
    "variables, says",
    [
        (dict(GFR_HOME="/dev/null"), "GFR_HOME names '/dev/null', which cannot be"),
        (dict(GFR_HOME="/etc/passwd/x"), "because '/etc/passwd' is none"),
        (dict(GFR_CACHE="/dev/null/x"), "GFR_CACHE names '/dev/null/x'"),
        (dict(GFR_CACHE="~nobody-here/x"), "who has no home here"),
        (dict(GFR_CACHE="x" * 300), "File name too long"),
        (dict(GFR_RESIDENT_BYTES="1_0"), "GFR_RESIDENT_BYTES must be a whole number"),
        (dict(LOCAL_WORLD_SIZE="0"), "LOCAL_WORLD_SIZE must be a whole number from 1"),
        (dict(WORLD_SIZE="x"), "WORLD_SIZE must be a whole number from 1"),
        (dict(WORLD_SIZE="0"), "WORLD_SIZE must be a whole number from 1"),
        (dict(WORLD_SIZE="2"), "RANK is not set"),
        (
            dict(WORLD_SIZE="2", RANK="2", LOCAL_RANK="0", MASTER_ADDR="a")
            | dict(MASTER_PORT="1"),
            "RANK must be a whole number from 0 to 1",
        ),
        (
            dict(WORLD_SIZE="2", RANK="0", LOCAL_RANK="0", MASTER_PORT="y")
            | dict(MASTER_ADDR="a"),
            "MASTER_PORT must be a whole number",
        ),
        (
            dict(WORLD_SIZE="2", RANK="0", LOCAL_RANK="0", MASTER_PORT="1")
            | dict(MASTER_ADDR="no.such.machine.invalid"),
            "no machine known here",
        ),
    ],
)
def test_variables_without_sense_are_one_sentence(
    run, home, monkeypatch, variables, says
):
    monkeypatch.setattr("gfrlib.training.run", None)  # whoever trains fails
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    refused(run("run", "--method", "finetune", *flags(QUICK)), says)
    assert left(home) == []


@pytest.mark.parametrize(
    "words, says",
    [
        (["--method", "gfr", "--generator-hidden", "1000000"], "needs more than 32,0"),
        (["--method", "fecam", "--width", "4096"], "needs more than 69"),
        (["--network", "resnet18", "--width", "4096"], "needs more than 7"),
        (["--method", "mergan", "--generator-parameters", 10**9], "needs more than 16"),
        (["--method", "finetune", "--threads", "1024"], "so many would wait"),
    ],
)
def test_what_memory_cannot_hold_is_refused_before_it_is_taken(
    run, home, monkeypatch, words, says
):
    monkeypatch.setattr("gfrlib.training.run", None)  # whoever trains fails
    monkeypatch.setattr("gfrlib.engine.limits.memory", lambda device: 12 * 10**9)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    refused(run("run", *words), says)
    grid = home / "grid.yaml"
    changes = zip(words[::2], words[1::2])
    settings = {k[2:].replace("-", "_"): v for k, v in changes if k != "--method"}
    lines = [f"{name}: {value}" for name, value in settings.items()]
    method = words[1] if words[0] == "--method" else "gfr"
    grid.write_text(
        f"runs: [{{methods: [{method}], settings: {{{', '.join(lines)}}}}}]"
    )
    refused(run("grid", grid, "--dry-run"), says)
    assert left(home) == []


@pytest.mark.parametrize(
    "problem, says",
    [
        (MemoryError(), "not enough memory"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), "not enough memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "not enough memory",
        ),
        (RuntimeError("Storage size calculation overflowed"), "not enough memory"),
        (np.linalg.LinAlgError("SVD did not converge"), "could not be decomposed"),
        (torch.linalg.LinAlgError("not positive-definite"), "could not be decomposed"),
        (OSError(28, "No space left on device", "x.pt"), "'x.pt' cannot be used (No"),
    ],
)
def test_what_a_machine_cannot_do_is_one_sentence(run, monkeypatch, problem, says):
    def fails(*_, **__):
        raise problem

    monkeypatch.setattr("gfrlib.training.run", fails)
    refused(run("run", "--method", "finetune", *flags(QUICK)), says)


def test_an_error_of_the_program_is_not_hidden(run, monkeypatch):
    """Only what the machine or the reader brought about is a sentence."""
    for problem in (RuntimeError("shapes differ"), KeyError("x"), ValueError("y")):

        def fails(*_, problem=problem, **__):
            raise problem

        monkeypatch.setattr("gfrlib.training.run", fails)
        with pytest.raises(type(problem)):
            run("run", "--method", "finetune", *flags(QUICK))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
def test_an_output_that_is_full_or_closed_is_no_traceback(tmp_path):
    for where, code, said in (
        ("> /dev/full", 2, "gfrlib: What was printed"),
        ("| head -c 1 > /dev/null", 0, ""),
    ):
        done = subprocess.run(
            [
                "bash",
                "-o",
                "pipefail",
                "-c",
                f"{sys.executable} -m gfrlib methods {where}",
            ],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code and done.stderr.startswith(said), done
        assert done.stderr.count("\n") <= 1 and "Traceback" not in done.stderr


def test_a_terminal_without_the_letters_gets_escapes(tmp_path):
    narrow = {**environment(tmp_path), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "gfrlib", "run", "--method", "grün"],
        env=narrow,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2 and b"'gr\\xfcn'" in done.stderr


def test_one_image_has_no_batch_statistics():
    """Where the last maps are a single place, batch norm has nothing to compare."""
    config = tiny("finetune", **SMALL, network="resnet18", batch_size=1)
    with pytest.raises(UserError, match="batch of one image"):
        experiments.run_or_load(config)
    with pytest.raises(ValueError, match="another"), limits.told():
        raise ValueError("another")


def test_features_that_are_no_numbers_are_said_before_a_memory_is_fitted(monkeypatch):
    def diverged(*args, **more):
        return torch.full((4, 2), torch.nan), torch.arange(4)

    monkeypatch.setattr(training, "real_features", diverged)
    for method in ("fecam", "gfr-mixture", "gfr-gaussian", "frozen"):
        with pytest.raises(UserError, match="no finite numbers"):
            train(tiny(method, **SMALL))
