"""Formulas as MathML, which browsers draw by themselves: pages show them without a network."""

from docutils import nodes
from latex2mathml.converter import convert


def inline(writer, node):
    """Write a formula within a line, and skip what would be written for its source."""
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(writer, node):
    """Write a formula that stands alone; a wide one scrolls for itself."""
    formula = convert(node.astext(), display="block")
    writer.body.append(f'<div class="math" style="overflow-x: auto">{formula}</div>\n')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
