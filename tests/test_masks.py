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
from miniattn.masks import UNBOUNDED, Lowered

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
        if form.q_ids.shape != (0, 0):
            ok &= form.q_ids[b, i] == form.k_ids[b, j]
        if form.dense.shape != (0, 0, 0, 0):
            sizes = form.dense.shape
            ok &= form.dense[tuple(0 if n == 1 else at for n, at in zip(sizes, (b, h, i, j)))]  # noqa: B905
        visible[b, h, i, j] = ok
    return visible


# -------------------------------------------------------------------------------- random masks


@st.composite
def sizes(draw):
    return tuple(draw(st.integers(0, 3 if n < 2 else 6)) for n in range(4))


@st.composite
def rules(draw, B, H, T, S):
    """One random mask and the same rule by definition."""
    kind = draw(st.sampled_from(["causal", "window", "padding", "documents", "array"]))
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


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_every_view_of_a_mask_agrees_with_the_definition(data):
    full = data.draw(sizes())
    T, S = full[2:]
    drawn = data.draw(st.lists(rules(*full), min_size=1, max_size=4))
    mask = drawn[0][0]
    for other, _ in drawn[1:]:
        mask = mask & other
    expected = by_definition([rule for _, rule in drawn], *full)

    np.testing.assert_array_equal(mask.to_array(*full), expected)
    form = masks.lower(mask, *full)
    check_layout(form, *full)
    np.testing.assert_array_equal(by_kernel_rules(form, *full), expected)
    for b, h, i, j in np.ndindex(*full):
        words = mask.explain(b, h, i, j, T=T, S=S)
        assert words.startswith("visible:" if expected[b, h, i, j] else "hidden by "), words


def check_layout(form, B, H, T, S):
    for name in ("lo", "hi", "sinks", "lengths"):
        array = getattr(form, name)
        assert array.shape == (B,)
        assert array.dtype == np.int64
    assert form.q_ids.shape in ((B, T), (0, 0))
    assert form.k_ids.shape in ((B, S), (0, 0))
    assert form.q_ids.dtype == form.k_ids.dtype == np.int64
    assert form.dense.dtype == np.bool_
    if form.dense.shape != (0, 0, 0, 0):
        assert all(n in (1, full) for n, full in zip(form.dense.shape, (B, H, T, S), strict=True))
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
        masks.causal() & masks.padding([3, 5]) & masks.documents(np.zeros((2, 5), int)),
        masks.window(2, 0, sinks=1) & masks.causal() & masks.padding([3, 5]),
        masks.window(2, None, sinks=1) & masks.window(3, None, sinks=2),  # the first is stricter
        masks.window(2, None, sinks=2) & masks.window(2, None, sinks=1),  # same bound
        masks.window(2, None) & masks.window(3, None, sinks=2),
        masks.window(2, 1, offset=[0, 1]) & masks.window(1, 2, offset=[1, 0]),
    ],
    ids=repr,
)
def test_structural_masks_stay_structural(mask):
    assert masks.lower(mask, 2, 1, 5, 5).dense.shape == (0, 0, 0, 0)


def test_sinks_that_do_not_combine_become_dense():
    mask = masks.window(1, None, sinks=3) & masks.window(2, None, sinks=0)
    assert masks.lower(mask, 1, 1, 6, 6).dense.shape == (1, 1, 6, 6)


def test_a_broadcast_array_is_lowered_without_its_repetitions():
    keys = np.array([[True, False, True]])
    stretched = np.broadcast_to(keys[:, None, None, :], (4, 2, 5, 3))
    assert masks.lower(stretched, 4, 2, 5, 3).dense.shape == (1, 1, 1, 3)


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
    np.testing.assert_array_equal(form.dense[0, 0], before)


def test_a_contiguous_array_is_not_copied():
    array = np.ones((5, 6), bool)
    assert np.shares_memory(masks.lower(array, 2, 2, 5, 6).dense, array)


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
    before = (padding & documents).to_array(2, 1, 3, 3)
    lengths[:] = 0
    ids[:] = 7
    np.testing.assert_array_equal((padding & documents).to_array(2, 1, 3, 3), before)


def test_lowered_arrays_can_be_written_without_changing_the_mask():
    mask = masks.causal(offset=[0, 1]) & masks.padding([1, 2]) & masks.documents([0, 0, 1])
    before = mask.to_array(2, 1, 3, 3)
    for array in masks.lower(mask, 2, 1, 3, 3):
        array.fill(1)
    np.testing.assert_array_equal(mask.to_array(2, 1, 3, 3), before)


def test_masks_are_frozen_and_can_be_copied():
    mask = masks.window(2, 0, sinks=1) & masks.padding([1, 3]) & np.ones((3, 3), bool)
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
