"""Algorithm 1, steps 2 and 4: how the generator of replayed features is trained.

A GAN by Equations 1 to 3, a flow by flow matching. Sources of all settings: config.py.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gfrlib import losses
from gfrlib.batches import EVALUATION_BATCH, feature_source, real_features
from gfrlib.config import Config
from gfrlib.engine import distributed
from gfrlib.engine.chain import generator_steps
from gfrlib.engine.descent import adam, rate_factor, set_rate
from gfrlib.engine.phase import Phase
from gfrlib.memory import Memory
from gfrlib.methods import FEATURES
from gfrlib.networks import Network
from gfrlib.penalties import Past
from gfrlib.tasks import Tasks

REPLAYS = 200  # features of each old class that a flow is aligned on


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


def train_flow(
    memory: Memory,
    network: Network,
    past: Past | None,
    tasks: Tasks,
    t: int,
    config: Config,
    phase: Phase,
) -> None:
    """Flow matching on features of D_t; from task 1 on v_t also repeats v_{t-1}.

    As many updates as a GAN makes of its two networks: (1 + critic_steps) for every
    update of G.
    """
    count, real = feature_source(network, tasks, t, config, phase)
    if past is None:
        memory.standardise(real_features(network, tasks, t, config, phase)[0])
    else:
        replayed = replay_source(past, phase)
    optimizer = adam(memory.velocity, config.generator_learning_rate)
    losses_of = flow_losses(memory, past)
    descend = phase.descent(
        memory.velocity, optimizer, losses_of, compiled=config.compiled
    )
    total = generator_steps(config, len(tasks.sizes), t)
    batch, every = config.generator_batch, max(1, total // 50)

    def drawn(features: Callable, high: int) -> tuple[Tensor, ...]:
        """u, c, and a z and a time for each: this process's share."""
        device = phase.device
        rows = torch.randint(0, high, (batch,), generator=phase.rng, device=device)
        z = memory.latent(batch, phase.rng)
        s = torch.rand(batch, 1, generator=phase.rng, device=device)
        return (*features(rows), *distributed.share(z, s))

    parts = dict(memory=memory, optimizer=optimizer)
    for step in phase.steps(total, every=every, **parts):
        factor = rate_factor("cosine", step, total, 1)
        set_rate(optimizer, config.generator_learning_rate * factor)
        inputs = drawn(real, count)
        if past:
            inputs += drawn(replayed, REPLAYS * past.classes)
        loss, found = descend(*inputs)
        phase.log(loss=loss, **found)


@torch.no_grad()
def replay_source(past: Past, phase: Phase) -> Callable:
    """What v_{t-1} replays for the old classes, REPLAYS features each, drawn once: row
    numbers [B] -> this process's share of u [B, d] and labels [B].
    """
    labels = torch.arange(past.classes, device=phase.device).repeat_interleave(REPLAYS)
    rng = phase.seeded("old replays")
    chunks = [past.memory.sample(c, rng) for c in labels.split(EVALUATION_BATCH)]
    features = torch.cat(chunks)
    return lambda rows: distributed.share(features[rows], labels[rows])


def flow_losses(memory: Memory, past: Past | None) -> Callable:
    """(u, c, z, s, and the same four of the old classes) -> loss, parts.

    Each class counts the same: the old ones' part is weighted by f_t, as everywhere (or
    by 1, without `old_task_weighting`).
    """
    v = memory.velocity
    f = torch.full((), past.f if past else 0.0, device=memory.shift.device)

    def losses_of(u: Tensor, c: Tensor, z: Tensor, s: Tensor, *old: Tensor):
        x = memory.inward(u)
        loss = losses.flow_matching(v(c, s * x + (1 - s) * z, s), x, z)
        parts = {"flow": loss}
        if old:
            u, c, z, s = old
            on_path = s * memory.inward(u) + (1 - s) * z
            with torch.no_grad():
                before = past.memory.velocity(c, on_path, s)
            parts["alignment"] = losses.velocity_alignment(v(c, on_path, s), before)
            loss = (loss + f * parts["alignment"]) / (1 + f)
        return loss, parts

    return losses_of


# {memory: what trains it}
TRAINERS = {"gan": train_gan, "flow": train_flow}
