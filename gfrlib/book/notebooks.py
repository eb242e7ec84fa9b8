"""One notebook: read, executed by papermill, stamped with what it was made from."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

from gfrlib.config import UserError

# below that, a kernel warns of its unencrypted connection and of interruptions
QUIET_KERNEL = ["--IPKernelApp.log_level=50"]

# Run after a chapter's last cell: what it looked for among the committed records.
TELL = """\
import json, sys
_records = sys.modules.get("gfrlib.lab.records")
print(json.dumps(_records.looked_for if _records else {}))"""


def read(path: Path) -> dict:
    """The notebook as JSON has it; raises UserError where it is none."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        whole = all("source" in c and "metadata" in c for c in notebook["cells"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise UserError(
            f"'{path}' is no notebook, or a damaged one; restore it, or remove it."
        )
    return notebook


# Stamps -------------------------------------------------------------------------------


def stamp_of(executed: Path) -> dict:
    """What an executed notebook was made from; {} where it does not say."""
    try:
        stamp = read(executed)["metadata"]["gfr"]
    except (UserError, KeyError, TypeError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def stamped(notebook: dict, stamp: dict) -> str:
    """The text of an executed notebook's file, with a checksum of all that it holds."""
    notebook["metadata"]["gfr"] = stamp
    notebook["metadata"]["gfr"]["content"] = _checksum(notebook)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def is_sealed(executed: Path) -> bool:
    """Whether an executed notebook holds what it held when it was executed."""
    notebook = read(executed)
    return notebook["metadata"]["gfr"].get("content") == _checksum(notebook)


def _checksum(notebook: dict) -> str:
    """SHA-256 over the notebook's content but for the checksum itself."""
    about = dict(notebook["metadata"])
    about["gfr"] = {k: v for k, v in about["gfr"].items() if k != "content"}
    known = json.dumps({**notebook, "metadata": about}, sort_keys=True)
    return hashlib.sha256(known.encode()).hexdigest()


# Running ------------------------------------------------------------------------------


class Failed(Exception):
    """A cell raised: its number, and what."""


def execute(
    source: Path, partial: Path, values: dict, folder: Path
) -> tuple[dict, dict]:
    """The executed notebook, and the fingerprints of the records that it looked for.

    The kernel works in `folder`; `partial` is written while it runs. Raises Failed
    where a cell does, and UserError where the kernel dies.
    """
    import nbformat
    import papermill

    notebook = nbformat.read(source, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(TELL))
    try:
        notebook = papermill.execute_notebook(
            notebook,
            str(partial),
            values,
            kernel_name="python3",
            cwd=str(folder),
            progress_bar=False,
            extra_arguments=QUIET_KERNEL,
        )
    except papermill.PapermillExecutionError as problem:
        what = f"{problem.ename}: {problem.evalue}"
        what = problem.evalue if problem.ename == "UserError" else what
        raise Failed(f"{problem.exec_count}: {what}") from problem
    except RuntimeError as problem:  # as nbclient says it
        raise UserError(
            f"The kernel of {source.stem} ended, perhaps of lack of memory; run it "
            "alone, or take smaller parameters."
        ) from problem
    told = json.loads(notebook.cells.pop().outputs[0].text)
    notebook.metadata.pop("papermill", None)  # times and paths of this machine
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    notebook.cells = _only_pictures_in_figures(notebook.cells)
    return notebook, told


@contextlib.contextmanager
def kernels_ended() -> Iterator[None]:
    """Where the block is stopped, by Ctrl-C say, the kernels begun in it are ended.

    The threads that wait for them then come to an end, too.
    """
    import psutil  # ipykernel needs it

    here = psutil.Process()
    others = set(here.children())
    try:
        yield
    except KeyboardInterrupt:
        for name in ("papermill", "traitlets"):  # they would say that a kernel died
            logging.getLogger(name).disabled = True
        for kernel in set(here.children()) - others:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in [*kernel.children(recursive=True), kernel]:
                    process.kill()
        raise


def _only_pictures_in_figures(cells: list) -> list:
    """Cells in which nothing but a picture is shown where the metadata make a figure.

    MyST-NB would put every output of such a cell, the line of provenance too, into a
    figure with the caption: what is no picture moves into a cell of its own below.
    """
    kept = []
    for cell in cells:
        kept.append(cell)
        if "figure" not in cell.metadata.get("mystnb", {}):
            continue
        pictures = [out for out in cell.outputs if _is_picture(out)]
        others = [out for out in cell.outputs if not _is_picture(out)]
        if others:
            below = {**cell, "outputs": others, "id": f"{cell.id}-below"}
            below["metadata"] = {"tags": ["remove-input"]}
            below["source"] = "# where the figure's numbers are from"
            cell.outputs = pictures
            kept.append(type(cell)(below))
    return kept


def _is_picture(output) -> bool:
    return any(kind.startswith("image/") for kind in output.get("data", {}))
