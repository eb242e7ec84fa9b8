"""Where a result comes from: commit, machine, versions. No path, no host name."""

import platform
import subprocess
from datetime import UTC, datetime

import numpy as np
import torch

from gfrlib.config import RESULT_VERSION, UserError
from gfrlib.engine.source import GFRLIB, code_digest


def changes() -> list[str]:
    """Files of gfrlib that differ from the last commit; none outside a git checkout."""
    try:
        if not _git("ls-files", "--", "__init__.py"):
            return []  # installed below somebody else's repository
        lines = _git("status", "--porcelain", "--", ".").splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []
    return [line.split(maxsplit=1)[1] for line in lines]


def refuse_changes() -> None:
    """Raises UserError where gfrlib has changes: a record could not name its code."""
    changed = changes()
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise UserError(
            f"gfrlib has changes that are not committed ({changed[0]}{more}), and a "
            "record must name the code that made it: commit or stash them, then run "
            "the same command again (or set GFR_CACHE to keep records of your own)."
        )


def _git(*words: str) -> str:
    """What git says in gfrlib's folder."""
    command = ["git", "-C", str(GFRLIB), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.rstrip()


def code_commit() -> str:
    """The last commit that changed gfrlib, or "unknown"; "+changes" follows where files
    differ from it.

    Commits of records do not change it: a whole recording names one version.
    """
    try:
        if not _git("ls-files", "--", "__init__.py"):
            return "unknown"
        commit = _git("log", "-1", "--format=%H", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+changes" if changes() else "")


def provenance(
    device: str, threads: int, precision: str, content: str = "", commit: str = ""
) -> dict:
    """Where, when and with what a result is made; no path and no host name.

    `commit` is that of the code when the run began (code_commit), if given.
    """
    return {
        "device": device,
        "threads": threads,
        "precision": precision,
        **({"content": content} if content else {}),
        "commit": commit or code_commit(),
        "digest": code_digest(),
        "result_version": RESULT_VERSION,
        "sealed": True,  # its file carries a checksum (lab.seals)
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
