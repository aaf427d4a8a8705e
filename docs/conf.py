"""Sphinx: `python -m sphinx -W --keep-going docs build/docs` makes the site. Needs `pip install '.[docs]'`."""

import importlib.util
import re

from sphinx.application import Sphinx

from gpuconv import __version__ as release

project = "gpuconv"
author = "the gpuconv contributors"
copyright = author
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"gpuconv {release}"

myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# So that the page of gpuconv.torch is also made where PyTorch is not installed.
autodoc_mock_imports = [] if importlib.util.find_spec("torch") else ["torch"]
default_role = "code"  # docstrings mark code by single backquotes

# Files and folders outside of docs/, and the pages of the site that show them.
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "kernels/README.md": "writing-kernels.md",
    "tools/mutation/README.md": "mutation.md",
    "examples/": "examples.md",
}
LINK = re.compile(r"\]\((?:\.\./)*(" + "|".join(map(re.escape, PAGES)) + r")\)")


def link_within_the_site(app: Sphinx, source: list[str]) -> None:
    source[0] = LINK.sub(lambda found: f"](/{PAGES[found[1]]})", source[0])


def escape(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with code in backquotes: `*`, `|` and a name's last `_` are not markup."""
    for i, line in enumerate(lines):
        parts = re.split(r"(`[^`]*`)", line)
        parts[::2] = [re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
        lines[i] = "".join(parts)


def keep_colon(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Napoleon would take the words before a colon in a property's first line as its type."""
    if what == "property":
        lines.insert(0, "")


def setup(app: Sphinx) -> None:
    app.connect("source-read", lambda app, page, source: link_within_the_site(app, source))
    app.connect("include-read", lambda app, path, page, source: link_within_the_site(app, source))
    app.connect("autodoc-process-docstring", escape)
    app.connect("autodoc-process-docstring", keep_colon, priority=400)  # before Napoleon's
