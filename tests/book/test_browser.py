"""The built site in a real browser: no fault on any page, explorers switch without a kernel, it fits a telephone."""

import os

import pytest
from conftest import ROOT
from find_chromium import find

pytestmark = pytest.mark.browser

# What a reader sees of the explorers: the visible pictures (what each shows, not where), the visible tables, all visible words.
SHOWN = """() => {
    const parts = [...document.querySelectorAll('.jupyter-widgets .widget-html-content')].filter(e => e.offsetParent)
    const all = (selector) => parts.flatMap(e => [...e.querySelectorAll(selector)]).filter(e => e.offsetParent)
    const drawn = all('*').filter(e => e.tagName === 'IMG' || getComputedStyle(e).backgroundImage !== 'none')
    return {pictures: drawn.map(e => (e.src || '') + getComputedStyle(e).backgroundPosition + e.className).join(),
            tables: all('table').map(e => e.innerText).join(), words: parts.map(e => e.innerText).join()}}"""
CONTROLS = ".jupyter-widgets select:visible, .widget-toggle-buttons:visible"


@pytest.fixture(scope="module")
def browser(site):
    """(address of the served site, Chromium); without Chromium the tests are skipped, which CI counts as a failure."""
    reason = (
        ""
        if find()
        else "no Chromium on this machine (apt-get install chromium, or CHROMIUM=path)"
    )
    if (
        not (site / "_static/widgets").is_dir()
        or not (site / "_static/mathjax").is_dir()
    ):
        reason = (
            "npm did not bring the page scripts, so the pages would ask other hosts"
        )
    if reason:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    from site_server import chromium, served

    with served(site) as address, chromium() as running:
        yield address, running


def visit(browser, name, **look):
    from site_server import open_page

    address, running = browser
    return open_page(running, f"{address}/{name}", **look)


def names(site, having=""):
    """The pages whose source holds that text."""
    return sorted(
        path.relative_to(site).as_posix()
        for path in (site / "book").glob("*.html")
        if having in path.read_text()
    )


def test_the_page_to_open_leads_to_the_welcome_page(browser):
    page, faults = visit(browser, "index.html")
    page.wait_for_url("**/book/index.html")
    assert not faults
    page.context.close()


def test_no_page_has_a_fault(browser, site):
    for name in [*names(site), "search.html", "genindex.html"]:
        page, faults = visit(browser, name)
        assert not page.locator("mjx-merror").count(), (
            f"{name}: an equation does not parse"
        )
        if (site / "_static/mathjax").is_dir() and page.locator(".math").count():
            assert page.locator("mjx-container").count(), f"{name}: equations stay raw"
        broken = page.evaluate(
            "[...document.images].filter(i => i.complete && i.src && !i.naturalWidth).map(i => i.alt)"
        )
        assert not broken, f"{name}: {broken}"
        page.set_viewport_size({"width": 390, "height": 844})
        page.evaluate(
            "document.documentElement.dataset.theme = document.documentElement.dataset.mode = 'dark'"
        )
        page.wait_for_timeout(200)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390 or not name.startswith("book/"), (
            f"{name}: {wide} pixels wide on a screen of 390"
        )
        assert not faults, f"{name}: {faults}"
        page.context.close()


def test_explorers_switch_picture_and_table(browser, site):
    pages = names(site, "jupyter.widget-view")
    assert pages or not (ROOT / "book/01_tasks.ipynb").is_file(), (
        "no explorer was found"
    )
    for name in pages:
        page, faults = visit(browser, name)
        changed = set()
        for number in range(page.locator(CONTROLS).count()):
            control, before = page.locator(CONTROLS).nth(number), page.evaluate(SHOWN)
            there, back = choose(control)
            there()
            page.wait_for_timeout(400)
            after = page.evaluate(SHOWN)
            assert after != before, f"{name}: control {number} changes nothing"
            changed |= {kind for kind in after if after[kind] != before[kind]}
            back()
            page.wait_for_timeout(400)
            assert page.evaluate(SHOWN) == before, (
                f"{name}: control {number} does not come back"
            )
        assert changed == {"pictures", "tables", "words"}, (
            f"{name}: only {changed} change"
        )
        assert not faults, f"{name}: {faults}"
        page.context.close()


def choose(control):
    """(take another choice, take the first one back) of a drop-down list or a row of toggle buttons."""
    if control.evaluate("e => e.tagName") == "SELECT":
        chosen, count = control.evaluate("e => [e.selectedIndex, e.options.length]")
        return (lambda: control.select_option(index=(chosen + 1) % count)), (
            lambda: control.select_option(index=chosen)
        )
    buttons = control.locator("button")
    chosen = control.evaluate(
        "e => [...e.querySelectorAll('button')].findIndex(b => b.classList.contains('mod-active'))"
    )
    return buttons.nth((chosen + 1) % buttons.count()).click, buttons.nth(chosen).click


def test_explorers_obey_the_keyboard(browser, site):
    for name in names(site, "jupyter.widget-view"):
        page, faults = visit(browser, name)
        if page.locator(".jupyter-widgets select:visible").count():
            before = page.evaluate(SHOWN)
            select = page.locator(".jupyter-widgets select:visible").first
            select.focus()
            last = select.evaluate("s => s.selectedIndex === s.options.length - 1")
            page.keyboard.press("ArrowUp" if last else "ArrowDown")
            page.wait_for_timeout(300)
            assert page.evaluate(SHOWN) != before, name
            assert not faults, f"{name}: {faults}"
        page.context.close()


def test_solutions_open(browser, site):
    opened = 0
    for name in names(site, "solution dropdown"):
        page, _ = visit(browser, name)
        for number in range(page.locator(".solution.dropdown").count()):
            box = page.locator(".solution.dropdown").nth(number)
            height = box.bounding_box()["height"]
            box.locator("button.toggle-button").first.click()
            page.wait_for_timeout(150)
            assert box.bounding_box()["height"] > height, (
                f"{name}: solution {number} does not open"
            )
            opened += 1
        page.context.close()
    assert opened or not (ROOT / "book/01_tasks.ipynb").is_file(), (
        "no solution was found"
    )


def test_without_javascript_the_explorers_starting_view_shows(browser, site):
    address, running = browser
    context = running.new_context(java_script_enabled=False)
    for name in names(site, "jupyter.widget-view"):
        page = context.new_page()
        page.goto(f"{address}/{name}")
        assert page.locator(
            ".cell_output noscript table, .cell_output noscript img"
        ).count(), name
        page.close()
    context.close()


# Folded cells and solutions are opened: their code must fit, too.
WIDE = """() => {
    document.querySelectorAll('details').forEach(e => { e.open = true })
    document.querySelectorAll('.toggle-hidden').forEach(e => e.classList.remove('toggle-hidden'))
    return [...document.querySelectorAll('main pre')]
        .filter(e => e.offsetParent && e.scrollWidth > e.clientWidth)
        .map(e => e.innerText.split('\\n').sort((a, b) => b.length - a.length)[0])}"""


def test_no_code_scrolls_sideways_at_1280_pixels(browser, site):
    wide = []
    modules = [
        path.relative_to(site).as_posix() for path in site.glob("_modules/**/*.html")
    ]
    assert modules, "the pages of the source are missing"
    for name in [*names(site), *sorted(modules)]:
        page, _ = visit(browser, name)
        wide += [f"{name}: {line.strip()}" for line in page.evaluate(WIDE)]
        page.context.close()
    assert not wide, "\n".join(wide)
