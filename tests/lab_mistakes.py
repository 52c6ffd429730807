"""Three typical wrong answers to every exercise, as people write them, and what each comes from.

Each is an edit of the solution's text: what is replaced, and by what. They are written by hand, and
not by the generator of bugs, whose catalogue the checker knows.
"""

TYPICAL = {
    "softmax_stable": [
        ("total = e.sum(-1, keepdims=True)", "total = e.sum()", "axis"),
        ("y = e / total", "y = e", "factor"),
        ("top = x.max(-1, keepdims=True)", "top = x.max(0, keepdims=True)", "axis"),
    ],
    "softmax": [
        ("dx = y * (dy - dot)", "dx = y * dy", "term"),
        ("dot = (y * dy).sum(-1, keepdims=True)", "dot = dy.sum(-1, keepdims=True)", "factor"),
        ("dot = (y * dy).sum(-1, keepdims=True)", "dot = (y * dy).sum()", "axis"),
    ],
    "softmax_temperature": [
        ("dx = dz / temperature", "dx = dz", "factor"),
        ("dx = dz / temperature", "dx = dz * temperature", "factor"),
        ("dz = y * (dy - dot)", "dz = y * (dot - dy)", "sign"),
    ],
    "softmax_masked": [
        ("seen = np.where(mask, dy, 0.0)", "seen = dy", "mask"),
        ("seen = np.where(mask, dy, 0.0)", "seen = np.where(~mask, dy, 0.0)", "mask"),
        ("dx = y * (seen - dot)", "dx = seen - dot", "factor"),
    ],
    "logsumexp": [
        ("dx = p * dlse[:, None]", "dx = p", "factor"),
        ("p = np.exp(x - lse[:, None])", "p = np.exp(x)", "term"),
        ("dx = p * dlse[:, None]", "dx = x * dlse[:, None]", "stale"),
    ],
    "log_softmax": [
        ("dx = dy - p * total", "dx = dy - p", "factor"),
        ("p = np.exp(y)", "p = y", "power"),
        ("total = dy.sum(-1, keepdims=True)", "total = dy.mean(-1, keepdims=True)", "mean"),
    ],
    "cross_entropy": [
        ("share = dloss / int(counted.sum())", "share = dloss", "factor"),
        ("error = p - onehot", "error = onehot - p", "sign"),
        ("np.where(counted[:, None], error * share, 0.0)", "error * share", "mask"),
    ],
    "mse": [
        ("dpred = 2.0 * error * share", "dpred = error * share", "factor"),
        ("share = dloss / error.size", "share = dloss", "factor"),
        ("    error = pred - target\n    # loss", "    error = target - pred\n    # loss", "sign"),
    ],
    "linear": [
        ("dx = dy @ weight", "dx = dy @ weight.T", "transposed"),
        ("dbias = rows.sum(0)", "dbias = rows.mean(0)", "mean"),
        ("dweight = rows.T @ x", "dweight = -rows.T @ x", "sign"),
    ],
    "embedding": [
        ("np.add.at(dweight, ids, dy)", "dweight[ids] += dy", "overwritten"),
        ("np.add.at(dweight, ids, dy)", "dweight[ids] = dy", "overwritten"),
        ("np.add.at(dweight, ids, dy)", "np.add.at(dweight, ids, -dy)", "sign"),
    ],
    "layer_norm": [
        ("dx = (dz - shift - z * stretch) / sigma", "dx = (dz - shift) / sigma", "term"),
        ("dx = (dz - shift - z * stretch) / sigma", "dx = dz - shift - z * stretch", "factor"),
        ("stretch = (dz * z).mean(", "stretch = (dz * z).sum(", "mean"),
    ],
    "layer_norm_affine": [
        (
            "sigma = np.sqrt((d**2).mean(-1, keepdims=True) + eps)\n    z",
            "sigma = np.sqrt((d**2).mean(-1, keepdims=True)) + eps\n    z",
            "eps",
        ),
        ("dz = dy * weight", "dz = dy", "factor"),
        ("dweight = (dy * z).sum(0)", "dweight = (dy * d).sum(0)", "stale"),
    ],
    "rms_norm": [
        ("dx = (dz - z * stretch) / rms", "dx = dz / rms", "term"),
        ("dweight = (dy * z).sum(0)", "dweight = (dy * x).sum(0)", "stale"),
        ("dx = (dz - z * stretch) / rms", "dx = (dz - stretch) / rms", "factor"),
    ],
    "relu": [
        ("open_ = x > 0", "open_ = x < 0", "mask"),
        ("dx = np.where(open_, dy, 0.0)", "dx = np.where(open_, x, 0.0)", "stale"),
        ("dx = np.where(open_, dy, 0.0)", "dx = dy.copy()", "mask"),
    ],
    "tanh": [
        ("slope = 1.0 - y**2", "slope = 1.0 - y", "power"),
        ("slope = 1.0 - y**2", "slope = 1.0 + y**2", "sign"),
        ("dx = dy * slope", "dx = slope", "factor"),
    ],
    "silu": [
        ("slope = s + x * s * (1.0 - s)", "slope = x * s * (1.0 - s)", "term"),
        ("slope = s + x * s * (1.0 - s)", "slope = s + s * (1.0 - s)", "factor"),
        ("slope = s + x * s * (1.0 - s)", "slope = s + x * s * (1.0 + s)", "sign"),
    ],
    "gelu": [
        ("dx = straight + du * C *", "dx = straight + du *", "factor"),
        ("dx = straight + du", "dx = du", "term"),
        ("du = dt * (1.0 - t**2)", "du = dt * (1.0 - t)", "power"),
    ],
    "dropout": [
        ("scaled = dy / (1.0 - p)", "scaled = dy", "factor"),
        ("dx = np.where(keep, scaled, 0.0)", "dx = scaled", "mask"),
        ("scaled = dy / (1.0 - p)", "scaled = dy * (1.0 - p)", "factor"),
    ],
    "rotary": [
        (
            "dx1 = dy1 * cos + dy2 * sin\n    dx2 = dy2 * cos - dy1 * sin",
            "dx1 = dy1 * cos - dy2 * sin\n    dx2 = dy2 * cos - dy1 * sin",
            "sign",
        ),
        ("dx2 = dy2 * cos - dy1 * sin", "dx2 = dy2 * cos", "term"),
        ("dx2 = dy2 * cos - dy1 * sin", "dx2 = dy1 * cos - dy2 * sin", "stale"),
    ],
    "attention_dv": [
        ("dv = weights.T @ dout", "dv = weights @ dout", "transposed"),
        ("dv = weights.T @ dout", "dv = -(weights.T @ dout)", "sign"),
        ("dv = weights.T @ dout", "dv = weights.T @ dout / len(dout)", "mean"),
    ],
    "attention_dweights": [
        ("dweights = dout @ v.T", "dweights = dout @ v", "transposed"),
        ("dweights = dout @ v.T", "dweights = v @ dout.T", "transposed"),
        ("dweights = dout @ v.T", "dweights = -dout @ v.T", "sign"),
    ],
    "attention_dscores": [
        ("dscores = weights * (dweights - delta)", "dscores = weights * dweights", "term"),
        (
            "delta = (weights * dweights).sum(-1, keepdims=True)",
            "delta = (weights * dweights).sum(0, keepdims=True)",
            "axis",
        ),
        ("dscores = weights * (dweights - delta)", "dscores = dweights - delta", "factor"),
    ],
    "attention_dq_dk": [
        ("dq = scale * (dscores @ k)", "dq = dscores @ k", "factor"),
        ("dk = scale * (dscores.T @ q)", "dk = scale * (dscores @ q)", "transposed"),
        ("dk = scale * (dscores.T @ q)", "dk = scale * (dscores.T @ k)", "stale"),
    ],
    "attention": [
        ("dscores = weights * (dweights - delta)", "dscores = weights * dweights", "term"),
        ("dk = scale * (dscores.T @ q)", "dk = dscores.T @ q", "factor"),
        ("dv = weights.T @ dout", "dv = weights @ dout", "transposed"),
    ],
    "causal": [
        ("dw = np.where(seen, dweights, 0.0)", "dw = dweights", "mask"),
        (
            "seen = np.tri(len(scores), dtype=bool)\n    z = np.where(seen, scores, -np.inf)\n"
            "    e = np.exp(z - z.max(-1, keepdims=True))\n    weights",
            "seen = np.tri(len(scores), len(scores), 1, dtype=bool)\n"
            "    z = np.where(seen, scores, -np.inf)\n"
            "    e = np.exp(z - z.max(-1, keepdims=True))\n    weights",
            "offset",
        ),
        ("dscores = weights * (dw - delta)", "dscores = scores * (dw - delta)", "stale"),
    ],
    "padding": [
        (
            "np.where(seen, scale * (q @ k.swapaxes(-1, -2)), -np.inf)",
            "scale * (q @ k.swapaxes(-1, -2))",
            "mask",
        ),
        (
            "lengths[:, None, None]\n    scores = np.where(seen, scale",
            "lengths[:, None, None] - 1\n    scores = np.where(seen, scale",
            "offset",
        ),
        ("dk = scale * (dscores.swapaxes(-1, -2) @ q)", "dk = scale * (dscores @ q)", "transposed"),
    ],
    "grouped_heads": [
        (
            "spread = np.repeat(k, group, axis=0)",
            "spread = np.concatenate([k] * group)",
            "heads",
        ),
        (
            "dspread.reshape(len(k), group, *k.shape[1:]).sum(1)",
            "dspread.reshape(group, len(k), *k.shape[1:]).sum(0)",
            "heads",
        ),
        (
            "dspread.reshape(len(k), group, *k.shape[1:]).sum(1)",
            "dspread.reshape(len(k), group, *k.shape[1:]).mean(1)",
            "mean",
        ),
    ],
    "attention_bias": [
        ("rows = dscores.sum(0)", "rows = dscores.mean(0)", "mean"),
        ("rows = dscores.sum(0)", "rows = dscores[-1]", "broadcast"),
        ("dscores = weights * (dweights - delta)", "dscores = weights * dweights", "term"),
    ],
    "softcap": [
        ("slope = 1.0 - t**2", "slope = 1.0 - t", "power"),
        ("dscores = dcapped * slope", "dscores = dcapped * slope / cap", "factor"),
        ("t = np.tanh(scores / cap)\n    # capped", "t = np.tanh(scores)\n    # capped", "factor"),
    ],
    "attention_dropout": [
        ("dv = used.T @ dout", "dv = weights.T @ dout", "stale"),
        ("np.where(keep, dused / (1.0 - p), 0.0)", "np.where(keep, dused, 0.0)", "factor"),
        ("np.where(keep, dused / (1.0 - p), 0.0)", "dused / (1.0 - p)", "mask"),
    ],
    "online_softmax": [
        ("total = decay * total + weight.sum(-1)", "total = total + weight.sum(-1)", "factor"),
        ("decay = np.exp(old - top)", "decay = np.exp(top - old)", "sign"),
        ("lse = top + np.log(total)", "lse = np.log(total)", "term"),
    ],
    "tiled_forward": [
        ("o = decay[:, None] * o + weight", "o = o + weight", "factor"),
        ("out = o / total[:, None]", "out = o", "factor"),
        ("total = decay * total + weight.sum(-1)", "total = weight.sum(-1)", "term"),
    ],
    "tiled_backward": [
        ("dq += scale * (dscores @ k[tile])", "dq = scale * (dscores @ k[tile])", "overwritten"),
        ("delta = (dout * out).sum(-1)", "delta = (dout * q).sum(-1)", "stale"),
        ("dweights - delta[:, None]", "dweights + delta[:, None]", "sign"),
    ],
    "attention_lse": [
        ("dscores = dscores + weights * dlse", "dscores = dscores - weights * dlse", "sign"),
        ("dscores = dscores + weights * dlse", "dscores = weights * dlse", "term"),
        ("dscores + weights * dlse[:, None]", "dscores + dlse[:, None]", "factor"),
    ],
    "sink": [
        ("dsink = -(share * delta).sum()", "dsink = (share * delta).sum()", "sign"),
        ("dsink = -(share * delta).sum()", "dsink = -delta.sum()", "factor"),
        ("dsink = -(share * delta).sum()", "dsink = -(share * delta).mean()", "mean"),
    ],
    "heads": [
        ("rows = dheads.swapaxes(0, 1)", "rows = dheads", "transposed"),
        ("rows = dheads.swapaxes(0, 1)", "rows = dheads.swapaxes(1, 2)", "transposed"),
        ("dx = rows.reshape(len(rows), -1)", "dx = -rows.reshape(len(rows), -1)", "sign"),
    ],
    "multi_head": [
        ("dx = dq @ Wq + dk @ Wk + dv @ Wv", "dx = dq @ Wq + dk @ Wk", "term"),
        ("dWk = dk.T @ x", "dWk = dq.T @ x", "stale"),
        ("dout = cut(dy @ Wo, H)", "dout = cut(dy, H)", "factor"),
    ],
    "cross_attention": [
        ("dmemory = dk @ Wk + dv @ Wv", "dmemory = dv @ Wv", "term"),
        ("dmemory = dk @ Wk + dv @ Wv", "dmemory = dk @ Wv + dv @ Wv", "stale"),
        ("dq = scale * (dscores @ k)", "dq = dscores @ k", "factor"),
    ],
    "feed_forward": [
        ("dh = np.where(h > 0, da, 0.0)", "dh = da", "mask"),
        ("dW2 = dy.T @ a", "dW2 = dy.T @ h", "stale"),
        ("dh = np.where(h > 0, da, 0.0)", "dh = np.where(da > 0, da, 0.0)", "stale"),
    ],
    "residual": [
        ("dx = dy + dbranch", "dx = dbranch", "term"),
        ("dW = dy.T @ z", "dW = dy.T @ x", "stale"),
        ("dbranch = (dz - z * stretch) / rms", "dbranch = dz - z * stretch", "factor"),
    ],
    "tied_weights": [
        ("np.add.at(dtable, ids, dx)", "dtable[ids] += dx", "overwritten"),
        ("np.add.at(dtable, ids, dx)", "dtable[ids] = dx", "overwritten"),
        ("dx = dlogits @ table", "dx = dlogits @ table.T", "transposed"),
    ],
    "encoder_layer": [
        ("dm = dy + norm_backward(dn, n, rms2)", "dm = norm_backward(dn, n, rms2)", "term"),
        ("dz = dq + dk + dv @ Wv", "dz = dq + dv @ Wv", "term"),
        ("dx = dm + norm_backward", "dx = dy + norm_backward", "stale"),
    ],
    "gpt_step": [
        ("dlogits = (p - onehot) / len(ids)", "dlogits = p - onehot", "factor"),
        ("dx = dq + dk + dv", "dx = dv", "term"),
        ("np.add.at(dtable, ids, dx)", "dtable[ids] += dx", "overwritten"),
    ],
    "clip": [
        ("length = np.sqrt((a**2).sum() + (b**2).sum())", "length = np.sqrt((a**2).sum())", "term"),
        ("clipped_b = b * factor", "clipped_b = b.copy()", "factor"),
        (
            "length = np.sqrt((a**2).sum() + (b**2).sum())",
            "length = (a**2).sum() + (b**2).sum()",
            "factor",
        ),
    ],
    "adam": [
        ("(np.sqrt(vhat) + eps)", "np.sqrt(vhat + eps)", "eps"),
        ("new_v = b2 * v + (1.0 - b2) * grad**2", "new_v = b2 * v + (1.0 - b2) * grad", "power"),
        ("mhat = new_m / (1.0 - b1**t)", "mhat = new_m", "factor"),
    ],
    "weight_decay": [
        ("new = p - lr * pull - lr * step", "new = p - pull - lr * step", "factor"),
        ("new = p - lr * pull - lr * step", "new = p + lr * pull - lr * step", "sign"),
        ("(np.sqrt(v) + eps)", "np.sqrt(v + eps)", "eps"),
    ],
    "lora": [
        ("dbranch = scale * dy", "dbranch = dy.copy()", "factor"),
        ("dx = dy @ W + dh @ A", "dx = dy @ W", "term"),
        ("dA = dh.T @ x", "dA = dh.T @ dy", "stale"),
    ],
}
