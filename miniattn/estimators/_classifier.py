"""A classifier of sequences."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

import miniattn.functional as F
from miniattn._typing import Array
from miniattn.estimators._base import SequenceEstimator, _same_count
from miniattn.losses import CrossEntropy, Loss


class SequenceClassifierEstimator(ClassifierMixin, SequenceEstimator):  # type: ignore[misc]
    """Classifies sequences by a small transformer, in scikit-learn's interface.

    Sequences are series of numbers, strings, or lists of tokens, of different lengths. Numbers are
    standardised by feature, tokens get a vocabulary; both are learned in `fit` and kept.

    Parameters
    ----------
    embed_dim, num_heads, num_layers, ffn_dim, pooling, positions, dropout
        As in `models.SequenceClassifier`.
    class_weight : None, "balanced" or dict, default None
        What an example counts, by its class.
    epochs : int, optional
        Passes over the data; by default as many as make 1,500 updates, between 10 and 200.
    batch_size : int, default 32
    lr : float, default 1e-3
        Largest learning rate: it rises for a tenth of the updates, then falls along a cosine.
    weight_decay : float, default 0.05
        AdamW's.
    early_stopping : bool, default False
        Keep ``validation_share`` of the examples aside, stop when the loss on them has not become
        less for ``patience`` epochs, and keep the best model.
    validation_share : float, default 0.1
    patience : int, default 10
    tokens : {"auto", "words", "characters"}, default "auto"
        What a string is cut into; "auto" is words where half of the strings have a space.
    max_vocabulary : int, optional
        How many of the most frequent tokens are told apart.
    random_state : int, RandomState or None
    verbose : bool, default False
        Show a progress bar.

    Attributes
    ----------
    classes_ : (N,) array
    model_ : models.SequenceClassifier
    history_ : training.History
        Loss, learning rate and evaluations by step.
    vocabulary_, scaler_
        How tokens or numbers are read; one of them is None.
    n_features_in_ : int

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn.estimators import SequenceClassifierEstimator
    >>> rng = np.random.default_rng(0)
    >>> X = [np.sin(np.arange(n) * f) for n, f in zip(rng.integers(8, 20, 40), [0.3, 1.5] * 20)]
    >>> y = ["slow", "fast"] * 20
    >>> clf = SequenceClassifierEstimator(embed_dim=16, num_layers=1, epochs=40, random_state=0)
    >>> clf.fit(X[:30], y[:30]).score(X[30:], y[30:]) >= 0.9
    True
    """

    def __init__(
        self,
        *,
        embed_dim: int = 64,
        num_heads: int = 4,
        num_layers: int = 2,
        ffn_dim: int | None = None,
        pooling: str = "mean",
        positions: str | None = "sinusoidal",
        dropout: float = 0.1,
        class_weight: Literal["balanced"] | dict[Any, float] | None = None,
        epochs: int | None = None,
        batch_size: int = 32,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        early_stopping: bool = False,
        validation_share: float = 0.1,
        patience: int = 10,
        tokens: Literal["auto", "words", "characters"] = "auto",
        max_vocabulary: int | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            embed_dim=embed_dim,
            num_heads=num_heads,
            num_layers=num_layers,
            ffn_dim=ffn_dim,
            pooling=pooling,
            positions=positions,
            dropout=dropout,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            weight_decay=weight_decay,
            early_stopping=early_stopping,
            validation_share=validation_share,
            patience=patience,
            tokens=tokens,
            max_vocabulary=max_vocabulary,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """Make one pass over some examples, at a constant learning rate.

        The first call builds the model, by its own examples' features or tokens; later ones keep
        both.

        Parameters
        ----------
        X, y
            As in `fit`.
        classes : (N,) array
            All the classes there will be; needed in the first call.

        Returns
        -------
        self
        """
        first = not hasattr(self, "model_")
        given = self._taken(X, y, reset=first)
        if first:
            if classes is None:
                raise ValueError("classes: expected all classes in the first call, got None")
            self.classes_ = np.unique(classes)
            self._rng = self._generator()
            examples = self._prepared_anew(given)
            self.model_ = self._built(len(self.classes_), self._rng)
        else:
            examples = self._prepared(given)
        _same_count(given, y)
        targets = self._numbers(_labels(y))
        if first or not hasattr(self, "_trainer_"):
            self._trainer_ = self._trainer(getattr(self, "_rng", self._generator()))
        self._trainer_.loss = self._loss()
        pairs = list(zip(examples, targets, strict=True))
        self.history_ = self._trainer_.fit(pairs, epochs=self._trainer_.epoch + 1)
        return self

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n, N), in the order of ``classes_``."""
        return F.softmax(self._outputs(X))

    def predict(self, X: Any) -> Array:
        """Return the likeliest class of each sequence, (n,)."""
        chosen = self._outputs(X).argmax(axis=1)
        labels: Array = self.classes_[chosen]
        return labels

    def _targets_fitted(self, y: Any) -> tuple[Array, int]:
        labels = _labels(y)
        self.classes_ = np.unique(labels)
        if len(self.classes_) < 2:
            raise ValueError(f"y: expected at least 2 classes, got 1 class, {self.classes_[0]!r}")
        targets = self._numbers(labels)
        return targets, len(self.classes_)

    def _numbers(self, labels: Array) -> Array:
        """Return the place of each label in ``classes_``."""
        places = np.searchsorted(self.classes_, labels)
        places = np.minimum(places, len(self.classes_) - 1)
        if not (known := self.classes_[places] == labels).all():
            raise ValueError(
                f"y: expected classes of {self.classes_.tolist()}, got {labels[~known][0]!r}"
            )
        self._counted = labels
        return places.astype(np.int64)

    def _loss(self) -> Loss:
        if self.class_weight is None:
            return CrossEntropy()
        weights = compute_class_weight(self.class_weight, classes=self.classes_, y=self._counted)
        return CrossEntropy(class_weights=tuple(weights.tolist()))

    def _stratified(self, targets: Array) -> Array | None:
        return targets if np.bincount(targets).min() > 1 else None


def _labels(y: Any) -> Array:
    """Return labels of any kind that can be told apart and ordered."""
    if y is None:
        raise ValueError("y: expected labels; requires y to be passed, but the target y is None")
    check_classification_targets(y)
    labels: Array = column_or_1d(y, warn=True)
    return labels
