"""The drift player on the welcome page: what chapter 2 computed, shown a second time.

`index.md` includes `_generated/player.md`, which is empty where chapter 2 has not been
executed or shows no player.
"""

import html
import json
from pathlib import Path

CHAPTER = "02_replay.ipynb"
INTRODUCTION = """\
**See it happen.** A small network learns digits, task by task. It has only two
features, so each image is a point in the plane. Digits are test images, crosses are
replayed features, and the ground shows what the classifier answers. Take a guard away,
and press play. [](02_replay.ipynb) explains every part.
"""


def write_player(book: Path) -> None:
    """Write `book`/_generated/player.md and the picture for pages without JavaScript.

    `book` is the folder of the executed chapters.
    """
    player, picture, words = found_in(book / CHAPTER)
    text = ""
    if player:
        (book / "_static").mkdir(exist_ok=True)
        strip = ""
        if picture:
            (book / "_static" / "drift.svg").write_text(picture, encoding="utf-8")
            alt = html.escape(words, quote=True)
            strip = (
                '<noscript><img style="max-width:100%" src="../_static/drift.svg" '
                f'alt="{alt}"></noscript>'
            )
        text = f"{INTRODUCTION}\n``````{{raw}} html\n{player}\n{strip}\n``````\n"
    (book / "_generated").mkdir(exist_ok=True)
    (book / "_generated" / "player.md").write_text(text, encoding="utf-8")


def found_in(executed: Path) -> tuple[str, str, str]:
    """(the player, the first drawing after it, that one's text alternative).

    Empty where an executed notebook has none, or does not exist.
    """
    if not executed.is_file():
        return "", "", ""
    player = ""
    for cell in json.loads(executed.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            data = {kind: "".join(v) for kind, v in output.get("data", {}).items()}
            page = data.get("text/html", "")
            if not player and 'class="gfr-player"' in page:
                player = page
            elif player and "image/svg+xml" in data:
                about = cell["metadata"].get("mystnb", {}).get("image", {})
                return player, data["image/svg+xml"], about.get("alt", "")
    return player, "", ""
