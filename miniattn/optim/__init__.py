"""Optimisers: SGD, Adam and AdamW, gradient clipping, and schedules of the learning rate."""

from miniattn import _lazy
from miniattn.optim._gradients import clip_grad_norm
from miniattn.optim._optimizer import Optimizer, only_matrices
from miniattn.optim._rules import SGD, Adam, AdamW
from miniattn.optim._schedules import constant, cosine, linear

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
