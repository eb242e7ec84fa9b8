"""The committed result of a slim-type stage, and its renewal.

    python tests/renew_expected.py

writes this machine's entry in tests/expected/slim_stage.json anew, and drops those of
another RESULT_VERSION or PyTorch. Run it after a change that is meant to move numbers,
once RESULT_VERSION was raised in gfrlib/config.py, and commit the file with that
change. `test_expected.py` compares what this tree computes with the file: equal to the
bit with the entry of this PyTorch and this kind of processor, else nearly equal with
every entry (other models round otherwise, and a GAN takes another way). So a number
that moved unmeant, or a forgotten raise, is seen. On a kind of processor without an
entry little is: run this there at a commit whose tests pass, and commit the entry.
"""

import hashlib
import json
from pathlib import Path

import torch
from helpers_core import generated
from memory_store import MemoryStore

from gfrlib import tasks, training
from gfrlib.config import RESULT_VERSION, make_config

EXPECTED = Path(__file__).parent / "expected" / "slim_stage.json"
SLIM = dict(
    width=8,
    base=2,
    tasks=1,
    batch_size=16,
    learning_rate=1e-3,
    learning_rate_task=2e-3,
    epochs_base=6,
    epochs_task=24,
    penalty_weight=0.1,
    generator_steps_base=40,
    generator_steps_later=1,
    generator_hidden=32,
    latent_dim=8,
    generator_batch=32,
    device="cpu",
)
# what decides which kernels PyTorch chooses, beside the vector extension
ARITHMETIC = (
    "_is_avx512_bf16_supported",
    "_is_amx_tile_supported",
    "_is_arm_sve_supported",
)
# On another PyTorch or processor: share of predictions, and how far losses may be off
# where no GAN is trained
SAME_ELSEWHERE, LOSS_ELSEWHERE = 0.95, 0.1


def slim_stage(store=None, methods=("gfr-gaussian", "gfr"), **changes) -> dict:
    """What is kept of runs of a second: ResNet-18 of width 8, generated images.

    2 + 2 classes, with Gaussians and with a GAN. `store` shares stages among calls;
    `changes` are settings.
    """
    store, rows, final = store or MemoryStore(), [], {}
    images = generated(4, per_class=40, size=16, seed=3)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for method in methods:
            config = make_config("slim", method, **{**SLIM, **changes})
            stream = tasks.build(config, images, torch.device("cpu"))
            outcome = training.run(config, stream, store=store)
            for row in outcome.predictions:
                rows.append({rule: found.tolist() for rule, found in row.items()})
            for row in outcome.losses:
                phase = f"{method}, task {row['task']} {row['phase']}"
                final[phase] = float(f"{row['loss']:.4g}")
    finally:
        torch.set_num_threads(before)
    return {
        "result_version": RESULT_VERSION,
        "torch": torch.__version__,
        "cpu": cpu(),
        "sha256": checksum(rows),
        "final_losses": final,
        "predictions": rows,
    }


def checksum(rows: list[dict]) -> str:
    """Of the predictions: SHA-256 of their JSON."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def cpu() -> str:
    """The vector extension, which arithmetic of half precision there is, and the model:
    vendor, family and number, where the system tells.
    """
    words = [torch.backends.cpu.get_cpu_capability()]
    for name in ARITHMETIC:
        if getattr(torch.cpu, name, lambda: False)():
            words.append(name.removeprefix("_is_").removesuffix("_supported"))
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    known = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    known = {name.strip(): value.strip() for name, value in known.items()}
    words += [known[k] for k in ("vendor_id", "cpu family", "model") if k in known]
    return " ".join(words)


def apart(ours: dict, theirs: dict) -> float:
    """The largest relative distance of final losses, without those of a GAN's run."""
    names = [name for name in theirs["final_losses"] if "gaussian" in name]
    both = [(ours["final_losses"].get(n), theirs["final_losses"][n]) for n in names]
    return max((abs(a / b - 1) if a else 1.0 for a, b in both), default=0.0)


def agreement(ours: dict, theirs: dict) -> float:
    """Share of equal predictions."""
    equal = count = 0
    for x, y in zip(ours["predictions"], theirs["predictions"], strict=True):
        for rule in y:
            for a, b in zip(x[rule], y[rule], strict=True):
                equal, count = equal + (a == b), count + 1
    return equal / count


def compare(ours: dict, kept: list[dict]) -> str | None:
    """None, or what is wrong; kept: the file's entries."""
    if any(ours["result_version"] != theirs["result_version"] for theirs in kept):
        return (
            "tests/expected/slim_stage.json is of another RESULT_VERSION: "
            "run python tests/renew_expected.py"
        )
    own = [theirs for theirs in kept if _made_alike(ours, theirs)]
    found = [_apart_from(ours, theirs) for theirs in own or kept]
    return next((wrong for wrong in found if wrong), None)


def _made_alike(ours: dict, theirs: dict) -> bool:
    return (ours["torch"], ours["cpu"]) == (theirs["torch"], theirs["cpu"])


def _apart_from(ours: dict, theirs: dict) -> str | None:
    equal = 100 * agreement(ours, theirs)
    renew = (
        "if the change is meant, raise RESULT_VERSION in gfrlib/config.py "
        "and run python tests/renew_expected.py"
    )
    if not _made_alike(ours, theirs):
        off = apart(ours, theirs)
        if equal >= 100 * SAME_ELSEWHERE and off <= LOSS_ELSEWHERE:
            return None
        return (
            f"a result moved: on another torch or CPU {equal:.1f} % of the "
            f"predictions are equal, not {100 * SAME_ELSEWHERE:.0f}, or a loss is "
            f"{100 * off:.1f} % off; {renew}"
        )
    if all(ours[what] == theirs[what] for what in ("sha256", "final_losses")):
        return None
    return f"a result moved: {equal:.1f} % of the predictions are equal; {renew}"


def expected() -> list[dict]:
    """The file's entries, one for each kind of processor."""
    return json.loads(EXPECTED.read_text()) if EXPECTED.exists() else []


def main() -> None:
    """Write this machine's entry."""
    EXPECTED.parent.mkdir(exist_ok=True)
    now = slim_stage()
    about = ("result_version", "torch")
    others = [
        old
        for old in expected()
        if all(old[name] == now[name] for name in about) and old["cpu"] != now["cpu"]
    ]
    entries = sorted([*others, now], key=lambda entry: entry["cpu"])
    lines = (json.dumps(entry, separators=(",", ":")) for entry in entries)
    EXPECTED.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(f"wrote {EXPECTED.parent.name}/{EXPECTED.name}: {now['cpu']}")


if __name__ == "__main__":
    main()
