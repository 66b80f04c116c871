"""The documentation's site: sphinx-build -W docs build/site."""

import shutil
from importlib.metadata import version as version_of
from pathlib import Path

project = "aligndbg"
author = "the aligndbg authors"
version = release = version_of("aligndbg")

# The notebooks as they are, outputs included; CI runs them (see .ci/run).
HERE = Path(__file__).parent
(HERE / "notebooks").mkdir(exist_ok=True)
for notebook in (HERE.parent / "notebooks").glob("*.ipynb"):
    shutil.copy(notebook, HERE / "notebooks")
nb_execution_mode = "off"

extensions = ["myst_nb"]
html_theme = "furo"
html_title = "aligndbg"
html_show_copyright = False
highlight_language = "none"
myst_heading_anchors = 3
nitpicky = True
