"""Explorers show what there is: in a kernel, in a page without one, as plain HTML."""

import json
import re
import socket

import ipywidgets
import numpy as np
import pytest
from conftest import ROOT
from ipywidgets.embed import dependency_state, embed_data, embed_minimal_html

from gfrlib import networks, replay, tasks
from gfrlib.book import results_explorer, widgets
from gfrlib.book.class_pictures import class_pictures
from gfrlib.book.costs import human
from gfrlib.book.widgets import TaskSplitExplorer
from gfrlib.config import UserError, make_config
from gfrlib.lab import datasets
from gfrlib.memory import state_bytes


@pytest.fixture(scope="module")
def explorer():
    return TaskSplitExplorer()


def shown(widget) -> list[str]:
    """The HTML that a reader sees: of every Stack only the chosen child."""
    if isinstance(widget, ipywidgets.HTML):
        return [widget.value]
    children = getattr(widget, "children", ())
    if isinstance(widget, getattr(ipywidgets, "Stack", ())):
        children = [children[widget.selected_index]]
    return [text for child in children for text in shown(child)]


def stacks(widget) -> list:
    below = [s for child in getattr(widget, "children", ()) for s in stacks(child)]
    return [widget, *below] if isinstance(widget, ipywidgets.Stack) else below


def cells(table: str) -> list[list[str]]:
    """The rows of a table's body as text."""
    body = table[table.index("<tbody>") :]
    return [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
        for row in re.findall(r"<tr>(.*?)</tr>", body)
    ]


def words(picture: str) -> list[list[str]]:
    """Class names of every task of a picture."""
    return [
        re.findall(r"<span>(?:<[^>]*>(?:</span>)?)?([^<]+)</span>", task)
        for task in picture.split("gfr-task")[1:]
    ]


def test_the_config_follows_the_controls(explorer):
    start = explorer.config
    assert start == make_config("example", "gfr", dataset="digits", base=4, tasks=3)
    view = explorer.views["digits"]
    view.base.value, view.order.value = 5, "sorted"
    view.after[5].value = 1
    assert (
        explorer.config.base,
        explorer.config.tasks,
        explorer.config.class_order,
    ) == (5, 1, "sorted")
    explorer.data.value = "cifar100"
    assert (explorer.config.dataset, explorer.config.preset, explorer.config.base) == (
        "cifar100",
        "slim",
        50,
    )
    explorer.data.value, view.base.value, view.order.value = "digits", 4, "lucir"
    view.after[4].value = 3  # it was 1, as with base 5
    assert explorer.config == start


def test_method_preset_and_seed_are_the_callers():
    config = TaskSplitExplorer(
        "cifar100", 20, 8, "random", preset="paper", method="lwf", seed=7
    ).config
    assert config == make_config(
        "paper",
        "lwf",
        dataset="cifar100",
        base=20,
        tasks=8,
        class_order="random",
        seed=7,
    )


def test_the_start_is_shown_even_if_it_is_no_usual_choice():
    odd = TaskSplitExplorer("digits", 3, 7)
    assert odd.config.base == 3 and odd.config.tasks == 7
    assert (
        words(shown(odd.widget)[1])[0] == ["4", "2", "7"]
        and len(cells(shown(odd.widget)[2])) == 8
    )


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(base=4, tasks=4), "do not divide"),
        (dict(base=11), "has 10"),
        (dict(class_order="mine"), "class_order"),
        (dict(dataset="birds"), "no data set"),
        (dict(dataset=None), "'dataset' must be text"),
        (dict(base="4"), "'base' must be a whole number"),
        (dict(base=None), "'base' must be a whole number"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_sentence(wrong, words):
    with pytest.raises(UserError, match=words):
        TaskSplitExplorer(**wrong)


def test_every_choice_that_is_offered_exists(explorer):
    for view in explorer.views.values():
        count = len(view.class_names)
        for _, base in view.base.options:
            for text, after in view.after[base].options:
                sizes = tasks.task_sizes(count, base, after)
                assert text == f"{after} × {sizes[1]}" and sum(sizes) == count


def test_pictures_hold_every_class_once_in_the_order_of_arrival(explorer):
    for name, view in explorer.views.items():
        for order in widgets.ORDERS:
            base, after = (4, 3) if name == "digits" else (50, 5)
            found = words(view.picture(base, after, order))
            assert tuple(map(len, found)) == tasks.task_sizes(
                len(view.class_names), base, after
            )
            expected = [
                view.class_names[c].replace("_", " ")
                for c in tasks.class_order(order, len(view.class_names))
            ]
            assert sum(found, []) == expected
    assert (
        len(set(widgets.CIFAR100.split())) == 100
        and sorted(widgets.CIFAR100.split()) == widgets.CIFAR100.split()
    )
    # the first class of LUCIR's order is label 68
    assert (
        words(explorer.views["cifar100"].picture(50, 5, "lucir"))[0][0]
        == widgets.CIFAR100.split()[68]
        == "road"
    )


def test_every_picture_has_words(explorer):
    picture = explorer.views["digits"].picture(4, 3, "lucir")
    alts = re.findall(
        r"<img [^>]*alt='([^']+)'[^>]*src='data:image/png;base64,[^']{50,}'", picture
    )
    assert (
        alts == [f"3 images of {c}" for c in (4, 2, 7, 6, 0, 3, 5, 8, 9, 1)]
        and picture.count("<img") == 10
    )


def test_the_table_counts_and_weighs(explorer):
    rows = cells(explorer.views["digits"].table(4, 3))
    assert [row[:4] for row in rows] == [
        ["0", "4", "–", "–"],
        ["1", "2", "4", "2"],
        ["2", "2", "6", "3"],
        ["3", "2", "8", "4"],
    ]
    d = networks.build_network(make_config("example"), (1, 8, 8), 0).features
    # for 8 classes: 20 images of 8 x 8 bytes; mean and deviation of d features; d and
    # d x d numbers of 4 bytes
    assert rows[3][5:8] == ["10 KiB", human(8 * 2 * d * 4), human(8 * (d + d * d) * 4)]
    big = cells(explorer.views["cifar100"].table(50, 10))[-1]
    # G and D as Table 1 of the paper has them (4.5)
    assert big[:4] == ["10", "5", "95", "19"] and big[8] == "4.79 MiB"
    # 1,000 images of 32 x 32 x 3
    assert cells(explorer.views["cifar100"].table(50, 1))[1][5] == "2.93 MiB"


def test_the_table_weighs_the_real_objects(explorer):
    view, config = explorer.views["digits"], make_config("example", "gfr")
    network = networks.build_network(config, (1, 8, 8), 0)
    network.head.grow(6, 0)
    assert view._weights["old network"](6) == state_bytes(network)
    gaussians = replay.Gaussians(6, network.features)
    gaussians.counts += 1
    assert view._weights["Gaussians, diagonal"](6) == sum(gaussians.nbytes().values())
    full = replay.Gaussians(6, network.features, "full")
    full.counts += 1
    assert view._weights["Gaussians, full"](6) == sum(full.nbytes().values())


def test_the_choice_has_the_settings_of_another_run():
    """Its bytes are of the network that the next cells train."""
    like = make_config("slim", "gfr-squared", dataset="digits", base=4, tasks=3, seed=2)
    explorer = TaskSplitExplorer("digits", 4, 2, like=like)
    assert explorer.config == like.but(tasks=2) and [*explorer.views] == ["digits"]
    view = explorer.views["digits"]
    network = networks.build_network(like, (1, 8, 8), 0)
    network.head.grow(6, 0)
    assert view._weights["old network"](6) == state_bytes(network)
    named = TaskSplitExplorer("cifar100", 50, 5, preset="slim").views["cifar100"]
    assert "128 features" in named.table(50, 5) and "preset slim" in named.table(50, 5)
    explorer.data.value = None
    with pytest.raises(UserError, match="No data set is chosen"):
        explorer.config  # noqa: B018


def test_another_base_keeps_the_number_of_tasks(explorer):
    view = TaskSplitExplorer().views["digits"]
    view.after[4].value = 6
    view.base.value = 2
    assert view.after[2].value in (4, 8)
    view.base.value = 4
    assert view.after[4].value in (3, 6)
    view.after[4].value = 2
    view.base.value = 6
    assert view.after[6].value == 2


def test_each_choice_tells_its_floor_and_how_to_ask_for_it(explorer):
    picture = explorer.views["digits"].picture(4, 3, "sorted")
    assert "The floor: 20 %" in picture
    assert "<code>-p base 4 -p tasks 3 -p class_order sorted</code>" in picture


def test_it_needs_no_kernel():
    """Every Stack is linked to one control, shows its choice, has a child an option."""
    explorer = TaskSplitExplorer("digits", 5, 5, "sorted")
    state = embed_data(
        views=[explorer.widget], state=dependency_state(explorer.widget)
    )["manager_state"]
    assert len(json.dumps(state)) < 1_000_000
    models, found = state["state"], stacks(explorer.widget)
    sources = {}
    for model in models.values():
        if model["model_name"] == "LinkModel":
            (source, what), (target, index) = (
                model["state"]["source"],
                model["state"]["target"],
            )
            assert (what, index) == ("index", "selected_index")
            sources[target.removeprefix("IPY_MODEL_")] = source.removeprefix(
                "IPY_MODEL_"
            )
    assert set(sources) == {stack.model_id for stack in found}
    for stack in found:
        control = models[sources[stack.model_id]]["state"]
        assert len(stack.children) == len(control["_options_labels"])
        assert stack.selected_index == control["index"]


def test_it_is_readable_without_javascript(explorer, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(widgets, "display", seen.append)
    explorer._ipython_display_()
    static, live = seen
    assert live is explorer.widget
    inside = re.fullmatch(r"<noscript>(.*)</noscript>", static.data, flags=re.S)[1]
    assert (
        "Task 3: 2 new, 8 old" in inside
        and "<table>" in inside
        and "<script" not in inside
    )


def test_colab_has_no_stack(monkeypatch):
    """ipywidgets 7.7: the same explorer, its children swapped by the kernel."""
    monkeypatch.delattr(ipywidgets, "Stack", raising=False)
    old = TaskSplitExplorer("digits", 5, 5, "sorted")
    first = shown(old.widget)
    assert len(first) == 3 and words(first[1])[0] == list("01234")
    view = old.views["digits"]
    view.base.value = 4
    assert shown(old.widget) != first and old.config.base == 4
    view.after[4].value, view.order.value = 1, "lucir"
    assert words(shown(old.widget)[1])[1] == list("035891")
    old.data.value = "cifar100"
    assert len(words(shown(old.widget)[1])) == 6 and old.config.dataset == "cifar100"


def test_names_serve_where_cifar_is_not_on_disk(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise AssertionError("asked the network")

    monkeypatch.setattr(datasets, "folder", lambda: tmp_path)
    monkeypatch.setattr(socket, "create_connection", no_network)
    plain = TaskSplitExplorer("cifar100", 50, 10)
    style, picture, table = shown(plain.widget)
    assert (
        "<img" not in picture and "url(" not in style and words(picture)[0][0] == "road"
    )
    assert cells(table)[1][4] == "29 %"  # 50 x 20 exemplars beside 5 x 500 images


def test_pictures_of_many_classes_share_one_sheet(tmp_path, monkeypatch):
    rng = np.random.RandomState(0)
    labels = np.repeat(np.arange(100), 5)
    packed = datasets.Packed(
        "cifar100",
        rng.randint(0, 256, (500, 32, 32, 3)).astype(np.uint8),
        labels,
        None,
        None,
        widgets.CIFAR100.split(),
    )
    pictures, rules = class_pictures("cifar100", packed)
    assert rules.count("url(") == 1 and "data:image/webp" in rules
    assert (
        pictures[68] == "<span class='k k68'></span>"
        and ".k68 {background-position: -256px -192px}" in rules
    )


def test_a_data_set_of_the_readers_own_stands_alone(monkeypatch):
    rng = np.random.RandomState(0)
    own = datasets.Packed(
        "my birds.v2",
        rng.randint(0, 256, (60, 64, 64, 3)).astype(np.uint8),
        np.repeat(np.arange(6), 10),
        None,
        None,
        ["<owl>", "b", "c", "d", "e", "f"],
    )
    monkeypatch.setattr(datasets, "packed", lambda name: own)
    explorer = TaskSplitExplorer("my birds.v2", 2, 2, "sorted")
    assert (
        list(explorer.views) == ["my birds.v2"]
        and explorer.config.dataset == "my birds.v2"
    )
    picture = shown(explorer.widget)[1]
    assert (
        "gfr-my-birds-v2" in picture
        and "alt='image of &lt;owl&gt;'" in picture
        and picture.count("data:image/webp") == 6
    )


@pytest.mark.browser
def test_it_switches_in_a_page_without_a_kernel(explorer, browser_window, tmp_path):
    from site_server import open_page, served

    script = ROOT / "build/vendor/widgets/embed.js"
    if not script.is_file():
        pytest.skip("needs the page script that `make book` brings from npm")
    (tmp_path / "embed.js").write_bytes(script.read_bytes())
    (tmp_path / "favicon.ico").write_bytes(b"")  # the browser asks for it
    embed_minimal_html(
        tmp_path / "index.html",
        views=[explorer.widget],
        state=dependency_state(explorer.widget),
        requirejs=False,
        embed_url="embed.js",
    )
    with served(tmp_path) as address:
        page, faults = open_page(browser_window, address, width=390)
        page.locator(".gfr-table >> visible=true").wait_for()

        def seen():
            pieces = [
                page.locator(f".gfr-{part} >> visible=true")
                for part in ("picture", "table")
            ]
            assert [piece.count() for piece in pieces] == [1, 1]
            return [piece.inner_text() for piece in pieces]

        def press(name):
            page.get_by_role("button", name=name, exact=True).locator(
                "visible=true"
            ).click()
            page.wait_for_timeout(150)
            return seen()

        start = seen()
        assert (
            start[0].startswith("Task 0: 4 new") and "Task 3: 2 new, 8 old" in start[0]
        )
        finer = press("6 × 1")
        assert "Task 6: 1 new, 9 old" in finer[0] and finer[1] != start[1]
        assert press("5")[0].startswith("Task 0: 5 new")
        page.locator("select >> visible=true").select_option(label="sorted")
        page.wait_for_timeout(150)
        assert re.findall(r"^\d$", seen()[0], flags=re.M) == list("0123456789")
        assert "road" in press("CIFAR-100")[0] and "4.79 MiB" in press("25 × 2")[1]
        press("Digits")
        page.locator("select >> visible=true").select_option(index=0)
        press("4")
        assert press("3 × 2") == start
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert not faults
        page.close()


# The results explorer -----------------------------------------------------------------


def run_of(method: str, sizes=(3, 2, 2), seed: int = 0, only_last: bool = False):
    """A record with random predictions, half of them right."""
    from gfrlib.lab.records import Record

    rng, edges, counts = np.random.default_rng(seed), np.cumsum(sizes), 10
    rows = []
    for edge in edges:
        truth = np.repeat(np.arange(edge), counts)
        rows.append(
            np.where(
                rng.random(len(truth)) < 0.5, truth, rng.integers(0, edge, len(truth))
            )
        )
    rows = [
        None if only_last and t < len(sizes) - 1 else row for t, row in enumerate(rows)
    ]
    names = [f"kind_{c}" for c in range(edges[-1])]
    return Record(
        config=make_config("quick", method, split=list(sizes)),
        class_names=names,
        task_sizes=list(sizes),
        test_counts=[counts] * int(edges[-1]),
        predictions=rows,
        rules={},
        losses=[],
        seconds=[],
        bytes_kept=[],
        weights="",
        provenance={},
    )


@pytest.fixture(scope="module")
def results():
    return widgets.ResultsExplorer(
        {
            "3 + 2 x 2": {
                "GFR": run_of("gfr"),
                "LwF": run_of("lwf", seed=1),
                "Joint": run_of("joint", only_last=True),
            },
            "3 + 4": {"GFR": run_of("gfr", (3, 4), seed=2)},
        }
    )


def test_a_view_holds_the_matrix_up_to_its_step(results):
    record = results.runs["3 + 2 x 2"]["LwF"]
    view = results_explorer.results_view(record, 1)
    rows = cells(view)
    assert [row[0] for row in rows] == ["0", "1"] and [len(row) for row in rows] == [
        2,
        3,
    ]
    assert rows[1][1:] == [f"{100 * a:.0f}" for a in record.accuracy[1, :2]]
    right = 100 * np.mean(record.predictions[1] == record.labels(1))
    assert f"{right:.0f} percent of the test images lie on the diagonal" in view


def test_the_results_explorer_starts_at_the_last_step_and_holds_every_view(results):
    runs = results.runs["3 + 2 x 2"]
    # no fine-tuning among them: the first other one stands beside the method
    both = [results_explorer.results_view(runs[name], 2) for name in ("GFR", "LwF")]
    assert shown(results.widget)[1:-1] == both
    views = {
        child.model_id: child.value
        for stack in stacks(results.widget)
        for child in stack.children
        if isinstance(child, ipywidgets.HTML)
    }
    # systems x steps of each split; the two sides share them
    assert len(views) == 3 * 3 + 2 and len(set(views.values())) == 3 * 3 + 2
    controls = [results.split, *results.system.values(), *results.step.values()]
    assert {len(c.options) for c in controls[1:]} == {3, 1, 2} and len(
        results.split.options
    ) == 2


def test_the_method_stands_beside_fine_tuning_and_either_side_changes():
    runs = {m: run_of(m, seed=k) for k, m in enumerate(("lwf", "finetune", "gfr"))}
    explorer = widgets.ResultsExplorer({"a split": runs})
    views = {m: results_explorer.results_view(run, 2) for m, run in runs.items()}
    assert shown(explorer.widget)[1:3] == [views["gfr"], views["finetune"]]
    explorer.beside["a split"].value = "lwf"
    # what the page's link does: the second Stack of Stacks follows its menu
    outer = [
        s
        for s in stacks(explorer.widget)
        if isinstance(s.children[0], ipywidgets.Stack)
    ]
    outer[1].selected_index = explorer.beside["a split"].index
    assert shown(explorer.widget)[1:3] == [views["gfr"], views["lwf"]]
    assert results_explorer.first_two({"one": runs["lwf"]}) == ("one", "one")


def test_classes_are_named_in_the_order_of_the_matrices():
    record = run_of("gfr", (2, 2))
    record.class_names[3] = "b<c"
    text = results_explorer.class_names(record)
    assert "<b>Task 0:</b> kind 0, kind 1</p>" in text
    assert "<b>Task 1:</b> kind 2, b&lt;c</p>" in text
    record.predictions[1] = np.repeat([0, 1, 2, 0], 10)
    view = results_explorer.results_view(record, 1)
    assert "from the left: kind 0, kind 1, kind 2, b&lt;c; the darker" in view
    assert "<b>75.0 % after task 1</b>" in view and "seed 0, float32" in view
    assert "Commonest mistakes:</b> b&lt;c taken for kind 0 100 %.<" in view


def test_a_row_that_does_not_exist_is_said(results):
    assert "no result after task 0" in results_explorer.results_view(
        results.runs["3 + 2 x 2"]["Joint"], 0
    )


def test_the_confusion_picture_holds_the_counts():
    import base64
    import io

    from PIL import Image

    counts = np.array([[10, 0, 0], [0, 5, 5], [10, 0, 0]])
    address = results_explorer.confusion_address(counts, (2, 1))
    picture = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))
    assert picture.size == (4, 4)  # three classes and one border
    alpha = np.asarray(picture.convert("RGBA"))[..., 3]
    kept = [0, 1, 3]
    np.testing.assert_array_equal(alpha[np.ix_(kept, kept)] > 0, counts > 0)
    assert alpha[0, 0] == 255 and 0 < alpha[1, 1] < 255 and (alpha[2] == 120).all()


def test_best_and_worst_classes_are_named():
    record = run_of("gfr", (2, 2))
    record.predictions[1] = np.repeat([0, 1, 2, 0], 10)  # class 3 is never right
    view = results_explorer.results_view(record, 1)
    assert (
        "kind 3 0 %" in view.split("Worst:")[1]
        and "kind 0 100 %" in view.split("Best:")[1].split("Worst:")[0]
    )


def test_long_runs_show_some_steps_and_always_the_ends():
    assert results_explorer.some_steps(5, 6) == [
        0,
        1,
        2,
        3,
        4,
        5,
    ] and results_explorer.some_steps(25, 6) == [0, 5, 10, 15, 20, 25]
    assert results_explorer.some_steps(3, 3) in (
        [0, 2, 3],
        [0, 1, 3],
    ) and results_explorer.some_steps(0, 6) == [0]


def test_nothing_to_explore_is_refused():
    with pytest.raises(UserError, match="no run to explore"):
        widgets.ResultsExplorer({})


def test_the_results_explorer_is_small_and_needs_no_kernel():
    """Eleven systems of 100 classes, as on a page, and two more splits of 26 tasks."""
    systems = {f"system {k}": run_of("gfr", (50, *[10] * 5), seed=k) for k in range(11)}
    many = {f"system {k}": run_of("gfr", (50, *[2] * 25), seed=k) for k in range(11)}
    explorer = widgets.ResultsExplorer({"a": systems, "b": many, "c": many})
    state = embed_data(
        views=[explorer.widget], state=dependency_state([explorer.widget])
    )
    assert len(json.dumps(state)) < 1_500_000
    assert "jslink" not in json.dumps(state) and "LinkModel" in json.dumps(state)
