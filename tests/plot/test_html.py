"""The page of `plot.html`: its text read back in Python, and worked by hand in a browser."""

import base64
import json
import re
import time
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
import scipy.special

from miniattn import checkpoint, masks, nn, plot, trace
from miniattn.plot._html import Page, differing
from miniattn.plot._packed import quantise
from miniattn.trace import Trace

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>alert(2)//",
    "\u2028\u2029",
    "say \"hi\" and 'bye'",
    "&lt;b&gt; \\u003c",
    "{{script}}",
    "\u202eevil\x00\n",
    "\ud800",  # half a surrogate pair, which no encoding takes
]


def maps(rng, *shape, causal=False, dtype=np.float32):
    scores = 3 * rng.standard_normal(shape)
    if causal:
        T, S = shape[-2:]
        scores = np.where(np.tri(T, S, S - T, dtype=bool), scores, -np.inf)
    return scipy.special.softmax(scores, axis=-1).astype(dtype)


# -------------------------------------------------------------------- the page read in Python


class Elements(HTMLParser):
    """Every tag with its attributes, and the text of every script by its id."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.inside = [], {}, None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("id", tag) if tag in ("script", "style", "title") else None

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.texts[self.inside] = self.texts.get(self.inside, "") + data


def data_of(page):
    return json.loads(Elements(page.text).texts["data"])


def decoded(page):
    """Return the weights, (T, S) of every (layer, head), that are stored in the page."""
    texts = Elements(page.text).texts
    data = json.loads(texts["data"])
    found = {}
    for number, layer in enumerate(data["layers"]):
        T, S = (len(data["tokens"][layer[side]]) for side in ("queries", "keys"))
        for h in range(layer["heads"]):
            raw = zlib.decompress(base64.b64decode(texts[f"weights-{number}-{h}"]))
            greatest = np.frombuffer(raw, "<f4", T)
            codes = np.frombuffer(raw, "<u1" if data["bits"] == 8 else "<u2", offset=4 * T)
            grid = np.zeros((T, S))
            where = np.tri(T, S, S - T, dtype=bool) if layer["triangle"] else np.ones((T, S), bool)
            grid[where] = codes
            found[number, h] = grid / (2 ** data["bits"] - 1) * greatest[:, None]
    return found


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stored_weights_are_within_half_a_step(rng, bits, causal, dtype):
    weights = maps(rng, 2, 3, 7, 19, causal=causal, dtype=dtype)
    weights[0, 0, 2] = 0  # a row that reads nothing
    found = decoded(plot.html(weights, list("abcdefg"), key_tokens=range(19), bits=bits))
    assert len(found) == 6
    # The greatest of a row is stored in single precision, so doubles lose half an ulp of it too.
    step = 1 / (2 * (2**bits - 1)) + (0 if dtype is np.float32 else 2.0**-24)
    for (layer, h), stored in found.items():
        exact = weights[layer, h].astype(np.float64)
        error = np.abs(stored - exact)
        assert (error <= exact.max(axis=1, keepdims=True) * step * (1 + 1e-12)).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_quantise_keeps_the_greatest_and_faint_rows(bits):
    rows = np.array([[0, 1, 0.5], [0, 1e-37, 5e-38], [0, 0, 0], [3e38, 0, 3e38]], np.float32)
    codes, greatest = quantise(rows, bits)
    most = 2**bits - 1
    np.testing.assert_array_equal(greatest, rows.max(axis=1))
    np.testing.assert_array_equal(codes[:, 0], [0, 0, 0, most])
    np.testing.assert_array_equal(codes[:, 1], [most, most, 0, 0])
    assert abs(codes[1, 2] - most / 2) <= 1
    assert codes.dtype.itemsize == bits // 8


def test_only_a_causal_map_travels_as_a_triangle(rng):
    causal, full = maps(rng, 1, 4, 6, causal=True), maps(rng, 1, 4, 6)
    page = plot.html({"a": causal, "b": full}, range(4), key_tokens=range(6))
    assert [layer["triangle"] for layer in data_of(page)["layers"]] == [True, False]


def test_tokens_come_back_exactly_and_end_no_element(rng):
    page = plot.html(maps(rng, 2, 8, 8), HOSTILE, title=HOSTILE[0] + HOSTILE[3])
    text = page.text
    assert text.isascii()
    elements = Elements(text)
    data = json.loads(elements.texts["data"])
    assert data["tokens"] == [HOSTILE]
    assert data["title"] == HOSTILE[0] + HOSTILE[3]
    assert elements.texts["title"] == HOSTILE[0] + HOSTILE[3]
    harmless = Elements(plot.html(maps(rng, 2, 8, 8), list("abcdefgh")).text)
    assert [tag for tag, _ in elements.tags] == [tag for tag, _ in harmless.tags]
    assert not set('<>&"') & set(re.sub(r'(?<!\\)"', "", elements.texts["data"]).replace('\\"', ""))
    for raw in ("<img", 'say "hi"', "<!--", "\u2028"):
        assert raw not in text


def test_names_of_layers_are_data_too(rng):
    page = plot.html({HOSTILE[0]: maps(rng, 1, 2, 2)}, ["a", "b"])
    assert "<img" not in page.text
    assert data_of(page)["layers"][0]["name"] == HOSTILE[0]


def test_the_frame_of_a_notebook_holds_the_very_page(rng):
    page = plot.html(maps(rng, 2, 8, 8), HOSTILE)
    [(tag, attributes)] = Elements(page._repr_html_()).tags
    assert tag == "iframe"
    assert attributes["srcdoc"] == page.text
    assert attributes["sandbox"] == "allow-scripts allow-downloads"


@pytest.mark.parametrize("count", [4, 6])
def test_a_wrong_number_of_tokens_states_both(rng, count):
    with pytest.raises(ValueError, match=rf"^tokens: expected T = 5 tokens .* got {count}$"):
        plot.html(maps(rng, 2, 5, 5), range(count))
    with pytest.raises(ValueError, match=rf"^key_tokens: expected S = 7 tokens .* got {count}$"):
        plot.html(maps(rng, 2, 5, 7), range(5), key_tokens=range(count))
    with pytest.raises(ValueError, match=r"^tokens: expected S = 7 tokens .* got 5$"):
        plot.html(maps(rng, 2, 5, 7), range(5))


def test_one_string_is_not_a_sequence_of_tokens(rng):
    with pytest.raises(TypeError, match="got one str"):
        plot.html(maps(rng, 3, 3), "abc")


@pytest.mark.parametrize("bad", [-0.1, -np.inf])
def test_weights_that_are_none_are_pointed_at(rng, bad):
    weights = maps(rng, 2, 3, 4, 4)
    weights[1, 2, 3, 0] = bad
    with pytest.raises(ValueError, match=rf"{bad}.* in layer 1, head 2, query 3, key 0$"):
        plot.html(weights)
    mask = np.ones((4, 4), bool)
    mask[3, 0] = False
    plot.html(weights, mask=mask)  # what is hidden is not looked at


def test_hidden_weights_do_not_travel(rng):
    weights = maps(rng, 3, 3)
    page = plot.html(np.where(np.tri(3) > 0, weights, 7.0), mask=masks.causal(), bits=16)
    np.testing.assert_allclose(decoded(page)[0, 0], np.tril(weights), atol=1e-4)


def test_a_masked_array_a_mask_and_the_masks_of_a_trace_make_the_same_page(rng):
    weights, seen = maps(rng, 2, 3, 4, 4), rng.random((2, 3, 4, 4)) < 0.6
    by_mask = plot.html({"a": weights}, mask=seen, batch=1)
    assert data_of(by_mask)["layers"][0]["masks"] is not None
    masked = np.ma.masked_array(weights, ~seen)
    assert plot.html({"a": masked}, batch=1).text == by_mask.text
    given = Trace({"a": weights}, masks={"a": masks.as_mask(seen)})
    assert plot.html(given, batch=1).text == by_mask.text


def test_layers_that_differ_may_come_as_a_list(rng):
    layers = [maps(rng, 2, 3, 3), maps(rng, 1, 4, 4)]
    page = plot.html(layers)
    assert [layer["heads"] for layer in data_of(page)["layers"]] == [2, 1]
    np.testing.assert_allclose(decoded(page)[1, 0], layers[1][0], atol=2e-3)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["encoder.layers.0.attn", "encoder.layers.11.attn"], ["0", "11"]),
        (
            ["encoder.layers.0.attn", "decoder.layers.0.cross_attn"],
            ["encoder.attn", "decoder.cross_attn"],
        ),
        (["layers.0.attn", "layers.1.inner.attn"], ["0.attn", "1.inner.attn"]),
        (["attn"], ["attn"]),
        (["layer 0", "layer 1"], ["layer 0", "layer 1"]),
        (["a", "a.b"], ["a", "a.b"]),
    ],
)
def test_what_is_shown_of_a_name_is_what_tells_it_from_the_others(names, shown):
    assert differing(names) == shown


def test_a_path_is_written_whole(rng, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("an older page")
    page = plot.html(maps(rng, 2, 3, 3), ["a", "b", "c"], path)
    assert isinstance(page, Page)
    assert path.read_text() == page.text
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_a_failed_write_leaves_the_old_page(rng, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("the disk is full")

    path = tmp_path / "page.html"
    path.write_text("an older page")
    monkeypatch.setattr(checkpoint.os, "fsync", fail)
    with pytest.raises(OSError, match="the disk is full"):
        plot.html(maps(rng, 2, 3, 3), path=path)
    assert path.read_text() == "an older page"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_without_a_path_nothing_is_written(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = plot.html(maps(rng, 2, 3, 3))
    assert not list(tmp_path.iterdir())
    page.save("later.html")
    assert (tmp_path / "later.html").read_text() == page.text


def test_the_page_refers_to_nothing_outside(rng):
    page = plot.html(maps(rng, 2, 3, 3))
    # A namespace is a name, and "#..." a place within the picture that is saved.
    text = page.text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|\bimport\b|\burl\((?!#)", text)
    elements = Elements(page.text)
    for _, attributes in elements.tags:
        assert not {"src", "srcset", "href", "action", "style"} & set(attributes)
    policies = [a["content"] for _, a in elements.tags if "http-equiv" in a]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none';")
    assert "unsafe" not in policies[0]


def test_a_trace_brings_its_tokens_and_names(rng):
    given = Trace({"layers.0.attn": maps(rng, 2, 3, 4, 4)}, tokens=list("abcd"))
    weights = given["layers.0.attn.weights"]
    page = plot.html(given, batch=1, bits=16)
    data = data_of(page)
    assert data["layers"][0]["name"] == "layers.0.attn"
    assert data["tokens"] == [list("abcd")]
    np.testing.assert_allclose(decoded(page)[0, 2], weights[1, 2], atol=1e-5)


@pytest.fixture(scope="module")
def large():
    """Twelve layers of twelve heads on 128 tokens."""
    weights = maps(np.random.default_rng(0), 12, 12, 128, 128, causal=True)
    return plot.html(weights, [f"word{i}" for i in range(128)], mask=masks.causal())


def test_a_large_page_is_small(large):
    assert len(large.text) < 3e6


# --------------------------------------------------------------------------- in a browser

TOP, STEP = 34, 24  # pixels: where the list of tokens begins in the view of lines, and its rows

WEIGHTS = np.array(
    [
        [[1, 0, 0, 0], [0.25, 0.75, 0, 0], [0.5, 0.14, 0.36, 0], [0.1, 0.2, 0.3, 0.4]],
        [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.5, 0], [0.25, 0.25, 0.25, 0.25]],
        [[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]],
    ],
    np.float32,
)


@pytest.fixture
def cats(show):
    """Two layers, the second with two heads more than the first has, on four tokens."""
    layers = {"low": WEIGHTS[:1], "high": WEIGHTS}
    tab = show(plot.html(layers, ["the", "cat", "a", "cat"], mask=masks.causal()))
    tab.locator("#stage").focus()
    return tab


def beside(tab, side, token):
    """Return the position of a token in the view of lines, in pixels of the window."""
    stage = tab.locator("#stage").bounding_box()
    x = 40 if side == "query" else stage["width"] - 40
    return stage["x"] + x, stage["y"] + TOP + (token + 0.5) * STEP


def in_map(tab, i, j):
    stage = tab.locator("#stage").bounding_box()
    x, y, cell = tab.evaluate("[box.x, box.y, box.cell]")
    return stage["x"] + x + (j + 0.5) * cell, stage["y"] + y + (i + 0.5) * cell


def test_hostile_tokens_are_shown_as_text(show, expect):
    tab = show(plot.html({HOSTILE[0]: np.full((2, 8, 8), 1 / 8)}, HOSTILE, title=HOSTILE[0]))
    expect(tab).to_have_title(HOSTILE[0])
    expect(tab.locator("#title")).to_have_text(HOSTILE[0])
    expect(tab.locator("#where")).to_have_text(f"{HOSTILE[0]}, head 0")
    tab.locator("#mass").fill("100")
    subjects = [*HOSTILE[:2], r"\u2028\u2029", HOSTILE[3], HOSTILE[4], HOSTILE[5]]
    subjects += [r"\u202eevil\x00\n", r"\ud800"]
    tab.locator("#stage").focus()
    for n, shown in enumerate(subjects):
        tab.keyboard.press("ArrowDown")
        expect(tab.locator("#subject small")).to_have_text(f"query {n}, pinned")
        assert tab.locator("#subject").text_content() == f"{shown} query {n}, pinned"
    listed = tab.locator("#list li span:first-child").all_text_contents()
    assert sorted(listed) == sorted(f"{shown} {n}" for n, shown in enumerate(subjects))
    expect(tab.locator("img")).to_have_count(0)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("causal", [False, True])
def test_the_browser_decodes_what_was_stored(show, rng, bits, causal):
    weights = maps(rng, 3, 5, causal=causal)
    mask = np.asarray(rng.random((3, 5)) < 0.7)
    tab = show(plot.html(weights, range(3), key_tokens=range(5), mask=mask, bits=bits))
    cells = "Array.from({length: 15}, (_, n) => [Math.floor(n / 5), n % 5])"
    shown = tab.evaluate(f"{cells}.map(([i, j]) => head.weight(i, j))")
    seen = tab.evaluate(f"{cells}.map(([i, j]) => Boolean(head.seen(i, j)))")
    step = weights.max(axis=1, keepdims=True) / (2 * (2**bits - 1))
    visible = np.where(mask, weights, 0)  # what is hidden does not travel
    assert (np.abs(np.reshape(shown, (3, 5)) - visible) <= step + 2.0**-23).all()
    np.testing.assert_array_equal(np.reshape(seen, (3, 5)), mask)


def test_layer_and_head_are_chosen_by_mouse(cats, expect):
    buttons = cats.locator("#chooser button")
    expect(buttons).to_have_count(4)
    expect(cats.locator("#where")).to_have_text("low, head 0")
    cats.get_by_role("button", name="high, head 2").click()
    expect(cats.locator("#where")).to_have_text("high, head 2")
    expect(cats.locator('#chooser [aria-pressed="true"]')).to_have_count(1)
    chosen = cats.get_by_role("button", name="high, head 2")
    expect(chosen).to_have_attribute("aria-pressed", "true")
    expect(cats.locator("#stage")).to_have_attribute("aria-label", re.compile("high, head 2"))


def test_layer_and_head_are_chosen_by_keyboard(cats, expect):
    where = cats.locator("#where")
    for key, shown in [
        ("Shift+ArrowDown", "high, head 0"),
        ("ArrowRight", "high, head 1"),
        ("ArrowRight", "high, head 2"),
        ("ArrowRight", "high, head 2"),
        ("ArrowLeft", "high, head 1"),
        ("Shift+ArrowUp", "low, head 0"),
    ]:
        cats.keyboard.press(key)
        expect(where).to_have_text(shown)
    cats.locator("#chooser [data-layer='0']").focus()
    cats.keyboard.press("ArrowDown")
    expect(where).to_have_text("high, head 0")
    expect(cats.get_by_role("button", name="high, head 0")).to_be_focused()


def test_hover_shows_the_links_of_a_token(cats, expect):
    subject, summary = cats.locator("#subject"), cats.locator("#summary")
    expect(subject).to_have_text("No token chosen")
    cats.locator("#mass").fill("100")
    cats.mouse.move(*beside(cats, "query", 2))
    expect(subject).to_have_text("a query 2")
    expect(summary).to_have_text("reads 3 of 4 keys, together 1.00")
    expect(cats.locator("#list li")).to_have_text(["the 00.50", "a 20.36", "cat 10.14"])
    expect(cats.locator("#status")).to_contain_text("a query 2: reads 3 of 4 keys")
    cats.mouse.move(*beside(cats, "key", 2))
    expect(subject).to_have_text("a key 2")
    expect(summary).to_have_text("read by 2 of 4 queries")
    expect(cats.locator("#of-key")).to_have_attribute("aria-pressed", "true")
    cats.mouse.move(2, 2)
    expect(subject).to_have_text("No token chosen")


def test_weak_links_are_left_out_by_the_slider(cats, expect):
    cats.keyboard.press("End")
    for share, count in [(100, 4), (85, 3), (65, 2), (35, 1)]:
        cats.locator("#mass").fill(str(share))
        expect(cats.locator("#share")).to_have_text(f"{share} %")
        expect(cats.locator("#list li")).to_have_count(count)


def test_a_click_pins_and_escape_lets_go(cats, expect):
    subject = cats.locator("#subject")
    cats.mouse.click(*beside(cats, "query", 1))
    expect(subject).to_have_text("cat query 1, pinned")
    cats.mouse.move(*beside(cats, "query", 3))
    cats.mouse.move(2, 2)
    cats.get_by_role("button", name="high, head 1").click()
    expect(cats.locator("#where")).to_have_text("high, head 1")
    expect(subject).to_have_text("cat query 1, pinned")
    expect(cats.locator("#list li")).to_have_text(["the 00.50", "cat 10.50"])
    cats.keyboard.press("Escape")
    expect(subject).to_have_text("No token chosen")


def test_a_second_click_unpins(cats, expect):
    cats.mouse.click(*beside(cats, "query", 1))
    expect(cats.locator("#subject")).to_have_text("cat query 1, pinned")
    cats.mouse.click(*beside(cats, "query", 1))
    expect(cats.locator("#subject")).to_have_text("cat query 1")


def test_queries_and_keys_change_places(cats, expect):
    subject = cats.locator("#subject")
    cats.keyboard.press("Home")
    expect(subject).to_have_text("the query 0, pinned")
    cats.locator("#of-key").click()
    expect(subject).to_have_text("the key 0, pinned")
    expect(cats.locator("#of-key")).to_have_attribute("aria-pressed", "true")
    expect(cats.locator("#of-query")).to_have_attribute("aria-pressed", "false")
    expect(cats.locator("#list li").first).to_have_text("the 01.00")
    cats.keyboard.press("q")
    expect(subject).to_have_text("the query 0, pinned")


def test_arrows_move_through_the_tokens(cats, expect):
    subject = cats.locator("#subject small")
    for key, token in [
        ("ArrowDown", 0),
        ("ArrowDown", 1),
        ("ArrowUp", 0),
        ("ArrowUp", 0),
        ("End", 3),
        ("ArrowDown", 3),
        ("Home", 0),
    ]:
        cats.keyboard.press(key)
        expect(subject).to_have_text(f"query {token}, pinned")


def test_the_map_tells_every_cell(cats, expect):
    lines, grid = cats.locator("#lines"), cats.locator("#map")
    expect(lines).to_have_attribute("aria-pressed", "true")
    expect(cats.locator("#scale")).to_be_hidden()
    grid.click()
    expect(grid).to_have_attribute("aria-pressed", "true")
    expect(lines).to_have_attribute("aria-pressed", "false")
    expect(cats.locator("#scale")).to_be_visible()
    expect(cats.locator("#masked")).to_be_visible()
    expect(cats.locator("#stage")).to_have_attribute("aria-label", re.compile("as map$"))
    cats.mouse.move(*in_map(cats, 1, 0))
    expect(cats.locator("#status")).to_have_text("cat (1) \u2192 the (0): 0.25")
    cats.mouse.move(*in_map(cats, 1, 3))
    expect(cats.locator("#status")).to_have_text("cat (1) \u2192 cat (3): masked")
    cats.locator("#stage").focus()
    cats.keyboard.press("v")
    expect(lines).to_have_attribute("aria-pressed", "true")


def test_a_heavier_cell_is_darker(show, expect):
    tab = show(plot.html(WEIGHTS[0], ["the", "cat", "a", "cat"], mask=masks.causal()))
    tab.locator("#map").click()
    expect(tab.locator("#map")).to_have_attribute("aria-pressed", "true")
    row, cell = tab.evaluate(
        "(({x, y, cell}) => "
        "[Array.from(pen.getImageData(x, y + 3.5 * cell, 4 * cell, 1).data), cell])(box)"
    )
    pixels = np.reshape(row, (-1, 4))[[int((j + 0.5) * cell) for j in range(4)]].tolist()
    brightness = [sum(pixel[:3]) for pixel in pixels]
    assert brightness == sorted(brightness, reverse=True)
    assert len(set(brightness)) == 4


@pytest.mark.parametrize(
    ("scale", "least", "greatest"),
    [("linear", "0", "1.00"), ("row", "0", "greatest of row"), ("log", "1e-4", "1.00")],
)
def test_the_legend_follows_the_scale(cats, expect, scale, least, greatest):
    cats.locator("#map").click()
    cats.locator("#scale").select_option(scale)
    expect(cats.locator("#most")).to_have_text(greatest)
    expect(cats.locator(".legend").first.locator("span").first).to_have_text(least)


def test_search_goes_from_match_to_match(cats, expect):
    subject = cats.locator("#subject")
    cats.keyboard.press("/")
    expect(cats.locator("#search")).to_be_focused()
    cats.keyboard.type("CAT")
    expect(cats.locator("#found")).to_have_text("2 found")
    for key, token in [("Enter", 1), ("Enter", 3), ("Enter", 1), ("Shift+Enter", 3)]:
        cats.keyboard.press(key)
        expect(subject).to_have_text(f"cat query {token}, pinned")
    cats.locator("#search").fill("dog")
    expect(cats.locator("#found")).to_have_text("0 found")
    cats.keyboard.press("Escape")
    expect(cats.locator("#stage")).to_be_focused()


def test_help_lists_the_keys(cats, expect):
    cats.keyboard.press("?")
    expect(cats.locator("#help")).to_be_visible()
    expect(cats.locator("#keys dt")).to_have_count(17)
    cats.keyboard.press("Escape")
    expect(cats.locator("#help")).to_be_hidden()


def test_the_theme_changes(cats, expect):
    body = cats.locator("body")
    expect(body).to_have_css("background-color", "rgb(251, 250, 247)")
    cats.keyboard.press("t")
    expect(body).to_have_css("background-color", "rgb(22, 24, 29)")
    cats.locator("#theme").click()
    expect(body).to_have_css("background-color", "rgb(251, 250, 247)")


def test_the_frame_of_a_notebook_works_too(chromium, expect, tmp_path):
    notebook = tmp_path / "notebook.html"
    frame = plot.html(WEIGHTS, ["the", "cat", "a", "cat"])._repr_html_()
    notebook.write_text(f"<!doctype html><meta charset=utf-8><title>n</title>{frame}")
    with chromium.new_context() as context, context.new_page() as tab:
        trouble = []
        tab.on("pageerror", lambda error: trouble.append(str(error)))
        tab.goto(notebook.as_uri())
        inside = tab.frame_locator("iframe")
        inside.get_by_role("button", name="layer 0, head 1").click()
        expect(inside.locator("#where")).to_have_text("layer 0, head 1")
        assert trouble == []


def test_a_large_page_is_soon_ready(show, expect, large):
    before = time.perf_counter()
    tab = show(large)
    opened = time.perf_counter() - before
    assert tab.locator("#chooser button").count() == 144
    ready = float(tab.locator("html").get_attribute("data-ready")) / 1e3
    before = time.perf_counter()
    tab.get_by_role("button", name="layer 11, head 11").click()
    expect(tab.locator("#where")).to_have_text("layer 11, head 11")
    changed = time.perf_counter() - before
    print(f"ready after {ready:.2f} s ({opened:.2f} s with the tab), next head {changed:.2f} s")
    assert ready < 5
    assert changed < 5


def test_512_tokens_are_gone_through_smoothly(show):
    """Twelve layers of twelve heads; the bound is loose, one frame of 17 ms is usual."""
    head = maps(np.random.default_rng(0), 512, 512, causal=True)
    tab = show(plot.html(np.broadcast_to(head, (12, 12, 512, 512)), range(512)))
    assert float(tab.locator("html").get_attribute("data-ready")) < 5e3
    steps = """async (name) => {
        const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        view(name);
        await frame();
        const start = performance.now();
        for (let token = 0; token < 20; token++) { go(token); await frame(); }
        return (performance.now() - start) / 20;
    }"""
    for name in ("lines", "map"):
        assert tab.evaluate(steps, name) < 250


# ------------------------------------------------------------- widths, scripts, odd numbers


SIZES = [(400, 700), (850, 800), (1250, 800), (1600, 900)]


@pytest.fixture(scope="module")
def twelve():
    """Twelve layers of twelve heads, with names as long as a model's."""
    weights = maps(np.random.default_rng(0), 12, 40, 40, causal=True)
    layers = {f"encoder.layers.{i}.attn": weights for i in range(12)}
    return plot.html(layers, [f"token{i}" for i in range(40)], mask=masks.causal())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("view", ["lines", "map"])
def test_the_picture_scrolls_inside_at_every_width(show, twelve, size, view):
    tab = show(twelve)
    tab.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
    tab.locator(f"#{view}").click()
    stage = tab.evaluate("[stage.clientWidth, stage.clientHeight, stage.scrollHeight]")
    assert stage[0] >= 300
    assert 250 <= stage[1] <= size[1]
    if view == "lines":
        assert stage[2] > stage[1], "40 tokens are higher than the stage, which scrolls"
    whole = tab.evaluate("document.documentElement.scrollHeight")
    assert whole <= 2 * size[1], "the page itself stays short"
    assert tab.evaluate("document.documentElement.scrollWidth") <= size[0]


@pytest.mark.parametrize("width", [901, 1200, 1250, 1300, 1600])
@pytest.mark.parametrize("heads", [8, 12, 16])
def test_no_head_is_cut_off(show, rng, width, heads):
    layers = {f"encoder.layers.{i}.attn": maps(rng, heads, 3, 3) for i in range(3)}
    tab = show(plot.html(layers))
    tab.set_viewport_size({"width": width, "height": 800})
    last = tab.get_by_role("button", name=f"encoder.layers.2.attn, head {heads - 1}")
    box, nav = last.bounding_box(), tab.locator("#chooser").bounding_box()
    assert box["x"] + box["width"] <= nav["x"] + nav["width"]
    assert box["width"] >= 12
    assert tab.evaluate("stage.clientWidth") >= 0.2 * width


def test_names_of_layers_show_what_differs(show, twelve):
    rows = show(twelve).locator("#chooser th[scope=row]")
    assert rows.all_text_contents() == [str(i) for i in range(12)]
    assert rows.nth(3).get_attribute("title") == "encoder.layers.3.attn"
    for row in rows.all():
        assert row.evaluate("(th) => th.scrollWidth <= th.clientWidth")


def test_tokens_from_right_to_left_keep_their_number_behind_them(show):
    words = [
        "\u05e9\u05dc\u05d5\u05dd",
        "\u05e2\u05d5\u05dc\u05dd",
        "\u0645\u0631\u062d\u0628\u0627",
    ]
    tab = show(plot.html(np.full((3, 3), 1 / 3), words))
    tab.locator("#stage").focus()
    tab.keyboard.press("Home")
    tab.locator("#map").click()
    tab.mouse.move(*in_map(tab, 1, 2))
    places = """(selector) => Array.from(document.querySelectorAll(selector), (part) => {
        const token = part.querySelector("bdi").getBoundingClientRect();
        const number = part.querySelector("small").getBoundingClientRect();
        return number.left >= token.right - 0.5;
    })"""
    assert tab.evaluate(places, "#list li span:first-child") == [True] * 3
    assert tab.evaluate(places, "#subject") == [True]
    status = tab.locator("#status")
    assert status.text_content() == f"{words[1]} (1) \u2192 {words[2]} (2): 0.33"
    first, second = status.locator("bdi").all()
    assert first.bounding_box()["x"] < second.bounding_box()["x"]


def test_spaces_and_empty_tokens_are_seen(show, expect):
    tab = show(plot.html(np.eye(4), ["the", " the", "", "the "]))
    tab.locator("#stage").focus()
    for shown in ["the", "\u2423the", "\u2205", "the\u2423"]:
        tab.keyboard.press("ArrowDown")
        expect(tab.locator("#subject bdi")).to_have_text(shown)
    tab.keyboard.press("/")
    tab.keyboard.type(" the")  # what is searched is the token itself
    expect(tab.locator("#found")).to_have_text("1 found")


def test_numbers_that_are_not_finite_are_shown_as_such(show, expect):
    weights = np.array([[0.5, 0.5, 0], [np.nan, 0.2, 0.3], [0.1, 0.1, np.inf]])
    tab = show(plot.html(weights, list("abc")))
    expect(tab.locator("#broken")).to_be_visible()
    expect(tab.locator("#sums")).to_be_hidden()
    tab.locator("#stage").focus()
    tab.keyboard.press("End")
    expect(tab.locator("#summary")).to_have_text(
        "reads 2 of 3 keys, together 0.20; 1 NaN or infinite"
    )
    tab.locator("#map").click()
    tab.mouse.move(*in_map(tab, 1, 0))
    expect(tab.locator("#status")).to_have_text("b (1) \u2192 a (0): NaN or infinite")
    colour = tab.evaluate(
        """([i, j]) => {
        const at = (n, from) => Math.round((from + (n + 0.25) * box.cell) * devicePixelRatio);
        return Array.from(pen.getImageData(at(j, box.x), at(i, box.y), 1, 1).data).slice(0, 3);
    }""",
        [2, 2],
    )
    assert colour == [0xC4, 0x00, 0x6C]


def test_rows_that_do_not_sum_to_1_are_said_to(show, expect):
    tab = show(plot.html(2 * np.eye(3)))
    expect(tab.locator("#sums")).to_have_text("rows do not sum to 1, but to 2.00")
    expect(tab.locator("#sums")).to_be_visible()


def test_padded_keys_of_a_trace_are_hidden_and_no_zeros(show, expect, rng):
    model = nn.TransformerEncoder(1, 8, 2, rng=rng)
    x = rng.standard_normal((2, 4, 8), dtype=np.float32)
    _, found = trace.run(model, x, mask=masks.padding([4, 2]), tokens=list("abcd"))
    tab = show(plot.html(found, batch=1))
    expect(tab.locator("#masked")).to_be_visible()
    assert tab.evaluate("[0, 1, 2, 3].map((j) => head.seen(0, j))") == [True, True, False, False]


@pytest.mark.parametrize("zoom", [1.0, 0.5])
def test_the_heaviest_cell_of_a_long_map_is_seen_on_the_page(show, zoom):
    """Half a pixel a cell, when zoomed out: a pixel shows the greatest of its cells."""
    weights = np.full((500, 500), 0.1 / 499)
    weights[:, 3] = 0.9
    tab = show(plot.html(weights))
    tab.locator("#map").click()
    tab.evaluate("(factor) => { zoom(factor); }", zoom)
    tab.wait_for_timeout(100)
    darkest = tab.evaluate("""() => {
        const [x, y] = [Math.ceil(box.x * devicePixelRatio), Math.ceil(box.y * devicePixelRatio)];
        const data = pen.getImageData(x, y + 40, 60, 1).data;
        const sum = (_, n) => data[4 * n] + data[4 * n + 1] + data[4 * n + 2];
        return Math.min(...Array.from({length: 60}, sum));
    }""")
    assert darkest == sum([12, 30, 80])
