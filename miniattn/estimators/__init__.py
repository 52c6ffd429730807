"""scikit-learn's interface: a classifier and a regressor of sequences.

They need scikit-learn: ``pip install "miniattn[estimators]"``.
"""

from miniattn import _lazy

try:
    import sklearn  # noqa: F401  said here, where one reads what to do about it
except ImportError as error:
    raise ImportError(
        "miniattn.estimators: expected scikit-learn, which is not installed; "
        'pip install "miniattn[estimators]"'
    ) from error

from miniattn.estimators._classifier import SequenceClassifierEstimator
from miniattn.estimators._file import load
from miniattn.estimators._regressor import SequenceRegressor

__all__ = ["SequenceClassifierEstimator", "SequenceRegressor", "load"]

__dir__ = _lazy.listed(__name__, __all__)
