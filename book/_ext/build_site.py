"""Build the site: pages, style and scripts beside the executed chapters, strictly.

Called by ``make book`` after ``gfrlib.book.chapters`` has run the chapters:
python book/_ext/build_site.py [SOURCE [OUTPUT]]
"""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from welcome_player import write_player  # beside this file

from gfrlib.book.chapters import ROOT, chapters, check
from gfrlib.config import UserError

# What the site takes from npm, so that it works without any other host: package, sha256
# of its archive, wanted files, folder. Nothing of it is committed; without npm the
# pages name the usual content network instead (gfr_sphinx.py beside this file).
VENDORED = (
    (
        "@jupyter-widgets/html-manager@1.0.15",
        "2b9d65cb7913e1c7d671757a10008b32c9c2448d4429513371e55c07d6107638",
        (
            "dist/embed.js",
            "dist/1551f4f60c37af51121f.woff2",
            "dist/7a3337626410ca2f4071.woff2",
            "dist/d878b0a6a1144760244f.woff2",
            "LICENSE",
        ),
        "widgets",
    ),
    (
        "mathjax@3.2.2",
        "1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09",
        (
            "es5/tex-mml-chtml.js",
            "es5/input/tex/extensions/",
            "es5/output/chtml/fonts/",
            "LICENSE",
        ),
        "mathjax",
    ),
)


def vendor(folder: Path) -> None:
    """Bring the page scripts of VENDORED from npm into the folder, checked.

    Where npm or the network is missing, say so and go on. Raises UserError for a file
    that is not the one we know.
    """
    for package, checksum, wanted, name in VENDORED:
        if (folder / name).is_dir():
            continue
        with tempfile.TemporaryDirectory() as place:
            try:
                command = ["npm", "pack", "--silent", "--fetch-retries=0", package]
                subprocess.run(
                    command, cwd=place, check=True, capture_output=True, timeout=120
                )
                archive = next(Path(place).glob("*.tgz")).read_bytes()
            except (OSError, subprocess.SubprocessError, StopIteration):
                print(
                    f"{package} could not be had from npm; "
                    "the pages will load it from a content network.",
                    flush=True,
                )
                continue
        if hashlib.sha256(archive).hexdigest() != checksum:
            raise UserError(
                f"{package} as npm serves it is not the file we know; "
                f"see VENDORED in {Path(__file__).name}."
            )
        partial = folder / f".{name}"
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            for member in files:
                path = member.name.removeprefix("package/")
                if member.isfile() and any(
                    path == want or want[-1] == "/" and path.startswith(want)
                    for want in wanted
                ):
                    target = partial / path.removeprefix("dist/")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(files.extractfile(member).read())
        partial.rename(folder / name)


def draw_pictures(folder: Path) -> None:
    """The pictures of pages that are no chapters, drawn for light and dark alike."""
    import matplotlib

    matplotlib.use("Agg")
    from method_picture import method_picture  # beside this file

    folder.mkdir(parents=True, exist_ok=True)
    form = {"transparent": True, "bbox_inches": "tight", "metadata": {"Date": None}}
    method_picture().savefig(folder / "method.svg", **form)


def refuse_stale(source: str | Path | None) -> None:
    """Raises UserError that names the chapters of ``source`` not to be shown."""
    found = check(None if source is None else Path(source) / "book")
    if found:
        raise UserError(f"Stale chapters: {'; '.join(found)}; make book runs them.")


def site(source: str | Path | None = None, output: str | Path | None = None) -> Path:
    """Build the site from the executed chapters in ``source``/book, strictly.

    ``source`` is ``build/src``, ``output`` ``build`` unless given. Pages, bibliography,
    style and scripts are copied first, and what the book no longer has is removed.
    Returns the page to open. Raises UserError, before anything is written, where a
    chapter is not executed or is stale, as it would be shown with old figures.
    """
    refuse_stale(source)
    source = Path(source or ROOT / "build/src").resolve()
    output = Path(output or ROOT / "build").resolve()
    (ROOT / "build/vendor").mkdir(parents=True, exist_ok=True)
    (source / "book").mkdir(parents=True, exist_ok=True)
    vendor(ROOT / "build/vendor")
    shutil.copytree(ROOT / "build/vendor", source / "vendor", dirs_exist_ok=True)
    shutil.rmtree(source / "book" / "_static", ignore_errors=True)
    shutil.copytree(ROOT / "book" / "_static", source / "book" / "_static")
    draw_pictures(source / "book" / "_generated")
    write_player(source / "book")
    pages = [
        path for path in (ROOT / "book").iterdir() if path.suffix in (".md", ".bib")
    ]
    for page in pages:
        shutil.copyfile(page, source / "book" / page.name)
    keep = {page.name for page in pages} | {path.name for path in chapters()}
    for path in (source / "book").iterdir():
        if path.is_file() and path.name not in keep:
            path.unlink()
    # no page of an earlier build may survive
    shutil.rmtree(output / "_build", ignore_errors=True)
    command = [
        *(str(Path(sys.executable).parent / "jupyter-book"), "build", str(source)),
        *("--config", str(ROOT / "_config.yml"), "--toc", str(ROOT / "_toc.yml")),
        *("--path-output", str(output)),
        *("-W", "-n", "--keep-going", "--all", "-q"),
    ]
    # warnings go to stderr
    done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise UserError(
            "The site was not built: see the warnings above, each of which is an error."
        )
    first = output / "_build/html/index.html"
    # it only leads on; without an icon a browser asks for one that is not there
    icon = '<link rel="icon" href="_static/favicon.svg" />'
    text = first.read_text(encoding="utf-8").rstrip()
    first.write_text(f"{text}\n{icon}\n", encoding="utf-8")
    return first


if __name__ == "__main__":
    try:
        print(f"The book is built; open file://{site(*sys.argv[1:3])}")
    except UserError as problem:
        sys.exit(str(problem))
