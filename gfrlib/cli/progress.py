"""The progress bar of a run."""

import os
import sys

from gfrlib.engine import values


class Progress:
    """A bar on a terminal: task, phase, epoch, loss, time left. Silent in logs."""

    def __init__(self):
        self.bar, self.key = None, None

    def __call__(self, t: int, phase: str, step: int, total: int, losses: dict) -> None:
        """As training.run reports: `losses` are the last means, with their step."""
        if not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0":
            return
        if self.key != (t, phase):
            self._begin(t, phase, step, total)
        if losses:
            self._count_epochs(losses["step"])
            words = [f"loss {losses['loss']:.3g}"]
            if self.per_epoch and phase == "classifier":
                epoch = 1 + (step - 1) // self.per_epoch
                words.insert(0, f"epoch {epoch} of {total // self.per_epoch}")
            self.bar.set_postfix_str(", ".join(words), refresh=False)
        self.bar.update(step - self.bar.n)

    def _begin(self, t: int, phase: str, step: int, total: int) -> None:
        from tqdm import tqdm

        self.close()
        self.key = (t, phase)
        # Means come once an epoch. Where a phase begins in the middle, the first one
        # that is new tells how long an epoch is.
        self.per_epoch, self.mean_at = 0, 0 if step == 1 else None
        self.bar = tqdm(
            total=total,
            initial=step - 1,
            desc=f"task {t} {phase}",
            file=sys.stderr,
            unit="step",
            leave=False,
        )

    def _count_epochs(self, mean_at: int) -> None:
        if self.mean_at is not None and mean_at > self.mean_at and not self.per_epoch:
            self.per_epoch = mean_at - self.mean_at
        self.mean_at = mean_at

    def notice(self, text: str) -> None:
        """One line on stderr, beside the bar."""
        print(values.line(text), file=sys.stderr)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
