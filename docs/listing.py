"""How API pages list what a module has: what people call first, what only passes by last.

Contexts, gradients and other NamedTuples are left out by ``automodule`` and come where the page
says ``.. tuples:: miniattn.functional``.
"""

import ast
import importlib
import inspect
import re
import textwrap

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective


def is_tuple(value):
    return isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields")


class Tuples(SphinxDirective):
    """The NamedTuples among a module's public names, in the order of the alphabet."""

    required_arguments = 1

    def run(self):
        (name,) = self.arguments
        module = importlib.import_module(name)
        lines = []
        for each in sorted(module.__all__):
            if is_tuple(getattr(module, each)):
                lines += [f".. autoclass:: {name}.{each}", "   :members:", ""]
        node = nodes.container()
        self.state.nested_parse(StringList(lines, "tuples"), 0, node)
        return node.children


def skip_tuples(app, what, name, value, skip, options):
    return True if what == "module" and is_tuple(value) else None


def name_types(app, what, name, value, options, lines):
    """A field that has no docstring has its type for one, and not its number."""
    if lines and lines[0].startswith("Alias for field number"):
        lines[:] = [f"``{field_type(name)}``"]


def field_type(name):
    """The annotation of a field, ``miniattn.functional.ReluContext.y``, as it is written."""
    home, cls, field = name.rsplit(".", 2)
    source = textwrap.dedent(inspect.getsource(getattr(importlib.import_module(home), cls)))
    found = {
        node.target.id: ast.unparse(node.annotation)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.AnnAssign)
    }
    return re.sub(r"\s+", " ", found[field])


def setup(app):
    app.setup_extension("sphinx.ext.autodoc")  # whose events these are
    app.add_directive("tuples", Tuples)
    app.connect("autodoc-skip-member", skip_tuples)
    app.connect("autodoc-process-docstring", name_types)
    return {"parallel_read_safe": True}
