"""Sphinx's settings: ``sphinx-build -W --keep-going -n -b html docs docs/_build/html``. It needs no network."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

import bioshare  # noqa: E402

ALIASES = ("Array", "ArrayLike", "Scalar", "Schedule", "Circuit", "Pair", "Border", "Progress", "Layout")
"""Names of types that mean more than what they stand for."""
PLAIN = ("ImageFiles", "ProgressFunction", "NDArray", "Tensor", "Figure", "Path", "Any", "Callable", "Sequence", "ABC")
FOREIGN = (
    "numpy",
    "np",
    "pd",
    "torch",
    "nn",
    "xr",
    "xarray",
    "matplotlib",
    "pathlib",
    "argparse",
    "collections",
    "typing",
    "os",
)
"""Packages whose documentation cannot be reached without a network."""
INTERNAL = (
    r"bridge\.report\.KeptChannel",
    r"train\.data\.streams\.ImageFiles",
    r"train\.data\.sources\.Source",
    r"train\.data\.image_folders\.ImageFolder",
    r"train\.data\.datasets\.Usage",
    r"train\.distributed\.Processes",
)
"""Types in public signatures that have no page."""

project = "bioshare"
author = "The bioshare developers"
release = version = bioshare.__version__
project_copyright = author

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "docstrings",
    "mathml",
    "from_code",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ALIASES}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
add_module_names = False
python_use_unqualified_type_names = True

nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", rf"({'|'.join(FOREIGN)})\..*"),
    ("py:.*", rf"bioshare\.({'|'.join(INTERNAL)})"),
    ("py:.*", "|".join([*ALIASES, *PLAIN])),
]

html_theme = "furo"
html_title = "bioshare"
html_static_path = ["_static"]
html_css_files = ["page.css"]
html_show_sphinx = False
html_show_sourcelink = False
html_copy_source = False
pygments_style = "friendly"
copybutton_selector = "div[class*=highlight-python] pre, div.highlight-sh pre, div.highlight-console pre"
copybutton_prompt_text = "$ "
highlight_language = "none"

linkcheck_timeout = 20
linkcheck_anchors = False
