"""``python -m miniattn plot``: a file of attention weights in, a picture or a page out."""

from __future__ import annotations

import argparse
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from miniattn import checkpoint, masks, plot
from miniattn._disk import replacing
from miniattn._typing import Array
from miniattn.plot._scales import SCALES, VALUES
from miniattn.trace import Trace

Layers: TypeAlias = dict[str, Array]  # (H, T, S) by name

DPI = 200  # pixels an inch where --dpi is not given; in SVG and PDF, of the cells alone

ABOUT = """\
axes of the weights:
  (T, S)            one map: a row for each query, a column for each key
  (H, T, S)         the heads of a layer
  (L, H, T, S)      layers of heads; with --batch the first axis is the batch: (B, H, T, S)
  (L, B, H, T, S)   layers of a batch; --batch is 0 by default
Several floating-point arrays in a file are layers, each (H, T, S) or (B, H, T, S), unless --name
chooses one. So a trace is saved by: numpy.savez("maps.npz", **trace.weights, tokens=tokens).
Strings called tokens and key_tokens in the file are the labels if no others are given. A bool array
called mask, which broadcasts to (H, T, S), says what may be attended to: what it hides is hatched.

--gradients names a file of d loss / d each weight, of the same names and axes: of a trace,
numpy.savez("gradients.npz", **t.gradients(dy).weights). --value chooses what a picture shows of
weights and gradients; the page goes from one to the other.

The picture, unless --kind chooses it: the map of one head, the heads of one layer, or all layers.
"""


class Kind(NamedTuple):
    """A kind of output: what draws it, and the options that mean something to it."""

    draw: Callable[[Layers, dict[str, Any]], Any]
    options: frozenset[str]


class Source(NamedTuple):
    """What a file holds."""

    maps: dict[str, Array]
    """Floating-point arrays with 2 to 5 axes, none of them empty, by name."""
    others: dict[str, Array]
    tokens: dict[str, list[str]]
    """Labels: ``tokens`` of the queries, ``key_tokens`` of the keys."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``python -m miniattn plot``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = ABOUT
    add = parser.add_argument
    add("file", type=Path, help="weights: .npz, .npy or .safetensors")
    add("--out", type=Path, required=True, help="ends in .svg, .png, .pdf or .html")
    add("--kind", choices=[kind for kind in KINDS if kind != "page"], help="of picture")
    add("--name", help="the array to draw, of several in the file")
    add("--layer", type=int, metavar="N", help="draw this layer alone")
    add("--head", type=int, metavar="N", help="draw this head alone")
    add("--batch", type=int, metavar="N", help="draw this row of the batch")
    words = "labels separated by blanks, or @FILE with one a line"
    add("--tokens", metavar="TEXT", help=f"{words}; of keys too if T = S")
    add("--key-tokens", metavar="TEXT", help="labels of the keys")
    add(
        "--gradients", type=Path, metavar="FILE", help="d loss / d each weight, as FILE has weights"
    )
    add("--value", choices=VALUES, help="what is drawn (default: weights)")
    about = "bring the pieces of words together, by the marks of the tokens; the page can anyway"
    add("--words", action="store_true", default=None, help=about)
    add("--causal", action="store_true", default=None, help="hatch what a causal mask hides")
    add("--scale", choices=SCALES, help="of the colours (default: linear)")
    add("--cmap", help="a colour map of matplotlib")
    add("--extent", type=int, nargs=2, metavar=("T", "S"), help="true lengths of pooled maps")
    add("--title", help="of the figure")
    add("--dpi", type=float, help=f"pixels an inch (default: {DPI})")


def run(args: argparse.Namespace) -> int:
    """Draw; or say in one line what is wrong, write nothing and return 2."""
    try:
        _run(args)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except ValueError as error:
        return _fail(str(error))
    print(args.out)
    return 0


def _fail(message: str) -> int:
    print("miniattn plot:", " ".join(message.split()), file=sys.stderr)
    return 2


def _run(args: argparse.Namespace) -> None:
    ending = args.out.suffix.lower()
    if ending not in (".svg", ".png", ".pdf", ".html"):
        raise ValueError(f"--out: expected .svg, .png, .pdf or .html, got {args.out.name!r}")
    if not args.out.parent.is_dir():
        raise ValueError(f"--out: expected a folder that exists, got {str(args.out.parent)!r}")
    if args.cmap is not None and args.cmap not in _colormaps():
        raise ValueError(f"--cmap: expected a colour map of matplotlib, got {args.cmap!r}")
    if args.dpi is not None and not 1 <= args.dpi <= 10_000:
        raise ValueError(f"--dpi: expected 1 to 10,000 pixels an inch, got {args.dpi:g}")
    source = read(args.file)
    which = args.name, args.layer, args.head, args.batch
    layers = choose(source, *which)
    kind = "page" if ending == ".html" else args.kind or _usual(layers)
    options = _options(args, source, kind)
    if args.gradients is not None:
        options["gradients"] = _alike(choose(read(args.gradients), *which), layers)
    made = KINDS[kind].draw(layers, options)
    if kind == "page":
        made.save(args.out)
    else:
        with replacing(args.out) as file:
            made.savefig(file, format=ending[1:], dpi=args.dpi or DPI)


def _alike(gradients: Layers, layers: Layers) -> Layers:
    """Return the gradients of the layers that are drawn, by their names."""
    if len(gradients) == len(layers) == 1:  # in files of one array it is called as the file is
        gradients = dict(zip(layers, gradients.values(), strict=True))
    if list(gradients) != list(layers):
        raise ValueError(f"--gradients: expected {_listed(layers)}, got {_listed(gradients)}")
    for name, dw in gradients.items():
        if dw.shape != layers[name].shape:
            raise ValueError(
                f"--gradients: expected the shape of {name}, {layers[name].shape}, got {dw.shape}"
            )
    return gradients


def _colormaps() -> Collection[str]:
    import matplotlib as mpl  # here, because --help needs none of it

    return mpl.colormaps


def _usual(layers: Layers) -> str:
    """Return the kind of picture that shows all there is."""
    if len(layers) > 1:
        return "layers"
    [heads] = layers.values()
    return "map" if len(heads) == 1 else "heads"


def _options(args: argparse.Namespace, source: Source, kind: str) -> dict[str, Any]:
    """Return the options of the drawing function; one that it does not have is an error."""
    given: dict[str, Any] = {
        "tokens": _words(args.tokens),
        "key_tokens": _words(args.key_tokens),
        "mask": masks.causal() if args.causal else None,
        "scale": args.scale,
        "cmap": args.cmap,
        "extent": args.extent and tuple(args.extent),
        "title": args.title,
        "value": args.value,
        "words": args.words,
    }
    given = {name: value for name, value in given.items() if value is not None}
    known = KINDS[kind].options
    if args.words and kind == "layers":  # whose tokens are not shown, but say what makes a word
        known = known | _TOKENS
    others = (name for name in ("kind", "dpi", "gradients") if getattr(args, name) is not None)
    asked = [*given, *others]
    if unknown := [name for name in asked if name not in known]:
        flag = {"key_tokens": "key-tokens", "mask": "causal"}.get(unknown[0], unknown[0])
        what = "the page" if kind == "page" else f"a picture of kind {kind}"
        hint = ""
        if kind == "layers" and unknown[0] in _TOKENS:
            hint = "; choose one layer by --layer, or write a page (--out NAME.html)"
        raise ValueError(f"--{flag}: {what} has no such option{hint}")
    if kind != "page" and (args.gradients is None) != (args.value in (None, VALUES[0])):
        missing, there = "value", "gradients"
        if args.gradients is None:
            missing, there = there, missing
        raise ValueError(f"--{there}: expected --{missing} beside it")
    labels = source.tokens if not {"tokens", "key_tokens"} & set(given) else {}
    stored = {name: labels[name] for name in labels if name in known} | given
    seen = masks.as_mask(source.others.get("mask"))
    if seen is not None and "mask" in known:
        stored["mask"] = seen & given.get("mask")
    return stored


def _words(text: str | None) -> list[str] | None:
    """Return the labels of ``--tokens``: words, or the lines of a file."""
    if text is None or not text.startswith("@"):
        return text if text is None else text.split()
    try:
        return Path(text[1:]).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{text[1:]}: expected text in UTF-8, got {error.reason}") from None


# ------------------------------------------------------------------------- from file to maps


def read(path: Path) -> Source:
    """Return what the file holds; nothing in it is ever run."""
    kinds = {".npz": _read_npz, ".npy": _read_npy, ".safetensors": _read_safetensors}
    if path.suffix not in kinds:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(kinds)}")
    arrays, metadata = kinds[path.suffix](path)
    maps = {k: a for k, a in arrays.items() if a.dtype.kind == "f" and 2 <= a.ndim <= 5 and a.size}
    labels = metadata if isinstance(metadata, dict) else {}
    labels |= {k: a.tolist() for k, a in arrays.items() if a.dtype.kind == "U" and a.ndim == 1}
    tokens = {k: [str(t) for t in labels[k]] for k in ("tokens", "key_tokens") if labels.get(k)}
    return Source(maps, {k: a for k, a in arrays.items() if k not in maps}, tokens)


def _read_npz(path: Path) -> tuple[dict[str, Array], object]:
    try:
        # Opened here, because NumPy leaves a damaged file open.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}, None
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error):
        raise ValueError(_not_plain(path)) from None


def _read_npy(path: Path) -> tuple[dict[str, Array], object]:
    try:
        return {path.stem: np.lib.format.open_memmap(path, mode="r")}, None
    except (ValueError, TypeError, EOFError):
        raise ValueError(_not_plain(path)) from None


def _not_plain(path: Path) -> str:
    # NumPy's own message recommends to load it with pickle, which runs what the file says.
    return (
        f"{path}: expected NumPy arrays of plain numbers; "
        "this is damaged, another format, or holds Python objects"
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Array], object]:
    # The digest is of miniattn's own files; weights may come from anywhere.
    arrays, metadata = checkpoint.load(path, verify=False)
    return {name: arrays[name] for name in sorted(arrays, key=_by_number)}, metadata


def _by_number(name: str) -> list[tuple[int, str]]:
    """Return what sorts layers.2 before layers.10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def choose(
    source: Source, name: str | None, layer: int | None, head: int | None, batch: int | None
) -> Layers:
    """Return the layers that are drawn, (H, T, S) each, of what a file holds."""
    maps = source.maps
    if name is not None and name not in maps:
        raise ValueError(f"--name: expected one of {_listed(maps)}, got {name!r}")
    if not maps:
        raise ValueError(
            "expected a floating-point array with 2 to 5 axes, not empty, "
            f"got {_listed(source.others) or 'no array'}"
        )
    if name is not None:
        maps = {name: maps[name]}
    layers = _stacked(maps, batch)
    layers = {n: layers[n] for n in _pick("layer", list(layers), layer)}
    return {n: w[_pick("head", range(len(w)), head)] for n, w in layers.items()}


def _stacked(maps: Mapping[str, Array], batch: int | None) -> Layers:
    """Return (H, T, S) of every layer, of one row of the batch."""
    if len(maps) > 1:
        if any(w.ndim not in (3, 4) for w in maps.values()):
            raise ValueError(
                "expected layers, (H, T, S) or (B, H, T, S) each, or one array: "
                f"choose with --name of {_listed(maps)}"
            )
        return {n: _row(w, batch or 0) if w.ndim == 4 else w for n, w in maps.items()}
    [(name, w)] = maps.items()
    if w.ndim == 5:
        return {f"layer {i}": _row(layer, batch or 0) for i, layer in enumerate(w)}
    if w.ndim == 4 and batch is not None:
        return {name: _row(w, batch)}
    if w.ndim == 4:
        return {f"layer {i}": layer for i, layer in enumerate(w)}
    if batch is not None:
        raise ValueError(f"--batch: expected weights with a batch axis, got {_listed(maps)}")
    return {name: w[None] if w.ndim == 2 else w}


def _row(weights: Array, batch: int) -> Array:
    [row] = _pick("batch", range(len(weights)), batch)
    return np.asarray(weights[row])


def _pick(option: str, there: Sequence[Any], index: int | None) -> list[Any]:
    """Return all of them, or the one of that index."""
    if index is None:
        return list(there)
    if not 0 <= index < len(there):
        raise ValueError(f"--{option}: expected an index in [0, {len(there)}), got {index}")
    return [there[index]]


def _listed(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {a.shape}" for name, a in arrays.items())


# ------------------------------------------------------------------------- from maps to figure


def _one_layer(layers: Layers) -> Array:
    """Return the only layer."""
    if len(layers) > 1:
        raise ValueError(
            f"--layer: expected an index in [0, {len(layers)}) for one layer's picture"
        )
    return next(iter(layers.values()))


def _map(layers: Layers, options: dict[str, Any]) -> plot.Figure:
    heads = _one_layer(layers)
    if len(heads) != 1:
        raise ValueError(f"--head: expected an index in [0, {len(heads)}) for one head's picture")
    options = _of_one(options)
    if "gradients" in options:
        options["gradients"] = options["gradients"][0]
    figure: plot.Figure = plot.attention_map(heads[0], **options)
    return figure


def _heads(layers: Layers, options: dict[str, Any]) -> plot.Figure:
    return plot.attention_heads(_one_layer(layers), **_of_one(options))


def _lines(layers: Layers, options: dict[str, Any]) -> plot.Figure:
    figure: plot.Figure = plot.attention_lines(_one_layer(layers), **_of_one(options))
    return figure


def _of_one(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of one layer's picture."""
    gradients = options.get("gradients")
    return options if gradients is None else options | {"gradients": _one_layer(gradients)}


def _layers(layers: Layers, options: dict[str, Any]) -> plot.Figure:
    tokens, key_tokens = (options.pop(name, None) for name in ("tokens", "key_tokens"))
    if "gradients" in options:
        options["gradients"] = _trace(options["gradients"]).weights
    return plot.attention_layers(_trace(layers, tokens, key_tokens), **options)


def _summary(layers: Layers, options: dict[str, Any]) -> plot.Figure:
    return plot.head_summary(_trace(layers), **options)


def _trace(
    layers: Layers, tokens: list[str] | None = None, key_tokens: list[str] | None = None
) -> Trace:
    return Trace({name: heads[None] for name, heads in layers.items()}, tokens, key_tokens)


def _page(layers: Layers, options: dict[str, Any]) -> plot.Page:
    return plot.html(layers, **options)


_PICTURE = frozenset({"kind", "dpi", "title"})
_TOKENS = frozenset({"tokens", "key_tokens"})
_READING = frozenset({"gradients", "value", "words"})
_MAPS = _PICTURE | _READING | {"mask", "scale", "cmap", "extent"}

KINDS = {
    "map": Kind(_map, _MAPS | _TOKENS),
    "heads": Kind(_heads, _MAPS | _TOKENS),
    "layers": Kind(_layers, _MAPS),
    "lines": Kind(_lines, _PICTURE | _READING | _TOKENS | {"extent"}),
    "summary": Kind(_summary, _PICTURE | {"cmap"}),
    "page": Kind(_page, _TOKENS | {"mask", "title", "gradients", "words"}),
}
