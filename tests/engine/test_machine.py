"""What `compiled` does on a GPU, where there is none: CUDA graphs whose recording and
replay are pretended.
"""

import contextlib
import gc

import pytest
import torch
import torch._dynamo  # looks at the streams that are pretended below
from helpers_core import load_tasks, tiny, train
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu import checks, work
from gfrlib import training
from gfrlib.config import UserError, make_config
from gfrlib.engine import machine, phase

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
FORBIDDEN = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "lift_fresh",
    "multinomial",
    "native_dropout",
    "randint",
    "rand",
    "randn",
    "randperm",
    "normal_",
    "uniform_",
    "bernoulli_",
    "random_",
}


class Graph:
    """Stands for torch.cuda.CUDAGraph: what ran while it was recorded, done again on
    the same tensors, into the same places.
    """

    def __init__(self):
        self.calls, self.replays = [], 0

    def replay(self):
        self.replays += 1
        with torch.no_grad():
            for function, arguments, keywords, found in self.calls:
                again = function(*arguments, **keywords)
                for old, new in zip(
                    pytree.tree_leaves(found), pytree.tree_leaves(again)
                ):
                    if (
                        isinstance(old, torch.Tensor)
                        and old.untyped_storage().data_ptr()
                        != new.untyped_storage().data_ptr()
                    ):
                        old.copy_(new)


class Recording(TorchDispatchMode):
    """Stands for torch.cuda.graph; below autograd, so it sees the backward operations,
    too.
    """

    def __init__(self, graph, stream=None):
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.overloadpacket.__name__
        assert name not in FORBIDDEN, f"a CUDA graph cannot hold {name}"
        masks = [
            x
            for x in pytree.tree_leaves(arguments[1:2])
            if isinstance(x, torch.Tensor) and x.dtype == torch.bool
        ]
        assert not (masks and name.startswith("index")), (
            "a CUDA graph cannot hold what a mask selects"
        )
        found = function(*arguments, **(keywords or {}))
        self.graph.calls.append((function, arguments, keywords or {}, found))
        return found


@pytest.fixture
def graphs(monkeypatch):
    """CUDA graphs pretended; the list of those that were made."""
    made = []

    class Stream:
        def wait_stream(self, other):
            pass

    def new():
        made.append(Graph())
        return made[-1]

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", new)
    monkeypatch.setattr(torch.cuda, "graph", Recording)
    # on a CPU PyTorch's own looks at the labels' range, on a GPU it does not
    monkeypatch.setattr(
        torch.nn.functional,
        "one_hot",
        lambda labels, classes: (labels[:, None] == torch.arange(classes)).to(
            torch.int64
        ),
    )
    return made


def test_a_replay_reads_new_inputs_and_present_weights(graphs):
    weight = torch.tensor([2.0, 3.0], requires_grad=True)

    def losses_of(x):
        loss = (weight**2 * x).sum()
        return loss, {"twice": 2 * loss}

    both = machine.compiled_gradients(losses_of, [weight], CUDA)
    for x, value in (
        ((1.0, 1.0), (2.0, 3.0)),
        ((5.0, 7.0), (2.0, 3.0)),
        ((5.0, 7.0), (4.0, -1.0)),
    ):
        with torch.no_grad():
            weight.copy_(torch.tensor(value))
        loss, parts, (gradient,) = both(torch.tensor(x))
        (a, b), (u, v) = value, x
        assert not loss.requires_grad
        assert (loss.item(), parts["twice"].item()) == (
            a * a * u + b * b * v,
            2 * (a * a * u + b * b * v),
        )
        assert gradient.tolist() == [2 * a * u, 2 * b * v]
    both(torch.ones(1))  # another shape: another graph
    assert [g.replays for g in graphs] == [3, 1]


def test_the_recording_keeps_no_caller_s_tensor(graphs):
    weight, x = torch.ones(2, requires_grad=True), torch.ones(2)
    both = machine.compiled_gradients(
        lambda x: ((weight * x).sum(), {}), [weight], CUDA
    )
    both(x)
    both(torch.full((2,), 9.0))
    assert x.tolist() == [1, 1]


@pytest.mark.parametrize(
    "method, alignment",
    [("gfr", "code"), ("gfr", "paper"), ("gfr", "retrain"), ("gfr-flow", "code")],
)
def test_replayed_updates_take_the_eager_steps(graphs, monkeypatch, method, alignment):
    """A whole run with every update of the GAN or the flow replayed: the same losses,
    but for the order of sums.
    """
    real = machine.compiled_gradients
    monkeypatch.setattr(
        phase,
        "compiled_gradients",
        lambda losses_of, weights, device: real(losses_of, weights, CUDA),
    )
    monkeypatch.setattr(training, "compiled", lambda module, device: module)
    few = dict(
        split=(4, 3, 3),
        epochs_base=1,
        epochs_task=1,
        generator_steps_base=6,
        generator_steps_later=6,
        alignment=alignment,
    )
    eager, fast = train(tiny(method, **few)), train(tiny(method, **few, compiled=True))
    critics = 6 * tiny(method, **few).critic_steps
    # two tasks, since the last trains no generator; a flow is one network and takes
    # the critic's updates, too
    each = [critics, 6] if method == "gfr" else [critics + 6]
    assert [g.replays for g in graphs] == each * 2
    for a, b in zip(eager.losses, fast.losses, strict=True):
        assert a["phase"] == b["phase"]
        assert {k: v for k, v in a.items() if k != "phase"} == pytest.approx(
            {k: b[k] for k in a if k != "phase"}, rel=1e-5
        )
    assert [row["softmax"].tolist() for row in eager.predictions] == [
        row["softmax"].tolist() for row in fast.predictions
    ]


def test_a_value_on_the_host_cannot_be_recorded(graphs):
    weight = torch.ones(2, requires_grad=True)
    both = machine.compiled_gradients(
        lambda x: ((weight * x.sum().item()).sum(), {}), [weight], CUDA
    )
    with pytest.raises(AssertionError, match="cannot hold _local_scalar_dense"):
        both(torch.ones(2))


def test_what_a_mask_selects_cannot_be_recorded(graphs):
    weight = torch.ones(2, requires_grad=True)
    both = machine.compiled_gradients(
        lambda x: ((weight * x)[x > 0].sum(), {}), [weight], CUDA
    )
    with pytest.raises(AssertionError, match="what a mask selects"):
        both(torch.ones(2))


@pytest.mark.parametrize("version", ["2.4.0", "2.11.0+cu130", "2.14.1"])
def test_an_old_pytorch_will_do_for_a_gpu_and_not_for_a_cpu(
    graphs, monkeypatch, version
):
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)(version))
    weight = torch.ones(1, requires_grad=True)
    loss, _, _ = machine.compiled_gradients(
        lambda x: ((weight * x).sum(), {}), [weight], CUDA
    )(torch.ones(1))
    assert loss.item() == 1
    monkeypatch.setattr(machine.shutil, "which", lambda name: name)
    with pytest.raises(
        UserError,
        match="'compiled' needs PyTorch 2.15 on a CPU, and this is 2.*set compiled to",
    ):
        machine.compiled_gradients(lambda x: (x, {}), [weight], torch.device("cpu"))


def test_the_check_of_recorded_updates_passes_and_can_fail(graphs, monkeypatch):
    """The one that grids/gpu.sh makes on a real GPU, with the pretended graphs."""
    real, small = machine.compiled_gradients, checks.small
    monkeypatch.setattr(
        phase,
        "compiled_gradients",
        lambda losses_of, weights, device: real(losses_of, weights, CUDA),
    )
    monkeypatch.setattr(
        checks, "small", lambda method, device, **few: small(method, CPU, **few)
    )
    assert checks.recorded_gan(CPU) is None  # left out where there is no GPU
    assert checks.recorded_gan(CUDA).startswith("relative distance")
    assert graphs and all(graph.replays for graph in graphs)
    replay = Graph.replay

    def stale(self) -> None:
        """Only the first replay does anything."""
        if not self.replays:
            replay(self)

    monkeypatch.setattr(Graph, "replay", stale)
    with pytest.raises(AssertionError, match="relative distance"):
        checks.recorded_gan(CUDA)


# --- what the checks of grids/gpu.sh tell apart ---------------------------------------


class Fused(torch.nn.Module):
    """Stands for a compiler that rounds nothing between the operations it fuses."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return self.module(x)


class Stale(torch.nn.Module):
    """Stands for graphs that replay what was recorded: the second call's inputs."""

    def __init__(self, module):
        super().__init__()
        self.module, self.seen = module, []

    def forward(self, x):
        self.seen.append(x)
        return self.module(self.seen[min(1, len(self.seen) - 1)])


def small_network():
    return make_config("paper", "gfr", width=8, batch_size=16, precision="bf16")


def test_a_compiler_that_rounds_less_is_trusted(monkeypatch):
    monkeypatch.setattr(machine, "compiled", lambda module, device: Fused(module))
    said = work.compiled_network(small_network())
    assert "features" in said and "gradients" in said
    # and eager gradients are further from float32 than any fixed limit would allow
    monkeypatch.setattr(machine, "compiled", lambda module, device: module)
    said = work.compiled_network(small_network())
    assert float(said.rsplit(" ", 1)[1]) > 0.1


def test_a_graph_that_replays_old_images_is_not_trusted(monkeypatch):
    monkeypatch.setattr(machine, "compiled", lambda module, device: Stale(module))
    with pytest.raises(AssertionError, match="relative distance"):
        work.compiled_network(small_network())


def test_another_order_of_sums_is_the_same_network_and_tf32_is_not(monkeypatch):
    build = checks.build_network
    changes = {"bits": None}

    def changed(*arguments, **others):
        """The network of the first call, computed another way."""
        network = build(*arguments, **others)
        if made:
            network.to(memory_format=torch.contiguous_format)
            for module in network.modules():
                if isinstance(module, torch.nn.Conv2d) and changes["bits"]:
                    module.weight.data = rounded(module.weight.data)
        made.append(network)
        return network

    def rounded(x):
        """The first ten bits, as TF32 keeps them."""
        step = 1 << 13
        bits = x.contiguous().view(torch.int32)
        return ((bits + step // 2) // step * step).view(torch.float32)

    made: list = []
    monkeypatch.setattr(checks, "build_network", changed)
    assert "of gradients" in checks.network_step(CPU)
    made.clear()
    changes["bits"] = 10
    with pytest.raises(AssertionError, match="relative distance"):
        checks.network_step(CPU)


# --- compilers, garbage, and settings -------------------------------------------------


def test_what_compiling_for_a_gpu_needs_is_said(monkeypatch):
    module = torch.nn.Linear(2, 2)
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs Triton on a GPU.*compiled to false"):
        machine.compiled(module, CUDA)
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(UserError, match="needs a C compiler on a GPU.*install gcc"):
        machine.compiled(module, CUDA)
    monkeypatch.setenv("CC", "zig cc")
    assert callable(machine.compiled(module, CUDA))


def test_the_compiler_that_is_named_is_taken(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: name == "mine" or None)
    monkeypatch.setenv("CXX", "mine -m64")
    assert callable(machine.compiled(torch.nn.Linear(2, 2), CPU))
    monkeypatch.setattr(
        machine.shutil, "which", lambda name: name in ("/a b/mine", machine.COMPILER)
    )
    for variable in ("/a b/mine", "  "):  # a path with a blank; blanks are nothing
        monkeypatch.setenv("CXX", variable)
        assert callable(machine.compiled(torch.nn.Linear(2, 2), CPU))


def test_no_garbage_is_collected_while_a_graph_is_recorded(graphs):
    """What is freed meanwhile may be another graph, which breaks the recording."""
    collecting = []

    def losses_of(x):
        collecting.append(gc.isenabled())
        return (weight * x).sum(), {}

    weight = torch.ones(1, requires_grad=True)
    both = machine.compiled_gradients(losses_of, [weight], CUDA)
    assert both(torch.ones(1))[0].item() == 1
    assert collecting == [True] * machine.WARM_UP + [False] and gc.isenabled()


def test_who_calls_training_alone_gets_float32_too(monkeypatch):
    """`training.run` takes methods of the reader's own, which run_or_load refuses."""
    prepared = []

    def prepare(self):
        prepared.append(self)

    monkeypatch.setattr(machine.Machine, "prepare", prepare)
    config = tiny("finetune")
    training.run(config, load_tasks(config))
    assert prepared
