"""The mask algebra against its definitions, entry by entry."""

import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniattn import masks
from miniattn.masks import UNBOUNDED, Lowered, _lowered

# ------------------------------------------------------------- rules by definition, plain Python


def sees_window(left, right, offset, sinks):
    def visible(b, h, i, j, T, S):
        centre = i + (S - T if offset is None else offset if isinstance(offset, int) else offset[b])
        above = left is None or j >= centre - left or j < sinks
        return above and (right is None or j <= centre + right)

    return visible


def sees_padding(lengths):
    return lambda b, h, i, j, T, S: j < lengths[b]


def sees_documents(ids, key_ids):
    def of(array, b, at):
        return array[at] if array.ndim == 1 else array[b, at]

    return lambda b, h, i, j, T, S: of(ids, b, i) == of(key_ids, b, j)


def sees_array(array, full):
    stretched = np.broadcast_to(array, full)
    return lambda b, h, i, j, T, S: bool(stretched[b, h, i, j])


def sees_prefix(lengths):
    return lambda b, h, i, j, T, S: j < lengths[b] or j <= i + S - T


def sees_globals(tokens):
    return lambda b, h, i, j, T, S: j in tokens or i + S - T in tokens


def sees_dilated(step):
    return lambda b, h, i, j, T, S: (i + S - T - j) % step == 0


def sees_grid(columns, radius):
    def visible(b, h, i, j, T, S):
        (r, c), (y, x) = divmod(i + S - T, columns), divmod(j, columns)
        return i + S - T >= 0 and abs(r - y) <= radius and abs(c - x) <= radius

    return visible


def sees_tree(parents):
    def visible(b, h, i, j, T, S):
        at = i + S - T
        while at >= 0 and at != j:
            at = parents[at]
        return at == j

    return visible


@masks.where
def uneven(b, h, i, j, table):
    return (i * j + table[h % len(table)]) % 3 != b


def sees_uneven(table):
    return lambda b, h, i, j, T, S: (i * j + table[h % len(table)]) % 3 != b


def by_definition(rules, B, H, T, S):
    return np.array(
        [
            [
                [
                    [all(rule(b, h, i, j, T, S) for rule in rules) for j in range(S)]
                    for i in range(T)
                ]
                for h in range(H)
            ]
            for b in range(B)
        ],
        dtype=bool,
    ).reshape(B, H, T, S)


def by_kernel_rules(form: Lowered, B, H, T, S):
    """Evaluate the canonical form as a kernel does: one entry at a time."""
    visible = np.zeros((B, H, T, S), bool)
    for b, h, i, j in np.ndindex(B, H, T, S):
        ok = j - i >= form.lo[b] or j < form.sinks[b]
        ok &= j - i <= form.hi[b] and j < form.lengths[b]
        if form.tiles.size:
            tiles = form.tiles[min(b, len(form.tiles) - 1), min(h, form.tiles.shape[1] - 1)]
            index, groups = divmod(int(tiles[i // 64, j // 64]), 1 << 16)
            seen = groups == 0xFFFF
            if index:
                seen = bool(int(form.words[index - 1, j % 64]) >> i % 64 & 1)
                in_group = groups >> (j % 64 // 16 * 4 + i % 64 // 16) & 1
                assert in_group or not seen
            ok &= seen
        visible[b, h, i, j] = ok
    return visible


# -------------------------------------------------------------------------------- random masks


@st.composite
def sizes(draw):
    return tuple(draw(st.integers(0, 3 if n < 2 else 6)) for n in range(4))


KINDS = ["causal", "window", "padding", "documents", "array", "prefix", "globals", "dilated"]
KINDS += ["neighbourhood", "tree", "where"]


@st.composite
def rules(draw, B, H, T, S):
    """One random mask and the same rule by definition."""
    kind = draw(st.sampled_from(KINDS))
    ints = st.integers(-3, 8)
    if kind == "padding":
        lengths = draw(st.lists(st.integers(0, S), min_size=B, max_size=B))
        return masks.padding(lengths), sees_padding(lengths)
    if kind == "documents":
        batched = draw(st.booleans())
        q, k = (
            np.array(
                draw(st.lists(st.integers(-1, 1), min_size=n, max_size=n)), dtype=np.int64
            ).reshape((B, -1) if batched and B else -1)
            for n in ((B * T, B * S) if batched and B else (T, S))
        )
        return masks.documents(q, k), sees_documents(q, k)
    if kind == "prefix":
        lengths = draw(st.lists(st.integers(0, S), min_size=B, max_size=B))
        return masks.prefix(lengths), sees_prefix(lengths)
    if kind == "globals":
        tokens = draw(st.lists(st.integers(0, 7), max_size=3))
        return masks.globals(tokens), sees_globals(tokens)
    if kind == "dilated":
        step = draw(st.integers(1, 4))
        return masks.dilated(step), sees_dilated(step)
    if kind == "neighbourhood":
        columns, radius = draw(st.integers(1, 4)), draw(st.integers(0, 2))
        grid = (-(-max(S, 1) // columns), columns)
        return masks.neighbourhood(grid, radius), sees_grid(columns, radius)
    if kind == "tree":
        parents = [draw(st.integers(-1, n - 1)) for n in range(S)]
        return masks.tree(parents), sees_tree(parents)
    if kind == "where":
        table = np.array(draw(st.lists(st.integers(0, 2), min_size=1, max_size=2)))
        return uneven(table), sees_uneven(table)
    if kind == "array":
        axes = draw(st.integers(0, 4))
        shape = tuple(n if draw(st.booleans()) else 1 for n in (B, H, T, S))[4 - axes :]
        seed = draw(st.integers(0, 2**32 - 1))
        array = np.random.default_rng(seed).random(shape) < 0.6
        return masks.as_mask(array), sees_array(array, (B, H, T, S))
    offset = draw(st.one_of(st.none(), ints, st.lists(ints, min_size=B, max_size=B)))
    if kind == "causal":
        return masks.causal(offset), sees_window(None, 0, offset, 0)
    left, right = (draw(st.one_of(st.none(), st.integers(0, 4))) for _ in range(2))
    sinks = draw(st.integers(0, 3))
    return masks.window(left, right, offset, sinks=sinks), sees_window(left, right, offset, sinks)


def combine(data, drawn):
    """Some masks joined by what is drawn, and the same of their definitions."""
    mask, seen = drawn[0]
    for other, also in drawn[1:]:
        how = data.draw(st.sampled_from("&|"))
        mask = mask & other if how == "&" else mask | other
        seen = joined(how, seen, also)
        if data.draw(st.integers(0, 3)) == 0:
            mask, seen = ~mask, joined("~", seen, None)
    return mask, seen


def joined(how, a, b):
    def visible(*at):
        return not a(*at) if how == "~" else (a(*at) and b(*at)) if how == "&" else a(*at) or b(*at)

    return visible


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_every_view_of_a_mask_agrees_with_the_definition(data):
    full = data.draw(sizes())
    T, S = full[2:]
    drawn = data.draw(st.lists(rules(*full), min_size=1, max_size=4))
    mask, seen = combine(data, drawn)
    expected = by_definition([seen], *full)

    np.testing.assert_array_equal(mask.to_array(*full), expected)
    np.testing.assert_array_equal(mask.by_definition(*full), expected)
    form = masks.lower(mask, *full)
    check_layout(form, *full)
    np.testing.assert_array_equal(by_kernel_rules(form, *full), expected)
    for b, h, i, j in np.ndindex(*full):
        words = mask.explain(b, h, i, j, T=T, S=S)
        assert words.startswith("visible:" if expected[b, h, i, j] else "hidden by "), words


PARENTS = [-1, *(n // 2 for n in range(199))]
WIDE = {
    "prefix": (masks.prefix([100, 7]), sees_prefix([100, 7])),
    "Longformer": (
        masks.window(20, 20) | masks.globals([0, 150]),
        joined("|", sees_window(20, 20, None, 0), sees_globals([0, 150])),
    ),
    "dilated": (masks.dilated(3), sees_dilated(3)),
    "grid": (masks.neighbourhood((10, 20), 2), sees_grid(20, 2)),
    "tree": (masks.tree(PARENTS), sees_tree(PARENTS)),
    "where": (uneven(np.array([1])), sees_uneven([1])),
    "sinks": (
        ~masks.window(30, 5, sinks=70),
        joined("~", sees_window(30, 5, None, 70), None),
    ),
    "documents": (
        masks.documents(np.arange(30, 200) // 60, np.arange(200) // 60),
        sees_documents(np.arange(30, 200) // 60, np.arange(200) // 60),
    ),
}


@pytest.mark.parametrize("name", WIDE)
def test_masks_of_several_tiles(name):
    """As above, where tiles are hidden, full and cut off."""
    mask, seen = WIDE[name]
    full = B, H, T, S = 2, 2, 170, 200
    i, j = (index.reshape(-1) for index in np.indices((T, S)))
    expected = np.array(
        [
            [
                [seen(b, h, x, y, T, S) for x, y in zip(i.tolist(), j.tolist(), strict=True)]
                for h in range(H)
            ]
            for b in range(B)
        ]
    ).reshape(full)
    np.testing.assert_array_equal(mask.to_array(*full), expected)
    form = masks.lower(mask, *full)
    rows = [_lowered.rows_of_form(form, b, h, np.arange(T), S) for b in range(B) for h in range(H)]
    np.testing.assert_array_equal(np.reshape(rows, full), expected)
    groups = np.zeros((B, H, 192, 256), bool)
    groups[..., :T, :S] = expected
    groups = groups.reshape(B, H, 3, 4, 16, 4, 4, 16).any(axis=(4, 7)).transpose(0, 1, 2, 4, 5, 3)
    said = form.tiles[..., None, None] >> np.arange(16).reshape(4, 4) & 1  # key, query group
    assert (said >= groups).all()


def test_a_tile_of_every_kind():
    """Hidden, full, and partial, whose groups between two others are computed as well."""
    seen = np.zeros((64, 192), bool)
    seen[:, 64:128] = True
    seen[[0, 40], 130] = True
    form = masks.lower(seen, 1, 1, 64, 192)
    assert form.tiles[0, 0, 0, :2].tolist() == [0, 0xFFFF]
    assert form.tiles[0, 0, 0, 2] & 0xFFFF == 0b0111
    assert form.words[(form.tiles[0, 0, 0, 2] >> 16) - 1, 2] == 1 << 40 | 1


def check_layout(form, B, H, T, S):
    for name in ("lo", "hi", "sinks", "lengths"):
        array = getattr(form, name)
        assert array.shape == (B,)
        assert array.dtype == np.int64
    if form.tiles.size:
        assert form.tiles.shape[0] in (1, B)
        assert form.tiles.shape[1] in (1, H)
        assert form.tiles.shape[2:] == (-(-T // 64), -(-S // 64))
    assert form.tiles.dtype == np.int64
    assert form.words.dtype == np.uint64
    assert form.words.shape[1:] == (64,)
    for array in form:
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.flags.aligned


def test_no_mask_hides_nothing():
    form = masks.lower(None, 2, 1, 3, 4)
    check_layout(form, 2, 1, 3, 4)
    assert by_kernel_rules(form, 2, 1, 3, 4).all()
    assert form.lo.tolist() == [-UNBOUNDED] * 2
    assert form.hi.tolist() == [UNBOUNDED] * 2


# ------------------------------------------------------------------------- what stays structural


@pytest.mark.parametrize(
    "mask",
    [
        masks.causal() & masks.padding([3, 5]),
        masks.window(2, 0, sinks=1) & masks.causal() & masks.padding([3, 5]),
        masks.window(2, None, sinks=1) & masks.window(3, None, sinks=2),  # the first is stricter
        masks.window(2, None, sinks=2) & masks.window(2, None, sinks=1),  # same bound
        masks.window(2, None) & masks.window(3, None, sinks=2),
        masks.window(2, 1, offset=[0, 1]) & masks.window(1, 2, offset=[1, 0]),
    ],
    ids=repr,
)
def test_structural_masks_stay_structural(mask):
    assert masks.lower(mask, 2, 1, 5, 5).tiles.shape == (0, 0, 0, 0)


def test_sinks_that_do_not_combine_become_a_tile_map():
    mask = masks.window(1, None, sinks=3) & masks.window(2, None, sinks=0)
    assert masks.lower(mask, 1, 1, 6, 6).tiles.shape == (1, 1, 1, 1)


def test_a_broadcast_array_is_lowered_without_its_repetitions():
    keys = np.array([[True, False, True]])
    stretched = np.broadcast_to(keys[:, None, None, :], (4, 2, 5, 3))
    assert masks.lower(stretched, 4, 2, 5, 3).tiles.shape == (1, 1, 1, 1)


@pytest.mark.parametrize("view", ["read-only", "transposed", "strided", "reversed"])
def test_any_strides_and_read_only_arrays(view):
    rng = np.random.default_rng(0)
    array = rng.random((6, 6)) < 0.5
    if view == "read-only":
        array.flags.writeable = False
    array = {"transposed": array.T, "strided": array[::2, ::3], "reversed": array[::-1]}.get(
        view, array
    )
    before = array.copy()
    form = masks.lower(array, 1, 1, *array.shape)
    check_layout(form, 1, 1, *array.shape)
    rows = _lowered.rows_of_form(form, 0, 0, np.arange(len(array)), array.shape[1])
    np.testing.assert_array_equal(rows, before)


# ------------------------------------------------------------------------------------ the algebra


def test_bool_arrays_on_either_side():
    array = np.tri(3, dtype=bool)
    left, right = array & masks.padding([2]), masks.padding([2]) & array
    assert isinstance(left, masks.Mask)
    assert repr(left) == "bool[3, 3] & padding([2])"
    np.testing.assert_array_equal(left.to_array(1, 1, 3, 3), right.to_array(1, 1, 3, 3))


def test_none_is_the_neutral_element():
    mask = masks.causal()
    assert (mask & None) is mask
    assert (None & mask) is mask
    assert masks.as_mask(None) is None


def test_and_or_not_of_python_are_refused():
    with pytest.raises(TypeError, match="combine masks with `&`"):
        masks.causal() and masks.padding([1])
    with pytest.raises(TypeError, match=r"beside \|, got None"):
        masks.causal() | None


def test_rules_are_those_of_the_intersection():
    a, b, c = masks.causal(), masks.dilated(2), masks.globals([1])
    assert (a & (b | c)).rules[0] is a
    assert (a & b & c).rules == (a, b, c)
    assert a.rules == (a,)
    assert (~~b) is b


def test_arrays_of_fewer_axes_broadcast_from_the_right():
    rows = np.array([[True, False, True, True], [False, True, True, True]])  # (T, S) = (2, 4)
    np.testing.assert_array_equal(
        masks.as_mask(rows).to_array(3, 2, 2, 4), np.broadcast_to(rows, (3, 2, 2, 4))
    )
    heads = np.random.default_rng(0).random((2, 2, 4)) < 0.5  # (H, T, S)
    np.testing.assert_array_equal(masks.as_mask(heads).to_array(3, 2, 2, 4)[1], heads)


def test_a_mask_does_not_follow_its_arguments():
    lengths, ids = np.array([1, 2]), np.array([0, 0, 1])
    padding, documents = masks.padding(lengths), masks.documents(ids)
    rows, table = np.eye(3, dtype=bool), np.array([1])
    made = [padding & documents, masks.as_mask(rows), masks.causal() & rows, uneven(table)]
    before = [mask.to_array(2, 1, 3, 3) for mask in made]
    lengths[:] = 0
    ids[:] = 7
    rows[:], table[:] = True, 0
    for mask, was in zip(made, before, strict=True):
        np.testing.assert_array_equal(mask.to_array(2, 1, 3, 3), was)
        np.testing.assert_array_equal(mask.by_definition(2, 1, 3, 3), was)


def test_lowered_arrays_can_be_written_without_changing_the_mask():
    mask = masks.causal(offset=[0, 1]) & masks.padding([1, 2]) & masks.documents([0, 0, 1])
    before = mask.to_array(2, 1, 3, 3)
    for array in masks.lower(mask, 2, 1, 3, 3)[:4]:
        array.fill(1)
    np.testing.assert_array_equal(mask.to_array(2, 1, 3, 3), before)


def test_masks_are_frozen_and_can_be_copied():
    mask = masks.window(2, 0, sinks=1) & masks.padding([1, 3]) & np.ones((3, 3), bool)
    mask = mask & (~masks.dilated(2) | uneven(np.array([1])) | masks.tree([-1, 0, 1]))
    with pytest.raises(AttributeError):
        masks.causal().offset = 3
    for twin in (copy.deepcopy(mask), pickle.loads(pickle.dumps(mask))):
        assert repr(twin) == repr(mask)
        np.testing.assert_array_equal(twin.to_array(2, 1, 3, 3), mask.to_array(2, 1, 3, 3))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (masks.causal(), "causal()"),
        (masks.causal(0), "causal(offset=0)"),
        (masks.causal([1, 2]), "causal(offset=[1, 2])"),
        (masks.window(4, None), "window(4, None)"),
        (masks.window(4, 0, sinks=2), "window(4, 0, sinks=2)"),
        (masks.padding([3, 5]), "padding([3, 5])"),
        (masks.padding(range(64)), "padding(int[64])"),
        (masks.documents([0, 0, 1]), "documents([0, 0, 1])"),
        (masks.documents([0, 1], [0, 0, 1]), "documents([0, 1], [0, 0, 1])"),
        (masks.causal() & masks.padding([3, 5]), "causal() & padding([3, 5])"),
        (masks.as_mask(np.ones((2, 1, 1, 5), bool)), "bool[2, 1, 1, 5]"),
        (masks.prefix([3]), "prefix([3])"),
        (masks.globals([0, 5]), "globals([0, 5])"),
        (masks.dilated(2, offset=1), "dilated(2, offset=1)"),
        (masks.neighbourhood((2, 3), 1), "neighbourhood((2, 3), 1)"),
        (masks.neighbourhood((2, 3), (1, 0)), "neighbourhood((2, 3), (1, 0))"),
        (masks.tree([-1, 0]), "tree([-1, 0])"),
        (masks.heads(masks.causal(), np.eye(2, dtype=bool)), "heads(causal(), bool[2, 2])"),
        (uneven(np.array([1])), "uneven(int64[1])"),
        (masks.causal() | masks.dilated(2), "causal() | dilated(2)"),
        (~(masks.causal() & masks.dilated(2)), "~(causal() & dilated(2))"),
        (
            ~masks.causal() & (masks.dilated(2) | uneven([1])),
            "~causal() & (dilated(2) | uneven(int64[1]))",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_repr(mask, words):
    assert repr(mask) == words


# ------------------------------------------------------------------------------------ explanations


@pytest.mark.parametrize(
    ("mask", "at", "sizes", "words"),
    [
        (
            masks.causal(),
            (0, 0, 3, 7),
            (6, 8),
            "hidden by causal(): key 7 is after query 3 + offset 2 = 5",
        ),
        (
            masks.causal(),
            (0, 0, 3, 7),
            None,
            "hidden by causal(): key 7 is after query 3 (taking T = S)",
        ),
        (
            masks.window(2, 1, offset=0, sinks=1),
            (0, 0, 6, 3),
            None,
            "hidden by window(2, 1, offset=0, sinks=1): key 3 is before query 6 - left 2 = 4, "
            "and not among the first 1 keys",
        ),
        (
            masks.window(2, 1, offset=[0, -1]),
            (1, 0, 6, 7),
            None,
            "hidden by window(2, 1, offset=[0, -1]): key 7 is after query 6 + offset -1 + right 1 "
            "= 6",
        ),
        (
            masks.padding([3, 5]),
            (0, 1, 0, 4),
            None,
            "hidden by padding([3, 5]): key 4 is not among the first 3 keys of row 0",
        ),
        (
            masks.documents([0, 0, 1]),
            (0, 0, 0, 2),
            None,
            "hidden by documents([0, 0, 1]): query 0 is in document 0, key 2 in document 1",
        ),
        (
            masks.as_mask(np.eye(3, dtype=bool)),
            (1, 1, 0, 2),
            None,
            "hidden by bool[3, 3]: its entry [0, 2] is False",
        ),
        (
            masks.prefix([2]),
            (0, 0, 3, 7),
            (6, 8),
            "hidden by prefix([2]): key 7 is after query 3 + offset 2 = 5, and not among the first "
            "2 keys of row 0",
        ),
        (
            masks.globals([0, 4]),
            (0, 0, 3, 7),
            (8, 8),
            "hidden by globals([0, 4]): neither query 3 nor key 7 is a global token",
        ),
        (
            masks.dilated(3),
            (0, 0, 3, 7),
            (8, 8),
            "hidden by dilated(3): query 3 and key 7 are 4 apart, no multiple of 3",
        ),
        (
            masks.neighbourhood((3, 4), 1),
            (0, 0, 5, 7),
            (12, 12),
            "hidden by neighbourhood((3, 4), 1): query 5 is at (1, 1), key 7 at (1, 3): too far "
            "along axis 1",
        ),
        (
            masks.tree([-1, 0, 0]),
            (0, 0, 2, 1),
            (3, 3),
            "hidden by tree([-1, 0, 0]): key 1 is no ancestor of query 2",
        ),
        (
            uneven(np.array([0])),
            (0, 0, 3, 7),
            None,
            "hidden by uneven(int64[1]): uneven(0, 0, 3, 7) is False",
        ),
        (
            ~masks.padding([2]) & masks.causal(0),
            (0, 0, 3, 1),
            None,
            "hidden by ~padding([2]): key 1 is among the first 2 keys of row 0",
        ),
        (
            masks.causal(0) | masks.padding([2]),
            (0, 0, 3, 5),
            None,
            "hidden by causal(offset=0) | padding([2]): key 5 is after query 3, and key 5 is not "
            "among the first 2 keys of row 0",
        ),
        (
            masks.heads(masks.causal(0), ~masks.window(1, None, 0, sinks=1)),
            (0, 1, 3, 0),
            None,
            "hidden by heads(causal(offset=0), ~window(1, None, offset=0, sinks=1)): head 1 has "
            "~window(1, None, offset=0, sinks=1), and key 0 is among the first 1 keys",
        ),
        (
            masks.causal(0) & masks.padding([2]),
            (0, 0, 1, 2),
            None,
            "hidden by causal(offset=0): key 2 is after query 1; "
            "hidden by padding([2]): key 2 is not among the first 2 keys of row 0",
        ),
        (
            masks.causal() & masks.padding([2]),
            (0, 0, 1, 1),
            (2, 2),
            "visible: query 1 may attend to key 1 under causal() & padding([2])",
        ),
    ],
)
def test_explain(mask, at, sizes, words):
    named = {} if sizes is None else dict(zip("TS", sizes, strict=True))
    assert mask.explain(*at, **named) == words


# ----------------------------------------------------------------------------------------- errors

THREE_KEYS = np.ones((2, 3), bool)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (
            lambda: masks.as_mask(np.ones((3, 3), int)),
            TypeError,
            "mask: expected a bool array (True = may attend), got int64",
        ),
        (lambda: masks.causal() & np.ones((3, 3)), TypeError, "got float64"),
        (lambda: np.ones((3, 3), np.int8) & masks.causal(), TypeError, "got int8"),
        (lambda: masks.as_mask(masks.causal), TypeError, "mask: expected a Mask such as"),
        (lambda: masks.as_mask("causal"), TypeError, "got 'causal'"),
        (lambda: masks.as_mask(True), TypeError, "got True"),
        (lambda: masks.as_mask(np.ones((1,) * 5, bool)), ValueError, "(B, H, T, S)"),
        (
            lambda: masks.lower(THREE_KEYS, 2, 1, 5, 3),
            ValueError,
            "(B, H, T, S) = (2, 1, 5, 3), got (2, 3); for a (B, S) mask of real keys use "
            "masks.padding(lengths) or mask[:, None, None, :]",
        ),
        (
            lambda: masks.lower(np.ones((2, 5, 3), bool), 2, 4, 5, 3),
            ValueError,
            "got (2, 5, 3); for a (B, T, S) mask use mask[:, None]",
        ),
        (lambda: masks.lower(np.ones((2, 1, 1, 3), bool), 1, 1, 5, 3), ValueError, "(1, 1, 5, 3)"),
        (lambda: masks.padding([1.0, 2.0]), TypeError, "lengths: expected an integer array"),
        (lambda: masks.padding([True, False]), TypeError, "lengths: expected an integer array"),
        (lambda: masks.padding(3), ValueError, "lengths: expected shape (B)"),
        (
            lambda: masks.padding([2, -1]),
            ValueError,
            "lengths: expected ints >= 0, got -1 in row 1",
        ),
        (
            lambda: masks.lower(masks.padding([2, 6]), 2, 1, 5, 5),
            ValueError,
            "lengths: expected at most S = 5, got 6 in row 1",
        ),
        (
            lambda: masks.lower(masks.padding([2]), 3, 1, 5, 5),
            ValueError,
            "lengths: expected shape (B) with B = 3, got (1,)",
        ),
        (lambda: masks.causal(1.5), TypeError, "offset"),
        (lambda: masks.causal(True), TypeError, "offset: expected an int, got True"),
        (lambda: masks.causal([[1]]), ValueError, "offset: expected shape (B)"),
        (lambda: masks.causal(2**50), ValueError, "offset: expected at most"),
        (lambda: masks.causal([0, -(2**50)]), ValueError, "offset: expected at most"),
        (
            lambda: masks.lower(masks.causal([0, 1]), 3, 1, 5, 5),
            ValueError,
            "offset: expected shape (B) with B = 3, got (2,)",
        ),
        (
            lambda: masks.window(-1, 0),
            ValueError,
            "left: expected an int >= 0, or None for no bound, got -1",
        ),
        (lambda: masks.window(1, 2.0), TypeError, "right: expected an int"),
        (lambda: masks.window(1, 0, sinks=-1), ValueError, "sinks: expected an int >= 0"),
        (lambda: masks.documents([0.0]), TypeError, "ids: expected an integer array"),
        (lambda: masks.documents(3), ValueError, "ids: expected shape (T,) or (B, T)"),
        (
            lambda: masks.lower(masks.documents([0, 1]), 1, 1, 2, 3),
            ValueError,
            "key_ids: expected ids of the keys, because T = 2 and S = 3",
        ),
        (
            lambda: masks.lower(masks.documents([0, 1], [0, 1]), 1, 1, 2, 3),
            ValueError,
            "key_ids: expected shape (S,) or (B, S) with B = 1, S = 3, got (2,)",
        ),
        (
            lambda: masks.lower(masks.documents([[0, 1]]), 2, 1, 2, 2),
            ValueError,
            "ids: expected shape (T,) or (B, T) with B = 2, T = 2, got (1, 2)",
        ),
        (
            lambda: masks.lower(masks.heads(masks.causal()), 1, 2, 3, 3),
            ValueError,
            "heads: expected a mask for each of H = 2, got 1",
        ),
        (
            lambda: masks.lower(masks.neighbourhood((2, 2), 1), 1, 1, 5, 5),
            ValueError,
            "shape: expected room for S = 5 keys, got (2, 2)",
        ),
        (
            lambda: masks.lower(masks.tree([-1, 0]), 1, 1, 3, 3),
            ValueError,
            "parents: expected shape (S,) or (B, S) with B = 1, S = 3, got (2,)",
        ),
        (lambda: masks.tree([1, 0]), ValueError, "got token 0 among its own ancestors"),
        (lambda: masks.tree([-1, 2]), ValueError, "parents: expected positions in [0, 2)"),
        (lambda: masks.tree([0.5]), TypeError, "parents: expected an integer array"),
        (lambda: masks.heads(), ValueError, "masks: expected a mask for each head, got none"),
        (lambda: masks.heads(None), TypeError, "in heads, got None"),
        (lambda: masks.dilated(0), ValueError, "step: expected an int >= 1"),
        (lambda: masks.globals([-1]), ValueError, "tokens: expected ints >= 0, got -1"),
        (lambda: masks.neighbourhood((2, 0), 1), ValueError, "shape: expected an int >= 1"),
        (
            lambda: masks.neighbourhood((2, 2), (1,)),
            ValueError,
            "radius: expected one for each of 2",
        ),
        (lambda: masks.neighbourhood((2, 2), -1), ValueError, "radius: expected an int >= 0"),
        (lambda: masks.prefix(3), ValueError, "lengths: expected shape (B)"),
        (lambda: masks.where(3), TypeError, "where: expected a function (b, h, i, j, *tables)"),
        (lambda: masks.where(len), TypeError, "where: expected a function"),
        (lambda: masks.where(lambda i, j: i < j), TypeError, "got <lambda>(i, j)"),
        (lambda: uneven(), TypeError, "tables: expected those of uneven(b, h, i, j, table), got 0"),
        (lambda: uneven(np.array(["a"])), TypeError, "tables: expected arrays of bools, ints"),
        (lambda: uneven(3), ValueError, "tables: expected arrays of 1 to 4 axes, got shape ()"),
        (lambda: masks.as_mask(uneven), TypeError, "mask: expected a Mask such as"),
        (
            lambda: masks.lower(masks.where(lambda b, h, i, j: vars(b))(), 1, 1, 3, 3),
            TypeError,
            "mask: expected a function that Numba can compile, got <lambda>: ",
        ),
        (lambda: masks.causal().to_array(1, 1, 2.0, 2), TypeError, "T: expected an int"),
        (lambda: masks.causal().to_array(1, 1, -2, 2), ValueError, "T: expected an int >= 0"),
        (lambda: masks.causal().explain(0, 0, 0, -1), ValueError, "j: expected an int >= 0"),
        (lambda: masks.causal().explain(0, 0, 0, 1, T=3), ValueError, "T, S: expected both"),
        (lambda: masks.causal().explain(0, 0, 3, 0, T=3, S=3), ValueError, "i: expected an index"),
        (lambda: masks.padding([2]).explain(1, 0, 0, 0), ValueError, "b: expected an index"),
        (lambda: masks.documents([2]).explain(0, 0, 0, 1), ValueError, "j: expected an index"),
        (
            lambda: masks.as_mask(np.eye(3, dtype=bool)).explain(0, 0, 3, 0),
            ValueError,
            "i: expected an index in [0, 3), got 3",
        ),
    ],
)
def test_wrong_arguments(call, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        call()


# ------------------------------------------------------------------------------------ the docs page

PAGE = Path(__file__).parents[1] / "docs" / "masks.md"


PICTURES = {
    "causal()": masks.causal(),
    "causal(offset=0)": masks.causal(offset=0),
    "window(2, 0)": masks.window(2, 0),
    "window(1, 1)": masks.window(1, 1),
    "window(1, 0, sinks=1)": masks.window(1, 0, sinks=1),
    "padding([3, 5]), row 0": masks.padding([3]),
    "row 1": masks.padding([5]),
    "documents([0, 0, 1, 1, 1])": masks.documents([0, 0, 1, 1, 1]),
    "prefix([3])": masks.prefix([3]),
    "window(1, 1) | globals([2])": masks.window(1, 1) | masks.globals([2]),
    "dilated(2)": masks.dilated(2),
    "neighbourhood((3, 3), 1)": masks.neighbourhood((3, 3), 1, offset=0),  # five queries of nine
    "tree([-1, 0, 0, 1, 2])": masks.tree([-1, 0, 0, 1, 2]),
    "... & causal()": masks.documents([0, 0, 1, 1, 1]) & masks.causal(),
}


def drawn_on_the_page():
    """Yield each picture's title and its bool array, read from the page."""
    for block in re.findall(
        r"(?:^ {4}\S.*\n(?: {4}.*\n|\n)*)", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    ):
        title, *rows = block.splitlines()
        columns = [match.start() for match in re.finditer(r"(?<=\s\s)\S|(?<=^ {4})\S", title)]
        for left, right in zip(columns, [*columns[1:], None], strict=True):
            cells = [re.findall("[■·]", row[left:right]) for row in rows]
            picture = [[cell == "■" for cell in row] for row in cells if row]
            yield title[left:right].strip(), np.array(picture)


def test_pictures_on_the_page():
    drawn = list(drawn_on_the_page())
    assert {title for title, _ in drawn} == set(PICTURES)
    for title, picture in drawn:
        whole = PICTURES[title].to_array(1, 1, *picture.shape)[0, 0]
        np.testing.assert_array_equal(picture, whole, err_msg=title)


def test_pytorch_rows_of_the_table():
    torch = pytest.importorskip("torch")
    B, H, T, S, E = 2, 2, 3, 4, 8
    rng = np.random.default_rng(0)
    x, y = (torch.tensor(rng.standard_normal((B, n, E)), dtype=torch.float32) for n in (T, S))
    layer = torch.nn.MultiheadAttention(E, H, batch_first=True)

    def attended(**arguments):
        _, weights = layer(x, y, y, average_attn_weights=False, **arguments)
        return weights.detach().numpy() > 0

    def ours(mask):
        return masks.as_mask(mask).to_array(B, H, T, S)

    m = rng.random((T, S)) < 0.4
    m[:, 0] = False
    np.testing.assert_array_equal(attended(attn_mask=torch.tensor(m)), ours(~m))
    m = rng.random((B * H, T, S)) < 0.4
    m[..., 0] = False
    whole = ours(~m.reshape(B, H, T, S))
    np.testing.assert_array_equal(attended(attn_mask=torch.tensor(m)), whole)
    m = np.array([[False, False, True, True], [False, False, False, True]])
    for mask in (~m[:, None, None, :], masks.padding((~m).sum(axis=1))):
        np.testing.assert_array_equal(attended(key_padding_mask=torch.tensor(m)), ours(mask))

    q, k, v = (torch.zeros(1, 1, n, S) for n in (T, S, S))
    v[0, 0] = torch.eye(S)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    np.testing.assert_array_equal(out.numpy() > 0, masks.causal(offset=0).to_array(1, 1, T, S))
