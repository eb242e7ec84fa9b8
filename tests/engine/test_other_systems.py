"""What Windows and macOS lack, taken away from Linux: the command line, a run, imports.

No such machine was at hand. What can be taken away here is: `fcntl` and the other
modules that only Unix has, /proc, `os.sysconf`, and UTF-8 as the encoding of files
whose encoding is not named (an encoding of Windows misreads them; ASCII refuses).
"""

import ast
import json
import subprocess
import sys

import numpy as np
import pytest
from helpers_core import ROOT, environment
from PIL import Image

ELSEWHERE = """
import builtins, io, os, sys

for name in ("fcntl", "resource", "pwd", "grp", "termios", "syslog"):
    sys.modules[name] = None  # import raises ImportError
for name in ("sysconf", "sched_getaffinity", "getuid", "geteuid"):
    delattr(os, name)
opened = builtins.open

def refusing(file, *args, **kwargs):
    if str(file).startswith("/proc"):
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return opened(file, *args, **kwargs)

builtins.open = io.open = refusing
"""
COMMAND = ELSEWHERE + "from gfrlib import cli\nsys.exit(cli.main(sys.argv[1:]))\n"
SHORT = ["--epochs_base", 1, "--epochs_task", 1, "--width", 8, "--device", "cpu"]
SHORT += ["--generator_steps_base", 4, "--generator_steps_later", 4]


@pytest.fixture
def elsewhere(tmp_path):
    """Runs a program with these words."""
    home = tmp_path / "books"
    home.mkdir()
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}

    def run(program: str, *words) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", program, *map(str, words)],
            env={**environment(home), **plain, "PYTHONIOENCODING": "cp1252"},
            cwd=tmp_path,
            capture_output=True,
            encoding="cp1252",
            check=False,
        )

    run.home = home
    return run


def test_a_quick_run(elsewhere):
    done = elsewhere(COMMAND, "run", "--method", "gfr", *SHORT, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "computed now"
    assert done.stderr.count("knows no locks") == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_the_command_line(elsewhere, tmp_path):
    for place in ("apples", "pears"):
        (tmp_path / "Obst" / place).mkdir(parents=True)
        for i in range(5):
            image = Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8))
            image.save(tmp_path / "Obst" / place / f"{i}.png")
    grid = tmp_path / "grid.yaml"
    grid.write_text("# für später\nruns: [{methods: [gfr]}]\n", encoding="utf-8")
    said = {}
    for words in (
        ["methods"],
        ["data", "obst", "Obst"],
        ["run", "--dataset", "obst", "--method", "finetune", "--base", 1, "--tasks", 1]
        + SHORT[:6],
        ["records"],
        ["grid", grid, "--dry-run"],
        ["book", "check"],
        ["compare", "no-such", "record"],
    ):
        done = elsewhere(COMMAND, *words)
        said[words[0]] = done
        assert "Traceback" not in done.stderr, (words, done.stderr)
        # chapters are stale, or fresh where the book has just been made
        codes = {"compare": (2,), "book": (0, 2)}.get(words[0], (0,))
        assert done.returncode in codes, (words, done.stderr)
    assert "2 classes, 8 training and 2 test images" in said["data"].stdout
    assert "obst-2x1-finetune-s0" in said["records"].stdout
    told = said["book"].stdout + said["book"].stderr
    assert "Stale: " in told or "every chapter is fresh" in told


def imports_of(notebook) -> list[str]:
    """The import statements at the top of a chapter's cells, but for the bootstrap."""
    found = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"][1:]:
        if cell["cell_type"] == "code":
            lines = [x for x in "".join(cell["source"]).splitlines() if x[:1] != "%"]
            body = ast.parse("\n".join(lines)).body
            kinds = (ast.Import, ast.ImportFrom)
            found += [ast.unparse(node) for node in body if isinstance(node, kinds)]
    return found


def test_the_imports_of_every_chapter(elsewhere):
    lines = {
        line: 0 for path in (ROOT / "book").glob("*.ipynb") for line in imports_of(path)
    }
    assert len(lines) > 20
    done = elsewhere(ELSEWHERE + "\n".join([*lines, "print(len(sys.modules))"]))
    assert done.returncode == 0, done.stderr


def test_nothing_in_the_library_needs_fcntl():
    for path in (ROOT / "gfrlib").rglob("*.py"):
        assert "import fcntl" not in path.read_text(encoding="utf-8"), path


def unnamed_encodings(path) -> list[int]:
    """Lines that read or write text in whatever encoding the system prefers."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        named = any(word.arg == "encoding" for word in node.keywords)
        opens = name in ("open", "fdopen") and not _of_bytes(node)
        if (opens or name in ("read_text", "write_text")) and not named:
            found.append(node.lineno)
    return found


def _of_bytes(call: ast.Call) -> bool:
    """Whether a call of open names a mode of bytes, or opens no file of text."""
    words = [a.value for a in call.args if isinstance(a, ast.Constant)]
    words += [w.value.value for w in call.keywords if isinstance(w.value, ast.Constant)]
    texts = [word for word in words if isinstance(word, str)]
    whose = getattr(getattr(call.func, "value", None), "id", "")
    return whose in ("os", "Image", "webbrowser", "tarfile") or any(
        "b" in text and len(text) <= 3 for text in texts
    )


def test_the_encoding_of_every_text_file_is_named():
    folders = (ROOT / "gfrlib", ROOT / "book" / "_ext", ROOT / "benchmarks")
    paths = [path for folder in folders for path in folder.rglob("*.py")]
    assert len(paths) > 60
    assert {path: lines for path in paths if (lines := unnamed_encodings(path))} == {}
