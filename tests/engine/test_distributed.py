"""Two processes by torchrun on the CPU (gloo): the same gradients as one, the same run,
and what happens if one dies.
"""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers_core import ROOT, environment, flags, gfrlib, tiny, train
from killing import OFTEN, kept

from gfrlib.config import UserError
from gfrlib.engine import distributed

HERE = ROOT / "tests"
OPTIONS = dict(
    split="4,3,3",
    epochs_base=3,
    epochs_task=2,
    generator_steps_base=20,
    generator_steps_later=20,
    width=8,
    generator_hidden=32,
    latent_dim=8,
    feature_views=2,
    device="cpu",
)


def torchrun(*words, home, processes: int = 2) -> list[str]:
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={processes}",
        *map(str, words),
    ]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    home = tmp_path_factory.mktemp("two")
    done = subprocess.run(
        torchrun(HERE / "two_processes.py", home=home),
        capture_output=True,
        text=True,
        check=False,
        env={**environment(home), "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"},
        timeout=300,
        cwd=home,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_gradients_of_two_shares_are_those_of_the_batch(two):
    assert two["size"] == 2
    assert len(two["checks"]) == 6 and all(
        apart < 1e-6 for apart in two["checks"].values()
    ), two["checks"]


@pytest.mark.parametrize(
    "method", ["gfr", "gfr-flow", "gfr-mixture", "lucir", "ewc", "block-3"]
)
def test_two_processes_train_the_run_of_one(two, method):
    found = two["runs"][method]
    assert found["weights"][0] == found["weights"][1], (
        "both processes must end with the same weights"
    )
    alone = train(tiny(method, batch_size=32))
    assert found["first"]["loss"] == pytest.approx(alone.losses[0]["loss"], rel=1e-3)
    for rule, predicted in alone.predictions[-1].items():
        assert np.mean(predicted == np.array(found["predictions"][rule])) > 0.9, rule


def test_a_batch_that_cannot_be_shared(two, monkeypatch):
    assert two["odd"].startswith(
        "UserError: A batch of 5 images cannot be shared by 2 processes"
    )
    monkeypatch.setattr(distributed, "size", lambda: 3)
    with pytest.raises(UserError, match="'batch_size' is the global batch"):
        distributed.check(tiny("lwf", batch_size=32))
    with pytest.raises(UserError, match="'generator_batch'"):
        distributed.check(tiny("gfr", batch_size=33, generator_batch=32))


def test_the_command_under_torchrun_killed_and_resumed(tmp_path):
    often = tmp_path / "often.py"  # a run so short has else no checkpoint
    often.write_text(OFTEN)
    words = [
        "run",
        "--preset",
        "quick",
        "--method",
        "gfr",
        *flags({**OPTIONS, "epochs_base": 30}),
        "--json",
    ]
    process = subprocess.Popen(
        torchrun(often, 0.1, *words, home=tmp_path),
        env=environment(tmp_path),
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline, victims = time.time() + 120, []
    while time.time() < deadline and not victims and process.poll() is None:
        time.sleep(0.05)
        if kept(tmp_path, "checkpoint.pt"):
            children = subprocess.run(
                ["pgrep", "-P", str(process.pid)],
                capture_output=True,
                text=True,
                check=False,
            ).stdout
            victims = children.split()
    assert len(victims) == 2, process.poll()
    os.kill(int(victims[1]), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0 and "Signal 9 (SIGKILL)" in err
    assert not kept(tmp_path, "done.pt") or not list(
        (tmp_path / "data").rglob("records/*.json")
    )

    done = subprocess.run(
        torchrun("-m", "gfrlib", *words, home=tmp_path),
        env=environment(tmp_path),
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("resuming stage") == 1, done.stderr[-3000:]
    record = json.loads(done.stdout)
    assert record["status"] == "computed now" and record["provenance"][
        "device"
    ].startswith("2 x ")
    again = json.loads(
        gfrlib(*words, home=tmp_path).stdout
    )  # one process finds what two have made
    assert again["status"] == "loaded" and again["weights"] == record["weights"]


def test_one_process_is_untouched(tmp_path):
    assert distributed.size() == 1 and distributed.rank() == 0
    value = np.float64(3)
    assert (
        distributed.broadcast(value) is value
        and distributed.root_mean_square(value) is value
    )
    assert distributed.weight_of(value) == 1.0
