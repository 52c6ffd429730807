"""Tile maps: made by kernels, in parallel, a few rows of tiles at a time, and kept.

Of a mask with parts, each part fills words of its own, and NumPy combines these.
"""

import threading
from functools import reduce
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np

from miniattn import _checking
from miniattn._typing import Array
from miniattn.kernels.attention import tile_map as kernels
from miniattn.kernels.compile import user
from miniattn.kernels.compile.launch import NO_FACTORS, launch, run
from miniattn.kernels.compile.queue import Told
from miniattn.kernels.compile.settings import Task, get_num_threads
from miniattn.kernels.compile.tables import address_of
from miniattn.masks._lowered import NO_WORDS, TILE, Lowered
from miniattn.masks._mask import Mask
from miniattn.masks._program import (
    All,
    ByHead,
    Entries,
    Function,
    Interval,
    Not,
    Program,
    Some,
    varies,
)

KEPT = 2**28  # bytes of tile maps; the last one is kept whatever its size
AT_ONCE = 2**23  # bytes of words that exist before they are sorted out
FEW = 2**21  # bytes of words up to which they need not be
PATTERNS = 4096  # that are looked for again: a regular mask has few, a random one nothing else
WORTH_A_THREAD = 2**16  # pairs

_kept: dict[Any, "TileMap"] = {}
# Of masks that look at an array which is not their own: with each, and no other, as it was.
_of_borrowed: WeakKeyDictionary[Mask, dict[Any, "TileMap"]] = WeakKeyDictionary()
_lock = threading.Lock()

TileMap: TypeAlias = tuple[Array, Array]


def tile_map(
    mask: Mask, rules: tuple[Mask, ...], bounds: Lowered, B: int, H: int, T: int, S: int
) -> TileMap:
    """Return ``tiles`` and ``words`` of the rules of a mask that are no bounds."""
    # A function is not asked for what the bounds beside it hide.
    beside = np.array(bounds[:4]) if any(rule._has_function() for rule in rules) else None
    near = None if beside is None else beside.tobytes()
    borrowed = mask._is_borrowed()
    key = *(() if borrowed else (rule._key() for rule in rules)), B, H, T, S, near
    with _lock:
        kept = _of_borrowed.setdefault(mask, {}) if borrowed else _kept
        if key in kept:
            kept[key] = kept.pop(key)  # the last that was asked for
            return kept[key]
    program = All(tuple(rule._program(B, H, T, S) for rule in rules))
    made = _Maker(program, beside, B, H, T, S).make()
    with _lock:
        kept[key] = made
        while len(kept) > 1 and sum(map(_bytes, kept.values())) > KEPT:
            del kept[next(iter(kept))]
    return made


def _bytes(made: TileMap) -> int:
    return sum(x.nbytes for x in made)


class _Maker:
    """Makes one tile map."""

    def __init__(
        self, program: Program, bounds: Array | None, B: int, H: int, T: int, S: int
    ) -> None:
        by_row, by_head = varies(program)
        if bounds is not None and not by_row:  # one map for all batch rows, if they agree
            alike = (bounds == bounds[:, :1]).all()
            bounds = np.ascontiguousarray(bounds[:, :1]) if alike else None
        self.program, self.bounds = program, bounds
        self.heads = H if by_head else 1
        self.T, self.S = T, S
        self.down, self.across = -(-T // TILE), -(-S // TILE)
        self.shape = (B if by_row else 1), self.heads, self.down, self.across

    def make(self) -> TileMap:
        """Return ``tiles`` and ``words``."""
        rows = self.shape[0] * self.heads * self.down
        at_once = max(1, AT_ONCE // (self.across * TILE * 8))
        tiles = np.empty((rows, self.across), np.int64)
        found = _Words()
        for start in range(0, rows, at_once):
            stop = min(rows, start + at_once)
            words = self.fill(self.program, start, stop)
            hashes = np.empty((stop - start, self.across), np.uint64)
            self.classify(words, tiles[start:stop], hashes, start)
            if words.nbytes <= FEW and len(tiles) == stop - start:
                return tiles.reshape(self.shape), words
            found.add(tiles[start:stop], words, hashes)
        return tiles.reshape(self.shape), found.all()

    def fill(self, program: Program, start: int, stop: int) -> Array:
        """Return the words of some rows of tiles, of all batch rows and heads one after another."""
        match program:
            case All(parts) | Some(parts):
                combine = np.bitwise_and if isinstance(program, All) else np.bitwise_or
                filled = [self.fill(part, start, stop) for part in parts]
                return reduce(lambda a, b: combine(a, b, out=a), filled)
            case Not(part):
                words = self.fill(part, start, stop)
                return np.bitwise_xor(words, self.inside(start, stop), out=words)
            case ByHead(parts):
                return self.fill_by_head(parts, start, stop)
        words = np.empty(((stop - start) * self.across, TILE), np.uint64)
        match program:
            case Interval():
                self.fill_intervals(program, words, start, stop)
            case Entries(array):
                steps = [s if n > 1 else 0 for n, s in zip(array.shape, array.strides, strict=True)]
                own = [address_of(array), *steps]
                self.launch(kernels.fill_from_array, words, start, stop, own, [array])
            case Function():
                self.fill_by_function(program, words, start, stop)
        return words

    def inside(self, start: int, stop: int) -> Array:
        """Return the words of the mask that hides nothing: bits past T and S are 0."""
        queries = self.T - np.arange(start, stop) % self.down * TILE
        ones = ~np.uint64(0) >> (TILE - np.minimum(queries, TILE)).astype(np.uint64)
        keys = np.arange(self.across * TILE).reshape(self.across, TILE) < self.S
        words: Array = np.where(keys, ones[:, None, None], np.uint64(0))
        return words.reshape(-1, TILE)

    def fill_by_head(self, parts: tuple[Program, ...], start: int, stop: int) -> Array:
        """Return the words of rows each of which belongs to a head, and to its part."""
        filled = []
        while start < stop:
            end = min(stop, (start // self.down + 1) * self.down)
            filled.append(self.fill(parts[start // self.down % self.heads], start, end))
            start = end
        return np.concatenate(filled)

    def fill_intervals(self, rule: Interval, words: Array, start: int, stop: int) -> None:
        first, end, codes = (np.ascontiguousarray(x, np.int64) for x in rule[:3])
        spans = np.stack([*_extremes(first), *_extremes(end)], axis=-1)
        extremes = np.stack(_extremes(codes), axis=-1)
        arrays = [first, end, codes, spans, extremes]
        own = [n for x in arrays for n in (address_of(x), x.strides[0] if len(x) > 1 else 0)]
        own.append(int(rule.by_key))
        self.launch(kernels.fill_intervals, words, start, stop, own, arrays)

    def fill_by_function(self, rule: Function, words: Array, start: int, stop: int) -> None:
        kinds = tuple(user.table_type(x) for x in rule.tables)
        code = user.compiled(
            kernels.function_loop,
            [rule.frozen],  # type: ignore[list-item]
            kernels.arguments(),
            "mask",
            (kinds,),
            boundscheck=_checking.ON,
        )
        own = [*rule.place]
        own += [n for x in rule.tables for n in (address_of(x), *(*x.shape, 0, 0, 0, 0)[:4])]
        done = self.launch(code.address, words, start, stop, own, list(rule.tables))
        if done != stop - start:
            raise RuntimeError("mask: expected a function that returns, got one that raised")

    def launch(
        self,
        task: "Task | int",
        words: Array,
        start: int,
        stop: int,
        own: list[int],
        arrays: list[Array],
    ) -> int:
        """Run a task on some rows; return how many it says are done."""
        bounds, step = 0, 0
        if self.bounds is not None:
            bounds, step = address_of(self.bounds), self.bounds.shape[1]
        per_row = int(step > 1)
        rows = stop - start
        sizes = np.array([self.across, self.T, self.S, start, rows, self.down, self.heads])
        operands = np.array([address_of(words), bounds, step, per_row, 0, *own])
        pairs = rows * self.across * TILE * TILE
        workers = max(1, min(rows, get_num_threads(), 1 + pairs // WORTH_A_THREAD))
        if isinstance(task, int):
            launch(task, workers, rows, sizes, NO_FACTORS, operands, 0, 0)
        else:
            told = Told(sizes, NO_FACTORS, operands)
            run(task, np.uint64, workers, rows, told, [words, *arrays])
        return int(operands[kernels.DONE])

    def classify(self, words: Array, tiles: Array, hashes: Array, start: int) -> None:
        """Write the entries of tiles, which are numbered from 1 on."""
        own = [address_of(tiles), address_of(hashes)]
        self.launch(kernels.classify, words, start, start + len(tiles), own, [tiles, hashes])


def _extremes(x: Array) -> tuple[Array, Array]:
    """Return the least and the largest of each block of 64."""
    starts = np.arange(0, x.shape[1], TILE)
    return np.minimum.reduceat(x, starts, axis=1), np.maximum.reduceat(x, starts, axis=1)


class _Words:
    """The words of partial tiles; while these have few patterns, each once."""

    def __init__(self) -> None:
        self.words = np.empty((0, TILE), np.uint64)
        self.count = 0
        self.known: dict[int, int] = {}

    def add(self, tiles: Array, words: Array, hashes: Array) -> None:
        """Add the words of some rows of tiles, and number their entries anew."""
        tiles, hashes = tiles.reshape(-1), hashes.reshape(-1)
        partial = np.flatnonzero(tiles >> 16)
        if not len(partial):
            return
        known = len(self.known)
        index = self._of_patterns(words, hashes, partial) if known < PATTERNS else None
        if index is None:
            index = self._append(words, partial)
        tiles[partial] = (index + 1) << 16 | tiles[partial] & 0xFFFF

    def _of_patterns(self, words: Array, hashes: Array, partial: Array) -> Array | None:
        """Return where the words of each tile are, once for each pattern; None if that fails."""
        patterns, first, inverse = np.unique(
            hashes[partial], return_index=True, return_inverse=True
        )
        if len(patterns) > PATTERNS:
            return None
        names = patterns.tolist()
        new = np.array([name not in self.known for name in names])
        added = self._append(words, partial[first[new]])
        self.known.update(zip(patterns[new].tolist(), added.tolist(), strict=True))
        index = np.array([self.known[name] for name in names])[inverse.reshape(-1)]
        # Two patterns may have one hash.
        same = all(
            np.array_equal(self.words[index[n : n + 4096]], words[partial[n : n + 4096]])
            for n in range(0, len(index), 4096)
        )
        return index if same else None

    def _append(self, words: Array, which: Array) -> Array:
        """Append the words of some tiles; return where they are."""
        count = self.count + len(which)
        if count > len(self.words):
            self.words.resize((max(count, len(self.words) * 3 // 2), TILE), refcheck=False)
        self.words[self.count : count] = words[which]
        index = np.arange(self.count, count)
        self.count = count
        return index

    def all(self) -> Array:
        """Return all words."""
        self.words.resize((self.count, TILE), refcheck=False)
        return self.words if self.count else NO_WORDS
