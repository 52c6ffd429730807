"""The training loop, its history, and what may be done along the way."""

from miniattn import _lazy
from miniattn.training._averaging import WeightAveraging
from miniattn.training._callbacks import Callback, EarlyStopping
from miniattn.training._history import History, Series
from miniattn.training._logs import CSVLog, TensorBoard
from miniattn.training._seeds import seeds
from miniattn.training._trainer import Trainer

__all__ = [
    "CSVLog",
    "Callback",
    "EarlyStopping",
    "History",
    "Series",
    "TensorBoard",
    "Trainer",
    "WeightAveraging",
    "seeds",
]

__dir__ = _lazy.listed(__name__, __all__)
