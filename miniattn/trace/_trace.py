"""What was seen of one call: values by name, and after a backward their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from miniattn import _checks
from miniattn._typing import Array
from miniattn.masks import Mask
from miniattn.nn import Module
from miniattn.trace import _names, _tree
from miniattn.trace._edits import as_edits
from miniattn.trace._passing import Kept, Later
from miniattn.trace._recorder import Recorder, rule_of
from miniattn.trace._taps import taps
from miniattn.trace._undoing import Undoing


class _Maps(Mapping[str, Array]):
    """Maps by the path of their layer; one is made when it is looked at."""

    def __init__(self, of: _Named, names: Mapping[str, str]) -> None:
        self._of, self._names = of, names

    def __getitem__(self, path: str) -> Array:
        return self._of[self._names[path]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"{{{', '.join(map(repr, self._names))}}}"


class _Named:
    """Arrays by name, in the order in which a forward passed them."""

    tokens: Sequence[str] | None
    key_tokens: Sequence[str] | None
    masks: dict[str, Mask]
    _kept: Kept
    _maps: dict[str, str]

    @property
    def names(self) -> list[str]:
        """What was kept, in the order of computation."""
        return list(self._kept)

    @property
    def weights(self) -> Mapping[str, Array]:
        """Of every attention whose weights were kept, (B, H, T, S), by the path of the layer."""
        kept = {path: name for path, name in self._maps.items() if name in self._kept}
        return _Maps(self, kept)

    def find(self, pattern: str) -> list[str]:
        """Return the names that a pattern means, e.g. ``"*.weights"``."""
        return [name for name in self._kept if _names.matches(pattern, *_names.split(name))]

    def __getitem__(self, name: str) -> Array:
        """Return the array of that name."""
        found = self._kept.get(_names.own(name))
        if found is None:
            raise _names.missing(name, self.names)
        if isinstance(found, Later):
            found = self._kept[_names.own(name)] = found.make()
        return found

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _names.own(name) in self._kept

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        shapes = {name: (x.shape, x.dtype.name) for name, x in self._kept.items()}
        return _tree.text(type(self).__name__, shapes)


class Trace(_Named):
    """What was seen of one call: `run` and `attention_weights` return one.

    ``t[name]`` is a value, ``t.names`` has the names of those that were kept, ``name in t``,
    ``len(t)`` and ``for name in t`` do what they say.

    Parameters
    ----------
    weights : dict of str to array (B, H, T, S), optional
        To make a trace by hand: maps by the path of the attention layer, named ``path.weights``.
    tokens, key_tokens : sequences of str, optional
        Labels of the queries (T) and, where they differ, of the keys (S).
    masks : dict of str to masks.Mask, optional
        What each layer was kept from attending to, padding included; without an entry, nothing.
        Figures draw it as hidden, and not as weights of zero.

    Attributes
    ----------
    weights, tokens, key_tokens, masks
        As above; ``weights`` makes a map when it is looked at.
    ctx : object
        The context of the call, that ``forward`` returned.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import trace
    >>> t = trace.Trace({"layers.0.attn": np.ones((1, 2, 3, 3))}, tokens=["a", "b", "c"])
    >>> t["layers.0.attn.weights"].shape
    (1, 2, 3, 3)
    """

    ctx: Any = None
    _model: Module | None = None
    _recorder: Recorder | None = None

    def __init__(
        self,
        weights: Mapping[str, Array] | None = None,
        tokens: Sequence[str] | None = None,
        key_tokens: Sequence[str] | None = None,
        masks: Mapping[str, Mask] | None = None,
    ) -> None:
        self.tokens, self.key_tokens = tokens, key_tokens
        self.masks = {} if masks is None else dict(masks)
        self._maps, self._kept = {}, {}
        for path, x in ({} if weights is None else weights).items():
            name = self._maps[path] = f"{path}.weights".removeprefix(".")
            self._kept[name] = x

    def _repr_html_(self) -> str:
        from miniattn import _rich

        return _rich.of_trace(self)

    def gradients(self, dy: Any) -> Gradients:
        """Run the hand-written backward once; return d loss / d every kept value.

        Parameters
        ----------
        dy : array like the result of the call
            The gradient of the loss with respect to it.

        Returns
        -------
        Gradients
            ``g[name]`` has the shape of ``t[name]``. That of an edited value is of what the edit
            made of it. What the loss does not depend on, and ids, have no entry.

        Notes
        -----
        ``Parameter.grad`` is added to, as by ``backward``, edits included. What a module was given,
        ``path.input``, is taken for a node of its own: where two modules read one array, each has
        its part of the gradient, and the array's is that of the module that made it.

        Examples
        --------
        >>> import numpy as np
        >>> from miniattn import nn, trace
        >>> layer = nn.TransformerEncoderLayer(8, 2)
        >>> y, t = trace.run(layer, np.ones((1, 3, 8), np.float32))
        >>> g = t.gradients(np.ones_like(y))
        >>> g["attn.weights"].shape
        (1, 2, 3, 3)
        """
        if self._model is None:
            raise ValueError("gradients: expected a trace of trace.run, got one made of maps alone")
        if self._recorder is None:
            return Gradients(self, {}, self._model.backward(dy, self.ctx))
        undoing = Undoing(self._recorder)
        with taps(self._model, undoing):
            returned = self._model.backward(dy, self.ctx)
        return Gradients(self, undoing.gradients, returned)


class Gradients(_Named):
    """The gradients of what a trace kept, by the same names: `Trace.gradients` returns them.

    ``g.weights`` has those of the maps alone, by the path of the attention layer.

    Attributes
    ----------
    returned : object
        What the model's ``backward`` returned: the gradients of its inputs, as they came.
    tokens, key_tokens, masks
        Those of the trace.
    """

    def __init__(self, trace: Trace, kept: Kept, returned: Any) -> None:
        self.returned = returned
        self.tokens, self.key_tokens, self.masks = trace.tokens, trace.key_tokens, trace.masks
        self._maps = trace._maps
        self._kept = {name: kept[name] for name in trace.names if name in kept}


def run(
    model: Module,
    *inputs: Any,
    keep: str | Sequence[str] = "*",
    edits: Mapping[str, Any] | None = None,
    tokens: Sequence[str] | None = None,
    key_tokens: Sequence[str] | None = None,
    **options: Any,
) -> tuple[Any, Trace]:
    """Return (y, t): the result of ``model.forward(*inputs, **options)``, and what went on inside.

    Parameters
    ----------
    model : Module
        Any; those of a user's own give their in- and outputs without a line of code.
    *inputs, **options
        Those of its ``forward``; with ``rng`` there is dropout.
    keep : pattern of names, or several
        What is kept: ``"*"`` is all, ``"*.weights"`` every map, ``()`` nothing.
    edits : dict of pattern to edit, optional
        What becomes of an intermediate before the model goes on: an array (put in its place), a
        pair of functions ``(forward, backward)``, a module, `zero`, `scale`, `add`, `freeze`,
        ``at[index](edit)``, or a list of such. More than one that fit a name are done in the
        dict's order.
    tokens, key_tokens : sequences of str, optional
        Labels, for figures.

    Returns
    -------
    y : what ``forward`` returns
    t : Trace

    Raises
    ------
    ValueError
        If a pattern of ``keep`` or ``edits`` means no name of the call, or an edit has another
        shape than what it edits.
    TypeError
        If an edit is none, or has another dtype than what it edits.

    Notes
    -----
    A name is a module's path, alone for what it returned, ``path.input`` for what it was given
    first, ``path.input.NAME`` for other arrays that it was given, ``path.NAME`` for what it calls
    NAME. The whole model's are ``output``, ``input`` and ``NAME``. Attention, wherever
    `functional.attention_forward` is called, has q, k, v (after rotary), scores (-inf where
    hidden), weights (before dropout) and heads; feed-forward layers have hidden (before dropout),
    transformer layers middle, the residual stream between the sublayers (and middle2, between the
    second and the third). What is used again has a number: ``shared``, ``shared#2``, ...; a pattern
    without a number means every use, ``shared#1`` the first.

    In a pattern, ``*`` stands for anything. TransformerLens' names are understood too:
    ``blocks.0.attn.hook_pattern`` is ``blocks.layers.0.attn.weights``.

    Scores and weights, and their gradients, are made when they are looked at, from formulas beside
    the fused kernels. Where one of them is edited, that layer alone takes an explicit form: plain
    NumPy with all of T x S. A mask has the last word on scores; weights go on as an edit leaves
    them.

    References
    ----------
    Vig et al., "Investigating Gender Bias in Language Models Using Causal Mediation Analysis",
    NeurIPS 2020 (edits as interventions).

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import masks, nn, trace
    >>> model = nn.TransformerEncoder(1, 8, 2)
    >>> x = np.ones((1, 3, 8), np.float32)
    >>> y, t = trace.run(model, x, mask=masks.causal())
    >>> t["layers.0.attn.weights"][0, 0].round(2)
    array([[1.  , 0.  , 0.  ],
           [0.5 , 0.5 , 0.  ],
           [0.33, 0.33, 0.33]], dtype=float32)
    >>> first_head = {"layers.0.attn.heads": trace.at[:, 0](trace.zero)}
    >>> y, t = trace.run(model, x, keep="*.heads", edits=first_head)
    >>> t
    Trace
      layers.0.attn.heads  float32 (1, 2, 3, 4)
    """
    y, t = called(model, inputs, options, keep, edits)
    t.tokens, t.key_tokens = tokens, key_tokens
    return y, t


def called(
    model: Module,
    inputs: Sequence[Any],
    options: Mapping[str, Any],
    keep: str | Sequence[str] = "*",
    edits: Mapping[str, Any] | None = None,
) -> tuple[Any, Trace]:
    """Do as `run`, of a forward whose arguments may have any names."""
    _checks.instance("model", model, Module)
    kept, edited = _names.patterns("keep", keep), as_edits(edits)
    t = Trace()
    t._model = model
    if not (kept or edited):
        y, t.ctx = model.forward(*inputs, **options)
        return y, t
    recorder = Recorder(kept, edited)
    with taps(model, recorder):
        y, t.ctx = model.forward(*inputs, **options)
    _names.check_used("keep", recorder.keep, recorder.used_keep, list(recorder.passed))
    _names.check_used("edits", list(recorder.edits), recorder.used_edits, list(recorder.passed))
    t._recorder, t._kept = recorder, recorder.values
    t._maps = {path: seen.name for path, seen in recorder.attentions.items()}
    rules = {path: rule_of(seen.ctx) for path, seen in recorder.attentions.items()}
    t.masks = {path: rule for path, rule in rules.items() if rule is not None}
    return y, t


class edited:
    """While it lasts, ``model`` runs with ``edits``: ``with trace.edited(model, edits): ...``.

    For what calls the model many times, as ``generate`` does: each call of a layer is edited, be it
    of one new token after a cache. There is no backward through it; `run` has one.

    Parameters
    ----------
    model : Module
    edits : dict of pattern to edit
        As in `run`.

    Raises
    ------
    ValueError
        At the end, if a pattern met no name; where ``backward`` is called.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import models, trace
    >>> model = models.GPT(9, 8, embed_dim=8, num_heads=2, rng=np.random.default_rng(0))
    >>> towards = {"blocks.layers.3": trace.add(50 * model.tokens.weight.data[5])}
    >>> with trace.edited(model, towards):
    ...     model.generate([1, 2], 4, temperature=0)
    array([1, 2, 5, 5, 5, 5])
    """

    def __init__(self, model: Module, edits: Mapping[str, Any]) -> None:
        self._model = _checks.instance("model", model, Module)
        self._recorder = Recorder((), as_edits(edits), undone=False)
        self._taps = taps(model, self._recorder)

    def __enter__(self) -> None:
        self._taps.__enter__()

    def __exit__(self, kind: Any, error: Any, place: Any) -> None:
        self._taps.__exit__(kind, error, place)
        if error is None:
            seen = self._recorder
            _names.check_used("edits", list(seen.edits), seen.used_edits, list(seen.passed))
