"""The stages of a run: each is loaded where it is known, else trained and kept.

A stage's key is the hash of everything before it and of the settings that can change
it, so that all rows, and all splits of one base, train task 0 once (but for a cosine
head, `full_head` and joint training; rows that freeze a pretrained F share one of their
own).
"""

from collections.abc import Callable

import torch
from torch import nn

from gfrlib.config import RESULT_VERSION, Config, digest_of, generated
from gfrlib.engine import distributed
from gfrlib.engine.machine import Machine
from gfrlib.engine.phase import Phase
from gfrlib.engine.store import NoStore, fitting


class Chain:
    """The book-keeping of one run over a stream of tasks (tasks.Tasks).

    `losses` and `seconds` are those of its stages, `made` where they were trained:
    {"device", "threads", "precision", "digest"}, each that differs once.
    """

    def __init__(
        self,
        config: Config,
        tasks,
        store=None,
        report: Callable | None = None,
        machine: Machine | None = None,
    ):
        store = store or NoStore()
        if distributed.size() > 1:
            store = distributed.Store(store)
        self.config, self.tasks, self.store, self.report = config, tasks, store, report
        self.machine = machine or Machine.of(config)
        self.machine.prepare()  # who calls training.run has done nothing before
        self.losses: list[dict] = []
        self.seconds: list[dict] = []
        self.made: list[dict] = []
        last = len(tasks.sizes) - 1
        # joint training has the last task alone, and reads the data of all
        self.numbers = range(last if config.memory == "real" else 0, last + 1)
        self.last = last
        beyond = [tasks.content] if tasks.content else []  # what no setting tells
        if tasks.pretrained:
            beyond.append(tasks.pretrained.sha256)
        if config.precision == "auto":
            beyond.append(self.machine.precision)
        code = RESULT_VERSION, self.store.code
        self.key = digest_of(["start", torch.__version__, *code, *beyond])

    def phase(self, name: str, t: int, train: Callable, module: nn.Module, *others):
        """Load a stage's result into `module`, or train it, and keep it.

        ``train(module, *others, tasks, t, config, phase)`` goes on from the stage's
        last checkpoint.
        """
        with self.store.stage(self.next_key(name, t)) as stage:
            done = stage.result()
            if done is None:
                phase = self.new_phase(name, t, stage)
                train(module, *others, self.tasks, t, self.config, phase)
                took = round(phase.elapsed(), 3)
                about = {"task": t, "phase": name, "seconds": took, "steps": phase.step}
                done = {
                    "module": module.state_dict(),
                    "losses": phase.history,
                    "seconds": about,
                    "made": self.here(),
                }
                stage.finish(done)
            else:
                with fitting(stage):
                    _check_numbers(done)
                    module.load_state_dict(done["module"])
            module.eval()
        self.losses += done["losses"]
        if done["seconds"]["seconds"] > 0.01:
            self.seconds.append(done["seconds"])
        if done["made"] not in self.made:
            self.made.append(done["made"])

    def here(self) -> dict:
        """What trains here, for `made`."""
        return {
            "device": self.machine.chip,
            "threads": torch.get_num_threads(),
            "precision": self.machine.precision,
            "digest": self.store.code,
        }

    def new_phase(self, name: str, t: int, stage=None) -> Phase:
        """A phase of task t on this run's machine; without a stage nothing is kept."""
        return Phase(name, t, self.config.seed, self.machine, stage, self.report)

    def evaluated(
        self, predict: Callable, network: nn.Module, memory: nn.Module, t: int
    ):
        """{rule: predictions} after task t: `predict` of the network, or as kept."""
        config = self.config
        what = [config.validation, config.head, config.penalty]
        if config.penalty == "frozen":
            what.append(config.prediction)
        key = digest_of([self.key, "evaluation", *what])
        with self.store.stage(key) as stage:
            done = stage.result()
            if done is None or self._came_before_its_rule(done):
                phase = Phase("test", t, config.seed, self.machine)
                rules = predict(network, memory, self.tasks, t, config, phase)
                kept = {rule: torch.from_numpy(row) for rule, row in rules.items()}
                done = {"rules": kept}
                stage.finish(done)
            else:
                with fitting(stage):
                    self._check_rules(done["rules"], t)
        return {rule: row.numpy() for rule, row in done["rules"].items()}

    def _came_before_its_rule(self, done: dict) -> bool:
        """Whether there are predictions, and none by this run's rule: a new one."""
        rules = done.get("rules")
        known = isinstance(rules, dict) and len(rules) > 0
        return known and self.config.prediction not in rules

    def _check_rules(self, rules: dict, t: int) -> None:
        """Raises ValueError unless every rule predicts the test images of tasks 0..t.

        Or another error, if these are no tensors.
        """
        seen = sum(len(self.tasks.test_index(k)) for k in range(t + 1))
        if not rules or any(row.numpy().shape != (seen,) for row in rules.values()):
            raise ValueError("other predictions than test images")

    def next_key(self, name: str, t: int) -> str:
        """Key of the chain's next stage."""
        first = t == self.numbers.start
        settings = self.config.stage_settings(name, first=first)
        sizes = self.tasks.sizes[: t + 1]
        settings |= {"sizes": sizes, "classes": self.tasks.num_classes, "task": t}
        if self.config.full_head:
            settings["sizes"] = self.tasks.sizes
        if self.config.memory == "real":
            settings["all data"] = True
        if name == "generator":
            settings["steps"] = self.generator_steps(t)
            settings["last"] = t == self.last  # the last task trains no generator
        self.key = digest_of([self.key, name, settings])
        return self.key

    def generator_steps(self, t: int) -> int:
        """Updates of task t's generator; none in the last task, or without one."""
        if not generated(self.config) or t == self.last:
            return 0
        return generator_steps(self.config, len(self.tasks.sizes), t)


def _check_numbers(done: dict) -> None:
    """Raises TypeError, KeyError or ValueError unless there are rows of losses, a time
    and what has trained.
    """
    rows = [*done["losses"], done["seconds"], done["made"]]
    if not all(isinstance(row, dict) for row in rows):
        raise TypeError("losses, seconds and made are rows of named values")
    float(done["seconds"]["seconds"])


def generator_steps(config: Config, tasks: int, t: int) -> int:
    """G updates of task t: those of task 0, or an equal share of the later ones'.

    The last task trains none. A flow has one network, which takes the critic's, too.
    """
    updates = 1 + config.critic_steps if config.memory == "flow" else 1
    if t == 0:
        return updates * config.generator_steps_base
    return updates * max(1, config.generator_steps_later // max(1, tasks - 2))
