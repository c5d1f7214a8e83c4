"""Sphinx settings of the documentation site; `make docs` builds it into `out/docs`."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

project = "Posterior zoo"
author = "the authors of posterior-zoo"
copyright = author
release = version = version_of("posterior-zoo")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "site_tools.extension"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["site_tools"]
default_role = "code"
highlight_language = "text"
nitpicky = True
# Types of other packages; there is no inventory of theirs without a request to their servers.
nitpick_ignore_regex = [(r"py:.*", r"(?!zoo|guides|benchmarks).*")]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"  # drawn by the browser: no script, no font, no request

autodoc_typehints = "signature"
autodoc_default_options = {"show-inheritance": False}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
maximum_signature_line_length = 80
python_use_unqualified_type_names = True
add_module_names = True
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": project},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_toc_level": 2,
    "show_prev_next": True,
    "navigation_with_keys": False,
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
}
