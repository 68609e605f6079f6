"""How Sphinx builds the documentation: `nox -s docs`."""

import inspect
import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import kedit

project = "kedit"
author = "the kedit developers"
copyright = "2026, the kedit developers"
version = release = kedit.__version__

# Sphinx reads the order of members, and what is written about them, in the file of the class.
for package in [kedit, *[getattr(kedit, name) for name in kedit.__all__]]:
    for thing in [getattr(package, name) for name in getattr(package, "__all__", ())]:
        if inspect.isclass(thing):
            inside = [part for part in vars(thing).values() if inspect.isfunction(part)]
            thing.__module__ = inside[0].__globals__["__name__"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", *[f"auto_examples/*.{end}" for end in ("ipynb", "py", "zip")]]
default_role = "code"
autodoc_inherit_docstrings = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # the docstrings say it in words
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [
    ("Gradient", "notes_style"),
    ("Call arguments", "params_style"),
    ("Input shape", "notes_style"),
    ("Output shape", "notes_style"),
]

# Only where the network can be reached; a page does not need it.
intersphinx_mapping = (
    {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "jax": ("https://docs.jax.dev/en/latest/", None),
    }
    if "KEDIT_INTERSPHINX" in os.environ
    else {}
)

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"$^",  # the tests run the examples, on every backend
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "remove_config_comments": True,
}

html_theme = "pydata_sphinx_theme"
html_title = "kedit"
html_static_path = ["_static"]
html_css_files = ["kedit.css"]
html_show_sourcelink = False
html_theme_options = {
    "github_url": "https://github.com/kedit-dev/kedit",
    "navbar_align": "left",
    "navbar_end": ["theme-switcher", "navbar-icon-links"],
    "show_prev_next": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "header_links_before_dropdown": 6,
}
html_sidebars = {
    "start": [],
    "coming_from": [],
    "changelog": [],
    "limits": [],
    "troubleshooting": [],
}


def without_last_blank_lines(app, page, source):
    """Examples end in a blank line, which doctest needs, and readers do not."""
    source[0] = source[0].replace("\n\n```\n", "\n```\n")


def with_example_as_block(app, what, name, subject, options, lines):
    """Keras writes examples below `Example:` without indenting them."""
    for number, line in reversed(list(enumerate(lines[:-1]))):
        if line.strip() in ("Example:", "Examples:") and lines[number + 1].lstrip()[:3] == ">>>":
            lines[number : number + 1] = ["**Example**", ""]


def with_own_signature(app, what, name, subject, options, signature, returned):
    """Keras's layers hide the arguments of `__init__`; what kedit makes itself, nobody calls."""
    if what == "class" and name.startswith("kedit._"):
        return "", None
    if what == "class" and signature == "(*args, **kwargs)":
        own = inspect.signature(subject.__init__)
        parameters = list(own.parameters.values())[1:]
        plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
        signature = str(inspect.Signature(plain))
    return signature, None


def setup(app):
    """Connect what is above."""
    app.connect("source-read", without_last_blank_lines)
    app.connect("autodoc-process-docstring", with_example_as_block, priority=400)
    app.connect("autodoc-process-signature", with_own_signature)
