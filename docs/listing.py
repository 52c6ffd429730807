"""How API pages list what a module has: what people call first, what only passes by last.

Contexts, gradients and other NamedTuples are left out by ``automodule`` and come where the page
says ``.. tuples:: miniattn.functional``. A table of all that a module has stands before the first
of it, and fields of tuples are described in words.
"""

import ast
import importlib
import inspect
import re
import textwrap

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective
from words import has_words
from words import of as words_of


def is_tuple(value):
    return isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields")


def summarise(app, what, name, value, options, lines):
    """A module's page begins with a table: a line for each thing that has a name."""
    if what != "module":
        return
    listed = [each for each in getattr(value, "__all__", ()) if not is_tuple(getattr(value, each))]
    chosen = options.get("members")
    if isinstance(chosen, list):
        listed = [each for each in listed if each in chosen]
    rows = [each for each in listed if not is_half(each, listed) and has_line(value, each)]
    if not rows:
        return
    lines += ["", ".. list-table::", "   :widths: 35 65", "   :class: summary", ""]
    for each in sorted(rows):
        halves = [
            f"{each}_{half}" for half in ("forward", "backward") if f"{each}_{half}" in listed
        ]
        links = [f":py:obj:`{n} <{name}.{n}>`" for n in (each, *halves)]
        first = inspect.getdoc(getattr(value, each)).splitlines()[0]
        first = re.sub(
            r"\s*\[\w+\]_", "", first
        )  # the reference stands below, where it is described
        lines += [
            f"   * - {links[0]}{''.join(f' {link}' for link in links[1:])}",
            f"     - {first}",
        ]


def is_half(name, listed):
    """Whether it is the forward or backward of something that is listed itself."""
    return name.rpartition("_")[0] in listed and name.endswith(("_forward", "_backward"))


def has_line(module, name):
    """Whether it is a function or a class that says what it is."""
    thing = getattr(module, name)
    return (inspect.isroutine(thing) or inspect.isclass(thing)) and bool(inspect.getdoc(thing))


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


def describe_fields(app, what, name, value, options, lines):
    """A field of a tuple says what it is, in words, and of what type."""
    owner = owner_of(name)
    if owner is None:
        return
    alone = not lines or lines[0].startswith("Alias for field number")
    said = "" if alone else " ".join(line for line in lines if line)
    annotation = field_type(name)
    if not has_words(said):
        words = words_of(name.rpartition(".")[2], annotation, owner.__name__)
        said = f"{words[0].upper()}{words[1:]}. {said}".strip() if words else said
    lines[:] = [f"{said} ``{annotation}``" if alone else said]


def owner_of(name):
    """The tuple of which ``miniattn.functional.ReluContext.y`` is a field, or None."""
    home, cls, field = ["", "", "", *name.rsplit(".", 2)][-3:]
    try:
        owner = getattr(importlib.import_module(home), cls, None)
    except (ImportError, ValueError):
        return None
    return owner if is_tuple(owner) and field in owner._fields else None


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
    app.connect("autodoc-process-docstring", describe_fields)
    app.connect("autodoc-process-docstring", summarise, priority=900)  # after numpydoc
    return {"parallel_read_safe": True}
