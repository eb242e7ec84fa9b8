"""Take outputs, counts and an editor's traces out of notebooks.

Exit 1 if one had any, so that pre-commit stops there.
"""

import json
import sys
from pathlib import Path

KEPT_IN_CELL = {"tags", "mystnb"}


def stripped(text: str) -> str:
    """The notebook's text as it is committed."""
    notebook = json.loads(text)
    notebook["metadata"] = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    for cell in notebook["cells"]:
        cell["metadata"] = {
            name: value
            for name, value in cell["metadata"].items()
            if name in KEPT_IN_CELL
        }
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main(names: list[str]) -> int:
    """Write each notebook back where it differs."""
    changed = 0
    for path in map(Path, names):
        before = path.read_text(encoding="utf-8")
        after = stripped(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"{path}: outputs and traces taken out")
            changed = 1
    return changed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
