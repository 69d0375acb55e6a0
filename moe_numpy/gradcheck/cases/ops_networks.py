"""Gradient checks of the ops that only neural networks need."""
# ruff: noqa: D103 (the name of a case says what it is)

from typing import Any

import numpy as np

from ...nn import Attention, AttentionParts, LatentAttention, LatentParts, Rotary
from ...nn.attention import QueryKeyNorm, Temperature
from ...nn.rotary import LongRoPE, YaRN
from ...ops import (
    GELU,
    CausalAttention,
    Clip,
    Concatenate,
    CrossEntropy,
    Dropout,
    FillPlaces,
    LayerNorm,
    LogSoftmax,
    ReLU,
    RMSNorm,
    RotaryEmbedding,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    SwiGLU,
    Tanh,
    Transpose,
)
from . import Built, case

# Activations


@case(ReLU)
def relu(rng: np.random.Generator) -> Built:
    return ReLU.apply, [rng.standard_normal((3, 4))]


@case(Sigmoid)
def sigmoid(rng: np.random.Generator) -> Built:
    return Sigmoid.apply, [3 * rng.standard_normal((3, 4))]


@case(Tanh)
def tanh(rng: np.random.Generator) -> Built:
    return Tanh.apply, [rng.standard_normal((3, 4))]


@case(Softplus)
def softplus(rng: np.random.Generator) -> Built:
    return Softplus.apply, [3 * rng.standard_normal((3, 4))]


@case(GELU)
def gelu_exact(rng: np.random.Generator) -> Built:
    return GELU.apply, [rng.standard_normal((3, 4))]


@case(GELU)
def gelu_tanh(rng: np.random.Generator) -> Built:
    return lambda x: GELU.apply(x, approximate="tanh"), [rng.standard_normal((3, 4))]


@case(SiLU)
def silu(rng: np.random.Generator) -> Built:
    return SiLU.apply, [rng.standard_normal((3, 4))]


@case(SwiGLU)
def swiglu(rng: np.random.Generator) -> Built:
    return SwiGLU.apply, [rng.standard_normal((3, 4)), rng.standard_normal((3, 4))]


@case(Softmax)
def softmax_last_axis(rng: np.random.Generator) -> Built:
    return lambda x: Softmax.apply(x, axis=-1), [rng.standard_normal((3, 4))]


@case(Softmax)
def softmax_first_axis(rng: np.random.Generator) -> Built:
    return lambda x: Softmax.apply(x, axis=0), [rng.standard_normal((3, 4))]


@case(LogSoftmax)
def log_softmax_last_axis(rng: np.random.Generator) -> Built:
    return LogSoftmax.apply, [rng.standard_normal((3, 4))]


@case(LogSoftmax)
def log_softmax_middle_axis(rng: np.random.Generator) -> Built:
    return lambda x: LogSoftmax.apply(x, axis=1), [rng.standard_normal((3, 4, 2))]


# Normalisation


@case(RMSNorm)
def rms_norm(rng: np.random.Generator) -> Built:
    return RMSNorm.apply, [rng.standard_normal((2, 3, 4)), rng.standard_normal(4)]


@case(RMSNorm)
def rms_norm_large_eps(rng: np.random.Generator) -> Built:
    return lambda x, w: RMSNorm.apply(x, w, eps=0.5), [rng.standard_normal((3, 4)), rng.standard_normal(4)]


@case(LayerNorm)
def layer_norm_without_bias(rng: np.random.Generator) -> Built:
    return lambda x, w: LayerNorm.apply(x, w, None), [rng.standard_normal((3, 5)), rng.standard_normal(5)]


@case(LayerNorm)
def layer_norm(rng: np.random.Generator) -> Built:
    return LayerNorm.apply, [rng.standard_normal((2, 3, 4)), rng.standard_normal(4), rng.standard_normal(4)]


# Attention


@case(RotaryEmbedding)
def rotary_embedding_with_offset(rng: np.random.Generator) -> Built:
    return lambda x: RotaryEmbedding.apply(x, offset=5, base=100.0), [rng.standard_normal((2, 2, 3, 4))]


@case(RotaryEmbedding)
def rotary_embedding_of_neighbours(rng: np.random.Generator) -> Built:
    settings = {"frequencies": np.array([1.0, 0.3]), "factor": 1.2, "pairing": "neighbours"}
    return lambda x: RotaryEmbedding.apply(x, **settings), [rng.standard_normal((2, 2, 3, 6))]


@case(CausalAttention)
def attention_grouped_heads(rng: np.random.Generator) -> Built:
    return CausalAttention.apply, [rng.standard_normal((2, h, 3, 4)) for h in (4, 2, 2)]


@case(CausalAttention)
def attention_more_keys_than_queries(rng: np.random.Generator) -> Built:
    inputs = [rng.standard_normal((1, 2, n, 4)) for n in (2, 5, 5)]
    return lambda q, k, v: CausalAttention.apply(q, k, v, scale=0.7), inputs


@case(CausalAttention, Transpose)
def attention_on_transposed_views(rng: np.random.Generator) -> Built:
    def f(q: Any, k: Any, v: Any) -> Any:
        return CausalAttention.apply(*[Transpose.apply(x, axes=(0, 2, 1, 3)) for x in (q, k, v)])

    return f, [rng.standard_normal((2, 3, h, 4)) for h in (4, 2, 2)]


@case(CausalAttention, FillPlaces)
def attention_with_padding(rng: np.random.Generator) -> Built:
    layer = Attention(4, 2, 1, rng=rng, dtype=np.float64)
    mask = np.array([[True, False, True, True], [False, False, True, True], [True, True, False, False]])
    return lambda x: layer(x, mask=mask), [rng.standard_normal((3, 4, 4))]


@case(CausalAttention)
def attention_in_windows(rng: np.random.Generator) -> Built:
    inputs = [rng.standard_normal((1, 2, n, 4)) for n in (4, 6, 6)]
    return lambda q, k, v: CausalAttention.apply(q, k, v, window=3), inputs


@case(CausalAttention)
def attention_in_chunks_with_wider_values(rng: np.random.Generator) -> Built:
    inputs = [rng.standard_normal((1, 2, 7, width)) for width in (3, 3, 5)]
    return lambda q, k, v: CausalAttention.apply(q, k, v, chunk=3), inputs


@case(CausalAttention)
def attention_with_sinks(rng: np.random.Generator) -> Built:
    inputs = [rng.standard_normal((2, h, 4, 4)) for h in (4, 2, 2)]
    return lambda q, k, v, s: CausalAttention.apply(q, k, v, s, window=2), [*inputs, rng.standard_normal(4)]


@case(CausalAttention, RMSNorm, RotaryEmbedding, Clip)
def attention_from_parts(rng: np.random.Generator) -> Built:
    parts = AttentionParts(
        Rotary(50.0, 2, "neighbours", YaRN(8, 16, attention_factor=1.3)),
        bias=True,
        output_bias=True,
        norm=QueryKeyNorm(),
        clip=1.5,
        window=3,
        sinks=True,
        temperature=Temperature(0.4, 2),
    )
    layer = Attention(4, 2, 1, 4, parts, rng=rng, dtype=np.float64)
    return lambda x: layer(x), [rng.standard_normal((2, 5, 4))]


@case(CausalAttention, RMSNorm)
def attention_normed_over_all_heads(rng: np.random.Generator) -> Built:
    layer = Attention(4, 2, 1, 4, AttentionParts(norm=QueryKeyNorm("width")), rng=rng, dtype=np.float64)
    return lambda x: layer(x), [rng.standard_normal((2, 4, 4))]


@case(CausalAttention, RMSNorm, RotaryEmbedding)
def attention_normed_after_a_long_rotation(rng: np.random.Generator) -> Built:
    rotary = Rotary(scaling=LongRoPE(2, (1.0, 2.0), (3.0, 4.0), 1.1, 1.2))
    parts = AttentionParts(rotary, norm=QueryKeyNorm(after_rotation=True, weighted=False), chunk=3)
    layer = Attention(4, 2, 1, 4, parts, rng=rng, dtype=np.float64)
    return lambda x: layer(x), [rng.standard_normal((2, 4, 4))]


@case(CausalAttention, Concatenate)
def latent_attention(rng: np.random.Generator) -> Built:
    layer = LatentAttention(6, 2, LatentParts(4, 3, 2, 4, 5), rng=rng, dtype=np.float64)
    return lambda x: layer(x), [rng.standard_normal((2, 4, 6))]


# Dropout and loss


@case(Dropout)
def dropout(rng: np.random.Generator) -> Built:
    seed = int(rng.integers(2**32))
    return lambda x: Dropout.apply(x, rate=0.4, rng=np.random.default_rng(seed)), [rng.standard_normal((5, 4))]


@case(CrossEntropy)
def cross_entropy(rng: np.random.Generator) -> Built:
    targets = rng.integers(0, 5, (2, 3))
    return lambda logits: CrossEntropy.apply(logits, targets), [rng.standard_normal((2, 3, 5))]


@case(CrossEntropy)
def cross_entropy_ignoring_some(rng: np.random.Generator) -> Built:
    targets = np.array([0, -1, 2, 4])
    return lambda logits: CrossEntropy.apply(logits, targets, ignore_index=-1), [rng.standard_normal((4, 5))]
