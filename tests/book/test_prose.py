"""The prose checker, and the book, in which it finds nothing."""

import re

import prose
import pytest
from conftest import CHAPTERS, ROOT, cells


@pytest.fixture(scope="module")
def book():
    return {path.stem: prose.pieces(path) for path in prose.reading_order()}


def piece(raw, kind="text", place="cell"):
    return prose.Piece("page", place, kind, raw)


@pytest.mark.parametrize("name", [path.stem for path in prose.reading_order()])
def test_no_sentence_is_long_and_no_title_wide(book, name):
    assert not prose.long_sentences(book[name])
    assert not prose.wide_titles(book[name])


def test_what_is_used_is_explained_before(book):
    assert not prose.unknown(list(book.values()))


def test_markdown_is_cut_into_what_is_read():
    text = (
        "(a-name)=\n# A title\n\nOne `a b`\ntwo. Three {cite:p}`x`, F is $a$.\n\n"
        "```python\nno prose\n```\n\n"
        "```{exercise} ★ Change\n:label: x\n\nDo it.\n```\n\n"
        "$$\nL = x\n$$\n\n- [](a.md) goes\n- [on](b.md)\n"
    )
    found = [(kind, raw) for _, kind, raw in prose.split(text)]
    assert found == [
        ("title", "A title"),
        ("text", "One `a b` two. Three {cite:p}`x`, F is $a$."),
        ("title", "★ Change"),
        ("text", "Do it."),
        ("formula", "L = x"),
        ("text", "[](a.md) goes"),
        ("text", "[on](b.md)"),
    ]
    assert prose.sentences(found[1][1]) == ["One `a·b` two.", "Three , F is x."]
    assert prose.count("Three , F is x.") == 4


def test_sentences_end_where_they_end():
    text = "As Liu et al. say, e.g. so. `run` it. $x$ is it! Is 3.5 % much? Yes."
    assert len(prose.sentences(text)) == 5


def test_sentences_of_code_cells_and_captions_count():
    source = 'words.say("{a:.1f} % are "\n          "right.", a=1)\nprint("not this")'
    cell = {"metadata": {"mystnb": {"figure": {"caption": "A caption."}}}}
    assert [raw for _, _, raw in prose.told(cell, source)] == [
        "1 % are right.",
        "A caption.",
    ]


@pytest.mark.parametrize(
    "raw, name",
    [
        ("A **replay alignment** is", "replay alignment"),
        ("{term}`exemplars <exemplar>` are", "exemplar"),
        ("the [frozen control](x.md) is", "frozen control"),
        ("random numbers, the *latent*", "latent"),
        ("generative feature replay (GFR) is", "GFR"),
        ("GFR (generative feature replay) is", "GFR"),
        ("EWC {cite:p}`kirkpatrick2017overcoming` is", "EWC"),
        ("GFR, Gaussians (`gfr-gaussian`) is", "gfr-gaussian"),
    ],
)
def test_ways_to_explain(raw, name):
    terms = prose.glossary()
    assert prose.explains(piece(raw), name)
    bare = piece(f"the {name} is")
    assert prose.used(bare, terms) == [name] and not prose.explains(bare, name)
    pages = [[bare], [piece(raw)], [bare]]
    found = [what for *_, what in prose.unknown(pages)]
    assert found.count(name) == 1, "unknown on the first, known on the third"
    assert [what for *_, what in prose.unknown(pages, each=True)].count(name) == 2


def test_letters_are_introduced_in_their_cell():
    formula = piece(r"L = \hat u_t + \lambda", "formula")
    around = piece("Here features $u$ count, and $z$ alone.")
    found = [what for *_, what in prose.unknown([[formula, around]])]
    assert found == [r"$\lambda$", "$z$"]


def test_every_page_is_read():
    assert {path.stem for path in prose.reading_order()} | prose.NOT_READ == {
        path.stem
        for path in (ROOT / "book").iterdir()
        if path.suffix in (".md", ".ipynb")
    }


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_cell_says_one_thing(chapter):
    """Jupyter shows what the last line gives: an earlier sentence would be lost."""
    for cell in cells(chapter):
        if cell["cell_type"] == "code":
            starts = re.findall(r"^words\.(?:say|found|table)\(", cell["source"], re.M)
            assert len(starts) < 2, cell["id"]
