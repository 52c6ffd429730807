"""Toy transformers, whole: the models that people build first."""

from miniattn import _lazy
from miniattn.models._adapters import load_adapters, save_adapters
from miniattn.models._load import load
from miniattn.models.classifier import (
    SequenceClassifier,
    SequenceClassifierContext,
    SequenceClassifierGrads,
)
from miniattn.models.encoder_decoder import EncoderDecoder, EncoderDecoderContext
from miniattn.models.gpt import GPT, GPTContext
from miniattn.models.image_classifier import ImageClassifier, ImageClassifierContext
from miniattn.models.text_encoder import TextEncoder, TextEncoderContext

__all__ = [
    "GPT",
    "EncoderDecoder",
    "EncoderDecoderContext",
    "GPTContext",
    "ImageClassifier",
    "ImageClassifierContext",
    "SequenceClassifier",
    "SequenceClassifierContext",
    "SequenceClassifierGrads",
    "TextEncoder",
    "TextEncoderContext",
    "load",
    "load_adapters",
    "save_adapters",
]

__dir__ = _lazy.listed(__name__, __all__)
