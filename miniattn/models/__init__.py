"""Toy transformers, whole: the models that people build first."""

from miniattn.models.classifier import SequenceClassifier, SequenceClassifierContext

__all__ = ["SequenceClassifier", "SequenceClassifierContext"]
