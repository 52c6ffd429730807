"""Functions of scores as parts of a model: their tables are parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks, scores
from miniattn._context import context
from miniattn._typing import Array
from miniattn.nn._module import Module
from miniattn.nn._parameter import Parameter
from miniattn.scores import Score
from miniattn.scores._ready import alibi_slopes


@context
class LearnedScoreContext(NamedTuple):
    """What `LearnedScore.backward` needs: the function with its tables, and what it was given."""

    score: Score
    scores: Array


class LearnedScore(Module):
    """Scores by a function whose float tables are learned: ``y = score(s, b, h, i, j, *tables)``.

    Given to attention as ``score=``, it becomes part of the kernels. Where several layers are
    given the same one, they share its tables. `ALiBi`, `T5Bias` and `RelativeBias` are such.

    Parameters
    ----------
    score : Score
        A function of `miniattn.scores` with its tables, which are what the parameters start at.
        Tables of ints and single numbers stay as they are.

    Attributes
    ----------
    tables : dict of str to Parameter
        By the names that the function gives them; what is not learned is in it, too.

    References
    ----------
    Dong et al., "Flex Attention: A Programming Model for Generating Optimized Attention Kernels",
    2024, section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn, scores
    >>> @scores.by_distance
    ... def relative(h, d, table):
    ...     return table[h, d + 4]
    >>> @relative.backward
    ... def _(dbias, h, d, table, dtable):
    ...     dtable[h, d + 4] += dbias
    >>> shared = nn.LearnedScore(relative(np.zeros((2, 9), np.float32)))
    >>> layers = nn.TransformerEncoder(2, 8, 2, score=shared)
    >>> y, ctx = layers.forward(np.ones((1, 5, 8), np.float32))
    >>> dx = layers.backward(y, ctx)
    >>> shared.tables["table"].grad.shape
    (2, 9)
    """

    def __init__(self, score: Score) -> None:
        score = _checks.instance("score", score, Score)
        if score.shift is not None:
            raise ValueError("score: expected one that was not shifted, got a shift")
        self.function = score.function
        self.tables: dict[str, Any] = {
            name: Parameter(x) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
            for name, x in zip(score.function.table_names, score.tables, strict=True)
        }

    @property
    def value(self) -> Score:
        """The `Score` that the parameters make now."""
        tables = (x.data if isinstance(x, Parameter) else x for x in self.tables.values())
        return Score(self.function, tuple(tables))

    def forward(
        self, s: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, LearnedScoreContext]:
        """Return (y, ctx), what the function makes of scores s (B, H, T, S).

        To be looked at: it runs as Python, pair by pair. Attention has it in its kernels.
        """
        s = _checks.float_array("s", s)
        _checks.shape("s", s, "B, H, T, S")
        score = self.value
        y = F._explicit.scored(score, s.astype(np.float64), np.ones(s.shape, bool)).astype(s.dtype)
        return y, LearnedScoreContext(score, s)

    def backward(self, dy: Array, ctx: LearnedScoreContext) -> Array:
        """Return ds (B, H, T, S); add to the gradients of the tables."""
        ctx = _checks.context(ctx, LearnedScoreContext)
        s = ctx.scores
        dy = _checks.gradient("dy", dy, s.shape, s.dtype)
        # y = score(s, b, h, i, j, *tables)
        ds, before = dy.astype(np.float64), s.astype(np.float64)
        seen = np.ones(s.shape, bool)
        ds, dtables = F._explicit.scored_backward(ctx.score, ds, before, seen, s.dtype)
        self.accumulate(dtables)
        return ds.astype(s.dtype)

    def accumulate(self, dtables: tuple[Array | None, ...] | None) -> None:
        """Add ``grads.dscore`` of attention to the gradients of the tables."""
        for table, dtable in zip(self.tables.values(), dtables or (), strict=False):
            if isinstance(table, Parameter):
                table.accumulate(dtable)

    def describe(self) -> str:
        """Return e.g. ``"relative, table 4 x 15"``."""
        words = [self.function.name.lstrip("_")]
        for name, table in self.tables.items():
            if isinstance(table, Parameter):
                words.append(f"{name} {' x '.join(map(str, table.shape))}")
            elif not isinstance(table, np.ndarray):
                words.append(f"{name}={table:g}")
        return ", ".join(words)


class ALiBi(LearnedScore):
    """ALiBi with learned slopes: s − slope_h · abs(i − j).

    Attention has it with the slopes of the paper, which are not learned, as ``alibi=True``.

    Parameters
    ----------
    num_heads : int
        H. The slopes start as those of the paper (`alibi_slopes`).
    dtype : float32 or float64

    References
    ----------
    Press, Smith & Lewis, "Train Short, Test Long: Attention with Linear Biases Enables Input
    Length Extrapolation", ICLR 2022, section 3.

    Examples
    --------
    >>> from miniattn import models, nn
    >>> model = models.GPT(9, 8, embed_dim=8, num_heads=2, positions=None, score=nn.ALiBi(2))
    >>> model.blocks.layers[1].attn.score.tables["slopes"].data
    array([0.0625    , 0.00390625], dtype=float32)
    """

    def __init__(self, num_heads: int, *, dtype: DTypeLike = np.float32) -> None:
        slopes = alibi_slopes(_checks.integer("num_heads", num_heads, least=1))
        super().__init__(scores.alibi(slopes.astype(_checks.float_dtype("dtype", dtype))))


class T5Bias(LearnedScore):
    """T5's relative positions: s + table[bucket(j − i), h], learned.

    Parameters
    ----------
    num_heads : int
        H.
    buckets : int
        Rows of the table, which starts at 0.
    bidirectional : bool
        Whether keys behind the query have buckets of their own; with a causal mask they need none.
    max_distance : int
        From there on all keys are in the last bucket.
    dtype : float32 or float64

    Notes
    -----
    T5 has one table for all layers of a stack: give them one `T5Bias`.

    References
    ----------
    Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer", 2020, section 2.1.

    Examples
    --------
    >>> from miniattn import nn
    >>> nn.TransformerEncoder(2, 8, 2, score=nn.T5Bias(2)).layers[1].attn.score
    T5Bias(t5_bias, table 32 x 2, most=128)
    """

    def __init__(
        self,
        num_heads: int,
        *,
        buckets: int = 32,
        bidirectional: bool = True,
        max_distance: int = 128,
        dtype: DTypeLike = np.float32,
    ) -> None:
        shape = (
            _checks.integer("buckets", buckets, least=2),
            _checks.integer("num_heads", num_heads, least=1),
        )
        with _checks.renamed(table="buckets"):
            score = scores.t5_bias(
                np.zeros(shape, _checks.float_dtype("dtype", dtype)),
                bidirectional=bidirectional,
                max_distance=max_distance,
            )
        super().__init__(score)


class RelativeBias(LearnedScore):
    """A learned number for each head and distance: s + table[h, j − i].

    Parameters
    ----------
    num_heads : int
        H.
    behind, ahead : int
        How many keys before and after the query have an entry of their own; those farther away
        share the last one. The table (H, behind + 1 + ahead) starts at 0.
    dtype : float32 or float64

    References
    ----------
    Shaw, Uszkoreit & Vaswani, "Self-Attention with Relative Position Representations", 2018,
    section 3.2, where distances are clipped.

    Examples
    --------
    >>> from miniattn import nn
    >>> nn.RelativeBias(2, 16, 0).tables["table"].shape
    (2, 17)
    """

    def __init__(
        self, num_heads: int, behind: int, ahead: int, *, dtype: DTypeLike = np.float32
    ) -> None:
        heads = _checks.integer("num_heads", num_heads, least=1)
        behind, ahead = (
            _checks.integer("behind", behind, least=0),
            _checks.integer("ahead", ahead, least=0),
        )
        table = np.zeros((heads, behind + 1 + ahead), _checks.float_dtype("dtype", dtype))
        super().__init__(scores.relative(table, behind))


def checked_score(score: object, dtype: DTypeLike) -> LearnedScore | None:
    """Return the score of a layer as a module: of its own for a `Score`, which may be shared."""
    if score is None or isinstance(score, LearnedScore):
        found = score
    elif isinstance(score, Score):
        found = LearnedScore(score)
    else:
        raise TypeError(
            "score: expected a Score, as f(table) of a @scores.function, or a LearnedScore, "
            f"got {_checks.shown(score)}"
        )
    wanted = np.dtype(dtype)
    for name, table in () if found is None else found.named_parameters():
        if table.dtype != wanted:
            raise TypeError(f"score: expected {name} of {wanted}, as the layer, got {table.dtype}")
    return found
