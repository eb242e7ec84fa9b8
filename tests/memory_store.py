"""Stages kept in memory and a kill -9 that costs nothing: for tests of resuming."""

import contextlib
import io
from pathlib import Path

import torch
from helpers_core import train

from gfrlib import training


class Killed(Exception):
    """Stands for kill -9."""


class MemoryStore:
    """Stages kept as bytes in memory.

    Where `kills(step)` says so, a stage saves a checkpoint after that step and dies.
    `opened` lists the keys of all stages asked for, `trained` the (task, phase) of
    those that were trained, `resumed` the steps at which one went on.
    """

    code = "test"

    def __init__(self, kills=None):
        self.kept, self.kills = {}, kills
        self.trained, self.opened, self.resumed = [], [], []

    @contextlib.contextmanager
    def stage(self, key: str):
        self.opened.append(key)
        yield MemoryStage(self, key)

    def read(self, key: str, what: str):
        """The state kept under this name ("done" or "checkpoint"), or None."""
        content = self.kept.get(key, {}).get(what)
        if content is None:
            return None
        return torch.load(io.BytesIO(content), weights_only=True)

    def write(self, key: str, what: str, state: dict) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.kept.setdefault(key, {})[what] = buffer.getvalue()


class MemoryStage:
    """One stage of it, as the library's Store has them."""

    path = Path("memory")

    def __init__(self, store: MemoryStore, key: str):
        self.store, self.key, self.step = store, key, 0

    def result(self):
        return self.store.read(self.key, "done")

    def checkpoint(self):
        state = self.store.read(self.key, "checkpoint")
        if state is not None:
            self.step = state["step"]
            self.store.resumed.append(state["step"])
        return state

    def due(self) -> bool:
        self.step += 1
        return self.store.kills is not None and self.store.kills(self.step)

    def save(self, state: dict) -> None:
        assert state["step"] == self.step
        self.store.write(self.key, "checkpoint", state)
        raise Killed

    def finish(self, state: dict) -> None:
        if "seconds" in state:
            spent = state["seconds"]
            self.store.trained.append((spent["task"], spent["phase"]))
        self.store.write(self.key, "done", state)


def until_done(
    config, store: MemoryStore, limit: int = 400
) -> tuple[training.Outcome, int]:
    """Run again after every kill; the outcome and the number of kills."""
    for kills in range(limit):
        with contextlib.suppress(Killed):
            return train(config, store), kills
    raise AssertionError("it never came to its end")
