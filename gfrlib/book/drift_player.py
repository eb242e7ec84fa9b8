"""The drift player: films of drift (`drift_film`) with switches and a slider.

It works in a rendered page without a kernel: the looks are in the page, a script draws
them. Without scripts a picture stands there on the welcome page alone
(_ext/welcome_player.py).
"""

import base64
import html
import json
from pathlib import Path

import torch
from IPython.display import HTML, display
from torch import Tensor

from gfrlib.book.drift_film import CROSSES, Look, window_of
from gfrlib.book.looks import TASK_COLORS

STYLE = """
.gfr-player {max-width: 46em; font-size: 14px}
.gfr-player label {margin-right: 12px; white-space: nowrap}
.gfr-player fieldset {border: 0; padding: 0; margin: 0; display: inline-block}
.gfr-player legend {float: left; margin-right: 8px; font-size: 14px; width: auto}
.gfr-player .gfr-row {
  display: flex; flex-wrap: wrap; align-items: center; gap: 4px 14px; margin: 4px 0}
.gfr-player .gfr-time {flex: 1 1 160px; min-width: 120px}
.gfr-player canvas {
  width: 100%; max-width: 420px; border: 1px solid #76767688; border-radius: 3px}
.gfr-player .gfr-bars {min-width: 170px}
.gfr-player .gfr-bars span {display: block; white-space: nowrap; margin: 3px 0}
.gfr-player .gfr-bars i {
  display: inline-block; height: 10px; width: calc(1px + var(--a) * 0.9px);
  background: var(--c); margin-right: 6px}
.gfr-player button {min-width: 6.5em}
"""
REPLAYS = {"none": "none", "gaussian": "Gaussians", "gan": "GAN"}


class DriftPlayer:
    """Shows films: {name of drift_film.FILMS: its looks}; `names` of all classes."""

    def __init__(self, films: dict[str, list[Look]], names: list[str]):
        self.films, self.names = films, names

    def content(self) -> dict:
        """What the page holds, as plain values."""
        window = window_of(self.films)
        return {
            "classes": list(self.names),
            "colors": list(TASK_COLORS),
            "window": [round(value, 4) for value in window],
            "films": {
                name: [as_plain(look, window) for look in looks]
                for name, looks in self.films.items()
            },
        }

    def html(self) -> str:
        """The player, a piece of a page."""
        # "</" would end the script element
        content = json.dumps(self.content(), separators=(",", ":"))
        content = content.replace("</", "<\\/")
        script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
        last = len(next(iter(self.films.values()))) - 1
        replays = "".join(_radio(value, text) for value, text in REPLAYS.items())
        return (
            f'<div class="gfr-player"><style>{STYLE}</style>'
            '<div class="gfr-live" hidden><div class="gfr-row">'
            '<label><input type="checkbox" class="gfr-hold" checked> feature '
            "distillation</label>"
            f"<fieldset><legend>replay:</legend>{replays}</fieldset>"
            '<label><input type="checkbox" class="gfr-align" checked> replay '
            "alignment</label></div>"
            '<div class="gfr-row"><button type="button" class="gfr-play"></button>'
            f'<input type="range" class="gfr-time" min="0" max="{last}" '
            'aria-label="moment of training"><output class="gfr-where"></output></div>'
            '<div class="gfr-row"><canvas width="840" height="840" role="img"></canvas>'
            '<div class="gfr-bars"></div></div></div>'
            f'<script type="application/json">{content}</script>'
            f"<script>{script}</script></div>"
        )

    def _ipython_display_(self, **_):
        display(HTML(self.html()))


def _radio(value: str, text: str) -> str:
    checked = " checked" if value == "gaussian" else ""
    return (
        f'<label><input type="radio" class="gfr-replay" name="gfr-replay" '
        f'value="{value}"{checked}> {html.escape(text)}</label>'
    )


def placed(points: Tensor, window: tuple[float, float, float]) -> str:
    """Base 64 of two bytes a point: its place in the window, 0 to 255."""
    left, bottom, side = window
    place = (points - torch.tensor([left, bottom])) / side
    place = (255 * place.clamp(0, 1)).round().to(torch.uint8)
    return base64.b64encode(place.numpy().tobytes()).decode()


def as_plain(look: Look, window: tuple[float, float, float]) -> dict:
    """A look in short keys: the page holds some hundred."""
    seen = len(look.accuracy)
    plain = {
        "t": look.task,
        "s": look.step,
        "of": look.of,
        "p": placed(look.points, window),
        "n": torch.bincount(look.labels, minlength=seen).tolist(),
        "h": [[round(value, 3) for value in row] for row in look.head.tolist()],
        "a": [round(value) for value in look.accuracy],
        "r": "",
        "m": [],
    }
    if look.replayed is not None:
        plain["r"] = placed(look.replayed, window)
        plain["m"] = [CROSSES] * (len(look.replayed) // CROSSES)
    return plain
