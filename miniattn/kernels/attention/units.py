"""Who computes a call of attention: units, in one list, tried in order.

A unit is some kernels, forward, backward and for the weights, that do all that attention promises
in a way of their own. Each says what it `supports`, and for which of that it is the one to take
(`pays`). A call goes to the first in the list of which both are true, unless somebody has chosen by
name (`use`): then to that one where it supports the call, and otherwise as the list says.

What numbers there are, only a kernel sees. One that finds them UNFIT leaves the call to its unit's
`fallback`; where there is none, it is done again in float64.

To add a unit: its kernels in a folder beside the others, and an entry here. CONTRIBUTING.md has the
steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from miniattn.kernels.attention import weights
from miniattn.kernels.attention.decode import backward as decode_backward
from miniattn.kernels.attention.decode import forward as decode_forward
from miniattn.kernels.attention.matrix import backward as matrix_backward
from miniattn.kernels.attention.matrix import forward as matrix_forward
from miniattn.kernels.attention.problem import SOFTMAX, Problem
from miniattn.kernels.attention.scalar import backward as scalar_backward
from miniattn.kernels.attention.scalar import forward as scalar_forward
from miniattn.kernels.attention.scalar import weights as scalar_weights
from miniattn.kernels.attention.vector import backward as vector_backward
from miniattn.kernels.attention.vector import bias as vector_bias
from miniattn.kernels.attention.vector import forward as vector_forward
from miniattn.kernels.attention.vector import sums as vector_sums
from miniattn.kernels.attention.whole import backward as whole_backward
from miniattn.kernels.attention.whole import forward as whole_forward
from miniattn.kernels.attention.whole import weights as whole_weights
from miniattn.kernels.compile.target import LANES, UNIT
from miniattn.kernels.registers.matrix_unit import CHUNK

Shape: TypeAlias = tuple[int, ...]
# A kernel, with how many pieces of work it has and how much scratch memory each thread needs.
Part: TypeAlias = tuple[Any, tuple[int, int]]

WORTH_SPLITTING = 2**13  # features times queries of a head, or keys
FEW_QUERIES = 4  # up to which reading K and V is the work, not the products


class Outline(NamedTuple):
    """What a call consists of."""

    problem: Problem
    parts: list[Part]
    sums: Shape | None = None
    """The shape of what parts leave for later ones."""
    remakes: tuple[str, ...] = ()
    """Operands that parts write once more on the way: they are to work on copies of them."""


class Unit(NamedTuple):
    """One way to compute attention."""

    name: str
    supports: Callable[[Problem, int], bool]
    """Whether it can, given what is asked and how many lanes a vector of the dtype has."""
    pays: Callable[[Problem, int], bool]
    """Whether it is to, if nobody has chosen another."""
    forward: Callable[[Problem, int], Outline]
    """Of kernels that write OUT, LSE and STATS."""
    backward: Callable[[Problem, int, Shape | None], Outline]
    """Of kernels that write DQ, DK and DV, and add to DBIAS if its shape is given.

    They read STATS, which another unit may have written.
    """
    weights: Callable[[Problem, int], Outline]
    """Of a kernel that adds the weights, whole or pooled, to OUT, which then is their map."""
    fallback: str | None = None
    """Who does a call whose numbers its kernels find UNFIT, in the same dtype."""


def _always(problem: Problem, lanes: int) -> bool:
    return True


def _has_softmax(problem: Problem, lanes: int) -> bool:
    return problem.normalizer == SOFTMAX


def _never(problem: Problem, lanes: int) -> bool:
    return False


# --- The matrix unit -----------------------------------------------------------------------------


def _has_matrix_unit(problem: Problem, lanes: int) -> bool:
    few = problem.T <= FEW_QUERIES
    usual = problem.normalizer == SOFTMAX and not problem.scored
    return UNIT.used and lanes == LANES and usual and not few


def _pays_to_split(problem: Problem, lanes: int) -> bool:
    """Return whether it is faster: splitting numbers has to pay for itself.

    Below this, and with fewer features than a pair of squares holds, the vector registers are.
    """
    features, pairs = min(problem.D, problem.Dv), min(problem.T, problem.S)
    worth = features >= CHUNK and pairs >= 128 and features * pairs >= WORTH_SPLITTING
    return UNIT.always or worth


def _matrix_forward(problem: Problem, lanes: int) -> Outline:
    return Outline(problem, [(matrix_forward.forward, matrix_forward.plan(problem, lanes))])


def _matrix_backward(problem: Problem, lanes: int, bias: Shape | None) -> Outline:
    """Sums of parts, and the gradient of a bias, are left to the vector registers."""
    outline = _vector_backward(problem, lanes, bias)
    plan = matrix_backward.plan(outline.problem, lanes)
    outline.parts[0] = matrix_backward.backward, plan
    return outline


# --- Few queries ---------------------------------------------------------------------------------


def _has_few_queries(problem: Problem, lanes: int) -> bool:
    usual = problem.normalizer == SOFTMAX and not problem.scored
    return problem.T <= FEW_QUERIES and usual


def _decode_forward(problem: Problem, lanes: int) -> Outline:
    kernels, problem = decode_forward, problem._replace(parts=_key_parts(problem))
    parts = [
        (kernels.decode, kernels.plan(problem, lanes)),
        (kernels.merge, kernels.plan_merge(problem, lanes)),
    ]
    return Outline(problem, parts, kernels.states(problem, lanes))


def _decode_backward(problem: Problem, lanes: int, bias: Shape | None) -> Outline:
    kernels, problem = decode_backward, problem._replace(parts=_key_parts(problem))
    parts = [
        (kernels.decode_backward, kernels.plan(problem, lanes)),
        (kernels.add_queries, kernels.plan_queries(problem, lanes)),
    ]
    if bias is not None:  # its scores are summed up in another order, and want maxima of their own
        parts += _vector_forward(problem, lanes).parts
        parts.append(_vector_bias(problem, lanes, bias))
        # They write these on the way, which belong to the context.
        return Outline(problem, parts, kernels.sums(problem, lanes), ("out", "lse", "stats"))
    return Outline(problem, parts, kernels.sums(problem, lanes))


def _key_parts(problem: Problem) -> int:
    """Return among how many tasks the keys of one head are dealt, by the shape alone."""
    return max(1, min(problem.S // 512, -(-16 // max(1, problem.B * problem.G))))


# --- The vector registers ------------------------------------------------------------------------


def _vector_forward(problem: Problem, lanes: int) -> Outline:
    return Outline(problem, [(vector_forward.forward, vector_forward.plan(problem, lanes))])


def _vector_backward(problem: Problem, lanes: int, bias: Shape | None) -> Outline:
    kernels, problem = vector_backward, problem._replace(parts=_query_parts(problem))
    parts, sums = [(kernels.backward, kernels.plan(problem, lanes))], None
    if problem.parts > 1:
        parts.append((vector_sums.add_sums, vector_sums.plan_sums(problem, lanes)))
        pieces = problem.B * problem.G * problem.parts
        sums = 1, pieces, vector_sums.sums_size(problem, lanes)
    if bias is not None:
        parts.append(_vector_bias(problem, lanes, bias))
    return Outline(problem, parts, sums)


def _vector_bias(problem: Problem, lanes: int, bias: Shape) -> Part:
    return vector_bias.bias_backward, vector_bias.plan(problem, lanes, bias)


def _vector_weights(problem: Problem, lanes: int) -> Outline:
    """No other unit but the plain loops has a way of its own."""
    return Outline(problem, [(weights.attention_map, weights.plan(problem, lanes))])


def _query_parts(problem: Problem) -> int:
    """Return among how many tasks the backward of one key/value head is dealt.

    It depends on the shape alone, so that the order of summation does. Each part holds its own
    sums of dk and dv: at most four.
    """
    runs = problem.H // problem.G * -(-problem.T // 64)
    return max(1, min(4, runs, -(-8 // max(1, problem.B * problem.G))))


# --- Plain loops ---------------------------------------------------------------------------------


def _scalar_forward(problem: Problem, lanes: int) -> Outline:
    return Outline(problem, [(scalar_forward.forward, scalar_forward.plan(problem, lanes))])


def _scalar_backward(problem: Problem, lanes: int, bias: Shape | None) -> Outline:
    kernels = scalar_backward
    parts = [(kernels.backward, kernels.plan(problem, lanes))]
    if bias is not None:
        parts.append((kernels.bias_backward, kernels.plan_bias(problem, lanes, bias)))
    return Outline(problem, parts)


def _scalar_weights(problem: Problem, lanes: int) -> Outline:
    return Outline(problem, [(scalar_weights.attention_map, scalar_weights.plan(problem, lanes))])


# --- Whole rows of scores ------------------------------------------------------------------------


def _has_another(problem: Problem, lanes: int) -> bool:
    return problem.normalizer != SOFTMAX


def _whole_forward(problem: Problem, lanes: int) -> Outline:
    return Outline(problem, [(whole_forward.forward, whole_forward.plan(problem, lanes))])


def _whole_backward(problem: Problem, lanes: int, bias: Shape | None) -> Outline:
    """Runs of queries are dealt, and sums of parts added, as in the vector unit."""
    outline = _vector_backward(problem, lanes, bias)
    outline.parts[0] = whole_backward.backward, whole_backward.plan(outline.problem, lanes)
    if bias is not None:
        outline.parts[-1] = (
            whole_backward.bias_backward,
            whole_backward.plan_bias(outline.problem, lanes, bias),
        )
    return outline


def _whole_weights(problem: Problem, lanes: int) -> Outline:
    return Outline(problem, [(whole_weights.attention_map, whole_weights.plan(problem, lanes))])


# --- The list ------------------------------------------------------------------------------------

UNITS = (
    Unit(
        "matrix",
        _has_matrix_unit,
        _pays_to_split,
        _matrix_forward,
        _matrix_backward,
        _vector_weights,
        "vector",
    ),
    Unit("decode", _has_few_queries, _always, _decode_forward, _decode_backward, _vector_weights),
    Unit("vector", _has_softmax, _always, _vector_forward, _vector_backward, _vector_weights),
    Unit("scalar", _has_softmax, _never, _scalar_forward, _scalar_backward, _scalar_weights),
    Unit("whole", _has_another, _always, _whole_forward, _whole_backward, _whole_weights),
)


def unit_for(problem: Problem, lanes: int, name: str | None) -> Unit:
    """Return who does a call: the unit of that name if it can, otherwise as the list says."""
    for unit in UNITS:
        if unit.name == name and unit.supports(problem, lanes):
            return unit
    return next(u for u in UNITS if u.supports(problem, lanes) and u.pays(problem, lanes))


class _Choice:
    """What `use` was told last; for the whole process, as the number of threads is."""

    name: str | None = None


def use(name: str | None) -> None:
    """Let the unit of that name do what it supports from now on; None leaves it to the list."""
    names = [unit.name for unit in UNITS]
    if name is not None and name not in names:
        raise ValueError(f"name: expected {', '.join(names)} or auto, got {name!r}")
    _Choice.name = name


def chosen() -> str | None:
    """Return the name that was chosen, or None."""
    return _Choice.name
