"""The table of methods: a method is a row, and every column is one word.

A row says what ties model t to model t-1 (`penalty`) and what stands for the old
classes (`memory`); where both act (`cut`); the head, the prediction rule, what batch
norm does from task 1 on, and whether the memory follows the features' drift.

Sources: *paper* = Liu et al. 2020; *code* = its official code (xialeiliu/GFR-IL);
*ours* = chosen here.
"""

import re
from dataclasses import dataclass, field

FEATURES = 4  # the cut named `features`: all four stages lie below it

# The words of the columns. Each has one function or class in the module named here, but
# for those that do nothing.
COLUMNS = {
    "penalty": (  # penalties.py
        "none", "logits", "features", "less-forget", "fisher", "sensitivity", "frozen",
    ),
    "memory": (  # replay.py
        "none", "real", "exemplars", "means", "translated", "covariances", "gaussian",
        "mixture", "gan", "flow",
    ),
    "head": ("single", "per-task", "cosine"),  # heads.py
    "prediction": (  # prediction.py
        "softmax", "max-prob", "concat-logits", "over-chance", "nearest-mean",
        "nearest-exemplar-mean", "mahalanobis",
    ),
    "batch_norm": ("train", "frozen"),
    "drift": ("none", "linear"),  # replay.py
}  # fmt: skip


@dataclass(frozen=True)
class Method:
    """One row: its columns, the settings it brings along, and what was searched."""

    penalty: str
    memory: str
    head: str = "single"
    prediction: str = "softmax"
    batch_norm: str = "train"
    cut: int = FEATURES
    drift: str = "none"
    own: dict = field(default_factory=dict)  # in every preset, as the source has them
    # settings that tell the row from another with the same columns
    marks: dict = field(default_factory=dict)
    searched: dict = field(default_factory=dict)  # {preset: settings}; these go first

    @property
    def columns(self) -> dict:
        """{column: word}, and the cut."""
        names = ("penalty", "memory", "head", "prediction", "batch_norm", "cut")
        return {name: getattr(self, name) for name in (*names, "drift")}

    def fits(self, settings, preset: str) -> bool:
        """Whether `settings` (a Config) have this row's columns and marks.

        A column may be as it was searched at the preset.
        """
        found = {**self.columns, **self.searched.get(preset, {})}
        return all(
            getattr(settings, column) in (word, found[column])
            for column, word in self.columns.items()
        ) and all(getattr(settings, name) == v for name, v in self.marks.items())

    @property
    def spatial(self) -> bool:
        """Whether its generator makes maps or images and not feature vectors."""
        return self.memory == "gan" and self.cut < FEATURES


def searched(**settings) -> dict:
    """What was searched at `slim`, on a tenth of the training images held out, or for
    a row without a search of its own what the nearest row's gave.

    `medium` and `photos` take it over, unsearched.
    """
    return {"slim": settings, "medium": settings, "photos": settings}


METHODS = {
    # Section 3.2 and 5: without replay
    "finetune": Method("none", "none"),
    "joint": Method("none", "real"),
    "lwf": Method(
        "logits", "none", "per-task", "max-prob",
        # quick (a fifth held out, three seeds, after the last task): weights 2, 5, 10,
        # 20, 50 gave 69.0, 70.2, 70.2, 69.3, 68.3 %. slim: the largest of 0.5 to 10
        searched={
            "quick": dict(penalty_weight=10.0), **searched(penalty_weight=10.0),
            "example": dict(penalty_weight=3.0),  # of 1, 3, 10 (grids/example.yaml)
            "paper": dict(penalty_weight=2.0),
        },
    ),
    "ewc": Method(
        "fisher", "none", "per-task", "max-prob",
        own=dict(penalty_weight=5000.0),  # FACIL's default; not portable: search it
        searched=searched(penalty_weight=5e5, batch_norm="frozen"),
    ),
    "mas": Method(
        "sensitivity", "none", "per-task", "max-prob",
        own=dict(penalty_weight=1.0),  # FACIL's, whose importance is another one
        searched=searched(penalty_weight=1000.0, batch_norm="frozen"),
    ),
    # with images kept
    "icarl-cnn": Method(
        "logits", "exemplars",
        own=dict(penalty_weight=0.25),  # LUCIR's baseline: beta, times T^2
        searched=searched(learning_rate_task=2e-3),
    ),
    "icarl-nme": Method(
        "logits", "exemplars", prediction="nearest-exemplar-mean",
        own=dict(penalty_weight=0.25),
        searched=searched(learning_rate_task=2e-3),
    ),
    "lucir": Method(
        "less-forget", "exemplars", "cosine",
        # 5: LUCIR, CIFAR-100; times sqrt(old / new classes). eta begins at 10 (Gidaris
        # and Komodakis 2018), since Adam moves one number by no more than the learning
        # rate a step: from 1 it would take all of a short schedule
        own=dict(penalty_weight=5.0, head_scale=10.0),
        searched=searched(learning_rate_task=2e-3, penalty_weight=5.0),
    ),
    # Section 5.3, Table 2: replay below the features
    "mergan": Method("none", "gan", cut=0),
    "block-1": Method("features", "gan", cut=1),
    "block-2": Method("features", "gan", cut=2),
    "block-3": Method("features", "gan", cut=3),
    # Section 4: the paper's two
    "gfr-gaussian": Method(
        "features", "gaussian", batch_norm="frozen",
        searched=searched(learning_rate_task=2e-3),
    ),
    # whole covariances, as the paper prints N(mu, Sigma); its code keeps deviations
    "gfr-gaussian-full": Method(
        "features", "gaussian", batch_norm="frozen",
        marks=dict(gaussian="full"),
        searched=searched(learning_rate_task=2e-3),
    ),
    "gfr": Method(
        "features", "gan", batch_norm="frozen",
        searched=searched(learning_rate_task=1e-3),
    ),
    # beyond the paper: what else may stand for old features. At slim the best of 2, 4,
    # 8 and 16 components; the flow's own rate and number of steps change next to
    # nothing (grids/search.yaml)
    "gfr-mixture": Method(
        "features", "mixture", batch_norm="frozen",
        searched=searched(learning_rate_task=2e-3, mixture_components=16),
    ),
    "gfr-flow": Method(
        "features", "flow", batch_norm="frozen",
        searched=searched(learning_rate_task=2e-3),
    ),
    # Appendix B, Table 3: another penalty under the same replay
    "ewc-gan": Method(
        "fisher", "gan", batch_norm="frozen",
        own=dict(penalty_weight=5000.0),
        searched=searched(learning_rate_task=1e-3),
    ),
    "mas-gan": Method(
        "sensitivity", "gan", batch_norm="frozen",
        own=dict(penalty_weight=1.0),
        searched=searched(learning_rate_task=1e-3),
    ),
    # controls beyond the paper
    "frozen": Method(
        "frozen", "means", prediction="nearest-mean", batch_norm="frozen",
    ),
    "fetril": Method("frozen", "translated", batch_norm="frozen"),
    "fecam": Method(
        "frozen", "covariances", prediction="mahalanobis", batch_norm="frozen",
    ),
    "gfr-gaussian-drift": Method(
        "features", "gaussian", batch_norm="frozen", drift="linear",
        searched=searched(learning_rate_task=2e-3),
    ),
    "gfr-drift": Method(
        "features", "gan", batch_norm="frozen", drift="linear",
        searched=searched(learning_rate_task=1e-3),
    ),
    # ours: in 4 x 25 the square lets F move further than the length of Equation 4.
    # slim: the best of 1 to 100 (grids/penalty-weight.yaml)
    "gfr-squared": Method(
        "features", "gaussian", batch_norm="frozen",
        marks=dict(distance="mse", gaussian="full"),
        searched={
            **searched(learning_rate_task=2e-3, penalty_weight=30.0),
            "example": dict(penalty_weight=2.0),  # of 0.3 to 3 (grids/example.yaml)
        },
    ),
}  # fmt: skip


# Which memories a prediction rule reads.
NEEDS = {
    "nearest-mean": ("means", "gaussian", "mixture"),
    "nearest-exemplar-mean": ("exemplars",),
    "mahalanobis": ("covariances",),
}
PER_TASK_RULES = ("max-prob", "concat-logits", "over-chance")
AT_THE_CUT = ("features",)  # penalties on features, wherever the cut is
WEIGHED = ("features",)  # penalties that read past.f
# live on feature vectors
VECTORS = ("means", "translated", "covariances", "gaussian", "mixture", "flow")
# train one softmax over all classes
REPLAYED = ("gaussian", "mixture", "gan", "flow", "translated")
MOVED = ("gaussian", "mixture", "gan")  # follow the features' drift


# Invalid combinations: (when, what is wrong and what to do). The first that holds is
# told; settings stand in braces.
CONFLICTS = [
    (
        lambda c: c.weights and not re.fullmatch(r".+-[0-9a-f]{8}", c.weights),
        "'weights' names weights that were brought in, such as resnet18-0123abcd, not "
        "'{weights}'; --weights FILE (experiments.settings) brings them in.",
    ),
    (
        lambda c: c.weights and c.network != "resnet18",
        "Pretrained weights are those of a ResNet-18: they need network = resnet18, "
        "not {network}.",
    ),
    (
        lambda c: c.memory in VECTORS and c.cut != FEATURES,
        "The memory '{memory}' lives on feature vectors: it needs cut = features, not "
        "{cut}.",
    ),
    (
        lambda c: c.head != "single" and c.memory in REPLAYED,
        "Replay trains one softmax over all seen classes: it needs head = single, not "
        "{head}.",
    ),
    (
        lambda c: (c.penalty == "less-forget") != (c.head == "cosine"),
        "The cosine head and the penalty 'less-forget' (Rebalance) belong together: "
        "take both or neither.",
    ),
    (
        lambda c: c.head == "per-task" and c.memory in ("means", "real"),
        "The memory '{memory}' trains one softmax over all classes: it needs head = "
        "single, not {head}.",
    ),
    (
        lambda c: c.penalty == "less-forget" and c.cut != FEATURES,
        "The penalty 'less-forget' (Rebalance) compares feature vectors: it needs cut "
        "= features, not {cut}.",
    ),
    (
        lambda c: c.full_head and c.head != "single",
        "'full_head' gives all classes their outputs from task 0 on: it needs head = "
        "single, not {head}.",
    ),
    (
        lambda c: c.drift != "none" and (c.memory not in MOVED or c.cut != FEATURES),
        "Drift compensation moves replayed feature vectors: it needs memory = "
        "gaussian, mixture or gan, cut = features.",
    ),
    (
        lambda c: c.memory not in NEEDS.get(c.prediction, (c.memory,)),
        "The prediction '{prediction}' reads what the memory keeps: it needs memory = "
        "{needs}, not {memory}.",
    ),
    (
        lambda c: (
            c.prediction not in NEEDS
            and (c.prediction in PER_TASK_RULES) != (c.head == "per-task")
        ),
        "The prediction '{prediction}' does not fit head = {head}; per-task heads take "
        "max-prob, concat-logits or over-chance, another head takes softmax.",
    ),
    (
        lambda c: (
            c.memory == "exemplars" and (c.head == "per-task" or c.cut != FEATURES)
        ),
        "Exemplars are images under one softmax of all classes: they need head = "
        "single or cosine, and cut = features.",
    ),
    (
        lambda c: (
            c.penalty == "frozen"
            and (c.memory not in (*VECTORS, "gan") or c.cut != FEATURES)
        ),
        "With a frozen extractor only what stands for features can teach new classes: "
        "use memory = means, gaussian, mixture, gan, flow, translated or covariances, "
        "and cut = features.",
    ),
    (
        lambda c: (
            c.penalty == "frozen"
            and c.prediction == "softmax"
            and c.memory in ("means", "covariances")
        ),
        "On a frozen extractor the memory '{memory}' trains no softmax: use prediction "
        "= nearest-mean (with means) or mahalanobis (with covariances), or memory = "
        "gaussian, mixture, gan, flow or translated.",
    ),
    (
        lambda c: (
            c.memory == "translated"
            and (c.penalty != "frozen" or c.prediction != "softmax")
        ),
        "Translated features (FeTrIL) train a head on a frozen extractor: take penalty "
        "= frozen and prediction = softmax with them.",
    ),
]


def conflict(c) -> str | None:
    """The first invalid combination of columns in a Config, as one sentence."""
    found = next((text for applies, text in CONFLICTS if applies(c)), None)
    needs = " or ".join(NEEDS.get(c.prediction, ()))
    return found and found.format(**vars(c), needs=needs)
