"""Random command lines and grid files: exit code 0 or 2, one sentence, no traceback.

Seeded and bounded. More, and others: GFR_FUZZ_TIMES=10 GFR_FUZZ_SEED=7.
"""

import functools
import os
import random

import pytest
from test_cli import is_one_sentence

from gfrlib import cli
from gfrlib.book import chapters
from gfrlib.config import METHODS, PRESETS, UserError
from gfrlib.lab import datasets, grids, plans

TIMES = int(os.environ.get("GFR_FUZZ_TIMES", "1"))
SEED = int(os.environ.get("GFR_FUZZ_SEED", "0"))
LINES, FILES = 150 * TIMES, 150 * TIMES

NASTY = [
    *("", " ", "\t", "\n", "a\nb", "\0", "\x1b[31mred", "\x07", "\u202e", "\u2028"),
    *(
        "\ud800",
        "\udcff",
        "é",
        "\U0001f600",
        "１０",
        "x" * 300,
        "x/" * 3000,
        "x " * 999,
    ),
    *(
        "0",
        "-0",
        "-1",
        "1",
        "2",
        "1_0",
        "0x10",
        "017",
        "+3",
        " 4",
        "1e3",
        "1e-3",
        "1.5",
    ),
    *("9" * 20, "9" * 400, "9" * 5000, "1" + "0" * 30, "4294967296", "100000"),
    *("nan", "inf", "-inf", ".nan", ".inf", "1e300", "-1e300", "1e-300", "1e999999999"),
    *("true", "on", "yes", "none", "null", "~", "2026-01-01", "1:30", "12:30:45.6"),
    *("~nobody-here/x", "/dev/null", "/", ".", "..", "../..", "/etc/passwd", "a/b.npz"),
    *("-", "--", "-p", "--seed", "--no-such", "--json", "%s", "{0}", "%(prog)s", "\\"),
    *("[", "]", "{", "}", "[]", "{}", ",", ",,,", "]5,,5[(", "[5, 5]", "(5,5]", "5,5"),
    *(
        "&a",
        "*a",
        "!!int x",
        "!x",
        "!!python/name:os.system",
        "<<",
        "? ",
        "- ",
        ": ",
        "|",
    ),
    *("#", "'", '"', "`", "@", "---", "...", "%YAML 1.1", "\ufeff", '"\\ud800"', "\r"),
    *(
        "digits",
        "cifar100",
        "lwf",
        "gfr",
        "joint",
        "quick",
        "paper",
        "cuda",
        "features",
    ),
]
SETTINGS = [field.name for field in cli.actions.settings()]
GRID = """\
preset: quick
runs:
  - methods: [lwf, gfr]
    splits: [{base: 4, tasks: 3}, {split: [5, 5]}]
    seeds: [0, 1]
    settings: {epochs_base: 2, class_order: sorted, learning_rate: 1.0e-3}
    search: {penalty_weight: [1, 10.0], old_task_weighting: [true, false]}
  - {methods: [finetune], settings: {dataset: digits, head: single}}
"""


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """call(words) -> (code, stderr); nothing is trained, timed or downloaded."""
    monkeypatch.setenv("GFR_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def stopped(*_, **__):
        raise UserError("Here the training would begin.")

    monkeypatch.setattr("gfrlib.training.run", stopped)
    monkeypatch.setattr(datasets, "download_cifar100", stopped)
    monkeypatch.setattr(chapters, "execute", lambda plan, folder, jobs=None: list(plan))
    quick = functools.partial(plans.plan, speed=lambda *_: 0.1)
    monkeypatch.setattr(plans, "plan", quick)
    monkeypatch.setattr(grids, "MOST_RUNS", 64)

    def answer(words: list[str]) -> tuple[object, str]:
        try:
            code = cli.main(words)
        except SystemExit as ended:  # --help
            code = ended.code
        return code, capsys.readouterr().err

    return answer


def judge(code: object, err: str) -> str:
    """What is wrong with an answer; empty if nothing is."""
    if code not in (0, 2):
        return f"exit code {code}"
    if code == 2 and not is_one_sentence(err):
        return "not one sentence"
    if code == 0 and not err.replace("\n", "").isprintable():
        return "characters that a terminal obeys"
    return ""


def command_line(rng: random.Random) -> list[str]:
    """A command line that began as a valid one."""
    nasty = functools.partial(rng.choice, NASTY)
    kinds = {
        "run": lambda: run_words(rng),
        "grid": lambda: ["grid", nasty(), "--dry-run", "--jobs", nasty()],
        "compare": lambda: ["compare", nasty(), nasty()],
        "book": lambda: ["book", "run", "01", "-p", rng.choice(PARAMETERS), nasty()],
        "out": lambda: ["book", "run", nasty(), "--out", nasty()],
        "other": lambda: [rng.choice(["records", "methods", "", nasty()])],
    }
    words = kinds[rng.choice(["run", "run", "run", *kinds])]()
    if rng.random() < 0.3:
        words.insert(rng.randrange(len(words) + 1), nasty())
    if rng.random() < 0.1:
        words.pop(rng.randrange(len(words)))
    return words


PARAMETERS = ("base", "tasks", "seeds", "preset", "class_order", "bse")


def run_words(rng: random.Random) -> list[str]:
    words = ["run", "--method", rng.choice([*METHODS])]
    if rng.random() < 0.2:
        words += ["--preset", rng.choice([*PRESETS, *NASTY])]
    for _ in range(rng.randint(1, 3)):
        words += [f"--{rng.choice(SETTINGS)}", rng.choice(NASTY)]
    return words


def grid_file(rng: random.Random) -> bytes:
    """A grid's file with a few changes of a few kinds."""
    text = GRID
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text) + 1)
        upto = min(len(text), at + rng.choice([0, 1, 3, 10, 40]))
        words = text.split(" ")
        kind = rng.choice(["insert", "replace", "cut", "twice", "word", "word"])
        if kind == "word":
            words[rng.randrange(len(words))] = rng.choice(NASTY)
            text = " ".join(words)
        else:
            new = {"insert": rng.choice(NASTY), "replace": rng.choice(NASTY)}
            new |= {"cut": "", "twice": text[at:upto] * 2}
            start = at if kind == "insert" else upto
            text = text[:at] + new[kind] + text[start:]
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    if rng.random() < 0.1:
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def test_random_command_lines_end_in_a_result_or_a_sentence(call):
    rng, codes, wrong = random.Random(SEED), [], []
    for _ in range(LINES):
        words = command_line(rng)
        code, err = call(words)
        codes.append(code)
        if said := judge(code, err):
            wrong.append((said, words, err))
    assert not wrong, wrong[:6]
    assert len(set(codes)) == 2, "some are valid, most are not"


def test_random_grid_files_end_in_a_plan_or_a_sentence(call, tmp_path):
    rng, codes, wrong, path = random.Random(SEED + 1), [], [], tmp_path / "grid.yaml"
    for _ in range(FILES):
        content = grid_file(rng)
        path.write_bytes(content)
        code, err = call(["grid", str(path), "--dry-run"])
        codes.append(code)
        if said := judge(code, err):
            wrong.append((said, content, err))
    assert not wrong, wrong[:6]
    assert len(set(codes)) == 2, "some are valid, most are not"


def test_the_judge_refuses_what_must_not_be():
    assert judge(2, "gfrlib: No such thing; take another.\n") == judge(0, "") == ""
    for code, err in (
        (1, "gfrlib: No.\n"),
        (2, ""),
        (2, "gfrlib: One.\ngfrlib: Two.\n"),
        (2, "gfrlib: \x1b[31mred.\n"),
        (2, "Traceback (most recent call last):\n"),
        (0, "\x07"),
    ):
        assert judge(code, err), (code, err)
