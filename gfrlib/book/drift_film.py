"""Films of drift: features of two dimensions while they are trained, look by look.

The small network of the preset quick, half as wide, gets one more layer, to two
features that may be negative, so that F's output can be drawn as it is. Everything else
is the library's: Algorithm 1's phases, its losses, its memories. `drift_player` shows
the films.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gfrlib import training
from gfrlib.config import Config, digest_of
from gfrlib.engine.chain import Chain
from gfrlib.engine.source import code_digest
from gfrlib.engine.store import Store
from gfrlib.generators import GAN
from gfrlib.heads import HEADS
from gfrlib.lab import experiments
from gfrlib.lab.compared import first_of_each
from gfrlib.memory import Memory
from gfrlib.networks import Network, split
from gfrlib.penalties import Past
from gfrlib.replay import build_memory
from gfrlib.tasks import Tasks

SIZES = (4, 1, 1)  # classes of every task
LOOKS = (6, 10, 10)  # at every task: the first before its first step
# side of the window, in units of what distilled features fill
ROOM = 1.5
POINTS, CROSSES = 20, 12  # test images, and replayed features, that stand for a class
# One row for each position of the switches: {name: (distillation, replay, alignment)}
FILMS = {
    "free none": (False, "none", False),
    "free gaussian": (False, "gaussian", False),
    "free gan": (False, "gan", True),
    "held none": (True, "none", False),
    "held gaussian": (True, "gaussian", False),
    "held gan": (True, "gan", True),
    "held gan unaligned": (True, "gan", False),
}


@dataclass(frozen=True)
class Look:
    """F and H at one moment; class k is the k-th in the order of arrival."""

    task: int
    step: int
    of: int  # steps of this task
    points: Tensor  # u = F(x) of POINTS test images of every class seen [N, 2]
    labels: Tensor  # their classes [N]
    replayed: Tensor | None  # what the memory replays, CROSSES of every old class
    head: Tensor  # H: rows of two weights and a bias [classes, 3]
    accuracy: list[float]  # of every class seen, percent of its test images


def settings(
    distillation: bool, replay: str, alignment: bool, seed: int = 0, **changes
) -> Config:
    """The Config of one position of the switches.

    The squared distance, at a weight that lets F learn the new classes: with two
    features a still one has no room for them. `changes` are settings of Config.
    """
    # on the CPU even beside a GPU: it is looked at more often than it takes a step
    found = dict(device="cpu", split=list(SIZES), seed=seed)
    found |= dict(penalty="none", memory=replay)
    found |= dict(width=8, epochs_task=100, learning_rate_task=2e-3)
    if distillation:
        found |= dict(penalty="features", distance="mse", penalty_weight=0.1)
    if replay == "gaussian":
        found |= dict(gaussian="full", gaussian_clamp=False)
    if replay == "gan":
        found |= dict(generator_steps_base=400, generator_steps_later=400)
        found |= dict(generator_hidden=64, latent_dim=8)
        found |= {} if alignment else dict(alignment_weight=0.0)
    return experiments.settings("quick", "gfr", **{**found, **changes})


def films(seed: int = 0, **changes) -> dict[str, list[Look]]:
    """{name of FILMS: its looks}. All begin with the same task 0, trained once.

    Kept in the cache; with the same code they are not made again.
    """
    made = [settings(*switches, seed, **changes) for switches in FILMS.values()]
    about = [
        torch.__version__,
        code_digest(),
        Path(__file__).read_text(encoding="utf-8"),
    ]
    key = digest_of(["films", *about, *(config.identity() for config in made)])
    with Store().stage(key) as stage:
        kept = stage.result()
        if kept is None:
            looks = _films(seed, changes)
            kept = {name: [vars(look) for look in some] for name, some in looks.items()}
            stage.finish(kept)
    return {name: [Look(**look) for look in some] for name, some in kept.items()}


def _films(seed: int, changes: dict) -> dict[str, list[Look]]:
    found, first = {}, None
    for name, switches in FILMS.items():
        config = settings(*switches, seed, **changes)
        film = Film(config, experiments.load_tasks(config), first)
        found[name] = film.looks
        first = first or film.first
    return found


class Film:
    """One run, looked at while it trains: `looks`.

    `first`: (state of the network after task 0, looks at it) of another film; None: it
    is trained here.
    """

    def __init__(
        self, config: Config, stream: Tasks, first: tuple[dict, list[Look]] | None
    ):
        self.stream, self.looks = stream, []
        self.past: Past | None = None
        self.first = first
        chain = Chain(config, stream, None, self._report)
        self.network, memory = two_features(config, stream)
        with chain.machine.limited():
            for t in chain.numbers:
                self._learn(chain, t, memory)
                train = training.train_generator  # the memory takes up task t
                chain.phase("generator", t, train, memory, self.network, self.past)

    def _learn(self, chain: Chain, t: int, memory: Memory) -> None:
        """F and H learn task t."""
        config, sizes = chain.config, self.stream.sizes
        if t:
            self.past = Past(self.network, memory, None, config, sizes, t)
        training.grow_head(self.network, config, sizes, t)
        if t == 0 and self.first:
            state, looks = self.first
            self.network.load_state_dict(state)
            self.network.eval()
            self.looks += looks
            return
        begin = len(self.looks)
        self._look(t, 0, 0)
        train = training.train_classifier
        chain.phase("classifier", t, train, self.network, self.past)
        of = self.looks[-1].of
        self.looks[begin] = Look(**{**vars(self.looks[begin]), "of": of})
        if t == 0:
            state = {k: v.clone() for k, v in self.network.state_dict().items()}
            self.first = state, list(self.looks)

    def _report(self, t: int, name: str, step: int, total: int, last: dict) -> None:
        if name == "classifier" and step in moments(LOOKS[t], total):
            self._look(t, step, total)

    @torch.no_grad()
    def _look(self, t: int, step: int, of: int) -> None:
        network, stream = self.network, self.stream
        trained = network.training
        network.eval()
        F, H = split(network, len(network.stages))
        index = torch.cat([stream.test_index(k) for k in range(t + 1)])
        labels = stream.test_labels[index]
        u = F(stream.normalise(stream.test_images[index]))
        right = (H(u).argmax(1) == labels).float()
        shown = first_of_each(labels, POINTS)
        weight, bias = (
            torch.cat([getattr(block, name) for block in network.head.blocks])
            for name in ("weight", "bias")
        )
        self.looks.append(
            Look(
                t,
                step,
                of,
                u[shown],
                labels[shown],
                self._replayed(),
                torch.cat([weight, bias[:, None]], dim=1).clone(),
                [100 * float(right[labels == c].mean()) for c in labels.unique()],
            )
        )
        network.train(trained)

    def _replayed(self) -> Tensor | None:
        if self.past is None or not self.past.memory.replays:
            return None
        c = torch.arange(self.past.classes).repeat_interleave(CROSSES)
        return self.past.memory.sample(c, torch.Generator().manual_seed(0))


def final(films: dict[str, list[Look]]) -> dict[str, float]:
    """{film: percent of all classes at its end, each class counting the same}."""
    ends = {name: looks[-1].accuracy for name, looks in films.items()}
    return {name: sum(end) / len(end) for name, end in ends.items()}


def accuracies(films: dict[str, list[Look]]) -> list[dict]:
    """A row for each look of each film: what a reader may download."""
    return [
        {"film": name, "task": look.task, "step": look.step}
        | {f"class {c}": round(value, 1) for c, value in enumerate(look.accuracy)}
        for name, looks in films.items()
        for look in looks
    ]


def on_task_0(looks: list[Look], task: int = 1) -> list[tuple[int, float]]:
    """[(step of a later task, percent), ...]: accuracy on the classes of task 0."""
    first = slice(SIZES[0])
    return [
        (look.step, sum(look.accuracy[first]) / SIZES[0])
        for look in looks
        if look.task == task
    ]


def class_names(seed: int = 0) -> list[str]:
    """Names of the films' classes, in their order of arrival."""
    return experiments.load_tasks(settings(False, "none", False, seed)).class_names


def two_features(config: Config, stream: Tasks) -> tuple[Network, Memory]:
    """The config's network and memory, with a last layer of F that has two outputs.

    They have either sign: what stands for features is not cut off at zero.
    """
    network, _, _ = training.build(config, stream, torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        bottleneck = nn.Linear(network.features, 2)
    network.stages[-1] = nn.Sequential(*network.stages[-1], bottleneck)
    network.features = 2
    network.head = HEADS[config.head](2, config)
    classes = stream.num_classes
    memory = build_memory(config, classes, (2,), config.seed)
    if isinstance(memory, GAN):
        memory.generator.layers[-1] = nn.Identity()
    return network, memory


def moments(looks: int, total: int) -> set[int]:
    """The steps that are looked at, but for step 0: more at the beginning."""
    return {max(1, round(total * (k / (looks - 1)) ** 2)) for k in range(1, looks)}


def window_of(films: dict[str, list[Look]]) -> tuple[float, float, float]:
    """(left, bottom, side) of a square that holds what distilled features fill."""
    held = [looks for name, looks in films.items() if name.startswith("held")]
    points = torch.cat(
        [look.points for looks in held or films.values() for look in looks]
    )
    low, high = (torch.quantile(points, q, dim=0) for q in (0.01, 0.99))
    side = ROOM * float((high - low).max())
    left, bottom = ((low + high) / 2 - side / 2).tolist()
    return left, bottom, side
