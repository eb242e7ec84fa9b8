"""Which run is which, in words: the row it is closest to, and what it changes there."""

import dataclasses

from gfrlib.config import DECLARED, METHODS, Config, make_config
from gfrlib.lab import datasets

# said by the preset or by the machine, and of no other run
UNSAID = ("preset", "device", "threads")
SPLIT = ("base", "tasks", "split")
DEFAULT = "gfr"  # whose columns are those of all rows


def row_of(config: Config) -> tuple[str, dict]:
    """(row, {setting: value}): what `experiments.settings` makes this Config of, with
    its preset, but for the device and its threads.

    The row is the one from which the fewest columns of the table of methods differ, and
    of these the fewest settings. Of a data set of the reader's own the split is always
    said: left open, it could be divided anew.
    """
    changes = {row: _changes(config, row) for row in METHODS}
    columns = METHODS[DEFAULT].columns

    def distance(row: str) -> tuple[int, int]:
        return len(changes[row].keys() & columns.keys()), len(changes[row])

    row = min(changes, key=distance)
    found = changes[row]
    if datasets.is_own(config.dataset) and not config.split:
        found |= {"base": config.base, "tasks": config.tasks}
    return row, found


def _changes(config: Config, row: str) -> dict:
    usual = make_config(config.preset, row)
    fields = ((name, getattr(config, name)) for name in DECLARED)
    return {k: v for k, v in fields if v != getattr(usual, k) and k not in UNSAID}


def apart(configs) -> dict[Config, str]:
    """{Config: 'penalty_weight 10'}: by which settings a run differs from others of its
    name in the same list, but for the split and the seed; "" where by none.
    """
    named: dict[str, list[Config]] = {}
    for config in configs:
        named.setdefault(config.method, []).append(config)
    found = {}
    for some in named.values():
        given = [dataclasses.asdict(config) for config in some]
        vary = [
            name
            for name in DECLARED
            if name not in (*UNSAID, *SPLIT, "seed")
            and len({str(each[name]) for each in given}) > 1
        ]
        for config in some:
            found[config] = in_words({n: getattr(config, n) for n in vary})
    return found


def in_words(changes: dict) -> str:
    """'penalty_weight 10, distance mse'."""
    return ", ".join(f"{name} {as_text(value)}" for name, value in changes.items())


def as_text(value) -> str:
    """A setting's value as a command line takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
