"""A built site on 127.0.0.1 and a Chromium that reaches nothing else.

For the browser tests and the screenshots. One Chromium and one window of it (a
context) serve all pages, so that scripts and fonts are fetched and compiled once.
"""

import contextlib
import functools
import http.server
import threading
import urllib.parse

from find_chromium import find
from playwright.sync_api import sync_playwright

HERE = "127.0.0.1"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    # no name of another host is found
    f"--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE {HERE}",
]
# the theme without a stored choice; ipywidgets' checker; a host that was not found
HARMLESS = ("Got invalid theme mode", "allowUnionTypes", "ERR_NAME_NOT_RESOLVED")
# where the pages ask for MathJax when npm could not bring it
MATHJAX = "cdn.jsdelivr.net/npm/mathjax"
WIDGETS = "script[type='application/vnd.jupyter.widget-view+json']"
EQUATIONS = "script#MathJax-script, script[src*='mathjax/es5']"
EQUATIONS_DRAWN = (
    "!window.MathJax || !MathJax.startup || !MathJax.startup.promise "
    "|| MathJax.startup.promise.then(() => true)"
)
TWO_FRAMES = (
    "() => new Promise(done => requestAnimationFrame("
    "() => requestAnimationFrame(() => done(true))))"
)
DARKEN = (
    "document.documentElement.dataset.theme = "
    "document.documentElement.dataset.mode = 'dark'"
)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Quiet, with connections that stay open, and files that a browser may keep."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def end_headers(self):
        self.send_header("Cache-Control", "max-age=3600")
        super().end_headers()


@contextlib.contextmanager
def served(folder):
    """The address under which the folder's files are served."""
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer((HERE, 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HERE}:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def chromium():
    """A window of a running browser: a context, whose pages share what they fetch."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find(), args=FLAGS)
        yield browser.new_context(viewport={"width": 1280, "height": 900})
        browser.close()


def watch(page) -> list[str]:
    """The page's faults from now on: errors, answers above 399, requests elsewhere."""
    faults = []

    def request(asked):
        parts = urllib.parse.urlsplit(asked.url)
        elsewhere = parts.scheme in ("http", "https") and parts.hostname != HERE
        if elsewhere and MATHJAX not in asked.url:
            faults.append(f"asks another host: {asked.url}")

    def response(answer):
        if answer.status > 399:
            faults.append(f"{answer.status}: {answer.url}")

    def console(line):
        if line.type == "error" and not any(words in line.text for words in HARMLESS):
            faults.append(f"console: {line.text}")

    page.on("request", request)
    page.on("response", response)
    page.on("console", console)
    page.on("pageerror", lambda error: faults.append(f"page error: {error}"))
    return faults


def open_page(window, address, *, width=1280, height=900, dark=False):
    """(a page at the address, loaded and drawn; the list of its faults)."""
    page = window.new_page()
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme="dark" if dark else "light")
    faults = watch(page)
    page.goto(address, wait_until="load")
    if dark:
        page.evaluate(DARKEN)
    if page.locator(WIDGETS).count():
        page.locator(".jupyter-widgets").first.wait_for(timeout=60_000)
    if page.locator(EQUATIONS).count():
        page.wait_for_function(EQUATIONS_DRAWN, timeout=60_000)
    page.evaluate(TWO_FRAMES)
    return page, faults
