"""What explorers are made of: controls, linked pieces of HTML, and their style sheet.

A control is linked to a `Stack` of ready-made pieces of HTML, so that a rendered page
works without a kernel: every choice is drawn beforehand. Controls are nested (one Stack
inside another), so that only choices that exist can be made.
"""

import base64
import re

import ipywidgets

STYLE = """
.widget-html, .widget-html-content {min-width: 0}
.gfr-x, .gfr-x td, .gfr-x th {
  color: var(--pst-color-text-base, inherit); font-size: 14px; line-height: 1.35}
.gfr-x.gfr-picture {margin-top: 6px}
.gfr-x .gfr-task {border-left: 4px solid var(--c); padding: 0 0 0 8px; margin: 0 0 7px}
.gfr-x .gfr-task > b {display: block}
.gfr-x .gfr-task > span {
  display: inline-flex; align-items: center; gap: 5px; margin: 0 10px 2px 0;
  white-space: nowrap}
.gfr-x .gfr-scroll {
  overflow-x: auto; max-width: 100%; max-height: 26em; overflow-y: auto}
.gfr-x table {border-collapse: collapse; margin: 0; display: table; width: auto}
.gfr-x th, .gfr-x td {
  padding: 2px 7px; text-align: right; white-space: nowrap; border: 0; background: none}
.gfr-x th {
  font-weight: 600; border-bottom: 1px solid #76767688; white-space: normal;
  vertical-align: bottom}
.gfr-x tbody th {border-bottom: 0; white-space: nowrap}
.gfr-x th.gfr-group {text-align: center; border-bottom: 0}
.gfr-x p {margin: 6px 0; max-width: 46em}
"""

PLAIN = ipywidgets.HTML().style if hasattr(ipywidgets.HTML, "style") else None
# shared: every Layout of its own would cost the page 300 bytes
WIDE = ipywidgets.Layout(max_width="100%")
ROW = ipywidgets.Layout(
    max_width="100%", flex_flow="row wrap", align_items="flex-start"
)
HALF = ipywidgets.Layout(
    max_width="100%", flex="1 1 300px", min_width="0", padding="0 12px 0 0"
)


def piece(text: str) -> ipywidgets.HTML:
    """A piece of HTML."""
    shared = {"style": PLAIN} if PLAIN else {}
    return ipywidgets.HTML(text, layout=WIDE, **shared)


def column(*children) -> ipywidgets.VBox:
    """Widgets below each other."""
    return ipywidgets.VBox(children, layout=WIDE)


def side_by_side(*columns) -> ipywidgets.Box:
    """Columns of widgets beside each other, below each other on a telephone."""
    halves = [ipywidgets.VBox(children, layout=HALF) for children in columns]
    return ipywidgets.Box(halves, layout=ROW)


def buttons(description: str, options: dict, value) -> ipywidgets.ToggleButtons:
    """Toggle buttons with a caption; options: {text: value}."""
    return ipywidgets.ToggleButtons(
        options=list(options.items()),
        value=value,
        description=description,
        style={"button_width": "auto", "description_width": "initial"},
    )


def menu(description: str, options, **more) -> ipywidgets.Dropdown:
    """A drop-down list with a caption."""
    style = {"description_width": "initial"}
    return ipywidgets.Dropdown(
        options=options, description=description, style=style, **more
    )


def stack(children: list, control):
    """The child that `control` points at, linked in the page.

    A Stack, or where there is none (ipywidgets 7) a box whose child is swapped.
    """
    if hasattr(ipywidgets, "Stack"):
        linked = ipywidgets.Stack(children, selected_index=control.index, layout=WIDE)
        ipywidgets.jslink((control, "index"), (linked, "selected_index"))
        return linked
    box = ipywidgets.VBox([children[control.index]])

    def swap(change):
        box.children = [children[change["new"]]]

    control.observe(swap, "index")
    return box


def scrolled(label: str, table: str) -> str:
    """A table in a box that scrolls sideways, reachable by keyboard, with its name."""
    return (
        '<div class="gfr-scroll" tabindex="0" role="region" '
        f'aria-label="{label}">{table}</div>'
    )


def row_head(word) -> str:
    """The head of a row of a table."""
    return f'<th scope="row">{word}</th>'


def heads(words) -> str:
    """The cells of a table's head."""
    return "".join(f'<th scope="col">{word}</th>' for word in words)


def css_name(name: str) -> str:
    """The name with nothing in it that a style sheet would read otherwise."""
    return re.sub(r"\W", "-", name)


def address(content: bytes, kind: str) -> str:
    """The data address of a picture of that kind (png, webp)."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
