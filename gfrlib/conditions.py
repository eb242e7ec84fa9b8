"""What a configuration means, as conditions on its settings.

`config` declares with them which settings a run reads; training, replay and prediction
ask some of them, so that they are code that can change a result (engine.source). Each
takes a Config, `c`, but for `content_of`.
"""

from gfrlib import methods


def gan(c) -> bool:
    """A GAN is trained."""
    return c.memory == "gan"


def generated(c) -> bool:
    """A generator is trained by a loop (TRAINERS): a GAN or a flow."""
    return c.memory in ("gan", "flow")


def distilled(c) -> bool:
    """Features are held close to what they were."""
    return c.penalty == "features"


def softened(c) -> bool:
    """A temperature softens what is distilled."""
    return c.penalty == "logits"


def trains_later(c) -> bool:
    """Something is trained by gradients from task 1 on: not with a frozen extractor
    whose prediction needs no head, nor in joint training, which has one task.
    """
    idle = c.penalty == "frozen" and c.prediction != "softmax"
    return not idle and c.memory != "real"


def weighs_old_tasks(c) -> bool:
    """f_t weighs replay, distillation or alignment."""
    replays = c.memory == "means" or c.memory in methods.REPLAYED
    return trains_later(c) and (c.penalty in methods.WEIGHED or replays)


def of_features(c) -> bool:
    """Something enters or acts at the cut."""
    acts = c.penalty in methods.AT_THE_CUT
    return acts or c.memory not in ("none", "real", "exemplars")


def important(c) -> bool:
    """Importances of parameters are measured (EWC, MAS)."""
    return c.penalty in ("fisher", "sensitivity")


def fixed(c) -> bool:
    """F is never trained, not even in task 0: it was pretrained, and is frozen."""
    return c.weights != "" and c.penalty == "frozen"


def content_of(weights: str) -> str:
    """The hash at the end of the weights' name, which tells their content."""
    return weights.rpartition("-")[2]


def signed(c) -> bool:
    """Memories must give negative features, too: F ends in a linear layer and not in a
    ReLU. (A cosine head's may be negative as well; no row with one replays features.)
    """
    return c.bottleneck > 0
