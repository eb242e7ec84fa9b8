"""The built site: every link, anchor and asset exists; every picture has words.

Nothing of this machine shows.
"""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from conftest import CHAPTERS, ROOT

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
REPOSITORY = CONFIG["repository"]["url"]
TEMPLATES = {
    "webpack-macros.html",
    "sbt-webpack-macros.html",
}  # pieces of the theme, no pages
HOSTS_FOR_SCRIPTS = {
    "cdn.jsdelivr.net",
    "cdnjs.cloudflare.com",
}  # only where npm could not bring MathJax and the widgets
EXPLORER_LIMIT = 1.5e6  # bytes of widget state in one page
WORDLESS = {"", "image", "figure", "output", "plot", "picture"}


class Page(HTMLParser):
    """What the checks need from one page.

    Anchors, references, pictures, headings, visible text, widget state.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.anchors, self.references, self.pictures = path, set(), [], []
        (
            self.headings,
            self.language,
            self.widgets,
            self.text,
            self._inside,
            self._article,
        ) = [], None, "", [], [], False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, pairs):
        attributes = dict(pairs)
        if tag in ("script", "style", "pre", "code"):
            self._inside.append((tag, attributes.get("type")))
        self.anchors |= {
            attributes[name] for name in ("id", "name") if attributes.get(name)
        }
        if tag == "html":
            self.language = attributes.get("lang")
        self._article |= tag == "article"
        if re.fullmatch("h[1-6]", tag) and self._article:
            self.headings.append(int(tag[1]))
        if tag == "img":
            self.pictures.append((attributes.get("src", ""), attributes.get("alt")))
        for name in ("href", "src", "poster"):
            if attributes.get(name) and not (
                tag == "link" and attributes.get("rel") in ("canonical", "preconnect")
            ):
                self.references.append((tag, attributes[name]))

    def handle_endtag(self, tag):
        self._article &= tag != "article"
        if self._inside and self._inside[-1][0] == tag:
            self._inside.pop()

    def handle_data(self, data):
        if self._inside and self._inside[-1] == (
            "script",
            "application/vnd.jupyter.widget-state+json",
        ):
            self.widgets += data
        elif not self._inside:
            self.text.append(data)


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    """Every page of the site by its path."""
    return {
        path: Page(path)
        for path in sorted(site.rglob("*.html"))
        if path.name not in TEMPLATES
    }


def inside_widgets(page: Page):
    """The HTML values in a page's widget state."""
    models = json.loads(page.widgets)["state"].values() if page.widgets else ()
    return [
        model["state"]["value"]
        for model in models
        if model["model_name"] == "HTMLModel"
    ]


def test_every_file_of_the_contents_is_a_page(site):
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    named = [contents["root"]] + [
        entry["file"] for part in contents["parts"] for entry in part["chapters"]
    ]
    for name in named:
        assert (site / f"{name}.html").is_file(), (
            f"{name} is in _toc.yml and not in the site"
        )
    assert {f"book/{path.stem}" for path in CHAPTERS} <= set(named), (
        "a chapter is not in _toc.yml"
    )
    for name in ("index.html", "404.html", "sitemap.xml", "search.html"):
        assert (site / name).is_file()


def test_links_anchors_and_assets(site, pages):
    prefix, broken, checked = f"/{REPOSITORY.rstrip('/').split('/')[-1]}/", [], 0
    for path, page in pages.items():
        for tag, reference in page.references:
            parts = urlsplit(reference)
            if parts.scheme or parts.netloc:
                continue
            where = unquote(parts.path)
            target = (
                site / where.removeprefix(prefix)
                if where.startswith(prefix)
                else path.parent / where
                if where
                else path
            )
            target = target.resolve()
            target = target / "index.html" if target.is_dir() else target
            checked += 1
            if not target.is_file():
                broken.append(
                    f"{path.relative_to(site)}: <{tag}> {reference}: no such file"
                )
            elif (
                parts.fragment
                and target in pages
                and unquote(parts.fragment) not in pages[target].anchors
            ):
                broken.append(f"{path.relative_to(site)}: {reference}: no such anchor")
    assert not broken, "\n".join(broken)
    assert checked > 100


def test_pictures_have_words(site, pages):
    mute = []
    for path, page in pages.items():
        pictures = list(page.pictures)
        for html in inside_widgets(page):
            pictures += [
                (
                    "in an explorer",
                    (re.search(r"""alt=(["'])(.*?)\1""", tag) or [None] * 3)[2],
                )
                for tag in re.findall(r"<img[^>]*>", html)
            ]
        mute += [
            f"{path.relative_to(site)}: {source[-80:]}: alt={alt!r}"
            for source, alt in pictures
            if alt is None
            or alt.strip().lower() in WORDLESS
            or re.search(r"\.(png|svg|jpe?g)$", alt)
        ]
    assert not mute, "\n".join(mute)


def test_scripts_and_styles_are_the_sites_own(site, pages):
    own_mathjax = (site / "_static/mathjax").is_dir() and (
        site / "_static/widgets"
    ).is_dir()
    for path, page in pages.items():
        loaded = [
            urlsplit(reference)
            for tag, reference in page.references
            if tag in ("script", "link", "img", "iframe")
        ]
        hosts = {parts.hostname for parts in loaded if parts.netloc}
        published = urlsplit(
            f"https://{REPOSITORY.rstrip('/').split('/')[-2].lower()}.github.io"
        ).hostname
        assert hosts - {published} <= (set() if own_mathjax else HOSTS_FOR_SCRIPTS), (
            f"{path.relative_to(site)}: {hosts}"
        )


def test_colab_and_repository_links_follow_the_file_tree(site):
    root = f"{REPOSITORY}/blob/colab/"  # plain_notebooks.py
    colab = root.replace(
        "https://github.com/", f"{CONFIG['launch_buttons']['colab_url']}/github/"
    )
    if "/OWNER/" in REPOSITORY:
        colab = "run.html#run-unpublished"
    for chapter in CHAPTERS:
        page = Page(site / "book" / f"{chapter.stem}.html")
        links = [
            reference for _, reference in page.references if reference.startswith(colab)
        ]
        assert links, f"{chapter.stem} has no Colab button"
        for link in links if "/OWNER/" not in REPOSITORY else ():
            assert (ROOT / link.removeprefix(colab)).resolve() == chapter
    for path in (site / "book").glob("*.html"):
        for tag, reference in Page(path).references:
            assert tag != "a" or "/OWNER/" not in reference, (
                f"{path.name}: {reference} is nobody's address"
            )
            for kind in ("blob", "edit", "tree", "raw"):
                base = f"{REPOSITORY}/{kind}/{CONFIG['repository']['branch']}/"
                if reference.startswith(base):
                    file = unquote(urlsplit(reference.removeprefix(base)).path)
                    assert (ROOT / file).exists(), f"{path.name}: {reference}"


def test_the_welcome_page_shows_chapter_2s_player(site):
    texts = [
        (site / "book" / f"{name}.html").read_text() for name in ("02_replay", "index")
    ]
    shown = ['class="gfr-player"' in text for text in texts]
    assert shown == [True, True]
    assert len(texts[1]) < EXPLORER_LIMIT and (site / "_static/drift.svg").is_file()


@pytest.mark.parametrize("owner, led", [("OWNER", True), ("somebody", False)])
def test_buttons_explain_that_nobody_published_the_book(owner, led, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book/_ext")
    import gfr_sphinx

    address = f"https://github.com/{owner}/a-book"
    app = SimpleNamespace(
        config=SimpleNamespace(html_theme_options={"repository_url": address})
    )
    colab = "https://colab.research.google.com/github/"
    buttons = [
        {"url": f"{colab}{owner}/a-book/blob/main/book/01_tasks.ipynb"},
        {"url": f"{address}/issues/new"},
        {"type": "javascript"},
    ]
    before = [button.get("url") for button in buttons]
    context = {
        "pathto": lambda page: f"../{page}.html",
        "header_buttons": [{"buttons": buttons}, {"type": "link"}],
    }
    gfr_sphinx.explain_unpublished(app, "book/01_tasks", "", context, None)
    after = [button.get("url") for button in buttons]
    explained = "../book/run.html#run-unpublished"
    assert after == ([explained, explained, None] if led else before)


def test_pages_are_well_formed_for_readers(site, pages):
    for path, page in pages.items():
        if path.parent.name != "book":
            continue
        name, text = path.relative_to(site), " ".join(page.text)
        assert page.language == "en", name
        assert page.headings.count(1) == 1, f"{name}: {page.headings.count(1)} titles"
        assert all(
            after <= before + 1
            for before, after in zip(page.headings, page.headings[1:], strict=False)
        ), f"{name}: a heading skips a level: {page.headings}"
        assert not re.search(
            r"\{(cite|ref|eq|numref|term|doc|glue|py)(:\w+)?\}", text
        ), f"{name}: a role shows as text"
        assert "Traceback (most recent call last)" not in path.read_text(), name
        assert len(page.widgets) <= EXPLORER_LIMIT, (
            f"{name}: explorers of {len(page.widgets) / 1e6:.1f} MB"
        )


def test_explorers_are_readable_without_javascript(pages):
    shown = {path.stem: page for path, page in pages.items() if page.widgets}
    assert "01_tasks" in shown or "01_tasks" not in {path.stem for path in CHAPTERS}, (
        "the task-split explorer is missing"
    )
    for name, page in shown.items():
        instead = re.findall(
            r"<noscript>(.*?)</noscript>", page.path.read_text(), flags=re.DOTALL
        )
        assert any("<table" in text for text in instead), (
            f"{name}: nothing stands in for the explorer without JavaScript"
        )


def test_nothing_of_this_machine_shows(site):
    paths = [str(ROOT), str(Path.home()), "/tmp/"]
    for path in site.rglob("*"):
        if (
            path.suffix in (".html", ".js", ".ipynb", ".xml", ".md", ".txt")
            and "_static" not in path.parts
        ):
            text = path.read_text(encoding="utf-8", errors="replace")
            found = [place for place in paths if len(place) > 5 and place in text]
            assert not found, f"{path.relative_to(site)} shows {found}"


def test_markdown_of_cells_is_rendered(site, pages):
    """Tables and formulas that a cell displays are tables and formulas.

    No bars, no dollars in the text of a page.
    """
    seen = 0
    for path in pages:
        bare = re.sub(
            r"<(pre|script|style)\b.*?</\1>|<code\b.*?</code>|<[^>]*>",
            " ",
            path.read_text(),
            flags=re.S,
        )
        assert not re.search(r"\|\s*(---|–|—)+\s*\||\$\\[a-z]", bare), path.name
        seen += len(bare)
    assert seen > 100_000
