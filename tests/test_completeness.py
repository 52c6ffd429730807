"""Nothing public is half there.

An operation is five pieces: the pair, a reference, a row in the gradient table, a derivation page
and a docstring. What there is to have is read off the public names, never off a list kept here.
"""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest
from test_gradcheck import MODULES, PAIRS

import miniattn
import miniattn.functional as F
from miniattn import (
    analysis,
    checkpoint,
    data,
    distributed,
    lab,
    masks,
    models,
    nn,
    optim,
    plot,
    reference,
    training,
)

DERIVATIONS = Path(__file__).parents[1] / "docs" / "derivations"
SECTIONS = ("Parameters", "Returns", "Raises", "Examples")


def pairs(names):
    """Every X of which there is an X_forward or an X_backward."""
    halves = [re.fullmatch(r"(\w+)_(forward|backward)", name) for name in names]
    return sorted({half[1] for half in halves if half})


def singles(names):
    """Public functions that are no pair: attention_weights, merge_attention."""
    known = {half for x in pairs(names) for half in (x, f"{x}_forward", f"{x}_backward")}
    return sorted(n for n in names if n not in known and inspect.isfunction(getattr(F, n)))


def modules():
    """Every public layer and model, by class name."""
    public = [getattr(home, name) for home in (nn, models) for name in home.__all__]
    return {
        cls.__name__: cls
        for cls in public
        if inspect.isclass(cls) and issubclass(cls, nn.Module) and cls is not nn.Module
    }


def doc(name):
    """The docstring of a public operation, empty where either is missing."""
    return (getattr(F, name).__doc__ if hasattr(F, name) else "") or ""


def missing_sections(text, sections=SECTIONS):
    return [f"section {s}" for s in sections if not re.search(rf"^ *{s}\n *-+$", text, re.M)]


def missing_pieces(op):
    """What operation ``op`` lacks, in words."""
    context = "".join(word.capitalize() for word in op.split("_")) + "Context"
    parts = [op, f"{op}_forward", f"{op}_backward", context]
    page = DERIVATIONS / f"{op}.md"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    return [
        *(f"functional.{name}" for name in parts if name not in F.__all__),
        *(f"docstring of {n}" for n in parts[1:3] if not doc(n)),
        *(f"reference.{n}" for n in (op, f"{op}_backward") if not hasattr(reference, n)),
        *([] if PAIRS.get(op) else ["row in the gradient table"]),
        *([] if "backward" in text.lower() else [f"docs/derivations/{op}.md"]),
        *missing_sections(doc(op)),
    ]


@pytest.mark.parametrize("op", pairs(F.__all__))
def test_operation_has_its_five_pieces(op):
    assert missing_pieces(op) == []


@pytest.mark.parametrize("name", singles(F.__all__))
def test_function_has_a_reference_and_a_docstring(name):
    assert hasattr(reference, name)
    assert missing_sections(doc(name)) == []


@pytest.mark.parametrize("name", sorted(modules()))
def test_module_is_in_the_gradient_table_and_documented(name):
    cls = modules()[name]
    assert MODULES.get(name), "no row in the gradient table"
    plain = cls.__init__ is object.__init__  # takes no arguments
    wanted = ("Examples",) if plain else ("Parameters", "Examples")
    assert missing_sections(cls.__doc__ or "", wanted) == []
    assert cls.forward.__doc__
    assert cls.backward.__doc__


def test_rows_of_the_tables_are_of_something_public():
    assert set(PAIRS) == set(pairs(F.__all__))
    assert set(MODULES) == set(modules())


def test_pages_are_of_something_public():
    pages = {page.stem for page in DERIVATIONS.glob("*.md")} - {"index"}
    others = {name.lower() for name in (*nn.__all__, *optim.__all__)}  # Adam, LoRA
    assert pages <= set(pairs(F.__all__)) | set(singles(F.__all__)) | others


def test_what_is_missing_is_noticed(monkeypatch):
    """The tests above see a new operation, and each piece that it lacks."""

    def swish_forward(x):
        return x, None

    monkeypatch.setattr(F, "swish_forward", swish_forward, raising=False)
    names = [*F.__all__, "swish_forward"]
    assert "swish" in pairs(names)
    monkeypatch.setattr(F, "__all__", names)
    assert missing_pieces("swish") == [
        "functional.swish",
        "functional.swish_backward",
        "functional.SwishContext",
        "docstring of swish_forward",
        "docstring of swish_backward",
        "reference.swish",
        "reference.swish_backward",
        "row in the gradient table",
        "docs/derivations/swish.md",
        *(f"section {s}" for s in SECTIONS),
    ]
    assert "attention_weights" in singles(names)
    assert {"Linear", "MultiHeadAttention", "GPT"} <= set(modules())


def test_every_export_is_documented():
    for home in (miniattn, F, nn, models):
        assert sorted(set(home.__all__)) == sorted(home.__all__)
        for name in home.__all__:
            thing = getattr(home, name)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                assert (thing.__doc__ or "").strip(), name


def test_every_figure_is_in_the_gallery():
    """As a thumbnail and as a section; pages of their own have one."""
    docs = DERIVATIONS.parent
    text = (docs / "gallery.md").read_text(encoding="utf-8")
    figures = {n for n in plot.__all__ if inspect.isfunction(getattr(plot, n))}
    assert set(re.findall(r"^## `(\w+)`$", text, re.M)) == figures - {"html", "backprop"}
    assert set(re.findall(r"^:alt: (\w+)$", text, re.M)) == figures - {"html", "backprop"}
    for name, page in {"html": "interactive", "backprop": "backprop"}.items():
        assert f"`plot.{name}`" in (docs / f"{page}.md").read_text(encoding="utf-8")


def test_every_exercise_is_in_the_book_or_in_a_derivation():
    """Chapters and derivations end with the exercises that belong to them."""
    chapters = [*DERIVATIONS.parent.glob("*.md"), *DERIVATIONS.glob("*.md")]
    ends = [page.read_text(encoding="utf-8").rpartition("## Exercises")[2] for page in chapters]
    named = {name for end in ends for name in re.findall(r"\*(\w+)\*", end)}
    assert {exercise.name for exercise in lab.exercises()} <= named


def test_every_field_of_a_context_is_described():
    """By its class, or by its name in docs/words.py."""
    path = DERIVATIONS.parent / "words.py"
    words = importlib.util.module_from_spec(
        spec := importlib.util.spec_from_file_location("w", path)
    )
    spec.loader.exec_module(words)
    tuples = {
        thing
        for home in (F, nn, models, masks, analysis, training, data, checkpoint, distributed, lab)
        for name in home.__all__
        if inspect.isclass(thing := getattr(home, name)) and hasattr(thing, "_fields")
    }
    assert len(tuples) > 60
    assert sorted(field for each in tuples for field in words.undescribed(each)) == []
