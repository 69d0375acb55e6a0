"""Slow, obvious code in plain arrays that the library must agree with."""

import math

import numpy as np

from moe_numpy.moe.experts import GptOssExperts, MLPExperts, SwiGLUExperts, WithZeroExperts
from moe_numpy.ops import ReLU


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(h):
    e = np.exp(h - h.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def expert(experts, e, x):
    """f_e(x) for one token x [d]."""
    if isinstance(experts, WithZeroExperts):
        return expert(experts.real, e, x) if e < experts.num_real else x
    if isinstance(experts, SwiGLUExperts):
        gate, up = np.split(experts.gate_up.data[e] @ x, 2)
        return experts.down.data[e] @ (gate * sigmoid(gate) * up)
    if isinstance(experts, GptOssExperts):
        h = experts.gate_up.data[e] @ x + experts.gate_up_bias.data[e]
        gate, up = np.minimum(h[::2], 7), np.clip(h[1::2], -7, 7)
        return experts.down.data[e] @ ((up + 1) * gate * sigmoid(1.702 * gate)) + experts.down_bias.data[e]
    assert isinstance(experts, MLPExperts)
    h = experts.first.data[e] @ x + experts.first_bias.data[e]
    if experts.activation is ReLU:
        hidden = np.maximum(h, 0)
    else:
        hidden = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in h])
    return experts.second.data[e] @ hidden + experts.second_bias.data[e]


def combined(experts, x, routing):
    """y_t = Σ g f_e(x_t), or Σ f_e(g x_t), one assignment at a time."""
    y = np.zeros_like(x)
    for t, e, w in zip(routing.token, routing.expert, routing.gate.data, strict=True):
        if routing.gate_on == "input":
            y[t] += expert(experts, e, w * x[t])
        else:
            y[t] += w * expert(experts, e, x[t])
    return y


def who_fits(candidates, scores, size, *, drop, tokens_in_scope):
    """Whether each candidate finds a place: one queue for each expert of each scope, formed one by one."""

    def urgency(m):
        token, choice = candidates.token[m], candidates.rank[m]
        if drop == "probability":
            return (-scores[token, candidates.expert[m]], m)
        if drop == "batch_priority":
            return (choice, -scores[token].max(), m)
        return (choice, m)

    fits, taken = [False] * len(candidates.token), {}
    for m in sorted(range(len(fits)), key=urgency):
        queue = (candidates.token[m] // max(tokens_in_scope, 1), candidates.expert[m])
        fits[m] = taken.get(queue, 0) < size
        taken[queue] = taken.get(queue, 0) + 1
    return fits
