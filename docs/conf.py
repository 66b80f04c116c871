"""The documentation's site: sphinx-build -W docs build/site."""

from importlib.metadata import version as version_of

project = "aligndbg"
author = "the aligndbg authors"
version = release = version_of("aligndbg")

extensions = ["myst_parser"]
html_theme = "furo"
html_title = "aligndbg"
html_show_copyright = False
highlight_language = "none"
myst_heading_anchors = 3
nitpicky = True
