"""What stands beside a figure: where its numbers are from, tables, sentences, commands.

See `looks` for what `records` are.
"""

import datetime
import html
import inspect
import re
import shlex
import string
import textwrap
import urllib.parse

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure

from gfrlib import metrics
from gfrlib.book import claims, looks, results
from gfrlib.book.costs import human as human
from gfrlib.config import PRESETS
from gfrlib.engine.store import root
from gfrlib.engine.values import counted as counted
from gfrlib.lab import grids, naming

# Code and commands --------------------------------------------------------------------


def source(*things) -> Markdown:
    """The library's own code of functions or classes, as it runs."""
    code = [textwrap.dedent(inspect.getsource(thing)) for thing in things]
    return Markdown("\n\n".join(f"```python\n{text}```" for text in code))


def command(config) -> str:
    """The command that makes the record of `config`.

    It names the preset, the closest row, and all fields that differ from that row, but
    for the device and its threads (naming.row_of).
    """
    method, changes = naming.row_of(config)
    words = [f"python -m gfrlib run --preset {config.preset} --method {method}"]
    for name, value in changes.items():
        text = shlex.quote(naming.as_text(value))
        words.append(f"--{name.replace('_', '-')} {text}")
    return " ".join(words)


def grid_files() -> dict[str, str]:
    """{digest of a run's settings: the file in `grids/` that makes it}."""
    found: dict = {}
    for path in sorted((root() / "grids").glob("*.yaml")):
        for config in grids.read(path):
            found.setdefault(config.digest(), f"grids/{path.name}")
    return found


def made_by(configs) -> list[str]:
    """Commands that make the runs: those of grid files, in the order of the runs, and
    where some are in no file the command of the first, and a comment for the others.
    """
    files, configs = grid_files(), list(configs)
    made = dict.fromkeys(files.get(config.digest()) for config in configs)
    lines = [f"python -m gfrlib grid {name}" for name in made if name]
    alone = [config for config in configs if config.digest() not in files]
    if alone:
        lines.append(command(alone[0]))
    if len(alone) > 1:
        lines.append(f"# and {counted(len(alone) - 1, 'run')} like it")
    return lines


def not_run(missing: list, configs=()) -> Markdown:
    """What a figure lacks, by methods' names or labels, with what makes these Configs
    (`made_by`).
    """
    if not missing:
        return Markdown("Every row that belongs here has a run.")
    names = "; ".join(dict.fromkeys(label(m) for m in missing))
    text = f"**Not run yet:** {names}."
    if lines := made_by(configs):
        text += (
            " What is missing can be run, and goes on where it was interrupted:\n\n"
            "```\n" + "\n".join(lines) + "\n```"
        )
    return Markdown(text)


# Sentences and tables -----------------------------------------------------------------

NONE = "–"  # stands where a number is missing


def images(preset: str) -> str:
    """What a preset's runs are of, in words: 'digits' or 'CIFAR-100'."""
    return {"cifar100": "CIFAR-100"}.get(name := PRESETS[preset]["dataset"], name)


def label(name: str) -> str:
    """What a method is called in figures and tables; another name is its own label."""
    return looks.look(name)["label"]


def say(template: str, otherwise: str | None = None, **numbers) -> Markdown:
    """A sentence whose numbers come from results.

    `say("GFR reaches {gfr}; a step takes {ms:.0f} ms.", gfr=records, ms=ms)`. Records
    become their final class-weighted accuracy in percent, with the standard deviation
    over seeds if there are several; a list of numbers its mean and deviation; anything
    else is formatted as the template says. otherwise: what is said where a number is
    missing (not given, an empty list, NaN or NONE), as when a run is not recorded.
    """
    if otherwise is not None and not _complete(template, numbers):
        return Markdown(otherwise)
    return Markdown(template.format(**{k: _word(x) for k, x in numbers.items()}))


NOT_RECORDED = "The runs that answer this question are not recorded here."


def found(template: str, otherwise: str = NOT_RECORDED, **numbers) -> Markdown:
    """The box on top of a chapter: what was found, as in `say`.

    A quotation, so that it is a box in the rendered book and reads well in Jupyter and
    Colab, which know no directives.
    """
    text = say(template, otherwise, **numbers).data
    lines = f"**What we found.** {text}".splitlines()
    return Markdown("\n".join(f"> {line}".rstrip() for line in lines))


def _complete(template: str, numbers: dict) -> bool:
    """Whether every number of a template is there."""
    fields = [field for _, field, _, _ in string.Formatter().parse(template) if field]
    names = [re.split(r"[.\[]", field)[0] for field in fields]
    return not any(
        v is None
        or (isinstance(v, str) and v == NONE)
        or (not isinstance(v, str) and hasattr(v, "__len__") and not len(v))
        or (isinstance(v, float) and np.isnan(v))
        for v in map(numbers.get, names)
    )


def _word(x):
    several = list(x) if isinstance(x, (list, tuple, np.ndarray)) else [x]
    if several and hasattr(several[0], "task_sizes"):
        return f"{claims.mean_and_spread(results.last(several))} %"
    return x if several and several[0] is x else claims.mean_and_spread(several)


def spread(values) -> str:
    """'41.2 ± 0.8' for a table: mean and deviation over seeds; "–" for none."""
    values = np.asarray(values, dtype=float)
    return claims.mean_and_spread(values[~np.isnan(values)])


def table(rows, digits: int = 1):
    """Rows (dicts) or a DataFrame as a table without an index; floats with `digits`.

    Texts are shown as they stand, such as a class called <b>. Without rows: a sentence
    that says so.
    """
    frame = pd.DataFrame(rows)
    if frame.empty:
        return Markdown("No table: no run of it is recorded.")
    shown = frame.style.format(precision=digits, escape="html")
    return shown.format_index(escape="html", axis="columns").hide(axis="index")


def apart(first, second) -> str:
    """'2.3 points below', of the means of two groups of values; 'level with' where both
    are the same to a tenth; NONE for none.

    With '(one seed)' or '(open)' where seeds do not decide.
    """
    gap = claims.difference(first, second)
    if np.isnan(gap):
        return NONE
    higher = (first, second) if gap >= 0 else (second, first)
    word = claims.verdict(*higher, "above")
    notes = {claims.ONE_SEED: " (one seed)", claims.UNDECIDED: " (open)"}
    note = notes.get(word, "")
    if f"{abs(gap):.1f}" == "0.0":
        return f"level{note} with"
    return f"{abs(gap):.1f} points{note} {'above' if gap >= 0 else 'below'}"


def between(first, second, of=None) -> str:
    """`apart` of the last accuracies of two rows of runs; where one row has a single
    seed, that seed of the other one stands beside it. of: as `results.matched` takes.
    """
    return apart(*results.matched(first, second, of))


def ranking(found: dict) -> str:
    """'FeCAM 51.0; Rebalance 49.1': rows of runs by last accuracy, the best first."""
    ends = {row: float(np.mean(results.last(runs))) for row, runs in found.items()}
    best_first = sorted(ends, key=ends.get, reverse=True)
    return "; ".join(f"{label(row)}\u00a0{ends[row]:.1f}" for row in best_first)


def seeds_of(found: dict) -> str:
    """'2 seeds', or '1 to 3 seeds' where rows of runs differ; 'no seed' for none."""
    counts = sorted({len(runs) for runs in found.values()})
    if counts in ([], [1]):
        return "one seed" if counts else "no seed"
    ends = dict.fromkeys((counts[0], counts[-1]))
    return f"{' to '.join(map(str, ends))} seeds"


def by_seeds(found: dict) -> str:
    """'3 seeds: GFR, GAN. One seed: EWC; MAS': rows of runs by how many they are."""
    counts: dict = {}
    for row, runs in found.items():
        counts.setdefault(len(runs), []).append(label(row))
    groups = (
        f"{seeds_of({'': range(count)})}: {'; '.join(counts[count])}"
        for count in sorted(counts, reverse=True)
    )
    return ". ".join(group[0].upper() + group[1:] for group in groups)


def summary(records, **columns) -> pd.DataFrame:
    """One row a method: seeds, accuracy of task 0 and last, average, forgetting, bytes.

    In percent, mean and standard deviation over seeds. The bytes are what is carried
    into the last task, a copy of the old network included. columns: {name: a function
    of a method's name} for further columns, which stand after the system's name.
    """
    return pd.DataFrame(
        {
            "system": how["label"],
            **{column: of(name) for column, of in columns.items()},
            "seeds": len(runs),
            "task 0": spread(results.after(runs, 0)),
            "last": spread(results.last(runs)),
            "average incremental": spread(results.average(runs)),
            "forgetting": spread(results.forgotten(runs)),
            "carried into the last task": NONE
            if runs[0].config.memory == "real"  # it is trained once, on all images
            else human(results.carried(runs[0])),
        }
        for name, runs, how in looks.groups(records)
    )


def beside(records, printed: dict, **columns) -> list[dict]:
    """Rows for `table`: accuracies after each task, the paper's above ours.

    Class-weighted, in percent. printed: {row: percents that the paper prints, after
    task 0, 1, ...}; a row that is not among the records stands with those alone.
    columns: {name: a function of a row's runs} for further columns of ours.
    """
    groups = {name: runs for name, runs, _ in looks.groups(records)}
    rows = []
    for name in dict.fromkeys([*groups, *printed]):
        if name in printed:
            numbers = {
                f"after task {t}": f"{v:.1f}" for t, v in enumerate(printed[name])
            }
            dashes = dict.fromkeys(columns, "–")
            rows.append({"system": label(name), "from": "paper", **numbers, **dashes})
        for runs in [groups[name]] if name in groups else []:
            times = range(len(runs[0].task_sizes))
            numbers = {f"after task {t}": spread(results.after(runs, t)) for t in times}
            more = {column: of(runs) for column, of in columns.items()}
            preset = runs[0].config.preset
            rows.append({"system": label(name), "from": preset, **numbers, **more})
    return rows


def curves(records) -> pd.DataFrame:
    """One row per record and task, fractions of 1: the curves, and accuracy[t, k].

    The latter stands in the columns task_0, task_1, ...
    """
    rows = [
        {
            "label": name,
            "preset": r.config.preset,
            "seed": r.config.seed,
            "after_task": t,
            "classes_seen": sum(r.task_sizes[: t + 1]),
            "class_weighted": r.curve[t],
            "mean_over_tasks": metrics.mean_over_tasks(r.accuracy)[t],
            "forgetting": metrics.forgetting(r.accuracy, r.task_sizes)[t],
            **{f"task_{k}": r.accuracy[t, k] for k in range(t + 1)},
        }
        for name, runs, _ in looks.groups(records)
        for r in runs
        for t in range(len(r.task_sizes))
    ]
    return pd.DataFrame(rows).round(5)


# Where numbers are from ---------------------------------------------------------------


def show(
    what,
    records=None,
    data=None,
    *,
    name: str = "figure",
    note: str = "",
    when: str = "",
) -> None:
    """Display a figure or a table, and below it where its numbers are from.

    `show(figures.accuracy_curves(found), found, name="figure-5")`. what: Axes, a
    Figure, or anything that a notebook displays; None, as of a figure of no records, is
    shown as a sentence. The rest is as in `provenance`.
    """
    if what is None:
        display(Markdown("No figure: no run that belongs into it is recorded."))
        return
    figure = getattr(what, "figure", what)
    if isinstance(figure, Figure):
        looks.style()
        display(figure)
        plt.close(figure)  # else the notebook shows it once more at the cell's end
    else:
        display(what)
    if records or data is not None:
        display(provenance(records, data, name=name, note=note, when=when))


def csv(records=None, data=None) -> str:
    """`data` (DataFrame, columns, or list of rows) as CSV, else `curves(records)`."""
    frame = curves(records) if data is None else pd.DataFrame(data)
    return frame.to_csv(index=False, lineterminator="\n")


def provenance(
    records=None, data=None, *, name: str = "figure", note: str = "", when: str = ""
) -> HTML:
    """The line under a figure: what made it, when, where, by which code.

    Folded in it are the commands and the data as CSV. records: those that are shown;
    data: what is offered instead of their curves (see `csv`), a must without records;
    name: the CSV's file name without its ending; note: one more phrase for the line;
    when: how and when data without records were made, if not now.
    """
    runs = [r for _, group, _ in looks.groups(records or {}) for r in group]
    now = when or f"Computed now, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    line = _origin(runs, records) if runs else [now]
    what = "Accuracies of these runs" if data is None else "Data of this figure"
    summary = html.escape(" · ".join([*line, note] if note else line))
    commands = html.escape("\n".join(dict.fromkeys(command(r.config) for r in runs)))
    text = urllib.parse.quote(csv(records, data), safe=",.-_ ")
    shown = f'<pre style="white-space:pre-wrap">{commands}</pre>' if runs else ""
    return HTML(
        '<details class="gfr-provenance" style="font-size:.85em">'
        f"<summary>{summary}</summary>{shown}"
        f'<a href="data:text/csv;charset=utf-8,{text}" '
        f'download="{html.escape(name)}.csv">{what} (CSV)</a></details>'
    )


# rows that a provenance line names as its figure does; of more, or where they are
# told apart by values, it names the methods
FEW = 8


def _origin(runs: list, records) -> list[str]:
    """The phrases of a provenance line: how and when, systems, preset, seeds, ..."""
    made = [r.provenance for r in runs]
    dates = sorted({p["date"][:10] for p in made})
    when = dates[0] + (f" to {dates[-1]}" if len(dates) > 1 else "")
    # semicolons: names like "GFR, GAN" hold a comma
    rows = dict.fromkeys(how["label"] for *_, how in looks.groups(records))
    methods = dict.fromkeys(label(r.config.method) for r in runs)
    named = len(rows) <= FEW and all(isinstance(row, str) for row in rows)
    systems = "; ".join(rows if named else methods)
    seeds = sorted({r.config.seed for r in runs})
    seed_word = "seed" if len(seeds) == 1 else "seeds"
    return [
        f"{_how({r.status for r in runs})}, {when}",
        systems,
        f"preset {', '.join(sorted({r.config.preset for r in runs}))}",
        f"{seed_word} {', '.join(map(str, seeds))}",
        "; ".join(sorted({_machine(p) for p in made})),
        f"code {', '.join(sorted({_commit(p) for p in made}))}",
    ]


def _how(status: set) -> str:
    if status == {"computed now"}:
        return "Computed now"
    if status <= {"computed now", "loaded"}:
        return "Computed earlier by this code"
    return "Recorded"


def _machine(made: dict) -> str:
    threads = "1 thread" if made["threads"] == 1 else f"{made['threads']} threads"
    precision = made.get("precision", "float32")
    parts = [made["device"], threads, *([precision] if precision != "float32" else [])]
    return ", ".join(parts)


def _commit(made: dict) -> str:
    changed = "+changes" if made["commit"].endswith("+changes") else ""
    return made["commit"][:8] + changed
