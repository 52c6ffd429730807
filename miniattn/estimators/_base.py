"""What the estimators share: reading, building, training, and running in batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from miniattn import optim, trace
from miniattn._typing import Array
from miniattn.data import batches, pad, sorted_by_length
from miniattn.estimators._reading import Read, Scaler, Vocabulary, read
from miniattn.losses import Loss
from miniattn.models import SequenceClassifier
from miniattn.training import EarlyStopping, History, Trainer

_UPDATES = 1_500  # that training takes where epochs is None, within the bounds of _EPOCHS
_EPOCHS = (10, 200)
_EVALUATED = 256  # sequences run together


class SequenceEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """The common part of the classifier and the regressor; see there."""

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
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.num_layers = num_layers
        self.ffn_dim = ffn_dim
        self.pooling = pooling
        self.positions = positions
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_share = validation_share
        self.patience = patience
        self.tokens = tokens
        self.max_vocabulary = max_vocabulary
        self.random_state = random_state
        self.verbose = verbose

    # -- what a kind of estimator says of itself ---------------------------------------------------

    def _targets_fitted(self, y: Any) -> tuple[Array, int]:
        """Return targets as the loss takes them, and how many outputs they need."""
        raise NotImplementedError

    def _loss(self) -> Loss:
        raise NotImplementedError

    def _stratified(self, targets: Array) -> Array | None:
        """Return what a validation share keeps the proportions of."""
        raise NotImplementedError

    # -- training --------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any) -> Self:
        """Train a new model on sequences and their targets.

        Parameters
        ----------
        X : sequences
            A list of arrays (T_i,) or (T_i, width), strings or lists of tokens, of any lengths;
            an array (n, T, width) or (n, T).
        y : (n,) targets

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If ``X`` holds no sequences or what is not finite, or ``y`` does not fit it.
        FloatingPointError
            If training diverged: the loss or a gradient was not finite.
        """
        given = self._taken(X, y, reset=True)
        _same_count(given, y)
        targets, outputs = self._targets_fitted(y)
        rng = self._generator()
        examples = self._prepared_anew(given)
        self.model_ = self._built(outputs, rng)
        train, valid = self._shared_out(examples, targets, rng)
        self.history_ = self._trained(train, valid, rng)
        return self

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))

    def _taken(self, X: Any, y: Any = "no_validation", *, reset: bool) -> Read:
        """Read ``X``; tables are checked as scikit-learn does it, names of columns included."""
        if _is_table(X) and (reset or self.kind_ == "table"):
            X = validate_data(self, X, y, reset=reset, dtype="numeric", accept_sparse=False)
            X = X[0] if isinstance(X, tuple) else X
        given = read(X, self.tokens)
        if given.kind != "table" and reset:
            self.__dict__.pop("feature_names_in_", None)
            self.n_features_in_ = given.items[0].shape[1] if given.kind == "series" else 1
        return given

    def _prepared_anew(self, given: Read) -> list[Array]:
        """Fit what turns sequences into numbers, and return these."""
        self.kind_ = given.kind
        self.vocabulary_: Vocabulary | None = None
        self.scaler_: Scaler | None = None
        if given.kind == "tokens":
            self.vocabulary_ = Vocabulary.fitted(given.items, self.max_vocabulary)
        else:
            self.scaler_ = Scaler.fitted(given.items)
        return self._prepared(given)

    def _prepared(self, given: Read) -> list[Array]:
        """Return sequences as the model takes them."""
        if self.vocabulary_ is not None:
            if given.kind != "tokens":
                raise TypeError("X: expected tokens, as in fit, got numbers")
            return self.vocabulary_(given.items)
        assert self.scaler_ is not None  # it is one or the other
        if given.kind == "tokens" and any(isinstance(t, str) for row in given.items for t in row):
            raise TypeError("X: expected numbers, as in fit, got tokens")
        items = given.items
        if given.kind == "tokens":  # lists of ints, which are numbers where training had numbers
            items = [np.array(row, np.float64)[:, None] for row in items]
        width = len(self.scaler_.mean)
        if items[0].shape[1] != width:
            raise ValueError(f"X: expected width {width} as in fit, got {items[0].shape[1]}")
        return self.scaler_(items)

    def _built(self, outputs: int, rng: np.random.Generator) -> SequenceClassifier:
        given: dict[str, Any]
        if self.vocabulary_ is not None:
            given = {"vocab_size": len(self.vocabulary_)}
        else:
            assert self.scaler_ is not None  # it is one or the other
            given = {"input_dim": len(self.scaler_.mean)}
        return SequenceClassifier(
            outputs,
            embed_dim=self.embed_dim,
            num_heads=self.num_heads,
            num_layers=self.num_layers,
            ffn_dim=self.ffn_dim,
            pooling=self.pooling,  # type: ignore[arg-type]  # checked there
            positions=self.positions,  # type: ignore[arg-type]
            dropout=self.dropout,
            rng=rng,
            **given,
        )

    def _shared_out(
        self, examples: list[Array], targets: Array, rng: np.random.Generator
    ) -> tuple[list[Any], list[Any] | None]:
        """Return the examples to learn from, and with early stopping those to stop by."""
        pairs = list(zip(examples, targets, strict=True))
        if not self.early_stopping:
            return pairs, None
        from sklearn.model_selection import train_test_split

        train, valid = train_test_split(
            np.arange(len(pairs)),
            test_size=self.validation_share,
            random_state=int(rng.integers(2**31 - 1)),
            stratify=self._stratified(targets),
        )
        return [pairs[i] for i in train], [pairs[i] for i in valid]

    def _trained(
        self, train: list[Any], valid: list[Any] | None, rng: np.random.Generator
    ) -> History:
        steps = -(-len(train) // self.batch_size)
        epochs = self.epochs
        if epochs is None:
            epochs = int(np.clip(math.ceil(_UPDATES / steps), *_EPOCHS))
        total = max(1, epochs * steps)
        callbacks = []
        if valid is not None:
            callbacks.append(EarlyStopping(self.patience, restore_best=True))
        trainer = self._trainer(
            rng,
            schedule=optim.cosine(total // 10, total),
            callbacks=callbacks,
        )
        return trainer.fit(train, valid=valid, epochs=epochs)

    def _trainer(self, rng: np.random.Generator, **options: Any) -> Trainer:
        return Trainer(
            self.model_,
            optim.AdamW(self.model_.named_parameters(), lr=self.lr, weight_decay=self.weight_decay),
            loss=self._loss(),
            rng=rng,
            batch_size=self.batch_size,
            clip_norm=1.0,
            pool=20,
            progress=bool(self.verbose),
            **options,
        )

    # -- what a trained model says ----------------------------------------------------------------

    def _outputs(self, X: Any) -> Array:
        """Return what the model makes of each sequence, (n, outputs)."""
        check_is_fitted(self, "model_")
        examples = self._prepared(self._taken(X, reset=False))
        out: Array | None = None
        for index, inputs, lengths in _in_batches(examples):
            y = self.model_(inputs, lengths)
            if out is None:
                out = np.empty((len(examples), *y.shape[1:]), y.dtype)
            out[index] = y
        assert out is not None  # there is a sequence
        return out

    def attention(self, X: Any) -> list[Array]:
        """Return the attention maps of every sequence, each (layers, heads, T_i, T_i).

        Parameters
        ----------
        X : sequences
            As in `fit`.

        Returns
        -------
        list of float32 arrays
            Rows are queries and sum to 1.
        """
        check_is_fitted(self, "model_")
        examples = self._prepared(self._taken(X, reset=False))
        maps: list[Any] = [None] * len(examples)
        for index, inputs, lengths in _in_batches(examples):
            _, t = trace.run(self.model_, inputs, lengths, keep="*.attn.weights")
            layers = np.stack([t[name] for name in t.names], axis=1)  # (B, L, H, T, T)
            for i, length, weights in zip(index, lengths, layers, strict=True):
                maps[i] = weights[:, :, :length, :length].copy()
        return maps

    def save(self, path: Any) -> None:
        """Write the estimator to one safetensors file, which `estimators.load` reads.

        Parameters
        ----------
        path : path
            Replaced if it exists; the folder must exist.
        """
        from miniattn.estimators import _file

        check_is_fitted(self, "model_")
        _file.save(path, self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.non_deterministic = False
        return tags


def _is_table(X: Any) -> bool:
    """Return whether ``X`` is what scikit-learn's own estimators take."""
    if isinstance(X, np.ndarray):
        return X.ndim <= 2 and X.dtype.kind in "biufc"
    if hasattr(X, "columns") or hasattr(X, "toarray"):
        return True
    return isinstance(X, list) and _is_numbers(X)


def _is_numbers(rows: Sequence[Any]) -> bool:
    """Return whether a list has rows of floats of one length, as a table written by hand."""
    lengths = {len(row) for row in rows if isinstance(row, list | tuple)}
    return (
        len(rows) > 0
        and len(lengths) == 1
        and all(isinstance(row, list | tuple) for row in rows)
        and all(isinstance(x, int | float) for row in rows for x in row)
        and any(isinstance(x, float) for row in rows for x in row)
    )


def _same_count(given: Read, targets: Any) -> None:
    if hasattr(targets, "__len__") and len(given.items) != len(targets):
        raise ValueError(
            f"y: expected one target for each of {len(given.items)} sequences, got {len(targets)}; "
            "inconsistent numbers of samples"
        )


def _in_batches(examples: Sequence[Array]) -> Iterator[tuple[Array, Array, Array]]:
    """Yield (which, inputs, lengths): sequences of like length together, padded."""
    pairs = [(x, i) for i, x in enumerate(examples)]
    order, _ = sorted_by_length(pairs)
    for some in batches(pairs, order, _EVALUATED):
        batch = pad(some)
        yield batch.targets, batch.inputs[0], batch.keywords["lengths"]
