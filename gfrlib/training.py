"""Algorithm 1, its two training phases, and the chain of stages that makes every run resumable.

Randomness is stateless: step s of a phase draws from a generator seeded by (seed, task, phase, s) alone. So a resumed
run continues exactly, a shared stage does not depend on who trained it, and two methods see the same batches.
"""

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from gfrlib import losses
from gfrlib.config import FEATURES, Config, UserError, digest_of
from gfrlib.engine import distributed
from gfrlib.engine.machine import (
    compiled,
    compiled_gradients,
    resolve_device,
    resolve_precision,
)
from gfrlib.engine.store import NoStore
from gfrlib.networks import Network, build_network, feature_shape, split
from gfrlib.penalties import Importance, frozen_copy, old_new_ratio, penalty
from gfrlib.replay import DRIFTS, Memory, build_memory, state_bytes
from gfrlib.tasks import Tasks

EVALUATION_BATCH = 500
FEATURE_BUDGET = (
    2 << 30
)  # bytes of cached features; above it they are recomputed from the frozen F, view by view


@dataclass
class Outcome:
    """What a run leaves behind, as plain numbers: the raw material of a record."""

    predictions: list = field(
        default_factory=list
    )  # per task: {rule: int [test images of classes seen]}, or None
    losses: list = field(default_factory=list)  # {"task", "phase", "step", name: value}
    seconds: list = field(default_factory=list)  # {"task", "phase", "seconds", "steps"}
    bytes_kept: list = field(
        default_factory=list
    )  # per task: {item: bytes} carried to the next, beside the network
    weights: str = ""  # SHA-256 of the last network's state


def run(
    config: Config,
    tasks: Tasks,
    *,
    store=None,
    report: Callable | None = None,
    observe: Callable | None = None,
) -> Outcome:
    """Algorithm 1, with tasks counted from 0: the paper's task 1 is t = 0.

    `store` keeps stages and checkpoints (Store), `report` hears of progress, `observe(t, network, memory)` is
    called after every task. Raises UserError if a loss is not finite or a checkpoint does not fit.
    """
    chain = Chain(config, tasks, store, report)
    network, memory, importance = (
        chain.build()
    )  # F, H and G, D; Omega, for EWC and MAS alone
    old_network, old_memory = None, None  # F_{t-1}, H_{t-1} and G_{t-1}
    for t in chain.task_numbers():
        chain.grow_head(network, t)
        # Steps 1 and 3: train F_t and H_t with D_t and generated features of all previous classes
        chain.phase(
            "classifier",
            t,
            train_classifier,
            network,
            old_network,
            old_memory,
            importance,
        )
        # Steps 2 and 4: train G_t with u_t = F_t(x), x in D_t, and with what G_{t-1} replays
        chain.phase(
            "generator", t, train_generator, memory, old_memory, network, old_network
        )
        chain.phase("importance", t, measure_importance, importance, network)
        chain.evaluate(network, memory, t)
        if observe:
            observe(t, network, memory)
        old_network, old_memory = frozen_copy(network), frozen_copy(memory)
    chain.outcome.weights = weight_checksum(network)
    return chain.outcome


def train_classifier(
    network: Network,
    old_network: Network | None,
    old_memory: Memory | None,
    importance: Importance,
    tasks: Tasks,
    t: int,
    config: Config,
    phase: "Phase",
) -> None:
    """Train F_t and H_t on D_t and on what `old_memory` keeps, tied to F_{t-1} by the config's penalty.

    For t = 0, and for joint training (which reads all data at once), only the cross-entropy is left. With a frozen F
    nothing is trained but, for a memory that replays into a softmax, the head, on features computed once.
    """
    alone = old_network is None
    frozen = config.penalty == "frozen" and not alone
    if frozen and config.prediction != "softmax":
        return
    network.train(
        alone or config.batch_norm == "train"
    )  # frozen: running statistics stay, weights learn all the same
    extractor, classifier = split(network, config.cut)
    old_extractor, old_classifier = (
        (None, None) if alone else split(old_network, config.cut)
    )
    if config.compiled:
        extractor, old_extractor = (
            f and compiled(f, phase.device) for f in (extractor, old_extractor)
        )
    index = (
        torch.cat([tasks.train_index(k) for k in range(t + 1)])
        if config.memory == "real"
        else tasks.train_index(t)
    )
    first = tasks.classes(t).start
    features = None
    if not alone:
        if old_memory.rows is not None:
            index = torch.cat([index, old_memory.rows])
        if frozen:
            features, labels = real_features(network, tasks, t, config, phase)
            old_memory.watch(features, labels)
        if config.head == "cosine":
            network.head.imprint(
                *real_features(old_network, tasks, t, config, phase), first
            )
        if (
            config.head == "cosine"
            or config.head == "per-task"
            and config.penalty != "logits"
        ):
            network.head.blocks[:-1].requires_grad_(
                False
            )  # old outputs stay: nothing but weight decay would move them
    f = 1.0 if alone else old_new_ratio(config, tasks.sizes, t)
    own_head_only = config.head == "per-task" and not alone
    spatial = config.cut < len(network.stages)
    rate = config.learning_rate if alone else config.learning_rate_task
    optimizer = adam(network, rate, config)
    per_epoch = max(1, len(index) // config.batch_size)
    total = per_epoch * (config.epochs_base if alone else config.epochs_task)

    together = distributed.together(network.head if frozen else network)

    def losses_of(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = phase.epoch_rows(step, len(index), config.batch_size)
        batch, draws = (
            len(chosen),
            None if features is not None else tasks.draw(len(chosen), phase.rng),
        )
        chosen = distributed.share(chosen)
        y = tasks.train_labels[index[chosen]]
        if features is None:
            x = tasks.normalise(
                tasks.augment(
                    tasks.train_images[index[chosen]], distributed.share(draws)
                )
            )
            if hasattr(tasks.train_images, "ahead"):
                tasks.train_images.ahead(
                    index[
                        distributed.share(
                            phase.epoch_rows(step + 1, len(index), config.batch_size)
                        )
                    ]
                )
        with phase.autocast():
            u = extractor(x) if features is None else features[chosen]
            logits = classifier(u)
            if not alone and features is None:
                with torch.no_grad():
                    u_old = old_extractor(x)
                    logits_old = old_classifier(u_old)
        parts = {
            "new": losses.classification(logits[:, first:], y - first)
            if own_head_only
            else losses.classification(logits, y)
        }
        loss = parts["new"]
        if not alone and old_memory.replays:
            c = torch.randint(
                0, first, (batch,), generator=phase.rng, device=y.device
            )  # old classes, uniformly
            with torch.no_grad(), phase.autocast(spatial):
                replayed, c = distributed.share(old_memory.sample(c, phase.rng), c)
            with phase.autocast():
                logits_replayed = classifier(replayed)
            parts["replayed"] = losses.classification(logits_replayed, c)
            loss = losses.balanced_classification(parts["new"], parts["replayed"], f)
        if not alone and config.penalty in ("fisher", "sensitivity"):
            parts["penalty"] = config.penalty_weight * importance.penalty(
                network, old_network
            )
            loss = loss + parts["penalty"]
        elif not alone and config.penalty not in ("none", "frozen"):
            parts["penalty"] = penalty(
                config,
                u=u,
                u_old=u_old,
                logits=logits,
                logits_old=logits_old,
                old_sizes=network.head.sizes[:t],
                f=f,
            )
            if config.penalty == "features" and config.distance == "batch":
                parts["penalty"] = distributed.root_mean_square(parts["penalty"])
            loss = loss + parts["penalty"]
        if not alone and config.head == "cosine":
            parts["margin"] = losses.margin_ranking(
                logits / network.head.scale, y, first
            ) * distributed.weight_of((y < first).sum())
            loss = loss + parts["margin"]
        return loss, parts

    for step in phase.steps(
        total, every=per_epoch, network=network, optimizer=optimizer
    ):
        set_rate(optimizer, rate * rate_factor(config.schedule, step, total, per_epoch))
        loss, parts = together(losses_of, step)
        phase.descend(optimizer, loss)
        phase.log(loss=loss, **parts)


def train_generator(
    memory: Memory,
    old_memory: Memory | None,
    network: Network,
    old_network: Network | None,
    tasks: Tasks,
    t: int,
    config: Config,
    phase: "Phase",
) -> None:
    """Train G_t and D_t on the frozen F_t's features of D_t (Equations 1 to 3); other memories are fitted directly.

    The last task trains no GAN: nobody would replay from it. Sources of the settings: config.py.
    """
    last = t == len(tasks.sizes) - 1
    if config.drift != "none" and t > 0:  # the old classes' features have moved with F
        moving = old_memory if memory.trained else memory
        before, after = (
            real_features(f, tasks, t, config, phase)[0] for f in (old_network, network)
        )
        moving.move(
            *DRIFTS[config.drift](
                before, after, moving.class_means(phase.seeded("drift"))
            )
        )
    if not memory.trained:
        if memory.fits:
            memory.fit(
                *real_features(network, tasks, t, config, phase), tasks.train_index(t)
            )
        return
    if last:
        return
    G, D = memory.generator, memory.discriminator
    count, real = feature_source(network, tasks, t, config, phase)
    g_optimizer, d_optimizer = (
        adam(m, config.generator_learning_rate, config, betas=(0.5, 0.999))
        for m in (G, D)
    )
    first = tasks.classes(t).start
    f = 1.0 if t == 0 else old_new_ratio(config, tasks.sizes, t)
    spatial = config.cut < len(
        network.stages
    )  # convolutions; a vector's small networks stay in float32
    retrain = t > 0 and config.alignment == "retrain"
    align = t > 0 and not retrain
    total = generator_steps(config, len(tasks.sizes), t)
    batch, whole = config.generator_batch, (config.generator_batch,)
    # Equation 3 is printed with weight 1. Tensors: the compiler takes a number for a constant and starts anew with each task
    scale = torch.full(
        (),
        config.alignment_weight * f if config.alignment == "code" else 1.0,
        device=phase.device,
    )
    seen = torch.full((), first, device=phase.device)

    def losses_of_d(
        u: Tensor, c: Tensor, z: Tensor, mix: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with phase.autocast(spatial):
            with torch.no_grad():
                fake = G(c, z)
            wasserstein = losses.critic(D(c, u), D(c, fake))
        with phase.autocast(
            spatial and phase.half != torch.float16
        ):  # its inner gradient would be too small for fp16
            gp = losses.gradient_penalty(D, c, u, fake, mix)
        return wasserstein + config.gradient_penalty_weight * gp, {
            "wasserstein": -wasserstein,
            "gradient_penalty": gp,
        }

    def losses_of_g(
        c: Tensor, z: Tensor, c_old: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with phase.autocast(spatial):
            parts = {"adversarial": losses.generator(D(c, G(c, z)))}
        if c_old is not None:
            with phase.autocast(spatial), torch.no_grad():
                replayed_old = old_memory.replay(c_old, z)
            with phase.autocast(spatial):
                parts["alignment"] = scale * losses.replay_alignment(
                    G(c_old, z), replayed_old, form=config.alignment, old_classes=seen
                )
        return sum(parts.values()), parts

    descend_d, descend_g = (
        phase.descent(D, d_optimizer, losses_of_d),
        phase.descent(G, g_optimizer, losses_of_g),
    )
    for step in phase.steps(
        total,
        every=max(1, total // 50),
        memory=memory,
        g_optimizer=g_optimizer,
        d_optimizer=d_optimizer,
    ):
        for optimizer in (
            g_optimizer,
            d_optimizer,
        ):  # x 0.3 after 40 % and 80 % of the steps (code: every 200 of 501 epochs)
            set_rate(
                optimizer,
                config.generator_learning_rate * 0.3 ** (step * 5 // (2 * total)),
            )
        for _ in range(config.critic_steps):
            rows = torch.randint(
                0, count, whole, generator=phase.rng, device=phase.device
            )
            u, c = real(rows)
            if retrain:
                u, c = with_replays(
                    u, c, old_memory, (first, tasks.classes(t).stop), phase
                )
            z = distributed.share(memory.latent(batch, phase.rng))
            mix = torch.rand(
                batch, *[1] * (u.ndim - 1), generator=phase.rng, device=u.device
            )
            _, parts_d = descend_d(u, c, z, distributed.share(mix))
        c_old = (
            [
                distributed.share(
                    torch.randint(0, first, whole, generator=phase.rng, device=c.device)
                )
            ]
            if align
            else []
        )
        D.requires_grad_(False)
        loss, parts = descend_g(c, z, *c_old)
        D.requires_grad_(True)
        phase.log(loss=loss, **parts_d, **parts)


def measure_importance(
    importance: Importance,
    network: Network,
    tasks: Tasks,
    t: int,
    config: Config,
    phase: "Phase",
) -> None:
    """Add task t's importances for EWC and MAS, on training images drawn once, as they are; none after the last task."""
    if t == len(tasks.sizes) - 1:
        return
    index, rng = tasks.train_index(t), phase.seeded("images")
    rows = index[
        torch.randperm(len(index), generator=rng, device=index.device)[
            : config.importance_images
        ]
    ]
    importance.add(
        network,
        tasks.normalise(tasks.train_images[rows]),
        tasks.classes(t).start if config.head == "per-task" else 0,
        batch=1 if config.importance == "per-sample" else config.batch_size,
        rng=rng,
    )


@torch.no_grad()
def with_replays(
    u: Tensor, c: Tensor, old_memory: Memory, seen: tuple[int, int], phase: "Phase"
) -> tuple[Tensor, Tensor]:
    """MeRGAN's joint retraining: a share of the real batch, as large as that of the old classes, is what G_{t-1} replays."""
    (first, stop), batch = seen, phase.config.generator_batch
    old = torch.rand(batch, generator=phase.rng, device=c.device) < first / stop
    c_old = torch.randint(0, first, (batch,), generator=phase.rng, device=c.device)
    old, replayed, c_old = distributed.share(
        old, old_memory.sample(c_old, phase.rng), c_old
    )
    return torch.where(old.view(-1, *[1] * (u.ndim - 1)), replayed, u), torch.where(
        old, c_old, c
    )


def feature_source(
    network: Network, tasks: Tasks, t: int, config: Config, phase: "Phase"
) -> tuple[int, Callable]:
    """(N, a function from row numbers [B] below N to this process's share of u [B, ...] and labels [B]) for D_t.

    At the last cut some augmented views are computed once and kept; below it, where they are large, with every batch.
    """
    if config.cut == len(network.stages):
        features, labels = real_features(
            network, tasks, t, config, phase, views=config.feature_views
        )
        return len(labels), lambda rows: distributed.share(features[rows], labels[rows])
    network.eval()
    index, (extractor, _) = tasks.train_index(t), split(network, config.cut)

    @torch.no_grad()
    def real(rows):
        rows, draws = distributed.share(rows, tasks.draw(len(rows), phase.rng))
        images = tasks.augment(tasks.train_images[index[rows]], draws)
        with phase.autocast():
            return extractor(tasks.normalise(images)).float(), tasks.train_labels[
                index[rows]
            ]

    return len(index), real


@torch.no_grad()
def real_features(
    network: Network,
    tasks: Tasks,
    t: int,
    config: Config,
    phase: "Phase",
    views: int = 0,
) -> tuple[Tensor, Tensor]:
    """u = F_t(x) of all x in D_t and their labels: [N, d], [N], in eval mode; with `views` > 0, of so many augmented views.

    Where all views exceed the byte budget, as many as fit are kept (at least one).
    """
    network.eval()
    index = tasks.train_index(t)
    kept = (
        max(1, min(views, FEATURE_BUDGET // (len(index) * network.features * 4)))
        if views
        else 1
    )
    extractor, _ = split(network, config.cut)
    chunks = []
    for view in range(kept):
        draws = tasks.draw(len(index), phase.seeded(f"view {view}"))
        for rows in torch.arange(len(index), device=index.device).split(
            EVALUATION_BATCH
        ):
            images = tasks.train_images[index[rows]]
            if views:
                images = tasks.augment(images, draws[rows])
            with phase.autocast():
                chunks.append(extractor(tasks.normalise(images)).float())
    return torch.cat(chunks), tasks.train_labels[index].repeat(kept)


@torch.no_grad()
def predict(
    network: Network,
    memory: Memory,
    tasks: Tasks,
    t: int,
    config: Config,
    phase: "Phase",
) -> dict:
    """{rule: int array over the test images of tasks 0..t} for every prediction rule that applies to this network.

    softmax        arg-max over all outputs (single head)
    max-prob       largest probability over heads, one softmax each (the paper's rule; FACIL's --multi-softmax is the same,
                   since the logarithm keeps the order)
    concat-logits  largest logit over heads (FACIL's default)
    over-chance    largest probability relative to its head's chance 1 / classes (ours: heads of unequal size)
    nearest-mean   nearest stored class mean, features and means L2-normalised (as iCaRL does)
    nearest-exemplar-mean   iCaRL's: the means are those of the exemplars' features under the present network
    mahalanobis    smallest Mahalanobis distance (FeCAM)
    task-aware     arg-max within the image's own task: what a task label would give
    """
    network.eval()
    extractor, classifier = split(network, len(network.stages))
    seen = sum(tasks.sizes[: t + 1])
    count = int((tasks.test_labels < seen).sum())
    exemplar_means = (
        None
        if memory.rows is None
        else nearest_exemplar_means(network, memory, tasks, seen, phase)
    )
    task_of = torch.repeat_interleave(
        torch.arange(len(tasks.sizes)), torch.tensor(tasks.sizes)
    ).to(tasks.test_labels.device)
    chosen: dict[str, list[Tensor]] = {}
    for rows in torch.arange(count, device=tasks.test_labels.device).split(
        EVALUATION_BATCH
    ):
        images, labels = tasks.test_images[rows], tasks.test_labels[rows]
        with phase.autocast():
            u = extractor(tasks.normalise(images)).float()
        logits = classifier(u)
        scores = {}
        if config.head == "per-task":
            heads = logits.split(network.head.sizes, dim=1)
            scores["max-prob"] = torch.cat(
                [head.softmax(dim=1) for head in heads], dim=1
            )
            scores["concat-logits"] = logits
            scores["over-chance"] = torch.cat(
                [head.softmax(dim=1) * head.shape[1] for head in heads], dim=1
            )
        else:
            scores["softmax"] = logits
        if memory.keeps_means:
            means = nn.functional.normalize(memory.means[:seen], dim=1)
            scores["nearest-mean"] = nn.functional.normalize(u, dim=1) @ means.T
        if exemplar_means is not None:
            scores["nearest-exemplar-mean"] = (
                nn.functional.normalize(u, dim=1) @ exemplar_means.T
            )
        if config.memory == "covariances":
            scores["mahalanobis"] = -memory.distances(u, seen)
        if config.penalty != "frozen" or config.prediction == "softmax":
            own = task_of[: logits.shape[1]][None] == task_of[labels][:, None]
            scores["task-aware"] = logits.masked_fill(~own, -torch.inf)
        for rule, score in scores.items():
            chosen.setdefault(rule, []).append(score.argmax(dim=1))
    if config.penalty == "frozen" and config.prediction != "softmax" and t > 0:
        chosen = {
            config.prediction: chosen[config.prediction]
        }  # its head was never trained for the later classes
    return {
        rule: torch.cat(parts).cpu().numpy().astype(np.int64)
        for rule, parts in chosen.items()
    }


@torch.no_grad()
def nearest_exemplar_means(
    network: Network, memory: Memory, tasks: Tasks, seen: int, phase: "Phase"
) -> Tensor:
    """[seen, d]: per class the mean of its exemplars' L2-normalised features, normalised again (LUCIR's code for iCaRL-NME).

    Each image counts with its mirror image, where the data set's augmentation mirrors.
    """
    labels = tasks.train_labels[memory.rows]
    total = torch.zeros(seen, network.features, device=labels.device)
    extractor, _ = split(network, len(network.stages))
    for rows, y in zip(
        memory.rows.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH)
    ):
        for images in (
            tasks.train_images[rows],
            *([tasks.train_images[rows].flip(2)] if tasks.mirror else []),
        ):
            with phase.autocast():
                total.index_add_(
                    0,
                    y,
                    nn.functional.normalize(
                        extractor(tasks.normalise(images)).float(), dim=1
                    ),
                )
    return nn.functional.normalize(total, dim=1)


class Phase:
    """One resumable stretch of training: its steps, random numbers, averaged losses, checkpoints and clock."""

    def __init__(
        self, config: Config, t: int, name: str, stage, report: Callable | None
    ):
        self.t, self.name, self.config, self.stage, self.report = (
            t,
            name,
            config,
            stage,
            report,
        )
        self.seed = seed_of(config.seed, t, name)
        self.device = resolve_device(config)
        self.rng = torch.Generator(self.device)
        self.half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
            resolve_precision(config)
        )
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.half == torch.float16
        )
        self.history: list[dict] = []
        self.sums: dict[str, Tensor] = {}
        self.count, self.step, self.seconds, self.began = 0, 0, 0.0, time.monotonic()

    def autocast(self, wanted: bool = True):
        """Half-precision arithmetic with float32 weights where the config asks for it."""
        if wanted and self.half is not None:
            return torch.autocast(self.device.type, self.half)
        return contextlib.nullcontext()

    def seeded(self, what: str) -> torch.Generator:
        """A generator for something drawn once in this phase."""
        return torch.Generator(self.device).manual_seed(
            seed_of(self.config.seed, self.t, self.name, what)
        )

    def epoch_rows(self, step: int, count: int, batch_size: int) -> Tensor:
        """Rows of this step's batch: every epoch has its own permutation of `count` rows; a rest below a batch waits."""
        per_epoch = max(1, count // batch_size)
        epoch, within = divmod(step, per_epoch)
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            self._order = torch.randperm(
                count, generator=self.seeded(f"epoch {epoch}"), device=self.device
            )
        return self._order[within * batch_size : (within + 1) * batch_size]

    def steps(self, total: int, *, every: int, **parts) -> Iterator[int]:
        """Yield the steps still to do; average the logged losses over `every` steps; save `parts` as the stage asks."""
        parts |= {"scaler": self.scaler} if self.scaler.is_enabled() else {}
        self._restore(parts)
        for step in range(self.step, total):
            self.rng.manual_seed((self.seed + step) % 2**63)
            yield step
            self.step = step + 1
            if self.step % every == 0 or self.step == total:
                self._flush()
            if self.report:
                self.report(
                    self.t,
                    self.name,
                    self.step,
                    total,
                    self.history[-1] if self.history else {},
                )
            if self.stage.due() and self.step < total:
                self._finite()
                self.stage.save(self._state(parts))

    def descend(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """One step down the loss's gradient; with fp16 the loss is scaled so that small gradients do not vanish."""
        optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(optimizer)
        self.scaler.update()

    def descent(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, losses_of: Callable
    ) -> Callable:
        """A function that passes its inputs to `losses_of`, takes one step down its loss, and returns its (loss, parts)."""
        together = distributed.together(module)

        def eager(*inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            loss, parts = together(losses_of, *inputs)
            self.descend(optimizer, loss)
            return loss, parts

        if not self.config.compiled or self.config.cut != FEATURES:
            return eager
        weights = list(module.parameters())
        gradients_of = compiled_gradients(losses_of, weights, self.device)

        def fast(*inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            loss, parts, gradients = gradients_of(*inputs)
            for weight, gradient in zip(weights, gradients):
                weight.grad = gradient
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)  # they lie in the graph's own memory
            return loss.clone(), {
                name: value.clone() for name, value in parts.items()
            }  # the next replay overwrites them

        return fast

    def log(self, **values: Tensor) -> None:
        """Add to the running means; no value leaves the device here."""
        for name, value in distributed.mean_of(values).items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def _finite(self) -> None:
        bad = [
            name for name, value in self.sums.items() if not math.isfinite(value.item())
        ]
        if bad:
            raise UserError(
                f"The loss '{bad[0]}' of task {self.t}'s {self.name} became NaN or infinite before step "
                f"{self.step}; lower the learning rate or the penalty's weight, or use precision float32."
            )

    def _flush(self) -> None:
        self._finite()
        if self.count:
            means = {
                name: value.item() / self.count for name, value in self.sums.items()
            }
            self.history.append(
                {"task": self.t, "phase": self.name, "step": self.step, **means}
            )
        self.sums, self.count = {}, 0

    def elapsed(self) -> float:
        """Seconds spent in this phase, those before an interruption's last checkpoint included."""
        return self.seconds + time.monotonic() - self.began

    def _state(self, parts: dict) -> dict:
        return {
            "step": self.step,
            "count": self.count,
            "seconds": self.elapsed(),
            "history": self.history,
            "sums": {k: v.cpu() for k, v in self.sums.items()},
            **{k: v.state_dict() for k, v in parts.items()},
        }

    def _restore(self, parts: dict) -> None:
        state = self.stage.checkpoint()
        if state is not None:
            try:
                for name, part in parts.items():
                    part.load_state_dict(state[name])
                self.step, self.count, self.history = (
                    state["step"],
                    state["count"],
                    state["history"],
                )
                self.seconds = state["seconds"]
                self.sums = {k: v.to(self.device) for k, v in state["sums"].items()}
            except (KeyError, RuntimeError, ValueError) as problem:
                raise UserError(
                    f"The checkpoint {self.stage.path} belongs to another configuration; "
                    "delete that folder to train the stage again."
                ) from problem


class Chain:
    """The stages of one run, in order; each is keyed by everything before it, loaded where it is known, else trained."""

    def __init__(self, config: Config, tasks: Tasks, store, report: Callable | None):
        store = (
            distributed.Store(store or NoStore())
            if distributed.size() > 1
            else store or NoStore()
        )
        self.config, self.tasks, self.store, self.report = config, tasks, store, report
        self.device = resolve_device(config)
        self.outcome = Outcome()
        beyond = [tasks.content] * bool(tasks.content) + [resolve_precision(config)] * (
            config.precision == "auto"
        )
        self.key = digest_of(
            ["start", torch.__version__, self.store.code, *beyond]
        )  # what no setting tells

    def build(self) -> tuple[Network, Memory, Importance]:
        """F_0 and H_0 without outputs yet, G_0 with D_0 (or another memory), Omega = 0; values depend on the seed alone."""
        network = build_network(
            self.config, self.tasks.shape, seed_of(self.config.seed, "network")
        ).to(self.device)
        memory = build_memory(
            self.config,
            self.tasks.num_classes,
            feature_shape(network, self.config.cut, self.tasks.shape),
            seed_of(self.config.seed, "memory"),
            image_bytes=self.tasks.train_images.shape[1:].numel(),
        )
        network = distributed.synchronised(network)
        return network, memory.to(self.device), Importance(self.config, network)

    def task_numbers(self) -> range:
        """0 .. T; joint training has only the last, T, and reads the data of all."""
        last = len(self.tasks.sizes)
        return range(last - 1, last) if self.config.memory == "real" else range(last)

    def grow_head(self, network: Network, t: int) -> None:
        """Blocks for the tasks up to t (Section 4.3), or for all of them at once with `full_head`."""
        have, want = (
            len(network.head.blocks),
            len(self.tasks.sizes) if self.config.full_head else t + 1,
        )
        for k in range(have, want):
            network.head.grow(self.tasks.sizes[k], seed_of(self.config.seed, k, "head"))
        network.head.to(self.device)

    def phase(
        self,
        name: str,
        t: int,
        train: Callable,
        module: nn.Module,
        *frozen: nn.Module | None,
    ) -> None:
        """Load the stage's result into `module`, or train it with `train`, from its last checkpoint on, and keep it."""
        if name == "importance" and not module.kind:
            return
        with self.store.stage(self.next_key(name, t)) as stage:
            done = stage.result()
            if done is None:
                phase = Phase(self.config, t, name, stage, self.report)
                train(module, *frozen, self.tasks, t, self.config, phase)
                module.eval()
                done = {
                    "module": module.state_dict(),
                    "losses": phase.history,
                    "seconds": {
                        "task": t,
                        "phase": name,
                        "seconds": round(phase.elapsed(), 3),
                        "steps": phase.step,
                    },
                }
                stage.finish(done)
            else:
                module.load_state_dict(done["module"])
                module.eval()
        self.outcome.losses += done["losses"]
        if done["seconds"]["seconds"] > 0.01:
            self.outcome.seconds.append(done["seconds"])

    def next_key(self, name: str, t: int) -> str:
        """Key of the chain's next stage: everything before it, and the settings that can change it."""
        self.key = digest_of([self.key, name, self._settings(name, t)])
        return self.key

    def evaluate(self, network: Network, memory: Memory, t: int) -> None:
        """Predictions of every rule after task t, and the bytes that the next task needs beside the network itself."""
        key = digest_of(
            [
                self.key,
                "evaluation",
                self.config.identity()["validation"],
                self.config.head,
                self.config.penalty,
                self.config.prediction if self.config.penalty == "frozen" else "",
            ]
        )
        with self.store.stage(key) as stage:
            done = stage.result()
            if done is None:
                rules = predict(
                    network,
                    memory,
                    self.tasks,
                    t,
                    self.config,
                    Phase(self.config, t, "test", stage, None),
                )
                done = {
                    "rules": {
                        rule: torch.from_numpy(row) for rule, row in rules.items()
                    }
                }
                stage.finish(done)
        self.outcome.predictions += [None] * (t - len(self.outcome.predictions))
        self.outcome.predictions.append(
            {rule: row.numpy() for rule, row in done["rules"].items()}
        )
        kept = dict(memory.nbytes())
        if self.config.penalty in (
            "logits",
            "features",
            "less-forget",
            "fisher",
            "sensitivity",
        ):
            kept["old network"] = state_bytes(network)
        if self.config.penalty in ("fisher", "sensitivity"):
            kept["importances"] = sum(
                4 * p.numel() for p in network.stages.parameters()
            )
        if self.config.memory == "real":
            kept["training images"] = self.tasks.train_images.numel()
        self.outcome.bytes_kept += [None] * (t - len(self.outcome.bytes_kept))
        self.outcome.bytes_kept.append(kept)

    def _settings(self, name: str, t: int) -> dict:
        """What can change this stage: task 0's classifier is one function for all rows and all splits of one base."""
        everything = self.config.identity()
        shared = (
            "dataset",
            "class_order",
            "seed",
            "validation",
            "network",
            "width",
            "batch_size",
            "learning_rate",
            "schedule",
            "weight_decay",
            "precision",
            "epochs_base",
            "full_head",
            "compiled",
        )
        generator = (
            "memory",
            "cut",
            "gaussian",
            "gaussian_clamp",
            "generator_hidden",
            "latent_dim",
            "critic_steps",
            "gradient_penalty_weight",
            "generator_learning_rate",
            "generator_batch",
            "feature_views",
            "exemplars",
            "generator_parameters",
            "compiled",
        )
        sizes = {
            "sizes": self.tasks.sizes
            if self.config.full_head
            else self.tasks.sizes[: t + 1],
            "classes": self.tasks.num_classes,
        }
        alone = t == self.task_numbers()[0]
        if alone and name == "classifier":
            cosine = {
                k: everything[k]
                for k in ("head", "head_scale")
                if k in everything and self.config.head == "cosine"
            }
            return {
                **{k: everything[k] for k in shared if k in everything},
                **sizes,
                **cosine,
                "task": t,
                "all_data": self.config.memory == "real",
            }
        if name == "generator":
            last = t == len(self.tasks.sizes) - 1
            steps = (
                generator_steps(self.config, len(self.tasks.sizes), t)
                if self.config.memory == "gan"
                else 0
            )
            picked = {k: everything[k] for k in generator if k in everything}
            if not alone:
                picked |= {
                    k: everything[k]
                    for k in (
                        "alignment",
                        "alignment_weight",
                        "old_task_weighting",
                        "drift",
                    )
                    if k in everything
                }
            return {**picked, **sizes, "steps": 0 if last else steps, "last": last}
        left_out = (
            "base",
            "tasks",
            "split",
            "generator_steps_base",
            "generator_steps_later",
            "prediction",
            "alignment",
            "alignment_weight",
            "drift",
        )
        return {**{k: v for k, v in everything.items() if k not in left_out}, **sizes}


def generator_steps(config: Config, tasks: int, t: int) -> int:
    """G updates of task t: those of task 0, or an equal share of the later ones' (the last task trains none)."""
    return (
        config.generator_steps_base
        if t == 0
        else max(1, config.generator_steps_later // max(1, tasks - 2))
    )


def rate_factor(schedule: str, step: int, total: int, per_epoch: int) -> float:
    """The learning rate's factor at one step.

    last-epoch  1, then 0.1 in the last epoch (code, of 201)
    cosine      a linear rise over the first tenth of the steps, then half a cosine down to 0 (ours, for few epochs)
    """
    if schedule == "cosine":
        rise = max(1, total // 10)
        return (
            (step + 1) / rise
            if step < rise
            else 0.5 * (1 + math.cos(math.pi * (step - rise) / (total - rise)))
        )
    return 0.1 if step >= total - per_epoch and total > per_epoch else 1.0


def adam(
    module: nn.Module,
    rate: float,
    config: Config,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Adam:
    """Adam, as in Section 5; weight decay for networks only (the code's GAN optimisers have none)."""
    decay = config.weight_decay if isinstance(module, Network) else 0.0
    return torch.optim.Adam(
        module.parameters(), lr=rate, betas=betas, weight_decay=decay, fused=True
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def seed_of(*what) -> int:
    """A 62-bit seed from anything printable."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:8], "big") >> 2


def weight_checksum(module: nn.Module) -> str:
    """SHA-256 over names and bytes of a module's state."""
    sha = hashlib.sha256()
    for name, value in module.state_dict().items():
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
