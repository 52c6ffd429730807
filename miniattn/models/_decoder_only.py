"""The way of ids through a decoder-only model: tokens, positions, layers, head, writing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from miniattn import _checks, masks, nn
from miniattn._typing import Array, MaskLike
from miniattn.models import _beams, _choosing, _generate, _parts, _pens, _prompts, _stopping
from miniattn.models._sight import Sight
from miniattn.nn._attention.frame import AttentionFrame
from miniattn.nn._attention.ranks import Ranks
from miniattn.nn._cache import of_layers
from miniattn.nn._replay import Replay


class DecoderOnly(nn.Module):
    """What `GPT` is made of, how far each of its parts takes ids, and how it writes."""

    block_size: int
    tokens: nn.Embedding
    positions: _parts.PositionsLayer
    embed_norm: nn.Module | None
    dropout: nn.Dropout
    ranks: Ranks | None
    blocks: nn.TransformerEncoder
    head: nn.Linear
    softcap: nn.Softcap | None

    def new_caches(
        self, batch_size: int, capacity: int | None = None, *, forget: bool = False
    ) -> list[nn.KVCache]:
        """Return an empty cache for each layer; ``capacity`` is ``block_size`` by default.

        With ``forget`` those of layers with a window hold only what it has (`nn.KVCache`).
        """
        capacity = self.block_size if capacity is None else capacity
        return self.blocks.new_caches(batch_size, capacity, forget=forget)

    def generate(
        self,
        prompts: _prompts.Prompts,
        max_new_tokens: int,
        **options: Unpack[_generate.Writing],
    ) -> Any:
        """Return the prompts, each continued by ``max_new_tokens`` tokens.

        Parameters
        ----------
        prompts : ids (T,), ids (B, T), or a list of sequences of different lengths
        max_new_tokens : int
        **options
            mask, temperature, top_k, top_p, repetition_penalty, logits_hook, stop, tokenizer,
            use_cache and rng, as in `stream`.

        Returns
        -------
        ids (T + n,), ids (B, T + n), or a list of ids, as the prompts were given. With ``stop``,
        a row of an array is filled up with its last token; a list's rows end at it.

        Examples
        --------
        >>> import numpy as np
        >>> from miniattn import models
        >>> model = models.GPT(9, 8, embed_dim=8, num_heads=2, rng=np.random.default_rng(0))
        >>> rows = model.generate([[1, 2, 3], [4]], 2, rng=np.random.default_rng(0))
        >>> [len(row) for row in rows]
        [5, 3]
        """
        written = self.stream(prompts, max_new_tokens, **options).rows()
        return _prompts.continued(prompts, written)

    def stream(
        self,
        prompts: _prompts.Prompts,
        max_new_tokens: int,
        *,
        mask: MaskLike | Sequence[MaskLike] = None,
        temperature: float = 1.0,
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

        Parameters
        ----------
        prompts : ids (T,), ids (B, T), or a list of sequences of different lengths
            One sequence is a batch of one.
        max_new_tokens : int
        mask : Mask or bool array, or a list of one for each layer, optional
            What a token sees, in place of ``masks.causal()``, as in `forward`, over the whole text:
            T = S = the longest prompt and ``max_new_tokens``. A prompt's tokens may see each other,
            later ones what stands before them, so that ``masks.prefix(lengths)``, the lengths of
            the prompts, writes as a prefix language model.
        temperature : float
            Divides the logits; 0 takes the most likely token.
        top_k : int, optional
            Keep only the k most likely tokens.
        top_p : float, optional
            Keep only the fewest tokens whose probabilities add up to p (Holtzman et al., 2020).
        repetition_penalty : float
            Logits of tokens that are in a row already, its prompt included, are divided by it
            where they are positive and multiplied where negative (Keskar et al., 2019); 1 for
            none.
        logits_hook : function, optional
            ``hook(logits, texts)`` returns the logits (B, V) that count in place of the model's;
            ``texts`` has the ids of each row so far. Called before all of the above; -inf makes a
            token impossible.
        stop : int, str or several, optional
            Tokens and texts that end their row, which repeats its last token from then on; the
            iterator ends when all rows have. A text counts once it is in what was written, though
            it may begin and end within a token.
        tokenizer : a tokenizer, optional
            Makes texts of ids by its ``decode``, for texts in ``stop``; as `data.Tokenizer` is.
        use_cache : bool
            Keep keys and values of the tokens already seen. The tokens are the same, sooner.
        rng : numpy.random.Generator, optional
            Draws the tokens; None is a fresh unseeded one.

        Notes
        -----
        The context is cut to its last ``block_size`` tokens. From there on the positions shift
        with every token, so that caches are of no use and each token costs a whole forward.
        Where all layers have one window, and positions are told by attention or not at all,
        nothing is cut: the cache holds what the window has, and every token costs the same.
        Under a mask nothing is forgotten, and more than ``block_size`` tokens are a ValueError.

        Examples
        --------
        >>> import numpy as np
        >>> from miniattn import models
        >>> model = models.GPT(9, 8, embed_dim=8, num_heads=2, rng=np.random.default_rng(0))
        >>> [ids.shape for ids in model.stream([1, 2, 3], 2)]
        [(1,), (1,)]
        """
        pen = self._pen(prompts, max_new_tokens, mask, use_cache=use_cache)
        changed = _choosing.changes(logits_hook, repetition_penalty)
        choose = _choosing.sampler(temperature, top_k, top_p, _parts.generator(rng))
        ends = _stopping.stop_of(stop, tokenizer, self.vocab_size)
        return _generate.Stream(pen, max_new_tokens, changed, choose, ends)

    def beam_search(
        self,
        prompts: _prompts.Prompts,
        max_new_tokens: int,
        *,
        mask: MaskLike | Sequence[MaskLike] = None,
        beams: int = 4,
        length_penalty: float = 1.0,
        repetition_penalty: float = 1.0,
        logits_hook: _choosing.LogitsHook | None = None,
        stop: _stopping.Stops | None = None,
        tokenizer: _stopping.Decoder | None = None,
        use_cache: bool = True,
    ) -> Any:
        """Return the prompts, each with the likeliest continuation that a beam search finds.

        A continuation of n tokens scores log p / n^length_penalty. Each step keeps the ``beams``
        likeliest open texts of a row; what ends at ``stop``, or at ``max_new_tokens``, is
        compared by score.

        Parameters
        ----------
        prompts : ids (T,), ids (B, T), or a list of sequences of different lengths
        max_new_tokens : int
        beams : int
            1 takes the likeliest token at each step.
        length_penalty : float
            Above 0 long texts are favoured, the more the larger it is; at 0 short ones.
        mask, repetition_penalty, logits_hook, stop, tokenizer, use_cache
            As in `stream`; the penalty is on log-probabilities here.

        Returns
        -------
        ids (T + n,), ids (B, T + n), or a list of ids, as `generate` does.

        Examples
        --------
        >>> import numpy as np
        >>> from miniattn import models
        >>> model = models.GPT(9, 8, embed_dim=8, num_heads=2, rng=np.random.default_rng(0))
        >>> model.beam_search([1, 2, 3], 4, beams=3).shape
        (7,)
        """
        pen = self._pen(prompts, max_new_tokens, mask, use_cache=use_cache)
        changed = _choosing.changes(logits_hook, repetition_penalty)
        ends = _stopping.stop_of(stop, tokenizer, self.vocab_size)
        search = _beams.Search(pen, beams, length_penalty, changed, ends)
        return _prompts.continued(prompts, search.rows(max_new_tokens))

    def _pen(
        self,
        prompts: _prompts.Prompts,
        count: int,
        mask: MaskLike | Sequence[MaskLike],
        *,
        use_cache: bool,
    ) -> _pens.PromptPen:
        """Return what goes on with the prompts."""
        ids, lengths = _prompts.padded("prompts", prompts, self.vocab_size)
        _checks.integer("max_new_tokens", count, least=0)
        cached = _checks.flag("use_cache", use_cache)
        sight = None
        if mask is not None:
            self._check_uncut(ids.shape[1], count)
            sight = Sight(mask, self.blocks, lengths, ids.shape[1] + count)
        return _pens.PromptPen(self, ids, lengths, count, cached=cached, sight=sight)

    def _check_uncut(self, longest: int, count: int) -> None:
        """Raise where a text would outgrow the model."""
        most = max(self.block_size + 1 - longest, 0)  # the last token is not read
        if count > most:
            raise ValueError(
                f"max_new_tokens: expected at most {most} under a mask, after {longest} tokens and "
                f"with block_size = {self.block_size}, got {count}"
            )

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.head.weight.shape[0]

    @property
    def _forgets(self) -> bool:
        """Whether a window says how far every layer looks back, and no position is too far."""
        attentions = [layer.attn for layer in self.blocks.layers]
        windows = {
            (attn.window, attn.sinks)
            if isinstance(attn, AttentionFrame) and not attn.score
            else None
            for attn in attentions
        }
        if self.positions is not None or self.ranks is not None or len(windows) != 1:
            return False
        (found,) = windows
        return found is not None and found[0] is not None and found[0][0] is not None

    def _next_logits(
        self,
        ids: Array,
        caches: Sequence[nn.KVCache],
        last: Array,
        replay: Replay,
        mask: Sequence[MaskLike] | None = None,
    ) -> Array:
        """Return the logits (B, V) of what follows ``ids`` (B, T), each row up to ``last``."""
        x, places, _ = self._embedded(ids, caches)
        plain = mask is None or all(own is None for own in mask)
        logits = replay.step(self.blocks, self.head, x, caches) if plain else None
        if logits is None:
            x, _ = self._stacked(x, places, caches, mask=mask)
            logits = self.head(x[np.arange(len(ids)), last])
        logits, _ = _parts.through(self.softcap, logits)
        return logits

    def _embedded(
        self,
        ids: Array,
        caches: Sequence[nn.KVCache] | None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Array, Array, tuple[Any, Any, Any, Any]]:
        """Return the vectors (B, T, E) that the layers read, where they are, and contexts."""
        ids = _checks.int_array("ids", ids)
        _checks.shape("ids", ids, "B, T")
        known = of_layers(caches, len(self.blocks.layers))
        first = known[0] if known else None
        places, length = _parts.places(ids.shape[1], first, self.ranks)
        if isinstance(self.positions, nn.LearnedPositions):
            _parts.check_length(length, self.block_size)
        x, tokens = self.tokens.forward(ids)
        x, positions = _parts.add_positions(self.positions, x, places)
        x, norm = _parts.through(self.embed_norm, x)
        x, dropout = self.dropout.drop(x, rng)
        return x, places, (tokens, positions, norm, dropout)

    def _stacked(
        self,
        x: Array,
        places: Array,
        caches: Sequence[nn.KVCache] | None,
        rng: np.random.Generator | None = None,
        mask: MaskLike | Sequence[MaskLike] = None,
        bias: Array | None = None,
    ) -> tuple[Array, nn.TransformerEncoderContext]:
        """Return what the layers make of x, and their context."""
        if mask is None and not caches:  # with a cache, attention is causal anyway
            mask = masks.causal()
        at = None if self.ranks is None else places
        return self.blocks.forward(x, mask=mask, bias=bias, caches=caches, positions=at, rng=rng)
