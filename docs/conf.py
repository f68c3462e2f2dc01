"""Sphinx settings: ``sphinx-build -W docs docs/_build`` after ``pip install '.[docs]'``."""

import re

project = "tangent"
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
]
myst_enable_extensions = ["deflist"]
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
html_theme = "alabaster"
exclude_patterns = ["_build"]
# The pages are read in the repository too, where links into it work: to results, code, pages above.
suppress_warnings = ["myst.xref_missing", "image.not_readable"]


def _inherited_requests(app, what, name, obj, skip, options):
    """Leave out scikit-learn's metadata methods, which refer to its own glossary."""
    inherited = name == "get_metadata_routing" or (
        name.startswith("set_") and name.endswith("_request")
    )
    return True if inherited else None


def _escaped(text):
    return re.sub(r"(?<=[(, ])\*(?=[\w.]+[),])", r"\\*", text.replace("|", r"\|"))


def _norms(app, what, name, obj, options, lines):
    """Escape what reStructuredText would read otherwise: the norm |Dh|, the shape (n, *image)."""
    for place, line in enumerate(lines):
        parts = line.split("``")
        parts[::2] = [_escaped(part) for part in parts[::2]]
        lines[place] = "``".join(parts)


def setup(app):
    """Connect what changes docstrings on their way to the pages."""
    app.connect("autodoc-skip-member", _inherited_requests)
    app.connect("autodoc-process-docstring", _norms, priority=400)
