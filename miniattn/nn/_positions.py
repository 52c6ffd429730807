"""Where a token is: sinusoidal and learned vectors that are added, rotary turns, ALiBi slopes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks
from miniattn._context import context
from miniattn._memory import copy, empty_like
from miniattn._typing import Array
from miniattn.nn import _init
from miniattn.nn._module import Module
from miniattn.nn._parameter import Parameter
from miniattn.scores._ready import alibi_slopes


@context
class SinusoidalPositionsContext(NamedTuple):
    """What `SinusoidalPositions.backward` needs: what its result looks like."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.floating]


class SinusoidalPositions(Module):
    """Adds sines and cosines of the position: y = x + P[positions].

    P[t, 2i] = sin(t / 10000^(2i/E)) and P[t, 2i+1] = cos(t / 10000^(2i/E)). No parameters and no
    longest length.

    Parameters
    ----------
    embed_dim : int
        Width E of x; even.

    References
    ----------
    Vaswani et al., "Attention Is All You Need", 2017, section 3.5.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> nn.SinusoidalPositions(4)(np.zeros((1, 2, 4))).round(2)
    array([[[0.  , 1.  , 0.  , 1.  ],
            [0.84, 0.54, 0.01, 1.  ]]])
    """

    def __init__(self, embed_dim: int) -> None:
        self.embed_dim = _checks.integer("embed_dim", embed_dim, least=2)
        if embed_dim % 2:
            raise ValueError(f"embed_dim: expected an even number, got {embed_dim}")

    def forward(
        self,
        x: Array,
        *,
        positions: Array | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Array, SinusoidalPositionsContext]:
        """Return (y, ctx): x and y (B, T, E), positions (T,) or (B, T), by default 0 to T − 1."""
        x = _checks.float_array("x", x)
        _checks.shape("x", x, "B, T, E", {"E": self.embed_dim})
        positions = token_positions(positions, x.shape[:2])
        length = int(positions.max(initial=0)) + 1
        y = x + _sinusoids(_round_up(length), self.embed_dim, x.dtype)[positions]
        return y, SinusoidalPositionsContext(x.shape, x.dtype)

    def backward(self, dy: Array, ctx: SinusoidalPositionsContext) -> Array:
        """Return dx (B, T, E)."""
        ctx = _checks.context(ctx, SinusoidalPositionsContext)
        # y = x + P[positions]
        return _checks.gradient("dy", dy, ctx.shape, ctx.dtype).copy()

    def describe(self) -> str:
        """Return e.g. ``"64"``."""
        return f"{self.embed_dim}"


@context
class LearnedPositionsContext(NamedTuple):
    """What `LearnedPositions.backward` needs: the rows that were added, and the sum's shape."""

    positions: Array
    shape: tuple[int, ...]


class LearnedPositions(Module):
    """Adds a learned vector for each position: y = x + weight[positions].

    Parameters
    ----------
    max_length : int
        Number of positions; longer sequences are a ValueError.
    embed_dim : int
        Width E of x.
    std : float
        The table starts as N(0, std²).
    rng : numpy.random.Generator, optional
        Draws the table; None is a fresh unseeded one.
    dtype : float32 or float64

    Attributes
    ----------
    weight : Parameter, shape (max_length, E)

    References
    ----------
    Gehring et al., "Convolutional Sequence to Sequence Learning", 2017, section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> layer = nn.LearnedPositions(16, 4)
    >>> y, ctx = layer.forward(np.zeros((2, 3, 4), np.float32))
    >>> dx = layer.backward(np.ones_like(y), ctx)
    >>> layer.weight.grad[:4, 0]
    array([2., 2., 2., 0.], dtype=float32)
    """

    _free = (*Module._free, "std")

    def __init__(
        self,
        max_length: int,
        embed_dim: int,
        *,
        std: float = 0.02,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        shape = (
            _checks.integer("max_length", max_length, least=1),
            _checks.integer("embed_dim", embed_dim, least=1),
        )
        std = _checks.positive("std", std)
        self.weight = Parameter(_init.normal(_init.generator(rng), shape, std, dtype))

    def forward(
        self,
        x: Array,
        *,
        positions: Array | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Array, LearnedPositionsContext]:
        """Return (y, ctx): x and y (B, T, E), positions (T,) or (B, T), by default 0 to T − 1."""
        max_length, embed_dim = self.weight.shape
        x = _checks.layer_input("x", x, embed_dim, self.weight.dtype)
        _checks.shape("x", x, "B, T, E", {"E": embed_dim})
        positions = token_positions(positions, x.shape[:2])
        if positions.max(initial=0) >= max_length:
            raise ValueError(
                f"positions: expected positions < max_length = {max_length}, "
                f"got {int(positions.max())}"
            )
        y = np.add(x, self.weight.data[positions], out=empty_like(x))
        return y, LearnedPositionsContext(positions, x.shape)

    def backward(self, dy: Array, ctx: LearnedPositionsContext) -> Array:
        """Return dx (B, T, E)."""
        ctx = _checks.context(ctx, LearnedPositionsContext)
        dy = _checks.gradient("dy", dy, ctx.shape, self.weight.dtype)
        # y = x + weight[positions]
        if self.weight.trainable:
            ids = np.broadcast_to(ctx.positions, dy.shape[:2])
            length, width = self.weight.shape
            table = F.EmbeddingContext(ids, (length, width), self.weight.dtype)
            self.weight.accumulate(F.embedding_backward(dy, table))
        return copy(dy)

    def describe(self) -> str:
        """Return e.g. ``"64 x 128"``."""
        return "{} x {}".format(*self.weight.shape)


class Rotary(Module):
    """Turns pairs of query and key entries by angles that grow with the position.

    Pair i at position t is turned by t · base^(−2i/dim), so that the score of a query and a key
    depends on their distance. Given to `MultiHeadAttention` as ``rotary=nn.Rotary()``.

    Parameters
    ----------
    base : float
        The slowest pair turns once in about 2π · base tokens.
    interleaved : bool
        False pairs entry i with i + dim/2 (GPT-NeoX, Llama); True pairs 2i with 2i + 1 (the
        paper).
    dim : int, optional
        How many entries of a head are turned, the first ones; all of them by default. A quarter
        serves as well [2]_.
    frequencies : floats (dim/2,), optional
        The angle of each pair at position 1, instead of base^(−2i/dim): those of
        `miniattn.nn.frequencies`, for sequences longer than a model was trained on, or any.
    magnitude : float
        What turned pairs are multiplied by (`frequencies.yarn_magnitude`).

    References
    ----------
    .. [1] Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021,
       section 3.2.2 and equation 34.
    .. [2] Black et al., "GPT-NeoX-20B: An Open-Source Autoregressive Language Model", 2022,
       section 2.1.1.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> q = np.ones((1, 1, 3, 2))
    >>> nn.Rotary()(q, np.arange(3))[0, 0].round(2)
    array([[ 1.  ,  1.  ],
           [-0.3 ,  1.38],
           [-1.33,  0.49]])
    """

    _live = ("base", "interleaved", "dim", "frequencies", "magnitude")

    def __init__(
        self,
        *,
        base: float = 10000.0,
        interleaved: bool = False,
        dim: int | None = None,
        frequencies: Sequence[float] | Array | None = None,
        magnitude: float = 1.0,
    ) -> None:
        self.base = _checks.positive("base", base)
        self.interleaved = _checks.flag("interleaved", interleaved)
        self.magnitude = _checks.positive("magnitude", magnitude)
        self.frequencies: tuple[float, ...] | None = None
        if frequencies is not None:
            self.frequencies = tuple(F._rotary.checked_frequencies(frequencies).tolist())
        self.dim = None if dim is None else _checks.integer("dim", dim, least=2)
        F.rotary(  # which says what is wrong with dim and frequencies, if anything
            np.zeros((0, dim or 2 * len(self.frequencies or ()))),
            np.zeros(0, np.int64),
            dim=dim,
            frequencies=self.frequencies,
        )

    def forward(
        self, x: Array, positions: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, F.RotaryContext]:
        """Return (y, ctx): x and y (B, H, T, D), positions (T,) or (B, T)."""
        return F.rotary_forward(
            x,
            positions,
            base=self.base,
            interleaved=self.interleaved,
            dim=self.dim,
            frequencies=self.frequencies,
            magnitude=self.magnitude,
        )

    def backward(self, dy: Array, ctx: F.RotaryContext) -> Array:
        """Return dx (B, H, T, D)."""
        # y = x turned by its angles
        return F.rotary_backward(dy, ctx)

    def check_width(self, head_dim: int) -> None:
        """Raise unless heads of this width can be turned."""
        turned = self.dim or 2 * len(self.frequencies or ()) or head_dim
        if head_dim % 2 and turned == head_dim:
            raise ValueError(
                "rotary: expected None, or a dim of its own, where heads are of odd width, "
                f"got embed_dim / num_heads = {head_dim}"
            )
        if turned > head_dim:
            raise ValueError(f"rotary: expected dim <= {head_dim}, the heads' width, got {turned}")

    def describe(self) -> str:
        """Return e.g. ``"base=10000"``."""
        words = [f"base={self.base:g}" if self.frequencies is None else "frequencies given"]
        if self.dim is not None:
            words.append(f"dim={self.dim}")
        if self.magnitude != 1.0:
            words.append(f"magnitude={self.magnitude:g}")
        return ", ".join([*words, *(["interleaved"] if self.interleaved else [])])


def alibi_bias(num_heads: int, q_positions: Array, k_positions: Array, dtype: DTypeLike) -> Array:
    """Return the bias −slope_h · abs(i − j) of ALiBi for attention, (1 or B, H, T, S).

    Parameters
    ----------
    num_heads : int
        H, which fixes the slopes (`alibi_slopes`).
    q_positions, k_positions : int arrays, (T,) and (S,), or (B, T) and (B, S)
        Where the queries and keys are.
    dtype : float32 or float64

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> nn.alibi_bias(2, np.arange(3), np.arange(3), np.float64)[0, 0]
    array([[-0.    , -0.0625, -0.125 ],
           [-0.0625, -0.    , -0.0625],
           [-0.125 , -0.0625, -0.    ]])
    """
    q_positions = np.atleast_2d(_checks.int_array("q_positions", q_positions))
    k_positions = np.atleast_2d(_checks.int_array("k_positions", k_positions))
    distance = np.abs(q_positions[:, :, None] - k_positions[:, None, :])
    bias: Array = -alibi_slopes(num_heads)[:, None, None] * distance[:, None]
    return bias.astype(_checks.float_dtype("dtype", dtype))


def token_positions(
    positions: Array | None, shape: tuple[int, ...], *, negative: bool = False
) -> Array:
    """Return the positions of tokens (B, T), checked: (T,) or (B, T), and where they may start."""
    batch, length = shape
    if positions is None:
        return np.arange(length)
    positions = _checks.int_array("positions", positions)
    _checks.shape(
        "positions", positions, "T" if positions.ndim == 1 else "B, T", {"B": batch, "T": length}
    )
    if not negative and positions.min(initial=0) < 0:
        raise ValueError(f"positions: expected positions >= 0, got {int(positions.min())}")
    return positions


@functools.lru_cache(maxsize=16)
def _sinusoids(length: int, embed_dim: int, dtype: np.dtype[np.floating]) -> Array:
    """Return the table P (length, E), read-only because it is shared."""
    rates = 10000.0 ** (-np.arange(0, embed_dim, 2) / embed_dim)
    angles = np.arange(length)[:, None] * rates
    table: Array = np.empty((length, embed_dim), dtype)
    table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles)
    table.flags.writeable = False
    return table


def _round_up(length: int) -> int:
    """Return the next power of two, so that growing lengths share few tables."""
    return max(64, 1 << (length - 1).bit_length())
