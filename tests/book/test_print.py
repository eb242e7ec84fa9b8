"""The book as one PDF, tried on a site of two pages."""

import contextlib
import io
import re

import pytest
from conftest import ROOT

from gfrlib.config import UserError

PAGE = """<!DOCTYPE html><html data-theme="dark"><head><title>x</title>
<style>.only-here {{color: rgb(1, 2, 3)}}</style></head><body>
<div class="bd-sidebar-primary">Navigation</div>
<article class="bd-article"><h1 id="top">{title}</h1>{body}
<button>Press</button><details class="hide"><summary>Code</summary>hidden</details>
<details class="note"><summary>Solution</summary>unfolded</details></article>
</body></html>"""
WELCOME = (
    '<p id="gfr-pdf"></p><p>See <a href="01_one.html#here">one</a>, '
    '<a href="../_modules/x.html">a source</a>, '
    '<a href="https://example.org">elsewhere</a>.</p>'
)
ONE = '<p id="here">Long text.</p>' + "<p>line</p>" * 120 + '<a href="#here">up</a>'


@pytest.fixture
def printer(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book/_ext")
    import print_book

    parts = [("", ["index"]), ("A part", ["01_one", "not_built"])]
    monkeypatch.setattr(print_book, "contents", lambda: parts)
    return print_book


@pytest.fixture
def small_site(tmp_path):
    (tmp_path / "book").mkdir()
    for name, title, body in (("index", "Welcome", WELCOME), ("01_one", "One", ONE)):
        text = PAGE.format(title=title, body=body)
        (tmp_path / "book" / f"{name}.html").write_text(text)
    return tmp_path


@pytest.mark.browser
def test_a_site_is_printed_with_contents_and_links(
    printer, small_site, browser_window, monkeypatch, capsys
):
    import site_server

    pypdf = pytest.importorskip("pypdf")
    one = contextlib.nullcontext(browser_window)  # the tests have one Chromium
    monkeypatch.setattr(site_server, "chromium", lambda: one)
    assert printer.main(str(small_site)) == 0
    browser_window.set_default_timeout(30_000)
    pdf = small_site / printer.PDF
    assert str(pdf) in capsys.readouterr().out
    reader = pypdf.PdfReader(pdf)
    texts = [page.extract_text() for page in reader.pages]
    assert "The feature-replay book" in texts[0]
    contents = re.sub(r"\s+", " ", texts[1])
    starts = {t: i + 1 for i, text in enumerate(texts) for t in [text.split("\n")[0]]}
    assert "A part" in contents
    assert f"Welcome {starts['Welcome']}" in contents
    assert f"One {starts['One']}" in contents and len(texts) > starts["One"]
    assert [entry.title for entry in reader.outline] == ["Welcome", "One"]
    whole = "\n".join(texts)
    assert "unfolded" in whole
    for gone in ("Navigation", "Press", "hidden"):
        assert gone not in whole
    links = [
        note.get_object()["/A" if "/A" in note.get_object() else "/Dest"]
        for page in reader.pages
        for note in page.get("/Annots", [])
    ]
    addresses = [link["/URI"] for link in links if "/URI" in link]
    assert addresses == ["https://example.org/"] and len(links) >= 5
    welcome = (small_site / "book/index.html").read_text()
    assert f'href="../{printer.PDF}">' in welcome
    assert not (small_site / printer.WHOLE).exists()
    paper = printer.with_titles(pdf.read_bytes(), ["Other", "titles"])
    outline = pypdf.PdfReader(io.BytesIO(paper)).outline
    assert [entry.title for entry in outline] == ["Other", "titles"]
    assert printer.with_titles(paper, ["one"]) == paper
    printer.link_to(pdf, small_site / "book/index.html")
    assert (small_site / "book/index.html").read_text() == welcome, "linked once"


def test_what_is_missing_is_said_in_one_sentence(
    printer, small_site, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("pypdf")
    assert printer.main(str(tmp_path / "nowhere")) == 2
    assert "call make book first" in capsys.readouterr().err
    import find_chromium

    monkeypatch.setattr(find_chromium, "find", lambda: None)
    assert printer.main(str(small_site)) == 2
    said = capsys.readouterr().err
    assert "Chromium" in said and said.count("\n") == 1
    assert not (small_site / printer.PDF).exists()
    with pytest.raises(UserError):
        printer.print_book(small_site, small_site / printer.PDF)


def test_the_contents_are_those_of_the_book(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book/_ext")
    import print_book

    parts = print_book.contents()
    assert parts[0] == ("", ["index"])
    names = [name for _, some in parts for name in some]
    assert "01_tasks" in names and "api" in names and len(set(names)) == len(names)
    assert print_book.LINK in (ROOT / "book/index.md").read_text()
