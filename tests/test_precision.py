"""Half precision and compiled updates: what they change, where they are refused."""

import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers_core import SMALL, load_tasks, tiny, train

from gfrlib.config import UserError, make_config
from gfrlib.engine import distributed, machine
from gfrlib.lab import experiments, grids


@pytest.mark.parametrize("method", ["gfr", "block-3"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_what_float32_trains(whole, method, precision):
    """Task 0's losses stay close, and the weights are other ones."""
    few = dict(epochs_base=3)
    full, half = whole(method, **few), whole(method, **few, precision=precision)
    assert half.weights != full.weights
    for a, b in zip(full.losses[:3], half.losses[:3]):
        assert b["loss"] == pytest.approx(a["loss"], rel=0.05)
    assert all(np.isfinite(row["loss"]) for row in half.losses)


def test_auto_is_what_the_chip_has(monkeypatch):
    config = tiny("gfr", precision="auto")
    for flags, expected in (
        ("fpu avx2", "float32"),
        ("fpu avx512_bf16", "bf16"),
        ("amx_bf16 amx_tile", "bf16"),
        ("", "float32"),
    ):
        monkeypatch.setattr(machine, "_cpuinfo", lambda field, flags=flags: flags)
        assert machine.Machine.of(config).precision == expected
    cuda = torch.device("cuda")
    for has, expected in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has
        )
        assert machine.resolve_precision(config, cuda) == expected
    assert machine.Machine.of(tiny("gfr", precision="float32")).half is None


def cpuinfo(monkeypatch, tmp_path, text: str | None) -> None:
    """Linux's file says `text`; None: there is no such file, as on macOS."""
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(machine, "CPUINFO", file)
    monkeypatch.setattr(machine, "_told", set())


NATIVE = "processor\t: 0\nmodel name\t: Some EPYC\nflags\t\t: fpu avx2 avx512_bf16\n"
EMULATED = "processor\t: 0\nmodel name\t: Some Xeon\nflags\t\t: fpu avx2 avx512f\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n"


def test_a_processor_is_named_with_its_kind(monkeypatch, tmp_path):
    """Two kinds that are both called "AMD EPYC" ended the same training differently."""
    here, cpu = tmp_path / "cpuinfo", torch.device("cpu")
    monkeypatch.setattr(machine, "CPUINFO", here)
    kind = "cpu family\t: 25\nmodel\t\t: 17\n"
    here.write_text(f"processor\t: 0\n{kind}model name\t: Some EPYC\n")
    assert machine.chip(cpu) == "Some EPYC (family 25, model 17)"
    here.write_text(NATIVE)
    assert machine.chip(cpu) == "Some EPYC"


@pytest.mark.parametrize(
    ("text", "auto", "said"),
    [(NATIVE, "bf16", 0), (EMULATED, "float32", 1), (ARM, "float32", 1)]
    + [(None, "float32", 1)],
    ids=["native", "emulated", "arm", "no cpuinfo"],
)
def test_bf16_that_is_emulated_is_said_once(monkeypatch, tmp_path, text, auto, said):
    """`auto` takes bf16 only where the processor's flags name it: not on ARM, nor where
    nothing can be read (macOS). There an explicit bf16 gets one notice, and goes on.
    """
    cpuinfo(monkeypatch, tmp_path, text)
    monkeypatch.setenv("GFR_HOME", str(tmp_path))
    few = dict(SMALL, split=(2, 2), device="cpu")
    assert machine.Machine.of(tiny("finetune", precision="auto")).precision == auto
    told = []
    for precision, seed in (("auto", 0), ("float32", 0), ("bf16", 0), ("bf16", 1)):
        config = tiny("finetune", **few, precision=precision, seed=seed)
        record = experiments.run_or_load(config, notice=told.append)
        assert record.status == "computed now"
    assert len(told) == said
    assert all("8 times slower" in text and "precision = auto" in text for text in told)


def test_a_grid_says_it_once_and_a_record_needs_no_notice(monkeypatch, tmp_path):
    cpuinfo(monkeypatch, tmp_path, EMULATED)
    monkeypatch.setenv("GFR_HOME", str(tmp_path))
    few = dict(SMALL, split=(2, 2), device="cpu", precision="bf16")
    configs = [tiny("finetune", **few, seed=seed) for seed in (0, 1)]
    for expected in (1, 0):
        told = []
        monkeypatch.setattr(machine, "_told", set())
        found = list(grids.run(configs, notice=told.append))
        assert len(told) == expected and len(found) == 2
    # several processes: this one says it for all of them
    monkeypatch.setattr(machine, "_told", set())
    monkeypatch.setattr(grids, "_processes", lambda *_: iter(()))
    assert not list(grids.run(configs, 2, notice=told.append)) and len(told) == 1
    machine.hush()
    assert not list(grids.run(configs, 2, notice=told.append)) and len(told) == 1


def test_a_gpu_computes_what_the_record_says(monkeypatch):
    """float32 is not TF32; bf16 that a chip would emulate is refused.

    Without a GPU, asking for one is refused, too; each in one sentence.
    """
    cudnn = SimpleNamespace(allow_tf32=True, benchmark=False)
    monkeypatch.setattr(torch.backends, "cudnn", cudnn)
    matmul = SimpleNamespace(allow_tf32=True)
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    machine.Machine.of(tiny("gfr", device="cpu")).prepare()
    assert cudnn.allow_tf32  # a run on the CPU leaves the GPU as it is
    with pytest.raises(UserError, match="There is no GPU here"):
        machine.Machine.of(tiny("gfr", device="cuda"))
    if not torch.cuda.is_available():  # data are loaded before a machine is asked
        with pytest.raises(UserError, match="There is no GPU here"):
            load_tasks(tiny("gfr", device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation
    )
    with pytest.raises(UserError, match="Tesla T4 has no bfloat16 arithmetic"):
        machine.Machine.of(tiny("gfr", device="cuda", precision="bf16"))
    machine.Machine.of(tiny("gfr", device="cuda")).prepare()
    assert not cudnn.allow_tf32 and not matmul.allow_tf32
    assert cudnn.benchmark


# --- compiled updates -----------------------------------------------------------------


@pytest.fixture
def compiler():
    """What `compiled` needs on a CPU; a test skipped without it fails in CI."""
    missing = not shutil.which(os.environ.get("CXX") or machine.COMPILER)
    if missing or torch.__version__ < machine.GRADIENTS_OF_GRADIENTS:
        reason = "'compiled' needs a C++ compiler and a newer PyTorch"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


@pytest.mark.parametrize("method", ["gfr", "gfr-flow"])
@pytest.mark.usefixtures("compiler")
def test_compiled_takes_the_eager_steps(method):
    """Every kind of compiled update, the aligned generator's included: same losses."""
    few = dict(SMALL, generator_steps_base=3, generator_steps_later=3, split=(4, 3, 3))
    eager, fast = train(tiny(method, **few)), train(tiny(method, **few, compiled=True))
    where = ("task", "phase", "step")
    for a, b in zip(eager.losses, fast.losses, strict=True):
        at = [a[name] for name in where]
        assert a.keys() == b.keys() and at == [b[name] for name in where]
        for name in a.keys() - {"phase"}:
            assert b[name] == pytest.approx(a[name], rel=2e-3, abs=2e-4), (at, name)


@pytest.mark.usefixtures("compiler")
def test_the_fast_path_reaches_what_float32_reaches(monkeypatch):
    """Traced and in bf16, the last accuracy lies within the reference's spread.

    The traced graphs are run by PyTorch's own kernels: that the C++ compiler's are as
    good shows above, and they take minutes to make.
    """
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, **kwargs: compile_(f, backend="aot_eager", **kwargs)
    )

    def last(seed, **changes):
        steps = dict(split=(4, 3, 3), generator_steps_later=225)
        config = make_config("quick", "gfr", seed=seed, **steps, **changes)
        found = train(config).predictions[-1]["softmax"]
        return 100 * float((found == load_tasks(config).test_labels.numpy()).mean())

    reference = np.array([last(seed) for seed in range(3)])
    fast = last(0, compiled=True, precision="bf16")
    torch._dynamo.reset()
    assert reference.min() > 60
    allowed = max(3, 2 * reference.std(ddof=1))
    assert abs(fast - reference.mean()) < allowed, (fast, reference)


@pytest.mark.parametrize("alignment", ["code", "paper"])
def test_ten_tasks_need_no_more_graphs_than_three(monkeypatch, alignment):
    """What differs from task to task is no constant of a compiled update.

    That is f_t and the number of old classes.
    """
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda f, **kwargs: compile_(f, backend=count, **{**kwargs, "dynamic": False}),
    )
    steps = dict(generator_steps_base=2, generator_steps_later=16)
    seen = []
    for split in ((2, 1, 1), (1,) * 10):
        torch._dynamo.reset()
        graphs.clear()
        changes = dict(split=split, alignment=alignment, compiled=True)
        outcome = train(tiny("gfr", **steps, **changes))
        assert len(outcome.predictions) == len(split)
        seen.append(len(graphs))
    torch._dynamo.reset()
    assert seen[0] == seen[1] > 0


def test_compiled_where_it_cannot_be_is_refused(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    needs = "needs a C.. compiler on a CPU, and '{}' is not .*compiled to false"
    for variable, looked_for in (("", machine.COMPILER), ("mine -m64", "mine -m64")):
        monkeypatch.setenv("CXX", variable)
        with pytest.raises(UserError, match=needs.format(re.escape(looked_for))):
            train(tiny("gfr", **SMALL, compiled=True))
    monkeypatch.setattr(distributed, "size", lambda: 2)
    with pytest.raises(UserError, match="is for one process"):
        distributed.check(tiny("gfr", compiled=True))
