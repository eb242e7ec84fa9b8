"""The net under a rebuild: does every row still give the same numbers?

    python tests/unchanged.py keep FILE      # before: all runs below, at `quick`
    python tests/unchanged.py check FILE     # after: names every run that differs
    ... --short                              # the same rows, a second each

Kept of each run: the digest of its identity, the checksum of its last weights, a hash
of its losses and of its predictions under every rule, and the bytes that it keeps.
Kept of each committed record: the digest of its settings. Takes about five minutes
on two cores, with --short half a minute; pytest does not collect this file.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from gfrlib import training
from gfrlib.config import METHODS, UserError, make_config
from gfrlib.engine.store import Store
from gfrlib.lab import experiments, records

RECORDS = Path(__file__).resolve().parents[1] / "data" / "records"
SHORT = dict(
    epochs_base=2, epochs_task=1, generator_steps_base=8, generator_steps_later=8,
    width=8, generator_hidden=32, latent_dim=8, feature_views=2,
)  # fmt: skip
RUNS = {name: (name, {}) for name in METHODS} | {
    "features+exemplars": ("icarl-cnn", dict(penalty="features")),
    "none+gan, retrained": ("gfr", dict(penalty="none", alignment="retrain")),
    "features+full covariances, mse, full head": (
        "gfr-gaussian", dict(gaussian="full", distance="mse", full_head=True),
    ),
    "gfr, bf16": ("gfr", dict(precision="bf16")),
    "gfr-gaussian, validation": ("gfr-gaussian", dict(validation=0.2)),
}  # fmt: skip


def sha(*parts) -> str:
    """Sixteen hexadecimal digits over anything printable or bytes."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else repr(part).encode())
    return found.hexdigest()[:16]


def facts(config) -> dict:
    """What must not change of one run."""
    stream = experiments.load_tasks(config)
    outcome = training.run(config, stream, store=Store())
    rows = [row or {} for row in outcome.predictions]
    return {
        "identity": config.digest(),
        "weights": outcome.weights[:16],
        "predictions": {
            rule: sha(*(row[rule].tobytes() if rule in row else b"-" for row in rows))
            for rule in sorted({rule for row in rows for rule in row})
        },
        "losses": sha([sorted(row.items()) for row in outcome.losses]),
        "bytes kept": outcome.bytes_kept,
    }


def record_digests() -> dict[str, str]:
    """{file: digest of its settings}; a record that is refused is a finding, too."""
    found = {}
    for path in sorted(RECORDS.glob("*.json")):
        if not path.name.endswith(".analysis.json"):
            try:
                found[path.stem] = records.load(path).config.digest()
            except UserError as problem:
                found[path.stem] = f"refused: {problem}"
    return found


def main() -> int:
    """Keep or check; exit code 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("keep", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", nargs="*", help="names of runs")
    options = parser.parse_args()
    os.environ["GFR_HOME"] = tempfile.mkdtemp(prefix="unchanged-")  # own stages
    torch.set_num_threads(1)
    threadpool_limits(1, "blas")
    found = {"records": record_digests()}
    for name, (method, changes) in RUNS.items():
        if options.only is None or name in options.only:
            short = SHORT if options.short else {}
            changes = {"device": "cpu", **short, **changes}
            found[name] = facts(make_config("quick", method, **changes))
            print(name, found[name]["weights"], flush=True)
    found = json.loads(json.dumps(found))
    if options.what == "keep":
        options.file.write_text(json.dumps(found, indent=1))
        return 0
    kept = json.loads(options.file.read_text())
    differs = False
    new = [name for name in found if name not in kept]  # rows that came later
    asked = kept if options.only is None else options.only
    for name in (name for name in asked if name in kept and name not in found):
        differs = True
        print(f"{name}: was kept, is no row any more")
    for name in (name for name in found if name in kept):
        later = set() if name == "records" else set(found[name])  # records may be added
        for key in sorted({*kept[name]} | later):
            before, after = (side[name].get(key) for side in (kept, found))
            if before != after:
                differs = True
                print(f"{name}: {key} was {before}, is {after}")
    count = len(found) - len(new) - 1
    print("something differs" if differs else f"{count} runs, all unchanged")
    print(f"new, with nothing to compare: {', '.join(new)}" if new else "")
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
