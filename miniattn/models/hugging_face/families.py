"""The families that are known, by their model_type."""

from __future__ import annotations

from miniattn.models.hugging_face import (
    bert,
    gemma,
    gpt2,
    gpt_neox,
    llama,
    modern_bert,
    t5,
    vision,
    whisper,
)
from miniattn.models.hugging_face.rules import Family

_OTHER_HEADS = (
    r"(pooler|cls|lm_head|classifier|qa_outputs|pre_classifier|vocab_\w+)\."
    r"|embeddings\.position_ids$"
)
FAMILIES = {
    "bert": Family("BERT", bert.bert, r"^bert\.", _OTHER_HEADS),
    "distilbert": Family("DistilBERT", bert.distilbert, r"^distilbert\.", _OTHER_HEADS),
    "roberta": Family("RoBERTa", bert.roberta, r"^roberta\.", _OTHER_HEADS),
    "gpt2": Family("GPT-2", gpt2.gpt2, r"^transformer\.", r"h\.\d+\.attn\.(masked_)?bias$"),
    "opt": Family("OPT", gpt2.opt, r"^(model\.)?decoder\."),
    "llama": Family("Llama", llama.llama),
    "smollm3": Family("SmolLM3", llama.smollm3),
    "mistral": Family("Mistral", llama.mistral),
    "qwen2": Family("Qwen2", llama.qwen2),
    "qwen3": Family("Qwen3", llama.qwen3),
    "olmo2": Family("OLMo2", llama.olmo2),
    "gemma": Family("Gemma", gemma.gemma),
    "gemma2": Family("Gemma 2", gemma.gemma2),
    "gemma3_text": Family("Gemma 3", gemma.gemma3),
    "gpt_neox": Family(
        "GPT-NeoX",
        gpt_neox.gpt_neox,
        r"^gpt_neox\.",
        r"layers\.\d+\.attention\.((masked_)?bias|rotary_emb\.inv_freq)$",
    ),
    "gptj": Family(
        "GPT-J",
        gpt_neox.gptj,
        r"^transformer\.",
        r"h\.\d+\.attn\.((masked_)?bias|embed_positions)$",
    ),
    "phi": Family("Phi", gpt_neox.phi),
    "bloom": Family("BLOOM", gpt_neox.bloom, r"^transformer\."),
    "modernbert": Family(
        "ModernBERT", modern_bert.modernbert, r"^model\.", r"(head|decoder|classifier)\."
    ),
    "clip_text_model": Family(
        "CLIP's text tower",
        modern_bert.clip_text,
        r"^text_model\.",
        r"text_projection\.|embeddings\.position_ids$",
    ),
    "clip": Family(
        "CLIP",
        modern_bert.clip,
        r"^text_model\.",
        r"(vision_model|visual_projection|text_projection)\.|logit_scale$"
        r"|embeddings\.position_ids$",
    ),
    "vit": Family("ViT", vision.vit, r"^vit\.", r"pooler\."),
    "deit": Family("DeiT", vision.deit, r"^deit\.", r"pooler\."),
    "t5": Family(
        "T5", t5.t5, r"^$", r"decoder\.block\.0\.layer\.1\..*relative_attention_bias\.weight$"
    ),
    "mt5": Family(
        "mT5",
        t5.mt5,
        r"^$",
        r"decoder\.block\.0\.layer\.1\..*relative_attention_bias\.weight$",
        may_tie=True,
    ),
    "whisper": Family("Whisper", whisper.whisper),
}
