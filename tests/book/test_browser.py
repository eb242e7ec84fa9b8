"""The built site in a real browser; each page is opened once for all its checks.

No fault on any page, explorers switch without a kernel, solutions open, a page fits a
telephone and no code block is wider than its page.
"""

import json
import re

import pytest
import yaml
from conftest import CHAPTERS, ROOT, missing

from gfrlib.book import looks

pytestmark = pytest.mark.browser

# What a reader sees of the explorers: the visible pictures (what each shows, not
# where), the visible tables, all visible words.
SHOWN = """() => {
    const seen = (e) => e.offsetParent
    const boxes = '.jupyter-widgets .widget-html-content'
    const parts = [...document.querySelectorAll(boxes)].filter(seen)
    const all = (what) =>
        parts.flatMap(e => [...e.querySelectorAll(what)]).filter(seen)
    const background = (e) => getComputedStyle(e).backgroundImage
    const drawn = all('*').filter(e => e.tagName === 'IMG' || background(e) !== 'none')
    const place = (e) => getComputedStyle(e).backgroundPosition
    return {pictures: drawn.map(e => (e.src || '') + place(e) + e.className).join(),
            tables: all('table').map(e => e.innerText).join(),
            words: parts.map(e => e.innerText).join()}}"""
IS_SHOWN = f"""([wanted, equal]) =>
    (JSON.stringify(({SHOWN})()) === JSON.stringify(wanted)) === equal"""
CONTROLS = ".jupyter-widgets select:visible, .widget-toggle-buttons:visible"
LISTS = ".jupyter-widgets select:visible"
BROKEN = """[...document.images]
    .filter(i => i.complete && i.src && !i.naturalWidth).map(i => i.alt)"""
# The longest line of every code block that scrolls sideways; what is folded is opened
# for as long as it is measured.
WIDE_CODE = """() => {
    const folded = [...document.querySelectorAll('details:not([open])')]
    const closed = [...document.querySelectorAll('main .toggle-hidden')]
    folded.forEach(e => { e.open = true })
    closed.forEach(e => e.classList.remove('toggle-hidden'))
    const longest = (e) => e.innerText.split('\\n')
        .reduce((a, b) => b.length > a.length ? b : a)
    const wide = [...document.querySelectorAll('main pre')]
        .filter(e => e.offsetParent && e.scrollWidth > e.clientWidth).map(longest)
    folded.forEach(e => { e.open = false })
    closed.forEach(e => e.classList.add('toggle-hidden'))
    return wide}"""
CHOSEN = """e => [...e.querySelectorAll('button')]
    .findIndex(b => b.classList.contains('mod-active'))"""
DRAWINGS = """[...document.querySelectorAll('main img[src$=".svg"]')]
    .filter(i => i.offsetParent)
    .map(i => [i.getAttribute('src'), i.getBoundingClientRect().width])"""
PATIENCE = 15_000  # milliseconds until something that was pressed must have changed


def pages() -> list[str]:
    """Every page of the contents, and the two that Sphinx adds."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    named = [contents["root"]]
    for part in contents["parts"]:
        named += [entry["file"] for entry in part["chapters"]]
    return [f"{name}.html" for name in (*named, "search", "genindex")]


@pytest.fixture(scope="module")
def address(site, browser_window):
    """Where the site is served; the pages must ask no other host."""
    from site_server import served

    for scripts in ("widgets", "mathjax"):
        if not (site / "_static" / scripts).is_dir():
            missing(f"npm did not bring {scripts}: the pages would ask other hosts")
    with served(site) as where:
        yield where


@pytest.fixture(scope="module", params=pages())
def opened(request, address, browser_window):
    """(name, page, faults): pytest runs all tests of a page before the next one."""
    from site_server import open_page

    page, faults = open_page(browser_window, f"{address}/{request.param}")
    yield request.param, page, faults
    page.close()


@pytest.fixture
def light(opened):
    """The opened page as it first is: 1280 pixels wide, light."""
    name, page, faults = opened
    page.set_viewport_size({"width": 1280, "height": 900})
    yield page
    assert not faults, f"{name}: {faults}"


def test_equations_and_pictures_are_drawn(light, site):
    assert not light.locator("mjx-merror").count(), "an equation does not parse"
    if light.locator(".math").count():
        assert light.locator("mjx-container").count(), "equations stay raw"
    broken = light.evaluate(BROKEN)
    assert not broken, broken


def test_explorers_switch_and_come_back(light):
    changed, controls = set(), light.locator(CONTROLS)
    for number in range(controls.count()):
        control, before = controls.nth(number), light.evaluate(SHOWN)
        there, back = choose(control)
        there()
        wait_until(light, before, False, f"control {number} changes nothing")
        after = light.evaluate(SHOWN)
        changed |= {kind for kind in after if after[kind] != before[kind]}
        back()
        wait_until(light, before, True, f"control {number} does not come back")
    if controls.count():
        assert changed == {"pictures", "tables", "words"}, f"only {changed} change"


def choose(control):
    """(take another choice, take the first back) of a list or a row of buttons."""
    if control.evaluate("e => e.tagName") == "SELECT":
        chosen, count = control.evaluate("e => [e.selectedIndex, e.options.length]")
        other = (chosen + 1) % count
        return (
            lambda: control.select_option(index=other),
            lambda: control.select_option(index=chosen),
        )
    buttons, chosen = control.locator("button"), control.evaluate(CHOSEN)
    return buttons.nth((chosen + 1) % buttons.count()).click, buttons.nth(chosen).click


def wait_until(page, shown: dict, equal: bool, otherwise: str) -> None:
    """Until the explorers show this (or, with `equal` false, something else)."""
    from playwright.sync_api import TimeoutError as TooLong

    try:
        page.wait_for_function(IS_SHOWN, arg=[shown, equal], timeout=PATIENCE)
    except TooLong:
        pytest.fail(f"{otherwise}: {json.dumps(page.evaluate(SHOWN))[:300]}")


def test_explorers_obey_the_keyboard(light):
    if light.locator(LISTS).count():
        before, select = light.evaluate(SHOWN), light.locator(LISTS).first
        select.focus()
        last = select.evaluate("s => s.selectedIndex === s.options.length - 1")
        light.keyboard.press("ArrowUp" if last else "ArrowDown")
        wait_until(light, before, False, "an arrow key changes nothing")


# Each row of buttons is a named group, and its buttons say which is chosen.
TOLD = """() => [...document.querySelectorAll('.widget-toggle-buttons')].every((row) =>
    row.getAttribute('role') === 'group' && row.getAttribute('aria-label') &&
    [...row.querySelectorAll('button')].every((button) =>
        button.getAttribute('aria-pressed') ===
            String(button.classList.contains('mod-active'))))"""


def test_a_screen_reader_hears_which_button_is_chosen(light):
    rows = light.locator(".widget-toggle-buttons:visible")
    if rows.count():
        light.wait_for_function(TOLD, timeout=PATIENCE)
        there, back = choose(rows.first)
        for click in (there, back):
            click()
            light.wait_for_function(TOLD, timeout=PATIENCE)
    slider = light.locator(".gfr-time")
    if slider.count():
        told = slider.first.get_attribute("aria-valuetext")
        assert told == light.locator(".gfr-where").first.inner_text()


# What the drift player shows: its plane, its moment, its bars, and its switch.
PLAYER = """() => [document.querySelector('.gfr-player canvas').toDataURL(),
    document.querySelector('.gfr-where').innerText,
    document.querySelector('.gfr-bars').innerText]"""


def test_every_switch_of_the_drift_player_changes_picture_and_accuracy(light):
    player = light.locator(".gfr-player")
    if not player.count():
        return
    seen = {}

    def look(what):
        plane, where, bars = light.evaluate(PLAYER)
        assert len(plane) > 5000, "an empty plane"
        for name, (other, _, numbers) in seen.items():
            assert plane != other and bars != numbers, f"{what} looks like {name}"
        seen[what] = plane, where, bars

    look("both, Gaussians")
    assert player.locator(".gfr-align").is_disabled()
    player.locator("input[value=gan]").check()
    look("both, GAN")
    player.locator(".gfr-align").uncheck()
    look("without alignment")
    player.locator("input[value=none]").check()
    look("distillation alone")
    player.locator(".gfr-hold").uncheck()
    look("neither")
    player.locator("input[value=gaussian]").check()
    light.keyboard.press("ArrowLeft")  # a group of radios obeys the arrows
    light.keyboard.press("ArrowRight")
    plane, where, bars = light.evaluate(PLAYER)
    assert plane not in {other for other, _, _ in seen.values()}
    slider = player.locator(".gfr-time")
    slider.focus()
    light.keyboard.press("Home")
    assert light.evaluate(PLAYER)[1].startswith("task 0, step 0")
    player.locator(".gfr-play").click()
    light.wait_for_function(
        f"start => (({PLAYER})())[1] !== start", arg="task 0, step 0", timeout=PATIENCE
    )
    player.locator(".gfr-play").click()


def test_solutions_open(light):
    boxes = light.locator(".solution.dropdown")
    for number in range(boxes.count()):
        box = boxes.nth(number)
        closed = box.bounding_box()["height"]
        box.locator("button.toggle-button").first.click()
        light.wait_for_function(
            "([e, closed]) => e.getBoundingClientRect().height > closed",
            arg=[box.element_handle(), closed],
            timeout=PATIENCE,
        )


def test_no_code_scrolls_sideways_at_1280_pixels(light):
    wide = light.evaluate(WIDE_CODE)
    assert not wide, "\n".join(wide)


def points(drawing) -> float:
    """The width of an SVG file."""
    return float(re.search(r'viewBox="\S+ \S+ (\S+)', drawing.read_text())[1])


def test_a_page_fits_a_telephone(opened, site):
    from site_server import DARKEN, TWO_FRAMES

    name, page, faults = opened
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate(DARKEN)
    page.evaluate(TWO_FRAMES)
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390 or not name.startswith("book/"), f"{wide} pixels wide"
    # drawings shrink with the page: their smallest usual text must not get too small
    small = [
        f"{source}: {looks.SMALL * shown / points(site / 'book' / source):.1f}"
        for source, shown in page.evaluate(DRAWINGS)
        if looks.SMALL * shown / points(site / "book" / source) < 8
    ]
    assert not small, f"pixels of text: {small}"
    assert not faults, f"{name}: {faults}"


def test_the_page_to_open_leads_to_the_welcome_page(address, browser_window):
    from site_server import watch

    page = browser_window.new_page()
    faults = watch(page)
    # not open_page, which looks at the page while this one is leaving it
    page.goto(f"{address}/index.html", wait_until="commit")
    page.wait_for_url("**/book/index.html")
    assert not faults
    page.close()


def test_the_librarys_source_fits_its_pages(address, browser_window, site):
    modules = sorted(path.relative_to(site) for path in site.glob("_modules/**/*.html"))
    assert modules, "the pages of the source are missing"
    page, wide = browser_window.new_page(), []
    page.set_viewport_size({"width": 1280, "height": 900})
    for name in modules:
        page.goto(f"{address}/{name.as_posix()}", wait_until="load")
        wide += [f"{name}: {line}" for line in page.evaluate(WIDE_CODE)]
    page.close()
    assert not wide, "\n".join(wide)


def test_there_are_explorers_and_solutions(site):
    """What the tests above switch and open is there to be found."""
    text = {path.stem: path.read_text() for path in (site / "book").glob("*.html")}
    for chapter in CHAPTERS[:1]:
        assert "jupyter.widget-view" in text[chapter.stem], "no explorer"
    assert any("solution dropdown" in page for page in text.values()), "no solution"


def test_without_javascript_the_explorers_starting_view_shows(
    address, browser_window, site
):
    instead = ".cell_output noscript table, .cell_output noscript img"
    context = browser_window.browser.new_context(java_script_enabled=False)
    for path in sorted((site / "book").glob("*.html")):
        if "jupyter.widget-view" in path.read_text():
            page = context.new_page()
            page.goto(f"{address}/book/{path.name}")
            assert page.locator(instead).count(), path.stem
            page.close()
    context.close()
