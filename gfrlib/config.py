"""One frozen dataclass, each setting declared once.

A declaration (declaration.setting) holds the default with its source, the check, who
reads the setting, and which stage of a run it changes; everything else is derived from
it.

Sources in the comments: *paper* = Liu et al. 2020; *code* = its official code
(xialeiliu/GFR-IL); *ours* = chosen here.
"""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from gfrlib import declaration
from gfrlib.conditions import (
    content_of,
    distilled,
    fixed,
    gan,
    generated,
    important,
    of_features,
    signed,
    softened,
    trains_later,
    weighs_old_tasks,
)
from gfrlib.declaration import ABSENT, COUNT, FRACTION, NOT_NEGATIVE, POSITIVE, setting
from gfrlib.declaration import UserError as UserError
from gfrlib.methods import COLUMNS, FEATURES, METHODS, conflict
from gfrlib.presets import PRESETS, SPATIAL

RESULT_VERSION = 1  # raised by hand whenever a change to the code can move a number


@dataclass(frozen=True)
class Config:
    """One run. Two runs are the same run if their `identity` is equal."""

    # data and task stream
    dataset: str = setting("digits")
    # classes in task 0, and equal tasks after it (the paper's "5, 10, 25 tasks")
    base: int = setting(
        4, bounds=(1, 10**6), read=lambda c: not c.split, stage="stream"
    )
    tasks: int = setting(
        3, bounds=(0, 10**4), read=lambda c: not c.split, stage="stream"
    )
    # class counts of every task, instead of base and tasks
    split: tuple = setting((), bounds=(1, 10**6), stage="stream")
    # the shuffle of NumPy's seed 1993, as LUCIR's code has it
    class_order: str = setting("lucir", choices=("lucir", "gfr", "sorted", "random"))
    seed: int = setting(0, bounds=(0, 2**32 - 1))
    # share of each class's training images held out, and evaluated on instead of the
    # test images
    validation: float = setting(0.0, bounds=FRACTION)
    # half of the training images are shown mirrored; digits never are (tasks.py). ours:
    # False where left and right tell classes apart
    mirror: bool = setting(
        True,
        read=lambda c: (
            not c.mirror and c.dataset != "digits" and (not fixed(c) or generated(c))
        ),
    )

    # the method's columns (methods.py)
    penalty: str = setting("features", choices="penalty", stage="later")
    memory: str = setting("gan", choices="memory", stage="memory")
    # stages below the cut form the extractor F; 0 would replay images
    cut: int = setting(FEATURES, bounds=(0, FEATURES), read=of_features, stage="memory")
    head: str = setting("single", choices="head", stage="later")
    prediction: str = setting("softmax", choices="prediction", stage="result")
    # code: model.eval() from task 1 on; affine parameters still train
    batch_norm: str = setting(
        "frozen",
        choices="batch_norm",
        read=lambda c: c.penalty != "frozen" and c.memory != "real",
        unread=lambda c: "frozen" if c.penalty == "frozen" else "train",
        stage="later",
    )
    # beyond the paper: move what is replayed by a "linear" map fitted on the new
    # task's data (LDC, FCS)
    drift: str = setting(
        "none", choices="drift", read=lambda c: c.drift != "none", stage="later memory"
    )

    # losses
    # paper, Section 5: the coefficient of the distillation loss is 1
    penalty_weight: float = setting(
        1.0,
        bounds=NOT_NEGATIVE,
        read=lambda c: c.penalty not in ("none", "frozen"),
        stage="later",
    )
    # LwF's original and FACIL; the paper names none
    temperature: float = setting(2.0, bounds=POSITIVE, read=softened, stage="later")
    # code: one L2 norm over batch and dimensions (torch.dist); "sample" is Equation 4
    # as printed
    distance: str = setting(
        "batch",
        choices=("batch", "sample", "mse", "cosine"),
        read=distilled,
        stage="later",
    )
    # code: f_t = old classes / new classes (rounded down there) weighs replay,
    # distillation and alignment
    old_task_weighting: bool = setting(
        True,
        read=weighs_old_tasks,
        unread=lambda c: True if of_features(c) else ABSENT,
        stage="later",
    )
    # paper: N(mu, Sigma); code draws one scalar for the whole vector ("scalar")
    gaussian: str = setting(
        "diagonal",
        choices=("diagonal", "scalar", "full"),
        read=lambda c: c.memory == "gaussian",
        stage="memory",
    )
    # ours: features end in a ReLU, so samples are clamped at 0 (code: no clamp)
    gaussian_clamp: bool = setting(
        True, read=lambda c: c.memory == "gaussian" and not signed(c), stage="memory"
    )
    # ours: Gaussians in each class's mixture
    mixture_components: int = setting(
        4, bounds=(1, 10**4), read=lambda c: c.memory == "mixture", stage="memory"
    )
    # code: squared error summed over one batch, x 1e-3 x f_t. "paper": Equation 3,
    # summed over classes. "retrain": MeRGAN's other way, old classes' replays are
    # shown to the discriminator as if they were real
    alignment: str = setting(
        "code", choices=("code", "paper", "retrain"), read=gan, stage="later memory"
    )
    alignment_weight: float = setting(  # code; Equation 3 is printed with weight 1
        1e-3,
        bounds=NOT_NEGATIVE,
        read=lambda c: gan(c) and c.alignment == "code",
        unread=lambda c: 1e-3 if gan(c) else ABSENT,
        stage="later memory",
    )
    # squared or absolute gradient image by image; "batched": of a batch's mean (PyCIL);
    # "facil": batched, over all heads, old and new importances halved (FACIL's code)
    importance: str = setting(
        "per-sample",
        choices=("per-sample", "batched", "facil"),
        read=important,
        stage="later",
    )
    # ours: training images of a task that EWC's and MAS's importances are measured on
    importance_images: int = setting(500, bounds=COUNT, read=important, stage="later")
    # images kept per class (paper, Section 5: 20 a class; by herding, as iCaRL does)
    exemplars: int = setting(
        20, bounds=(1, 10**6), read=lambda c: c.memory == "exemplars", stage="memory"
    )
    # FeCAM's alpha1 = alpha2 (its CIFAR-100 settings: 1); its code shrinks twice, which
    # is 3 once
    shrinkage: float = setting(
        1.0,
        bounds=NOT_NEGATIVE,
        read=lambda c: c.memory == "covariances" and c.shrinkage != 1,
        stage="memory",
    )
    # which new class stands for an old one in FeTrIL: nearest mean by the cosine
    # (PyCIL), or by the distance (FeTrIL's code)
    likeness: str = setting(
        "cosine",
        choices=("cosine", "euclidean"),
        read=lambda c: c.memory == "translated" and c.likeness != "cosine",
        stage="later",
    )
    # code: all outputs from task 0 on (True); paper: the head grows
    full_head: bool = setting(False)
    # cosine head: its factor eta before training (LUCIR: 1, under SGD)
    head_scale: float = setting(
        1.0, bounds=POSITIVE, read=lambda c: c.head == "cosine" and c.head_scale != 1
    )

    # network and its training
    network: str = setting("cnn", choices=("cnn", "resnet18"))
    width: int = setting(16, bounds=(1, 4096))  # channels of the first block
    # ours: F ends in a linear layer to so many features, of either sign; 0: in none
    bottleneck: int = setting(0, bounds=(0, 4096), read=lambda c: c.bottleneck > 0)
    # what F starts from: the name of weights that were brought in (lab.weights); "":
    # nothing. The same run, whatever their file was called
    weights: str = setting("", read=lambda c: c.weights != "", known_by=content_of)
    # how a ResNet's convolutions start: from N(0, 2 / fan-out), as torchvision's, or as
    # PyTorch's own, U(+-1/sqrt(fan-in)) (code). The small CNN always has the latter
    initial_convolutions: str = setting(
        "fan-out",
        choices=("fan-out", "pytorch"),
        read=lambda c: (
            c.network == "resnet18"
            and c.weights == ""
            and c.initial_convolutions != "fan-out"
        ),
    )
    epochs_base: int = setting(30, bounds=COUNT)
    epochs_task: int = setting(20, bounds=COUNT, read=trains_later, stage="later")
    batch_size: int = setting(128, bounds=(1, 10**6))  # code
    learning_rate: float = setting(1e-3, bounds=POSITIVE)  # paper: Adam, 1e-3
    # from task 1 on; the paper has one rate for all
    learning_rate_task: float = setting(
        1e-3, bounds=POSITIVE, read=trains_later, stage="later"
    )
    schedule: str = setting(  # code: x 0.1 in the last epoch or two of 201
        "last-epoch", choices=("last-epoch", "cosine")
    )
    weight_decay: float = setting(2e-4, bounds=NOT_NEGATIVE)  # code
    # of convolutions, and of the head while it trains; weights stay in float32.
    # "auto": what the chip computes fast, see the record
    precision: str = setting("float32", choices=("float32", "bf16", "fp16", "auto"))
    # torch.compile: F below the cut (nothing at cut 0), and the whole update of a
    # feature GAN or a flow (on a GPU one graph); starts later, then runs faster
    compiled: bool = setting(False, read=lambda c: c.compiled)

    # generator and discriminator
    generator_hidden: int = setting(  # paper, Appendix D
        512,
        bounds=(1, 10**6),
        read=lambda c: generated(c) and c.cut == FEATURES,
        stage="memory",
    )
    # how the discriminator's projection of the class starts: N(0, 0.02) as its other
    # layers, or PyTorch's own U(+-1/sqrt(classes)) (code)
    initial_projection: str = setting(
        "normal",
        choices=("normal", "pytorch"),
        read=lambda c: (
            gan(c) and c.cut == FEATURES and c.initial_projection != "normal"
        ),
        stage="memory",
    )
    # ours: most parameters of a convolutional generator (cut below features), the same
    # bound at every cut
    generator_parameters: int = setting(
        1_000_000,
        bounds=COUNT,
        read=lambda c: gan(c) and c.cut < FEATURES,
        stage="memory",
    )
    latent_dim: int = setting(  # paper, Appendix D
        200, bounds=(1, 10**6), read=gan, stage="memory"
    )
    # code: 501 epochs of 195 batches, one G step in 5
    generator_steps_base: int = setting(
        19539, bounds=COUNT, read=generated, stage="steps"
    )
    # code: 501 epochs a task, which is 4,008 G steps at 5 tasks; ours: one sum for all
    # later tasks, shared equally by all but the last, which trains none (5,010 each)
    generator_steps_later: int = setting(
        20040, bounds=COUNT, read=generated, stage="steps"
    )
    # code; a flow makes as many updates of its one network as a GAN of its two
    critic_steps: int = setting(5, bounds=(1, 10**4), read=generated, stage="memory")
    gradient_penalty_weight: float = setting(  # code (WGAN-GP)
        10.0, bounds=NOT_NEGATIVE, read=gan, stage="memory"
    )
    generator_learning_rate: float = setting(  # paper
        1e-4, bounds=POSITIVE, read=generated, stage="memory"
    )
    generator_batch: int = setting(  # code
        128, bounds=(1, 10**6), read=generated, stage="memory"
    )
    # ours: augmented views whose features are kept for the GAN or the flow (code: fresh
    # ones every epoch); fewer where they would exceed batches.FEATURE_BUDGET
    feature_views: int = setting(
        8,
        bounds=(1, 10**4),
        read=lambda c: generated(c) and c.cut == FEATURES,
        stage="memory",
    )

    # ours: steps from noise to a feature; an Euler step asks the network once, a
    # midpoint step twice. The first training of a flow takes none
    flow_steps: int = setting(
        10, bounds=(1, 10**4), read=lambda c: c.memory == "flow", stage="later"
    )
    flow_solver: str = setting(
        "euler",
        choices=("euler", "midpoint"),
        read=lambda c: c.memory == "flow" and c.flow_solver != "euler",
        stage="later",
    )

    # what no result depends on
    preset: str = setting("quick", read=lambda c: False, stage="nothing")
    device: str = setting(
        "auto", choices=("auto", "cpu", "cuda"), read=lambda c: False, stage="nothing"
    )
    threads: int = setting(  # 0 = PyTorch's default
        0, bounds=(0, 1024), read=lambda c: False, stage="nothing"
    )

    @property
    def method(self) -> str:
        """Name of the row whose columns these are (as they are, or as searched), else
        penalty, memory and cut.
        """
        marked = sorted(METHODS.items(), key=lambda item: -len(item[1].marks))
        for name, row in marked:
            if row.fits(self, self.preset):
                return name
        at = f"@{self.cut}" if self.cut != FEATURES else ""
        return f"{self.penalty}+{self.memory}{at}"

    def identity(self) -> dict:
        """The settings that can change a result. What the run's columns and words make
        it ignore is left out; whether any task comes after the first is not asked.
        """
        found = {}
        for name, about in sorted(DECLARED.items()):
            value = getattr(self, name)
            if not about["read"](self):
                unread = about["unread"]
                value = unread(self) if callable(unread) else unread
            elif about["known_by"]:
                value = about["known_by"](value)
            if value is not ABSENT:
                found[name] = value
        return found

    def stage_settings(self, stage: str, *, first: bool) -> dict:
        """The settings that can change a stage ("classifier", "generator" or
        "importance"), in a run's first task or in a later one.

        The first classifier is one function for all rows and all splits of one base,
        but for a cosine head and joint training, and with `full_head` for one split; on
        a pretrained extractor that is frozen, for all rows that freeze it.
        """
        kinds = {"start", "memory", "later"}
        if stage == "generator":
            kinds = {"memory"} if first else {"memory", "later memory"}
        elif first and stage == "classifier":
            kinds = {"start"}
        found = {
            k: v for k, v in self.identity().items() if DECLARED[k]["stage"] in kinds
        }
        if first and stage == "classifier" and self.head == "cosine":
            found["head"] = self.head
        if first and stage == "classifier" and fixed(self):
            found["penalty"] = self.penalty
        if stage == "generator":
            more = ("compiled",) if first else ("compiled", "old_task_weighting")
            found |= {k: v for k, v in self.identity().items() if k in more}
        return found

    def digest(self) -> str:
        """Ten hexadecimal digits that name the identity."""
        return digest_of(self.identity())

    def but(self, **changes) -> "Config":
        """The same with other settings, checked as `make_config` checks them.

        `base` and `tasks` take the place of a `split`; a whole number becomes a float
        where the setting is one. Raises UserError.
        """
        found = {**dataclasses.asdict(self), **_changes(changes)}
        return checked(Config(**found))

    def unread(self, names: Iterable[str]) -> list[str]:
        """Those of the settings that say something which this run never reads: with
        their defaults it is the same run.
        """
        found = []
        for name in names:
            usual = DEFAULTS[name]
            if DECLARED[name]["stage"] == "nothing" or getattr(self, name) == usual:
                continue
            other = dataclasses.replace(self, **{name: usual})
            if other.identity() == self.identity():
                found.append(name)
        return found

    def difference(self, other: "Config") -> dict:
        """{setting: (ours, theirs)} of those that differ and can change a result."""
        a, b = self.identity(), other.identity()
        return {
            k: (a.get(k, "-"), b.get(k, "-"))
            for k in sorted({*a, *b})
            if a.get(k, "-") != b.get(k, "-")
        }


DECLARED = {f.name: f.metadata for f in dataclasses.fields(Config)}
DEFAULTS = {f.name: f.default for f in dataclasses.fields(Config)}


def choices(name: str) -> tuple:
    """The words that a setting takes; () for a number or free text."""
    words = DECLARED[name]["choices"]
    return COLUMNS[words] if isinstance(words, str) else words


def digest_of(value) -> str:
    """Ten hexadecimal digits of SHA-256 over the value's JSON."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def make_config(preset: str = "quick", method: str = "gfr", **changes) -> Config:
    """A checked Config: the preset, then the row, what was searched, and `changes`.

    Raises UserError for an unknown preset, method or setting, a value of the wrong
    type or out of bounds, or an invalid combination.
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        words = ", ".join(PRESETS)
        raise UserError(f"There is no preset '{preset}'; choose one of {words}.")
    if not isinstance(method, str) or method not in METHODS:
        raise UserError(
            f"There is no method '{method}'; choose one of {', '.join(METHODS)} "
            "(python -m gfrlib methods)."
        )
    row = METHODS[method]
    found = {"preset": preset, **PRESETS[preset], **row.columns, **row.own, **row.marks}
    found |= SPATIAL.get(preset, {}) if row.spatial else {}
    found |= row.searched.get(preset, {})
    called = Config(**found).method
    if called != method:
        raise UserError(
            f"The row '{method}' has the columns of '{called}', under whose name it "
            "would be shown; tell it apart by `marks` in METHODS."
        )
    return checked(Config(**{**found, **_changes(changes)}))


def _changes(changes: dict) -> dict:
    """The settings that are said, each in its type. Raises UserError."""
    by_number = sorted({"base", "tasks"} & set(changes))
    if by_number and changes.get("split"):
        raise UserError(
            f"'split' says the classes of every task, and '{by_number[0]}' says them "
            "another way; leave one out."
        )
    found: dict = {"split": ()} if by_number else {}
    if "preset" in changes:
        raise UserError(
            "'preset' is no setting that is changed: it is the first argument of "
            "make_config."
        )
    for name, value in changes.items():
        if name not in DECLARED:
            close = difflib.get_close_matches(name, DECLARED)
            hint = f" (did you mean {' or '.join(close)}?)" if close else ""
            raise UserError(
                f"There is no setting '{name}'{hint}; see gfrlib.config.Config for all "
                "of them."
            )
        found[name] = _typed(name, value)
    return found


def from_text(name: str, text: str):
    """A setting's value from text, as a command line has it (declaration.from_text)."""
    if name == "cut" and text == "features":
        return FEATURES
    return declaration.from_text(name, text, DEFAULTS[name])


def _typed(name: str, value):
    if name == "cut" and value == "features":
        return FEATURES
    return declaration.typed(name, value, DEFAULTS[name])


def checked(c: Config) -> Config:
    """The Config with every value in its field's type (a whole number as a float where
    the field is one), if the values and their combination are sound; else UserError.
    """
    c = Config(**{name: _typed(name, getattr(c, name)) for name in DECLARED})
    for name, about in DECLARED.items():
        declaration.check(name, getattr(c, name), choices(name), about)
    problem = conflict(c)
    if problem:
        raise UserError(problem)
    return c
