"""One frozen dataclass, the table of methods, and three presets: every value with its source.

Sources in the comments: *paper* = Liu et al. 2020; *code* = its official code (xialeiliu/GFR-IL); *ours* = chosen here.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass

RESULT_VERSION = 1  # raised by hand whenever a change to the code can move a number


class UserError(Exception):
    """Bad input: the message is one sentence that says what is wrong and what to do."""


# A method is a row: what ties model t to model t-1 | what stands for the old classes | head | prediction | batch norm
# from task 1 on | where the penalty acts and the memory enters (`cut`) | whether the memory follows the features' drift.
FEATURES = (
    4  # the cut named `features`: all four stages below it (both networks have four)
)


def _row(
    penalty,
    memory,
    head="single",
    prediction="softmax",
    batch_norm="train",
    cut=FEATURES,
    drift="none",
):
    return dict(
        penalty=penalty,
        memory=memory,
        head=head,
        prediction=prediction,
        batch_norm=batch_norm,
        cut=cut,
        drift=drift,
    )


METHODS = {
    "finetune": _row("none", "none"),
    "joint": _row("none", "real"),
    "lwf": _row("logits", "none", "per-task", "max-prob"),
    "ewc": _row("fisher", "none", "per-task", "max-prob"),
    "mas": _row("sensitivity", "none", "per-task", "max-prob"),
    "icarl-cnn": _row("logits", "exemplars"),
    "icarl-nme": _row("logits", "exemplars", prediction="nearest-exemplar-mean"),
    "lucir": _row("less-forget", "exemplars", "cosine"),
    "mergan": _row("none", "gan", cut=0),
    "block-1": _row("features", "gan", cut=1),
    "block-2": _row("features", "gan", cut=2),
    "block-3": _row("features", "gan", cut=3),
    "gfr-gaussian": _row("features", "gaussian", batch_norm="frozen"),
    "gfr": _row("features", "gan", batch_norm="frozen"),
    "ewc-gan": _row("fisher", "gan", batch_norm="frozen"),
    "mas-gan": _row("sensitivity", "gan", batch_norm="frozen"),
    # controls beyond the paper
    "frozen": _row("frozen", "means", prediction="nearest-mean", batch_norm="frozen"),
    "fetril": _row("frozen", "translated", batch_norm="frozen"),
    "fecam": _row(
        "frozen", "covariances", prediction="mahalanobis", batch_norm="frozen"
    ),
    "gfr-gaussian-drift": _row(
        "features", "gaussian", batch_norm="frozen", drift="linear"
    ),
    "gfr-drift": _row("features", "gan", batch_norm="frozen", drift="linear"),
}

CHOICES = {
    "penalty": (
        "none",
        "logits",
        "features",
        "less-forget",
        "fisher",
        "sensitivity",
        "frozen",
    ),
    "memory": (
        "none",
        "real",
        "exemplars",
        "means",
        "translated",
        "covariances",
        "gaussian",
        "gan",
    ),
    "head": ("single", "per-task", "cosine"),
    "prediction": (
        "softmax",
        "max-prob",
        "concat-logits",
        "over-chance",
        "nearest-mean",
        "nearest-exemplar-mean",
        "mahalanobis",
    ),
    "batch_norm": ("train", "frozen"),
    "drift": ("none", "linear"),
    "class_order": ("lucir", "gfr", "sorted", "random"),
    "distance": ("batch", "sample", "mse", "cosine"),
    "gaussian": ("diagonal", "scalar", "full"),
    "alignment": ("code", "paper", "retrain"),
    "importance": ("per-sample", "batched"),
    "schedule": ("last-epoch", "cosine"),
    "network": ("cnn", "resnet18"),
    "precision": ("float32", "bf16", "fp16", "auto"),
    "device": ("auto", "cpu", "cuda"),
}


@dataclass(frozen=True)
class Config:
    """One run. Every field but the last three can change a result; equal fields mean the same run."""

    # data and task stream
    dataset: str = "digits"
    base: int = 4  # classes in task 0
    tasks: int = 3  # equal tasks after the base (the paper's "5, 10, 25 tasks")
    split: tuple = ()  # class counts of every task, instead of base and tasks
    class_order: str = (
        "lucir"  # the shuffle of NumPy's seed 1993, as LUCIR and iCaRL use it
    )
    seed: int = 0
    validation: float = 0.0  # share of each class's training images held out and evaluated on instead of the test images
    # the method's columns
    penalty: str = "features"
    memory: str = "gan"
    cut: int = (
        FEATURES  # stages below the cut form the extractor F; 0 would replay images
    )
    head: str = "single"
    prediction: str = "softmax"
    batch_norm: str = (
        "frozen"  # code: model.eval() from task 1 on; affine parameters still train
    )
    drift: str = "none"  # beyond the paper: move what is replayed by a "linear" map fitted on the new task's data (LDC, FCS)
    # losses
    penalty_weight: float = (
        1.0  # paper, Section 5: coefficient of the distillation loss is 1
    )
    temperature: float = 2.0  # LwF's original and FACIL; the paper names none
    distance: str = "batch"  # code: one L2 norm over batch and dimensions (torch.dist); "sample" is Equation 4 as printed
    old_task_weighting: bool = True  # code: f_t = old classes / new classes weighs replay, distillation and alignment
    gaussian: str = "diagonal"  # paper: N(mu, Sigma); code draws one scalar for the whole vector ("scalar")
    gaussian_clamp: bool = True  # ours: features end in a ReLU, so samples are clamped at 0 (code: no clamp)
    alignment: str = "code"  # code: squared error summed over one batch, x 1e-3 x f_t; "paper": Equation 3, summed over
    # classes; "retrain": MeRGAN's other way, old classes' replays are shown to the discriminator as if they were real
    alignment_weight: float = 1e-3  # code
    importance: str = "per-sample"  # squared or absolute gradient image by image; "batched": of a batch's mean (FACIL, PyCIL)
    importance_images: int = 500  # ours: training images of a task that EWC's and MAS's importances are measured on
    exemplars: int = (
        20  # images kept per class (paper, Section 5: 20 a class, chosen by herding)
    )
    full_head: bool = (
        False  # code: all outputs from task 0 on (True); paper: the head grows
    )
    head_scale: float = (
        1.0  # cosine head: its factor eta before training (LUCIR: 1, under SGD)
    )
    # network and its training
    network: str = "cnn"
    width: int = 16  # channels of the first block
    epochs_base: int = 30
    epochs_task: int = 20
    batch_size: int = 128  # code
    learning_rate: float = 1e-3  # paper: Adam, 1e-3
    learning_rate_task: float = 1e-3  # from task 1 on; the paper has one rate for all
    schedule: str = "last-epoch"  # code: x 0.1 in the last epoch of 201
    weight_decay: float = 2e-4  # code
    precision: str = "float32"  # of convolutions; weights stay in float32. "auto": what the chip computes fast, see the record
    compiled: bool = False  # torch.compile: the network, and a feature GAN's whole update; starts later, then faster
    # generator and discriminator
    generator_hidden: int = 512  # paper, Appendix D
    generator_parameters: int = 1_000_000  # ours: size of a convolutional generator (cut below features), equal at every cut
    latent_dim: int = 200  # paper, Appendix D
    generator_steps_base: int = (
        19539  # code: 501 epochs of 195 batches, one G step in 5
    )
    # code: 501 epochs a task, which is 4,008 G steps at 5 tasks; ours: one sum for all later tasks, shared equally
    generator_steps_later: int = 20040
    critic_steps: int = 5  # code
    gradient_penalty_weight: float = 10.0  # code (WGAN-GP)
    generator_learning_rate: float = 1e-4  # paper
    generator_batch: int = 128  # code
    feature_views: int = 8  # ours: augmented views whose features are kept for the GAN (code: fresh ones every epoch)
    # not result-relevant
    preset: str = "quick"
    device: str = "auto"
    threads: int = 0  # 0 = PyTorch's default

    @property
    def method(self) -> str:
        """Name of the row of METHODS whose columns these are (as they are, or as searched), else the columns themselves."""
        for name, row in METHODS.items():
            searched = {**row, **SEARCHED.get(self.preset, {}).get(name, {})}
            if all(
                getattr(self, column) in (value, searched[column])
                for column, value in row.items()
            ):
                return name
        return f"{self.penalty}+{self.memory}" + (
            f"@{self.cut}" if self.cut != FEATURES else ""
        )

    def identity(self) -> dict:
        """The result-relevant settings; a field that this method never reads is left out (so it cannot split runs)."""
        unread = {"preset", "device", "threads"}
        if self.split:
            unread |= {"base", "tasks"}
        if self.memory != "gan":
            unread |= {
                "generator_hidden",
                "latent_dim",
                "generator_steps_base",
                "generator_steps_later",
                "critic_steps",
                "gradient_penalty_weight",
                "generator_learning_rate",
                "generator_batch",
                "feature_views",
                "alignment",
                "alignment_weight",
                "generator_parameters",
            }
        else:
            unread |= (
                {"generator_parameters"}
                if self.cut == FEATURES
                else {"generator_hidden", "feature_views"}
            )
        if self.memory != "gaussian":
            unread |= {"gaussian", "gaussian_clamp"}
        reads = {
            "drift": self.drift != "none",
            "compiled": self.compiled,
            "exemplars": self.memory == "exemplars",
            "head_scale": self.head == "cosine" and self.head_scale != 1,
            "temperature": self.penalty == "logits",
            "penalty_weight": self.penalty not in ("none", "frozen"),
            "distance": self.penalty == "features",
        }
        unread |= {name for name, read in reads.items() if not read}
        if self.penalty not in ("fisher", "sensitivity"):
            unread |= {"importance", "importance_images"}
        if (
            self.memory == "real"
            or self.penalty == "frozen"
            and self.prediction != "softmax"
        ):
            unread |= {"epochs_task", "learning_rate_task"}
        if self.penalty != "features" and self.memory in ("none", "real", "exemplars"):
            unread |= {"old_task_weighting", "cut"}
        return {
            k: v for k, v in sorted(dataclasses.asdict(self).items()) if k not in unread
        }

    def digest(self) -> str:
        """Ten hexadecimal digits that name the identity."""
        return digest_of(self.identity())

    def difference(self, other: "Config") -> dict:
        """Settings that differ: {field: (ours, theirs)}, the fields that do not change results left out."""
        a, b = self.identity(), other.identity()
        return {
            k: (a.get(k, "-"), b.get(k, "-"))
            for k in sorted({*a, *b})
            if a.get(k, "-") != b.get(k, "-")
        }


def digest_of(value) -> str:
    """Ten hexadecimal digits of SHA-256 over the value's JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


# A preset is what differs from the dataclass's defaults (which are the paper's where the paper speaks).
PRESETS = {
    "quick": dict(  # every reader, offline, and the tests: scikit-learn's digits; all values ours
        dataset="digits",
        base=4,
        tasks=3,
        network="cnn",
        width=16,
        epochs_base=30,
        epochs_task=20,
        batch_size=32,
        generator_hidden=128,
        latent_dim=32,
        generator_steps_base=400,
        generator_steps_later=450,
        feature_views=8,
        generator_batch=32,
        generator_learning_rate=4e-3,
        critic_steps=3,
        threads=1,
    ),
    "slim": dict(  # a 2-core machine, real CIFAR-100; all values ours, what they reduce stands in the chapter
        dataset="cifar100",
        base=50,
        tasks=5,
        network="resnet18",
        width=16,
        epochs_base=24,
        epochs_task=6,
        batch_size=64,
        learning_rate=2e-3,
        learning_rate_task=5e-4,
        schedule="cosine",
        generator_hidden=256,
        latent_dim=64,
        generator_steps_base=2000,
        generator_steps_later=3200,
        feature_views=2,
        generator_learning_rate=2e-3,
        threads=1,
    ),
    "paper": dict(  # Section 5: CIFAR-100, ResNet-18, 201 epochs a task, 501 for the GAN
        dataset="cifar100",
        base=50,
        tasks=5,
        network="resnet18",
        width=64,
        epochs_base=201,
        epochs_task=201,
        feature_views=8,
        precision="auto",
    ),
}

# lwf's weight, searched on held-out training images. Quick (20 % held out, three seeds, after the last task): weights
# 2, 5, 10, 20, 50 gave 69.0, 70.2, 70.2, 69.3, 68.3 %. Slim (a tenth held out): lwf's weight among 0.5 to 10 (the largest is
# best), batch norm and weight of ewc and mas, the rate of lwf, icarl, gfr and gfr-gaussian, and G's (in the preset).
SEARCHED = {
    "quick": {"lwf": dict(penalty_weight=10.0)},
    "slim": {
        "lwf": dict(penalty_weight=10.0),
        "ewc": dict(penalty_weight=5e5, batch_norm="frozen"),
        "mas": dict(penalty_weight=1000.0, batch_norm="frozen"),
        **dict.fromkeys(("icarl-cnn", "icarl-nme"), dict(learning_rate_task=2e-3)),
        "lucir": dict(learning_rate_task=2e-3, penalty_weight=5.0),
        **dict.fromkeys(
            ("gfr-gaussian", "gfr-gaussian-drift"), dict(learning_rate_task=2e-3)
        ),
        **dict.fromkeys(
            ("gfr", "gfr-drift", "ewc-gan", "mas-gan"), dict(learning_rate_task=1e-3)
        ),
    },
    "paper": {"lwf": dict(penalty_weight=2.0)},
}
# What a row brings along in every preset (weights as its source has them; a searched value goes before).
OWN = {
    "ewc": dict(
        penalty_weight=5000.0
    ),  # FACIL's default; not portable between codes: search it
    "mas": dict(
        penalty_weight=1.0
    ),  # FACIL's default, whose importance is another one: search it
    "icarl-cnn": dict(penalty_weight=0.25),
    "icarl-nme": dict(penalty_weight=0.25),  # LUCIR's baseline: beta, times T^2
    # LUCIR, CIFAR-100; times sqrt(old / new classes). eta begins at 10 (Gidaris and Komodakis 2018), since Adam moves one
    # number by no more than the learning rate a step: from 1 it would take most of task 0, in a short schedule all of it
    "lucir": dict(penalty_weight=5.0, head_scale=10.0),
    "ewc-gan": dict(penalty_weight=5000.0),
    "mas-gan": dict(penalty_weight=1.0),
}
# Convolutional generators take far longer a step: fewer of them, where seconds count (ours).
SPATIAL = {
    "quick": dict(
        generator_parameters=60_000,
        generator_steps_base=200,
        generator_steps_later=200,
        generator_learning_rate=1e-3,
    ),
    "slim": dict(
        generator_batch=64,
        critic_steps=2,
        generator_steps_base=1200,
        generator_steps_later=1600,
        generator_learning_rate=5e-4,
    ),
    "paper": {},
}


NEEDS = {
    "nearest-mean": ("means", "gaussian"),
    "nearest-exemplar-mean": ("exemplars",),
    "mahalanobis": ("covariances",),
}


def make_config(preset: str = "quick", method: str = "gfr", **changes) -> Config:
    """A checked Config: the preset, then the method's row and its searched values, then `changes`.

    Raises UserError for an unknown preset, method or field, a value of the wrong type, or one that cannot be meant.
    """
    if preset not in PRESETS:
        raise UserError(
            f"There is no preset '{preset}'; choose one of {', '.join(PRESETS)}."
        )
    if method not in METHODS:
        raise UserError(
            f"There is no method '{method}'; choose one of {', '.join(METHODS)} (python -m gfrlib methods)."
        )
    known = {f.name: f for f in dataclasses.fields(Config)}
    row = METHODS[method]
    values = {
        "preset": preset,
        **PRESETS[preset],
        **row,
        **OWN.get(method, {}),
        **(SPATIAL[preset] if row["memory"] == "gan" and row["cut"] < FEATURES else {}),
        **SEARCHED[preset].get(method, {}),
    }
    if ("base" in changes or "tasks" in changes) and "split" not in changes:
        values["split"] = ()
    for name, value in changes.items():
        if name not in known or name == "preset":
            close = [k for k in known if k.startswith(name[:4])]
            hint = f" (did you mean {' or '.join(close)}?)" if close else ""
            raise UserError(
                f"There is no setting '{name}'{hint}; see gfrlib.config.Config for all of them."
            )
        values[name] = _typed(name, value, known[name].default)
    config = Config(**values)
    _check(config)
    return config


def _typed(name, value, default):
    """The value in the field's type, or a UserError. An int serves as a float; nothing else is converted."""
    if name == "cut" and value == "features":
        return FEATURES
    if isinstance(default, tuple):
        if not isinstance(value, (list, tuple)) or not all(
            type(v) is int for v in value
        ):
            raise UserError(
                f"'split' is a list of class counts such as [25, 25, 25, 25], not {value!r}."
            )
        return tuple(value)
    if type(default) is float and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        raise UserError(
            f"'{name}' must be a {type(default).__name__} (such as {default!r}), not {value!r}."
        )
    return value


def _check(c: Config) -> None:
    for name, allowed in CHOICES.items():
        if getattr(c, name) not in allowed:
            raise UserError(
                f"'{name}' must be one of {', '.join(allowed)}, not '{getattr(c, name)}'."
            )
    for name in (
        "width",
        "epochs_base",
        "epochs_task",
        "batch_size",
        "latent_dim",
        "generator_hidden",
        "critic_steps",
        "generator_batch",
        "feature_views",
        "generator_steps_base",
        "generator_steps_later",
        "exemplars",
        "importance_images",
        "generator_parameters",
    ):
        if getattr(c, name) < 1:
            raise UserError(f"'{name}' must be at least 1, not {getattr(c, name)}.")
    for name in (
        "learning_rate",
        "learning_rate_task",
        "generator_learning_rate",
        "temperature",
        "head_scale",
    ):
        if not 0 < getattr(c, name) < float("inf"):
            raise UserError(
                f"'{name}' must be a number above 0, not {getattr(c, name)}."
            )
    for name in (
        "penalty_weight",
        "alignment_weight",
        "weight_decay",
        "gradient_penalty_weight",
        "threads",
        "seed",
    ):
        if not 0 <= getattr(c, name) < float("inf"):
            raise UserError(
                f"'{name}' must not be negative, infinite or NaN, and is {getattr(c, name)}."
            )
    if not 0 <= c.validation < 0.9:
        raise UserError(
            f"'validation' is a share of the training images from 0 to below 0.9, not {c.validation}."
        )
    if not 0 <= c.cut <= FEATURES:
        raise UserError(
            f"'cut' counts stages, 0 to {FEATURES} (or 'features'), not {c.cut}."
        )
    if (
        c.memory in ("means", "translated", "covariances", "gaussian")
        and c.cut != FEATURES
    ):
        raise UserError(
            f"The memory '{c.memory}' lives on feature vectors: it needs cut = features, not {c.cut}."
        )
    if c.head != "single" and c.memory in ("gaussian", "gan", "translated"):
        raise UserError(
            f"Replay trains one softmax over all seen classes: it needs head = single, not {c.head}."
        )
    if (
        c.penalty == "logits"
        and c.head == "cosine"
        or (c.penalty == "less-forget") != (c.head == "cosine")
    ):
        raise UserError(
            "The cosine head and the penalty 'less-forget' (Rebalance) belong together: take both or neither."
        )
    if c.full_head and c.head != "single":
        raise UserError(
            f"'full_head' gives all classes their outputs from task 0 on: it needs head = single, not {c.head}."
        )
    if c.drift != "none" and (c.memory not in ("gaussian", "gan") or c.cut != FEATURES):
        raise UserError(
            "Drift compensation moves replayed feature vectors: it needs memory = gaussian or gan, cut = features."
        )
    if c.prediction in NEEDS and c.memory not in NEEDS[c.prediction]:
        raise UserError(
            f"The prediction '{c.prediction}' reads what the memory keeps: it needs memory = "
            f"{' or '.join(NEEDS[c.prediction])}, not {c.memory}."
        )
    if (c.prediction in ("max-prob", "concat-logits", "over-chance")) != (
        c.head == "per-task"
    ) and c.prediction not in NEEDS:
        raise UserError(
            f"The prediction '{c.prediction}' does not fit head = {c.head}; "
            "per-task heads take max-prob, concat-logits or over-chance, another head takes softmax."
        )
    if c.memory == "exemplars" and (c.head == "per-task" or c.cut != FEATURES):
        raise UserError(
            "Exemplars are images under one softmax of all classes: they need head = single or cosine, "
            "and cut = features."
        )
    stands_in = ("means", "gaussian", "gan", "translated", "covariances")
    if c.penalty == "frozen" and (c.memory not in stands_in or c.cut != FEATURES):
        raise UserError(
            "With a frozen extractor only what stands for features can teach new classes: use memory = means, "
            "gaussian, gan, translated or covariances, and cut = features."
        )
    if (
        c.penalty == "frozen"
        and c.prediction == "softmax"
        and c.memory in ("means", "covariances")
    ):
        raise UserError(
            f"On a frozen extractor the memory '{c.memory}' trains no softmax: use prediction = "
            f"{'nearest-mean' if c.memory == 'means' else 'mahalanobis'}, or memory = gaussian, gan or translated."
        )
    if c.memory == "translated" and (
        c.penalty != "frozen" or c.prediction != "softmax"
    ):
        raise UserError(
            "Translated features (FeTrIL) train a head on a frozen extractor: take penalty = frozen and "
            "prediction = softmax with them."
        )
