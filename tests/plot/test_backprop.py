"""The page of `plot.backprop`: its arithmetic beside the package's, worked by hand in a browser."""

import numpy as np
import pytest

import miniattn.functional as F
from miniattn import masks, plot

GIVEN = ("x", "Wq", "Wk", "Wv", "dout")


@pytest.fixture
def arrays(rng):
    """Five tokens of width 4, a head of width 3."""
    x, dout = rng.standard_normal((5, 4)), rng.standard_normal((5, 3))
    maps = dict(zip(GIVEN[1:4], rng.standard_normal((3, 3, 4)), strict=True))
    return {"x": x, **maps, "dout": dout}


def page_of(arrays, **options):
    weights = tuple(arrays[name] for name in GIVEN[1:4])
    return plot.backprop(arrays["x"], weights, dout=arrays["dout"], **options)


def expected(arrays, mask):
    """All that the page shows, by the package."""
    x, dout = arrays["x"], arrays["dout"]
    maps = {name: arrays[f"W{name}"] for name in "qkv"}
    q, k, v = (F.linear(x, w) for w in maps.values())
    heads = [a[None, None] for a in (q, k, v)]
    out, ctx = F.attention_forward(*heads, mask=mask)
    grads = F.attention_backward(dout[None, None], ctx)
    found = {"q": q, "k": k, "v": v, "out": out[0, 0]}
    found["weights"] = F.attention_weights(*heads[:2], mask=mask)[0, 0]
    found["dx"] = 0.0
    for name, w in maps.items():
        d = found[f"d{name}"] = getattr(grads, f"d{name}")[0, 0]
        dx, found[f"dW{name}"], _ = F.linear_backward(d, F.linear_forward(x, w)[1])
        found["dx"] = found["dx"] + dx
    return found


def is_as_expected(tab, arrays, mask):
    shown = tab.evaluate("JSON.parse(JSON.stringify(values))")
    for name, right in expected(arrays, mask).items():
        np.testing.assert_allclose(
            np.array(shown[name]), right, rtol=1e-10, atol=1e-12, err_msg=name
        )


def cell(tab, name, i, j):
    return tab.locator(f"#panel-{name} tr").nth(i).locator("button").nth(j)


@pytest.mark.parametrize("mask", [None, masks.causal()], ids=["full", "causal"])
def test_its_numbers_are_those_of_the_package(show, arrays, mask):
    is_as_expected(show(page_of(arrays, mask=mask)), arrays, mask)


def test_a_changed_number_changes_all_of_it(show, expect, arrays):
    tab = show(page_of(arrays))
    before = tab.inner_text("#line")
    cell(tab, "Wk", 2, 1).click()
    tab.locator("#number").fill("0.75")
    arrays["Wk"][2, 1] = 0.75
    is_as_expected(tab, arrays, None)
    assert tab.inner_text("#line") != before
    cell(tab, "dq", 0, 0).click()
    expect(tab.locator("#edit")).to_be_hidden()  # what is worked out is not to be set
    tab.locator("#reset").click()
    assert tab.inner_text("#line") == before


def test_a_formula_has_its_numbers_put_in(show, expect, arrays):
    tab = show(page_of(arrays))
    cell(tab, "dscores", 2, 1).click()
    found = tab.evaluate("[values.weights[2][1], values.dweights[2], values.weights[2]]")
    w, dw, row = found[0], np.array(found[1]), np.array(found[2])
    dot = (row * dw).sum()
    text = f"w (dw - sum) = {w:.3f} ({dw[1]:.3f} - {dot:.3f}) = {w * (dw[1] - dot):.3f}"
    expect(tab.locator("#formula")).to_contain_text(text)
    slopes = tab.locator("#slopes li").all_inner_texts()
    assert slopes[1] == f"dweights[2,1]: {w * (1 - w):.3f}"
    assert len(slopes) == 5
    cell(tab, "q", 1, 2).click()
    x, wq = arrays["x"][1], arrays["Wq"][2]
    expect(tab.locator("#formula")).to_contain_text(
        " + ".join(f"{a:.3f}*{b:.3f}" for a, b in zip(x, wq, strict=True))
    )


def test_slopes_are_those_of_the_line(show, arrays):
    """The local Jacobian of each line's number 1, 1 against differences of that line."""
    off = show(page_of(arrays)).evaluate(
        r"""LINES.map((line) => Math.max(...line.slopes(values, 1, 1).map(([what, slope]) => {
            const [, of, i, j] = what.match(/(\w+)\[(\d+),(\d+)\]/);
            const side = (h) => {
                const moved = JSON.parse(JSON.stringify(values));
                moved[of][i][j] += h;
                return line.value(moved, 1, 1);
            };
            return Math.abs((side(1e-6) - side(-1e-6)) / 2e-6 - slope);
        })))"""
    )
    assert len(off) == 15
    assert max(off) < 1e-7


def test_it_is_worked_by_keys_alone(show, expect, arrays):
    tab = show(page_of(arrays, mask=masks.causal()))
    tab.keyboard.press("Home")
    expect(tab.locator("#line")).to_have_text("before the first line: what is given")
    expect(cell(tab, "q", 0, 0)).to_have_attribute("aria-label", "q 0, 0: not yet")
    for _ in range(4):
        tab.keyboard.press("n")
    expect(tab.locator("#line")).to_contain_text("line 4 of 15: scores = scale q k^T")
    expect(tab.locator("#panel-scores")).to_have_class("panel now")
    expect(tab.locator("#panel-k")).to_have_class("panel read")
    tab.keyboard.press("b")
    expect(tab.locator("#line")).to_contain_text("line 3 of 15: v = x Wv^T")
    tab.keyboard.press("End")
    cell(tab, "scores", 0, 0).focus()
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowRight")
    expect(tab.locator("#which")).to_contain_text("scores[1,1] =")
    tab.keyboard.press("ArrowRight")
    expect(tab.locator("#formula")).to_contain_text("hidden by the mask")


@pytest.mark.parametrize("width", [1280, 760, 380])
def test_it_fits_any_width_in_light_and_dark(show, arrays, width):
    tab = show(page_of(arrays))
    tab.set_viewport_size({"width": width, "height": 800})
    papers = set()
    for _ in range(2):
        tab.keyboard.press("t")
        papers.add(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert len(papers) == 2


def test_the_page_is_ascii_and_titles_are_text(tmp_path):
    page = plot.backprop(title="</script><b>\u00e9", path=tmp_path / "a.html")
    assert page.text == (tmp_path / "a.html").read_text("ascii")
    assert "<b>" not in page.text
    assert "&#233;" in page.text


ONES = np.ones((3, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plot.backprop(np.ones(3)), ValueError, "x: expected shape"),
        (lambda: plot.backprop(np.ones((9, 2))), ValueError, "x: expected shape"),
        (lambda: plot.backprop(ONES * np.nan), ValueError, "x: expected finite numbers"),
        (lambda: plot.backprop(ONES > 0), TypeError, "x: expected a float array"),
        (lambda: plot.backprop(ONES, (ONES,)), ValueError, "weights: expected three arrays"),
        (lambda: plot.backprop(ONES, 3), TypeError, "weights: expected"),
        (
            lambda: plot.backprop(ONES, (np.eye(2), np.eye(2), ONES)),
            ValueError,
            "weights: expected Wv of shape",
        ),
        (lambda: plot.backprop(ONES, dout=np.ones((2, 2))), ValueError, "dout: expected shape"),
        (lambda: plot.backprop(scale="a"), TypeError, "scale: expected"),
        (lambda: plot.backprop(title=3), TypeError, "title: expected a str"),
        (lambda: plot.backprop(mask=np.ones((2, 7), bool)), ValueError, "mask"),
    ],
)
def test_wrong_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()
