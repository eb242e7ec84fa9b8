"""One resumable stretch of training: steps, random numbers, losses, checkpoints.

Randomness is stateless: step s of a phase draws from a generator seeded by (seed, task,
phase, s) alone. So a resumed run continues exactly, a shared stage does not depend on
which row trained it, and two methods see the same batches. (A GPU draws other numbers
than a CPU: Chain.made says where a stage was trained.)
"""

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from gfrlib.config import UserError
from gfrlib.engine import distributed
from gfrlib.engine.machine import Machine, compiled_gradients
from gfrlib.engine.store import fitting


def seed_of(*what) -> int:
    """A 62-bit seed from anything printable."""
    digest = hashlib.sha256(repr(what).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


class Phase:
    """The steps of one phase of task t, on one machine.

    stage keeps its checkpoints (store.Stage), or None; report hears of progress.
    """

    def __init__(
        self,
        name: str,
        t: int,
        seed: int,
        machine: Machine,
        stage=None,
        report: Callable | None = None,
    ):
        self.name, self.t, self.run_seed = name, t, seed
        self.machine, self.stage, self.report = machine, stage, report
        self.seed = seed_of(seed, t, name)
        self.device, self.half = machine.device, machine.half
        self.rng = torch.Generator(self.device)
        scaled = self.half == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.history: list[dict] = []
        self.sums: dict[str, Tensor] = {}
        self.count, self.step = 0, 0
        self.seconds, self.began = 0.0, time.monotonic()

    # Random numbers and precision ---------------------------------------------------

    def autocast(self, wanted: bool = True):
        """Half-precision arithmetic, float32 weights, where the config asks for it."""
        if wanted and self.half is not None:
            return torch.autocast(self.device.type, self.half)
        return contextlib.nullcontext()

    def seeded(self, what: str) -> torch.Generator:
        """A generator for something drawn once in this phase."""
        seed = seed_of(self.run_seed, self.t, self.name, what)
        return torch.Generator(self.device).manual_seed(seed)

    def epoch_rows(
        self, step: int, count: int, batch_size: int, *, host: bool = False
    ) -> Tensor:
        """Rows of this step's batch, on the device or on the host.

        Every epoch has its own permutation of `count` rows; a rest below a batch waits.
        The host's copy is made once an epoch.
        """
        per_epoch = max(1, count // batch_size)
        epoch, within = divmod(step, per_epoch)
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            rng = self.seeded(f"epoch {epoch}")
            self._order = torch.randperm(count, generator=rng, device=self.device)
            self._on_host: Tensor | None = None
        if host and self._on_host is None:
            self._on_host = self._order.cpu()
        order = self._on_host if host else self._order
        return order[within * batch_size : (within + 1) * batch_size]

    # Steps --------------------------------------------------------------------------

    def steps(self, total: int, *, every: int, **parts) -> Iterator[int]:
        """Yield the steps still to do; average the logged losses over `every` steps.

        `parts` are what a checkpoint holds.
        """
        if self.scaler.is_enabled():
            parts["scaler"] = self.scaler
        self._restore(parts)
        for step in range(self.step, total):
            self.rng.manual_seed((self.seed + step) % 2**63)
            yield step
            self.step = step + 1
            if self.step % every == 0 or self.step == total:
                self._flush()
            if self.report:
                last = self.history[-1] if self.history else {}
                self.report(self.t, self.name, self.step, total, last)
            if self.stage is not None and self.stage.due() and self.step < total:
                self._finite()
                self.stage.save(self._state(parts))

    def descend(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """One step down the loss's gradient.

        With fp16 the loss is scaled so that small gradients do not vanish.
        """
        optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(optimizer)
        self.scaler.update()

    def descent(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        losses_of: Callable,
        *,
        compiled: bool = False,
    ) -> Callable:
        """A function that passes its inputs to `losses_of`, takes one step down its
        loss, and returns its (loss, parts).

        compiled: forward, backward and penalty of gradients as one graph.
        """
        together = distributed.together(module)

        def eager(*inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            loss, parts = together(losses_of, *inputs)
            self.descend(optimizer, loss)
            return loss, parts

        if not compiled:
            return eager
        weights = list(module.parameters())
        gradients_of = compiled_gradients(losses_of, weights, self.device)

        def fast(*inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            loss, parts, gradients = gradients_of(*inputs)
            for weight, gradient in zip(weights, gradients):
                weight.grad = gradient
            optimizer.step()
            # the gradients lie in the graph's own memory, and the next replay
            # overwrites the losses
            optimizer.zero_grad(set_to_none=True)
            return loss.clone(), {name: value.clone() for name, value in parts.items()}

        return fast

    # Losses -------------------------------------------------------------------------

    def log(self, **values: Tensor) -> None:
        """Add to the running means; no value leaves the device here."""
        for name, value in distributed.mean_of(values).items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def _finite(self) -> None:
        for name, value in self.sums.items():
            if not math.isfinite(value.item()):
                raise UserError(
                    f"The loss '{name}' of task {self.t}'s {self.name} became NaN or "
                    f"infinite before step {self.step}; lower the learning rate or the "
                    "penalty's weight, or use precision float32."
                )

    def _flush(self) -> None:
        self._finite()
        if self.count:
            means = {name: v.item() / self.count for name, v in self.sums.items()}
            about = {"task": self.t, "phase": self.name, "step": self.step}
            self.history.append({**about, **means})
        self.sums, self.count = {}, 0

    # Checkpoints --------------------------------------------------------------------

    def elapsed(self) -> float:
        """Seconds spent here, those before an interruption's checkpoint included."""
        return self.seconds + time.monotonic() - self.began

    def _state(self, parts: dict) -> dict:
        return {
            "step": self.step,
            "count": self.count,
            "seconds": self.elapsed(),
            "history": self.history,
            "sums": {name: value.cpu() for name, value in self.sums.items()},
            **{name: part.state_dict() for name, part in parts.items()},
        }

    def _restore(self, parts: dict) -> None:
        state = self.stage.checkpoint() if self.stage is not None else None
        if state is None:
            return
        with fitting(self.stage):
            for name, part in parts.items():
                part.load_state_dict(state[name])
            self.step, self.count = int(state["step"]), int(state["count"])
            self.history, self.seconds = list(state["history"]), state["seconds"] + 0.0
            self.sums = {k: v.to(self.device) for k, v in state["sums"].items()}
