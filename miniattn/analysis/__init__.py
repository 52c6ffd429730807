"""Numbers that people read off attention maps, and off weights. Each has its paper.

``weights`` is a map (..., T, S) as `functional.attention_weights` gives it: rows are queries, each
>= 0 and of any sum: 1 after softmax, less with a learned sink, anything with a sigmoid. What needs
shares divides by the sum and says so; `row_totals` has the sums. Where a query may attend to
nothing the row is 0. Such an empty row has no entropy and no distance: it gives NaN, which
``np.nanmean`` passes over.
"""

from miniattn import _lazy
from miniattn.analysis._averages import Words, mean_over_heads, merge_words, word_groups
from miniattn.analysis._circuits import (
    HeadWeights,
    composition_score,
    copying_score,
    head_weights,
    ov_circuit,
    qk_circuit,
)
from miniattn.analysis._edges import Edges, edge_attribution, edge_names, path_patching
from miniattn.analysis._gradients import gradient_times_attention, weight_gradients
from miniattn.analysis._heads import (
    duplicate_token_score,
    head_similarity,
    induction_score,
    previous_token_score,
)
from miniattn.analysis._links import Links, top_links
from miniattn.analysis._logits import LogitParts, logit_attribution, logit_lens
from miniattn.analysis._metrics import LogitDifference, Metric
from miniattn.analysis._patching import (
    ablation,
    activation_patching,
    attribution_patching,
    heads_of,
    tokens_of,
)
from miniattn.analysis._rows import distance, entropy, row_totals, sink_mass
from miniattn.analysis._stream import (
    ResidualStream,
    StreamParts,
    Sublayer,
    residual_stream,
    stream_parts,
)
from miniattn.analysis._through_layers import flow, rollout

__all__ = [
    "Edges",
    "HeadWeights",
    "Links",
    "LogitDifference",
    "LogitParts",
    "Metric",
    "ResidualStream",
    "StreamParts",
    "Sublayer",
    "Words",
    "ablation",
    "activation_patching",
    "attribution_patching",
    "composition_score",
    "copying_score",
    "distance",
    "duplicate_token_score",
    "edge_attribution",
    "edge_names",
    "entropy",
    "flow",
    "gradient_times_attention",
    "head_similarity",
    "head_weights",
    "heads_of",
    "induction_score",
    "logit_attribution",
    "logit_lens",
    "mean_over_heads",
    "merge_words",
    "ov_circuit",
    "path_patching",
    "previous_token_score",
    "qk_circuit",
    "residual_stream",
    "rollout",
    "row_totals",
    "sink_mass",
    "stream_parts",
    "tokens_of",
    "top_links",
    "weight_gradients",
    "word_groups",
]

__dir__ = _lazy.listed(__name__, __all__)
