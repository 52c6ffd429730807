"""Keys and values of new tokens, written behind those that a cache holds of their rows."""

from miniattn.kernels.compile.queue import Told, each_piece
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.registers import address, lanes, load_first, store_first

B, G, D, CAPACITY = range(4)
K, V, KEYS, VALUES, LENGTHS = range(5)


@task
def append(sizes, factors, operands, queue, scratch):
    """keys[b, g, lengths[b]] = k[b, g], and the same for values.

    Sizes B, G, D and the capacity of the cache; operands k, v (B, G, D), keys, values (B, G,
    capacity, D) and lengths (B,), of int64. A piece of work owns a row of the batch.
    """
    each_piece(queue, _append_row, Told(sizes, factors, operands, scratch))


@inner
def _append_row(told, b):
    sizes, operands, like = told.sizes, told.operands, told.scratch
    width = sizes[D]
    at = address(operands[LENGTHS], sizes)[b]
    for g in range(sizes[G]):
        head = b * sizes[G] + g
        place = (head * sizes[CAPACITY] + at) * width
        for source, target in ((K, KEYS), (V, VALUES)):
            one = address(operands[source], like) + head * width
            other = address(operands[target], like) + place
            for d in range(0, width, lanes(like)):
                n = min(lanes(like), width - d)
                store_first(other + d, load_first(one + d, n), n)
