"""Seeds reach every part of a run, and every setting reaches the name of a stage."""

import dataclasses

import pytest
import torch
from helpers_core import SMALL, load_tasks, tiny, train
from memory_store import Killed, MemoryStore

from gfrlib import training
from gfrlib.config import DECLARED, choices, make_config
from gfrlib.engine import chain
from gfrlib.engine.machine import Machine
from gfrlib.methods import METHODS

CPU = torch.device("cpu")


def start(seed: int) -> dict[str, torch.Tensor]:
    """What a run of this seed begins with, part by part."""
    config = tiny("gfr", **SMALL, seed=seed)
    stream = load_tasks(config)
    network, memory, _ = training.build(config, stream, CPU)
    training.grow_head(network, config, stream.sizes, 0)
    phase = chain.Chain(config, stream).new_phase("classifier", 0)
    next(phase.steps(1, every=1))
    return {
        "network": torch.cat([p.flatten() for p in network.stages.parameters()]),
        "head": network.head.blocks[0].weight,
        "memory": torch.cat([p.flatten() for p in memory.parameters()]),
        "order of images": phase.epoch_rows(0, 100, 100),
        "what a step draws": torch.rand(8, generator=phase.rng),
        "what is drawn once": torch.rand(8, generator=phase.seeded("view 0")),
    }


@pytest.mark.parametrize("part", start(0))
def test_two_seeds_share_nothing(part):
    """Else seeds differ less than runs do, and every interval is too narrow."""
    one, again, other = start(0)[part], start(0)[part], start(1)[part]
    assert torch.equal(one, again) and not torch.equal(one, other)


def stage_keys(config, machine=None) -> list[str]:
    stream = load_tasks(config)
    links = chain.Chain(config, stream, machine=machine)
    phases = ("classifier", "generator")
    return [links.next_key(phase, t) for t in links.numbers for phase in phases]


def another(name: str, value):
    """Another value of a setting."""
    if choices(name):
        return next(word for word in choices(name) if word != value)
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value * 2 + 0.1


# what the sizes of the stream, the predictions or the file of images tell themselves
TOLD = {"dataset", "base", "tasks", "split", "prediction", "weights"}


# joint training has one task, to which no later stage's setting matters
@pytest.mark.parametrize("method", [m for m in METHODS if m != "joint"])
def test_a_setting_that_is_read_gives_other_stages(method):
    """Else the second of two runs would be answered with the first one's networks."""
    config = tiny(method, **SMALL)
    before = stage_keys(config)
    for name in set(config.identity()) - TOLD:
        changed = {name: another(name, getattr(config, name))}
        other = dataclasses.replace(config, **changed)
        if other.identity() != config.identity():
            assert stage_keys(other) != before, name
    assert set(config.identity()) <= set(DECLARED)


def test_auto_in_two_precisions_is_two_runs():
    """A cache that two machines share: bf16's stages are not float32's."""
    config = tiny("gfr", **SMALL, precision="auto")
    bf16, float32 = (
        stage_keys(config, Machine(CPU, precision)) for precision in ("bf16", "float32")
    )
    assert not set(bf16) & set(float32)


def test_a_flow_makes_the_gans_updates_in_every_task():
    flow, gan = (make_config("slim", row) for row in ("gfr-flow", "gfr"))
    both = dict(generator_steps_base=100, generator_steps_later=80, critic_steps=3)
    flow, gan = (dataclasses.replace(c, **both) for c in (flow, gan))
    for t in range(6):
        updates = 4 * chain.generator_steps(gan, 6, t)
        assert chain.generator_steps(flow, 6, t) == updates > 0


def test_time_before_an_interruption_counts():
    """What chapter 11 calls the cost of a phase."""
    store = MemoryStore(kills=lambda step: step == 2)
    config = tiny("finetune", **SMALL)
    with pytest.raises(Killed):
        train(config, store)
    (key,) = store.kept
    state = store.read(key, "checkpoint")
    state["seconds"] = 1000.0
    store.write(key, "checkpoint", state)
    store.kills = None
    assert train(config, store).seconds[0]["seconds"] > 1000


def test_the_papers_generator_learns_at_the_papers_rate():
    """Adam, 1e-4; the presets that are run here have rates of their own."""
    paper = make_config("paper", "gfr")
    wanted = dict(learning_rate=1e-3, learning_rate_task=1e-3, weight_decay=2e-4)
    wanted |= dict(generator_learning_rate=1e-4, gradient_penalty_weight=10.0)
    wanted |= dict(alignment_weight=1e-3, critic_steps=5, generator_batch=128)
    wanted |= dict(latent_dim=200, generator_hidden=512, batch_size=128)
    assert {name: getattr(paper, name) for name in wanted} == wanted


def test_a_memory_with_a_loop_of_its_own_keeps_its_updates_apart(monkeypatch):
    """`conditions.generated` alone says which memories are trained so."""
    short, long = (
        tiny("gfr-gaussian", **{**SMALL, "generator_steps_base": steps})
        for steps in (4, 400)
    )
    assert stage_keys(short) == stage_keys(long)  # nothing reads it
    monkeypatch.setattr(chain, "generated", lambda c: c.memory == "gaussian")
    one, other = stage_keys(short), stage_keys(long)
    assert one[0] == other[0] and not set(one[1:]) & set(other[1:])
