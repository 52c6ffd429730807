"""Sphinx settings: MyST pages, numpydoc docstrings, figures made by the code beside them."""

import sys
from pathlib import Path

import miniattn

sys.path.insert(0, str(Path(__file__).parent))
import chapters
import gallery
import notebooks

DRAWN = Path(__file__).parent / "_gallery"
gallery.draw(DRAWN)
chapters.draw(DRAWN / "book")
notebooks.write(DRAWN / "notebooks")

project = "miniattn"
author = "The miniattn authors"
copyright = "2026, the miniattn authors"
version = release = miniattn.__version__

extensions = [
    "formulas",
    "listing",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's Parameters section says it once
numpydoc_show_class_members = False

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "miniattn"
html_static_path = ["_static", "_gallery/live"]
html_css_files = ["pages.css"]
