"""Argument errors: every message names the argument, what was expected and what came.

Wrong kinds (dtype, type) are a TypeError, wrong shapes and ranges a ValueError. The functions
return the checked value in the form that the rest of the package works with.
"""

from miniattn._checks.arrays import (
    FLOATS,
    any_array,
    bool_array,
    broadcastable,
    fits,
    float_array,
    float_dtype,
    gradient,
    int_array,
    layer_input,
    like,
    same_dtype,
    shape,
)
from miniattn._checks.numbers import (
    axis,
    flag,
    integer,
    number,
    positive,
    probability,
    share,
    sizes,
)
from miniattn._checks.objects import (
    choice,
    context,
    contexts,
    function,
    generator,
    having,
    instance,
    needs,
    path,
    renamed,
    sequence,
)
from miniattn._checks.words import (
    brief,
    shown,
)

__all__ = [
    "FLOATS",
    "any_array",
    "axis",
    "bool_array",
    "brief",
    "broadcastable",
    "choice",
    "context",
    "contexts",
    "fits",
    "flag",
    "float_array",
    "float_dtype",
    "function",
    "generator",
    "gradient",
    "having",
    "instance",
    "int_array",
    "integer",
    "layer_input",
    "like",
    "needs",
    "number",
    "path",
    "positive",
    "probability",
    "renamed",
    "same_dtype",
    "sequence",
    "shape",
    "share",
    "shown",
    "sizes",
]
