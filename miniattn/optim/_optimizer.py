"""What optimisers share: their parameters, and the state that they keep."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from miniattn._typing import Array
from miniattn.nn import Parameter
from miniattn.optim._gradients import refuse_infinite
from miniattn.optim._parameters import factor, named, not_negative

Decay: TypeAlias = Callable[[str, Parameter], float]
Rate: TypeAlias = Callable[[str, Parameter], float]


def only_matrices(name: str, parameter: Parameter) -> bool:
    """Return whether a parameter has two axes or more: weights and embeddings, no bias, no norm.

    Meant as the ``decay`` argument of an optimiser.
    """
    return parameter.data.ndim >= 2


@dataclass
class Slot:
    """One parameter: its decay, its factor on the learning rate, its updates, its moments."""

    parameter: Parameter
    weight_decay: float
    rate: float
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
    decay : callable (name, parameter) -> bool or float, optional
        Which parameters are decayed, or a factor on ``weight_decay`` of each: all by default, as in
        PyTorch. `only_matrices` leaves out biases and norms.
    rate : callable (name, parameter) -> float, optional
        A factor on the learning rate of each parameter; 1 by default.

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
        rate: Rate | None = None,
    ) -> None:
        self.lr = not_negative("lr", lr)
        self.weight_decay = not_negative("weight_decay", weight_decay)
        self._slots = {
            name: Slot(
                p,
                self.weight_decay * factor("decay", decay, name, p),
                factor("rate", rate, name, p),
                0,
                {},
            )
            for name, p in named(parameters).items()
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
        lr = self.lr * not_negative("factor", factor)
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
        for rate in dict.fromkeys(slot.rate for slot in slots):
            self._update([slot for slot in slots if slot.rate == rate], lr * rate)

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

    def _update(self, slots: list[Slot], lr: float) -> None:
        """Update parameters, all with gradients, and moments in place; steps count from 1."""
        raise NotImplementedError


def _misfits(slot: Slot, entries: Mapping[str, Array]) -> Iterator[str]:
    for key, array in entries.items():
        expected = np.array(slot.step) if key == "step" else slot.parameter.data
        if _kind(array) != _kind(expected):
            yield f"{key} expected {_kind(expected)}, got {_kind(array)}"
        elif key == "step" and array < 1:
            yield f"{key} expected at least 1, got {array}"


def _kind(array: Array) -> str:
    return f"{array.shape} {array.dtype}"
