"""The library's page names every module of the four rooms."""

import re

from conftest import ROOT

# what figures and explorers are made of stands under the names that are used
PARTS = ("accuracy", "inside", "features", "costs", "controls", "class_pictures")


def test_the_page_of_the_library_has_every_module():
    page = (ROOT / "book/api.md").read_text()
    named = re.findall(r"^\.\. automodule:: (\S+)$", page, flags=re.M)
    found = []
    for path in sorted((ROOT / "gfrlib").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        part = path.stem in (*PARTS, "results_explorer")
        if not (path.stem.startswith("__") or ".cli." in name or part):
            found.append(name)
    assert sorted(named) == sorted(found)
