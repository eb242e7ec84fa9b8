"""Explorers that work in a rendered page too, without a kernel: every choice is drawn beforehand and linked there.

A control is linked to a `Stack` of ready-made pieces of HTML; controls are nested (one Stack inside another), so that
only choices that exist can be made. Many pictures lie in a style sheet that all pieces share: the page stays small.
"""

import base64
import html
import io
import re
from functools import cached_property

import ipywidgets
import numpy as np
from IPython.display import HTML, display
from PIL import Image

from gfrlib import metrics, networks, replay, tasks
from gfrlib.book.costs import human
from gfrlib.book.looks import TASK_COLORS
from gfrlib.config import Config, UserError, make_config
from gfrlib.lab import datasets

EXEMPLARS = 20  # stored images per class of the exemplar methods that the paper compares with (Section 5.1)
ORDERS = {
    "lucir": "LUCIR's and iCaRL's shuffle",
    "gfr": "the official code's (its inverse)",
    "sorted": "sorted",
    "random": "random",
}
# {base: numbers of tasks after it}; the paper's splits are 50 + 5, 10, 25 tasks and 25 + 3
GRIDS = {
    "digits": {2: (1, 2, 4, 8), 4: (1, 2, 3, 6), 5: (1, 5), 6: (1, 2, 4)},
    "cifar100": {
        10: (9,),
        20: (4, 8, 16),
        25: (3,),
        40: (6, 12, 20),
        50: (1, 2, 5, 10, 25),
    },
}
TITLES = {"digits": "Digits", "cifar100": "CIFAR-100"}
PRESET = {
    "digits": "quick",
    "cifar100": "slim",
}  # with which the chosen split is trained
SIZES_OF = {
    "digits": "quick",
    "cifar100": "paper",
}  # the preset whose network and generator the table weighs
CIFAR100 = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel
streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm"""

STYLE = """
.widget-html, .widget-html-content {min-width: 0}
.gfr-x, .gfr-x td, .gfr-x th {color: var(--pst-color-text-base, inherit); font-size: 14px; line-height: 1.35}
.gfr-x.gfr-picture {margin-top: 6px}
.gfr-x .gfr-task {border-left: 4px solid var(--c); padding: 0 0 0 8px; margin: 0 0 7px}
.gfr-x .gfr-task > b {color: var(--c); display: block}
.gfr-x .gfr-task > span {display: inline-flex; align-items: center; gap: 5px; margin: 0 10px 2px 0; white-space: nowrap}
.gfr-x .gfr-scroll {overflow-x: auto; max-width: 100%; max-height: 26em; overflow-y: auto}
.gfr-x table {border-collapse: collapse; margin: 0; display: table; width: auto}
.gfr-x th, .gfr-x td {padding: 2px 7px; text-align: right; white-space: nowrap; border: 0; background: none}
.gfr-x th {font-weight: 600; border-bottom: 1px solid #76767688; white-space: normal; vertical-align: bottom}
.gfr-x tbody th {border-bottom: 0; white-space: nowrap}
.gfr-x th.gfr-group {text-align: center; border-bottom: 0}
.gfr-x p {margin: 6px 0; max-width: 46em}
"""


RESULTS_STYLE = """
.gfr-x.gfr-results figure {margin: 10px 0 4px; max-width: 340px}
.gfr-x.gfr-results img {width: 100%; image-rendering: pixelated; border: 1px solid #76767666}
.gfr-x.gfr-results figcaption {font-size: 13px; opacity: .8}
"""
STEPS = 6  # of a run that the results explorer shows


PLAIN = ipywidgets.HTML().style if hasattr(ipywidgets.HTML, "style") else None
WIDE = ipywidgets.Layout(
    max_width="100%"
)  # shared: every Layout of its own would cost the page 300 bytes


class TaskSplitExplorer:
    """Choose data set, base, number of tasks and class order; see which classes arrive when, and what a memory weighs.

    Display it, or pass its `config` on: in a live kernel it always is the Config of what is chosen now. `dataset` is
    "digits", "cifar100" (both are then offered) or another packed data set (then it alone); the given split is added to the
    choices if it is not among them. Raises UserError for an unknown class order or data set, or a split that does not divide.
    """

    def __init__(
        self,
        dataset: str = "digits",
        base: int = 4,
        tasks: int = 3,
        class_order: str = "lucir",
        *,
        preset: str | None = None,
        method: str = "gfr",
        seed: int = 0,
    ):
        self.method, self.seed = method, seed
        self.presets = {**PRESET, **({dataset: preset} if preset else {})}
        self._config(dataset, base, tasks, class_order)  # refuses what does not exist
        names = list(TITLES) if dataset in TITLES else [dataset]
        self.views = {
            name: _View(
                name, seed, (base, tasks) if name == dataset else None, class_order
            )
            for name in names
        }
        self.data = _buttons(
            "Data", {TITLES.get(name, name): name for name in names}, dataset
        )
        panes = [view.pane for view in self.views.values()]
        row = [self.data] if len(names) > 1 else []  # a choice of one is none
        self.widget = ipywidgets.VBox([*row, _stack(panes, self.data)], layout=WIDE)

    def _config(self, dataset, base, after, class_order) -> Config:
        count = (
            100 if dataset == "cifar100" else len(datasets.packed(dataset).class_names)
        )
        tasks.task_sizes(count, base, after)
        return make_config(
            self.presets.get(dataset, "quick"),
            self.method,
            dataset=dataset,
            base=base,
            tasks=after,
            class_order=class_order,
            seed=self.seed,
        )

    @property
    def config(self) -> Config:
        """The Config of the present choice: the data set's preset (digits: quick, CIFAR-100: slim) with its split."""
        view = self.views[self.data.value]
        return self._config(view.name, *view.chosen)

    def _ipython_display_(self, **_):
        """The explorer, and for pages without JavaScript the present choice as plain text and pictures."""
        view = self.views[self.data.value]
        base, after, order = view.chosen
        display(
            HTML(
                f"<noscript>{view.style}{view.picture(base, after, order)}{view.table(base, after)}</noscript>"
            )
        )
        display(self.widget)


class _View:
    """One data set's part of the explorer: its controls, and a piece of HTML for every choice."""

    def __init__(self, name: str, seed: int, start: tuple | None, class_order: str):
        self.name, self.seed = name, seed
        here = (
            name != "cifar100" or (datasets.folder() / name / "meta.json").exists()
        )  # never downloads for a picture
        packed = datasets.packed(name) if here else None
        self.class_names = packed.class_names if packed else CIFAR100.split()
        self.pictures, self.sheet = (
            _pictures(name, packed) if packed else ([""] * 100, "")
        )
        self.per_class = (
            len(packed.train_labels) / len(packed.class_names) if packed else 500.0
        )
        self.shape = packed.train_images.shape[1:] if packed else (32, 32, 3)
        count = len(self.class_names)
        half = max(1, count // 2)
        grid = {
            b: set(numbers)
            for b, numbers in GRIDS.get(name, {half: _divisors(count - half)}).items()
        }
        base, after = start or ((50, 5) if name == "cifar100" else (4, 3))
        grid.setdefault(
            base, set() if name in GRIDS else set(_divisors(count - base))
        ).add(after)
        self.order = ipywidgets.Dropdown(
            options=[
                (text + f", seed {seed}" * (name == "random"), name)
                for name, text in ORDERS.items()
            ],
            value=class_order,
            description="Class order",
            style={"description_width": "initial"},
        )
        self.base = _buttons(
            "Classes in task 0", {str(b): b for b in sorted(grid)}, base
        )
        self.after, panes = {}, []
        for b in sorted(grid):
            numbers = sorted(grid[b])
            words = {f"{n} × {(count - b) // max(n, 1)}": n for n in numbers}
            self.after[b] = _buttons(
                "Tasks after it × classes",
                words,
                after if b == base else numbers[len(numbers) // 2],
            )
            leaves = [
                ipywidgets.VBox(
                    [
                        _stack(
                            [_html(self.picture(b, n, o)) for o in ORDERS], self.order
                        ),
                        _html(self.table(b, n)),
                    ],
                    layout=WIDE,
                )
                for n in numbers
            ]
            panes.append(
                ipywidgets.VBox(
                    [self.after[b], _stack(leaves, self.after[b])], layout=WIDE
                )
            )
        self.pane = ipywidgets.VBox(
            [_html(self.style), self.order, self.base, _stack(panes, self.base)],
            layout=WIDE,
        )

    @property
    def chosen(self) -> tuple[int, int, str]:
        """(base, tasks after it, class order)."""
        return self.base.value, self.after[self.base.value].value, self.order.value

    @property
    def style(self) -> str:
        """The style sheet of this view, with its pictures if they are many."""
        return f"<style>{STYLE}{self.sheet}</style>"

    def picture(self, base: int, after: int, order: str) -> str:
        """The classes of every task, in their order of arrival, as pictures with names (or names alone)."""
        sizes = tasks.task_sizes(len(self.class_names), base, after)
        arrival, start, rows = (
            tasks.class_order(order, len(self.class_names), self.seed),
            0,
            [],
        )
        for t, size in enumerate(sizes):
            chips = "".join(
                f"<span>{self.pictures[c]}{html.escape(self.class_names[c].replace('_', ' '))}</span>"
                for c in arrival[start : start + size]
            )
            head = f"Task {t}: {size} new" + (f", {start} old" if start else "")
            color = TASK_COLORS[t % len(TASK_COLORS)]
            rows.append(
                f'<div class="gfr-task" style="--c:{color}"><b>{head}</b>{chips}</div>'
            )
            start += size
        return f'<div class="gfr-x gfr-picture gfr-{_css(self.name)}">{"".join(rows)}</div>'

    def table(self, base: int, after: int) -> str:
        """Per task: old and new classes, and the bytes that each kind of memory carries into it for the old classes."""
        rows, old = [], 0
        for t, new in enumerate(tasks.task_sizes(len(self.class_names), base, after)):
            stored = EXEMPLARS * old
            cells = [
                new,
                old,
                f"{old / new:.3g}",
                f"{100 * stored / (stored + self.per_class * new):.0f} %",
                *(human(weight(old)) for weight in self._weights.values()),
            ]
            shown = "".join(
                f"<td>{cell if t or i == 0 else '–'}</td>"
                for i, cell in enumerate(cells)
            )
            rows.append(f"<tr><th>{t}</th>{shown}</tr>")
            old += new
        heads = "".join(
            f'<th scope="col">{x}</th>'
            for x in ("task", "new", "old", "old:new", "old images*", *self._weights)
        )
        note = (
            f"* the share of old classes among the training images, with {EXEMPLARS} exemplars of each. "
            f"Weighed with images of {' × '.join(map(str, self.shape))} bytes, {self._network.features} features of "
            f"4 bytes, and network, G and D of the preset {self._config.preset} "
            f"(G and D for all {len(self.class_names)} classes)."
        )
        return (
            '<div class="gfr-x gfr-table"><div class="gfr-scroll" tabindex="0" role="region" aria-label="The steps">'
            '<table><thead><tr><th class="gfr-group" colspan="5">classes</th><th class="gfr-group" '
            f'colspan="{len(self._weights)}">memory carried into the task</th></tr><tr>{heads}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div><p>{note}</p></div>"
        )

    @cached_property
    def _config(self) -> Config:
        return make_config(SIZES_OF.get(self.name, "quick"), "gfr")

    @cached_property
    def _network(self) -> networks.Network:
        h, w, c = self.shape
        return networks.build_network(self._config, (c, h, w), 0)

    @cached_property
    def _weights(self) -> dict:
        """{kind of memory: function of the number of old classes -> bytes}, from the real objects."""
        d, image = self._network.features, int(np.prod(self.shape))
        gan = sum(
            replay.build_memory(self._config, len(self.class_names), (d,), 0)
            .nbytes()
            .values()
        )
        network = replay.state_bytes(self._network)
        return {
            f"{EXEMPLARS} exemplars a class": lambda old: EXEMPLARS * image * old,
            "Gaussians, diagonal": lambda old: 4 * 2 * d * old,
            "Gaussians, full": lambda old: 4 * (d + d * d) * old,
            "G and D": lambda old: gan,
            "old network": lambda old: network + 4 * (d + 1) * old,
        }


class ResultsExplorer:
    """Choose a split, a system and a step of recorded runs: accuracy matrix, confusion matrix, best and worst classes.

    runs: {name of the split: {name of the system: Record}}. The first split shows up to `STEPS` steps of each run, the others
    the first, a middle and the last one (the page must stay small). Raises UserError where there is no run.
    """

    def __init__(self, runs: dict):
        if not runs or not all(runs.values()):
            raise UserError(
                "There is no run to explore; pass {split: {system: record}} with at least one record in each."
            )
        self.runs = runs
        self.split = _buttons("Split", {name: name for name in runs}, next(iter(runs)))
        self.system, self.step, panes = {}, {}, []
        for number, (name, systems) in enumerate(runs.items()):
            last = len(next(iter(systems.values())).task_sizes) - 1
            steps = _some_steps(last, STEPS if number == 0 else 3)
            self.system[name] = ipywidgets.Dropdown(
                options=list(systems),
                description="System",
                style={"description_width": "initial"},
            )
            self.step[name] = _buttons("After task", {str(t): t for t in steps}, last)
            leaves = [
                _stack([_html(results_view(record, t)) for t in steps], self.step[name])
                for record in systems.values()
            ]
            controls = [
                c for c in (self.system[name], self.step[name]) if len(c.options) > 1
            ]  # a choice of one is none
            panes.append(
                ipywidgets.VBox(
                    [*controls, _stack(leaves, self.system[name])], layout=WIDE
                )
            )
        row = [self.split] if len(runs) > 1 else []
        self.widget = ipywidgets.VBox(
            [
                _html(f"<style>{STYLE}{RESULTS_STYLE}</style>"),
                *row,
                _stack(panes, self.split),
            ],
            layout=WIDE,
        )

    def _ipython_display_(self, **_):
        """The explorer, and for pages without JavaScript what it shows at first."""
        name = self.split.value
        first = results_view(
            self.runs[name][self.system[name].value], self.step[name].value
        )
        display(
            HTML(f"<noscript><style>{STYLE}{RESULTS_STYLE}</style>{first}</noscript>")
        )
        display(self.widget)


def _some_steps(last: int, most: int) -> list[int]:
    """At most so many of the steps 0 .. last, evenly, the first and the last among them."""
    return sorted({round(x) for x in np.linspace(0, last, min(most, last + 1))})


def results_view(record, t: int) -> str:
    """HTML of a run after task t: accuracy[s, k] up to t, the confusion matrix, the classes that fare best and worst."""
    if record.predictions[t] is None:
        why = f"There is no result after task {t}: this system is trained once, on all data, and has the last row alone."
        return f'<div class="gfr-x"><table><tbody><tr><td>no row</td></tr></tbody></table><p>{why}</p></div>'
    rows = []
    for s in range(t + 1):
        known = [None if np.isnan(a) else 100 * a for a in record.accuracy[s, : s + 1]]
        cells = "".join(
            f"<td style='background:rgba(75,125,240,{a / 140:.2f})'>{a:.0f}</td>"
            if a is not None
            else "<td>–</td>"
            for a in known
        )
        rows.append(f"<tr><th>{s}</th>{cells}</tr>")
    heads = "".join(f'<th scope="col">{k}</th>' for k in range(t + 1))
    classes, labels = int(sum(record.task_sizes[: t + 1])), record.labels(t)
    counts = metrics.confusion(record.predictions[t], labels, classes)
    right = counts.diagonal() / counts.sum(1)
    order = np.argsort(-right, kind="stable")
    names = [
        html.escape(record.class_names[c].replace("_", " ")) for c in range(classes)
    ]
    best, worst = (
        ", ".join(f"{names[c]} {100 * right[c]:.0f} %" for c in some)
        for some in (order[:5], order[::-1][:5])
    )
    alt = (
        f"Confusion matrix after task {t}, {classes} classes in their order of arrival: "
        f"{100 * (right * counts.sum(1)).sum() / counts.sum():.0f} percent of the test images lie on the diagonal."
    )
    return (
        '<div class="gfr-x gfr-results"><div class="gfr-scroll" tabindex="0" role="region" aria-label="Accuracy matrix">'
        '<table><thead><tr><th class="gfr-group"></th>'
        f'<th class="gfr-group" colspan="{t + 1}">accuracy (%) on task</th></tr>'
        f'<tr><th scope="col">after</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f"<figure><img class='dark-light' alt='{alt}' src='{_confusion_address(counts, record.task_sizes[: t + 1])}'>"
        "<figcaption>row: true class, column: answer; lines divide the tasks</figcaption></figure>"
        f"<p><b>Best:</b> {best}.<br><b>Worst:</b> {worst}.</p></div>"
    )


def _confusion_address(counts: np.ndarray, sizes) -> str:
    """The row-normalised confusion matrix as a data address: one blue of 15 strengths on a clear ground, grey task borders."""
    share = counts / counts.sum(1, keepdims=True)
    shade = np.ceil(14 * np.sqrt(share)).astype(
        np.uint8
    )  # the root shows small shares, too
    edges = np.cumsum(sizes)[:-1]
    shade = np.insert(np.insert(shade, edges, 15, axis=0), edges, 15, axis=1)
    picture = Image.fromarray(shade, "P")
    picture.putpalette([75, 125, 240] * 15 + [118, 118, 118])
    buffer = io.BytesIO()
    picture.save(
        buffer,
        "PNG",
        optimize=True,
        bits=4,
        transparency=bytes([*(round(255 * k / 14) for k in range(15)), 120]),
    )
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _html(text: str) -> ipywidgets.HTML:
    return (
        ipywidgets.HTML(text, layout=WIDE, style=PLAIN)
        if PLAIN
        else ipywidgets.HTML(text, layout=WIDE)
    )


def _buttons(description: str, options: dict, value) -> ipywidgets.ToggleButtons:
    """Toggle buttons with a caption; options: {text: value}."""
    return ipywidgets.ToggleButtons(
        options=list(options.items()),
        value=value,
        description=description,
        style={"button_width": "auto", "description_width": "initial"},
    )


def _stack(children: list, control):
    """The child that `control` points at: a Stack linked in the page, or where there is none (ipywidgets 7), a swap."""
    if hasattr(ipywidgets, "Stack"):
        stack = ipywidgets.Stack(children, selected_index=control.index, layout=WIDE)
        ipywidgets.jslink((control, "index"), (stack, "selected_index"))
        return stack
    box = ipywidgets.VBox([children[control.index]])
    control.observe(
        lambda change: setattr(box, "children", [children[change["new"]]]), "index"
    )
    return box


def _css(name: str) -> str:
    """The name with nothing in it that a style sheet would read otherwise."""
    return re.sub(r"\W", "-", name)


def _divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0][:8]


def _pictures(name: str, packed, columns: int = 10) -> tuple[list[str], str]:
    """(a picture of every class as HTML, the rules of a style sheet): three examples of a small image, one of a larger.

    Up to 20 classes each picture stands for itself; more of them lie on one sheet, which the rules show a part of.
    """
    labels, height = packed.train_labels, packed.train_images.shape[1]
    examples, step, show = (
        (3, 1, 26) if height <= 16 else (1, -(-height // 32), 32)
    )  # `show`: pixels high on the page
    strips = []  # [h, examples * w, channels] per class
    for c in range(len(packed.class_names)):
        rows = np.resize(np.flatnonzero(labels == c)[:examples], examples)
        strips.append(
            np.concatenate(
                [np.asarray(packed.train_images[i])[::step, ::step] for i in rows],
                axis=1,
            )
        )
    if len(strips) <= 20:
        alts = [
            html.escape(
                f"{examples} images of {label}"
                if examples > 1
                else f"image of {label}",
                quote=True,
            )
            for label in packed.class_names
        ]
        return [
            f"<img class='dark-light k' alt='{alt}' style='height:{show}px' src='{_address(strip)}'>"
            for alt, strip in zip(alts, strips, strict=True)
        ], ""
    strips += [np.zeros_like(strips[0])] * (-len(strips) % columns)
    lines = [
        np.concatenate(strips[i : i + columns], axis=1)
        for i in range(0, len(strips), columns)
    ]
    width = show * strips[0].shape[1] // strips[0].shape[0]
    name = _css(name)
    rules = [
        f".gfr-{name} .k {{width: {width}px; height: {show}px; background: url({_address(np.concatenate(lines))}) "
        f"0 0 / {width * columns}px auto}}"
    ]
    rules += [
        f".gfr-{name} .k{c} {{background-position: -{c % columns * width}px -{c // columns * show}px}}"
        for c in range(len(packed.class_names))
    ]
    return [
        f"<span class='k k{c}'></span>" for c in range(len(packed.class_names))
    ], "\n".join(rules)


def _address(pixels: np.ndarray) -> str:
    """uint8 [H, W, 1 or 3] as a data address: a grey picture as PNG of 16 shades, a coloured one as WebP."""
    buffer, grey = io.BytesIO(), pixels.shape[-1] == 1
    picture = Image.fromarray(pixels[..., 0] if grey else pixels)
    if grey:
        picture.quantize(16).save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "WEBP", quality=70, method=6)
    return f"data:image/{'png' if grey else 'webp'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
