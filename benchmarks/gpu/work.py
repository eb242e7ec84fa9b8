"""What a part lets a process of its own do: checks, timings, rows.

    python -m benchmarks.gpu.work checks|timing MODE|rows MODE ROW ... [--dry]

Every finding is one JSON line on standard output, as soon as it is known. Exit code 0
when all is done, STOPPED where SIGTERM ended it after a checkpoint.
"""

import contextlib
import dataclasses
import json
import signal
import sys
import time
import traceback

from benchmarks.gpu.state import MODES, NETWORK_CHECK
from gfrlib.config import UserError, make_config

STOPPED = 3
CHECKPOINT_EVERY = 60.0  # seconds: a checkpoint of the paper's network takes one
CALLS = 4  # of a compiled network, before its last result is looked at
# how much further from float32 a compiled network may be than the eager one
NOT_FURTHER, SLACK = 1.25, 0.02
PHASES = (("generator", 0), ("classifier", 0), ("classifier", 1), ("generator", 1))
WARM, TIMED = 10, {"classifier": 100, "generator": 40}
IMAGES = 500  # training images of a class
# A rehearsal on a CPU: the same way in seconds.
DRY = dict(
    split=(10, 5, 5), width=4, epochs_base=1, epochs_task=1, generator_steps_base=30,
    generator_steps_later=20, generator_hidden=32, latent_dim=16, feature_views=1,
    threads=1, precision="float32",
)  # fmt: skip
# What takes the host long, while the GPU waits, is left out of the records.
LEFT_OUT = ("similarity", "quality")


def say(event: str, **about) -> None:
    """One finding."""
    print(json.dumps({"event": event, **about}), flush=True)


def settings(row: str, mode: str, dry: bool):
    """The config of a row such as "gfr" or "gfr 50 + 10 x 5"."""
    method, _, split = row.partition(" ")
    changes = {"compiled": MODES[mode].compiled}
    if split:
        changes["tasks"] = int(split.split()[2])
    if dry:
        changes |= {"split": (10, 2, 2, 2)} if split else {}
        changes = {**DRY, **changes}
        changes.pop("tasks", None)
    return make_config("paper", method, **changes)


class Stopped(Exception):
    """A checkpoint was written; the run ends here."""


class Report:
    """Hears of every step: tells where a row is, and ends it cleanly after SIGTERM.

    config: of the row; with it, the accuracies of a row that is never finished come
    back, too.
    """

    def __init__(self, row: str, config=None):
        self.row, self.asked, self.saving = row, False, False
        self.config, self.task, self.told = config, 0, 0.0
        signal.signal(signal.SIGTERM, self.ask)

    def ask(self, *_) -> None:
        self.asked = True

    def __call__(self, t: int, phase: str, step: int, total: int, losses: dict) -> None:
        from gfrlib.engine import store

        last = step == total
        if time.monotonic() - self.told > 5 or last:
            self.told = time.monotonic()
            say("at", row=self.row, task=t, phase=phase, step=step, total=total)
        if self.config and t > self.task:
            self.task = t
            with contextlib.suppress(UserError, LookupError):
                say("tested", row=self.row, curve=tested(self.config, t))
        if self.saving:
            raise Stopped
        if self.asked:
            self.saving = True
            store.CHECKPOINT_EVERY = -1.0  # this step's checkpoint is due now


# Rows ---------------------------------------------------------------------------------


def tested(config, before: int) -> list[float]:
    """Class-weighted accuracy (percent) after each task before this one of a run under
    way, from what it has kept. Raises LookupError where that is not there.
    """
    from gfrlib import metrics
    from gfrlib.engine.chain import Chain
    from gfrlib.engine.store import Store
    from gfrlib.lab.runs import load_tasks

    def unknown(*_):
        raise LookupError("not tested yet")

    stream = load_tasks(dataclasses.replace(config, device="cpu"))
    chain, predictions = Chain(config, stream, Store()), []
    for t in range(before):
        for name in ("classifier", "generator"):
            chain.next_key(name, t)
        rules = chain.evaluated(unknown, None, None, t)
        predictions.append(rules.get(config.prediction, next(iter(rules.values()))))
    seen = stream.sizes[:before]
    labels = stream.test_labels.numpy()
    accuracy = metrics.accuracy_matrix(predictions, labels, seen)
    return [round(100 * float(x), 2) for x in metrics.class_weighted(accuracy, seen)]


def rows(mode: str, names: list[str], dry: bool) -> int:
    """Run or load each row in turn."""
    from gfrlib.engine import store
    from gfrlib.lab import experiments

    store.CHECKPOINT_EVERY, failed = CHECKPOINT_EVERY, 0
    for name in names:
        config = settings(name, mode, dry)
        report, began = Report(name, config), time.monotonic()
        try:
            record = experiments.run_or_load(
                config,
                leave_out=LEFT_OUT,
                report=report,
                notice=lambda text: say("said", text=text),
            )
        except Stopped:
            return STOPPED
        except Exception as problem:  # whatever it is, the other rows go on
            traceback.print_exc()
            said = f"{type(problem).__name__}: {problem}".splitlines()[0][:200]
            say("row", row=name, status=f"failed, {said}")
            failed = 1
            continue
        say(
            "row",
            row=name,
            status="done",
            mode=mode,
            wall=round(time.monotonic() - began, 1),
            record=record.path.name,
            sizes=list(record.task_sizes),
            curve=[round(100 * float(share), 2) for share in record.curve],
            seconds=record.seconds,
            device=record.provenance["device"],
            precision=record.provenance["precision"],
        )
        if report.asked:
            return STOPPED
    return failed


# Timing -------------------------------------------------------------------------------


def made_up(config, each: int):
    """A stream of CIFAR-100's shape with so many training images of each class.

    Noise is as fast as photographs. With all 500 an epoch has the usual length; at its
    end the host waits for the losses.
    """
    import numpy as np
    import torch

    from gfrlib import tasks
    from gfrlib.engine.machine import resolve_device
    from gfrlib.lab.datasets import Packed

    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", each), ("test", 1)):
        shape = (100 * count, 32, 32, 3)
        arrays[f"{part}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{part}_labels"] = np.repeat(np.arange(100), count)
    packed = Packed("noise", **arrays, class_names=[str(c) for c in range(100)])
    return tasks.build(config, packed, torch.device(resolve_device(config)))


def timing(mode: str, dry: bool) -> int:
    """Seconds per 1,000 steps of each kind of phase, and their floor."""
    from benchmarks import floor
    from gfrlib.engine.machine import Machine
    from gfrlib.lab import plans

    config = settings("gfr", mode, dry)
    here = Machine.of(config)
    here.prepare()
    images = 16 if dry else IMAGES
    stream = made_up(config, images)
    say("steps", **steps_of(config))
    if mode != "eager":
        check(NETWORK_CHECK.format(mode=mode), compiled_network, config)
    speeds = {}
    if mode == "eager":
        for kind in (here.precision, "float32"):
            speeds[kind] = floor.peak(kind, here.device)
        said = (f"{v / 1e12:.0f} TFLOP/s in {kind}" for kind, v in speeds.items())
        say("about", peak=" and ".join(said))
    for phase, t in PHASES:
        if mode == "graphs" and phase == "generator":
            continue
        steps, warm = (3, 1) if dry else (TIMED[phase], WARM)
        stage, began = plans.Stage("", t, phase, steps), time.monotonic()
        counts = dict(steps=steps, warm=warm, images=images)
        each = plans.seconds_per_step(config, stream, stage, **counts)
        start = time.monotonic() - began - (steps + warm) * each
        least = None
        if speeds:
            kind = "float32" if floor.in_float32(config, phase) else here.precision
            least = floor.operations_per_step(config, stream, stage) / speeds[kind]
        say(
            "timing",
            mode=mode,
            what=name_of(phase, t),
            seconds=1000 * each,
            floor=least and 1000 * least,
            start=max(0.0, start),
        )
    return 0


def name_of(phase: str, t: int) -> str:
    """Task 0, or the later ones together."""
    return f"{phase}, {'later' if t else 'task 0'}"


def steps_of(config) -> dict[str, int]:
    """{kind of phase: its steps in the whole run} on CIFAR-100."""
    from gfrlib.engine.chain import generator_steps
    from gfrlib.tasks import task_sizes

    sizes = task_sizes(100, config.base, config.tasks, config.split)
    found: dict[str, int] = {}
    for t, classes in enumerate(sizes):
        epochs = config.epochs_task if t else config.epochs_base
        count = max(1, IMAGES * classes // config.batch_size) * epochs
        name = name_of("classifier", t)
        found[name] = found.get(name, 0) + count
        if t < len(sizes) - 1:
            name = name_of("generator", t)
            found[name] = found.get(name, 0) + generator_steps(config, len(sizes), t)
    return found


def compiled_network(config) -> str:
    """The old extractor's pass, and the gradients of the new one's, compiled, in half
    precision: no further from float32 than they are without a compiler.

    A compiler does not round between the operations that it fuses, so that compiled and
    eager gradients differ as each of them differs from float32 (0.29 and 0.34 at width
    16, emulated on a CPU). With CUDA graphs the first call is eager and the second
    recorded, so that a later one is looked at.
    """
    import torch

    from gfrlib.engine.machine import Machine, compiled
    from gfrlib.networks import build_network, split

    here = Machine.of(config)
    network = build_network(config, (3, 32, 32), 0).to(here.device).eval()
    extractor, _ = split(network, config.cut)
    images = torch.randn(CALLS, config.batch_size, 3, 32, 32, device=here.device)
    images = [x.to(memory_format=torch.channels_last) for x in images]

    def rounded(wanted: bool):
        half = here.half if wanted else None
        return torch.autocast(here.device.type, half or torch.float32, half is not None)

    def features(run, x, wanted: bool = True) -> torch.Tensor:
        with torch.no_grad(), rounded(wanted):
            return run(x).float()

    def gradients(run, x, wanted: bool = True) -> torch.Tensor:
        with rounded(wanted):
            loss = run(x).float().square().mean()
        found = torch.autograd.grad(loss, list(extractor.parameters()))
        return torch.cat([g.flatten().float() for g in found])

    said = []
    for name, look in (("features", features), ("gradients", gradients)):
        extractor.train(look is gradients)
        fast = compiled(extractor, here.device)
        for x in images:
            ours = look(fast, x).clone()
        eager, exact = look(extractor, x), look(extractor, x, False)
        most = NOT_FURTHER * distance(eager, exact) + SLACK
        said.append(f"{name}, {close(ours, exact, most)}")
    return "from float32: " + "; ".join(said)


def distance(ours, theirs) -> float:
    """The relative distance of two tensors."""
    return float((ours - theirs).norm() / theirs.norm())


def close(ours, theirs, most: float) -> str:
    """Their relative distance in one sentence; AssertionError where it is too large."""
    apart = distance(ours, theirs)
    assert apart < most, f"relative distance {apart:.2g}, allowed {most:g}"
    return f"relative distance {apart:.1e}"


def check(name: str, function, *arguments) -> None:
    """Say how a check went; whatever it raises is a failure, and stops nothing."""
    began, passed = time.monotonic(), True
    try:
        said = function(*arguments)
    except Exception as problem:
        passed, said = False, f"{type(problem).__name__}: {problem}".splitlines()[0]
        traceback.print_exc()
    if said is None:
        passed, said = None, "needs a GPU"
    seconds = round(time.monotonic() - began, 1)
    say("check", name=name, passed=passed, said=said[:300], seconds=seconds)


def about() -> None:
    """What computes here."""
    import torch

    from gfrlib.engine.machine import Machine

    here = Machine.of(dataclasses.replace(make_config("paper"), device="auto"))
    say("about", device=here.chip, precision=here.precision, torch=torch.__version__)


def main(words: list[str]) -> int:
    """One of the three; returns the exit code."""
    dry = "--dry" in words
    what, *rest = [word for word in words if word != "--dry"]
    # until a row is under way there is nothing to save
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))
    about()
    if what == "checks":
        from benchmarks.gpu import checks

        return checks.run(dry)
    if what == "timing":
        return timing(rest[0], dry)
    return rows(rest[0], rest[1:], dry)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as problem:
        say("said", text=str(problem))
        sys.exit(2)
