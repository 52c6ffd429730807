"""How a decoder writes while it looks back at what an encoder made of a source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from miniattn import _checks, nn
from miniattn._typing import Array
from miniattn.models import _beams, _choosing, _generate, _parts, _pens, _prompts, _stopping


class SequenceToSequence(nn.Module):
    """What `EncoderDecoder` writes with."""

    input_dim: int | None
    source_tokens: Any
    target_tokens: nn.Embedding
    decoder: nn.TransformerDecoder
    head: nn.Linear

    def generate(
        self,
        source: Any,
        max_new_tokens: int,
        *,
        start: int | Sequence[int],
        **options: Unpack[_generate.Sampling],
    ) -> Any:
        """Return what the decoder writes to each source, without the start token.

        Parameters
        ----------
        source : ids (S,), ids (B, S), or a list of sequences of different lengths
            With ``input_dim`` of features (S, input_dim) in place of ids (S,).
        max_new_tokens : int
        start : int, or ints
            The tokens that the target begins with.
        **options
            As in `stream`.

        Returns
        -------
        ids (n,), ids (B, n), or a list of ids, as the sources were given. With ``stop``, a row of
        an array is filled up with its last token; a list's rows end at it.

        Examples
        --------
        >>> import numpy as np
        >>> from miniattn import models
        >>> model = models.EncoderDecoder(12, embed_dim=16, num_heads=2)
        >>> model.generate(np.array([[5, 6, 7], [8, 9, 10]]), 4, start=0).shape
        (2, 4)
        """
        written = self.stream(source, max_new_tokens, start=start, **options).rows()
        return self._in_form(source, written)

    def stream(
        self,
        source: Any,
        max_new_tokens: int,
        *,
        start: int | Sequence[int],
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        logits_hook: _choosing.LogitsHook | None = None,
        stop: _stopping.Stops | None = None,
        tokenizer: _stopping.Decoder | None = None,
        use_cache: bool = True,
        rng: np.random.Generator | None = None,
    ) -> _generate.Stream:
        """Return an iterator over the new tokens, ids (B,) at a time, as they are chosen.

        The options are those of `GPT.stream`, but the likeliest token is taken by default.
        """
        pen = self._pen(source, max_new_tokens, start, use_cache=use_cache)
        changed = _choosing.changes(logits_hook, repetition_penalty)
        choose = _choosing.sampler(temperature, top_k, top_p, _parts.generator(rng))
        ends = _stopping.stop_of(stop, tokenizer, self._target_vocab_size)
        return _generate.Stream(pen, max_new_tokens, changed, choose, ends)

    def beam_search(
        self,
        source: Any,
        max_new_tokens: int,
        *,
        start: int | Sequence[int],
        beams: int = 4,
        length_penalty: float = 1.0,
        repetition_penalty: float = 1.0,
        logits_hook: _choosing.LogitsHook | None = None,
        stop: _stopping.Stops | None = None,
        tokenizer: _stopping.Decoder | None = None,
        use_cache: bool = True,
    ) -> Any:
        """Return the likeliest text that a beam search finds for each source, without the start.

        The options are those of `GPT.beam_search`.

        Examples
        --------
        >>> import numpy as np
        >>> from miniattn import models
        >>> model = models.EncoderDecoder(12, embed_dim=16, num_heads=2)
        >>> model.beam_search(np.array([[5, 6, 7], [8, 9, 10]]), 4, start=0, beams=3).shape
        (2, 4)
        """
        pen = self._pen(source, max_new_tokens, start, use_cache=use_cache)
        changed = _choosing.changes(logits_hook, repetition_penalty)
        ends = _stopping.stop_of(stop, tokenizer, self._target_vocab_size)
        search = _beams.Search(pen, beams, length_penalty, changed, ends)
        return self._in_form(source, search.rows(max_new_tokens))

    def _pen(
        self,
        source: Any,
        count: int,
        start: int | Sequence[int],
        *,
        use_cache: bool,
    ) -> _pens.SourcePen:
        """Return what the decoder writes with."""
        array, lengths = self._sources(source)
        _checks.integer("max_new_tokens", count, least=0)
        cached = _checks.flag("use_cache", use_cache)
        given = start if np.ndim(start) else [_checks.integer("start", start)]
        starts = _prompts.ids_of("start", given, self._target_vocab_size)
        return _pens.SourcePen(self, array, lengths, count, starts, cached=cached)

    def _in_form(self, source: Any, written: Sequence[Array]) -> Any:
        """Return what was written, in the form of the sources."""
        return _prompts.in_form(source, written, axes=1 if self.input_dim is None else 2)

    def _sources(self, source: Any) -> tuple[Array, Array]:
        """Return sources as one padded array, and their lengths."""
        if self.input_dim is None:
            vocab_size = self.source_tokens.weight.shape[0]
            return _prompts.padded("source", source, vocab_size)
        _checks.sequence("source", source, "features")
        rows = [source] if isinstance(source, np.ndarray) and source.ndim != 3 else list(source)
        if not rows:
            raise ValueError("source: expected at least one sequence of features, got none")
        arrays = [_checks.float_array(f"source[{i}]", row) for i, row in enumerate(rows)]
        for i, array in enumerate(arrays):
            _checks.shape(f"source[{i}]", array, "S, input_dim", {"input_dim": self.input_dim})
        lengths = np.array([len(array) for array in arrays], np.int64)
        padded = np.zeros((len(arrays), lengths.max(initial=0), self.input_dim), arrays[0].dtype)
        for into, array in zip(padded, arrays, strict=True):
            into[: len(array)] = array
        return padded, lengths

    @property
    def _target_vocab_size(self) -> int:
        return len(self.target_tokens.weight.data)
