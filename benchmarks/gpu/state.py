"""What the parts leave: one JSON file of findings, the records, one archive of both.

data/gpu/state.json      checks, timings, rows; rewritten with every finding
data/gpu/records/        records and analyses (GFR_CACHE is data/gpu)
$OUT/gpu-results.tar.gz  both and the table; $OUT is data/gpu/out where it is not set
"""

import dataclasses
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

from gfrlib.config import UserError
from gfrlib.engine.store import root, write_atomically

ARCHIVE = "gpu-results.tar.gz"
TABLE = "gpu-table.txt"
# `frozen` is recorded as soon as task 0 is trained, which all others share
PLANNED = ("frozen", "gfr", "gfr-gaussian", "finetune", "lwf", "gfr 50 + 10 x 5")


def home() -> Path:
    """Where a machine keeps what it has made, from call to call (git ignores it)."""
    return root() / "data" / "gpu"


def out() -> Path:
    """Where results leave the machine."""
    return Path(os.environ.get("OUT") or home() / "out")


def empty() -> dict:
    """Nothing found yet."""
    fresh = {"dry": False, "about": {}, "checks": {}, "timing": {}, "start": {}}
    return fresh | {"steps": {}, "kind": "", "failed": [], "rows": {}, "said": []}


def load() -> dict:
    """What was found so far; of a damaged file nothing."""
    try:
        return empty() | json.loads((home() / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return empty()


def save(state: dict) -> None:
    """All or nothing."""
    write_atomically(home() / "state.json", json.dumps(state, indent=1).encode())


def note(state: dict, event: dict) -> str:
    """Take up what a step of work has said; returns a line for the screen, or ""."""
    kind = event.pop("event")
    if kind == "about":
        state["about"] |= event
        return ", ".join(f"{name} {value}" for name, value in event.items())
    if kind == "check":
        name = event.pop("name")
        state["checks"][name] = event
        words = {True: "passed", False: "FAILED", None: "left out"}[event["passed"]]
        return f"{words}: {name}, {event['said']}"
    if kind == "steps":
        state["steps"] = event
        return ""
    if kind == "timing":
        mode, what = event["mode"], event["what"]
        state["timing"].setdefault(what, {})[mode] = event["seconds"]
        if event["floor"]:
            state["timing"][what]["floor"] = event["floor"]
        started = state["start"].get(mode, 0) + event["start"]
        state["start"][mode] = round(started, 1)
        return f"{what}, {mode}: {event['seconds']:.4g} s / 1,000 steps"
    if kind == "at":
        known = state["rows"].setdefault(event.pop("row"), {"status": ""})
        where = known["at"] = "{phase} of task {task}, {step} of {total}".format(
            **event
        )
        known["status"] = known["status"] or "begun"
        return where
    if kind == "tested":
        state["rows"].setdefault(event["row"], {"status": ""})["curve"] = event["curve"]
        return f"{event['row']}, so far: {event['curve']}"
    if kind == "row":
        name = event.pop("row")
        state["rows"][name] = event
        return f"{name}: {event['status']}"
    state["said"] = [*state["said"], event["text"]][-20:]
    return event["text"]


def archive(state: dict, table: str) -> None:
    """Write the archive and the table anew, each at once."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in ((TABLE, table), ("state.json", json.dumps(state))):
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
        for file in sorted((home() / "records").glob("*.*")):
            tar.add(file, f"records/{file.name}")
    write_atomically(out() / ARCHIVE, buffer.getvalue())
    write_atomically(out() / TABLE, table.encode())


def restore(path: Path) -> None:
    """On a fresh machine: take up an earlier machine's archive, if there is one.

    What this machine has found itself is left alone. Raises UserError where the archive
    cannot be read.
    """
    if not path.exists() or (home() / "state.json").exists():
        return
    _unpack(path, home())


def _unpack(path: Path, target: Path) -> None:
    try:
        with tarfile.open(path) as tar:
            tar.extractall(target, filter="data")
    except (OSError, tarfile.TarError, EOFError) as problem:
        raise UserError(f"'{path}' is no archive of gpu.sh ({problem}).") from problem


def collect(path: Path, keep: Path) -> list[str]:
    """Bring an archive's records into data/records, and the archive to `keep`.

    Records made where there was no git name no commit; where their code is this
    tree's, they get the tree's. Returns the names. Raises UserError for an archive of
    a rehearsal.
    """
    from gfrlib.engine.source import code_digest
    from gfrlib.lab import origin, seals

    path = path / ARCHIVE if path.is_dir() else path
    place = home() / "collected"
    shutil.rmtree(place, ignore_errors=True)
    _unpack(path, place)
    try:
        dry = json.loads((place / "state.json").read_text(encoding="utf-8"))["dry"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise UserError(
            f"'{path}' is no archive of gpu.sh: it holds no state of a run."
        ) from problem
    if dry:
        raise UserError(f"'{path}' is of a rehearsal; its records are no results.")
    names, target, contents = [], root() / "data" / "records", {}
    for file in sorted((place / "records").glob("*.json")):  # all are checked first
        try:
            contents[file] = json.loads(file.read_text(encoding="utf-8"))
            damaged = seals.is_damaged(contents[file])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            damaged = True
        if damaged:
            raise UserError(f"'{file.name}' in '{path}' is damaged: fetch it again.")
    for file in sorted((place / "records").glob("*.analysis.png")):
        write_atomically(target / file.name, file.read_bytes())
        names.append(file.name)
    for file, content in contents.items():
        about = content.get("provenance", {})
        same = about.get("digest") == code_digest()
        if same and about.get("commit") == "unknown":
            about["commit"] = origin.code_commit()
        write_atomically(target / file.name, seals.sealed(content))
        names.append(file.name)
    keep.mkdir(parents=True, exist_ok=True)
    if path.resolve() != (keep / ARCHIVE).resolve():
        shutil.copyfile(path, keep / ARCHIVE)
    return names


def is_done(state: dict, row: str) -> bool:
    """Whether the row is recorded."""
    return state["rows"].get(row, {}).get("status") == "done"


@dataclasses.dataclass(frozen=True)
class Mode:
    """A way to run the steps on the GPU."""

    name: str
    compiled: bool
    environment: tuple = ()


# `graphs`: the compiler's pieces of the network replayed as CUDA graphs, too
MODES = {
    "eager": Mode("eager", False),
    "compiled": Mode("compiled", True),
    "graphs": Mode("graphs", True, (("TORCHINDUCTOR_CUDAGRAPHS", "1"),)),
}


def projected(state: dict, mode: str) -> float | None:
    """Seconds of the first row by the timings, the start with its compiling included.

    None where too little was timed.
    """
    total = state["start"].get(mode, 0.0)
    for what, steps in state["steps"].items():
        seconds = _seconds(state["timing"], mode, what)
        if seconds is None:
            return None
        total += seconds * steps / 1000
    return total if state["steps"] else None


def _seconds(timing: dict, mode: str, what: str) -> float | None:
    """Of 1,000 steps; a later task's from task 0's ratio, where it was not timed."""
    known = timing.get(what, {})
    if mode in known:
        return known[mode]
    phase = what.split(",")[0]
    if mode == "graphs" and phase == "generator":
        # the GAN's updates are graphs of their own, with or without the network's
        return _seconds(timing, "compiled", what)
    first = timing.get(f"{phase}, task 0", {})
    if {mode, "eager"} <= first.keys() and "eager" in known:
        return known["eager"] * first[mode] / first["eager"]
    return None


# {check: the modes that compute what it looks at}; `{mode}` of one mode alone
NETWORK_CHECK = "the network, {mode} and eager"
GAN_CHECK = "eager and recorded updates of the GAN"


def distrusted(state: dict) -> set[str]:
    """The modes that failed, or of which a check found another result than eager's."""
    wrong = {name for name, row in state["checks"].items() if row["passed"] is False}
    found = {mode for mode in MODES if NETWORK_CHECK.format(mode=mode) in wrong}
    if GAN_CHECK in wrong:
        found |= {mode for mode in MODES if MODES[mode].compiled}
    return found | set(state["failed"])


def fastest(state: dict) -> str:
    """The mode to train in: the fastest by the timings that can be trusted."""
    out = distrusted(state)
    whole = {
        mode: seconds
        for mode in MODES
        if (seconds := projected(state, mode)) is not None and mode not in out
    }
    if whole:
        return min(whole, key=whole.__getitem__)
    untried = [mode for mode in ("compiled", "eager") if mode not in out]
    return "eager" if state["dry"] else (untried or ["eager"])[0]
