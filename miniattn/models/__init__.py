"""Toy transformers, whole: the models that people build first."""

from miniattn import _lazy
from miniattn.models._load import load
from miniattn.models.classifier import SequenceClassifier, SequenceClassifierContext
from miniattn.models.encoder_decoder import EncoderDecoder, EncoderDecoderContext
from miniattn.models.gpt import GPT, GPTContext
from miniattn.models.text_encoder import TextEncoder, TextEncoderContext

__all__ = [
    "GPT",
    "EncoderDecoder",
    "EncoderDecoderContext",
    "GPTContext",
    "SequenceClassifier",
    "SequenceClassifierContext",
    "TextEncoder",
    "TextEncoderContext",
    "load",
]

__dir__ = _lazy.listed(__name__, __all__)
