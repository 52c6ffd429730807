"""Module: named arrays, a forward, and a backward that reads it upwards.

A module is an ordinary object. Its parameters and its parts are found by looking at its attributes
in the order in which they were set, lists, tuples and dicts included; there is nothing to register
and no base-class constructor to call. What would not be found is refused when it is set. A module
never remembers a call: whatever ``backward`` needs is in the context that ``forward`` returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Self

from miniattn import _checks
from miniattn._typing import Array
from miniattn.nn import _config, _members, _shown
from miniattn.nn._parameter import Parameter

__all__ = ["Module", "Parameter"]


_inferring: ContextVar[bool] = ContextVar("inferring", default=False)


def inferring() -> bool:
    """Whether an inference call ``module(x)`` is under way, of this module or one around it."""
    return _inferring.get()


class Module:
    """The base of every layer and model.

    A subclass sets its parameters and parts as attributes and defines three things::

        y, ctx = layer.forward(x, rng=None)   # dropout is applied if and only if rng is given
        dx = layer.backward(dy, ctx)          # input gradients; Parameter.grad is added to
        y = layer(x)                          # inference: nothing is kept (comes for free)

    Parts may be in lists, tuples and dicts, at any depth. One in a set, in an object that is no
    module, in a function or on the class would not be found, hence neither trained nor saved: to
    set it is a TypeError.

    Because a call leaves no trace in the module, a layer may be used twice in one model, and the
    backwards of several forwards may be run in any order. A parameter that sits in two places
    (tied weights) is one parameter: it is counted once, named by the first place, and its gradient
    adds up from both.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> class Scale(nn.Module):
    ...     def __init__(self, size):
    ...         self.factor = nn.Parameter(np.full(size, 2.0))
    ...     def forward(self, x, *, rng=None):
    ...         return x * self.factor.data, x
    ...     def backward(self, dy, ctx):
    ...         x = ctx
    ...         # y = x * factor
    ...         self.factor.accumulate((dy * x).reshape(-1, dy.shape[-1]).sum(axis=0))
    ...         return dy * self.factor.data
    >>> layer = Scale(3)
    >>> y, ctx = layer.forward(np.ones((4, 3)))
    >>> layer.backward(np.ones((4, 3)), ctx)[0]
    array([2., 2., 2.])
    >>> layer.factor.grad
    array([4., 4., 4.])
    """

    # About the arguments of __init__, for checkpoints (see _config.py). Those that may differ
    # between two models that compute the same: how it starts, what only training sees.
    _free: ClassVar[tuple[str, ...]] = ("rng", "dtype", "dropout")
    # Those whose None is worked out from others, so that parts and shapes show what it came to.
    _worked_out: ClassVar[tuple[str, ...]] = ()
    # Those that live on as an attribute of the same name, which may be assigned to.
    _live: ClassVar[tuple[str, ...]] = ()

    if not TYPE_CHECKING:  # else type checkers would ask it, and not __init__, for the arguments

        def __new__(cls, *args, **kwargs):
            if cls.__init__ is object.__init__ and (args or kwargs):
                got = ", ".join([*map(repr, args), *kwargs])
                raise TypeError(f"{cls.__name__}: expected no arguments, got {got}")
            self = super().__new__(cls)
            object.__setattr__(self, "_made_with", _config.recorded(cls, args, kwargs))
            return self

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, value in vars(cls).items():
            if isinstance(value, Module | Parameter):
                raise TypeError(
                    f"{name}: expected parts as attributes of a {cls.__name__}, set in __init__, "
                    f"got a {type(value).__name__} on the class, where it is not found"
                )

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, (Parameter, *_members.PLAIN)):
            self._check_found(name, value)
        super().__setattr__(name, value)

    def _check_found(self, name: str, value: Any) -> None:
        """Raise where a part in ``value`` would not be found as one of this module."""
        _members.check_keys(name, value, (Module, Parameter))
        if any(node is self for _, node in walk(value, "")):
            raise ValueError(f"{name}: expected parts, got what holds this {type(self).__name__}")
        hidden = list(_members.hidden(name, value, (Module, Parameter)))
        known = [part for _, part in (*walk(self, ""), *walk(value, ""))] if hidden else []
        for place, part in hidden:
            if not any(part is found for found in known):
                raise TypeError(
                    f"{place}: expected parts as attributes, or in lists, tuples and dicts, "
                    f"got a {type(part).__name__} where it is not found"
                )

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Return (y, ctx): the result, and what ``backward`` needs of this call."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the gradients of the inputs; add those of the parameters to their ``grad``."""
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the result of ``forward`` without dropout, and keep nothing."""
        if kwargs.get("rng") is not None:
            raise TypeError(
                "rng: expected none in an inference call, got one; "
                "dropout is applied by forward(..., rng=rng)"
            )
        before = _inferring.set(True)
        try:
            return self.forward(*args, **kwargs)[0]
        finally:
            _inferring.reset(before)

    # -- what is in here -----------------------------------------------------------------------

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield (path, module) for this module ("") and all its parts, each once, outside in."""
        seen: set[int] = set()
        for path, node in walk(self, prefix):
            if isinstance(node, Module) and id(node) not in seen:
                seen.add(id(node))
                yield path, node

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Yield (path, parameter), e.g. ``"layers.0.attn.q_proj.weight"``; tied ones once."""
        seen: set[int] = set()
        for path, node in walk(self, prefix):
            if isinstance(node, Parameter) and id(node) not in seen:
                seen.add(id(node))
                yield path, node

    def modules(self) -> list[Module]:
        """Return this module and all its parts, each once."""
        return [module for _, module in self.named_modules()]

    def parameters(self) -> list[Parameter]:
        """Return every parameter once, frozen ones included."""
        return [parameter for _, parameter in self.named_parameters()]

    def num_parameters(self, *, trainable: bool | None = None) -> int:
        """Return how many numbers the parameters hold; only (non-)trainable ones if given."""
        if trainable is not None:
            trainable = _checks.flag("trainable", trainable)
        return sum(p.size for p in self.parameters() if trainable in (None, p.trainable))

    # -- what is done to all of it -------------------------------------------------------------

    def zero_grad(self) -> None:
        """Forget every gradient."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def freeze(self) -> Self:
        """Make every parameter frozen: no gradient work, no updates. Returns the module."""
        for parameter in self.parameters():
            parameter.trainable = False
            parameter.grad = None
        return self

    def unfreeze(self) -> Self:
        """Make every parameter trainable. Returns the module."""
        for parameter in self.parameters():
            parameter.trainable = True
        return self

    def state_dict(self) -> dict[str, Array]:
        """Return a copy of every parameter's data by name; training on does not change it."""
        return {name: p.data.copy() for name, p in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Copy ``state`` into the parameters; all of it, or (on any error) nothing.

        Raises
        ------
        ValueError
            Where names are missing or unexpected, or a shape or dtype differs. One message lists
            all of them.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state: expected a dict of arrays, got {_checks.shown(state)}")
        own = dict(self.named_parameters())
        new = {
            name: _checks.any_array(f"state[{name!r}]", state[name], "an array")
            for name in own
            if name in state
        }
        wrong = [
            *(f"missing: {name} {_kind(p.data)}" for name, p in own.items() if name not in new),
            *(f"unexpected: {name}" for name in state if name not in own),
            *(
                f"misshapen: {name} expected {_kind(own[name].data)}, got {_kind(a)}"
                for name, a in new.items()
                if (a.shape, a.dtype) != (own[name].shape, own[name].dtype)
            ),
        ]
        if wrong:
            raise ValueError(
                f"state: expected exactly the {len(own)} parameters of {type(self).__name__}, "
                "got\n  " + "\n  ".join(wrong)
            )
        for name, array in new.items():
            own[name].data[...] = array

    def architecture(self) -> dict[str, Any]:
        """Return what the module was built with, for a checkpoint; JSON can say it.

        ``"modules"`` has class and arguments of this module ("") and each of its parts by path,
        ``"tied"`` the parameters that are those of another path, ``"frozen"`` those that are. The
        arguments are those of the call, with defaults and without ``rng``; functions are there by
        name, other objects by the name of their class.

        Examples
        --------
        >>> from miniattn import nn
        >>> nn.Linear(4, 2).architecture()["modules"][""]["arguments"]
        {'in_features': 4, 'out_features': 2, 'bias': True, 'dtype': 'float32'}
        """
        return _config.describe(walk(self, ""))

    def check_architecture(self, saved: Mapping[str, Any]) -> None:
        """Raise ValueError unless ``saved`` (see `architecture`) is that of such a module.

        The message lists every setting that differs. Dropout, how weights start and the dtype may.
        """
        if wrong := list(_config.differences(walk(self, ""), saved)):
            raise ValueError(
                f"architecture: expected that of this {type(self).__name__}, got\n  "
                + "\n  ".join(wrong)
            )

    # -- what it looks like --------------------------------------------------------------------

    def describe(self) -> str:
        """Return the settings shown in the repr, e.g. ``"64 -> 128"``; subclasses override."""
        return ""

    def _repr_html_(self) -> str:
        from miniattn import _rich

        return _rich.of_module(self)

    def __repr__(self) -> str:
        lines = list(_shown.lines(walk(self, "")))
        if len(lines) == 1:
            return lines[0].text
        wide = max(len(line.text) for line in lines)
        digits = max(len(line.size) for line in lines)
        return "\n".join(
            f"{text:<{wide}}  {count:>{digits}} {notes}".rstrip() for text, count, notes in lines
        )


def walk(node: object, path: str) -> Iterator[tuple[str, Module | Parameter]]:
    """Yield every Module and Parameter below ``node`` with its path, in definition order."""
    if isinstance(node, Module | Parameter):
        yield path, node
    for name, child in _children(node):
        yield from walk(child, f"{path}.{name}" if path else name)


def replace_parts(model: Module, new: Mapping[int, Module]) -> None:
    """Put ``new[id(part)]`` in the place of each such part, in every place where it is."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            replaced = _members.changed(value, lambda part: new.get(id(part), part))
            if replaced is not value:
                setattr(module, name, replaced)


def _children(node: object) -> Iterator[tuple[str, object]]:
    if not isinstance(node, Module):
        return _members.members(node)
    return ((name, value) for name, value in vars(node).items() if name != "_made_with")


def _kind(array: Array) -> str:
    return f"{array.shape} {array.dtype}"
