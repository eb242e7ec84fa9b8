"""Explorers that work in a rendered page too, without a kernel (see `controls`).

`TaskSplitExplorer` stands here, `ResultsExplorer` in `results_explorer`.
"""

import html
from functools import cached_property

import numpy as np
from IPython.display import HTML, display

from gfrlib import networks, replay, tasks
from gfrlib.book import controls
from gfrlib.book.class_pictures import class_pictures
from gfrlib.book.costs import human
from gfrlib.book.looks import TASK_COLORS
from gfrlib.book.results_explorer import ResultsExplorer
from gfrlib.config import Config, UserError, make_config
from gfrlib.lab import datasets, weights
from gfrlib.memory import state_bytes

__all__ = ["ResultsExplorer", "TaskSplitExplorer"]

# stored images per class of the exemplar methods that the paper compares with
EXEMPLARS = 20
ORDERS = {
    "lucir": "LUCIR's shuffle",
    "gfr": "the official code's (its inverse)",
    "sorted": "sorted",
    "random": "random",
}
# {base: numbers of tasks after it}; the paper's splits are 50 + 5, 10, 25 and 25 + 3
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
# the preset with which the chosen split is trained
PRESET = {"digits": "example", "cifar100": "slim"}
# the preset whose network and generator the table weighs
SIZES_OF = {"digits": "example", "cifar100": "paper"}
CIFAR100 = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl
boy bridge bus butterfly camel can castle caterpillar cattle chair chimpanzee clock
cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox
girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man
maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree
pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road
rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip
turtle wardrobe whale willow_tree wolf woman worm"""


class TaskSplitExplorer:
    """Choose data set, base, number of tasks and class order.

    Shown is which classes arrive when, and what a memory weighs. Display it, or pass
    its `config` on: in a live kernel it always is the Config of what is chosen now.
    `dataset` is "digits", "cifar100" (both are then offered) or another packed data set
    (then it alone); the given split is added to the choices if it is not among them.
    Raises UserError for an unknown class order or data set, or a split that does not
    divide. like: a Config whose other settings, such as pretrained weights, the
    choice has, and whose network the table weighs; its data set alone is then offered.
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
        like: Config | None = None,
    ):
        self.method, self.seed, self.like = method, seed, like
        self.presets = {**PRESET, **({dataset: preset} if preset else {})}
        # refuses what does not exist
        first = self._config(dataset, base, tasks, class_order)
        names = list(TITLES) if dataset in TITLES and like is None else [dataset]
        self.views = {}
        for name in names:
            start = (base, tasks) if name == dataset else None
            weighed = make_config(SIZES_OF.get(name, "quick"), "gfr")
            if name == dataset and (preset or like):
                weighed = first
            self.views[name] = _View(name, seed, start, class_order, weighed)
        titles = {TITLES.get(name, name): name for name in names}
        self.data = controls.buttons("Data", titles, dataset)
        panes = [view.pane for view in self.views.values()]
        row = [self.data] if len(names) > 1 else []  # a choice of one is none
        self.widget = controls.column(*row, controls.stack(panes, self.data))

    def _config(self, dataset, base, after, class_order) -> Config:
        own = dict(base=base, tasks=after, class_order=class_order)
        if self.like is not None:
            config = self.like.but(dataset=dataset, **own)
        else:
            preset = self.presets.get(dataset, "quick")
            own |= dict(dataset=dataset, seed=self.seed)
            config = make_config(preset, self.method, **own)
        count = 100
        if dataset != "cifar100":
            count = len(datasets.packed(dataset).class_names)
        tasks.task_sizes(count, base, after)
        return config

    @property
    def config(self) -> Config:
        """The Config of the present choice.

        With the data set's preset: digits example, CIFAR-100 slim.
        """
        if self.data.value is None:
            raise UserError("No data set is chosen; choose one of the explorer's.")
        view = self.views[self.data.value]
        return self._config(view.name, *view.chosen)

    def _ipython_display_(self, **_):
        """The explorer; for pages without JavaScript the present choice."""
        view = self.views[self.data.value]
        base, after, order = view.chosen
        first = view.picture(base, after, order) + view.table(base, after)
        display(HTML(f"<noscript>{view.style}{first}</noscript>"))
        display(self.widget)


class _View:
    """One data set's part: its controls, and a piece of HTML for every choice."""

    def __init__(
        self,
        name: str,
        seed: int,
        start: tuple | None,
        class_order: str,
        weighed: Config,
    ):
        self.name, self.seed, self._config = name, seed, weighed
        # never downloads for a picture
        here = name != "cifar100" or (datasets.folder() / name / "meta.json").exists()
        packed = datasets.packed(name) if here else None
        self.class_names = packed.class_names if packed else CIFAR100.split()
        self.pictures, self.sheet, self.per_class = [""] * 100, "", 500.0
        self.shape, self.arrival = (32, 32, 3), packed.arrival if packed else ()
        if packed:
            self.pictures, self.sheet = class_pictures(name, packed)
            self.per_class = len(packed.train_labels) / len(packed.class_names)
            self.shape = packed.train_images.shape[1:]
        base, after = start or ((50, 5) if name == "cifar100" else (4, 3))
        grid = self._grid(base, after)
        orders = [(text, order) for order, text in ORDERS.items()]
        orders[-1] = (f"{ORDERS['random']}, another each seed (here {seed})", "random")
        self.order = controls.menu("Class order", orders, value=class_order)
        bases = {str(b): b for b in grid}
        self.base = controls.buttons("Classes in task 0", bases, base)
        self.after: dict = {}
        panes = []
        for b, numbers in grid.items():
            middle = after if b == base else numbers[len(numbers) // 2]
            panes.append(self._pane(b, numbers, middle))
        self.base.observe(self._keep_the_number, "value")
        self.pane = controls.column(
            controls.piece(self.style),
            self.order,
            self.base,
            controls.stack(panes, self.base),
        )

    def _keep_the_number(self, change) -> None:
        """In a kernel, another base keeps the number of tasks, or takes the nearest."""
        if change["old"] is None or change["new"] is None:
            return
        before = self.after[change["old"]].value
        offered = [n for _, n in self.after[change["new"]].options]
        if before is not None:
            nearest = min(offered, key=lambda n: (abs(n - before), n))
            self.after[change["new"]].value = nearest

    def _grid(self, base: int, after: int) -> dict[int, list[int]]:
        """{classes in task 0: numbers of tasks after it}, with the given split."""
        count = len(self.class_names)
        some = {max(1, count * k // 4) for k in (1, 2, 3)} | {min(2, count - 1)}
        own = {b: _divisors(count - b) for b in some if 1 <= b < count}
        usual = GRIDS.get(self.name, own)
        grid = {b: set(numbers) for b, numbers in usual.items()}
        others = () if self.name in GRIDS else _divisors(count - base)
        grid.setdefault(base, set(others)).add(after)
        return {b: sorted(grid[b]) for b in sorted(grid)}

    def _pane(self, base: int, numbers: list[int], chosen: int):
        """The choices of one base: for each number of tasks its pictures and table."""
        rest = len(self.class_names) - base
        words = {f"{n} × {rest // max(n, 1)}": n for n in numbers}
        self.after[base] = controls.buttons("Tasks after it × classes", words, chosen)
        leaves = []
        for n in numbers:
            pictures = [controls.piece(self.picture(base, n, o)) for o in ORDERS]
            table = controls.piece(self.table(base, n))
            leaves.append(controls.column(controls.stack(pictures, self.order), table))
        return controls.column(
            self.after[base], controls.stack(leaves, self.after[base])
        )

    @property
    def chosen(self) -> tuple[int, int, str]:
        """(base, tasks after it, class order)."""
        return self.base.value, self.after[self.base.value].value, self.order.value

    @property
    def style(self) -> str:
        """The style sheet of this view, with its pictures if they are many."""
        return f"<style>{controls.STYLE}{self.sheet}</style>"

    def picture(self, base: int, after: int, order: str) -> str:
        """The classes of every task, in their order of arrival, with names."""
        count, start, rows = len(self.class_names), 0, []
        own = order == "gfr" and self.arrival  # as the stream has it
        arrival = self.arrival if own else tasks.class_order(order, count, self.seed)
        for t, size in enumerate(tasks.task_sizes(count, base, after)):
            chips = "".join(self._chip(c) for c in arrival[start : start + size])
            head = f"Task {t}: {size} new" + (f", {start} old" if start else "")
            color = TASK_COLORS[t % len(TASK_COLORS)]
            rows.append(
                f'<div class="gfr-task" style="--c:{color}"><b>{head}</b>{chips}</div>'
            )
            start += size
        kind = f"gfr-x gfr-picture gfr-{controls.css_name(self.name)}"
        told = f"<p>{self._told(base, after, order, size, count)}</p>"
        return f'<div class="{kind}">{"".join(rows)}{told}</div>'

    def _told(self, base: int, after: int, order: str, newest: int, count: int) -> str:
        """What a network has that knows the newest task alone; the split as words."""
        asked = f"-p base {base} -p tasks {after}"
        if self.name in TITLES:  # a folder's chapter has no such parameter
            asked += f" -p class_order {order}"
        return (
            f"The floor: {100 * newest / count:.0f} % for a network that knows the "
            f"newest task alone. The same split in other chapters: <code>{asked}</code>"
        )

    def _chip(self, c: int) -> str:
        name = html.escape(self.class_names[c].replace("_", " "))
        return f"<span>{self.pictures[c]}{name}</span>"

    def table(self, base: int, after: int) -> str:
        """Per task: old and new classes, and the bytes that each kind of memory weighs.

        That is what is carried into the task for the old classes.
        """
        rows, old = [], 0
        for t, new in enumerate(tasks.task_sizes(len(self.class_names), base, after)):
            stored = EXEMPLARS * old
            images = 100 * stored / (stored + self.per_class * new)
            cells = [new, old, f"{old / new:.3g}", f"{images:.0f} %"]
            cells += [human(weight(old)) for weight in self._weights.values()]
            shown = cells if t else [new, *"–" * (len(cells) - 1)]
            row = "".join(f"<td>{cell}</td>" for cell in shown)
            rows.append(f"<tr>{controls.row_head(t)}{row}</tr>")
            old += new
        names = ("task", "new", "old", "old:new", "old images*", *self._weights)
        table = (
            '<table><thead><tr><th class="gfr-group" scope="colgroup" colspan="5">'
            'classes</th><th class="gfr-group" scope="colgroup" '
            f'colspan="{len(self._weights)}">'
            "memory carried into the task</th></tr>"
            f"<tr>{controls.heads(names)}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table>"
        )
        scrolled = controls.scrolled(f"The steps of {base} + {after} tasks", table)
        return f'<div class="gfr-x gfr-table">{scrolled}<p>{self._note}</p></div>'

    @property
    def _note(self) -> str:
        return (
            "* the share of old classes among the training images, with "
            f"{EXEMPLARS} exemplars of each. Weighed with images of "
            f"{' × '.join(map(str, self.shape))} bytes, {self._network.features} "
            "features of 4 bytes, and network, G and D of the preset "
            f"{self._config.preset} (G and D for all {len(self.class_names)} classes)."
        )

    @cached_property
    def _network(self) -> networks.Network:
        h, w, c = self.shape
        stem = ""
        if self._config.weights:
            pretrained = weights.load(self._config.weights)
            c, stem = pretrained.channels, pretrained.stem
        return networks.build_network(self._config, (c, h, w), 0, stem=stem)

    @cached_property
    def _weights(self) -> dict:
        """{kind of memory: function of the number of old classes -> bytes}.

        Of G, D and the network from the real objects; the others are formulas.
        """
        d, image = self._network.features, int(np.prod(self.shape))
        own = self._config
        with_gan = make_config(own.preset, "gfr", bottleneck=own.bottleneck)
        memory = replay.build_memory(with_gan, len(self.class_names), (d,), 0)
        gan = sum(memory.nbytes().values())
        network = state_bytes(self._network)
        return {
            f"{EXEMPLARS} exemplars a class": lambda old: EXEMPLARS * image * old,
            "Gaussians, diagonal": lambda old: 4 * 2 * d * old,
            "Gaussians, full": lambda old: 4 * (d + d * d) * old,
            "G and D": lambda old: gan,
            "old network": lambda old: network + 4 * (d + 1) * old,
        }


def _divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0][:8]
