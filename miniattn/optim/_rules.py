"""SGD, Adam and AdamW."""

from collections.abc import Iterable

from miniattn import _checks, kernels
from miniattn.functional._arrays import kernel_input
from miniattn.nn import Parameter
from miniattn.optim._launch import launch
from miniattn.optim._optimizer import Decay, Optimizer, Rate, Slot


class SGD(Optimizer):
    """Stochastic gradient descent: u = momentum · u + g;  p = p − lr · u.

    Parameters
    ----------
    parameters, lr, weight_decay, decay, rate
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
        rate: Rate | None = None,
    ) -> None:
        self.momentum = _checks.probability("momentum", momentum)
        self.nesterov = _checks.flag("nesterov", nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: expected a momentum > 0 with nesterov=True, got 0.0")
        self._moments = ("u",) if self.momentum else ()
        super().__init__(parameters, lr, weight_decay=weight_decay, decay=decay, rate=rate)

    def _update(self, slots: list[Slot], lr: float) -> None:
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
    parameters, lr, weight_decay, decay, rate
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
        rate: Rate | None = None,
    ) -> None:
        given = _checks.sequence("betas", betas, "two numbers")
        self.betas = tuple(_checks.probability("betas", beta) for beta in given)
        if len(self.betas) != 2:
            raise ValueError(f"betas: expected two numbers, got {betas}")
        self.eps = _checks.positive("eps", eps)
        super().__init__(parameters, lr, weight_decay=weight_decay, decay=decay, rate=rate)

    def _update(self, slots: list[Slot], lr: float) -> None:
        for dtype in {slot.parameter.dtype for slot in slots}:
            group = [slot for slot in slots if slot.parameter.dtype == dtype]
            factors = [lr, *self.betas, self.eps]
            for slot in group:
                w = slot.weight_decay
                factors += [*((w, 0.0) if self._decoupled else (0.0, w)), slot.step]
            launch(
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
    parameters, lr, betas, eps, decay, rate
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
        rate: Rate | None = None,
    ) -> None:
        super().__init__(
            parameters,
            lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decay=decay,
            rate=rate,
        )
