"""The chapters of the book: run by papermill, stamped, refused when stale.

``make book`` calls ``run`` (every chapter that is stale, from ``book/`` into
``build/src/book/``), ``check`` (none is stale) and then ``book/_ext/build_site.py``,
which puts the pages beside the executed chapters and builds the site.

An executed chapter's stamp holds the digest of its cells, gfrlib, its parameters and
the packages, the fingerprint of every committed record that it looked for, found or
not, and a checksum of all that the copy shows.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gfrlib.book import live, notebooks
from gfrlib.book.parameters import check_name, declared, from_text, typed
from gfrlib.config import UserError
from gfrlib.engine import paths, plain_yaml
from gfrlib.lab import records

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = (
    *("torch", "numpy", "scikit-learn", "matplotlib", "seaborn", "pandas"),
    *("ipywidgets", "ipykernel", "papermill"),
)

# What chapters are made from, beside notebooks and records; and what those read whose
# cells name the module.
READ = ("gfrlib/**/*.py", "gfrlib/**/*.js")
READ_BY = {"example": "data/*.csv", "verdict_page": "grids/*.yaml"}

# The first code cell of every chapter, with the address that `make address` puts in. It
# leaves no name behind but its modules and names with an underscore. OWNER stands in
# the address until somebody publishes the book.
BOOTSTRAP = """\
# Brings gfrlib where it is missing (Colab, or this notebook alone in a folder).
import importlib.util, os, subprocess, sys
if importlib.util.find_spec("gfrlib") is None:
    _url = "{url}"
    _url, _at = os.environ.get("GFR_REPOSITORY", _url), "feature-replay-book"
    _near = [_p for _p in (".", "..", _at) if os.path.isdir(f"{_p}/gfrlib")]
    _at = os.path.abspath([*_near, _at][0])
    if not _near and "/OWNER/" in _url:
        sys.exit("This book has no published address yet: open the chapter in "
                 "a clone, or name a repository: %env GFR_REPOSITORY=https://…")
    print("Bringing gfrlib: about a minute …")
    _steps = [["git", "clone", "-q", "--depth=1", _url, _at]] * (not _near)
    _steps += [[sys.executable, "-m", "pip", "install", "-qe", _at]]
    if any(subprocess.call(_step) for _step in _steps):
        sys.exit(f"gfrlib could not be brought from {_at if _near else _url}: "
                 "look at the lines above, the address and the network.")
    sys.path.insert(0, _at)"""

# Stamps -------------------------------------------------------------------------------


def chapters(chapter: str | None = None) -> list[Path]:
    """The sources ``book/*.ipynb`` in order.

    Or the one meant by its file name, stem, or number (``01``). Raises UserError if
    there is none.
    """
    found = sorted(p for p in (ROOT / "book").glob("*.ipynb") if p.is_file())
    if chapter is None:
        return found
    stem = Path(chapter).name.removesuffix(".ipynb")
    meant = [path for path in found if stem in (path.stem, path.stem.split("_")[0])]
    if not meant:
        known = ", ".join(path.stem for path in found) or "none"
        raise UserError(f"There is no chapter '{chapter}'; there are {known}.")
    return meant


def digest(chapter: Path, parameters: dict) -> str:
    """Hash of what an executed chapter depends on, but for records.

    That is its cells, gfrlib's source, its parameters, the packages' versions, and the
    other files of the repository that a chapter reads (a recorded search, grids).
    """
    cells = [
        [cell["cell_type"], "".join(cell["source"]), cell["metadata"]]
        for cell in notebooks.read(chapter)["cells"]
    ]
    packages = [_version(name) for name in VERSIONS]
    versions = [platform.python_version(), *packages]
    known = json.dumps([cells, parameters, versions], sort_keys=True)
    parts = hashlib.sha256(known.encode())
    text = json.dumps(cells)
    read = [*READ, *(files for word, files in READ_BY.items() if word in text)]
    for path in sorted(f for pattern in read for f in ROOT.glob(pattern)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        parts.update(f"{path.relative_to(ROOT)} {content}\n".encode())
    return parts.hexdigest()


def _version(package: str) -> str:
    """Raises UserError where it is missing: gfrlib alone does without some."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"{package} is not installed, and running chapters needs it: pip install "
            f"{package}. In a notebook, change the cell with the parameters instead."
        ) from None


def stale(source: Path, executed: Path, parameters: dict | None = None) -> str:
    """Why the executed copy of a chapter must not be shown; empty if it may be.

    parameters: those it must have been run with (default: those of its stamp).
    """
    if not executed.is_file():
        return "not executed yet"
    stamp = notebooks.stamp_of(executed)
    given = stamp.get("parameters", {}) if parameters is None else parameters
    if stamp.get("digest") != digest(source, given):
        return "the notebook, gfrlib or a package changed since it was executed"
    if not notebooks.is_sealed(executed):
        return "its executed copy was edited"
    folder = ROOT / "data" / "records"
    for name, then in stamp.get("records", {}).items():
        if records.fingerprint(name, folder) != then:
            what = "the list of records" if name == records.EVERY else f"record {name}"
            return f"{what} changed since it was executed"
    return ""


def check(folder: str | Path | None = None) -> list[str]:
    """The chapters whose executed copy must not be shown, as "name: reason".

    folder: where the copies are, ``build/src/book`` unless given. Empty is good.
    """
    found = []
    for source in chapters():
        executed = Path(folder or ROOT / "build/src/book") / source.name
        reason = stale(source, executed)
        if not reason and folder is None and notebooks.stamp_of(executed)["parameters"]:
            reason = "executed with other parameters than the book's"
        if reason:
            found.append(f"{source.stem}: {reason}")
    return found


# Running ------------------------------------------------------------------------------


def run(
    chapter: str | None = None,
    parameters: dict | None = None,
    out: str | Path | None = None,
) -> list[Path]:
    """Execute one chapter, or all, into a folder, if stale; returns the executed ones.

    Without `parameters` the folder is ``build/src/book``, the site's; with any
    ``build/runs``, unless ``out`` names one. Names and types are checked before
    anything runs. A chapter that fails leaves what was there before as it was.
    Raises UserError for the folder of the sources and, outside of build/, for one that
    holds a notebook of a chapter's name which was not made here.
    """
    if out is not None and not str(out).strip():
        raise UserError("The folder for the executed notebooks needs a name.")
    sources, given = chapters(chapter), dict(parameters or {})
    known = {source: declared(source) for source in sources}
    for name in given:
        check_name(name, {name: None for lines in known.values() for name in lines})
    plan: dict[Path, dict] = {}
    for source, lines in known.items():
        plan[source] = {}
        for name, value in given.items():
            if name in lines:
                types, default = lines[name]
                value = typed(name, from_text(value, types), types)
                if value != default:
                    plan[source][name] = value
    usual = ROOT / ("build/runs" if given else "build/src/book")
    return execute(plan, Path(out) if out else usual)


def execute(
    plan: dict[Path, dict], folder: Path, jobs: int | None = None
) -> list[Path]:
    """Execute the chapters of {source: parameters} into the folder, where stale.

    `jobs` at a time, as many as there are processors if None: chapters share runs, and
    wait for each other's stages. If one fails, those that have begun are finished, and
    the first failure is raised. Returns the executed notebooks.
    """
    folder = _check_target(folder, list(plan))

    def one(source: Path, values: dict) -> None:
        target = folder / source.name
        if not stale(source, target, values):
            print(f"{source.stem}: fresh", flush=True)
            return
        print(f"{source.stem}: running", flush=True)
        start = time.monotonic()
        _execute(source, target, values, digest(source, values))
        print(f"{source.stem}: done in {time.monotonic() - start:.0f} s", flush=True)

    os.environ[live.QUIET] = "1"
    # NumPy's threads in several kernels at once wait for each other
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with (
        ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool,
        notebooks.kernels_ended(),
    ):
        begun = [pool.submit(one, source, values) for source, values in plan.items()]
        try:
            for chapter in begun:
                chapter.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [folder / source.name for source in plan]


def _check_target(folder: Path, sources: list[Path]) -> Path:
    """Make the folder, and return it with ~ expanded; raises UserError where a
    notebook there is not made by `run`, or nothing can be written.
    """
    folder = paths.given(folder, "The folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
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
        if os.path.lexists(target) and not target.is_file():
            raise UserError(f"'{target}' is no file; move it away.")
        if target.exists() and not in_build and not notebooks.stamp_of(target):
            raise UserError(
                f"'{target}' was not made by this command; move it away, or choose "
                "another folder."
            )
    return folder


def _execute(source: Path, target: Path, values: dict, key: str) -> None:
    """Execute into `target`, all or nothing; what a failed chapter did lies beside it.

    The temporary name is this call's own: another one may write the same target.
    """
    handle, name = tempfile.mkstemp(".tmp.ipynb", f".{source.stem}-", target.parent)
    os.close(handle)
    partial = Path(name)
    try:
        notebook, records = notebooks.execute(source, partial, values, ROOT)
        stamp = {"digest": key, "parameters": values, "records": records}
        partial.write_text(notebooks.stamped(notebook, stamp), encoding="utf-8")
        partial.chmod(0o644)
        partial.replace(target)
    except notebooks.Failed as problem:
        failed = target.with_suffix(".failed")  # not .ipynb: never part of the site
        partial.replace(failed)
        raise UserError(
            f"{source.stem} stopped in cell {problem} (the notebook up to there: "
            f"{failed})"
        ) from problem
    finally:
        partial.unlink(missing_ok=True)
    target.with_suffix(".failed").unlink(missing_ok=True)


# The repository's address -------------------------------------------------------------


def bootstrap() -> str:
    """The first code cell of every chapter, with the address in ``_config.yml``."""
    settings = plain_yaml.read(ROOT / "_config.yml", "The book's settings")
    return BOOTSTRAP.replace("{url}", settings["repository"]["url"])


def write_addresses() -> list[Path]:
    """Write ``bootstrap()`` into the first code cell of every chapter where it differs.

    Returns the chapters changed.
    """
    changed = []
    for path in chapters():
        notebook = notebooks.read(path)
        cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
        if "".join(cell["source"]) != bootstrap():
            cell["source"] = bootstrap().splitlines(keepends=True)
            path.write_text(
                json.dumps(notebook, indent=1, ensure_ascii=False) + "\n",
                encoding="utf-8",
            )
            changed.append(path)
    return changed
