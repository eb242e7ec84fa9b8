"""The book's own Sphinx extension: page scripts from the site itself where they were brought, and repairs."""

import re
from pathlib import Path

WIDGETS = "widgets/embed.js"
MATHJAX = "mathjax/es5/tex-mml-chtml.js"


def own_scripts(app, config):
    """Use the copies in ``vendor`` (see build_site.py) instead of a content network, each where it exists."""
    vendor = Path(app.srcdir) / "vendor"
    if (vendor / WIDGETS).is_file():
        config.nb_ipywidgets_js = {WIDGETS: {}}
    if (vendor / MATHJAX).is_file():
        config.mathjax_path = MATHJAX
    if vendor.is_dir():
        config.html_static_path.append("vendor")


def published(app, config):
    """Where GitHub shows the pages of the repository in _config.yml: for the sitemap, the share cards and the 404 page."""
    owner, name = (
        config.html_theme_options["repository_url"].rstrip("/").split("/")[-2:]
    )
    config.html_baseurl = config.ogp_site_url = (
        f"https://{owner.lower()}.github.io/{name}/"
    )
    config.notfound_urls_prefix = f"/{name}/"


def drop_thebe(app, page, template, context, doctree):
    """sphinx-thebe adds its script to every page, twice, used or not; the second raises an error in the browser."""

    def of_thebe(script):
        return "thebe" in str(getattr(script, "filename", script)) + str(
            getattr(script, "attributes", {}).get("body")
        )

    context["script_files"] = [
        script for script in context.get("script_files", []) if not of_thebe(script)
    ]


def lists_in_docstrings(app, what, name, thing, options, lines):
    """Docstrings list choices as plain text, ``name   meaning``, longer meanings indented below: show them as a list."""
    shown, inside = [], False
    for line in lines:
        entry = re.fullmatch(r"(\S+) {2,}(\S.*)", line)
        if entry:
            shown += ([] if inside else [""]) + [f"``{entry[1]}``", f"    {entry[2]}"]
        elif inside and line.startswith("  "):
            shown.append(f"    {line.strip()}")
        else:
            shown += [""] * inside + [line]
        inside = bool(entry) or inside and line.startswith("  ")
    lines[:] = shown


def setup(app):
    app.connect("config-inited", own_scripts, priority=100)
    app.connect("config-inited", published, priority=100)
    app.connect(
        "autodoc-process-docstring", lists_in_docstrings, priority=400
    )  # before napoleon
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
