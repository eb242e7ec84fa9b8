"""Take a picture of every page of the built site: light, dark and 390 px wide.

    python tests/screenshots.py [SITE [FOLDER [PAGE ...]]]

SITE is build/_build/html and FOLDER build/screenshots unless given; PAGE is a page's
name (04_cifar100), all pages if none is given.
"""

import sys
from pathlib import Path

from site_server import chromium, open_page, served

LOOKS = {"light": {}, "dark": {"dark": True}, "390px": {"width": 390, "height": 844}}
HIGHEST = 12_000  # pixels


def main(site="build/_build/html", folder="build/screenshots", *pages):
    """One PNG a page and look."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with served(site) as address, chromium() as window:
        for path in sorted(Path(site, "book").glob("*.html")):
            if pages and path.stem not in pages:
                continue
            for look, options in LOOKS.items():
                where = f"{address}/book/{path.name}"
                page, faults = open_page(window, where, **options)
                # The theme scrolls inside the window, so a whole page needs a window
                # as high as its content.
                height = page.evaluate("document.documentElement.scrollHeight")
                width = options.get("width", 1280)
                page.set_viewport_size({"width": width, "height": min(height, HIGHEST)})
                page.wait_for_timeout(150)
                page.screenshot(path=str(Path(folder, f"{path.stem}-{look}.png")))
                page.close()
                print(path.stem, look, *faults, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
