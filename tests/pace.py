"""How fast this machine is, and how long the gate will take on it.

    python tests/pace.py

Trains one small run and prints its processor seconds beside those of the machine on
which the gate was last timed. `.ci/run` calls it once the environment stands.
"""

import time

from helpers_core import tiny, train

# Measured together, on two idle cores: the run below, and the whole of .ci/run.
REFERENCE_SECONDS = 1.7
REFERENCE_MINUTES = 22


WORK = dict(
    epochs_base=8, epochs_task=4, generator_steps_base=100, generator_steps_later=100
)


def pace() -> float:
    """Processor seconds of a small run on one thread; a first one warms up."""
    train(tiny("gfr", **WORK))
    began = time.process_time()
    train(tiny("gfr", seed=1, **WORK))
    return time.process_time() - began


def sentence(seconds: float) -> str:
    """What to expect."""
    text = f"A small run takes {seconds:.1f} s of one processor here"
    if not REFERENCE_SECONDS:
        return f"{text}."
    times = seconds / REFERENCE_SECONDS
    return (
        f"{text}, {times:.1f} times those of the machine on which the gate took "
        f"{REFERENCE_MINUTES:.0f} minutes: expect about "
        f"{times * REFERENCE_MINUTES:.0f}. Nothing is left out on a slow machine."
    )


if __name__ == "__main__":
    print(sentence(pace()))
