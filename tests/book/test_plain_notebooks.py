"""The chapters for Colab: plain Markdown, and the same code."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted(ROOT.glob("book/*.ipynb"))
SITE = "https://somebody.github.io/a-book/"
# what the book's Markdown has beyond CommonMark: roles, directives, empty links, labels
MARKUP = re.compile(r"\{[a-z:]+\}`|^[`:]{3,}\{|\[\]\(|^\([\w-]+\)=|\]\(#", re.M)


@pytest.fixture(scope="module")
def module():
    sys.path.insert(0, str(ROOT / "book/_ext"))
    import plain_notebooks

    yield plain_notebooks
    sys.path.remove(str(ROOT / "book/_ext"))


@pytest.fixture(scope="module")
def plain(module):
    return {address: module.Plain(address) for address in ("", SITE)}


def sources(notebook, kind):
    cells = notebook["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == kind]


@pytest.mark.parametrize("address", ["", SITE])
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_plain_markdown_and_runs_the_same_code(
    plain, module, chapter, address
):
    before, after = json.loads(chapter.read_text()), plain[address].notebook(chapter)
    for text in sources(after, "markdown"):
        assert not MARKUP.search(text), text
        assert address or ".ipynb)" not in text, "a link that leads nowhere in Colab"
    for old, new in zip(sources(before, "code"), sources(after, "code"), strict=True):
        assert new.removeprefix(module.FORM) == old
    texts = ["\n".join(sources(each, "markdown")) for each in (before, after)]
    for kind, sign in (("exercise", "**Exercise** "), ("solution", "<details>")):
        assert texts[0].count(f"`{{{kind}}}") == texts[1].count(sign)
    shown = sources(after, "markdown")[0]
    assert shown.startswith("# ") and ("with its figures](" in shown) == bool(address)
    assert (f"({SITE}book/{chapter.stem}.html)" in shown) == bool(address)


def test_parameters_are_seen_and_hidden_code_is_folded(plain, module):
    cells = plain[""].notebook(ROOT / "book/01_tasks.ipynb")["cells"]
    folded = [module.FORM in cell["source"] for cell in cells]
    tags = [{*cell["metadata"].get("tags", ())} for cell in cells]
    for cell, fold, tag in zip(cells, folded, tags, strict=True):
        assert fold == bool(module.HIDDEN & tag and "parameters" not in tag)
        assert (cell["metadata"].get("cellView") == "form") == fold
    assert any(folded) and sum("parameters" in tag for tag in tags) == 1


@pytest.mark.parametrize(
    "source, wanted",
    [
        ("a {term}`drift` and {term}`cuts <cut>`", "a drift and cuts"),
        (
            "As {cite:t}`liu2020generative` and {cite:p}`french1999catastrophic` say",
            "As Liu et al. (2020) and (French, 1999) say",
        ),
        (
            "{cite:p}`mccloskey1989catastrophic,liu2020generative`",
            "(McCloskey and Cohen, 1989; Liu et al., 2020)",
        ),
        (
            "see [](11_cost.ipynb).",
            f"see [What does it cost?]({SITE}book/11_cost.html).",
        ),
        ("[here](#guide)", f"[here]({SITE}book/verdicts.html#guide)"),
        ("{ref}`here <guide>`", f"[here]({SITE}book/verdicts.html#guide)"),
        ("[](#fig-example-rows)", "the figure"),
        ("[PyPI](https://pypi.org)", "[PyPI](https://pypi.org)"),
        ("`a[i](j)` and `[](x.ipynb)`", "`a[i](j)` and `[](x.ipynb)`"),
        ("```bash\n[](11_cost.ipynb)\n```\n", "```bash\n[](11_cost.ipynb)\n```\n"),
        ("(a-label)=\n## Title", "## Title"),
        (
            "```{exercise} ★ Title\n:label: a\n:class: b\n\nHow?\n```\n",
            "**Exercise** ★ Title\n\nHow?\n\n",
        ),
        (
            "````{solution} a\n:label: b\n\n```python\n1\n```\nSo.\n````\n",
            "<details>\n<summary>Solution</summary>\n\n```python\n1\n```\nSo.\n\n"
            "</details>\n\n",
        ),
    ],
)
def test_markup_by_hand(plain, source, wanted):
    assert plain[SITE].text(source) == wanted


def test_without_an_address_a_title_stands_out(plain):
    """Where nothing is published, a link would lead to somebody else's page."""
    found = plain[""].text("[](11_cost.ipynb), [here](#guide)")
    assert found == "*What does it cost?*, here"


def test_all_are_written(module, tmp_path):
    written = module.write(tmp_path)
    assert [path.name for path in written] == [path.name for path in CHAPTERS]
    assert all(json.loads(path.read_text())["nbformat"] == 4 for path in written)


def test_the_rocket_opens_the_branch_that_the_workflow_writes(module):
    import gfr_sphinx

    workflow = (ROOT / ".github/workflows/book.yml").read_text()
    assert f"--initial-branch={module.BRANCH}\n" in workflow
    root = "https://colab.research.google.com/github/somebody/a-book"
    buttons = [
        {"url": f"{root}/blob/main/book/01_tasks.ipynb"},
        {"url": "https://github.com/somebody/a-book/blob/main/book/01_tasks.ipynb"},
        {"type": "javascript"},
    ]
    options = {
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
        "repository_branch": "main",
    }
    app = SimpleNamespace(config=SimpleNamespace(html_theme_options=options))
    context = {"header_buttons": [{"buttons": buttons}]}
    gfr_sphinx.plain_in_colab(app, "book/01_tasks", "", context, None)
    assert [button.get("url") for button in buttons] == [
        f"{root}/blob/colab/book/01_tasks.ipynb",
        "https://github.com/somebody/a-book/blob/main/book/01_tasks.ipynb",
        None,
    ]
