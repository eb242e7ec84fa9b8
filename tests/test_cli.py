"""The command line: --json, tables, and every bad input answered by one sentence, exit
code 2, nothing half-written.
"""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers_core import ROOT, flags, generated, gfrlib
from test_tasks import arrays, write_folder

from gfrlib import cli
from gfrlib.cli import actions, packing
from gfrlib.cli import words as said_by
from gfrlib.config import METHODS, Config, UserError, from_text, make_config
from gfrlib.lab import datasets, experiments, grids, origin, shards
from gfrlib.tasks import class_order

QUICK = dict(epochs_base=1, epochs_task=1, width=8, base=4, tasks=2, device="cpu")


@pytest.fixture(name="home")
def home_fixture(tmp_path, monkeypatch):
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path


@pytest.fixture(name="run")
def run_fixture(home, capsys):
    """run(words...) -> (exit code, stdout, stderr) of the command, in this process."""

    def call(*words):
        code = cli.main([str(w) for w in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def left(home: Path) -> list[str]:
    """Files in the home folder (records, stages, data), but for empty locks."""
    files = [p for p in (home / "home").rglob("*") if p.is_file()]
    locks = [p for p in files if "lock" in p.name and p.stat().st_size == 0]
    return sorted(str(p.relative_to(home / "home")) for p in set(files) - set(locks))


def is_one_sentence(text: str) -> bool:
    """One line of sane length that begins with the program's name, ends like a
    sentence, and holds nothing that a terminal would obey.
    """
    if not re.fullmatch(r"gfrlib: \S[^\n]*[.)]\n", text) or "Traceback" in text:
        return False
    return len(text) < 900 and text[:-1].isprintable()


def refused(answer: tuple, *says: str) -> None:
    code, out, err = answer
    assert code == 2 and out == "" and is_one_sentence(err), answer
    for part in says:
        assert part in err, err


def test_a_check_of_sentences_can_fail():
    assert is_one_sentence("gfrlib: This is one.\n")
    for text in (
        "gfrlib: Two.\nLines.\n",
        "gfrlib: red \x1b[31m.\n",
        "gfrlib: " + "x" * 2000 + ".\n",
        "Traceback (most recent call last): x.\n",
    ):
        assert not is_one_sentence(text), text


# --- what it prints -------------------------------------------------------------------


def test_json_prints_the_record_and_nothing_else(tmp_path, monkeypatch, capsys):
    """As a process of its own: what libraries print must not reach standard output."""
    words = [
        "run",
        "--preset",
        "quick",
        "--method",
        "finetune",
        "--seed",
        "3",
        *flags(QUICK),
        "--json",
    ]
    first = gfrlib(*words, home=tmp_path)
    assert first.returncode == 0, first.stderr
    record = json.loads(first.stdout)
    assert (
        set(record["config"]) == {f.name for f in dataclasses.fields(Config)}
        and record["config"]["seed"] == 3
    )
    assert [len(names) for names in record["task_classes"]] == [4, 3, 3]
    assert sorted(sum(record["task_classes"], [])) == [str(c) for c in range(10)]
    assert [len(row) for row in record["accuracy"]] == [1, 2, 3]
    assert all(0 <= a <= 1 for row in record["accuracy"] for a in row)
    assert record["status"] == "computed now" and record["method"] == "finetune"
    assert first.stderr == ""  # quiet where there is no terminal
    monkeypatch.setenv("GFR_HOME", str(tmp_path))
    assert cli.main(words) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["status"] == "loaded" and {**again, "status": ""} == {
        **record,
        "status": "",
    }


def test_joint_has_null_rows(run):
    code, out, _ = run("run", "--method", "joint", *flags(QUICK), "--json")
    accuracy = json.loads(out)["accuracy"]
    assert code == 0 and accuracy[:2] == [None, None] and len(accuracy[2]) == 3


def test_run_prints_curves_in_percent(run):
    code, out, _ = run("run", "--method", "finetune", *flags(QUICK))
    assert code == 0
    record = json.loads(run("run", "--method", "finetune", *flags(QUICK), "--json")[1])
    line = next(x for x in out.splitlines() if x.startswith("class-weighted"))
    assert line.split()[1:] == [f"{100 * v:.1f}" for v in record["class_weighted"]]


def test_methods_prints_the_table(run):
    code, out, _ = run("methods")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0 and [r[0] for r in rows[1:]] == list(METHODS)
    for row in rows[1:]:
        assert row[1:] == [str(METHODS[row[0]].columns[c]) for c in rows[0][1:]]


def test_records_lists_and_compare_compares(run):
    assert "Nothing is recorded yet" in run("records")[1]
    for seed in (0, 1):
        for epochs in (1, 2):
            assert (
                run(
                    "run",
                    "--method",
                    "finetune",
                    *flags({**QUICK, "epochs_task": epochs}),
                    "--seed",
                    seed,
                )[0]
                == 0
            )
    code, out, _ = run("records")
    names = [line.split()[0] for line in out.splitlines()]
    assert (
        code == 0
        and len(names) == 4
        and all(n.startswith("digits-4+2x3-finetune-s") for n in names)
    )
    a, b = (
        next(
            n
            for n in names
            if json.loads(
                run(
                    "run",
                    "--method",
                    "finetune",
                    *flags({**QUICK, "epochs_task": e}),
                    "--json",
                )[1]
            )["name"]
            == n
        )
        for e in (1, 2)
    )
    code, out, _ = run("compare", a, b)
    assert code == 0 and re.search(r"epochs_task\s+1\s+2", out) and "width" not in out
    said = run("compare", "digits", a)
    refused(said, "2 different settings")
    assert a in said[2] and b in said[2] and "epochs_task 2" in said[2]
    code, out, _ = run("records", a)
    assert code == 0 and out.startswith(a) and len(out.splitlines()) == 1
    assert "; quick finetune, " in out and "epochs_task 1" in out
    refused(run("records", "mnist"), "No record begins with 'mnist'")
    refused(run("compare", a, "mnist"), "No record begins with 'mnist'")
    assert run("compare", a, a)[0] == 0


def test_a_damaged_record_is_named_by_records(run, home):
    run("run", "--method", "finetune", *flags(QUICK))
    path = next(
        p for p in (home / "home").rglob("records/*.json") if "analysis" not in p.name
    )
    path.write_text(path.read_text()[:100])
    code, out, _ = run("records")
    assert code == 0 and path.stem in out and "damaged" in out


def test_every_field_is_an_option_in_both_spellings(run):
    small = {k: v for k, v in QUICK.items() if k not in ("base", "tasks")}
    words = ["--batch-size", "32", "--learning_rate", "2e-3", "--split", "4,3,3"]
    words += ["--old-task-weighting", "false", "--json"]
    code, out, _ = run("run", "--method", "finetune", *flags(small), *words)
    config = json.loads(out)["config"]
    assert code == 0 and config["batch_size"] == 32 and config["learning_rate"] == 2e-3
    assert config["split"] == [4, 3, 3] and config["old_task_weighting"] is False
    for field in dataclasses.fields(Config):
        default = field.default
        text = str(list(default)) if isinstance(default, tuple) else str(default)
        assert from_text(field.name, text) == default
    for field in actions.settings():
        for spelling in (field.name, field.name.replace("_", "-")):
            parsed = cli._parser().parse_args(["run", f"--{spelling}", "7"])
            assert getattr(parsed, field.name) == "7", spelling


# --- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, says",
    [
        (["run", "--preset", "huge"], "no preset 'huge'"),
        (["run", "--method", "sgd"], "no method 'sgd'"),
        (["run", "--dataset", "mnist"], "no data set 'mnist'"),
        (
            ["run", "--dataset", "imagenet-subset"],
            "python -m gfrlib data imagenet-subset FOLDER --classes lucir",
        ),
        (["run", "--momentum", "0.9"], "--momentum"),
        (["run", "--epochs", "3"], "--epochs"),
        (["run", "--seed", "one"], "whole number, not 'one'"),
        (["run", "--seed", "-1"], "must not be negative"),
        (["run", "--learning-rate", "fast"], "a number, not 'fast'"),
        (["run", "--learning-rate", "nan"], "above 0"),
        (["run", "--full-head", "maybe"], "true or false, not 'maybe'"),
        (["run", "--split", "4;6"], "counts such as"),
        (["run", "--split", "4,7"], "needs 11 classes"),
        (["run", "--split", ",,,"], "counts such as"),
        (["run", "--split", "]5,,5[("], "counts such as"),
        (["run", "--split", "(5,5]"], "counts such as"),
        (["run", "--split", ""], "counts such as"),
        (["run", "--split", "5, 0"], "class counts from 1"),
        (["run", "--split", "5,5", "--base", "5"], "'split' says the classes"),
        (["run", "--split", "5,5", "--tasks", "1"], "leave one out"),
        (["run", "--seed", "1_0"], "whole number, not '1_0'"),
        (["run", "--seed", "\uff11\uff10"], "whole number, not"),
        (["run", "--seed", "0x10"], "whole number, not '0x10'"),
        (["run", "--seed", " 1"], "whole number, not ' 1'"),
        (["run", "--seed", "9" * 5000], "whole number, not '999"),
        (["run", "--learning-rate", "1_0.0"], "a number, not '1_0.0'"),
        (["run", "--class-order", "random", "--seed", 2**32], "at most 4294967295"),
        (["run", "--head-scale", "1e300"], "above 0 (1e-30 to 1e30)"),
        (["run", "--alignment-weight", "1e300"], "nor above 1e30"),
        (["run", "--exemplars", "9" * 20], "at most 1000000"),
        (["run", "--threads", "100000"], "at most 1024"),
        (["run", "--base", "0"], "'base' must be at least 1"),
        (["run", "--tasks", "99999999"], "'tasks' must be at most"),
        (["grid", "x.yaml", "--jobs", "0"], "from 1 to 1024, not '0'"),
        (["grid", "x.yaml", "--jobs", "1" + "0" * 30], "from 1 to 1024"),
        (["grid", "x.yaml", "--jobs", "1_0"], "from 1 to 1024, not '1_0'"),
        (["run", "--base", "4", "--tasks", "4"], "do not divide"),
        (["run", "--base", "11", "--tasks", "1"], "base is 11"),
        (["run", "--penalty", "magic"], "'penalty' must be one of"),
        (["run", "--method", "gfr-gaussian", "--cut", "2"], "cut"),
        (["run", "--seed"], "seed"),
        (["run", "--dataset", "./nowhere"], "does not exist"),
        (["run", "--dataset", "~nobody-here/x"], "who has no home here"),
        (["run", "--dataset", "x" * 300], "File name too long"),
        (["run", "--dataset", "./" + "x/" * 3000], "File name too long"),
        (["run", "--dataset", "a\0b/c"], "is no path"),
        (["run", "--dataset", "\udcff/\ud800"], "is no path"),
        (["run", "--dataset", "/dev/null"], "is a device or a pipe"),
        (["run", "--dataset", "two\nlines"], "'two\\nlines'"),
        (["run", "--method", "\x1b[31mred\x07"], "'\\x1b[31mred\\x07'"),
        (["compare", "\u202egnp.1", "b"], "\\u202egnp.1"),
        (["compare", "~nobody-here/x", "b"], "who has no home here"),
        (["compare", "x" * 300, "b"], "File name too long"),
        (["grid", "/dev/null"], "is a device or a pipe"),
        (["grid", "/"], "is a folder, and no file"),
        (["grid", "~nobody-here/x"], "who has no home here"),
        (["grid", "x" * 300], "File name too long"),
        (["grid", "nowhere.yaml"], "cannot be read"),
        (["run", "--dataset", "./nowhere.npz"], "does not exist"),
        (["data", "mine", "./nowhere"], "does not exist"),
        (["data", "../mine", "."], "cannot name a data set"),
        (["data", "digits", "."], "'digits' is built in; give the data set another"),
        (["data", "Digits", "."], "'digits' is built in; give the data set another"),
        (["data", "Äpfel", "."], "use a to z, A to Z, 0 to 9"),
        (["data", "CIFAR100", "."], "too much like 'cifar100'; write that"),
        (["run", "--size", "64"], "--size 64; see python -m gfrlib run --help"),
        (["run", "--sed", "1"], "--sed 1 (did you mean --seed?)"),
        (["data", "mine", ".", "--sise=9"], "(did you mean --size?); see python -m"),
        (["run", "--dry-run", "--analyse", "magic"], "no part 'magic'"),
        (["run", "--dry-run", "--json"], "leave out --json"),
        (["run", "--dry-run", "--after", "1"], "--after says which network"),
        (["data", "", "."], "cannot name a data set"),
        (["data", "..", "."], "cannot name a data set"),
        (["data", "a/b", "."], "cannot name a data set"),
        (["data", "imagenet/..", "."], "cannot name a data set"),
        (["data", "x" * 101, "."], "cannot name a data set"),
        (["run", "--dataset", ""], "no data set ''"),
        (["compare", "a", "b"], "No record begins with 'a'"),
        (["train"], "'train'"),
        ([], "command"),
        (["book"], "what"),
        (["book", "run", "99_nothing"], "99_nothing"),
        (["book", "run", "01_tasks", "-p", "colour", "1"], "colour"),
        (["book", "run", "01_tasks", "-p", "base", "four"], "base"),
        (["book", "run", "01_tasks", "-p", "seeds", "0"], "'seeds' must be at least 1"),
        (["book", "run", "01_tasks", "-p", "seeds", "1_0"], "'seeds' must be int"),
        (["book", "run", "01_tasks", "-p", "base", "9" * 99], "'base' must be"),
        (["book", "run", "01", "-p", "base", "4", "-p", "base", "5"], "given twice"),
    ],
)
def test_bad_words_are_refused(run, home, words, says):
    refused(run(*words), says)
    assert left(home) == []


def test_a_path_with_a_hyphen_in_front_is_told_how_to_be_written(
    run, tmp_path, monkeypatch
):
    (tmp_path / "-photos").mkdir()
    monkeypatch.chdir(tmp_path)
    refused(run("data", "mine", "-photos"), "-photos is written ./-photos")


def test_a_chapters_source_is_never_overwritten(run, home, monkeypatch):
    """--out is the sources' folder, in any spelling, or holds the reader's own."""
    source = ROOT / "book" / "01_tasks.ipynb"
    before = source.read_bytes()
    (home / "linked").symlink_to(ROOT / "book")
    (home / "mine").mkdir()
    (home / "mine" / source.name).write_bytes(before)
    (home / "file").write_text("")
    for folder in (ROOT / "book", ROOT / "gfrlib" / ".." / "book", home / "linked"):
        refused(
            run("book", "run", "01", "--out", folder), "holds the chapters' sources"
        )
    monkeypatch.chdir(ROOT)
    refused(run("book", "run", "01", "--out", "book"), "holds the chapters' sources")
    refused(run("book", "run", "--out", ""), "needs a name")
    refused(run("book", "run", "01", "--out", home / "mine"), "was not made by this")
    refused(run("book", "run", "01", "--out", home / "file"), "cannot be a folder")
    assert source.read_bytes() == (home / "mine" / source.name).read_bytes() == before


def test_a_process_with_bad_input_ends_with_code_2_and_one_sentence(tmp_path):
    done = gfrlib("run", "--method", "sgd", "--json", home=tmp_path)
    refused((done.returncode, done.stdout, done.stderr), "no method 'sgd'")
    assert list(tmp_path.iterdir()) == []


def test_bad_folders_and_files_are_refused(run, home):
    (home / "empty").mkdir()
    refused(run("run", "--dataset", home / "empty"), "no class folders")
    refused(
        run("run", "--dataset", write_folder(home / "one", generated(1, per_class=4))),
        "only one class",
    )
    folder = write_folder(home / "odd", generated(3, per_class=4))
    (folder / "val" / "class 2" / "notes.txt").write_text("no image")
    refused(
        run("run", "--dataset", folder, "--base", 1, "--tasks", 2),
        "notes.txt' is no readable image",
    )
    refused(run("data", "mine", folder), "notes.txt' is no readable image")
    np.savez(home / "whole.npz", **arrays(generated(3)))
    (home / "cut.npz").write_bytes((home / "whole.npz").read_bytes()[:5000])
    refused(run("run", "--dataset", home / "cut.npz"), "truncated")
    refused(run("data", "cifar100", home / "whole.npz"), "checksum")
    assert left(home) == []


def test_a_packed_file_is_no_folder_of_photographs(run, home):
    """The name alone makes it large: the advice is another name, and no option."""
    np.savez(home / "whole.npz", **arrays(generated(3)))
    answer = run("data", "imagenet-mine", home / "whole.npz")
    refused(answer, "take another name")
    assert "--size" not in answer[2]
    answer = run("data", "imagenet-mine", home / "whole.npz", "--size", 8)
    refused(answer, "are for a folder of images")


@pytest.mark.parametrize(
    "given, goes_on",
    [
        (["run", "--seed", "1"], True),
        (["grid", "x.yaml"], True),
        (["book", "run"], True),
        (["run", "--dry-run"], False),
        (["book", "check"], False),
        ([], False),
        (["data", "mine", "x"], False),
        (["records"], False),
    ],
)
def test_what_ctrl_c_leaves_is_said_as_it_is(given, goes_on):
    assert ("goes on" in said_by.interrupted(given)) == goes_on


def test_ctrl_c_while_large_images_are_packed_goes_on(run, home, monkeypatch):
    """Decided by what was under way, and not by the words of the command."""
    folder = write_folder(home / "pictures", generated(3))

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(packing, "_packing", [])
    monkeypatch.setattr(shards, "pack", stopped)
    assert run("data", "mine", folder, "--size", 16)[0] == 130
    monkeypatch.setattr(packing, "_packing", [])
    monkeypatch.setattr(datasets, "add", stopped)
    assert run("data", "mine", folder)[::2] == (130, "gfrlib: stopped.\n")


def test_options_that_are_given_twice_or_say_nothing_are_refused(run, home):
    folder = write_folder(home / "pictures", generated(3))
    for words, says in (
        (("run", "--seed", 0, "--seed", 1), "--seed is given twice"),
        (("run", "--batch-size", 0, "--batch_size", 32), "--batch_size is given twice"),
        (("run", "--learning-rate", "-1e-3"), "'learning_rate'"),
        (("run", "--save-weights", "w.pt", "--analyse", "quality"), "--analyse"),
        (("data", "mine", folder, "--verify"), "takes no PATH"),
        (("data", "mine", "--verify", "--size", 16), "--size says how to pack"),
        (("data", "mine", folder, "--classes", ""), "--classes names no list"),
        (("data", "mine", folder, "--workers", 1), "give --size PIXELS, too"),
        (("data", folder), "The name comes first"),
    ):
        refused(run(*words), says)


def test_other_images_under_a_name_are_told(run, home):
    three = write_folder(home / "three", generated(3))
    four = write_folder(home / "four", generated(4))
    assert "held other images" not in run("data", "mine", three)[2]
    assert "held other images" not in run("data", "mine", three)[2]
    assert "'mine' held other images before" in run("data", "mine", four)[2]


def test_an_analysis_or_another_file_is_no_record(run, home):
    (home / "a.analysis.json").write_text("{}")
    (home / "notes.md").write_text("words")
    refused(run("compare", home / "a.analysis.json", "x"), "give the record beside it")
    refused(run("compare", home / "notes.md", "x"), "give a .json file")


def test_a_name_that_leads_elsewhere_removes_nothing(run, home, monkeypatch):
    """The stem of "...npz" is ".."; whatever the name, only data sets are replaced."""
    monkeypatch.chdir(home)
    np.savez(home / "whole.npz", **arrays(generated(3)))
    (home / "whole.npz").rename(home / "...npz")
    keep = home / "home" / "data" / "records" / "keep.json"
    keep.parent.mkdir(parents=True)
    keep.write_text("{}")
    refused(run("data", "", "...npz"), "cannot name a data set")
    for name in ("..", "", "../records", "."):
        with pytest.raises(UserError, match="cannot name a data set"):
            datasets.add(name, home / "...npz")
        with pytest.raises(UserError, match="cannot name a data set"):
            shards.pack(name, home)
    assert re.fullmatch(r"images-[0-9a-f]{8}", datasets.resolve("...npz"))
    assert keep.read_text() == "{}"


def test_packing_replaces_only_what_packing_made(run, home):
    np.savez(home / "one.npz", **arrays(generated(3)))
    np.savez(home / "two.npz", **arrays(generated(3, seed=1)))
    mine = datasets.folder() / "mine"
    mine.mkdir(parents=True)
    (mine / "notes.txt").write_text("a reader's own")
    refused(run("data", "mine", home / "one.npz"), "is no packed data set")
    assert [p.name for p in mine.iterdir()] == ["notes.txt"]
    assert run("data", "other", home / "one.npz")[0] == 0
    (datasets.folder() / "other" / "notes.txt").write_text("a reader's own")
    refused(run("data", "other", home / "two.npz"), "is no packed data set")
    (datasets.folder() / "other" / "notes.txt").unlink()
    before = datasets.packed("other").content
    assert run("data", "other", home / "two.npz")[0] == 0
    assert datasets.packed("other").content != before
    hidden = {p.name for p in datasets.folder().iterdir() if p.name[0] == "."}
    assert hidden <= {".lock"}


def test_a_data_set_of_a_link_is_replaced_and_the_linked_one_stays(run, home):
    np.savez(home / "one.npz", **arrays(generated(3)))
    np.savez(home / "two.npz", **arrays(generated(3, seed=1)))
    assert run("data", "far", home / "one.npz")[0] == 0
    (datasets.folder() / "far").rename(home / "elsewhere")
    (datasets.folder() / "far").symlink_to(home / "elsewhere")
    assert run("data", "far", home / "two.npz")[0] == 0
    assert (home / "elsewhere" / "meta.json").exists()
    assert not (datasets.folder() / "far").is_symlink()


def test_a_packed_data_set_can_be_run_by_name(run, home):
    np.savez(
        home / "whole.npz", **arrays(generated(3)), class_names=["cat", "dog", "eel"]
    )
    assert run("data", "mine", home / "whole.npz")[0] == 0
    code, out, _ = run(
        "run",
        "--dataset",
        "mine",
        "--method",
        "finetune",
        *flags({**QUICK, "base": 1}),
        "--json",
    )
    assert code == 0
    order = [name for names in json.loads(out)["task_classes"] for name in names]
    assert order == [("cat", "dog", "eel")[c] for c in class_order("lucir", 3)]


def test_a_loss_that_turns_nan_is_one_sentence_and_keeps_no_stage(run, home):
    refused(
        run("run", "--method", "finetune", *flags(QUICK), "--learning-rate", "1e30"),
        "became NaN or infinite",
        "task 0",
    )
    assert left(home) == []


@pytest.mark.parametrize("what", ["cut", "another"])
def test_a_damaged_checkpoint_is_one_sentence_and_loses_nothing_else(run, home, what):
    words = ["run", "--method", "finetune", *flags(QUICK)]
    assert run(*words)[0] == 0
    kept = sorted((home / "home").rglob("done.pt"), key=lambda p: p.stat().st_mtime)
    if what == "cut":
        kept[0].write_bytes(kept[0].read_bytes()[: kept[0].stat().st_size // 2])
    else:
        shutil.copy(kept[-1], kept[0])
    for path in (home / "home").rglob("records/*.json"):
        path.unlink()
    before = left(home)
    refused(
        run(*words),
        "damaged" if what == "cut" else "another configuration",
        str(kept[0]),
    )
    assert left(home) == before
    kept[0].unlink()  # as the sentence says
    assert run(*words)[0] == 0


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda k: k.update(colour=1), "unknown fields"),
        (lambda k: k.pop("losses"), "lacks the fields"),
    ],
)
def test_a_record_with_an_extra_or_missing_field_is_refused(run, home, change, says):
    run("run", "--method", "finetune", *flags(QUICK))
    path = next(
        p for p in (home / "home").rglob("records/*.json") if "analysis" not in p.name
    )
    kept = json.loads(path.read_text())
    change(kept)
    path.write_text(json.dumps(kept))
    refused(run("compare", path, path), says)
    assert says in run("records")[1]


def test_help_and_an_unknown_option_name_the_command(run, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", "--help"])
    assert caught.value.code == 0 and "--penalty-weight" in capsys.readouterr().out
    refused(run("run", "--colour", 3), "--colour 3; see python -m gfrlib run --help")
    assert (ROOT / "gfrlib" / "__main__.py").exists()


def test_progress_is_silent_in_logs(capsys):
    progress = cli.Progress()
    progress(0, "classifier", 1, 10, {"step": 1, "loss": 0.5})
    progress.close()
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def shown(progress, capsys) -> str:
    progress.bar.refresh()
    return capsys.readouterr().err


def test_progress_names_task_phase_epoch_and_loss(capsys, monkeypatch):
    """Ten steps an epoch; as in training, the means are those of the last epoch."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = cli.Progress()
    for step in range(1, 41):
        means = {"step": step - step % 10, "loss": 0.25} if step >= 10 else {}
        progress(2, "classifier", step, 40, means)
        text = shown(progress, capsys)
        assert "task 2 classifier" in text
        if step >= 10:
            assert f"epoch {1 + (step - 1) // 10} of 4, loss 0.25" in text, step
    progress(2, "generator", 1, 40, {"step": 1, "loss": 2})
    text = shown(progress, capsys)
    assert "task 2 generator" in text and "loss 2" in text and "epoch" not in text
    progress.close()


def test_progress_of_a_resumed_phase_counts_epochs_once_it_knows_them(
    capsys, monkeypatch
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = cli.Progress()
    for step in range(25, 41):
        progress(0, "classifier", step, 40, {"step": step - step % 10, "loss": 1})
        text = shown(progress, capsys)
        assert ("epoch" in text) == (step >= 30)
    assert "epoch 4 of 4" in text
    progress.close()


def test_a_real_runs_progress_comes_to_its_last_epoch(home, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    texts = []
    original = cli.Progress.__call__

    def noted(self, *words):
        original(self, *words)
        texts.append(self.bar.postfix or "")

    monkeypatch.setattr(cli.Progress, "__call__", noted)
    words = ["run", "--method", "finetune", *flags({**QUICK, "epochs_base": 3})]
    assert cli.main(words) == 0
    assert {f"epoch {k} of 3" for k in (1, 2, 3)} <= {t.split(",")[0] for t in texts}


def test_a_grid_commits_every_record_and_nothing_else(tmp_path, monkeypatch, capsys):
    """With slim's preset name on a tiny run: its record lies among the committed."""
    monkeypatch.setenv("GFR_HOME", str(tmp_path))
    monkeypatch.setattr(origin, "changes", lambda: [])

    def git(*words):
        return subprocess.run(
            ["git", "-C", str(tmp_path), *words],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    git("init", "--quiet")
    git("config", "user.email", "a@b.c")
    git("config", "user.name", "a")
    (tmp_path / "staged.txt").write_text("mine")
    git("add", "staged.txt")
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "preset: slim\nruns: [{methods: [finetune, fecam], "
        "settings: {dataset: digits, split: [4, 2], "
        "network: cnn, width: 8, epochs_base: 1, epochs_task: 1, device: cpu}}]\n"
    )
    assert cli.main(["grid", str(grid), "--commit"]) == 0
    assert len(
        git("log", "--oneline").splitlines()
    ) == 2 and "Record: digits-4+2-" in git("log", "-1", "--format=%s")
    committed = git("ls-files", "data").split()
    assert len(committed) == 4 and git("diff", "--cached", "--name-only").split() == [
        "staged.txt"
    ]
    assert (
        cli.main(["grid", str(grid), "--commit"]) == 0
        and len(git("log", "--oneline").splitlines()) == 2
    )


def test_what_git_refused_is_committed_by_the_same_command(
    tmp_path, monkeypatch, capsys
):
    """No identity, a lock of another git, a kill between record and commit."""
    monkeypatch.setenv("GFR_HOME", str(tmp_path))
    monkeypatch.setattr(origin, "changes", lambda: [])
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "config", "user.useConfigOnly", "true"], check=True)
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "preset: slim\nruns: [{methods: [finetune], "
        "settings: {dataset: digits, split: [4, 2], "
        "network: cnn, width: 8, epochs_base: 1, epochs_task: 1, device: cpu}}]\n"
    )
    assert cli.main(["grid", str(grid), "--commit"]) == 2
    said = capsys.readouterr().err
    assert "not committed: " in said and "as said above: 1 record;" in said
    subprocess.run([*git, "config", "user.name", "a"], check=True)
    subprocess.run([*git, "config", "user.email", "a@b"], check=True)
    assert cli.main(["grid", str(grid), "--commit"]) == 0
    listed = subprocess.check_output([*git, "ls-files", "data"], text=True).split()
    assert len(listed) == 2
    head = subprocess.check_output([*git, "rev-parse", "HEAD"])
    assert cli.main(["grid", str(grid), "--commit"]) == 0, "nothing is new"
    assert subprocess.check_output([*git, "rev-parse", "HEAD"]) == head


def test_a_committed_record_of_other_images_is_not_written_over(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("GFR_HOME", str(tmp_path))
    monkeypatch.setattr(origin, "changes", lambda: [])
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "preset: slim\nruns: [{methods: [finetune], settings: {dataset: mine, "
        "split: [2, 1], network: cnn, width: 8, epochs_base: 1, epochs_task: 1, "
        "device: cpu}}]\n"
    )
    kept = []
    for per_class in (20, 22):
        source = generated(3, per_class=per_class)
        arrays = {k: getattr(source, k) for k in (*datasets.ARRAYS, "class_names")}
        np.savez(tmp_path / "mine.npz", **arrays)
        assert cli.main(["data", "mine", str(tmp_path / "mine.npz")]) == 0
        code = cli.main(["grid", str(grid)])
        [path] = (tmp_path / "data" / "records").glob("*-s0-??????????.json")
        kept.append((code, path.read_bytes()))
    assert [code for code, _ in kept] == [0, 2] and kept[0][1] == kept[1][1]
    assert "would be written over" in capsys.readouterr().err
    assert cli.main(["grid", str(grid), "--dry-run"]) == 2
    # nor is one of the reader's own, which may have taken a GPU hours
    monkeypatch.setenv("GFR_CACHE", str(tmp_path / "drive"))
    assert cli.main(["grid", str(grid)]) == 0
    source = generated(3, per_class=24)
    arrays = {k: getattr(source, k) for k in (*datasets.ARRAYS, "class_names")}
    np.savez(tmp_path / "mine.npz", **arrays)
    assert cli.main(["data", "mine", str(tmp_path / "mine.npz")]) == 0
    assert cli.main(["grid", str(grid)]) == 2
    monkeypatch.setenv("GFR_CACHE", str(tmp_path / "other drive"))
    assert cli.main(["grid", str(grid)]) == 0


def test_dry_runs_know_parts_of_the_analysis_and_no_kept_weights(run, home):
    words = ["run", "--method", "finetune", *flags(QUICK)]
    run(*words)
    _, out, _ = run(*words, "--dry-run")
    assert "there is nothing to train" in out
    _, out, _ = run(*words, "--dry-run", "--analyse", "quality")
    assert "takes about" in out
    refused(
        run(*words, "--dry-run", "--save-weights", home / "w.pt"), "leave one of them"
    )


def test_a_part_of_the_analysis_is_added_told_and_committed(
    tmp_path, monkeypatch, capsys
):
    """To recorded runs of a grid, by one command; what has it already is left alone."""
    monkeypatch.setenv("GFR_HOME", str(tmp_path))
    monkeypatch.setattr(origin, "changes", lambda: [])
    git = ["git", "-C", str(tmp_path)]
    for words in (
        ["init", "-q"],
        ["config", "user.email", "a@b"],
        ["config", "user.name", "a"],
    ):
        subprocess.run([*git, *words], check=True)
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "preset: slim\nruns: [{methods: [finetune], "
        "settings: {dataset: digits, split: [4, 2], "
        "network: cnn, width: 8, epochs_base: 1, epochs_task: 1, device: cpu}}]\n"
    )
    [config] = grids.read(grid)
    experiments.run_or_load(config, leave_out=["quality", "similarity"])
    assert cli.main(["grid", str(grid), "--analyse", "tsne"]) == 2
    assert "no part 'tsne'" in capsys.readouterr().err
    both = "quality,similarity"
    assert cli.main(["grid", str(grid), "--commit", "--analyse", both]) == 0
    assert ": loaded, now with quality, similarity, last" in capsys.readouterr().out
    log = subprocess.check_output([*git, "log", "--format=%s"], text=True)
    assert log.startswith("Analysis: digits-4+2-finetune")
    assert log.endswith(", quality, similarity\n")
    assert cli.main(["grid", str(grid), "--commit", "--analyse", both]) == 0
    assert ": loaded, last" in capsys.readouterr().out


def test_one_run_gets_a_part_of_its_analysis(run):
    words = ["run", "--method", "finetune", *flags(QUICK)]
    _, out, _ = run(*words, "--analyse", "similarity")
    assert "computed now\n" in out  # a new run has it at once
    _, out, _ = run(*words, "--analyse", "projection")
    assert "loaded, now with projection\n" in out
    _, out, _ = run(*words, "--analyse", "projection")
    assert "loaded\n" in out
    refused(run(*words, "--analyse", ""), "no part ''", "choose from drift")


@pytest.fixture
def dirty(monkeypatch):
    monkeypatch.setattr(origin, "changes", lambda: ["gfrlib/losses.py", "gfrlib/x.py"])
    monkeypatch.setattr("gfrlib.training.run", None)  # whoever trains fails


def test_a_record_of_the_repository_is_not_made_by_changed_code(run, home, dirty):
    tiny = flags({**QUICK, "dataset": "digits", "network": "cnn"})
    slim = ["run", "--preset", "slim", "--method", "finetune", *tiny]
    refused(run(*slim), "gfrlib/losses.py and 1 more", "commit or stash")
    grid = home / "grid.yaml"
    grid.write_text("preset: slim\nruns: [{methods: [finetune]}]\n")
    refused(run("grid", grid, "--commit"), "commit or stash")
    grid.write_text("runs: [{methods: [finetune]}]\n")
    code, out, _ = run("grid", grid, "--dry-run", "--commit")
    assert code == 0 and "1 run, 0 recorded" in out
    assert left(home) == []


def test_changed_code_may_make_records_of_ones_own(home, monkeypatch):
    """At quick, and wherever GFR_CACHE keeps them; the record says that it changed."""
    monkeypatch.setattr(origin, "changes", lambda: ["gfrlib/losses.py"])
    small = {**QUICK, "epochs_base": 1}
    quick = experiments.run_or_load(make_config("quick", "finetune", **small))
    monkeypatch.setenv("GFR_CACHE", str(home / "drive"))
    config = make_config(
        "slim", "finetune", **{**small, "dataset": "digits", "network": "cnn"}
    )
    slim = experiments.run_or_load(config)
    for record in (quick, slim):
        assert record.status == "computed now"
        assert record.provenance["commit"].endswith("+changes")


def test_records_that_lie_elsewhere_are_not_to_be_committed(run, home, monkeypatch):
    """Said before anything is trained, not by git after the first run."""
    monkeypatch.setattr(origin, "changes", lambda: [])
    monkeypatch.setattr("gfrlib.training.run", None)  # whoever trains fails
    grid = home / "grid.yaml"
    grid.write_text("runs: [{methods: [finetune]}]\n")
    refused(run("grid", grid, "--commit"), "quick are kept in data/cache")
    grid.write_text("preset: example\nruns: [{methods: [finetune]}]\n")
    refused(run("grid", grid, "--commit"), "preset example are kept in data/cache")
    grid.write_text("preset: slim\nruns: [{methods: [finetune]}]\n")
    monkeypatch.setenv("GFR_CACHE", str(home / "drive"))
    refused(run("grid", grid, "--commit"), "unset GFR_CACHE")
    assert left(home) == [] and not (home / "drive").exists()


def test_what_counts_as_changed_code(tmp_path, monkeypatch):
    """A changed or new file in gfrlib; nothing outside a checkout of it."""
    package = tmp_path / "gfrlib"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(origin, "GFRLIB", package)

    def git(*words):
        who = ["-c", "user.email=a@b.c", "-c", "user.name=a"]
        subprocess.run(["git", "-C", tmp_path, *who, *words], check=True)

    assert origin.changes() == [] and origin.code_commit() == "unknown"
    git("init", "--quiet")
    assert origin.changes() == [], "installed below somebody else's repository"
    git("add", "--all")
    git("commit", "--quiet", "-m", "all")
    (tmp_path / "notes.txt").write_text("not gfrlib's")
    code = origin.code_commit()
    assert origin.changes() == [] and re.fullmatch(r"\w{40}", code)
    git("add", "--all")
    git("commit", "--quiet", "-m", "a record")
    assert origin.code_commit() == code, "the code is as old as it was"
    (package / "new.py").write_text("")
    (package / "__init__.py").write_text("x = 1")
    assert sorted(origin.changes()) == ["gfrlib/__init__.py", "gfrlib/new.py"]
    assert origin.code_commit().endswith("+changes")
    with pytest.raises(UserError, match="__init__.py and 1 more"):
        origin.refuse_changes()


def test_a_weight_that_was_chosen_for_another_penalty_is_said(run):
    words = ["run", "--dry-run", "--method", "ewc", "--penalty", "features"]
    for more, said in (([], True), (["--penalty-weight", "1"], False)):
        told = run(*words, *more)[2]
        assert ("that of 'ewc' with another penalty" in told) == said
    plain = run("run", "--dry-run", "--method", "finetune", "--penalty", "features")
    assert "another penalty" not in plain[2]


def test_what_is_never_read_is_said_before_the_time_is_told(run):
    code, _, told = run("run", "--dry-run", "--method", "fecam", "--epochs-task", "3")
    assert code == 0 and "this run never reads 'epochs_task'" in told


def test_help_tells_choices_and_what_a_data_set_may_be(run, capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--schedule last-epoch|cosine" in text and "a folder of images or" in text
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "GFR_CACHE" in capsys.readouterr().out


def test_the_path_of_a_folder_is_the_callers(run, home, monkeypatch):
    """Chapters run in the repository: a relative path named another place there."""
    given = []
    monkeypatch.setattr(
        "gfrlib.book.chapters.run", lambda *words: given.append(words[1]) or []
    )
    (home / "mine").mkdir()
    monkeypatch.chdir(home)
    for text in ("mine", "nowhere"):
        run("book", "run", "05_your_images", "-p", "folder", text, "-p", "side", "64")
    assert given[0] == {"folder": str(home / "mine"), "side": "64"}
    assert given[1]["folder"] == "nowhere"  # said by the chapter
