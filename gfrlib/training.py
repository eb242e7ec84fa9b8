"""Algorithm 1 and its two training phases. Sources of all settings: config.py."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gfrlib import losses
from gfrlib.batches import Batches, FeatureBatches, real_features
from gfrlib.conditions import fixed
from gfrlib.config import Config, UserError
from gfrlib.engine import distributed
from gfrlib.engine.chain import Chain
from gfrlib.engine.descent import fit
from gfrlib.engine.machine import Machine, compiled
from gfrlib.engine.phase import Phase, seed_of
from gfrlib.generator_training import TRAINERS
from gfrlib.heads import Head
from gfrlib.memory import Memory, state_bytes
from gfrlib.networks import Network, build_network, feature_shape, split
from gfrlib.penalties import (
    HOLDS_OUTPUTS,
    PENALTIES,
    Batch,
    Importance,
    Past,
    build_importance,
    penalty_of,
)
from gfrlib.prediction import predict
from gfrlib.replay import DRIFTS, build_memory
from gfrlib.tasks import Tasks


@dataclass
class Outcome:
    """What a run leaves behind, as plain numbers: the raw material of a record."""

    # per task: {rule: int [test images of classes seen]}, or None
    predictions: list = field(default_factory=list)
    losses: list = field(default_factory=list)  # {"task", "phase", "step", name: value}
    seconds: list = field(default_factory=list)  # {"task", "phase", "seconds", "steps"}
    # per task: {item: bytes} carried to the next, beside the network, or None
    bytes_kept: list = field(default_factory=list)
    weights: str = ""  # SHA-256 of the last network's state
    made: list = field(default_factory=list)  # where its stages were trained


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
    `observe(t, network, memory)` is called after every task with what goes on learning:
    copy what you keep. Raises UserError if a loss is not finite, a checkpoint does not
    fit, or the stream has another split.
    """
    tasks.check(config)
    chain = Chain(config, tasks, store, report, machine)
    # F, H; G, D; Omega, for EWC and MAS alone
    network, memory, importance = build(config, tasks, chain.machine.device)
    past = None  # F, H, G of t-1, frozen
    outcome = Outcome(losses=chain.losses, seconds=chain.seconds, made=chain.made)
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
        first, penalty = past.classes, penalty_of(config)
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
            batch = Batch(network, x, u, logits, phase.autocast, y, phase.rng)
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
    """Train G_t and D_t on the frozen F_t's features of D_t (generator_training.py);
    fit another memory.

    The last task trains no generator: nobody would replay from it.
    """
    if past and config.drift != "none":
        follow_drift(memory, network, past, tasks, t, config, phase)
    if memory.fits:
        real = real_features(network, tasks, t, config, phase)
        if not torch.isfinite(real[0]).all():
            raise UserError(
                "The features are no finite numbers any more, as after a learning rate "
                "far too large; lower it or a weight, or take precision float32."
            )
        memory.fit(*real, tasks.train_index(t))
    memory.check_state()
    if memory.trained and t < len(tasks.sizes) - 1:
        train = TRAINERS[config.memory]
        train(memory, network, past, tasks, t, config, phase)


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
    options = dict(batch=batch, rng=rng, prepare=tasks.normalise)
    importance.add(network, images, first, **options)


def bytes_kept(
    config: Config, network: Network, memory: Memory, importance: Importance | None
) -> dict[str, int]:
    """{item: bytes} that the next task needs beside the network itself."""
    kept = dict(memory.nbytes())
    follows = config.drift != "none" and config.penalty != "frozen"
    if config.penalty in PENALTIES or follows:
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
