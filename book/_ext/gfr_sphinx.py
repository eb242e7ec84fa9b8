"""The book's own Sphinx extension: the site's own page scripts, and repairs."""

import re
from pathlib import Path

import plain_notebooks

WIDGETS = "widgets/embed.js"
MATHJAX = "mathjax/es5/tex-mml-chtml.js"


def own_scripts(app, config):
    """Use the copies in ``vendor`` (see build_site.py), each where it exists."""
    vendor = Path(app.srcdir) / "vendor"
    if (vendor / WIDGETS).is_file():
        config.nb_ipywidgets_js = {WIDGETS: {}}
    if (vendor / MATHJAX).is_file():
        config.mathjax_path = MATHJAX
    if vendor.is_dir():
        config.html_static_path.append("vendor")


def published(app, config):
    """Where GitHub shows the pages: for the sitemap, the share cards, the 404 page."""
    repository = config.html_theme_options["repository_url"]
    owner, name = repository.rstrip("/").split("/")[-2:]
    address = f"https://{owner.lower()}.github.io/{name}/"
    config.html_baseurl = config.ogp_site_url = address
    config.notfound_urls_prefix = f"/{name}/"


def explain_unpublished(app, page, template, context, doctree):
    """While the address is still OWNER's, buttons lead to what to do about it."""
    if "/OWNER/" not in app.config.html_theme_options["repository_url"]:
        return
    page = context["pathto"]("book/run")  # "#" on that page itself
    here = f"{page.removesuffix('#')}#run-unpublished"
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if "/OWNER/" in button.get("url", ""):
                button["url"] = here


def plain_in_colab(app, page, template, context, doctree):
    """The rocket leads to the branch with the chapters in plain Markdown."""
    options = app.config.html_theme_options
    colab, branch = options["launch_buttons"]["colab_url"], options["repository_branch"]
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button.get("url", "").startswith(colab):
                old, new = f"/blob/{branch}/", f"/blob/{plain_notebooks.BRANCH}/"
                button["url"] = button["url"].replace(old, new, 1)


def drop_thebe(app, page, template, context, doctree):
    """Take out sphinx-thebe's scripts, used on no page.

    They are added to every page, twice, and the second raises an error in the browser.
    """

    def of_thebe(script):
        body = getattr(script, "attributes", {}).get("body")
        return "thebe" in f"{getattr(script, 'filename', script)} {body}"

    scripts = context.get("script_files", [])
    context["script_files"] = [script for script in scripts if not of_thebe(script)]


def lists_in_docstrings(app, what, name, thing, options, lines):
    """Show choices that a docstring lists as plain text as a list.

    A choice is a line ``name   meaning``; a longer meaning goes on indented below.
    """
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
    # before napoleon
    app.connect("autodoc-process-docstring", lists_in_docstrings, priority=400)
    # after the theme made its buttons
    app.connect("html-page-context", plain_in_colab, priority=800)
    app.connect("html-page-context", explain_unpublished, priority=850)
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
