"""Numba kernels: validated arrays in, given buffers filled. They know nothing of the rest.

The map: what to read first, and why.

Before the first kernel, ``examples/tiled_attention.py``: tiles and the online softmax, forward and
backward, in 90 lines of NumPy. The kernels do the same under the same names, and quote its lines
(``# tiled:``). ``docs/kernel.md`` has the pictures, and what was measured.

1. `attention_forward`: one block of queries on its way over the tiles of keys. To read it: a task
   takes pieces of work (`queue`) until none is left; `arguments` takes its three tables apart.
   `masking` says which tiles are hidden, partial or full, `scores` what stands between a product
   and its exponential, `online` is the mathematics: the online softmax and the gradient of a score,
   for all units. `products` is the three shapes of product that a tile needs.
2. `attention_backward`: the same walk, with weights computed again, and five products.
3. `simd`: the vector registers that all of it is written in; its first page is enough.
   `tiles` is what copies, packs and multiplies with them.
4. Other ways to the same numbers. One query and a long cache: `attention_decode` and
   `attention_decode_backward`. The matrix unit: `attention_forward_amx` and
   `attention_backward_amx`, on `amx`, `blocks`, `block_products` and `kept`. The weights
   themselves: `attention_weights`.
5. Rows: `softmax` is the one to begin with, in frames that `softmax_rows`, `rows` and `writing`
   hold; `softmax_columns` goes sideways. `norm` (huge rows: `norm_scaled`) and `loss` are of the
   same kind; `columns` sums down. `activation` and `elementary`: numbers one by one. `rotary`,
   `random` (what is dropped).
6. `matmul` and `linear`: products of whole matrices. `optim`: all parameters in one launch. `flow`:
   maximum flow, for `analysis`.
7. Under all of them: `_runtime` (flags, locks: how a function becomes a kernel), `launch` (the one
   parallel region), `tables` (how arrays lie, as kernels are told), `_threads` (whose threads),
   `_target` (which processor), `_compiler` and `_cache` (compiled once, kept on disk). `peak`
   measures the machine.
"""

from typing import TYPE_CHECKING

from miniattn import _lazy

if TYPE_CHECKING:  # imported at their first use, and Numba with them
    from miniattn.kernels import _cache, _runtime, _threads, flow, launch, optim, tables

# What modules that are to be read without Numba ask for by attribute.
__all__ = ["_cache", "_runtime", "_threads", "flow", "launch", "optim", "tables"]

if not TYPE_CHECKING:  # else every misspelt name would be one to a type checker
    __getattr__, __dir__ = _lazy.names(__name__, __all__, ())
