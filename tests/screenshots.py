"""Take a picture of every page of the built site, light, dark and 390 px wide:  python tests/screenshots.py [SITE [FOLDER]]"""

import sys
from pathlib import Path

from site_server import chromium, open_page, served

LOOKS = {"light": {}, "dark": {"dark": True}, "390px": {"width": 390, "height": 844}}


def main(site="build/_build/html", folder="build/screenshots"):
    """One PNG a page and look."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with served(site) as address, chromium() as browser:
        for path in sorted(Path(site, "book").glob("*.html")):
            for look, options in LOOKS.items():
                page, faults = open_page(
                    browser, f"{address}/book/{path.name}", **options
                )
                # The theme scrolls inside the window, so a whole page needs a window as high as its content.
                height = page.evaluate("document.documentElement.scrollHeight")
                page.set_viewport_size(
                    {"width": options.get("width", 1280), "height": min(height, 12_000)}
                )
                page.wait_for_timeout(150)
                page.screenshot(path=str(Path(folder, f"{path.stem}-{look}.png")))
                page.context.close()
                print(path.stem, look, *faults)


if __name__ == "__main__":
    main(*sys.argv[1:])
