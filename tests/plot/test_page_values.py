"""What the page works out: gradients, means, words, sums; and the pictures that it saves."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from miniattn import analysis, masks, nn, plot, trace

TOKENS = ["[CLS]", "un", "##able", "cat", "sat"]
T = len(TOKENS)
SEEN = np.tri(T, dtype=bool)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def traced():
    rng = np.random.default_rng(0)
    model = nn.TransformerEncoder(2, 8, 2, rng=rng)
    x = 2 * rng.standard_normal((1, T, 8), dtype=np.float32)
    y, t = trace.run(model, x, mask=masks.causal(), tokens=TOKENS)
    return t, t.gradients(rng.standard_normal(y.shape, dtype=np.float32))


@pytest.fixture
def page(show, traced):
    t, g = traced
    return show(plot.html(t, gradients=g, bits=16))


def cells(tab, **state):
    """The numbers on show after a change of the state, and which of them are seen."""
    tab.evaluate("(state) => set(state)", state)
    shape = tab.evaluate("[head.T, head.S]")
    numbers = np.reshape(tab.evaluate("Array.from(head.cells)"), shape)
    every = "span(head.T).map((i) => span(head.S).map((j) => Boolean(head.seen(i, j))))"
    return numbers, np.array(tab.evaluate(every))


def test_every_value_mean_and_word_is_the_package_s(page, traced):
    t, g = traced
    w, dw = (of.weights["layers.1.attn"][0].astype(float) for of in (t, g))
    page.evaluate("choose(1, 1)")
    for value, exact in {"weights": w, "gradient": dw, "weights*gradient": w * dw}.items():
        exact = np.where(SEEN, exact, 0)
        keys = "mean" if value == "gradient" else "sum"
        # Off by at most a step of the row's greatest, in 16 bits of which one may be a sign.
        close = {"rtol": 0, "atol": 4e-5 * abs(exact).max()}
        for mean in (False, True):
            one = exact.mean(axis=0) if mean else exact[1]
            shown, seen = cells(page, value=value, mean=mean, words=False)
            np.testing.assert_allclose(shown, one, **close)
            np.testing.assert_array_equal(seen, SEEN)
            merged = analysis.merge_words(one, [0, 1, 1, 2, 3], keys=keys)
            shown, seen = cells(page, value=value, mean=mean, words=True)
            np.testing.assert_allclose(shown, merged, **close)
            np.testing.assert_array_equal(seen, np.tri(4, dtype=bool))
    assert page.evaluate("head.labels.key") == ["[CLS]", "unable", "cat", "sat"]


def test_values_and_averages_are_chosen_by_keys(page, expect):
    stage = page.locator("#stage")
    stage.focus()
    for what in ("Gradient of attention", "Attention times gradient", "Attention"):
        page.keyboard.press("g")
        expect(stage).to_have_attribute("aria-label", re.compile(f"^{what} of layers.0.attn, head"))
    page.keyboard.press("g")
    expect(page.locator("#value")).to_have_value("gradient")
    expect(page.locator("#meaning")).to_contain_text("d loss / d weight")
    expect(page.locator("#signs")).to_be_visible()
    page.keyboard.press("m")
    page.keyboard.press("w")
    expect(page.locator("#where")).to_have_text("layers.0.attn, mean of 2 heads")
    expect(stage).to_have_attribute("aria-label", re.compile("mean of 2 heads: 4 words, as lines$"))
    page.keyboard.press("End")
    expect(page.locator("#subject")).to_have_text("sat query 3, pinned")
    listed = page.locator("#list li span:nth-child(2)").all_text_contents()
    sizes = [float(text.replace("\u2212", "-")) for text in listed]
    assert sizes == sorted(sizes, key=abs, reverse=True)
    assert min(sizes) < 0 < max(sizes)
    page.get_by_role("button", name="layers.0.attn, head 1").click()
    expect(page.locator("#where")).to_have_text("layers.0.attn, head 1")


def test_what_there_is_not_has_no_button(show, expect, rng):
    tab = show(plot.html(rng.dirichlet(np.ones(3), 3), list("abc")))
    for name in ("#value", "#mean", "#words"):
        expect(tab.locator(name)).to_be_hidden()
    tab.keyboard.press("m")
    tab.keyboard.press("g")
    expect(tab.locator("#where")).to_have_text("layer 0, head 0")


def test_lines_across_are_pointed_at_where_they_are(page, expect):
    page.locator("#across").click()
    expect(page.locator("#across")).to_have_attribute("aria-pressed", "true")
    place = page.locator("#stage").bounding_box()
    x = place["x"] + 34 + 24 * 3.5
    for side, y in (("key", 40), ("query", place["height"] - 40)):
        page.mouse.move(x, place["y"] + y)
        expect(page.locator("#subject")).to_have_text(f"cat {side} 3")


@pytest.fixture
def sums(show):
    """Rows that sum to what they like, with zeros."""
    weights = np.array([[0.9, 0.0, 0.6], [0.0, 0.0, 0.25], [0.5, 1e-5, 0.5]])
    tab = show(plot.html(np.stack([weights, weights / 2]), list("abc")))
    tab.locator("#map").click()
    return tab


def test_rows_say_what_they_sum_to_and_zeros_that_they_are(sums, expect):
    said = sums.locator("#sums")
    expect(said).to_have_text("rows do not sum to 1, but to 0.25 to 1.50")
    expect(sums.locator("#zeros")).to_be_visible()
    sums.locator("#stage").focus()
    sums.keyboard.press("Home")
    expect(sums.locator("#summary")).to_contain_text("together 1.50; the row sums to 1.50")
    told = sums.evaluate("[[0, 1], [2, 1], [0, 0]].map(([i, j]) => value(i, j))")
    assert told == ["exactly 0", "nearly 0", "0.90"]
    sums.locator("#mean").click()
    expect(said).to_have_text("rows do not sum to 1, but to 0.19 to 1.13")


def saved(tab, kind):
    with tab.expect_download() as download:
        tab.locator(f"#{kind}").click()
    assert download.value.suggested_filename == f"Attention-layers-0-attn-head-0.{kind}"
    return download.value.path().read_bytes()


def colours(tab):
    """The colours (T, S, 3) of the cells on the stage, where no mark is."""
    seen = np.array(Image.open(io.BytesIO(tab.locator("#canvas").screenshot())).convert("RGB"))
    x, y, cell = tab.evaluate("[box.x, box.y, box.cell]")
    at = ((np.arange(T) + 0.2) * cell).astype(int)
    return seen[int(y) + at[:, None], int(x) + at]


def test_pictures_show_the_same_cells_in_light_and_dark(page, tmp_path):
    page.locator("#map").click()
    page.evaluate("set({ value: 'gradient' })")
    for _ in range(2):
        page.keyboard.press("t")
        page.wait_for_timeout(60)
        expected = colours(page)[SEEN]
        root = ElementTree.fromstring(saved(page, "svg"))
        texts = [text.text for text in root.iter(f"{SVG}text")]
        for shown in (*TOKENS, "query", "key", "masked", "Attention: layers.0.attn, head 0"):
            assert shown in texts
        assert any("d loss / d weight" in text for text in texts)
        data = next(image.get("href") for image in root.iter(f"{SVG}image"))
        png = base64.b64decode(data.removeprefix("data:image/png;base64,"))
        inside = np.array(Image.open(io.BytesIO(png)))
        assert inside.shape == (T, T, 4)
        np.testing.assert_array_equal(inside[SEEN][:, :3], expected)
        assert (inside[~SEEN][:, 3] == 0).all(), "the hatch shows through"

        picture = np.array(Image.open(io.BytesIO(saved(page, "png"))).convert("RGB"))
        x, y, cell = page.evaluate("[box.x, box.y, box.cell]")
        head = page.evaluate("HEAD")
        at = [[2 * round(head + y + (i + 0.2) * cell), 2 * round(x + (j + 0.2) * cell)]
              for i, j in np.argwhere(SEEN)]  # fmt: skip
        np.testing.assert_array_equal([picture[tuple(place)] for place in at], expected)


def test_the_picture_of_lines_is_drawn_as_they_are(page, show, chromium, tmp_path):
    """The SVG, drawn by a browser, beside the PNG, of half its size."""
    page.locator("#across").click()
    page.locator("#stage").focus()
    page.keyboard.press("End")
    page.wait_for_timeout(60)
    (tmp_path / "a.svg").write_bytes(saved(page, "svg"))
    png = Image.open(io.BytesIO(saved(page, "png"))).convert("L")
    size = (png.width // 2, png.height // 2)
    with chromium.new_context(viewport={"width": size[0], "height": size[1]}) as context:
        tab = context.new_page()
        tab.goto((tmp_path / "a.svg").as_uri())
        drawn = Image.open(io.BytesIO(tab.screenshot())).convert("L")
    # Between the tokens, whose letters may stand a pixel higher.
    high, right, left = page.evaluate("[box.extent[1] + HEAD, box.x2, box.x1]")
    between = (0, high - right, 200, high - left)
    one, other = (
        np.array(x.resize(size).crop(between).resize((25, 40), Image.Resampling.BOX), float)
        for x in (drawn, png)
    )
    assert other.min() < 200
    assert abs(one - other).max() < 12
