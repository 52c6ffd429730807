"""attention_dq_dk: from scores to queries and keys

scores = q k^T / sqrt(D): a product of two things that are both learned, and a factor that both
gradients have.

Shapes: q, dq (T, D), k, dk (S, D), dscores (T, S).
Read: derivations/attention
Hint: scores[i, j] = scale (q[i] . k[j]). For dq sum over j, for dk over i.
Hint: Shapes: (T, D) = (T, S) (S, D), and (S, D) = (S, T) (T, D).
Hint: dq = scale dscores k; dk = scale dscores^T q.
"""

import numpy as np


def score(q, k):
    """Return scores (T, S)."""
    return q @ k.T * q.shape[-1] ** -0.5


def score_backward(dscores, q, k):
    """Return dq (T, D), dk (S, D)."""
    scale = q.shape[-1] ** -0.5
    # scores = scale q k^T
    dq = scale * (dscores @ k)
    dk = scale * (dscores.T @ q)
    return dq, dk


def data(rng):
    """Return the arguments of one check."""
    q, k = rng.standard_normal((2, 4, 3))
    return {"dscores": rng.standard_normal((4, 4)), "q": q, "k": k}
