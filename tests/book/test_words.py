"""Words beside figures: commands that make the same run, lines that tell the truth."""

import csv as csv_reader
import html
import io
import re
import shlex
import urllib.parse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from fakes import fake

from gfrlib import losses, replay
from gfrlib.book import figures, results, words
from gfrlib.config import from_text, make_config


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.mark.parametrize(
    "config",
    [
        make_config("quick", "gfr"),
        make_config("slim", "lwf", penalty_weight=5.0, seed=2),
        make_config("slim", "gfr", split=[25, 25, 25, 25]),
        make_config("quick", "finetune", penalty="features", cut=3),
        make_config(
            "quick", "gfr", old_task_weighting=False, dataset="my images", device="cpu"
        ),
    ],
)
def test_the_command_makes_the_same_config(config):
    """Of a reader's own images the split is always said: `run` would divide anew."""
    given_words = shlex.split(words.command(config))
    assert given_words[:4] == ["python", "-m", "gfrlib", "run"]
    given = dict(
        zip(
            (w[2:].replace("-", "_") for w in given_words[4::2]),
            given_words[5::2],
            strict=True,
        )
    )
    preset, method = given.pop("preset"), given.pop("method")
    again = make_config(
        preset, method, **{k: from_text(k, v) for k, v in given.items()}
    )
    assert again.identity() == config.identity()


def test_provenance_says_how_when_where_and_carries_the_data():
    runs = [fake("gfr", 0), fake("gfr", 1), fake("joint")]
    shown = words.provenance(runs, name="curves").data
    line = html.unescape(re.search("<summary>(.*?)</summary>", shown)[1])
    for part in (
        "Computed now, 2026-11-20",
        "GFR, GAN; Joint training",
        "preset quick",
        "seeds 0, 1",
        "A <chip>",
        "2 threads",
        "code 01234567",
    ):
        assert part in line, part
    assert (
        "python -m gfrlib run --preset quick --method gfr --seed 1" in shown
        and 'download="curves.csv"' in shown
    )
    address = html.unescape(
        re.search('href="data:text/csv;charset=utf-8,(.*?)"', shown)[1]
    )
    rows = list(csv_reader.DictReader(io.StringIO(urllib.parse.unquote(address))))
    assert (
        len(rows) == 12
        and rows[1]["class_weighted"] == "0.8"
        and rows[1]["task_1"] == "0.6"
    )
    assert rows[-1]["label"] == "joint" and rows[-2]["class_weighted"] == ""


def test_data_without_records_may_say_when_they_were_made():
    assert (
        "Recorded, code abc"
        in words.provenance(data=[{}], when="Recorded, code abc").data
    )
    assert "Computed now" in words.provenance(data=[{}]).data


def test_provenance_tells_recorded_from_computed():
    assert "Recorded, " in words.provenance(fake(status="recorded with code abc")).data
    assert (
        "Computed earlier by this code"
        in words.provenance([fake(), fake(seed=1, status="loaded")]).data
    )
    alone = words.provenance(data={"x": [1, 2], "y": [3, 4]}, note="a <note>").data
    assert (
        "Computed now" in alone
        and "a &lt;note&gt;" in alone
        and "x,y%0A1,3" in alone
        and "<pre" not in alone
    )


def test_numbers_in_prose_come_from_results():
    said = words.say(
        "{gfr}, {one}, {steps:,} steps, {many}, {word}",
        gfr=[fake("gfr", 0), fake("gfr", 1, shift=0.1)],
        one=fake(),
        steps=12000,
        many=[1.0, 3.0],
        word="done",
    )
    assert (
        said.data
        == "47.0\u00a0±\u00a07.1 %, 52.0 %, 12,000 steps, 2.0\u00a0±\u00a01.4, done"
    )


def test_what_was_found_is_one_quotation_with_its_numbers():
    text = words.found("One {a:.1f}.\n\nTwo {b}.", a=1.25, b=[1.0, 3.0]).data
    assert text == "> **What we found.** One 1.2.\n>\n> Two 2.0\u00a0±\u00a01.4."


def test_a_sentence_without_its_number_is_another_sentence():
    gone = ({}, {"a": []}, {"a": float("nan")}, {"a": None}, {"a": words.spread([])})
    for missing in gone:
        assert words.say("It is {a}.", "Not run.", **missing).data == "Not run."
        assert words.NOT_RECORDED in words.found("It is {a}.", **missing).data
    assert words.say("It is {a:.1f}.", "Not run.", a=0.0).data == "It is 0.0."
    assert words.say("It is {a}.", "Not run.", a=[1.0, 3.0]).data.startswith("It is 2")
    assert words.say("It {a}{b[x]}.", "Not run.", a="", b={"x": 1}).data == "It 1."


def test_what_is_not_run_is_named_with_its_command():
    """The grid that holds the runs; one run that no grid holds, and their number."""
    table = [
        make_config("slim", m, base=25, tasks=3, precision="bf16")
        for m in ("lwf", "mergan", "lwf")
    ]
    said = words.not_run(["lwf", "mine"], table).data
    assert "LwF; mine" in said
    assert said.endswith("```\npython -m gfrlib grid grids/table-2.yaml\n```")
    odd = [make_config("slim", "lwf", width=17, seed=s) for s in range(3)]
    lines = words.made_by([*odd, *table])
    assert lines == [
        "python -m gfrlib grid grids/table-2.yaml",
        words.command(odd[0]),
        "# and 2 runs like it",
    ]
    assert words.made_by(odd[:1]) == [words.command(odd[0])]
    assert words.not_run(["mine"]).data == "**Not run yet:** mine."
    assert "has a run" in words.not_run([]).data


def test_provenance_names_half_precision():
    record = fake()
    assert "bf16" not in words.provenance(record).data
    record.provenance["precision"] = "bf16"
    assert "A &lt;chip&gt;, 2 threads, bf16" in words.provenance(record).data


@pytest.mark.parametrize(
    "count, text",
    [
        (0, "0 B"),
        (512, "512 B"),
        (1280, "1.25 KiB"),
        (999 * 1024, "999 KiB"),
        (1023 * 1024, "0.999 MiB"),
        (4.79 * 2**20, "4.79 MiB"),
        (3 * 2**40, "3.07e+03 GiB"),
    ],
)
def test_bytes_for_people(count, text):
    assert words.human(count) == text


def test_names_that_hold_a_comma_do_not_read_as_two_systems():
    line = words.provenance([fake("gfr"), fake("joint"), fake("finetune")]).data
    assert "GFR, GAN; Joint training; Fine-tuning" in line


def test_show_draws_and_signs(monkeypatch):
    shown = []
    monkeypatch.setattr(words, "display", shown.append)
    ax = figures.accuracy_curves(fake())
    words.show(ax, fake(), name="curves")
    assert shown[0] is ax.figure and 'download="curves.csv"' in shown[1].data
    assert not plt.get_fignums(), "the notebook would show the figure twice"
    table = pd.DataFrame({"a": [1]})
    words.show(table, data=table, note="counted")
    assert shown[2] is table and "counted" in shown[3].data


def test_source_is_the_librarys_own():
    shown = words.source(losses.classification, losses.critic).data
    assert shown.count("```python") == 2
    assert "def classification(" in shown and "def critic(" in shown
    method = words.source(replay.Gaussians.sample).data
    assert method.startswith("```python\ndef sample("), "at the margin"


def test_seeds_of_rows_that_differ():
    assert words.seeds_of({}) == "no seed"
    assert words.seeds_of({"a": [1], "b": [2]}) == "one seed"
    assert words.seeds_of({"a": [1, 2], "b": [3, 4]}) == "2 seeds"
    assert words.seeds_of({"a": [1, 2, 3], "b": [3], "c": [1, 2]}) == "1 to 3 seeds"


def test_rows_by_their_seeds():
    found = {"gfr": [1, 2, 3], "ewc": [1], "mas": [1]}
    assert words.by_seeds(found) == "3 seeds: GFR, GAN. One seed: EWC; MAS"
    assert words.by_seeds({}) == ""


def test_spread_for_tables():
    assert words.spread([40.0, 42.0]) == "41.0\u00a0±\u00a01.4"
    assert words.spread([]) == words.spread([float("nan")]) == "–"


def test_a_table_without_rows_says_so():
    assert "no run" in words.table([]).data
    assert "1.23" in words.table([{"a": 1.2345}], digits=2).to_html()


def test_a_table_shows_texts_as_they_stand():
    page = words.table([{"image of": "<b>cat</b>", "a & b": 1}]).to_html()
    assert "&lt;b&gt;cat&lt;/b&gt;" in page and "<b>" not in page
    assert "a &amp; b" in page and "image of" in page


def test_the_summary_has_a_row_a_method():
    carried, last = {"generator": 2**20}, {"generator": 2**22}  # none is carried on
    kept = {"bytes_kept": [{}, {}, carried, last]}
    runs = [
        fake("gfr", **kept),
        fake("gfr", 1, shift=0.1, **kept),
        fake("joint", **kept),
    ]
    found = words.summary(runs, league=lambda method: method.upper())
    assert found["system"].tolist() == ["GFR, GAN", "Joint training"]
    assert found["league"].tolist() == ["GFR", "JOINT"]
    assert found["last"].tolist() == ["47.0\u00a0±\u00a07.1", "97.6"]
    assert found["task 0"].tolist()[1] == found["forgetting"].tolist()[1] == "–"
    # joint training is trained once, on all images: nothing is carried
    assert found["carried into the last task"].tolist() == ["1 MiB", words.NONE]


def test_starts_and_leads_are_of_the_same_seeds():
    """One side has a single seed: that of the other one stands beside it."""
    ours, other = [fake("gfr", 0), fake("gfr", 1, shift=0.2)], [fake("gfr", 1)]
    for of in (results.begun, results.last):
        pair = results.matched(ours, other, of)
        assert pair == (of(ours[1:]), of(other))
        assert words.between(ours, other, of) == words.apart(*pair)
    assert results.matched(ours, other) == results.matched(ours, other, results.last)
    [gain] = results.gained(other)
    assert gain == results.last(other)[0] - results.begun(other)[0]


def test_a_line_names_the_rows_of_its_figure():
    """Of few rows their own names; of many, or without names, the methods."""
    few = {"one memory": [fake("gfr")], "another": [fake("gfr", 1)]}
    shown = words.provenance(few).data
    assert "one memory; another" in shown and "GFR, GAN" not in shown
    many = {f"row {k}": [fake("gfr", k)] for k in range(words.FEW + 1)}
    assert "GFR, GAN" in words.provenance(many).data
    by_value = words.provenance({("mse", 1.0): [fake("gfr")]}).data
    assert "GFR, GAN" in by_value and "mse" not in by_value.partition("</summary>")[0]
    assert "Accuracies of these runs (CSV)" in shown
    assert "Data of this figure (CSV)" in words.provenance(few, {"a": [1]}).data


def test_words_for_a_gap_and_an_order():
    assert words.apart([50, 52], [48.7]) == "2.3 points (one seed) above"
    assert words.apart([48.7], [50, 52]) == "2.3 points (one seed) below"
    assert words.apart([50, 52], [48, 50.2]) == "1.9 points (open) above"
    assert words.apart([48, 50.2], [50, 52]) == "1.9 points (open) below"
    assert words.apart([50, 52], [50, 52.02]) == "level (open) with"
    assert words.apart([50, 50.2], [40, 40.2]) == "10.0 points above"
    assert words.apart([], [50]) == "–"
    found = {"finetune": [fake("finetune")], "joint": [fake("joint")]}
    assert words.ranking(found) == "Joint training\u00a097.6; Fine-tuning\u00a016.0"


def test_the_papers_numbers_stand_above_ours():
    runs = {
        "gfr": [fake("gfr"), fake("gfr", 1, shift=0.1)],
        "finetune": [fake("finetune")],
    }
    printed = {"gfr": (80.7, 57.6), "lwf": (81.0, 3.25)}
    rows = words.beside(runs, printed, **{"how many": len})
    assert [(row["system"], row["from"]) for row in rows] == [
        ("GFR, GAN", "paper"),
        ("GFR, GAN", "quick"),
        ("Fine-tuning", "quick"),
        ("LwF", "paper"),
    ]
    assert rows[0]["after task 1"] == "57.6" and rows[0]["how many"] == "–"
    assert (
        rows[1]["after task 1"] == "75.0\u00a0±\u00a07.1" and rows[1]["how many"] == 2
    )
    assert rows[3]["after task 1"] == "3.2"


def test_the_command_for_images_of_ones_own_says_the_split(monkeypatch):
    """`run` divides such a data set anew where the split is left open."""
    monkeypatch.setattr("gfrlib.lab.datasets.is_own", lambda name: name == "birds")
    config = make_config("photos", "frozen", dataset="birds")
    assert f" --base {config.base} --tasks {config.tasks}" in words.command(config)
    assert "--base" not in words.command(make_config("photos", "frozen"))
    split = make_config("photos", "frozen", dataset="birds", split=[4, 3])
    assert "--split 4,3" in words.command(split) and "--base" not in words.command(
        split
    )
