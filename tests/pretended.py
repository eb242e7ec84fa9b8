"""A pretended device: tensors that claim to lie elsewhere, and are on the CPU.

    python tests/pretended.py runs METHOD ...    each method's whole run and analysis
        there, against the same run on the CPU
    python tests/pretended.py waits METHOD ...   what the host waits for in three tasks,
        with n steps a task and with 2 n
    python tests/pretended.py itself             whether the device notices what it is
        there to notice

No machine of this project has a GPU. What can be shown without: that nothing mixes
tensors of two devices, that the results do not depend on where they were computed, and
that no step of training needs a value on the host. In a process of its own, because
PyTorch takes a device's name for the whole process (and calls the interface
experimental). Prints JSON.
"""

import collections
import contextlib
import json
import sys
from unittest import mock

import torch
from helpers_core import tiny
from sklearn.manifold import TSNE
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from gfrlib import tasks, training
from gfrlib.engine import machine
from gfrlib.lab import analysis, datasets

_setup_privateuseone_for_python_backend("pretended")
DEVICE = torch.device("pretended", 0)
SIZE_UNKNOWN = {
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "equal",
    "is_nonzero",
}
MAY_MOVE = {"_to_copy", "copy_"}
waits: list[str] = []


class There(torch.Tensor):
    """A tensor of the pretended device; `inner` has its values."""

    @staticmethod
    def __new__(cls, inner, requires_grad=False):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
            requires_grad=requires_grad,
        )

    def __init__(self, inner, requires_grad=False):
        self.inner = inner

    def tolist(self):
        waits.append("tolist")
        return self.inner.tolist()

    def numpy(self, *_, **__):
        raise TypeError("this tensor is not on the host")

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


class Factories(TorchDispatchMode):
    """Sends what makes new tensors on the pretended device to `compute`, too."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


class Generator(torch.Generator):
    """The CPU's random numbers under the pretended device's name."""

    device = DEVICE

    def __new__(cls, device=None):
        return super().__new__(cls)


def compute(function, args, kwargs):
    """One operation, on the CPU, its results wrapped.

    A mixture of devices is refused, and what the host waits for is noted.
    """
    name = function.name().removeprefix("aten::").split(".")[0]
    leaves = [
        x
        for x in pytree.arg_tree_leaves(*args, **kwargs)
        if isinstance(x, torch.Tensor)
    ]
    there = [x for x in leaves if isinstance(x, There)]
    here = [x for x in leaves if not isinstance(x, There)]
    # a number on the CPU may join in, as on a GPU
    if there and any(x.ndim for x in here) and name not in MAY_MOVE:
        raise RuntimeError(f"{name}: tensors of two devices")
    wanted = kwargs.get("device")
    gives = (
        torch.device(wanted).type == DEVICE.type
        if wanted is not None
        else bool(there) and name != "_local_scalar_dense"
    )
    masked = name in ("index", "index_put", "index_put_") and any(
        x.dtype in (torch.bool, torch.uint8)
        for x in pytree.tree_leaves(args[1])
        if isinstance(x, torch.Tensor)
    )
    moved = name in MAY_MOVE and bool(there) != (
        bool(there) and not here if name == "copy_" else gives
    )
    # from pinned memory to the device, the host does not wait
    moved = moved and not (kwargs.get("non_blocking") and gives)
    if there and (name in SIZE_UNKNOWN | {"_local_scalar_dense"} or masked) or moved:
        waits.append(name)
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu") if gives else wanted}
    known = {id(x.inner): x for x in there}

    def wrap(x):
        if not isinstance(x, torch.Tensor) or not gives:
            return x
        return known[id(x)] if id(x) in known else There(x)

    args, kwargs = pytree.tree_map(
        lambda x: x.inner if isinstance(x, There) else x, (args, kwargs)
    )
    return pytree.tree_map(wrap, function(*args, **kwargs))


def tensor(data, *, device=None, make=torch.tensor, **keywords):
    """torch.tensor, whose own way to another device goes past Python."""
    made = make(data, **keywords)
    return made if device is None else made.to(device)


@contextlib.contextmanager
def pretended():
    """Inside, the library's device is the pretended one."""
    with (
        mock.patch.object(torch, "Generator", Generator),
        mock.patch.object(torch, "tensor", tensor),
        mock.patch.object(machine, "resolve_device", lambda config: DEVICE),
        Factories(),
    ):
        yield


def run(config, packed, device: torch.device):
    """(outcome, analysis, sheet, what every task left behind) of a whole run."""
    stream = tasks.build(config, packed, device)
    observer, left = analysis.Observer(config, stream), []

    def observe(t, network, memory):
        observer(t, network, memory)
        left.append(
            {
                f"{name}.{k}": v.cpu().double()
                for name, module in (("network", network), ("memory", memory))
                for k, v in module.state_dict().items()
            }
        )

    # t-SNE is scikit-learn's, on the host, and would take most of the time
    with mock.patch.object(TSNE, "fit_transform", lambda self, u: u[:, :2]):
        outcome = training.run(config, stream, observe=observe)
    return outcome, observer.result(), observer.sheet(), left


def compare(method: str) -> dict:
    """How far the run there is from the run here."""
    config = tiny(method, base=6, tasks=2, importance_images=20)
    packed = datasets.packed("digits")
    here = run(config, packed, torch.device("cpu"))
    with pretended():
        there = run(config, packed, DEVICE)
    apart = [
        float((a[k] - b[k]).abs().max() / a[k].abs().max().clamp_min(1e-9))
        for a, b in zip(here[3], there[3], strict=True)
        for k in a
    ]
    same = [
        float((a[rule] == b[rule]).mean())
        for a, b in zip(here[0].predictions, there[0].predictions, strict=True)
        for rule in a or ()
    ]
    # every list as long, every entry there
    shapes = [pytree.tree_flatten(part)[1] for part in (here[1], there[1])]
    return {
        "weights": max(apart),
        "same": min(same),
        "analysis": shapes[0] == shapes[1],
        "sheet": (here[2] is None) == (there[2] is None),
    }


def count(method: str) -> dict[str, dict[str, int]]:
    """What the host waits for in a run: with n steps a task, and with twice as many."""
    found = {}
    packed = datasets.packed("digits")
    # losses are logged 50 times in both
    for name, batch, updates in (("n", 64, 50), ("2 n", 32, 100)):
        config = tiny(
            method,
            base=6,
            tasks=2,
            importance_images=20,
            batch_size=batch,
            generator_steps_base=updates,
            generator_steps_later=updates,
            generator_batch=8,
            critic_steps=1,
            epochs_base=1,
        )
        with pretended():
            stream = tasks.build(config, packed, DEVICE)
            waits.clear()
            training.run(config, stream)
        found[name] = dict(sorted(collections.Counter(waits).items()))
    return found


def itself() -> dict:
    """Mixing devices is refused.

    A number, a mask's rows and a copy are waited for, arithmetic is not.
    """
    found = {}
    with pretended():
        x = torch.arange(6.0, device=DEVICE)
        try:
            x + torch.arange(6.0)
        except RuntimeError as problem:
            found["mixed"] = str(problem)
        for name, use in (
            ("number", lambda: float(x.sum())),
            ("rows", lambda: x[x > 2]),
            ("to", x.cpu),
            ("from", lambda: torch.tensor([1.0], device=DEVICE)),
            ("none", lambda: (2 * x).sum() * x[2:4]),
        ):
            waits.clear()
            use()
            found[name] = len(waits)
    return found


if __name__ == "__main__":
    if sys.argv[1] == "itself":
        print(json.dumps(itself()))
    else:
        work = {"runs": compare, "waits": count}[sys.argv[1]]
        print(json.dumps({method: work(method) for method in sys.argv[2:]}))
