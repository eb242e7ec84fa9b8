"""The table at the end, whatever happened."""

from benchmarks.gpu.state import MODES, PLANNED, is_done, projected

LITERATURE = (78.0, 71.3, 69.0, 65.1)  # a user's run of the official code, GFR-IL#1
TASKS = 11


def text(state: dict, why: str = "") -> str:
    """All that is known, as lines of at most 88 columns; `why` the part ended."""
    about = ", ".join(f"{value}" for value in state["about"].values()) or "not started"
    title = "The GPU quarter of an hour"
    title += ", rehearsal on a CPU with a cut schedule" if state["dry"] else ""
    lines = [title, f"    on {about}", ""]
    lines += [*_checks(state), "", *_timing(state), "", *_accuracy(state), ""]
    lines += [*_seconds(state), "", *_rest(state, why)]
    return "\n".join(lines) + "\n"


def _checks(state: dict) -> list[str]:
    found = state["checks"]
    counts = {word: 0 for word in (True, False, None)}
    for row in found.values():
        counts[row["passed"]] += 1
    passed, failed, out = counts[True], counts[False], counts[None]
    lines = [f"Checks: {passed} passed, {failed} failed, {out} left out"]
    for name, row in found.items():
        word = {True: "passed", False: "FAILED", None: "left out"}[row["passed"]]
        lines.append(f"    {word:<9}{name}: {row['said']}"[:88])
    return lines


def _timing(state: dict) -> list[str]:
    if not state["timing"]:
        return ["Seconds per 1,000 steps: not timed"]
    heads = "".join(f"{name:>10}" for name in (*MODES, "floor", "distance"))
    lines = [f"{'Seconds per 1,000 steps':<30}{heads}"]
    for what, known in state["timing"].items():
        best = min(known[mode] for mode in MODES if mode in known)
        least = known.get("floor")
        cells = [_cell(known.get(name)) for name in (*MODES, "floor")]
        cells.append(f"{best / least:.1f}x" if least else "-")
        lines.append(f"    {what:<26}" + "".join(f"{cell:>10}" for cell in cells))
    whole = [f"{_cell(projected(state, mode)):>10}" for mode in MODES]
    lines.append(f"    {'gfr, 5 tasks, projected s':<26}{''.join(whole)}")
    if state["kind"]:
        lines.append(f"    trained: {state['kind']}")
    lines += [f"    {mode} failed" for mode in state["failed"]]
    return lines


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _accuracy(state: dict) -> list[str]:
    lines = ["Class-weighted accuracy after each task, in percent"]
    lines.append(_shares("official, 50 + 10 x 5", LITERATURE))
    for name in PLANNED:
        row = state["rows"].get(name, {})
        if is_done(state, name):
            lines.append(_shares(name, row["curve"]))
        else:
            where = f", {row['at']}" if row.get("at") else ""
            lines.append(f"    {name:<24}{row.get('status') or 'not begun'}{where}")
            if row.get("curve"):
                lines.append(_shares("    so far", row["curve"]))
    return lines


def _shares(name: str, shares) -> str:
    cells = "".join(f"{share:>5.1f}" for share in shares[:TASKS])
    return f"    {name:<24}{cells}"


def _seconds(state: dict) -> list[str]:
    """Of each kind of phase, with the floor by the timings of its steps."""
    done = {n: row for n, row in state["rows"].items() if is_done(state, n)}
    if not done:
        return ["Seconds of phases: no row is done"]
    heads = "".join(f"{h:>12}" for h in ("task 0", "each later", "floor", "distance"))
    lines = [f"{'Seconds of phases':<34}{heads}"]
    for name, row in done.items():
        lines += [_phase(state, name, row, phase) for phase in _phases(row)]
        lines.append(f"    {f'{name}, whole run':<30}{row['wall']:>12.1f}")
    return lines


def _phases(row: dict) -> list[str]:
    return list(dict.fromkeys(part["phase"] for part in row["seconds"]))


def _phase(state: dict, name: str, row: dict, phase: str) -> str:
    first, later, least = 0.0, [], 0.0
    for part in (p for p in row["seconds"] if p["phase"] == phase):
        what = f"{phase}, {'later' if part['task'] else 'task 0'}"
        floor = state["timing"].get(what, {}).get("floor")
        # the timed steps are those of gfr
        least = least + floor * part["steps"] / 1000 if floor else least
        if part["task"]:
            later.append(part["seconds"])
        else:
            first = part["seconds"]
    mean = sum(later) / len(later) if later else 0.0
    own = name.startswith("gfr") and "gaussian" not in name and least
    cells = [f"{first:.1f}", f"{mean:.1f}" if later else "-"]
    whole = first + sum(later)
    cells += [f"{least:.1f}", f"{whole / least:.1f}x"] if own else ["-", "-"]
    label = f"{name}, {phase}"
    return f"    {label:<30}" + "".join(f"{cell:>12}" for cell in cells)


def _rest(state: dict, why: str) -> list[str]:
    lines = [f"Ended: {why}"] if why else []
    lines += [f"    {said}"[:300] for said in state["said"][-4:]]
    left = [name for name in PLANNED if not is_done(state, name)]
    dry = " --dry" if state["dry"] else ""
    if not state["checks"]:
        lines.append(f"Left: checks and timings, bash grids/gpu.sh check{dry}")
    if not left:
        return [*lines, "Left: nothing, all rows are recorded"]
    lines.append(f"Left: {', '.join(left)}")
    lines.append(f"It goes on with: bash grids/gpu.sh train{dry}")
    return lines
