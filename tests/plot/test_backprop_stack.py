"""The page of a traced stack: each number of the forward and of the backward is the model's."""

import numpy as np
import pytest

from miniattn import masks, models, nn, plot, trace

T, E = 3, 4
KINDS = {
    "layer norm, gelu": {"activation": "gelu"},
    "rms norm, relu, no bias": {"norm": "rms", "activation": "relu", "bias": False},
}


def stack(rng, layers=2, **options):
    made = nn.TransformerEncoder(layers, E, 2, ffn_dim=6, rng=rng, dtype=np.float64, **options)
    for p in made.parameters():  # as after training: no bias is 0, no weight of a norm 1
        p.data[...] += 0.3 * rng.standard_normal(p.shape)
    return made


def traced(rng, **options):
    model = stack(rng, **options)
    x, dy = rng.standard_normal((2, 2, T, E))
    _, t = trace.run(model, x, mask=masks.causal())
    return model, t, t.gradients(dy)


def of_layer(t, i, heads=2):
    """What the page calls the values of a layer, and what they are, of batch row 1."""
    at = f"layers.{i}."
    found = {
        f"{i}.{name}": t[f"{at}{path}"][1]
        for name, path in (
            ("n1", "norm1"),
            ("middle", "middle"),
            ("n2", "norm2"),
            ("up", "ffn.up"),
            ("hidden", "ffn.hidden"),
        )
    }
    for h in range(heads):
        for name in ("q", "k", "v", "weights", "heads", "scores"):
            shown = f"{i}.{h}.{'head' if name == 'heads' else name}"
            found[shown] = t[f"{at}attn.{name}"][1, h]
    return found | {f"{i}.y": t[f"layers.{i}"][1]}


def slope(name):
    start, dot, last = name.rpartition(".")
    return f"{start}{dot}d{last}"


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_is_the_model_s(show, rng, kind):
    model, t, g = traced(rng, **KINDS[kind])
    tab = show(plot.backprop(t, dout=g, batch=1))
    shown = tab.evaluate("JSON.parse(JSON.stringify(values))")
    close = {"rtol": 1e-9, "atol": 1e-12}
    for i in range(2):
        for (name, value), gradient in zip(
            of_layer(t, i).items(), of_layer(g, i).values(), strict=True
        ):
            seen = np.isfinite(value)  # scores: a hidden one is null in JSON
            numbers = np.array(shown[name], float)
            np.testing.assert_allclose(numbers[seen], value[seen], err_msg=name, **close)
            back = np.array(shown[slope(name)], float)
            if name.endswith("weights"):  # what a hidden weight would do is shown, too
                seen = np.ones_like(seen)
            np.testing.assert_allclose(back[seen], gradient[seen], err_msg=slope(name), **close)
    np.testing.assert_allclose(shown["dx"], g.returned[1], err_msg="dx", **close)
    # Of the parameters' gradients, those of this row of the batch alone.
    model.zero_grad()
    _, ctx = model.forward(t["input"][1:], mask=masks.causal())
    model.backward(g["output"][1:], ctx)
    layer = model.layers[1]
    expected = {"1.dWup": layer.ffn.up.weight, "1.dn1_weight": layer.norm1.weight}
    expected |= {"1.dWdown": layer.ffn.down.weight, "dnorm_weight": model.norm.weight}
    if layer.ffn.up.bias is not None:
        expected |= {"1.dbup": layer.ffn.up.bias, "1.dbo": layer.attn.out_proj.bias}
        expected |= {"1.dn2_bias": layer.norm2.bias}
    for name, p in expected.items():
        np.testing.assert_allclose(
            np.squeeze(shown[name]), np.squeeze(p.grad), err_msg=name, **close
        )
    heads = np.split(layer.attn.k_proj.weight.grad, 2)
    np.testing.assert_allclose(shown["1.1.dWk"], heads[1], **close)
    wo = np.split(layer.attn.out_proj.weight.grad, 2, axis=1)
    np.testing.assert_allclose(shown["1.0.dWo"], wo[0], **close)


def test_a_changed_number_changes_all_that_follows(show, expect, rng):
    model, t, g = traced(rng)
    tab = show(plot.backprop(t, dout=g, batch=1))
    tab.locator('[id="panel-0.1.Wv"] button').nth(2).click()
    tab.locator("#number").fill("1.5")
    model.layers[0].attn.v_proj.weight.data[2, 2] = 1.5  # head 1's first row
    _, moved = trace.run(model, t["input"], mask=masks.causal())
    after = moved.gradients(g["output"])
    shown = tab.evaluate("values")
    np.testing.assert_allclose(shown["out"], moved["output"][1], rtol=1e-9)
    np.testing.assert_allclose(shown["dx"], after.returned[1], rtol=1e-8, atol=1e-12)
    tab.locator("#reset").click()
    np.testing.assert_allclose(tab.evaluate("values.out"), t["output"][1], rtol=1e-9)


def test_slopes_are_those_of_each_line(show, rng):
    _, t, g = traced(rng, layers=1)
    off = show(plot.backprop(t, dout=g, batch=1)).evaluate(
        r"""LINES.map((line) => {
            const i = line.size(values)[0] - 1; // the last row: nothing of it is hidden
            return Math.max(...line.slopes(values, i, 1).map(([what, slope]) => {
                const [, of, row, column] = what.match(/(.+)\[(\d+),(\d+)\]/);
                const side = (h) => {
                    const moved = { ...values, [of]: values[of].map((x) => [...x]) };
                    moved[of][row][column] += h;
                    return line.value(moved, i, 1);
                };
                return Math.abs((side(1e-5) - side(-1e-5)) / 2e-5 - slope);
            }));
        })"""
    )
    assert len(off) > 50
    assert max(off) < 1e-7


def test_lines_are_stepped_through_part_by_part(show, expect, rng):
    _, t, g = traced(rng)
    tab = show(plot.backprop(t, dout=g))
    expect(tab.locator("#part option")).to_have_count(1 + 2 * 5 + 1)
    tab.keyboard.press("Home")
    tab.keyboard.press("n")
    expect(tab.locator("#line")).to_contain_text("0.n1 = norm(x) * 0.n1_weight + 0.n1_bias")
    tab.locator("details").nth(1).evaluate("(part) => { part.open = false; }")
    tab.keyboard.press("b")
    tab.keyboard.press("n")
    expect(tab.locator("details").nth(1)).to_have_attribute("open", "")
    tab.locator("#part").select_option("layer 1, head 1")
    tab.keyboard.press("End")
    tab.locator('[id="panel-1.1.dscores"] button').nth(3).click()
    expect(tab.locator("#formula")).to_contain_text("w (dw - sum) =")
    for width in (360, 800, 1280):
        tab.set_viewport_size({"width": width, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_a_language_model_of_toy_size_is_shown_from_its_stack(rng):
    model = models.GPT(7, T, embed_dim=E, num_heads=2, num_layers=1, ffn_dim=5, rng=rng)
    logits, t = trace.run(model, np.array([[1, 2, 3]]))
    page = plot.backprop(t, dout=t.gradients(np.ones_like(logits)))
    assert '"0.1.Wq"' in page.text


def plain(rng, **options):
    _, t = trace.run(stack(rng, **options), rng.standard_normal((1, T, E)))
    return t


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: plot.backprop(plain(r, softcap=2.0)), ValueError, "x: expected plain layers"),
        (lambda r: plot.backprop(plain(r, num_kv_heads=1)), ValueError, "x: expected pre-norm lay"),
        (lambda r: plot.backprop(plain(r), batch=1), ValueError, "batch: expected an index"),
        (lambda r: plot.backprop(plain(r), dout=np.ones(3)), ValueError, "dout: expected shape"),
        (lambda r: plot.backprop(plain(r), mask=masks.causal()), ValueError, "mask: expected None"),
        (lambda r: plot.backprop(trace.Trace({})), ValueError, "x: expected a trace of trace.run"),
        (
            lambda r: plot.backprop(trace.run(stack(r), np.ones((1, 9, E)))[1]),
            ValueError,
            "at most 8 tokens",
        ),
        (
            lambda r: plot.backprop(trace.run(stack(r), np.ones((1, T, E)), keep="*.q")[1]),
            ValueError,
            "in which 'input' was kept",
        ),
    ],
)
def test_wrong_calls(call, error, message, rng):
    with pytest.raises(error, match=message):
        call(rng)
