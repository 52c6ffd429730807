"""The mathematics of attention on vectors of scores: one copy, which every unit inlines.

For one query, with the scores s_j of the keys that it has seen so far::

    m = max_j s_j                   top      -inf before the first key
    l = sum_j exp(s_j - m)          total
    o = sum_j exp(s_j - m) v_j

The next scores may raise the maximum to m'. Older sums are multiplied by ``exp(m - m')``, and the
new terms are added. At the end::

    out = o / l        lse = m + log l        P_j = exp((s_j - m) - log l)

The maximum is subtracted first: of two numbers near each other the difference is exact, however
large they are. And m and log l stay apart, in the context too: their sum, rounded, is all that is
left of log l beside a large maximum.

Exponentials are taken in base 2, ``exp(x) = exp2(log2(e) x)``, and differences of scores are
multiplied by log2(e) (and by the scale, where nothing else stands between it and the exponential):
`Head.factor`.
"""

from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels.attention.masking import FULL, GROUP, keys_seen, visible
from miniattn.kernels.attention.operands import (
    DLSE,
    LSE,
    SINK,
    UNFIT,
    given,
    part_of,
    stats_of,
    step_of,
)
from miniattn.kernels.attention.scores import LOG2_E
from miniattn.kernels.compile.settings import inner
from miniattn.kernels.dense.panels import sum_of_squares
from miniattn.kernels.dense.places import entry
from miniattn.kernels.registers import (
    absolute,
    address,
    any_true,
    exp2_nonpositive,
    first,
    fma,
    lanes,
    load,
    load_doubles,
    load_first,
    log,
    maximum,
    select,
    splat,
    store,
    store_doubles,
    store_first,
)

# Beyond scores of this size the rounding of a float32 score is seen in its weight, 6e-5 of it at
# this size: such a call is done in double precision.
LIMIT = 1024.0
_BOUND = 2.0**250  # for squares of products


# --- One vector of scores ------------------------------------------------------------------------


@inner
def power(score, base, factor):
    """Return ``exp(s - m)``; ``base`` is m, from `raised`."""
    return exp2_nonpositive((score - base) * factor)


@inner
def raised(old, peak, factor):
    """Return the maximum with ``peak`` included, what to subtract, and what older sums shrink by.

    ``m' = max(m, peak)``, and ``exp(m - m')``.
    """
    top = maximum(peak, old)
    # tiled: base = np.where(top == -np.inf, 0.0, top)
    # tiled: decay = np.exp(old - base)
    base = base_of(top)
    return top, base, power(old, base, factor)


@inner
def start_of(operands, h, like):
    """Return m and l before the first key: of nothing, or of the head's sink alone.

    A sink is a score without a value: it takes part in l, and adds nothing to o.
    """
    if given(operands, SINK):
        sink = address(operands[SINK], like)[h * step_of(operands, SINK, 0)]
        return sink, (0.0 if sink == -np.inf else 1.0)
    return -np.inf, 0.0


@inner
def base_of(top):
    """Return m as it is subtracted: 0 in a row that has seen nothing, -inf - (-inf) is NaN."""
    return select(top == -np.inf, 0.0, top)


@inner
def weight_of(score, base, log_sum, factor):
    """Return ``P = exp((s - m) - log l)``; ``log_sum`` is log l in base 2."""
    return exp2_nonpositive(fma(score - base, factor, -log_sum))


@inner
def weight_and_dscore(score, dweight, base, log_sum, delta, factor, masked):
    """Return P, and ``dS = P (dP - delta)``.

    ``masked`` says whether something may be hidden: there both are 0, also where m, delta or what
    is hidden is NaN.
    """
    # tiled: weight = np.exp((s - base[rows][:, None]) - log_sum[rows][:, None])
    weight = weight_of(score, base, log_sum, factor)
    # tiled: ds = weight * (dweight - delta[:, None])
    dscore = weight * (dweight - delta)
    if masked:
        hidden = score == -np.inf
        weight, dscore = select(hidden, 0.0, weight), select(hidden, 0.0, dscore)
    return weight, dscore


# --- A tile of scores whose rows belong to keys --------------------------------------------------


@inner
def raise_tops(s, head, tile, top, c, start, stop):
    """Bring the maxima of a vector of queries up to date with the rows ``start <= r < stop``.

    Rows are read in fours. Returns what to subtract from scores, and what older sums shrink by.
    """
    width = tile.width
    peak = splat(-np.inf, s)
    for r in range(start, stop, 4):  # in fours: a chain of maxima waits 4 cycles for each
        p = s + (r * width + c)
        first = maximum(load(p), load(p + width))
        second = maximum(load(p + 2 * width), load(p + 3 * width))
        peak = maximum(maximum(first, second), peak)
    new, base, decay = raised(load(top + c), peak, head.factor)
    store(top + c, new)
    return base, decay


@inner(apart=True)
def overflows(s, rule, tile):
    """Return whether a visible product q·k is not finite: -inf would pass for a hidden score."""
    finite = _keys_finite(s, rule, tile) if tile.keys_in_rows else _queries_finite(s, tile)
    if finite or tile.kind == FULL:
        return not finite
    i_step, j_step = (1, tile.width) if tile.keys_in_rows else (tile.width, 1)
    for i in range(tile.n):
        for j in range(tile.m):
            score = s[i * i_step + j * j_step]
            if visible(rule, tile.i0 + i, tile.j0 + j) and not np.isfinite(score):
                return True
    return False


@inner
def far_from_overflow(k, m, D, squares):
    """Return whether products with ``m`` keys are finite, by ``|q k| <= |q| |k|``.

    ``squares`` is the sum of the squares of a run's queries. To add up those of keys is less work
    than to look at scores, where there are more queries than features.
    """
    return squares * sum_of_squares(k, m, D) < _BOUND


@inner
def _keys_finite(s, rule, tile):
    """Return whether all scores that bounds leave are finite; rows, of keys, are read in fours."""
    width = tile.width
    zero = one = two = three = splat(0.0, s)  # 0 * x is 0 or NaN, and NaN stays
    for c in range(0, width, lanes(s)):
        start, stop = keys_seen(rule, tile, c // GROUP * GROUP, GROUP)
        for r in range(start, stop, 4):
            p = s + (r * width + c)
            zero = fma(load(p), 0.0, zero)
            one = fma(load(p + width), 0.0, one)
            two = fma(load(p + 2 * width), 0.0, two)
            three = fma(load(p + 3 * width), 0.0, three)
    total = (zero + one) + (two + three)
    return not any_true(total != total)


@inner
def _queries_finite(s, tile):
    """Return the same where rows are those of queries; the last vector is full of scores."""
    total = splat(0.0, s)
    for i in range(tile.n):
        for j in range(0, tile.m, lanes(s)):
            total = fma(load(s + (i * tile.width + j)), 0.0, total)
    return not any_true(total != total)


# --- What is left of a row -----------------------------------------------------------------------


@inner(apart=True)
def write_stats(problem, operands, run, top, total):
    """Write m, log2 l and ``lse = m + log l`` of some queries; lse is -inf where one saw nothing.

    m is as scores are: times ``problem.measure`` it is that of the formula. Where it is beyond the
    LIMIT, or NaN, the operands are UNFIT.
    """
    lse = part_of(operands, LSE, run.b, run.h, top) + run.i0
    tops, log_sums = _stats_of(operands, run, top)
    beyond = False
    # tiled: log_sum = np.log(total, where=seen, out=np.full_like(total, np.inf))
    for i in range(0, run.n, lanes(np.float64)):  # doubles: each number is rounded once, at the end
        left = run.n - i
        peak, sums = load_doubles(top + i, left), load_doubles(total + i, left)
        seen = peak != -np.inf
        log_sum = log(select(seen, sums, 1.0))
        natural = peak * problem.measure
        store_doubles(tops + i, peak, left)
        store_doubles(log_sums + i, log_sum * LOG2_E, left)
        store_doubles(lse + i, fma(peak, problem.measure, log_sum), left)
        near = (absolute(natural) <= LIMIT) | ~seen
        beyond = beyond or any_true(~near)
    if beyond:
        operands[UNFIT] = 1


@inner
def within_limit(problem, top, n):
    """Return whether the maxima of ``n`` queries are within the LIMIT, in the formula's measure."""
    beyond = splat(0.0, top)
    for c in range(0, n, lanes(top)):
        peak = load(top + c)
        within = (absolute(peak * problem.measure) <= LIMIT) | (peak == -np.inf)
        beyond = select(within | ~first(n - c, top), beyond, 1.0)
    return not any_true(beyond != 0.0)


class Stats(NamedTuple):
    """What there is of each of some queries: m as it is subtracted, log2 l, and delta."""

    base: Any
    log_sum: Any
    delta: Any


@inner
def read_stats(operands, run, width, stats):
    """Read m, as it is subtracted, and log2 l of some queries, up to the ``width`` of a row.

    Padding and rows that see nothing get an infinite sum, of which no score is a part.
    """
    tops, log_sums = _stats_of(operands, run, stats.base)
    for i in range(0, width, lanes(stats.base)):
        top, log_sum = load_first(tops + i, run.n - i), load_first(log_sums + i, run.n - i)
        seen = (top != -np.inf) & first(run.n - i, top)
        store_first(stats.base + i, select(seen, top, 0.0), width - i)
        store_first(stats.log_sum + i, select(seen, log_sum, np.inf), width - i)


@inner
def _stats_of(operands, run, like):
    """Return where the maxima of some queries lie, and the logarithms of their sums."""
    tops, log_sums = (
        stats_of(operands, 0, run.b, run.h, like),
        stats_of(operands, 1, run.b, run.h, like),
    )
    return tops + run.i0, log_sums + run.i0


@inner
def stats_from(stats, i):
    """Return the `Stats` from query ``i`` of them on."""
    return Stats(stats.base + i, stats.log_sum + i, stats.delta + i)


@inner
def dlse_of(operands, b, h, i, like):
    """Return the gradient that lse itself has at a query, 0 where none was given.

    It is subtracted from delta, because ``d lse / d s_j = P_j``.
    """
    if given(operands, DLSE):
        return part_of(operands, DLSE, b, h, like)[i * step_of(operands, DLSE, 2)]
    return 0.0


@inner
def share_of(total, top):
    """Return ``1 / l``, 0 where a query saw nothing."""
    return 1.0 / total if top != -np.inf else 0.0


@inner
def write_shares(shares, total, top, n):
    """Write the same for ``n`` queries, whole vectors of them."""
    # tiled: share = np.divide(1.0, total, where=seen, out=np.zeros_like(total))
    for c in range(0, n, lanes(total)):
        store(shares + c, select(load(top + c) == -np.inf, 0.0, 1.0 / load(total + c)))


# --- NaN and infinity beside a mask --------------------------------------------------------------


@inner(apart=True)
def add_visible(target, weights, source, columns, rule, tile):
    """Add ``weight * source row`` to the target's row, for each visible pair of a tile.

    For what a hidden pair's numbers may hold: its weight is 0, and 0 * NaN = NaN would carry them
    into every sum. A `Grid` says where each of them lies. Each term is rounded once, as in the
    products that do the same where nothing is hidden: on processors without that instruction, too.
    """
    w = lanes(weights.start)
    for i in range(tile.n):
        for j in range(tile.m):
            if visible(rule, tile.i0 + i, tile.j0 + j):
                weight = entry(weights, i, j)[0]
                to, row = entry(target, i, j), entry(source, i, j)
                for e in range(0, columns, w):
                    n = min(w, columns - e)
                    new = fma(weight, load_first(row + e, n), load_first(to + e, n))
                    store_first(to + e, new, n)
