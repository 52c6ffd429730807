"""``python -m miniattn explore``: a model and a text in, its attention as page or figure out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import miniattn.functional as F
from miniattn import data, models, trace
from miniattn._command import WrongCall, whole
from miniattn._disk import replacing
from miniattn._typing import Array
from miniattn.trace import Trace

DPI = 200

ABOUT = """\
MODEL is a folder in the Hugging Face layout (config.json, model.safetensors, tokenizer.json), or a
checkpoint of your own with a tokenizer.json beside it, as the tokenizers of miniattn.data save it.

A page (.html) has all layers and heads. A figure (.svg, .png, .pdf) has all of them as small maps,
the heads of one layer with --layer, and one map with --layer and --head. What the model says of the
text is printed: the tokens likely to come next, or the classes; and the page shows it.
"""


class Seen(NamedTuple):
    """What a model made of a text."""

    trace: Trace
    words: str
    """What the model says: next tokens or classes with their probabilities; of encoders nothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``python -m miniattn explore``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = ABOUT
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="a folder, or a checkpoint")
    add("--text", required=True, help="what the model reads")
    add("--pair", metavar="TEXT", help="a second text: of a pair, or what a decoder wrote so far")
    add("--out", type=Path, required=True, help="ends in .html, .svg, .png or .pdf")
    add("--layer", type=whole(0), metavar="N", help="draw this layer alone")
    add("--head", type=whole(0), metavar="N", help="draw this head of it alone")
    add("--next", type=whole(1), default=10, metavar="N", help="tokens to tell (default: 10)")
    add("--tokenizer", type=Path, help="a tokenizer.json, if it is not beside the model")


def run(args: argparse.Namespace) -> int:
    """Read, draw, tell; or say in one line what is wrong."""
    ending = args.out.suffix.lower()
    if ending not in (".html", ".svg", ".png", ".pdf"):
        raise WrongCall(f"--out: expected .html, .svg, .png or .pdf, got {args.out.name!r}")
    if not args.out.parent.is_dir():
        raise WrongCall(f"--out: expected a folder that exists, got {str(args.out.parent)!r}")
    if args.head is not None and args.layer is None:
        raise WrongCall("--head: expected --layer N beside it, got none")
    try:
        model = models.load(_file(args.model))
        tokenizer = data.read_tokenizer(args.tokenizer or _beside(args.model))
        seen = see(model, tokenizer, args.text, args.pair, most=args.next)
        _draw(seen, args.out, ending, args.layer, args.head)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise WrongCall(what) from error
    except (ValueError, TypeError) as error:
        raise WrongCall(" ".join(str(error).split())) from error
    if seen.words:
        print(seen.words)
    print(args.out)
    return 0


def _file(model: Path) -> Path:
    """Return what to load: of a folder without a configuration, the checkpoint in it."""
    inside = model / "model.safetensors"
    return inside if inside.is_file() and not (model / "config.json").is_file() else model


def _beside(model: Path) -> Path:
    return model if model.is_dir() else model.parent


def see(
    model: Any, tokenizer: data.TextTokenizer, text: str, pair: str | None = None, *, most: int = 10
) -> Seen:
    """Run ``model`` on ``text``, and return its attention and what it says.

    Raises
    ------
    ValueError
        If the text has a token that the model does not know, or the model takes no pair.
    TypeError
        If it is no model of text.
    """
    if isinstance(model, models.EncoderDecoder):
        if model.input_dim is not None:
            raise TypeError("MODEL: expected a model of text, got one that reads features")
        return _see_decoder(model, tokenizer, text, pair, most)
    if pair is not None and not isinstance(model, models.TextEncoder):
        raise ValueError(f"--pair: expected a model of pairs, got {type(model).__name__}")
    found = tokenizer.batch([text], None if pair is None else [pair])
    ids = _known(model, found.ids)
    options: dict[str, Any] = {"keep": "*.weights", "tokens": tokenizer.tokens(ids[0])}
    if isinstance(model, models.GPT):
        y, t = trace.run(model, ids, **options)
        return Seen(t, _next(tokenizer, y[0, -1], most))
    if isinstance(model, models.TextEncoder):
        types = found.types if model.types is not None else None
        return Seen(trace.run(model, ids, types=types, **options)[1], "")
    if isinstance(model, models.SequenceClassifier):
        y, t = trace.run(model, ids, **options)
        return Seen(t, _table("class", [str(i) for i in range(y.shape[-1])], y[0], most))
    raise TypeError(f"MODEL: expected a model of text, got {type(model).__name__}")


def _see_decoder(
    model: Any, tokenizer: data.TextTokenizer, text: str, pair: str | None, most: int
) -> Seen:
    if pair is None:
        raise ValueError("--pair: expected the text of the decoder, which this model has, got none")
    source, target = (tokenizer.batch([one]).ids for one in (text, pair))
    y, t = trace.run(
        model,
        _known(model, source),
        _known(model, target),
        keep="*.weights",
        tokens=tokenizer.tokens(target[0]),
        key_tokens=tokenizer.tokens(source[0]),
    )
    return Seen(t, _next(tokenizer, y[0, -1], most))


def _known(model: Any, ids: Array) -> Array:
    """Return ``ids`` (1, T), which the model must know."""
    if ids.size == 0:
        raise ValueError("--text: expected at least one token, got none")
    sizes = [p.shape[0] for name, p in model.named_parameters() if name.endswith("tokens.weight")]
    if sizes and ids.max() >= min(sizes):
        raise ValueError(
            f"--tokenizer: expected ids in [0, V) with the model's V = {min(sizes)}, "
            f"got {ids.max()}; it is another model's"
        )
    return ids


def _next(tokenizer: data.TextTokenizer, logits: Array, most: int) -> str:
    from miniattn.plot._text import visible  # here and below, because --help needs no matplotlib

    best = np.argsort(-logits, kind="stable")[:most]
    best = best[best < tokenizer.vocab_size]  # tables are often padded
    names = [visible(name) for name in tokenizer.tokens(best)]
    return _table("next", names, logits, most, best)


def _table(
    what: str, names: list[str], logits: Array, most: int, order: Array | None = None
) -> str:
    """Return the most likely, one a line, with their probabilities."""
    p = F.softmax(np.asarray(logits, np.float64))
    if order is None:
        order = np.argsort(-p, kind="stable")[:most]
        names = [names[i] for i in order]
    width = max(map(len, [what, *names]))
    rows = [f"{name:<{width}}  {p[i]:6.1%}" for name, i in zip(names, order, strict=True)]
    return "\n".join([f"{what:<{width}}  probability", *rows])


def _draw(seen: Seen, out: Path, ending: str, layer: int | None, head: int | None) -> None:
    from miniattn import plot

    names = list(seen.trace.weights)
    if layer is not None and layer >= len(names):
        raise ValueError(f"--layer: expected 0 to {len(names) - 1}, got {layer}")
    name = None if layer is None else names[layer]
    heads = 0 if name is None else seen.trace.weights[name].shape[1]
    if head is not None and head >= heads:
        raise ValueError(f"--head: expected 0 to {heads - 1}, got {head}")
    if ending == ".html":
        if layer is not None:
            raise ValueError("--layer: expected none for a page, which has all, or a figure")
        plot.html(seen.trace, title="Attention").save(out)
        return
    if name is None:
        figure: Any = plot.attention_layers(seen.trace)
    elif head is None:
        figure = plot.attention_heads(seen.trace, layer=name)
    else:
        figure = plot.attention_map(seen.trace, layer=name, head=head, title=f"{name}, head {head}")
    with replacing(out) as file:
        figure.savefig(file, format=ending[1:], dpi=DPI)
