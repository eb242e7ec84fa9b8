"""A minute of checks on a real GPU, against the CPU: what no pretended device shows.

All on digits or on noise, none needs CIFAR-100.
"""

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from benchmarks.gpu.state import GAN_CHECK
from benchmarks.gpu.work import check, close
from gfrlib import training
from gfrlib.config import make_config
from gfrlib.engine import store
from gfrlib.engine.machine import Machine
from gfrlib.lab import analysis
from gfrlib.lab.runs import load_tasks
from gfrlib.networks import build_network

# one row at least of every penalty, memory and head
ROWS = (
    "gfr", "frozen", "gfr-gaussian", "finetune", "lwf", "ewc", "mas", "icarl-nme",
    "lucir", "block-3", "mergan", "fecam", "fetril", "gfr-gaussian-drift", "gfr-flow",
    "gfr-mixture", "joint",
)  # fmt: skip
SMALL = dict(
    split=(4, 3, 3), epochs_base=2, epochs_task=1, width=8, generator_steps_base=8,
    generator_steps_later=8, generator_hidden=32, latent_dim=8, feature_views=2,
    importance_images=20,
)  # fmt: skip
ALLOWED = 10.0  # points between two quick runs with other random numbers


def run(dry: bool) -> int:
    """All checks, those that matter most first; returns 0."""
    device = torch.device("cpu" if dry else "cuda")
    check("a step of the network, GPU and CPU", network_step, device)
    check(GAN_CHECK, recorded_gan, device)
    check("a quick run, GPU and CPU", quick_run, device, dry)
    check("a run stopped and resumed", resumed, device)
    rows = ROWS[:3] if dry else ROWS
    for row in rows:
        check(f"a small run of {row}", small_run, row, device)
    return 0


def small(method: str, device: torch.device, **changes):
    """A run of a second."""
    return make_config("quick", method, device=device.type, **{**SMALL, **changes})


def trained(config, **others) -> training.Outcome:
    """The run on its machine, with its threads."""
    here = Machine.of(config)
    here.prepare()
    with here.limited():
        return training.run(config, load_tasks(config), machine=here, **others)


def network_step(device: torch.device) -> str:
    """Logits and gradients of the paper's network in float32, on the same images.

    Sums in another order moved the logits by 7e-6 and the gradients by 1e-2, where a
    ReLU's input changes its sign; TF32 (10 bits) by 1e-3 and 8e-2. Measured on a CPU.
    """

    def found(where: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        config = make_config("paper", width=16, precision="float32", device=where.type)
        Machine.of(config).prepare()
        network = build_network(config, (3, 32, 32), 0)
        network.head.grow(10, 0)
        network.to(where).train()
        rng = torch.Generator().manual_seed(0)
        x = torch.randn(64, 3, 32, 32, generator=rng).to(where)
        y = torch.randint(0, 10, (64,), generator=rng).to(where)
        logits = network(x)
        loss = torch.nn.functional.cross_entropy(logits, y)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        return logits.detach().cpu(), torch.cat([g.flatten().cpu() for g in gradients])

    there, here = found(device), found(torch.device("cpu"))
    said = close(there[0], here[0], 1e-4)
    return f"{said}; of gradients, {close(there[1], here[1], 0.04)}"


def recorded_gan(device: torch.device) -> str | None:
    """Losses of a GAN whose updates are CUDA graphs, and of the same without."""
    if device.type == "cpu":
        return None
    few = dict(generator_steps_base=30, generator_steps_later=30)

    def losses_of(compiled: bool) -> np.ndarray:
        config = small("gfr", device, **few, compiled=compiled)
        # the network stays as it began, the same for both: this is of the GAN alone
        with mock.patch.object(training, "train_classifier", lambda *_: None):
            outcome = trained(config)
        rows = [row for row in outcome.losses if row["phase"] == "generator"]
        return np.array([[row["loss"], row["wasserstein"]] for row in rows])

    eager, fast = losses_of(False), losses_of(True)
    assert eager.shape == fast.shape and np.isfinite(fast).all()
    return close(torch.from_numpy(fast), torch.from_numpy(eager), 1e-2)


def small_run(method: str, device: torch.device) -> str:
    """Training, testing and the cheap parts of the analysis.

    Every other row in the precision that the rows of the table have, one in fp16.
    """
    precision = "auto" if ROWS.index(method) % 2 == 0 else "float32"
    precision = "fp16" if method == "lwf" and device.type == "cuda" else precision
    config = small(method, device, precision=precision)
    stream = load_tasks(config)
    parts = set(analysis.PARTS) - analysis.COSTLY
    observer = analysis.Observer(config, stream, parts)
    outcome = trained(config, observe=observer)
    observer.result()
    values = [v for row in outcome.losses for v in row.values() if type(v) is float]
    assert np.isfinite(values).all(), "a loss is not finite"
    return f"{_accuracy(config, outcome):.0f} % after a few steps"


def resumed(device: torch.device) -> str:
    """Stopped in each phase by an exception after a checkpoint, then gone on."""
    config = small("gfr", device)

    class Enough(Exception):
        pass

    def stop(t: int, phase: str, step: int, total: int, losses: dict) -> None:
        place = (t, phase)
        if step == 2 and place not in seen:
            seen.add(place)
            raise Enough

    seen: set = set()
    resumptions: list[str] = []
    whole = trained(config)
    with (
        tempfile.TemporaryDirectory() as place,
        mock.patch.object(store, "CHECKPOINT_EVERY", -1.0),
    ):
        while True:
            kept = store.Store(Path(place), notice=resumptions.append)
            try:
                again = trained(config, store=kept, report=stop)
                break
            except Enough:
                pass
    same = np.mean(
        [
            (a[rule] == b[rule]).mean()
            for a, b in zip(whole.predictions, again.predictions, strict=True)
            for rule in a
        ]
    )
    assert len(seen) > 3 and same > 0.9, f"{100 * same:.0f} % of predictions agree"
    found = sum(text.startswith("resuming stage") for text in resumptions)
    assert found == len(seen), f"{len(seen)} stops, {found} checkpoints found again"
    return f"{len(seen)} stops, {100 * same:.1f} % of predictions agree"


def quick_run(device: torch.device, dry: bool) -> str:
    """The last accuracy of `gfr` on digits, there and here."""
    found = []
    for where in (device, torch.device("cpu")):
        config = make_config("quick", "gfr", device=where.type)
        config = small("gfr", device) if dry else config
        found.append(_accuracy(config, trained(config)))
    there, cpu = found
    said = f"{there:.1f} % and {cpu:.1f} %"
    assert abs(there - cpu) < ALLOWED, f"{said}: more than {ALLOWED:g} points apart"
    return said


def _accuracy(config, outcome) -> float:
    """Of the row's own rule after the last task, in percent."""
    rules = outcome.predictions[-1]
    predicted = rules.get(config.prediction, next(iter(rules.values())))
    labels = load_tasks(config).test_labels.cpu().numpy()
    return 100 * float((predicted == labels[: len(predicted)]).mean())
