"""Optimisers: SGD, Adam and AdamW, gradient clipping, and schedules of the learning rate."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from miniattn import _checks, _lazy, kernels
from miniattn._typing import Array
from miniattn.functional._arrays import kernel_input
from miniattn.nn import Module, Parameter

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Optimizer",
    "clip_grad_norm",
    "constant",
    "cosine",
    "linear",
    "only_matrices",
]

__dir__ = _lazy.listed(__name__, __all__)

Schedule: TypeAlias = Callable[[int], float]
Decay: TypeAlias = Callable[[str, Parameter], bool]

_SMALLEST = 1e-280
"""A sum of squares from which on what vanished of it, below 1e-308, does not count."""


def only_matrices(name: str, parameter: Parameter) -> bool:
    """Return whether a parameter has two axes or more: weights and embeddings, no bias, no norm.

    Meant as the ``decay`` argument of an optimiser.
    """
    return parameter.data.ndim >= 2


@dataclass
class _Slot:
    """One parameter: its decay, how often it was updated, its moments (by name)."""

    parameter: Parameter
    weight_decay: float
    step: int
    moments: dict[str, Array]

    @property
    def grad(self) -> Any:
        """The gradient, or None."""
        return self.parameter.grad


class Optimizer:
    """What SGD, Adam and AdamW share: which parameters are updated, and the state they keep.

    A frozen parameter and one without a gradient are passed over: neither its values, its
    moments nor its step count change. A gradient that is not finite is refused before anything
    is updated.

    Parameters
    ----------
    parameters : iterable of Parameter or of (name, Parameter)
        ``model.named_parameters()`` or ``model.parameters()``. With names, the state has names
        that a checkpoint of a changed model can be compared by; without, it has numbers.
    lr : float >= 0
        The learning rate. May be assigned to later.
    weight_decay : float >= 0
        How strongly parameters are pulled to 0.
    decay : callable (name, parameter) -> bool, optional
        Which parameters are decayed: all by default, as in PyTorch. `only_matrices` leaves out
        biases and norms.

    Raises
    ------
    TypeError, ValueError
        If a parameter is no `Parameter` or comes twice, or a number is out of its range.
    """

    _moments: tuple[str, ...] = ()
    _squares = False  # whether gradients are squared in their own dtype

    def __init__(
        self,
        parameters: Iterable[Parameter] | Iterable[tuple[str, Parameter]],
        lr: float,
        *,
        weight_decay: float = 0.0,
        decay: Decay | None = None,
    ) -> None:
        self.lr = _not_negative("lr", lr)
        self.weight_decay = _not_negative("weight_decay", weight_decay)
        decay = None if decay is None else _checks.function("decay", decay)
        self._slots = {
            name: _Slot(p, self.weight_decay if decay is None or decay(name, p) else 0.0, 0, {})
            for name, p in _named(parameters).items()
        }

    def step(self, factor: float = 1.0) -> None:
        """Update every trainable parameter that has a gradient, with learning rate lr · factor.

        Parameters
        ----------
        factor : float >= 0, default 1
            What a schedule says for this step.

        Raises
        ------
        FloatingPointError
            If a gradient holds NaN or infinity, or (Adam, AdamW) a number whose square is infinite
            in its dtype. The message names the parameters; nothing was updated.
        """
        lr = self.lr * _not_negative("factor", factor)
        updated = {
            name: slot
            for name, slot in self._slots.items()
            if slot.parameter.trainable and slot.grad is not None
        }
        refuse_infinite({n: s.parameter for n, s in updated.items()}, squares=self._squares)
        slots = list(updated.values())
        for slot in slots:
            parameter = slot.parameter
            if not (parameter.data.flags.c_contiguous and parameter.data.flags.writeable):
                parameter.data = np.array(parameter.data, order="C")  # assigned by the user
            for name in self._moments if slot.step == 0 else ():
                slot.moments[name] = np.zeros_like(parameter.data)
            slot.step += 1
        self._update(slots, lr)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for slot in self._slots.values():
            slot.parameter.zero_grad()

    def state_dict(self) -> dict[str, Array]:
        """Return a copy of the state: ``<name>.step``, and ``<name>.<moment>`` by parameter.

        A parameter that was never updated has no state. Settings such as lr are not in it.
        """
        state: dict[str, Array] = {}
        for name, slot in self._slots.items():
            if slot.step:
                state[f"{name}.step"] = np.array(slot.step)
                state |= {f"{name}.{key}": slot.moments[key].copy() for key in self._moments}
        return state

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Replace the state by a copy of ``state``; all of it, or (on any error) nothing.

        Raises
        ------
        ValueError
            If entries are missing, unexpected or misshapen; one message lists all of them.
        """
        keys = ("step", *self._moments)
        left = dict(state)
        wrong: list[str] = []
        loaded: dict[str, dict[str, Array]] = {}
        for name, slot in self._slots.items():
            entries = {key: left.pop(f"{name}.{key}", None) for key in keys}
            loaded[name] = {key: np.array(a) for key, a in entries.items() if a is not None}
            if loaded[name]:  # else it was never updated
                wrong += [f"missing: {name}.{key}" for key in keys if key not in loaded[name]]
                wrong += [f"misshapen: {name}.{words}" for words in _misfits(slot, loaded[name])]
        wrong += [f"unexpected: {name}" for name in left]
        if wrong:
            raise ValueError(
                f"state: expected the state of {type(self).__name__} on "
                f"{len(self._slots)} parameters, got\n  " + "\n  ".join(wrong)
            )
        for name, moments in loaded.items():
            self._slots[name].step = int(moments.pop("step", 0))
            self._slots[name].moments = moments

    def _update(self, slots: list[_Slot], lr: float) -> None:
        """Update parameters, all with gradients, and moments in place; steps count from 1."""
        raise NotImplementedError


class SGD(Optimizer):
    """Stochastic gradient descent: u = momentum · u + g;  p = p − lr · u.

    Parameters
    ----------
    parameters, lr, weight_decay, decay
        As in `Optimizer`. Weight decay is an L2 penalty: g = grad + weight_decay · p.
    momentum : float in [0, 1), default 0
        How much of the last step is kept. The first u is g.
    nesterov : bool, default False
        Step along g + momentum · u.

    Notes
    -----
    The numbers are those of ``torch.optim.SGD`` (dampening 0).

    References
    ----------
    Sutskever et al. "On the importance of initialization and momentum in deep learning" (2013),
    section 2.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn, optim
    >>> p = nn.Parameter(np.array([1.0, 2.0]))
    >>> optimizer = optim.SGD([p], lr=0.1)
    >>> p.accumulate(np.array([1.0, -1.0]))
    >>> optimizer.step()
    >>> p.data
    array([0.9, 2.1])
    """

    def __init__(
        self,
        parameters: Iterable[Parameter] | Iterable[tuple[str, Parameter]],
        lr: float,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        decay: Decay | None = None,
    ) -> None:
        self.momentum = _checks.probability("momentum", momentum)
        self.nesterov = _checks.flag("nesterov", nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: expected a momentum > 0 with nesterov=True, got 0.0")
        self._moments = ("u",) if self.momentum else ()
        super().__init__(parameters, lr, weight_decay=weight_decay, decay=decay)

    def _update(self, slots: list[_Slot], lr: float) -> None:
        for slot in slots:
            data, grad = slot.parameter.data, slot.grad
            g = grad + slot.weight_decay * data if slot.weight_decay else grad
            if self.momentum:
                u = slot.moments["u"]
                u *= self.momentum
                u += g
                g = g + self.momentum * u if self.nesterov else u
            data -= lr * g


class Adam(Optimizer):
    """Adam: steps along the mean gradient, divided by its root mean square.

    m = β1 m + (1 − β1) g;  v = β2 v + (1 − β2) g²;  p = p − lr · m̂ / (√v̂ + eps), with
    m̂ = m / (1 − β1^t), v̂ = v / (1 − β2^t) in step t = 1, 2, ... of the parameter.

    Parameters
    ----------
    parameters, lr, weight_decay, decay
        As in `Optimizer`. Weight decay is an L2 penalty: g = grad + weight_decay · p; see
        `AdamW` for the decoupled one.
    betas : (float, float) in [0, 1), default (0.9, 0.999)
        β1 and β2.
    eps : float > 0, default 1e-8

    Notes
    -----
    The numbers are those of ``torch.optim.Adam``. v holds squares in the dtype of the parameter:
    gradients whose squares overflow (1.8e19 in float32) are refused, and those whose squares
    vanish (1e-23) count as 0 in v, which shows only where eps is not above them.

    References
    ----------
    Kingma, Ba. "Adam: A Method for Stochastic Optimization" (2015), algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn, optim
    >>> p = nn.Parameter(np.array([1.0, 2.0]))
    >>> optimizer = optim.Adam([("p", p)], lr=0.1)
    >>> p.accumulate(np.array([3.0, -0.5]))
    >>> optimizer.step()
    >>> p.data.round(6)
    array([0.9, 2.1])
    >>> sorted(optimizer.state_dict())
    ['p.m', 'p.step', 'p.v']
    """

    _moments = ("m", "v")
    _squares = True
    _decoupled = False

    def __init__(
        self,
        parameters: Iterable[Parameter] | Iterable[tuple[str, Parameter]],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decay: Decay | None = None,
    ) -> None:
        given = _checks.sequence("betas", betas, "two numbers")
        self.betas = tuple(_checks.probability("betas", beta) for beta in given)
        if len(self.betas) != 2:
            raise ValueError(f"betas: expected two numbers, got {betas}")
        self.eps = _checks.positive("eps", eps)
        super().__init__(parameters, lr, weight_decay=weight_decay, decay=decay)

    def _update(self, slots: list[_Slot], lr: float) -> None:
        for dtype in {slot.parameter.dtype for slot in slots}:
            group = [slot for slot in slots if slot.parameter.dtype == dtype]
            factors = [lr, *self.betas, self.eps]
            for slot in group:
                w = slot.weight_decay
                factors += [*((w, 0.0) if self._decoupled else (0.0, w)), slot.step]
            _launch(
                kernels.optim.adam,
                [slot.parameter.data for slot in group],
                [kernel_input(slot.grad.astype(dtype, copy=False)) for slot in group],
                [slot.moments["m"] for slot in group],
                [slot.moments["v"] for slot in group],
                factors=factors,
            )


class AdamW(Adam):
    """Adam with decoupled weight decay: p = (1 − lr · weight_decay) · p, then Adam's step.

    Parameters
    ----------
    parameters, lr, betas, eps, decay
        As in `Adam`.
    weight_decay : float >= 0, default 0.01
        Not mixed into the gradient, so that m and v do not see it.

    Notes
    -----
    The numbers are those of ``torch.optim.AdamW``.

    References
    ----------
    Loshchilov, Hutter. "Decoupled Weight Decay Regularization" (2019), algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn, optim
    >>> layer = nn.Linear(4, 2, rng=np.random.default_rng(0))
    >>> optimizer = optim.AdamW(
    ...     layer.named_parameters(), lr=1e-3, weight_decay=0.1, decay=optim.only_matrices
    ... )
    """

    _decoupled = True

    def __init__(
        self,
        parameters: Iterable[Parameter] | Iterable[tuple[str, Parameter]],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        decay: Decay | None = None,
    ) -> None:
        super().__init__(
            parameters, lr, betas=betas, eps=eps, weight_decay=weight_decay, decay=decay
        )


def clip_grad_norm(parameters: Iterable[Parameter], max_norm: float) -> float:
    """Scale all gradients by min(1, max_norm / norm), in place, and return the norm before that.

    Parameters
    ----------
    parameters : iterable of Parameter
        Those without a gradient are passed over.
    max_norm : float > 0
        The largest norm that is let through; ``math.inf`` only measures.

    Returns
    -------
    float
        The L2 norm of all gradients taken as one vector. Where it is NaN or infinite the gradients
        stay as they are, for an optimiser to refuse.

    References
    ----------
    Pascanu, Mikolov, Bengio. "On the difficulty of training recurrent neural networks" (2013),
    section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn, optim
    >>> p = nn.Parameter(np.zeros(2))
    >>> p.accumulate(np.array([3.0, 4.0]))
    >>> optim.clip_grad_norm([p], max_norm=1.0)
    5.0
    >>> p.grad.round(3)
    array([0.6, 0.8])
    """
    if not (isinstance(max_norm, float) and max_norm == math.inf):
        max_norm = _checks.positive("max_norm", max_norm)
    groups = _by_dtype([parameter for _, parameter in _pairs(parameters)])
    norm = _norm(groups)
    if max_norm < norm < math.inf:
        for group in groups:
            for factor in _factors(max_norm / norm, group[0].dtype):
                _scale(group, factor)
    return norm


def refuse_infinite(parameters: Mapping[str, Parameter], *, squares: bool = False) -> None:
    """Raise FloatingPointError where a gradient is not finite, or with ``squares`` its square."""
    for group in _by_dtype(parameters.values()):
        largest = float(np.finfo(group[0].dtype).max)
        if _total(group) <= largest:
            continue  # one pass over all: no entry can be too large
        limit = math.sqrt(largest) if squares else largest
        sizes = {n: _size(p.grad) for n, p in parameters.items() if p.grad is not None}
        wrong = [f"{size:.3g} in {name!r}" for name, size in sizes.items() if not size <= limit]
        if wrong:
            raise FloatingPointError(
                f"grad: expected finite gradients{', with finite squares' if squares else ''}, "
                f"got {', '.join(wrong)}; nothing was updated"
            )


def _by_dtype(parameters: Iterable[Parameter]) -> list[list[Array]]:
    """Return the gradients that there are, those of one dtype together."""
    grads = [p.grad for p in parameters if p.grad is not None]
    return [[g for g in grads if g.dtype == dtype] for dtype in {g.dtype for g in grads}]


def _norm(groups: list[list[Array]]) -> float:
    """Return the L2 norm of all arrays taken as one vector, whatever the size of their entries."""
    total = _sum(_total(group) for group in groups)
    if _SMALLEST < total < math.inf:
        return math.sqrt(total)
    # The squares overflow or vanish in float64, or an entry is not finite.
    largest = max((_size(g) for group in groups for g in group), key=_nan_last, default=0.0)
    if largest == 0 or not math.isfinite(largest):
        return largest
    scaled = (g.astype(np.float64) / largest for group in groups for g in group)
    return largest * math.sqrt(_sum(float(np.vdot(g, g)) for g in scaled))


def _size(array: Array) -> float:
    """Return the largest absolute value; NaN where there is one."""
    return float(np.abs(array).max(initial=0))


def _nan_last(size: float) -> tuple[bool, float]:
    return math.isnan(size), size


def _factors(factor: float, dtype: np.dtype[Any]) -> list[float]:
    """Return numbers whose product is ``factor``, so that none is subnormal in ``dtype``."""
    return [factor] if factor >= np.finfo(dtype).tiny else [math.sqrt(factor)] * 2


def _scale(grads: list[Array], factor: float) -> None:
    in_place: list[Array] = []
    for grad in grads:
        if kernel_input(grad) is grad:
            in_place.append(grad)
        else:  # assigned by the user
            grad *= factor
    _launch(kernels.optim.scale, in_place, factors=[factor])


def _total(arrays: list[Array]) -> float:
    """Return Σ x² over arrays of one dtype, in float64."""
    return _sum(_sums_of_squares(arrays))


def _sum(numbers: Iterable[float]) -> float:
    try:
        return math.fsum(numbers)
    except OverflowError:  # finite numbers, whose sum is not
        return math.inf


def _sums_of_squares(arrays: list[Array]) -> list[float]:
    """Return numbers, float64, that add up to the sum of the squares of ``arrays``."""
    arrays = [kernel_input(a) for a in arrays]
    sums = np.empty(_chunks(arrays)[-1])
    _launch(kernels.optim.sums_of_squares, arrays, [sums], factors=[])
    return sums.tolist()


# ------------------------------------------------------------ schedules: step 0, 1, ... -> factor


def constant(warmup: int = 0) -> Schedule:
    """Return a schedule that rises over ``warmup`` steps and then stays at 1.

    Parameters
    ----------
    warmup : int >= 0
        Step t < warmup has the factor (t + 1) / (warmup + 1).

    Returns
    -------
    callable int -> float
        From the step, counted from 0, to the factor on the learning rate.

    Examples
    --------
    >>> from miniattn import optim
    >>> schedule = optim.constant(warmup=3)
    >>> [schedule(step) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    warmup = _checks.integer("warmup", warmup, least=0)
    return lambda step: min(1.0, (step + 1) / (warmup + 1))


def linear(warmup: int, total: int, *, floor: float = 0.0) -> Schedule:
    """Return a schedule that rises over ``warmup`` steps and falls in a line to ``floor``.

    Parameters
    ----------
    warmup, total : int
        0 <= warmup < total: where the fall begins and where it ends.
    floor : float in [0, 1]
        The factor from step ``total`` on.

    Returns
    -------
    callable int -> float
        From the step, counted from 0, to the factor on the learning rate.

    Examples
    --------
    >>> from miniattn import optim
    >>> schedule = optim.linear(warmup=1, total=5)
    >>> [schedule(step) for step in range(7)]
    [0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    return _falling(warmup, total, floor, lambda progress: 1.0 - progress)


def cosine(warmup: int, total: int, *, floor: float = 0.0) -> Schedule:
    """Return a schedule that rises over ``warmup`` steps and falls in half a cosine to ``floor``.

    Parameters
    ----------
    warmup, total : int
        0 <= warmup < total: where the fall begins and where it ends.
    floor : float in [0, 1]
        The factor from step ``total`` on.

    Returns
    -------
    callable int -> float
        From the step, counted from 0, to the factor on the learning rate.

    References
    ----------
    Loshchilov, Hutter. "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017), section 3.

    Examples
    --------
    >>> from miniattn import optim
    >>> schedule = optim.cosine(warmup=1, total=5, floor=0.1)
    >>> [round(schedule(step), 3) for step in range(7)]
    [0.5, 1.0, 0.868, 0.55, 0.232, 0.1, 0.1]
    """
    return _falling(warmup, total, floor, lambda x: 0.5 * (1.0 + math.cos(math.pi * x)))


def _falling(warmup: int, total: int, floor: float, shape: Callable[[float], float]) -> Schedule:
    rise = constant(warmup)
    total = _checks.integer("total", total, least=warmup + 1)
    if not 0 <= _checks.number("floor", floor) <= 1:
        raise ValueError(f"floor: expected a number in [0, 1], got {floor}")

    def schedule(step: int) -> float:
        if step < warmup:
            return rise(step)
        progress = min(1.0, (step - warmup) / (total - warmup))
        return floor + (1.0 - floor) * shape(progress)

    return schedule


# --------------------------------------------------------------------------------- small helpers


def _launch(task: Any, *roles: list[Array], factors: list[float]) -> None:
    """Run a kernel over arrays of one dtype; they keep their number from role to role."""
    arrays = roles[0]
    if not arrays:
        return
    ends = _chunks(arrays)
    everything = [a for role in roles for a in role]
    kernels.compile.launch.run(
        task,
        arrays[0].dtype,
        min(ends[-1], kernels.compile.settings.get_num_threads()),
        ends[-1],
        kernels.compile.queue.Told(
            np.array([len(arrays), *ends, *(a.size for a in arrays)]),
            np.array(factors, np.float64),
            np.array(kernels.compile.tables.addresses(everything)),
        ),
        everything,
    )


def _chunks(arrays: list[Array]) -> list[int]:
    """Return how many chunks reach to the end of each array."""
    return list(itertools.accumulate(-(-a.size // kernels.optim.CHUNK) for a in arrays))


def _named(
    parameters: Iterable[Parameter] | Iterable[tuple[str, Parameter]],
) -> dict[str, Parameter]:
    named: dict[str, Parameter] = {}
    seen: dict[int, str] = {}
    for name, parameter in _pairs(parameters):
        if name in named or id(parameter) in seen:
            raise ValueError(
                f"parameters: expected each once, got {name!r} again"
                + ("" if name in named else f" (it is {seen[id(parameter)]!r})")
            )
        named[name] = parameter
        seen[id(parameter)] = name
    if not named:
        raise ValueError("parameters: expected at least one, got none")
    return named


def _pairs(
    parameters: Iterable[Parameter] | Iterable[tuple[str, Parameter]],
) -> Iterator[tuple[str, Parameter]]:
    """Yield (name, parameter); where there are no names, the number of each."""
    if isinstance(parameters, Module | Parameter) or not isinstance(parameters, Iterable):
        raise TypeError(
            "parameters: expected those of a model (model.named_parameters()), "
            f"got a {type(parameters).__name__}"
        )
    for i, item in enumerate(parameters):
        name, parameter = item if isinstance(item, tuple) and len(item) == 2 else (str(i), item)
        if not isinstance(parameter, Parameter):
            raise TypeError(
                f"parameters: expected Parameter or (name, Parameter), got {item!r} at {i}"
            )
        yield name, parameter


def _not_negative(name: str, value: object) -> float:
    number = _checks.number(name, value)
    if number < 0:
        raise ValueError(f"{name}: expected a number >= 0, got {value}")
    return number


def _misfits(slot: _Slot, entries: Mapping[str, Array]) -> Iterator[str]:
    for key, array in entries.items():
        expected = np.array(slot.step) if key == "step" else slot.parameter.data
        if _kind(array) != _kind(expected):
            yield f"{key} expected {_kind(expected)}, got {_kind(array)}"
        elif key == "step" and array < 1:
            yield f"{key} expected at least 1, got {array}"


def _kind(array: Array) -> str:
    return f"{array.shape} {array.dtype}"
