"""The chapters for Colab, which knows CommonMark alone: links, terms, citations and
exercises of the book's Markdown become plain Markdown; solutions are folded.

    python book/_ext/plain_notebooks.py FOLDER

The workflow that publishes the site pushes them to the branch BRANCH, where the rocket
buttons lead (gfr_sphinx.py). Nothing that is run changes.
"""

import json
import re
import sys
from pathlib import Path

import yaml
from pybtex.database import parse_file

ROOT = Path(__file__).resolve().parents[2]
BRANCH = "colab"
HIDDEN = {"hide-cell", "hide-input", "remove-cell", "remove-input"}
FORM = "# @title Code behind this page\n"  # Colab folds a cell that begins so
BLOCK = re.compile(r"^(`{3,})\{(exercise|solution)\}([^\n]*)\n(.*?)^\1$", re.M | re.S)
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`(?!`))", re.M | re.S)
ROLE = re.compile(r"\{(term|cite:t|cite:p|ref|std:ref)\}`([^`]*)`")
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]*)\)")
TARGET = re.compile(r"^\(([\w-]+)\)=\s*\n", re.M)
LABELLED = re.compile(r"^\(([\w-]+)\)=\s*\n+#+ ([^\n]*)", re.M)


def site() -> str:
    """The address of the published pages; "" while it is not set."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    owner, name = config["repository"]["url"].rstrip("/").split("/")[-2:]
    return "" if owner == "OWNER" else f"https://{owner.lower()}.github.io/{name}/"


def markdown(page: Path) -> list[str]:
    """The Markdown of a page: its own, or that of each cell of a notebook."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        return [text]
    cells = json.loads(text)["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]


class Plain:
    """The book's Markdown -> CommonMark; `address` of the pages, or ""."""

    def __init__(self, address: str):
        self.address = address
        self.titles: dict[str, str] = {}  # of pages by file name
        self.targets: dict[str, tuple[str, str]] = {}  # label -> page, heading
        for page in sorted(ROOT.glob("book/*.[mi][dp]*")):
            cells = markdown(page)
            first = re.search(r"^# (.*)", "\n".join(cells), re.M)
            self.titles[page.name] = first.group(1) if first else page.stem
            for label, heading in LABELLED.findall("\n".join(cells)):
                self.targets[label] = page.name, heading
        entries = parse_file(str(ROOT / "book/references.bib")).entries
        self.works = {key: self._work(entry) for key, entry in entries.items()}

    @staticmethod
    def _work(entry) -> tuple[str, str]:
        names = [
            " ".join(p.prelast_names + p.last_names)
            for p in entry.persons.get("author", [])
        ]
        who = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
        return re.sub(r"[{}]", "", who), entry.fields["year"]

    def text(self, source: str) -> str:
        """One cell's Markdown."""
        source = BLOCK.sub(self._block, source)
        source = ROLE.sub(self._role, source)  # before code: a role ends in backticks
        source = TARGET.sub("", source)
        parts = CODE.split(source)
        parts[::2] = [LINK.sub(self._link, part) for part in parts[::2]]
        return "".join(parts)

    def notebook(self, page: Path) -> dict:
        """The chapter's notebook for Colab."""
        found = json.loads(page.read_text(encoding="utf-8"))
        for cell in found["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                source = self.text(source)
            elif HIDDEN & (tags := {*cell["metadata"].get("tags", ())}) and (
                "parameters" not in tags  # those are there to be changed
            ):
                cell["metadata"]["cellView"] = "form"
                source = FORM + source
            cell["source"] = source.splitlines(keepends=True)
        first = found["cells"][0]
        title, _, rest = "".join(first["source"]).partition("\n")
        shown = self._linked("with its figures", page.name, "")
        note = (
            "*A chapter of the feature-replay book"
            f"{f', here {shown}' if self.address else ''}. Commands for a shell want "
            "`%cd /content/feature-replay-book` once, and `!` before each.*"
        )
        whole = f"{title}\n\n{note}\n{rest}"
        first["source"] = whole.splitlines(keepends=True)
        return found

    # what stands in a text -----------------------------------------------------------

    def _block(self, match) -> str:
        _, kind, title, body = match.groups()
        body = re.sub(r"^(:[\w-]+:[^\n]*\n)+", "", body).strip()
        if kind == "exercise":
            return f"**Exercise**{title.rstrip()}\n\n{body}\n"
        return f"<details>\n<summary>Solution</summary>\n\n{body}\n\n</details>\n"

    def _role(self, match) -> str:
        role, inside = match.groups()
        if role.startswith("cite"):
            works = [self.works[key.strip()] for key in inside.split(",")]
            if role == "cite:t":
                return ", ".join(f"{who} ({year})" for who, year in works)
            return f"({'; '.join(f'{who}, {year}' for who, year in works)})"
        words, target = re.fullmatch(r"(.*?)(?: <(.*)>)?", inside, re.S).groups()
        return words if role == "term" else f"[{words}](#{target or words})"

    def _link(self, match) -> str:
        words, target = match.groups()
        if re.match(r"\w+:", target):
            return match.group()
        page, _, label = target.partition("#")
        if page not in self.titles:  # a label alone, with or without its sign
            label = label or page
            named = "the figure" if label.startswith("fig-") else "there"
            page, heading = self.targets.get(label, ("", named))
        else:
            heading = self.titles[page]
        shown = words or LINK.sub(r"\1", heading)
        # a title stands out from the sentence, as a link or so
        return (
            self._linked(shown, page, label) if self.address or words else f"*{shown}*"
        )

    def _linked(self, words: str, page: str, label: str) -> str:
        words = ROLE.sub(self._role, words)
        if not self.address or not page:
            return words
        where = f"{Path(page).stem}.html{'#' * bool(label)}{label}"
        return f"[{words}]({self.address}book/{where})"


def write(folder: Path) -> list[Path]:
    """All chapters into FOLDER/book; returns their paths."""
    plain, written = Plain(site()), []
    (folder / "book").mkdir(parents=True, exist_ok=True)
    for page in sorted(ROOT.glob("book/*.ipynb")):
        path = folder / "book" / page.name
        text = json.dumps(plain.notebook(page), indent=1, ensure_ascii=False)
        path.write_text(f"{text}\n", encoding="utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Give one folder: python book/_ext/plain_notebooks.py FOLDER")
    print(f"{len(write(Path(sys.argv[1])))} notebooks in {sys.argv[1]}")
