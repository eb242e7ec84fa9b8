"""A built site served on 127.0.0.1 and a Chromium that may go nowhere else: for the browser tests and the screenshots."""

import contextlib
import functools
import http.server
import threading
import urllib.parse

from find_chromium import find
from playwright.sync_api import sync_playwright

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
]
HARMLESS = (
    "Got invalid theme mode",
    "allowUnionTypes",
)  # the theme without a stored choice; ipywidgets' schema checker
MATHJAX = "cdn.jsdelivr.net/npm/mathjax"  # where the pages ask for MathJax when npm could not bring it


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@contextlib.contextmanager
def served(folder):
    """The address under which the folder's files are served."""
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def chromium():
    """A running browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find(), args=FLAGS)
        yield browser
        browser.close()


def open_page(browser, address, *, width=1280, height=900, dark=False):
    """A page at the address, loaded and drawn; and the list of its faults: errors, answers above 399, requests elsewhere."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
    )
    page, faults = context.new_page(), []

    def guard(route):
        url = route.request.url
        if urllib.parse.urlsplit(url).hostname == "127.0.0.1" or url.startswith(
            ("data:", "blob:")
        ):
            return route.continue_()
        if MATHJAX not in url:
            faults.append(f"asks another host: {url}")
        return route.abort()

    context.route("**/*", guard)
    page.on("pageerror", lambda error: faults.append(f"page error: {error}"))
    page.on(
        "response",
        lambda answer: (
            faults.append(f"{answer.status}: {answer.url}")
            if answer.status > 399
            else None
        ),
    )
    page.on(
        "console",
        lambda line: (
            faults.append(f"console: {line.text}")
            if line.type == "error"
            and not any(words in line.text for words in (*HARMLESS, "ERR_FAILED"))
            else None
        ),
    )
    page.goto(address, wait_until="load")
    if dark:
        page.evaluate(
            "document.documentElement.dataset.theme = document.documentElement.dataset.mode = 'dark'"
        )
    if page.locator("script[type='application/vnd.jupyter.widget-view+json']").count():
        page.locator(".jupyter-widgets").first.wait_for(timeout=30_000)
    if page.locator("script#MathJax-script, script[src*='mathjax/es5']").count():
        page.wait_for_function(
            "!window.MathJax || !MathJax.startup || !MathJax.startup.promise "
            "|| MathJax.startup.promise.then(() => true)"
        )
    page.wait_for_timeout(200)
    return page, faults
