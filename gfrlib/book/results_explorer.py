"""An explorer of recorded runs, two systems side by side.

Of each: accuracy matrix, confusion matrix, the classes that fare best and worst, and
what is taken for what.
"""

import html
import io

import numpy as np
from IPython.display import HTML, display
from PIL import Image

from gfrlib.book import accuracy, controls, looks
from gfrlib.config import UserError

STYLE = """
.gfr-x.gfr-results figure {margin: 10px 0 4px; max-width: 340px}
.gfr-x.gfr-results img {
  width: 100%; image-rendering: pixelated; border: 1px solid #76767666}
.gfr-x.gfr-results figcaption {font-size: 13px; opacity: .8}
.gfr-x.gfr-names summary {cursor: pointer; margin: 4px 0}
"""
STEPS = 6  # of a run that the explorer shows
FIRST = ("gfr", "finetune")  # the rows that stand side by side at first


class ResultsExplorer:
    """Choose a split, two systems and a step of recorded runs.

    Shown are, side by side, the accuracy matrix, the confusion matrix, the classes that
    fare best and worst, and the commonest mistakes; below, the classes of every task.
    The method and fine-tuning stand there at first, where both are among the systems.
    runs: {name of the split: {name of the system: Record}}. The first split
    shows up to `STEPS` steps of each run, the others the first, a middle and the last
    one (the page must stay small). Raises UserError where there is no run.
    """

    def __init__(self, runs: dict):
        if not runs or not all(runs.values()):
            raise UserError(
                "There is no run to explore; pass {split: {system: record}} "
                "with at least one record in each."
            )
        self.runs = runs
        names = {name: name for name in runs}
        self.split = controls.buttons("Split", names, next(iter(runs)))
        self.system, self.beside, self.step, panes = {}, {}, {}, []
        for number, (name, systems) in enumerate(runs.items()):
            panes.append(self._pane(name, systems, STEPS if number == 0 else 3))
        row = [self.split] if len(runs) > 1 else []
        sheet = controls.piece(f"<style>{controls.STYLE}{STYLE}</style>")
        self.widget = controls.column(sheet, *row, controls.stack(panes, self.split))

    def _pane(self, name: str, systems: dict, most: int):
        """The controls of one split, and views of two systems after every step.

        A view of a system is one widget, whichever of the two shows it.
        """
        steps = some_steps(len(next(iter(systems.values())).task_sizes) - 1, most)
        labels, (first, second) = list(systems), first_two(systems)
        self.system[name] = controls.menu("System", labels, value=first)
        self.beside[name] = controls.menu("Beside it", labels, value=second)
        step = {str(t): t for t in steps}
        self.step[name] = controls.buttons("After task", step, steps[-1])
        leaves = []
        for record in systems.values():
            views = [controls.piece(results_view(record, t)) for t in steps]
            leaves.append(controls.stack(views, self.step[name]))
        # a choice of one is none
        menus = [self.system[name], self.beside[name]] if len(labels) > 1 else []
        sides = [(m, controls.stack(leaves, m)) for m in menus] or [leaves]
        above = [self.step[name]] if len(steps) > 1 else []
        names = controls.piece(class_names(next(iter(systems.values()))))
        return controls.column(*above, controls.side_by_side(*sides), names)

    def _ipython_display_(self, **_):
        """The explorer, and for pages without JavaScript what it shows at first."""
        name = self.split.value
        labels = dict.fromkeys((self.system[name].value, self.beside[name].value))
        records = {label: self.runs[name][label] for label in labels}
        first = "".join(
            f"<p><b>{html.escape(label)}</b></p>"
            + results_view(record, self.step[name].value)
            for label, record in records.items()
        )
        sheet = f"<style>{controls.STYLE}{STYLE}</style>"
        display(HTML(f"<noscript>{sheet}{first}</noscript>"))
        display(self.widget)


def first_two(systems: dict) -> tuple[str, str]:
    """The labels of the method and of fine-tuning; the first others where they lack."""
    rows = {record.config.method: label for label, record in systems.items()}
    labels = list(systems)
    first = rows.get(FIRST[0], labels[0])
    others = [label for label in labels if label != first] or [first]
    second = rows.get(FIRST[1])
    return first, second if second in others else others[0]


def class_names(record) -> str:
    """HTML that names the classes of every task, in their order in the matrices."""
    rows, start = [], 0
    for t, size in enumerate(record.task_sizes):
        names = record.class_names[start : start + size]
        shown = ", ".join(html.escape(name.replace("_", " ")) for name in names)
        rows.append(f"<p><b>Task {t}:</b> {shown}</p>")
        start += size
    return (
        '<div class="gfr-x gfr-names"><details><summary>The classes, in the order of '
        f"rows and columns</summary>{''.join(rows)}</details></div>"
    )


def some_steps(last: int, most: int) -> list[int]:
    """At most so many of the steps 0 .. last, evenly, with the first and the last."""
    return sorted({round(x) for x in np.linspace(0, last, min(most, last + 1))})


def results_view(record, t: int) -> str:
    """HTML of a run after task t: accuracies, confusion matrix, best and worst."""
    if record.predictions[t] is None:
        return (
            '<div class="gfr-x"><table><tbody><tr><td>no row</td></tr></tbody></table>'
            f"<p>There is no result after task {t}: this system is trained once, on "
            "all data, and has the last row alone.</p></div>"
        )
    classes = int(sum(record.task_sizes[: t + 1]))
    counts = accuracy.seen_and_called(record, t, classes)
    right = counts.diagonal() / counts.sum(1)
    on_diagonal = 100 * (right * counts.sum(1)).sum() / counts.sum()
    alt = (
        f"Confusion matrix after task {t}, {classes} classes in their order of "
        f"arrival: {on_diagonal:.0f} percent of the test images lie on the diagonal."
    )
    config = record.config
    label = looks.look(config.method)["label"]
    ends = (
        f"<p><b>{100 * record.curve[t]:.1f} % after task {t}</b>, each class counting "
        f"alike (seed {config.seed}, {config.precision}).</p>"
    )
    picture = confusion_address(counts, record.task_sizes[: t + 1])
    order = np.argsort(-right, kind="stable")
    best, worst = (
        _named(record.class_names, right, some) for some in (order[:5], order[::-1][:5])
    )
    name = html.escape(f"Accuracy matrix of {label} after task {t}", quote=True)
    table = ends + controls.scrolled(name, _accuracy_table(record, t))
    return (
        f'<div class="gfr-x gfr-results">{table}'
        f"<figure><img class='dark-light' alt='{alt}' src='{picture}'><figcaption>"
        "row: true class, column: answer; lines divide the tasks; from above and from "
        f"the left: {_ends(record.class_names, classes)}; the darker, the more often "
        "(by the root of the share)</figcaption></figure>"
        f"<p><b>Best:</b> {best}.<br><b>Worst:</b> {worst}.<br>"
        f"<b>Commonest mistakes:</b> {_mistakes(record.class_names, counts)}.</p></div>"
    )


def _mistakes(names: list, counts: np.ndarray, most: int = 3) -> str:
    """The pairs of true class and wrong answer that are commonest."""
    share = 100 * counts / counts.sum(1, keepdims=True)
    np.fill_diagonal(share, 0)
    shown = []
    for at in np.argsort(-share, axis=None, kind="stable")[:most]:
        true, answer = np.unravel_index(at, share.shape)
        if share[true, answer]:
            pair = [html.escape(names[c].replace("_", " ")) for c in (true, answer)]
            shown.append(f"{' taken for '.join(pair)} {share[true, answer]:.0f} %")
    return ", ".join(shown) or "none"


def _ends(names: list, classes: int) -> str:
    """The first and the last of so many classes, or all of them if they are few."""
    shown = [html.escape(name.replace("_", " ")) for name in names[:classes]]
    few = classes <= 12
    return ", ".join(shown) if few else f"{', '.join(shown[:3])}, … {shown[-1]}"


def _named(names: list, right: np.ndarray, classes) -> str:
    """Classes with the share of their test images that is answered rightly."""
    shown = {c: html.escape(names[c].replace("_", " ")) for c in classes}
    return ", ".join(f"{shown[c]} {100 * right[c]:.0f} %" for c in classes)


def _accuracy_table(record, t: int) -> str:
    rows = []
    for s in range(t + 1):
        cells = "".join(_accuracy_cell(a) for a in record.accuracy[s, : s + 1])
        rows.append(f"<tr>{controls.row_head(s)}{cells}</tr>")
    return (
        '<table><thead><tr><td class="gfr-group"></td>'
        f'<th class="gfr-group" scope="colgroup" colspan="{t + 1}">'
        "accuracy (%) on task</th></tr>"
        f"<tr>{controls.heads(('after', *range(t + 1)))}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _accuracy_cell(accuracy: float) -> str:
    if np.isnan(accuracy):
        return "<td>–</td>"
    strength = 100 * accuracy / 170  # text on the strongest stays readable
    colour = f"rgba(75,125,240,{strength:.2f})"
    return f"<td style='background:{colour}'>{100 * accuracy:.0f}</td>"


def confusion_address(counts: np.ndarray, sizes) -> str:
    """The row-normalised confusion matrix as a data address.

    One blue of 15 strengths on a clear ground, with grey borders of the tasks.
    """
    share = counts / counts.sum(1, keepdims=True)
    # the root shows small shares, too
    shade = np.ceil(14 * np.sqrt(share)).astype(np.uint8)
    edges = np.cumsum(sizes)[:-1]
    shade = np.insert(np.insert(shade, edges, 15, axis=0), edges, 15, axis=1)
    picture = Image.fromarray(shade, "P")
    picture.putpalette([75, 125, 240] * 15 + [118, 118, 118])
    strengths = bytes([*(round(255 * k / 14) for k in range(15)), 120])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, bits=4, transparency=strengths)
    return controls.address(buffer.getvalue(), "png")
