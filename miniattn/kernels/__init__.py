"""Numba kernels: validated arrays in, given buffers filled. They know nothing of the rest.

The map: what to read first, and why.

Before the first kernel, ``examples/tiled_attention.py``: tiles and the online softmax, forward and
backward, in 90 lines of NumPy. The kernels do the same under the same names, and quote its lines
(``# tiled:``). ``docs/kernel.md`` has the pictures, and what was measured.

1. `kernels/attention/vector/forward.py`: queries of one head on their way over the tiles of keys.
   To read it: a task takes pieces of work (`kernels/compile/queue.py`) until none is left;
   what it is told it finds by `kernels/attention/problem.py` (sizes and options),
   `kernels/attention/operands.py` (where arrays are) and `kernels/attention/pieces.py` (which
   queries are whose). `kernels/attention/masking.py` says which tiles are hidden, partial or full,
   `kernels/attention/scores.py` what stands between a product and its exponential (masks that are
   no bounds: `kernels/attention/tile_map.py`; functions of the user's:
   `kernels/attention/functions.py`), `kernels/attention/online.py` has the mathematics of softmax
   as tiles come in, and `kernels/attention/vector/products.py` is the three shapes of product that
   a tile needs.
2. `kernels/attention/vector/backward.py`: the same walk, with weights computed again, and five
   products. `queries` makes the gradients of scores, `sums` adds up and writes those of keys and
   values, `bias` those of a bias.
3. `registers/`: the vector registers that all of it is written in; the first page is enough.
   `types`, `memory`, `arithmetic`, `maths`, `lanes`, `single` and `product` have a subject each,
   `build` and `tasks` are what they need, `arrays` is for users' functions.
   `kernels/dense/panels.py` copies, packs and multiplies rows that lie as
   `kernels/dense/places.py` says.

   One word has one meaning. *Tile*: a rectangle of scores. *Run*: queries, or rows, that follow
   each other. *Panel*: what a product keeps in vector registers. *Square*: 16 x 16 words of the
   matrix unit. *Chunk*: 32 terms of a sum, or another run of elements.
4. Other ways to the same numbers; `kernels/attention/units.py` lists them, and says who is taken
   when. Without tiles and registers, the least that a kernel of attention does:
   `kernels/attention/scalar/forward.py`, `kernels/attention/scalar/backward.py` and
   `kernels/attention/scalar/weights.py`, on `pairs`.
   One query and a long cache: `kernels/attention/decode/forward.py` and
   `kernels/attention/decode/backward.py`.
   The matrix unit: `kernels/attention/matrix/forward.py` and
   `kernels/attention/matrix/backward.py`, on `kernels/registers/matrix_unit.py`, `squares`,
   `products` and `packed`. The weights themselves: `kernels/attention/weights.py`.
   Sigmoid, sparsemax and entmax in the place of softmax: `kernels/attention/whole/normalizers.py`
   has the mathematics, `kernels/attention/whole/rows.py` the scores of whole rows; `forward`,
   `queries`, `backward` and `weights` beside them do what those of the vector unit do.
5. Rows: `kernels/rows/softmax.py` is the one to begin with, in frames that `softmax_rows`, `frame`
   and `writing` hold; `softmax_columns` goes sideways, `sparse`
   has its relatives with zeros. `norm` (huge rows: `norm_scaled`) and
   `loss` are of the same kind; `columns` sums down. `activation` and `elementary`: numbers one by
   one. `rotary`, `random` (what is dropped), `cache` (keys and values of new tokens).
6. `kernels/dense/matmul.py` and `kernels/dense/linear.py`: products of whole matrices. `optim`:
   all parameters in one launch. `flow`: maximum flow, for `analysis`.
7. Under all of them, `compile/`: `settings` (flags, locks: how a function becomes a kernel),
   `launch` (the one parallel region), `replay` (many launches in one call), `tables` (how arrays
   lie, as kernels are told), `threads` (whose threads), `target` (which processor), `compiler` and
   `cache` (compiled once, kept on disk), `ahead` and `beside` (several at once, in other
   processes), `user` (functions that users write). `peak` measures the machine.
"""

from typing import TYPE_CHECKING

from miniattn import _lazy

if TYPE_CHECKING:  # imported at their first use, and Numba with them
    from miniattn.kernels import compile, flow, optim

# What modules that are to be read without Numba ask for by attribute.
__all__ = ["compile", "flow", "optim"]

if not TYPE_CHECKING:  # else every misspelt name would be one to a type checker
    __getattr__, __dir__ = _lazy.names(__name__, __all__, ())
