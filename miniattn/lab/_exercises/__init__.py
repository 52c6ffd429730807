"""The exercises, in the order of a course: each file holds a text, what is given, and a solution.

Each file stands alone, because it becomes the file that a learner is given: what is given in one
is given again in the next. Nothing here is imported by the package; `miniattn.lab` reads the files.
"""

ORDER = (
    *("softmax_stable", "softmax", "softmax_temperature", "softmax_masked"),
    *("logsumexp", "log_softmax", "cross_entropy", "mse"),
    *("linear", "embedding", "layer_norm", "layer_norm_affine", "rms_norm"),
    *("relu", "tanh", "silu", "gelu", "dropout", "rotary"),
    *("attention_dv", "attention_dweights", "attention_dscores", "attention_dq_dk", "attention"),
    *("causal", "padding", "grouped_heads", "attention_bias", "softcap", "attention_dropout"),
    *("online_softmax", "tiled_forward", "tiled_backward", "attention_lse", "sink"),
    *("heads", "multi_head", "cross_attention", "feed_forward", "residual", "tied_weights"),
    *("encoder_layer", "gpt_step", "clip", "adam", "weight_decay", "lora"),
)
