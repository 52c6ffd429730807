"""Files, names and options that README, the docs and docstrings mention in code letters exist."""

import ast
import builtins
import functools
import importlib
import keyword
import pkgutil
import re
from pathlib import Path

import pytest

import miniattn

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "miniattn"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
SOURCES = [
    path
    for folder in ("miniattn", "tests", "examples", "benchmarks", "docs")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != Path(__file__).name  # which names what does not exist
]

# Names of others: what the tables for people who come from there translate from.
FOREIGN = {
    *("nn.Transformer", "nn.TransformerEncoder", "nn.MultiheadAttention", "add_zero_attn"),
    *("generate_square_subsequent_mask", "layer_norm_eps", "key_value_seq_lengths"),
    *("mask_mod", "score_mod", "q_idx", "kv_idx", "create_block_mask", "and_masks", "or_masks"),
    *("LowerTriangularMask", "LowerTriangularFromBottomRightMask", "BlockDiagonalMask"),
    *("LocalAttentionFromBottomRightMask", "from_seqlens", "BlockDiagonalMask.from_seqlens"),
    *("BlockDiagonalCausalMask", "BlockDiagonalPaddedKeysMask"),
    "LowerTriangularMaskWithTensorBias",
    *("local_window_size", "flash_attn", "cu_seqlens", "window_size", "use_causal_mask"),
    *("attention_mask", "key_mask", "value_mask"),
    *("flex_attention", "score_mod", "mask_mod", "q_idx", "kv_idx", "create_block_mask"),
    *("generate_alibi_bias", "generate_tanh_softcap", "return_lse"),
}
# Stand for any name: X is an operation, DIR and FILE are the reader's.
PLACEHOLDERS = {
    *("X", "XContext", "X_forward", "X_backward", "op_forward", "op_backward"),
    *("DIR", "FILE", "MyModel", "venv", "pip", "install"),
}
# Folders that a command writes.
WRITTEN = {"miniattn-demo/", "miniattn-bench/"}


def code_spans(text):
    """What stands between single backticks, outside blocks of code; formulas with ᵀ left out."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    return [span for span in spans if "ᵀ" not in span and span not in FOREIGN]


@functools.cache
def known_words():
    """Every name in the project's code, and in strings that are names themselves."""
    words = {*dir(builtins), *keyword.kwlist, *PLACEHOLDERS, *FOREIGN, Path(__file__).stem}
    words.update(re.findall(r"\b[A-Z_]{4,}\b", (ROOT / ".ci/run").read_text()))  # what it is told
    for path in SOURCES:
        words |= {path.stem, *path.relative_to(ROOT).parts}
        for node in ast.walk(ast.parse(path.read_bytes())):
            for field in ("id", "attr", "arg", "name", "asname"):
                words.update(re.findall(r"\w+", getattr(node, field, None) or ""))
            text = getattr(node, "value", None)
            if isinstance(text, str) and re.fullmatch(r"[\w.\-=/]+", text):
                words.update(re.findall(r"\w+", text))
            if isinstance(node, ast.ImportFrom):
                words.update((node.module or "").split("."))
    return words


def unknown_words(span):
    if (ROOT / span).is_file():
        return []
    words = re.findall(r"[A-Za-z_]\w+", re.sub(r"\"[^\"]*\"", "", span))  # not letters of formulas
    return [word for word in words if word not in known_words()]


@functools.cache
def homes():
    """Objects by the names that documents call them by: modules, and public classes."""
    found = {"F": importlib.import_module("miniattn.functional"), "ma": miniattn}
    found["miniattn"] = miniattn
    for name in miniattn.__all__:
        found[name] = getattr(miniattn, name)
    for folder in ("kernels", "functional", "plot", "nn", "models"):
        package = importlib.import_module(f"miniattn.{folder}")
        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"miniattn.{folder}.{info.name}")
            for name, value in vars(module).items():
                if isinstance(value, type) and value.__module__.startswith("miniattn"):
                    found.setdefault(name, value)
    return found


def is_missing(span):
    """Whether a dotted name that begins with something of ours leads to nothing."""
    first, *rest = re.match(r"[\w.]+", span)[0].rstrip(".").split(".")
    if first not in homes() or ".".join((first, *rest[:1])) in FOREIGN or span.endswith(".py"):
        return False
    at, owner = homes()[first], None
    for name in rest:
        if not hasattr(at, name):
            return not is_set_in(at, name)
        owner, at = at, getattr(at, name)
    return owner is not None and at is None


def is_set_in(owner, name):
    """Whether a class says or gives itself this attribute."""
    for cls in getattr(owner, "__mro__", ()):
        if name in getattr(cls, "__annotations__", {}):
            return True
        if cls.__module__.startswith("miniattn"):
            source = Path(importlib.import_module(cls.__module__).__file__).read_text("utf-8")
            if re.search(rf"\bself\.{name}\b[^=\n]*=", source):
                return True
    return False


def missing_paths(page, span):
    """The path that a span is, if there is no such file."""
    if not re.fullmatch(r"[\w./-]+", span) or span in WRITTEN:
        return []
    if "/" not in span and not span.endswith((".py", ".md", ".toml")):
        return []
    if PLACEHOLDERS & set(re.findall(r"\w+", span)):
        return []
    places = (ROOT, PACKAGE, page.parent, *(PACKAGE / "kernels", ROOT / "tests"))
    return [] if any((place / span).exists() for place in places) else [span]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_mentions_exists(page):
    spans = code_spans(page.read_text(encoding="utf-8"))
    unknown = [(span, words) for span in spans if (words := unknown_words(span))]
    paths = [path for span in spans for path in missing_paths(page, span)]
    names = [s for s in spans if re.match(r"[A-Za-z_]\w*\.[a-zA-Z_]", s) and is_missing(s)]
    assert (unknown, paths, names) == ([], [], [])


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_what_a_docstring_mentions_exists(path):
    tree = ast.parse(path.read_bytes())
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = [ast.get_docstring(n) or "" for n in ast.walk(tree) if isinstance(n, kinds)]
    spans = [span for doc in docs for span in code_spans(doc)]
    unknown = [(span, words) for span in spans if (words := unknown_words(span))]
    paths = [p for span in spans for p in missing_paths(path, span)]
    assert (unknown, paths) == ([], [])


def test_the_map_of_the_kernels_names_every_file():
    folder = PACKAGE / "kernels"
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_bytes()))
    paths = [path for path in folder.rglob("*.py") if path.stem != "__init__"]
    named = {*re.findall(r"`(\w+)`", text), *re.findall(r"`kernels/([\w/]+\.py)`", text)}
    unnamed = {p for p in paths if not {p.stem, p.relative_to(folder).as_posix()} & named}
    assert unnamed == set()
    known = {form for p in paths for form in (p.stem, p.relative_to(folder).as_posix())}
    assert named - known <= {"analysis"}


@pytest.mark.parametrize(
    "text",
    [
        "see `kernels/nothing.py`",
        "calls `F.attention_sideways`",
        "the field `Parameter.gradient_of_all`",
        "by `score_gradients_of_nothing`",
        "option `--no-such-option`",
        "in `nothing.md`",
        "`ma.runtime.keep_everything(0)`",
    ],
)
def test_what_does_not_exist_is_noticed(text):
    [span] = code_spans(text)
    dotted = re.match(r"[A-Za-z_]\w*\.[a-zA-Z_]", span) and is_missing(span)
    assert unknown_words(span) or missing_paths(ROOT / "README.md", span) or dotted


@pytest.mark.parametrize(
    "text",
    ["`kernels/__init__.py`", "`F.attention_forward`", "`Parameter.grad`", "`nn.Linear(4, 2)`"],
)
def test_what_exists_is_found(text):
    [span] = code_spans(text)
    assert unknown_words(span) == missing_paths(ROOT / "README.md", span) == []
    assert not is_missing(span)
