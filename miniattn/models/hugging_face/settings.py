"""The settings of a ``config.json``: each is read by a family or refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# What changes no number that a model computes: names of tokens, how weights started, what only
# training sees (dropout), and what generation does unless it is told otherwise.
_NAMES = """
_name_or_path architectures model_type torch_dtype dtype transformers_version auto_map prefix
bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id mask_token_id unk_token_id
decoder_start_token_id initializer_range initializer_factor use_cache id2label label2id
problem_type return_dict output_hidden_states output_attentions torchscript use_bfloat16
chunk_size_feed_forward is_encoder_decoder finetuning_task task_specific_params
gradient_checkpointing classifier_dropout hidden_dropout_prob attention_probs_dropout_prob
dropout attention_dropout seq_classif_dropout qa_dropout hidden_dropout resid_pdrop embd_pdrop
attn_pdrop summary_type summary_use_proj summary_activation summary_first_dropout
summary_proj_to_labels sinusoidal_pos_embds cache_implementation cross_attention_hidden_size
max_window_layers embedding_dropout mlp_dropout classifier_pooling classifier_bias
classifier_activation decoder_bias deterministic_flash_attn reference_compile
repad_logits_with_grad sparse_prediction sparse_pred_ignore_index initializer_cutoff_factor
bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping
encoder_no_repeat_ngram_size exponential_decay_length_penalty forced_bos_token_id
forced_eos_token_id forced_decoder_ids length_penalty max_length min_length no_repeat_ngram_size
num_beam_groups num_beams num_return_sequences output_scores remove_invalid_values
repetition_penalty return_dict_in_generate suppress_tokens temperature tf_legacy_loss
tie_encoder_decoder tokenizer_class top_k top_p typical_p
"""
WITHOUT_EFFECT = frozenset(re.findall(r"\w+", _NAMES))
_MISSING = object()


class Settings:
    """Settings by name, which are taken one by one."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._left = dict(given)

    def take(self, *names: str, default: Any = _MISSING) -> Any:
        """Return the setting of the first of ``names`` that is there, or ``default``."""
        found = [self._left.pop(name) for name in names if name in self._left]
        if found:
            return found[0]
        if default is _MISSING:
            raise ValueError(f"config.json: expected a setting {names[0]!r}, got none")
        return default

    def look(self, name: str) -> Any:
        """Return a setting that is taken later on."""
        value = self.take(name)
        self._left[name] = value
        return value

    def default(self, name: str, value: Any) -> None:
        """Set ``name`` where it is not given."""
        self._left.setdefault(name, value)

    def expect(self, name: str, *allowed: Any) -> None:
        """Raise unless a setting, if it is there, is one of ``allowed``."""
        value = self._left.pop(name, allowed[0])
        if value not in allowed:
            raise ValueError(f"config.json: expected {name} = {allowed[0]!r}, got {value!r}")

    def finish(self) -> None:
        """Raise where settings are left that may change what the model computes."""
        if left := sorted(set(self._left) - WITHOUT_EFFECT):
            raise ValueError(f"config.json: expected settings that are known, got {left}")
