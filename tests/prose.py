"""Read the book's pages as prose: what is long, what is used before it is explained.

    python tests/prose.py [PAGE ...] [--each] [--brief]

PAGE is a page's name (04_cifar100, map), all pages of _toc.yml if none is given. Text
is Markdown, captions, and the sentences of `words.say` and `words.found`. Four lists:

words     of each page, and how many sentences are longer than LONGEST words;
long      those sentences, each with its page and cell (or line);
unknown   what stands on a page before it is explained, in the reading order of _toc.yml
          (with --each: on the page itself);
titles    over WIDEST characters.

What must be explained: the glossary's terms (but for PLAIN, also ordinary words), rows
of the table of methods and what looks like one (none+gan), abbreviations (two capitals;
but for KNOWN), letters in formulas.

What explains: a term, row or abbreviation stands in **bold** or as {term}`…`, is the
text of a link, or stands alone in *italics*; an abbreviation stands in or before
brackets that expand it, or before a citation; a row stands beside its label (`gfr`,
"GFR, GAN"); a letter, anywhere in its first cell, follows a noun ("the extractor $F$",
"images $(x, y)$"), is followed by "is" or "are", or stands left of a sign of equality.
Headings explain nothing and use nothing.
"""

import ast
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from gfrlib.book.looks import LOOKS

ROOT = Path(__file__).resolve().parents[1]
LONGEST, WIDEST = 30, 60
NOT_READ = {"api", "bibliography", "glossary"}  # looked up, not read

# Terms of the glossary that are ordinary words, mostly used as such.
PLAIN = {
    *("base", "split", "cut", "stage", "head", "null", "record", "memory", "features"),
    *("task", "seed", "penalty", "replay", "classifier", "generator", "drift"),
    *("mean over tasks", "final accuracy", "class order", "forgetting", "provenance"),
    *("old classes", "new classes", "seen classes"),
}
KNOWN = {
    *("CIFAR", "CPU", "CSV", "CUDA", "GB", "GPU", "GPUs", "GiB", "HTML", "ID", "IDs"),
    *("ImageNet", "JPEG", "JSON", "JavaScript", "JupyterLab", "KiB", "MB", "MNIST"),
    *("MiB", "NumPy", "OK", "PDF", "PNG", "PyTorch", "ResNet", "SSD", "SVG", "TiB"),
    *("URL", "XDG", "YAML", "GitHub", "NVIDIA", "RAM", "ASCII", "AdamW", "NaN", "RGB"),
    *("TinyImageNet", "DataFrame", "WebP", "TB", "TIFF", "BMP", "GIF", "EXIF"),
    *("README", "macOS", "ARM", "cuDNN", "MathJax", "JupyterBook", "OpenGraph"),
    *("ReLU", "LeakyReLU", "SGD"),  # readers know PyTorch
}
GREEK = re.compile(
    "alpha|beta|gamma|delta|(var)?epsilon|zeta|eta|theta|lambda|mu|nu|pi|rho|sigma|tau|"
    "(var)?phi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Sigma|Phi|Psi|Omega|ell"
)
# words before a letter that name nothing
NO_NOUN = re.compile(
    "a|about|after|and|as|at|between|both|but|by|each|equals?|every|first|for|from|if|"
    "in|into|is|its?|less|like|more|no|not|of|on|one|or|over|so|than|that|the|then|to|"
    "two|under|until|up|when|where|which|while|with|without"
)
FENCE = re.compile(r"\s*(`{3,}|:{3,}|~{3,})(?:\{([\w:-]+)\})?\s*(.*)$")
SILENT = re.compile(r"code|math|toctree|auto|eval-rst|bibliography|image|glue|raw")
TITLED = ("exercise", "admonition", "grid-item-card", "tab-item")


@dataclass
class Piece:
    """A paragraph, item, cell of a table, caption, sentence, heading or formula."""

    page: str
    place: str  # a cell's name, or a line
    kind: str  # "text", "title" or "formula"
    raw: str


# Reading ------------------------------------------------------------------------------


def reading_order() -> list[Path]:
    """The pages of _toc.yml."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    names = [contents["root"]]
    for part in contents["parts"]:
        names += [entry["file"] for entry in part["chapters"]]
    found = [next(ROOT.glob(f"{name}.*")) for name in names]
    return [path for path in found if path.stem not in NOT_READ]


def pieces(path: Path) -> list[Piece]:
    """All prose of a page, in its order."""
    if path.suffix == ".md":
        parts = split(path.read_text())
        return [Piece(path.stem, f"line {at}", kind, raw) for at, kind, raw in parts]
    found = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts = split(source) if cell["cell_type"] == "markdown" else told(cell, source)
        found += [Piece(path.stem, cell["id"], kind, raw) for _, kind, raw in parts]
    return found


def told(cell: dict, source: str) -> list[tuple]:
    """What a code cell says: its sentences, and its figure's caption."""
    texts = []
    try:
        calls = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)]
    except SyntaxError:
        calls = []
    for call in calls:
        if ast.unparse(call.func) in ("words.say", "words.found") and call.args:
            strings = [
                n.value
                for n in ast.walk(call.args[0])
                if isinstance(n, ast.Constant) and isinstance(n.value, str)
            ]
            # a number in braces is one word
            texts += [re.sub(r"\{[^{}]*\}", "1", text) for text in strings]
    caption = cell["metadata"].get("mystnb", {}).get("figure", {}).get("caption", "")
    return [part for text in (*texts, caption) for part in split(text)]


def split(text: str) -> list[tuple[int, str, str]]:
    """(line, kind, text) of the parts of a page in MyST Markdown."""
    found, part, fences, formula = [], [], [], None

    def flush(kind="text"):
        if part:
            found.append((part[0][0], kind, " ".join(words for _, words in part)))
            part.clear()

    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        inside = fences[-1] if fences else ("", "")
        if formula is not None or words.startswith("$$"):
            formula = (formula or "") + words
            if formula.count("$$") > 1:
                flush()
                found.append((number, "formula", formula.replace("$$", "")))
                formula = None
        elif fences and words == inside[0]:
            flush()
            fences.pop()
        elif inside[1] is None or inside[1] and SILENT.match(inside[1]):
            continue
        elif opened := FENCE.match(line):
            flush()
            fences.append((opened[1], opened[2]))
            if opened[2] in TITLED and opened[3]:
                found.append((number, "title", opened[3]))
        elif not words or words.startswith("<") or re.match(r"\(\S+\)=$", words):
            flush()
        elif fences and not part and re.match(r":[\w-]+:", words):
            continue  # an option
        elif words[0] == "#":
            flush()
            found.append((number, "title", words.lstrip("# ")))
        else:
            item = re.match(r"(?:\* - |- |\* |\d+\. |> |: )(.*)", words)
            if item or words[0] == "|":
                flush()
            part.append((number, item[1] if item else words))
            if words[0] == "|":
                flush()
    flush()
    return found


def plain(raw: str) -> str:
    """Words as a reader sees them; a formula, a citation, a piece of code is one."""
    text = re.sub(r"\{cite:p\}`[^`]*`", "", raw)
    text = re.sub(r"\{(?:cite:\w+|numref|eq|ref|doc)\}`[^`]*`", "Link", text)
    text = re.sub(r"\{[\w:]+\}`([^`<]*?) ?(?:<[^>]*>)?`", r"\1", text)
    text = re.sub(r"`[^`]*`", lambda m: m[0].replace(" ", "·"), text)
    text = re.sub(r"\$[^$]*\$", "x", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", lambda m: m[1] or "Link", text)
    return re.sub(r"\*+|<[^>]*>", "", text)


ENDS = re.compile(r"(?<=[.!?])[\"”’)]*\s+(?=[\"“(]?(?:[A-Z0-9`]|x\b|iCaRL))")
SHORT = re.compile(r"\b(al|e\.g|i\.e|vs|No|Fig|Eq|Sec|approx|cf)\.$")


def sentences(raw: str) -> list[str]:
    """The sentences of a piece."""
    found: list[str] = []
    for part in ENDS.split(plain(raw)):
        if found and SHORT.search(found[-1]):
            found[-1] += f" {part}"
        else:
            found.append(part)
    return [part for part in found if part.strip()]


def count(text: str) -> int:
    """Words: what holds a letter or a digit."""
    return sum(bool(re.search(r"\w", word)) for word in text.split())


# What must be explained ---------------------------------------------------------------


def glossary() -> list[str]:
    """The glossary's terms, the longest first."""
    entries = re.findall(r"```\{glossary\}\n(.*?)```", GLOSSARY.read_text(), re.S)
    terms = re.findall(r"^(\S.*)$", "\n".join(entries), re.M)
    return sorted(set(terms) - PLAIN, key=len, reverse=True)


GLOSSARY = ROOT / "book" / "glossary.md"
ROWS = sorted((name for name in LOOKS if "-" in name), key=len, reverse=True)
ROW = re.compile(
    r"(?<![\w/.-])(" + "|".join(map(re.escape, ROWS)) + r"|[a-z]+\+[a-z]+)(?![\w-])"
)
ABBREVIATION = re.compile(r"\b[A-Za-z]*[A-Z][a-z]*[A-Z][A-Za-z]*\b")


def used(piece: Piece, terms: list[str]) -> list[str]:
    """The terms, rows and abbreviations of a piece, in order."""
    text = re.sub(r"\{cite:\w\}`[^`]*`|\]\([^)]*\)|\{py:\w+\}`[^`]*`", " ", piece.raw)
    text = re.sub(r"\$[^$]*\$|https?://\S+|\{\w+\}", " ", text)
    text = re.sub(r"[\w.-]+/[\w.-]+#\d+", " ", text)  # a thread of a repository
    found = [(m.start(), m[1]) for m in ROW.finditer(text)]
    text = ROW.sub(lambda m: " " * len(m[0]), text)
    bare = re.sub(r"`[^`]*`", lambda m: " " * len(m[0]), text)
    for term in terms:
        form = re.compile(rf"\b{re.escape(term)}(?:e?s)?\b", re.I)
        found += [(m.start(), term) for m in form.finditer(bare)]
        bare = form.sub(lambda m: " " * len(m[0]), bare)
    short = [m for m in ABBREVIATION.finditer(bare) if m[0] not in KNOWN]
    found += [(m.start(), m[0].removesuffix("s")) for m in short]
    return list(dict.fromkeys(name for _, name in sorted(found)))


def explains(piece: Piece, name: str) -> bool:
    """Whether this piece explains (or links) the term, row or abbreviation."""
    form = rf"(?<![\w-]){re.escape(name)}(?:e?s)?(?![\w-])"
    marked = re.findall(r"\*\*(.+?)\*\*|\{term\}`(.+?)`|\[([^\]]+)\]\(", piece.raw)
    if any(re.search(form, " ".join(some), re.I) for some in marked):
        return True
    if re.search(rf"(?<!\*)\*{re.escape(name)}(?:e?s)?\*", piece.raw, re.I):
        return True
    if ROW.fullmatch(name):
        label = LOOKS.get(name, (" ",))[0]
        return label in piece.raw
    if not ABBREVIATION.fullmatch(name):
        return False
    text = piece.raw.replace("*", "")
    return bool(
        re.search(form + r" \((?:\w+[ -]){1,}\w+", text)
        or re.search(r"\w+ \(" + form + r"\)", text)
        or re.search(form + r"[^.]{0,3}\{cite:", text)
    )


# Letters of formulas ------------------------------------------------------------------


def letters(formula: str) -> list[str]:
    """The letters that a formula speaks of, without indices and words."""
    words = r"\\(?:text|mathrm|mathbb|operatorname)\{[^{}]*\}"
    text = re.sub(words, " ", formula)
    for _ in range(3):
        text = re.sub(r"[_^](?:\{[^{}]*\}|\\?\w+\*?|\*|\\top)", " ", text)
    text = re.sub(r"\\(?:hat|bar|tilde|mathcal|mathbf|lVert|rVert) ?", " ", text)
    found = re.findall(r"\\(\w+)|([A-Za-z])", text)
    return list(
        dict.fromkeys(
            "\\" + command if command else letter
            for command, letter in found
            if letter or GREEK.fullmatch(command)
        )
    )


def introduces(text: str, letter: str) -> bool:
    """Whether some formula in the text gives this letter its meaning."""
    for inline in re.finditer(r"(\S*)\s+(?:\()?\$([^$]+)\$(?:[-\w]*)\)?\s*(\S*)", text):
        before, formula, after = inline.groups()
        if letter not in letters(formula):
            continue
        noun = re.sub(r"[^A-Za-z]", "", before).lower()
        named = letters(formula) if formula[0] == "(" else letters(formula)[:1]
        if letter in named and noun and not NO_NOUN.fullmatch(noun):
            return True
        if re.match(r"(is|are|be|means|stands|holds|counts|names|says)\b|\(", after):
            return True
        if re.match(rf"(\\\w+ |\W)*{re.escape(letter)}[^=]*(=|\\in)", formula):
            return True
    return False


# The lists ----------------------------------------------------------------------------


def long_sentences(page: list[Piece]) -> list[tuple[str, int, str]]:
    """(place, words, sentence) of those over LONGEST."""
    every = [
        (piece.place, count(some), some)
        for piece in page
        if piece.kind == "text"
        for some in sentences(piece.raw)
    ]
    return [entry for entry in every if entry[1] > LONGEST]


def wide_titles(page: list[Piece]) -> list[tuple[str, str]]:
    """(place, title) of those over WIDEST."""
    titles = [piece for piece in page if piece.kind == "title"]
    named = [(piece.place, plain(piece.raw)) for piece in titles]
    return [entry for entry in named if len(entry[1]) > WIDEST]


def unknown(pages: list[list[Piece]], each: bool = False) -> list[tuple[str, str, str]]:
    """(page, place, what) used before it is explained, once a page and name."""
    terms, known, found = glossary(), set(), []
    for page in pages:
        reader = Reader(page, terms, set() if each else known)
        found += reader.read()
        known = reader.known
    return found


class Reader:
    """Reads one page, knowing what earlier pages explained."""

    def __init__(self, page: list[Piece], terms: list[str], known: set[str]):
        self.page, self.terms, self.known = page, terms, set(known)
        self.missed: dict[str, tuple] = {}

    def read(self) -> list[tuple[str, str, str]]:
        """(page, place, what) of what was not known when it was used."""
        for number, piece in enumerate(self.page):
            if piece.kind == "text":
                for name in used(piece, self.terms):
                    self.meet(piece, name, explains(piece, name))
                # bold words, {term} and links explain what is not used by that name
                self.known |= {term for term in self.terms if explains(piece, term)}
            if piece.kind != "title":
                self.read_formulas(number, piece)
        # explained after its first use: known on later pages
        late = {n for n in self.missed if any(explains(p, n) for p in self.page)}
        self.known |= late
        return list(self.missed.values())

    def read_formulas(self, number: int, piece: Piece) -> None:
        """The letters of a piece; they may be introduced anywhere in its cell."""
        inline = re.findall(r"\$([^$]+)\$", piece.raw)
        for formula in [piece.raw] if piece.kind == "formula" else inline:
            left = letters(formula.split("=")[0])[:1] if "=" in formula else []
            for letter in letters(formula):
                told = letter in left or introduces(self.around(number), letter)
                self.meet(piece, letter, told, f"${letter}$")

    def around(self, number: int) -> str:
        """The text of a piece's cell; on a page without cells, of its neighbours."""
        place = self.page[number].place
        if place.startswith("line"):
            near = self.page[max(0, number - 4) : number + 5]
        else:
            near = [piece for piece in self.page if piece.place == place]
        return " ".join(piece.raw for piece in near if piece.kind == "text")

    def meet(self, piece: Piece, name: str, told: bool, shown: str = "") -> None:
        """Note that a piece uses a name, and whether it explains it."""
        if name in self.known or name in self.missed:
            return
        if told:
            self.known.add(name)
        else:
            self.missed[name] = (piece.page, piece.place, shown or name)


def main(arguments: list[str]) -> None:
    """Print the four lists."""
    options = {name for name in arguments if name.startswith("--")}
    wanted = [name for name in arguments if name not in options]
    order = reading_order()
    pages = {path.stem: pieces(path) for path in order}
    shown = {name: pages[name] for name in wanted or pages}
    print("words and sentences over", LONGEST, "words")
    total = [0, 0]
    for name, page in shown.items():
        size = sum(count(plain(piece.raw)) for piece in page if piece.kind != "formula")
        long = len(long_sentences(page))
        total = [total[0] + size, total[1] + long]
        print(f"  {name:<16} {size:6} {long:5}")
    print(f"  {'all':<16} {total[0]:6} {total[1]:5}")
    if "--brief" in options:
        return
    print("\nlong sentences: page, cell, words")
    for name, page in shown.items():
        for place, size, text in long_sentences(page):
            print(f"  {name}, {place}, {size}: {text}")
    print("\nused before it is explained: page, cell, what")
    for name, place, what in unknown(list(pages.values()), "--each" in options):
        if name in shown:
            print(f"  {name}, {place}: {what}")
    print(f"\ntitles over {WIDEST} characters")
    for name, page in shown.items():
        for place, title in wide_titles(page):
            print(f"  {name}, {place}, {len(title)}: {title}")


if __name__ == "__main__":
    main(sys.argv[1:])
