"""The chapters of the book: run by papermill, stamped with a digest, refused when stale.

``make book`` calls ``run`` (every chapter whose digest changed, from ``book/`` into ``build/src/book/``), ``check`` (no
chapter is stale) and then ``book/_ext/build_site.py``, which puts the pages beside the executed chapters and builds the site.
"""

import ast
import difflib
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from gfrlib.config import UserError

ROOT = Path(__file__).resolve().parents[2]
SCALARS = {"int": int, "float": float, "str": str, "bool": bool, "None": type(None)}
VERSIONS = (
    "torch",
    "numpy",
    "scikit-learn",
    "matplotlib",
    "seaborn",
    "pandas",
    "ipywidgets",
    "ipykernel",
    "papermill",
)

# Else each kernel tells that its line to this process is not encrypted, and some that they were interrupted when they ended.
QUIET_KERNEL = ["--IPKernelApp.log_level=50"]

# The first code cell of every chapter, the address put in by write_addresses. It leaves no name behind but its modules.
BOOTSTRAP = """\
# Brings the book's library where it is missing (Colab, or this notebook alone in a folder); elsewhere it does nothing.
import importlib.util, os, pathlib, subprocess, sys
if importlib.util.find_spec("gfrlib") is None:
    _url = os.environ.get("GFR_REPOSITORY", "{url}")
    _places = [pathlib.Path.cwd(), *pathlib.Path.cwd().parents, pathlib.Path.cwd() / "feature-replay-book"]
    _home = next((_p for _p in _places if (_p / "gfrlib" / "config.py").is_file()), _places[-1])
    if not _home.is_dir():
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", _url, str(_home)], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--editable", str(_home)], check=True)
    sys.path.insert(0, str(_home))"""


# Parameters -----------------------------------------------------------------------------------------------------------


def check_parameters(namespace: dict, /, **types) -> None:
    """Refuse unknown chapter parameters and mistyped values; called by the cell after the parameters cell.

    ``check_parameters(globals(), base=int, folder=(str, type(None)))``: the keywords are the chapter's parameters with their
    types. Mistyped values are found however they came in (an int is a float too, a bool is no int). papermill writes what
    it is given into a cell of its own after the parameters cell and runs it whether the chapter knows the name or not; that
    cell is recognised in IPython's input history by its first line, and every name it sets must be among the keywords.
    The reader's own variables are therefore never complained of. Raises UserError, so that plain ``papermill`` fails too.
    """
    cells = [
        source
        for source in namespace.get("In", ())
        if source.lstrip().startswith("# Parameters")
    ]
    injected = [
        target.id
        for source in cells
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
        for target in node.targets
    ]
    for name in injected:
        _known(name, types)
    for name, wanted in types.items():
        if name not in namespace:
            raise UserError(
                f"Parameter '{name}' has no value; give it one in the cell tagged 'parameters'."
            )
        _typed(
            name, namespace[name], wanted if isinstance(wanted, tuple) else (wanted,)
        )


def declared(chapter: Path) -> dict[str, tuple[tuple[type, ...], object]]:
    """Name → (types, default) of the lines ``name: type = value`` in the chapter's one cell tagged "parameters"."""
    cells = [
        cell
        for cell in json.loads(chapter.read_text())["cells"]
        if "parameters" in cell["metadata"].get("tags", [])
    ]
    if len(cells) != 1:
        raise UserError(
            f"{chapter.name} must have one cell tagged 'parameters', not {len(cells)}."
        )
    found = {}
    for line in ast.parse("".join(cells[0]["source"])).body:
        try:
            types = tuple(
                SCALARS[word.strip()]
                for word in ast.unparse(line.annotation).split("|")
            )
            found[line.target.id] = types, ast.literal_eval(line.value)
        except (AttributeError, KeyError, ValueError) as problem:
            raise UserError(
                f"{chapter.name}: a parameter is written 'name: type = value  # meaning', "
                f"not '{ast.unparse(line)}'."
            ) from problem
    return found


def _known(name: str, allowed) -> None:
    if name not in allowed:
        near = difflib.get_close_matches(name, allowed, 1)
        raise UserError(
            f"Unknown parameter '{name}'"
            + (f" (did you mean '{near[0]}'?)" if near else "")
            + f"; there are {', '.join(allowed) or 'none'}."
        )


def _typed(name: str, value, types: tuple[type, ...]):
    """The value, as a type of the parameter; text is read as the type wanted, because a command line knows only text."""
    if type(value) in types:
        return value
    if type(value) is int and float in types:
        return float(value)
    raise UserError(
        f"Parameter '{name}' must be {' or '.join(kind.__name__ for kind in types)}, "
        f"not {type(value).__name__} ({value!r})."
    )


def _from_text(value, types: tuple[type, ...]):
    """A value from the command line as the parameter's type where it can be read as one, else unchanged."""
    if not isinstance(value, str) or str in types:
        return value
    words = {"true": True, "false": False, "none": None}
    for kind in types:
        try:
            read = words[value.lower()] if kind in (bool, type(None)) else kind(value)
            if type(read) is kind:
                return read
        except (KeyError, ValueError):
            pass
    return value


# Running --------------------------------------------------------------------------------------------------------------


def chapters(chapter: str | None = None) -> list[Path]:
    """The sources ``book/*.ipynb`` in order; or the one meant by its file name, stem, or number (``01``)."""
    found = sorted(path for path in (ROOT / "book").glob("*.ipynb"))
    if chapter is None:
        return found
    stem = Path(chapter).name.removesuffix(".ipynb")
    meant = [path for path in found if stem in (path.stem, path.stem.split("_")[0])]
    if not meant:
        raise UserError(
            f"There is no chapter '{chapter}'; there are {', '.join(path.stem for path in found) or 'none'}."
        )
    return meant


def digest(chapter: Path, parameters: dict) -> str:
    """What an executed chapter depends on, as a hash: its cells, gfrlib, the committed records, parameters, versions."""
    cells = [
        [cell["cell_type"], "".join(cell["source"]), cell["metadata"]]
        for cell in json.loads(chapter.read_text())["cells"]
    ]
    versions = [
        platform.python_version(),
        *(importlib.metadata.version(name) for name in VERSIONS),
    ]
    parts = hashlib.sha256(
        json.dumps([cells, parameters, versions], sort_keys=True).encode()
    )
    for path in sorted(
        [*(ROOT / "gfrlib").rglob("*.py"), *(ROOT / "data" / "records").rglob("*")]
    ):
        if path.is_file():
            parts.update(
                f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
            )
    return parts.hexdigest()


def run(
    chapter: str | None = None,
    parameters: dict | None = None,
    out: str | Path | None = None,
) -> list[Path]:
    """Execute one chapter, or all, into a folder, each only if its digest changed; returns the executed notebooks.

    With the default parameters the folder is ``build/src/book``, the site's; with others ``build/runs``, unless ``out`` names
    one. Names and types are checked before anything runs. A chapter that fails leaves what was there before as it was.
    Raises UserError for a folder that holds sources or other notebooks of the reader's.
    """
    if out is not None and not str(out).strip():
        raise UserError("The folder for the executed notebooks needs a name.")
    sources, given = chapters(chapter), dict(parameters or {})
    known = {source: declared(source) for source in sources}
    for name in given:
        _known(name, {name: None for source in sources for name in known[source]})
    plan = {}
    for source, lines in known.items():
        values = {
            name: _typed(name, _from_text(value, lines[name][0]), lines[name][0])
            for name, value in given.items()
            if name in lines
        }
        plan[source] = {
            name: value for name, value in values.items() if value != lines[name][1]
        }
    return execute(
        plan, Path(out) if out else ROOT / ("build/runs" if given else "build/src/book")
    )


def execute(
    plan: dict[Path, dict], folder: Path, jobs: int | None = None
) -> list[Path]:
    """Execute the chapters of {source: parameters} into the folder, where their digest changed; returns the executed ones.

    `jobs` at a time, as many as there are processors if None: chapters share runs, and wait for each other's stages. If one
    fails, those that have begun are finished, and the first failure is raised.
    """
    _check_target(folder, list(plan))

    def one(source: Path, values: dict) -> None:
        target, key = folder / source.name, digest(source, values)
        if target.exists() and _stamp(target).get("digest") == key:
            print(f"{source.stem}: fresh", flush=True)
            return
        print(f"{source.stem}: running", flush=True)
        start = time.monotonic()
        _execute(source, target, values, key)
        print(f"{source.stem}: done in {time.monotonic() - start:.0f} s", flush=True)

    os.environ.setdefault(
        "OPENBLAS_NUM_THREADS", "1"
    )  # NumPy's threads in several kernels at once wait for each other
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        begun = [pool.submit(one, source, values) for source, values in plan.items()]
        try:
            for chapter in begun:
                chapter.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return [folder / source.name for source in plan]


def _check_target(folder: Path, sources: list[Path]) -> None:
    """Make the folder; raises UserError where a notebook there was not made by `run`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(
            f"'{folder}' cannot be a folder for executed notebooks "
            f"({problem.strerror}); choose another one."
        ) from problem
    in_build = folder.resolve().is_relative_to((ROOT / "build").resolve())
    for source in sources:
        if folder.samefile(source.parent):
            raise UserError(
                f"'{folder}' holds the chapters' sources, which executed copies would "
                "overwrite; choose another folder."
            )
        target = folder / source.name
        if target.exists() and not in_build and not _stamp(target):
            raise UserError(
                f"'{target}' was not made by this command; move it away, or choose "
                "another folder."
            )


def _execute(source: Path, target: Path, values: dict, key: str) -> None:
    import papermill  # the book's extra; gfrlib alone does without

    partial = target.with_suffix(".tmp.ipynb")
    try:
        notebook = papermill.execute_notebook(
            str(source),
            str(partial),
            values,
            kernel_name="python3",
            cwd=str(ROOT),
            progress_bar=False,
            extra_arguments=QUIET_KERNEL,
        )
    except papermill.PapermillExecutionError as problem:
        failed = target.with_suffix(".failed")  # not .ipynb: never part of the site
        partial.replace(failed)
        what = (
            problem.evalue
            if problem.ename == "UserError"
            else f"{problem.ename}: {problem.evalue}"
        )
        raise UserError(
            f"{source.stem} stopped in cell {problem.exec_count}: {what} "
            f"(the notebook up to there: {failed})"
        ) from problem
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    notebook.metadata.pop("papermill", None)  # times and paths of this machine
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    notebook.metadata["gfr"] = {"digest": key, "parameters": values}
    partial.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    partial.replace(target)
    target.with_suffix(".failed").unlink(missing_ok=True)


def _stamp(executed: Path) -> dict:
    try:
        return json.loads(executed.read_text())["metadata"]["gfr"]
    except (ValueError, KeyError, TypeError):
        return {}


def check(folder: str | Path | None = None) -> list[str]:
    """The chapters whose executed copy (in ``build/src/book``) must not be shown, each as "name: reason"; empty is good."""
    stale = []
    for source in chapters():
        executed = Path(folder or ROOT / "build/src/book") / source.name
        if not executed.exists():
            stale.append(f"{source.stem}: not executed yet")
        elif _stamp(executed).get("digest") != digest(
            source, _stamp(executed).get("parameters", {})
        ):
            stale.append(
                f"{source.stem}: the notebook, gfrlib, a record or a package changed since it was executed"
            )
        elif folder is None and _stamp(executed)["parameters"]:
            stale.append(
                f"{source.stem}: executed with other parameters than the book's"
            )
    return stale


# The repository's address ---------------------------------------------------------------------------------------------


def bootstrap() -> str:
    """The first code cell of every chapter, with the address of ``repository: url:`` in ``_config.yml``."""
    return BOOTSTRAP.replace(
        "{url}", yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    )


def write_addresses() -> list[Path]:
    """Write ``bootstrap()`` into the bootstrap cell of every chapter where it differs; returns the chapters changed."""
    changed = []
    for path in chapters():
        notebook = json.loads(path.read_text())
        cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
        if "".join(cell["source"]) != bootstrap():
            cell["source"] = bootstrap().splitlines(keepends=True)
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
            changed.append(path)
    return changed


def main(command: str) -> int:
    """``python -m gfrlib.book.chapters run|check|addresses``: the steps of the Makefile."""
    try:
        if command == "run":
            run()
        elif command == "addresses":
            print(
                *(f"{path.name}: address written" for path in write_addresses()),
                sep="\n",
            )
        else:
            stale = check()
            print(*stale or ["all chapters are fresh"], sep="\n")
            return int(bool(stale))
    except UserError as problem:
        print(problem, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
