"""Toy transformers, whole: the models that people build first."""
