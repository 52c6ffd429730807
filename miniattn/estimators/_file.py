"""An estimator in one file, which holds no code: parameters, settings, and how input is read."""

from __future__ import annotations

from typing import Any

import numpy as np

from miniattn import checkpoint, models
from miniattn.checkpoint import CheckpointError, PathLike
from miniattn.estimators._reading import Scaler, Vocabulary

_KEY = "estimator"


def save(path: PathLike, estimator: Any) -> None:
    """Write a fitted estimator; see `SequenceClassifierEstimator.save`."""
    learned: dict[str, Any] = {
        "kind": estimator.kind_,
        "n_features_in": int(estimator.n_features_in_),
        "feature_names_in": _listed(getattr(estimator, "feature_names_in_", None)),
        "vocabulary": None if estimator.vocabulary_ is None else estimator.vocabulary_.tokens,
        "scaler": None if estimator.scaler_ is None else [x.tolist() for x in estimator.scaler_],
        "classes": _listed(getattr(estimator, "classes_", None)),
        "target_scaler": None,
    }
    if hasattr(estimator, "target_scaler_"):
        learned["target_scaler"] = [x.tolist() for x in estimator.target_scaler_]
        learned["several"] = estimator._several
    about = {
        "class": type(estimator).__name__,
        "parameters": {name: _plain(name, x) for name, x in estimator.get_params().items()},
        "learned": learned,
    }
    checkpoint.save(
        path,
        estimator.model_,
        metadata={_KEY: about},
        architecture=estimator.model_.architecture(),
    )


def load(path: PathLike) -> Any:
    """Read an estimator that its ``save`` wrote.

    Parameters
    ----------
    path : path

    Returns
    -------
    SequenceClassifierEstimator or SequenceRegressor
        Fitted, as it was saved; the history of its training is not in the file.

    Raises
    ------
    CheckpointError
        If the file is damaged, or holds no estimator.

    Examples
    --------
    >>> import tempfile
    >>> from miniattn import estimators
    >>> clf = estimators.SequenceClassifierEstimator(embed_dim=8, num_heads=2, epochs=2)
    >>> clf = clf.fit(["to be", "or not", "to be", "or not"], ["yes", "no", "yes", "no"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     clf.save(f"{folder}/clf.safetensors")
    ...     twin = estimators.load(f"{folder}/clf.safetensors")
    >>> bool((twin.predict_proba(["to be"]) == clf.predict_proba(["to be"])).all())
    True
    """
    from miniattn import estimators

    metadata = checkpoint.load(path).metadata
    about = metadata.get(_KEY) if isinstance(metadata, dict) else None
    if not isinstance(about, dict):
        raise CheckpointError(f"{path}: expected a file that an estimator saved, got none")
    try:
        known = (estimators.SequenceClassifierEstimator, estimators.SequenceRegressor)
        cls = {one.__name__: one for one in known}[about["class"]]
        estimator = cls(**about["parameters"])
        _take_back(estimator, about["learned"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: expected an estimator of this version: {error}") from error
    model: Any = models.load(path)
    estimator.model_ = model
    return estimator


def _take_back(estimator: Any, learned: dict[str, Any]) -> None:
    estimator.kind_ = learned["kind"]
    estimator.n_features_in_ = learned["n_features_in"]
    names, tokens, scaler = (learned[n] for n in ("feature_names_in", "vocabulary", "scaler"))
    if names is not None:
        estimator.feature_names_in_ = np.array(names["values"], dtype=object)
    estimator.vocabulary_ = None if tokens is None else Vocabulary(tokens)
    estimator.scaler_ = None if scaler is None else Scaler(*map(np.asarray, scaler))
    if (classes := learned["classes"]) is not None:
        estimator.classes_ = np.array(classes["values"], dtype=np.dtype(classes["dtype"]))
    if (targets := learned["target_scaler"]) is not None:
        estimator.target_scaler_ = tuple(map(np.asarray, targets))
        estimator._several = learned["several"]


def _listed(values: Any) -> Any:
    """Return an array as JSON holds it."""
    if values is None:
        return None
    dtype = "O" if values.dtype == object else values.dtype.str
    return {"dtype": dtype, "values": [_plain("classes", x) for x in values.tolist()]}


def _plain(name: str, value: Any) -> Any:
    """Return a setting as JSON holds it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.random.RandomState | np.random.Generator):
        return None  # it is of training alone
    if isinstance(value, dict):
        if any(not isinstance(key, str) for key in value):
            return None  # weights of classes: of training alone, too
        return {key: _plain(name, item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name}: expected what a file can hold, a number or a string, got {value!r}")
