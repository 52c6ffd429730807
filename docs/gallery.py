"""The pictures of the gallery: one function a picture. Building the documentation runs them all.

python docs/gallery.py FOLDER
"""

import string
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import trained

import miniattn.functional as F
from miniattn import analysis, demo, distributed, masks, nn, plot, trace
from miniattn._typing import NORMALIZERS

# A GPT of two layers that has learned which verbs agree with which noun, and what it sees in:
WORDS = trained.SENTENCE  # the cats near the dog sleep and they run .
T = len(WORDS)
speaker, _ = trained.load("sentence")
ids = trained.encode(WORDS)
logits, inside = trace.run(speaker, ids, tokens=WORDS)
FIRST = "blocks.layers.0.attn"  # the layer that finds the subject

# One that has learned to go on with what comes again, and one that reads handwritten digits:
copyist, copying = trained.load("copyist")
AGAIN = list("tonemyhavid" * 3)
again = np.array([[string.ascii_letters.index(letter) for letter in AGAIN]])
reader, reading = trained.load("digits")


def attention_map() -> plot.Figure:
    """One head; what the mask hides is hatched. Both verbs look for their subject."""
    return plot.attention_map(inside, layer=FIRST, head=subject_head())


def subject_head() -> int:
    """Return the head that looks most from the second verb to the first noun."""
    weights = inside.weights[FIRST][0]
    return int(weights[:, WORDS.index("dog"), 1].argmax())


def attention_heads() -> plot.Figure:
    """The heads of a layer on one scale, here logarithmic."""
    return plot.attention_heads(inside, layer=FIRST, scale="log")


def normalizers() -> plot.Figure:
    """The same scores under each normalizer; a dot is a weight of exactly 0."""
    q, k = (inside[f"{FIRST}.{name}"][0, subject_head()] for name in "qk")
    maps = [F.attention_weights(q, k, mask=masks.causal(), normalizer=name) for name in NORMALIZERS]
    titles = [
        f"{name}: {(w[np.tri(T, dtype=bool)] == 0).mean():.0%} are 0"
        for name, w in zip(NORMALIZERS, maps, strict=True)
    ]
    shown = {"mask": masks.causal(), "titles": titles, "columns": 2}
    return plot.attention_heads(np.stack(maps), WORDS, **shown)


def attention_layers() -> plot.Figure:
    """Every head of every layer: a head that looks one back, and heads that find what followed."""
    _, maps = trace.run(copyist, again, keep="*.weights", tokens=AGAIN)
    return plot.attention_layers(maps)


def attention_lines() -> plot.Figure:
    """Tokens joined by lines, as strong as the weight."""
    return plot.attention_lines(inside.weights[FIRST][0, :2], WORDS)


def attention_on_image() -> plot.Figure:
    """Where the first layer of the reader looks, on the digit; what is no ink is hatched."""
    images = {digit: x for x, digit in demo.load_digits().test}
    _, t = trace.run(reader, images[3][None], keep="*.weights")
    looks = next(iter(t.weights.values()))[0].mean(axis=(0, 1))
    ink = demo.on_pixels(images[3], images[3][:, 2] + 2).filled(0)
    return plot.attention_on_image(demo.on_pixels(images[3], looks), ink)


def attention_steps() -> plot.Figure:
    """Attention as matrices: of the head that finds the subject, four of its eight numbers."""
    q, k, v = (inside[f"{FIRST}.{name}"][0, subject_head(), :7, :4] for name in "qkv")
    return plot.attention_steps(q, k, v, WORDS[:7], mask=masks.causal())


def temperatures() -> plot.Figure:
    """What comes after "they", by temperature."""
    last = logits[0, WORDS.index("they")]
    likely = np.argsort(-last)[:6]
    return plot.temperatures(last[likely], tokens=[trained.WORDS[i] for i in likely])


def masked_weights() -> plot.Figure:
    """The same scores without a mask, causal, with padding, and with both."""
    scores = np.asarray(inside[f"{FIRST}.q"][0, 0] @ inside[f"{FIRST}.k"][0, 0].T)
    return plot.masked_weights(scores / np.sqrt(8), tokens=WORDS)


def mask() -> plot.Figure:
    """Any mask, and which rule hides what."""
    rules = masks.causal() & masks.padding([T - 1]) & masks.documents([[0] * 6 + [1] * 4])
    return plot.mask(rules, tokens=WORDS)


def gradients() -> trace.Gradients:
    """Return the gradient of everything, of "sleep" being said and not "sleeps"."""
    dlogits = np.zeros_like(logits)
    dlogits[0, 4, trained.encode(["sleep", "sleeps"])[0]] = 1.0, -1.0
    return inside.gradients(dlogits)


def gradient_map() -> plot.Figure:
    """Weights, and beside them how the verb's number changes with each."""
    return plot.gradient_map(inside, gradients(), layer=FIRST, head=subject_head())


def gradient_flow() -> plot.Figure:
    """How a gradient fares in twelve untrained layers, with the norm before and after."""
    runs = {}
    for name, first in (("norm before", True), ("norm after", False)):
        model = nn.TransformerEncoder(12, 64, 4, norm_first=first, rng=np.random.default_rng(0))
        x, dy = np.random.default_rng(1).standard_normal((2, 1, 16, 64), dtype=np.float32)
        _, t = trace.run(model, x, keep=["input", "layers.*"])
        runs[name] = t.gradients(dy)
    return plot.gradient_flow(runs, names=["input", *(f"layers.{i}" for i in range(12))])


def head_summary() -> plot.Figure:
    """Entropy, mean distance and mass on the first key of every head."""
    _, maps = trace.run(copyist, again, keep="*.weights")
    return plot.head_summary(maps)


def timeline() -> plot.Figure:
    """Ranks that share a sequence: what each computes when, and where it waits."""
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 1, 4096, 64), dtype=np.float32)

    def attend(comm: distributed.Comm, layout: Literal["contiguous", "striped"]) -> None:
        mine = [distributed.share(x, comm, layout=layout) for x in (q, k, v)]
        distributed.ring_attention(*mine, comm=comm, mask=masks.causal(), layout=layout)

    spans = {}
    simulation = distributed.simulate(4, latency=1e-5, bandwidth=1e9)
    for layout in ("contiguous", "striped"):
        simulation.run(attend, layout)  # the first run may compile
        simulation.run(attend, layout)
        spans[layout] = simulation.spans
    return plot.timeline(spans)


def history() -> plot.Figure:
    """Training curves, here the reader's: a panel a quantity, held out dashed."""
    return plot.history({"epoch": np.arange(1, len(reading["loss"]) + 1), **reading})


def residual_stream() -> plot.Figure:
    """How long the stream's vectors are, and their gradients, by place in the model and token."""
    return plot.residual_stream(inside, gradients())


def patching() -> plot.Figure:
    """Results of an experiment: which paths carry the number of the subject to the verb."""
    right, wrong = trained.encode(["sleep", "sleeps"])[0]
    metric = analysis.LogitDifference([right], [wrong])
    clean = trained.encode(WORDS[:5])
    edges = analysis.path_patching(
        speaker, clean, np.where(clean == clean[0, 1], trained.encode(["cat"]), clean), metric
    )
    return plot.patching(edges, baseline=metric(speaker(clean)), label="sleep − sleeps")


def page() -> plot.Page:
    """All heads that read a sentence, to look at by hand."""
    return plot.html(inside, gradients=gradients(), title="Which noun is it?")


def animate(path: Path) -> Path:
    """A head of the copyist as it learns, recorded by `plot.Recorder` during training."""
    maps, steps = copying["maps"][1::2, :32, :32], copying["steps"][1::2]
    titles = [f"step {step:.0f}" for step in steps]
    options = {"fps": 4, "hold": 0.5, "dpi": 60, "mask": masks.causal()}
    return plot.animate(maps, path, titles=titles, **options)


def backprop_stack() -> plot.Page:
    """Two layers of two heads, number by number."""
    rng = np.random.default_rng(0)
    model = nn.TransformerEncoder(2, 4, 2, ffn_dim=6, rng=rng)
    x, dy = rng.standard_normal((2, 1, 4, 4), dtype=np.float32)
    _, t = trace.run(model, x, mask=masks.causal())
    title = "Backpropagation through two layers"
    return plot.backprop(t, dout=t.gradients(dy), title=title)


PICTURES: list[Callable[[], plot.Figure]] = [
    attention_map,
    attention_heads,
    normalizers,
    attention_layers,
    attention_lines,
    attention_on_image,
    attention_steps,
    temperatures,
    masked_weights,
    mask,
    gradient_map,
    gradient_flow,
    head_summary,
    history,
    timeline,
    residual_stream,
    patching,
]


def draw(folder: Path) -> None:
    """Write every picture as PNG, the animation, and the interactive pages."""
    (folder / "live").mkdir(parents=True, exist_ok=True)
    page().save(folder / "live" / "attention.html")
    plot.backprop(mask=masks.causal()).save(folder / "live" / "backprop.html")
    backprop_stack().save(folder / "live" / "backprop_stack.html")
    animate(folder / "animate.gif")
    for picture in PICTURES:
        picture().savefig(folder / f"{picture.__name__}.png", dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
