"""Algorithm 1 and its two training phases. Sources of all settings: config.py."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gfrlib import losses
from gfrlib.batches import Batches, FeatureBatches, feature_source, real_features
from gfrlib.config import Config, fixed
from gfrlib.engine import distributed
from gfrlib.engine.chain import Chain, generator_steps
from gfrlib.engine.descent import adam, fit, set_rate
from gfrlib.engine.machine import Machine, compiled
from gfrlib.engine.phase import Phase, seed_of
from gfrlib.heads import Head
from gfrlib.methods import FEATURES
from gfrlib.networks import Network, build_network, feature_shape, split
from gfrlib.penalties import (
    HOLDS_OUTPUTS,
    PENALTIES,
    Batch,
    Importance,
    Past,
    build_importance,
)
from gfrlib.prediction import predict
from gfrlib.replay import DRIFTS, Memory, build_memory, state_bytes
from gfrlib.tasks import Tasks


@dataclass
class Outcome:
    """What a run leaves behind, as plain numbers: the raw material of a record."""

    # per task: {rule: int [test images of classes seen]}, or None
    predictions: list = field(default_factory=list)
    losses: list = field(default_factory=list)  # {"task", "phase", "step", name: value}
    seconds: list = field(default_factory=list)  # {"task", "phase", "seconds", "steps"}
    # per task: {item: bytes} carried to the next, beside the network
    bytes_kept: list = field(default_factory=list)
    weights: str = ""  # SHA-256 of the last network's state


def run(
    config: Config,
    tasks: Tasks,
    *,
    machine: Machine | None = None,
    store=None,
    report: Callable | None = None,
    observe: Callable | None = None,
) -> Outcome:
    """Algorithm 1, with tasks counted from 0: the paper's task 1 is t = 0.

    `store` keeps stages and checkpoints (engine.store), `report` hears of progress,
    `observe(t, network, memory)` is called after every task. Raises UserError if a loss
    is not finite or a checkpoint does not fit.
    """
    chain = Chain(config, tasks, store, report, machine)
    # F, H; G, D; Omega, for EWC and MAS alone
    network, memory, importance = build(config, tasks, chain.machine.device)
    past = None  # F, H, G of t-1, frozen
    outcome = Outcome(losses=chain.losses, seconds=chain.seconds)
    outcome.predictions += [None] * chain.numbers.start
    outcome.bytes_kept += [None] * chain.numbers.start
    for t in chain.numbers:
        if t > chain.numbers.start:
            past = Past(network, memory, importance, config, tasks.sizes, t)
        grow_head(network, config, tasks.sizes, t)
        # Steps 1, 3: train F_t and H_t with D_t and features replayed for old classes
        chain.phase("classifier", t, train_classifier, network, past)
        # Steps 2, 4: train G_t with u_t = F_t(x), x in D_t, and what G_{t-1} replays
        chain.phase("generator", t, train_generator, memory, network, past)
        if importance is not None:
            chain.phase("importance", t, measure_importance, importance, network)
        outcome.predictions.append(chain.evaluated(predict, network, memory, t))
        outcome.bytes_kept.append(bytes_kept(config, network, memory, importance))
        if observe:
            observe(t, network, memory)
    outcome.weights = weight_checksum(network)
    return outcome


def build(
    config: Config, tasks: Tasks, device: torch.device
) -> tuple[Network, Memory, Importance | None]:
    """F_0 and H_0 without outputs, G_0 with D_0 (or another memory), and Omega = 0 for
    the penalties that read it. Values depend on the seed alone, but for those of a
    pretrained F.
    """
    seeds = seed_of(config.seed, "network"), seed_of(config.seed, "memory")
    network = build_network(config, tasks.shape, seeds[0], stem=tasks.stem)
    if tasks.pretrained:
        tasks.pretrained.put_into(network)
    network = network.to(device)
    shape = feature_shape(network, config.cut, tasks.shape)
    images = tuple(tasks.train_images.shape)
    memory = build_memory(config, tasks.num_classes, shape, seeds[1], images=images)
    network = distributed.synchronised(network)
    return network, memory.to(device), build_importance(config, network)


def grow_head(network: Network, config: Config, sizes: tuple[int, ...], t: int) -> None:
    """Blocks for the tasks up to t (Section 4.3), for all of them with `full_head`."""
    for k in range(len(network.head.blocks), len(sizes) if config.full_head else t + 1):
        network.head.grow(sizes[k], seed_of(config.seed, k, "head"))
    network.head.to(next(network.stages.parameters()).device)


def train_classifier(
    network: Network,
    past: Past | None,
    tasks: Tasks,
    t: int,
    config: Config,
    phase: Phase,
) -> None:
    """Train F_t and H_t on D_t and on what is replayed, held to M_{t-1} by a penalty.

    In the first task, and in joint training, only the cross-entropy is left. With a
    frozen F nothing is trained but, for a memory that replays into a softmax, the head;
    if it was pretrained, so is the first task's head alone.
    """
    frozen = fixed(config) or past is not None and config.penalty == "frozen"
    if frozen and past and config.prediction != "softmax":
        return
    # frozen batch norm: running statistics stay, weights learn all the same
    network.train(not frozen and (past is None or config.batch_norm == "train"))
    data = training_data(network, past, tasks, t, config, phase)
    head, extractor, classifier = network.head, *split(network, config.cut)
    if config.compiled:
        extractor = compiled(extractor, phase.device)
    extractor = data.extractor(extractor)
    first, penalty = 0, None
    if past:
        first, penalty = past.classes, PENALTIES.get(config.penalty)
        begin_later_task(head, past, tasks, t, config, phase)

    def losses_of(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = data.batch(step)
        with phase.autocast():
            u = extractor(x)
            logits = classifier(u)
        parts = {"new": losses.classification(*head.competing(logits, y, first))}
        loss = parts["new"]
        if past and past.memory.replays:
            replayed, c = past.replay(data.batch_size, phase)  # G_{t-1}(c, z)
            with phase.autocast():
                logits_replayed = classifier(replayed)
            parts["replayed"] = losses.classification(logits_replayed, c)
            loss = losses.balanced_classification(loss, parts["replayed"], past.f)
        if penalty:
            batch = Batch(network, x, u, logits, phase.autocast)
            parts["penalty"] = penalty(past, batch)
            loss = loss + parts["penalty"]
        extras = head.extra_losses(logits, y, first) if past else {}
        return sum(extras.values(), loss), parts | extras

    epochs, rate = config.epochs_base, config.learning_rate
    if past:
        epochs, rate = config.epochs_task, config.learning_rate_task
    trained = head if frozen else network
    fit(network, trained, losses_of, epochs, data.per_epoch, rate, config, phase)


def begin_later_task(
    head: Head, past: Past, tasks: Tasks, t: int, config: Config, phase: Phase
) -> None:
    """What a head does before a task t >= 1, and the old extractor's compilation."""
    real = None
    if head.reads_features:
        real = real_features(past.network, tasks, t, config, phase)
    head.begin(real, outputs_held=config.penalty in HOLDS_OUTPUTS)
    if config.compiled:
        past.extractor = compiled(past.extractor, phase.device)


def training_data(
    network: Network,
    past: Past | None,
    tasks: Tasks,
    t: int,
    config: Config,
    phase: Phase,
) -> Batches:
    """D_t, with the exemplars that are kept, or all data; features if F is frozen."""
    index = tasks.train_index(t)
    if config.memory == "real":
        index = torch.cat([tasks.train_index(k) for k in range(t + 1)])
    if past and past.memory.rows is not None:
        index = torch.cat([index, past.memory.rows])
    frozen = fixed(config) or past is not None and config.penalty == "frozen"
    if not frozen:
        return Batches(tasks, index, config, phase)
    features, labels = real_features(network, tasks, t, config, phase)
    if past:
        past.memory.watch(features, labels)
    return FeatureBatches(tasks, index, config, phase, (features, labels))


def train_generator(
    memory: Memory,
    network: Network,
    past: Past | None,
    tasks: Tasks,
    t: int,
    config: Config,
    phase: Phase,
) -> None:
    """Train G_t and D_t on the frozen F_t's features of D_t; fit another memory.

    The last task trains no GAN: nobody would replay from it.
    """
    if past and config.drift != "none":
        follow_drift(memory, network, past, tasks, t, config, phase)
    if memory.fits:
        real = real_features(network, tasks, t, config, phase)
        memory.fit(*real, tasks.train_index(t))
    if memory.trained and t < len(tasks.sizes) - 1:
        train_gan(memory, network, past, tasks, t, config, phase)


def follow_drift(
    memory: Memory,
    network: Network,
    past: Past,
    tasks: Tasks,
    t: int,
    config: Config,
    phase: Phase,
) -> None:
    """Move what stands for the old classes as their features have moved with F."""
    moving = past.memory if memory.trained else memory
    before, _ = real_features(past.network, tasks, t, config, phase)
    after, _ = real_features(network, tasks, t, config, phase)
    means = moving.class_means(phase.seeded("drift"))
    moving.move(*DRIFTS[config.drift](before, after, means))


def train_gan(
    memory: Memory,
    network: Network,
    past: Past | None,
    tasks: Tasks,
    t: int,
    config: Config,
    phase: Phase,
) -> None:
    """Equations 1 to 3: D_t tells features from replays, G_t replays them.

    From task 1 on, G_t also repeats what G_{t-1} replays for the old classes.
    """
    G, D = memory.generator, memory.discriminator
    count, real = feature_source(network, tasks, t, config, phase)
    rate = config.generator_learning_rate
    adam_g, adam_d = (adam(m, rate, betas=(0.5, 0.999)) for m in (G, D))
    whole = config.compiled and config.cut == FEATURES
    critic = critic_losses(memory, config, phase)
    d_step = phase.descent(D, adam_d, critic, compiled=whole)
    generator = generator_losses(memory, past, config, phase)
    g_step = phase.descent(G, adam_g, generator, compiled=whole)
    align = past and config.alignment != "retrain"
    retrain = past and config.alignment == "retrain"
    total = generator_steps(config, len(tasks.sizes), t)
    batch, every = (config.generator_batch,), max(1, total // 50)
    parts = dict(memory=memory, g_optimizer=adam_g, d_optimizer=adam_d)

    def draw(high: int) -> Tensor:
        return torch.randint(0, high, batch, generator=phase.rng, device=phase.device)

    for step in phase.steps(total, every=every, **parts):
        # x 0.3 after 40 % and 80 % of the steps (code: every 200 of 501 epochs)
        for optimizer in (adam_g, adam_d):
            set_rate(optimizer, rate * 0.3 ** (step * 5 // (2 * total)))
        for _ in range(config.critic_steps):
            u, c = real(draw(count))
            if retrain:
                u, c = with_replays(u, c, past, tasks.classes(t).stop, config, phase)
            z = distributed.share(memory.latent(*batch, phase.rng))
            flat = [1] * (u.ndim - 1)
            mix = torch.rand(*batch, *flat, generator=phase.rng, device=u.device)
            _, parts_d = d_step(u, c, z, distributed.share(mix))
        old = [distributed.share(draw(past.classes))] if align else []
        D.requires_grad_(False)
        loss, parts_g = g_step(c, z, *old)
        D.requires_grad_(True)
        phase.log(loss=loss, **parts_d, **parts_g)


def critic_losses(memory: Memory, config: Config, phase: Phase) -> Callable:
    """Equation 1 and the gradient penalty, a function (u, c, z, mix) -> loss, parts."""
    G, D = memory.generator, memory.discriminator
    spatial = config.cut < FEATURES  # a vector's small networks stay in float32
    # fp16: the inner gradient would be too small
    inner = spatial and phase.half != torch.float16
    weight = config.gradient_penalty_weight

    def losses_of(u: Tensor, c: Tensor, z: Tensor, mix: Tensor):
        with phase.autocast(spatial):
            with torch.no_grad():
                fake = G(c, z)
            wasserstein = losses.critic(D(c, u), D(c, fake))
        with phase.autocast(inner):
            penalty = losses.gradient_penalty(D, c, u, fake, mix)
        parts = {"wasserstein": -wasserstein, "gradient_penalty": penalty}
        return wasserstein + weight * penalty, parts

    return losses_of


def generator_losses(
    memory: Memory, past: Past | None, config: Config, phase: Phase
) -> Callable:
    """Equation 2 and, with old labels, Equation 3: (c, z, c_old) -> loss, parts."""
    G, D = memory.generator, memory.discriminator
    spatial = config.cut < FEATURES
    scale, old_classes = 1.0, 0  # Equation 3 is printed with weight 1
    if past:
        old_classes = past.classes
        if config.alignment == "code":
            scale = config.alignment_weight * past.f
    # tensors: the compiler takes a number for a constant and starts anew with each task
    scale = torch.full((), scale, device=phase.device)
    old_classes = torch.full((), old_classes, device=phase.device)

    def losses_of(c: Tensor, z: Tensor, c_old: Tensor | None = None):
        with phase.autocast(spatial):
            parts = {"adversarial": losses.generator(D(c, G(c, z)))}
        if c_old is not None:
            with phase.autocast(spatial), torch.no_grad():
                replayed_old = past.memory.replay(c_old, z)
            with phase.autocast(spatial):
                apart = losses.replay_alignment(
                    G(c_old, z),
                    replayed_old,
                    form=config.alignment,
                    old_classes=old_classes,
                )
                parts["alignment"] = scale * apart
        return sum(parts.values()), parts

    return losses_of


@torch.no_grad()
def with_replays(
    u: Tensor, c: Tensor, past: Past, seen: int, config: Config, phase: Phase
) -> tuple[Tensor, Tensor]:
    """MeRGAN's joint retraining: replays of G_{t-1} among the real features.

    Their share of the batch is that of the old classes among the `seen` ones.
    """
    batch, rng, device = config.generator_batch, phase.rng, c.device
    old = torch.rand(batch, generator=rng, device=device) < past.classes / seen
    c_old = torch.randint(0, past.classes, (batch,), generator=rng, device=device)
    replayed = past.memory.sample(c_old, rng)
    old, replayed, c_old = distributed.share(old, replayed, c_old)
    where = old.view(-1, *[1] * (u.ndim - 1))
    return torch.where(where, replayed, u), torch.where(old, c_old, c)


def measure_importance(
    importance: Importance,
    network: Network,
    tasks: Tasks,
    t: int,
    config: Config,
    phase: Phase,
) -> None:
    """Add task t's importances for EWC and MAS; none after the last task.

    Measured on training images drawn once, as they are.
    """
    if t == len(tasks.sizes) - 1:
        return
    index, rng = tasks.train_index(t), phase.seeded("images")
    order = torch.randperm(len(index), generator=rng, device=index.device)
    images = tasks.train_images[index[order[: config.importance_images]]]
    first = tasks.classes(t).start if config.head == "per-task" else 0
    batch = 1 if config.importance == "per-sample" else config.batch_size
    importance.add(network, tasks.normalise(images), first, batch=batch, rng=rng)


def bytes_kept(
    config: Config, network: Network, memory: Memory, importance: Importance | None
) -> dict[str, int]:
    """{item: bytes} that the next task needs beside the network itself."""
    kept = dict(memory.nbytes())
    if config.penalty in PENALTIES:
        kept["old network"] = state_bytes(network)
    if importance is not None:
        kept["importances"] = state_bytes(importance)
    return kept


def weight_checksum(module: nn.Module) -> str:
    """SHA-256 over names and bytes of a module's state."""
    sha = hashlib.sha256()
    for name, value in module.state_dict().items():
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
