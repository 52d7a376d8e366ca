"""The documentation site: python -m sphinx -W -b html docs docs/_build"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]
# The pages describe the checkout, and none of them runs a kernel.
os.environ.setdefault("ROBUSTDML_KERNELS", "0")

import robustdml_ext  # noqa: E402

project = "robustdml_ext"
author = "the authors of robustdml_ext"
copyright = "the authors of robustdml_ext, Apache-2.0"
version = release = robustdml_ext.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "backticks",
    "generated",
    "sources",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "_ext"]

# Docstrings: Google style, single backticks mean code.
default_role = "backticks"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_preprocess_types = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_inherit_docstrings = False  # PyTorch's words on what we override say nothing of ours
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
add_module_names = False

# Everything of ours must resolve. What others document is not looked up: the build works offline.
smartquotes = False  # MP'' is no quotation
nitpicky = True
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(torch|torchvision|numpy|np|npt|nn|pydantic|pathlib|collections|PIL|rich|tyro|abc|annotated_types|types|contextlib)(\..*)?",
    ),
    (r"py:class", r"robustdml_ext\.attacks\.streams\.Found"),  # a type variable
    (r"py:.*", r"(Path|Tensor|Any|Generator|Dataset|Module|Callable|Sequence|Mapping|Iterable|Iterator|ndarray)"),
]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"robustdml_ext {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
