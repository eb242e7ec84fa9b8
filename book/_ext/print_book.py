"""The built site as one PDF: title, contents with page numbers, every page in order.

``make pdf`` calls this on the site that ``make book`` built:
python book/_ext/print_book.py [SITE [PDF]]

Chromium opens every page, so that formulas and figures are drawn; their articles are
put into one page, whose links lead to each other, and that page is printed twice: the
numbers in the contents are known only after the first time. The PDF lies in the site,
and the built welcome page links to it.
"""

import html
import io
import logging
import re
import sys
from pathlib import Path

import yaml

import gfrlib
from gfrlib.book.chapters import ROOT
from gfrlib.config import UserError

sys.path.insert(0, str(ROOT / "tests"))
PDF = "feature-replay-book.pdf"
WHOLE = "print.html"  # exists while it is printed
LINK = '<p id="gfr-pdf">'  # the place on the welcome page
FAR = 600_000  # milliseconds: a slow machine lays out some hundred pages

# Run in every page: its article as HTML that needs no script, and its styles. Names of
# anchors get the page's name; links to pages that are not printed become plain text.
TAKE = """([name, printed]) => {
  const article = document.querySelector('article.bd-article')
  const drop = 'script, noscript, a.headerlink, .copybtn, button, .gfr-pdf, ' +
    '.widget-dropdown, .widget-toggle-buttons, details.hide, ' +
    '.gfr-player .gfr-row:not(:has(img)), .prev-next-area, mjx-assistive-mml, ' +
    'a[href^="data:"]'
  const canvases = [...article.querySelectorAll('canvas')]
  canvases.forEach((canvas) => {
    const image = document.createElement('img')
    image.src = canvas.toDataURL()
    image.style.width = '420px'
    canvas.replaceWith(image)
  })
  article.querySelectorAll(drop).forEach((e) => e.remove())
  article.querySelectorAll('.toggle-hidden')
    .forEach((e) => e.classList.remove('toggle-hidden'))
  article.querySelectorAll('details:not(.gfr-provenance)')
    .forEach((e) => { e.open = true })
  article.querySelectorAll('[id]').forEach((e) => { e.id = `${name}--${e.id}` })
  article.querySelectorAll('img').forEach((e) => {
    e.src = new URL(e.getAttribute('src'), location).href
    e.loading = 'eager'
  })
  article.querySelectorAll('a[href]').forEach((e) => {
    const to = new URL(e.getAttribute('href'), location)
    if (to.origin !== location.origin) return
    const page = to.pathname.split('/').pop().replace('.html', '')
    const anchor = to.hash ? `--${decodeURIComponent(to.hash.slice(1))}` : ''
    if (to.pathname.includes('/book/') && printed.includes(page))
      e.setAttribute('href', `#${page}${anchor}`)
    else e.removeAttribute('href')
  })
  return {
    title: (document.querySelector('article h1') || document).innerText || name,
    headings: [...article.querySelectorAll('h1, h2, h3, h4, h5, h6')]
      .map((e) => e.innerText.trim()),
    article: article.innerHTML,
    styles: [...document.querySelectorAll('style')].map((e) => e.textContent),
    sheets: [...document.querySelectorAll('link[rel=stylesheet]')].map((e) => e.href),
  }
}"""
STYLE = """
html, body {background: white; font-size: 15px; overflow: visible; height: auto}
.gfr-print {max-width: none; padding: 0; margin: 0; display: block}
.gfr-print section.gfr-page {break-before: page}
.gfr-print figure, .gfr-print img, .gfr-print tr, .gfr-print mjx-container[display],
.gfr-print :is(.admonition-title, .cell_input, div.highlight) {break-inside: avoid}
.gfr-print .admonition-title::before, .gfr-print .admonition-title::after
{content: none !important}
.gfr-print :is(h1, h2, h3, h4) {break-after: avoid}
.gfr-print pre {white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12px}
.gfr-print .gfr-scroll, .gfr-print .pst-scrollable-table-container,
.gfr-print .widget-subarea {overflow: visible; max-height: none}
.gfr-print table {font-size: 12.5px; max-width: 100%}
.gfr-print :is(td, th) {white-space: normal; overflow-wrap: anywhere}
.gfr-title {padding-top: 30vh; text-align: center}
.gfr-contents {break-before: page}
.gfr-contents p {display: flex; margin: 2px 0}
.gfr-contents p.gfr-part {font-weight: 600; margin-top: 12px}
.gfr-contents p i {flex: 1; border-bottom: 1px dotted #767676; margin: 0 6px 5px}
"""
FOOT = (
    '<div style="width:100%;font-size:8px;text-align:center;color:#555">'
    '<span class="pageNumber"></span></div>'
)


# The page that is printed -------------------------------------------------------------


def contents() -> list[tuple[str, list[str]]]:
    """[(caption of a part, its pages' names)] of _toc.yml; the root has no caption."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    parts = [("", [Path(toc["root"]).name])]
    for part in toc["parts"]:
        names = [Path(entry["file"]).name for entry in part["chapters"]]
        parts.append((part["caption"], names))
    return parts


def taken(window, address: str, names: list[str]) -> dict[str, dict]:
    """{page: what TAKE gives of it}, each opened in the browser."""
    from site_server import open_page

    found = {}
    for name in names:
        page, _ = open_page(window, f"{address}/book/{name}.html")
        found[name] = page.evaluate(TAKE, [name, names])
        page.close()
    return found


def whole(pages: dict[str, dict], parts: list, numbers: dict[str, int]) -> str:
    """The page that holds all pages, its contents with the numbers known so far."""
    styles = dict.fromkeys(text for page in pages.values() for text in page["styles"])
    sheets = dict.fromkeys(name for page in pages.values() for name in page["sheets"])
    head = "".join(f'<link rel="stylesheet" href="{name}">' for name in sheets)
    head += "".join(f"<style>{text}</style>" for text in (*styles, STYLE))
    lines = []
    for caption, names in parts:
        if caption:
            lines.append(f'<p class="gfr-part">{html.escape(caption)}</p>')
        for name in names:
            title = html.escape(pages[name]["title"])
            number = numbers.get(name, 0)
            lines.append(
                f'<p><a href="#{name}">{title}</a><i></i><span>{number}</span></p>'
            )
    body = "".join(
        f'<section class="gfr-page" id="{name}">{page["article"]}</section>'
        for name, page in pages.items()
    )
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    title = html.escape(settings["title"])
    front = (
        f'<div class="gfr-title"><p style="font-size:40px">{title}</p>'
        f"<p>{html.escape(settings['author'])}</p>"
        f"<p>Version {gfrlib.__version__}</p></div>"
        f'<div class="gfr-contents"><p style="font-size:26px">Contents</p>'
        f"{''.join(lines)}</div>"
    )
    return (
        '<!DOCTYPE html><html lang="en" data-theme="light" data-mode="light"><head>'
        f'<meta charset="utf-8"><title>{title}</title>{head}</head>'
        f'<body><article class="bd-article bd-content gfr-print">{front}{body}'
        "</article></body></html>"
    )


# Printing -----------------------------------------------------------------------------


def printed(window, address: str) -> bytes:
    """The PDF of the page at the address."""
    page = window.new_page()
    page.set_default_timeout(FAR)
    page.emulate_media(media="print", color_scheme="light")
    page.goto(address, wait_until="load", timeout=FAR)
    page.evaluate("document.fonts.ready.then(() => true)")
    paper = page.pdf(
        format="A4",
        scale=0.8,
        print_background=True,
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=FOOT,
        margin={"top": "16mm", "bottom": "16mm", "left": "15mm", "right": "15mm"},
        outline=True,
        tagged=True,
    )
    page.close()
    return paper


def page_numbers(paper: bytes, names: list[str]) -> dict[str, int]:
    """{page of the site: page of the PDF on which it begins}, read from the outline."""
    import pypdf

    reader = pypdf.PdfReader(io.BytesIO(paper))
    tops = [entry for entry in reader.outline if not isinstance(entry, list)]
    at = [reader.get_destination_page_number(entry) + 1 for entry in tops]
    return dict(zip(names, at, strict=True))


def with_titles(paper: bytes, titles: list[str]) -> bytes:
    """The PDF with these titles in its outline: Chromium writes some of them twice.

    It stays as it is where the outline has other entries than there are titles.
    """
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it counts objects aloud
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(paper))
    entries = []

    def walk(entry):
        while entry is not None:
            known = entry.get_object()
            entries.append(known)
            walk(known.get("/First"))
            entry = known.get("/Next")

    walk(writer.root_object["/Outlines"].get("/First"))
    if len(entries) != len(titles):
        return paper
    for entry, title in zip(entries, titles, strict=True):
        entry[pypdf.generic.NameObject("/Title")] = pypdf.generic.TextStringObject(
            title
        )
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def print_book(site: Path, pdf: Path) -> None:
    """Print the built site into `pdf`, and link to it where it lies in the site.

    Raises UserError where there is no site, no Chromium or no pypdf.
    """
    try:
        import pypdf  # noqa: F401
        from find_chromium import find
        from site_server import chromium, served
    except ModuleNotFoundError as problem:
        raise UserError(
            f"The package '{problem.name}' is missing, which the PDF needs; call "
            "make install."
        ) from problem
    if not (site / "book/index.html").is_file():
        raise UserError(f"There is no built site in '{site}'; call make book first.")
    if not find():
        raise UserError(
            "The PDF is printed by Chromium, which was not found; install it, or name "
            "one in the variable CHROMIUM."
        )
    parts = contents()
    built = {path.stem for path in (site / "book").glob("*.html")}
    parts = [(caption, [n for n in names if n in built]) for caption, names in parts]
    names = [name for _, some in parts for name in some]
    try:
        with served(site) as address, chromium() as window:
            window.set_default_timeout(FAR)
            pages, numbers = taken(window, address, names), {}
            for time in (1, 2):
                text = whole(pages, parts, numbers)
                (site / WHOLE).write_text(text, encoding="utf-8")
                # another address: a browser may keep what it loaded the first time
                paper = printed(window, f"{address}/{WHOLE}?{time}")
                numbers = page_numbers(paper, names)
            titles = [title for page in pages.values() for title in page["headings"]]
            paper = with_titles(paper, titles)
    finally:
        (site / WHOLE).unlink(missing_ok=True)
    partial = pdf.with_suffix(".partial")
    partial.write_bytes(paper)
    partial.replace(pdf)
    if pdf.parent == site:
        link_to(pdf, site / "book/index.html")


def link_to(pdf: Path, welcome: Path) -> None:
    """Name the PDF on the built welcome page, in the place that is kept for it."""
    size = f"{pdf.stat().st_size / 1e6:.0f} MB"
    link = f'<a href="../{pdf.name}">The whole book as one PDF</a> ({size})'
    text = welcome.read_text(encoding="utf-8")
    form = re.compile(re.escape(LINK) + ".*?</p>", re.DOTALL)
    welcome.write_text(form.sub(f"{LINK}{link}</p>", text), encoding="utf-8")


def main(site: str = "", pdf: str = "") -> int:
    """Print; 2, with one sentence, where that cannot be."""
    folder = Path(site or ROOT / "build/_build/html").resolve()
    target = Path(pdf).resolve() if pdf else folder / PDF
    try:
        print_book(folder, target)
    except UserError as problem:
        print(problem, file=sys.stderr)
        return 2
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
