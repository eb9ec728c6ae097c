"""Settings of Sphinx: see ``make docs``. The build needs no network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
# Nipype would ask a server for its latest version.
os.environ['NO_ET'] = os.environ['NIPYPE_NO_ET'] = '1'

from synthseg_bids import __version__  # noqa: E402

project = 'synthseg-bids'
author = copyright = 'The synthseg-bids developers'
version = release = __version__

extensions = ['sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinxarg.ext', 'extension']
exclude_patterns = ['_build', 'templates', 'paper/README.rst']

highlight_language = 'text'
# Dashes alone: quotes are often those of JSON or of a shell.
smartquotes_action = 'D'

autodoc_member_order = 'bysource'
autodoc_typehints = 'none'
napoleon_google_docstring = False
napoleon_custom_sections = [(name, 'params_style') for name in ('Attributes', 'Inputs', 'Outputs')]

html_theme = 'furo'
html_title = f'synthseg-bids {__version__}'
html_static_path = ['_static']
html_css_files = ['site.css']
html_show_sphinx = False
