"""A regressor of sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_array

from miniattn._typing import Array
from miniattn.estimators._base import SequenceEstimator
from miniattn.losses import MSE, Loss


class SequenceRegressor(RegressorMixin, SequenceEstimator):  # type: ignore[misc]
    """Predicts one number, or several, of a sequence by a small transformer.

    Parameters
    ----------
    embed_dim, num_heads, num_layers, ffn_dim, pooling, positions, dropout, epochs, batch_size
        As in `SequenceClassifierEstimator`.
    lr, weight_decay, early_stopping, validation_share, patience, tokens, max_vocabulary
        As there.
    random_state, verbose
        As there.

    Attributes
    ----------
    model_ : models.SequenceClassifier
        Its logits are the standardised targets.
    target_scaler_ : (mean, scale)
        Of the targets; the model learns them standardised.
    history_, vocabulary_, scaler_, n_features_in_
        As in `SequenceClassifierEstimator`.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn.estimators import SequenceRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.standard_normal((n, 2)) for n in rng.integers(4, 9, 64)]
    >>> y = [x[:, 0].mean() for x in X]
    >>> model = SequenceRegressor(embed_dim=16, num_layers=1, epochs=40, random_state=0)
    >>> model.fit(X[:48], y[:48]).score(X[48:], y[48:]) > 0.8
    True
    """

    def predict(self, X: Any) -> Array:
        """Return the numbers of each sequence, (n,), or (n, outputs) if `fit` was given that."""
        mean, scale = self.target_scaler_ if hasattr(self, "target_scaler_") else (0.0, 1.0)
        values: Array = self._outputs(X).astype(np.float64) * scale + mean
        return values if getattr(self, "_several", False) else values[:, 0]

    def _targets_fitted(self, y: Any) -> tuple[Array, int]:
        if y is None:
            raise ValueError(
                "y: expected numbers; requires y to be passed, but the target y is None"
            )
        values = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        self._several = values.ndim == 2 and values.shape[1] != 1
        values = values.reshape(len(values), -1)
        deviation = values.std(axis=0)
        self.target_scaler_ = (values.mean(axis=0), np.where(deviation > 0, deviation, 1.0))
        mean, scale = self.target_scaler_
        return ((values - mean) / scale).astype(np.float32), values.shape[1]

    def _loss(self) -> Loss:
        return MSE()

    def _stratified(self, targets: Array) -> Array | None:
        return None
