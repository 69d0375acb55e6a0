"""What published models add to attention, by definition: norms, clipping, temperature, biases, latents."""

import numpy as np
import pytest

from moe_numpy.autodiff import Tensor
from moe_numpy.nn import Attention, AttentionParts, LatentAttention, LatentParts, Rotary
from moe_numpy.nn.attention import QueryKeyNorm, Temperature
from moe_numpy.nn.module import Unfilled
from moe_numpy.nn.rotary import YaRN


def rms(x, weight=1.0, eps=1e-6):
    return weight * x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def rotate(x, base, pairing="halves"):
    """Of [B, H, S, D]."""
    half = x.shape[-1] // 2
    first, second = (
        (slice(0, half), slice(half, None)) if pairing == "halves" else (slice(0, None, 2), slice(1, None, 2))
    )
    angles = np.outer(np.arange(x.shape[2]), base ** (-np.arange(half) / half))
    z = (x[..., first] + 1j * x[..., second]) * np.exp(1j * angles)
    y = np.empty_like(x)
    y[..., first], y[..., second] = z.real, z.imag
    return y


def attend(q, k, v, scale, sees=lambda i, j: j <= i, sinks=None):
    length, group = q.shape[2], q.shape[1] // k.shape[1]
    mask = np.array([[sees(i, j) and j <= i for j in range(length)] for i in range(length)])
    e = np.where(mask, np.exp(q @ k.repeat(group, 1).swapaxes(-1, -2) * scale), 0)
    total = e.sum(-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sinks)[:, None, None]
    o = e / total @ v.repeat(group, 1)
    return o.swapaxes(1, 2).reshape(len(q), length, -1)


def filled(layer):
    """Every parameter random, norms too, and by name."""
    rng = np.random.default_rng(3)
    for parameter in layer.parameters():
        parameter.data = parameter.data + 0.3 * rng.standard_normal(parameter.shape)
    return layer, layer.state_dict()


def split(x, heads):
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


@pytest.mark.parametrize("over", ["head", "width", "after", "after without weights"])
@pytest.mark.parametrize("clip", [None, 0.4])
def test_norms_clipping_and_biases(over, clip):
    after = over.startswith("after")
    norm = QueryKeyNorm("head" if after else over, after, "without" not in over, eps=1e-3)
    parts = AttentionParts(Rotary(50.0), bias=True, output_bias=True, norm=norm, clip=clip, scale=0.7)
    layer, state = filled(Attention(8, 4, 2, 6, parts, rng=np.random.default_rng(0), dtype=np.float64))
    x = np.random.default_rng(1).standard_normal((2, 5, 8))
    cut = (lambda x: x) if clip is None else (lambda x: np.clip(x, -clip, clip))
    ready = {}
    for name, heads in (("query", 4), ("key", 2)):
        y = x @ state[f"{name}.weight"].T + state[f"{name}.bias"]
        weight = state.get(f"{name}_norm", 1.0)
        if over == "width":
            y = rms(y, weight, 1e-3)
        y = split(cut(y), heads)
        if over == "head":
            y = rms(y, weight, 1e-3)
        y = rotate(y, 50.0)
        ready[name] = rms(y, weight, 1e-3) if after else y
    v = split(cut(x @ state["value.weight"].T + state["value.bias"]), 2)
    o = attend(ready["query"], ready["key"], v, 0.7)
    np.testing.assert_allclose(layer(Tensor(x)).data, o @ state["output.weight"].T + state["output.bias"], rtol=1e-10)


def test_sinks_windows_and_temperature_without_rotation():
    parts = AttentionParts(None, sinks=True, window=3, temperature=Temperature(0.5, 4))
    layer, state = filled(Attention(8, 4, 2, 6, parts, rng=np.random.default_rng(0), dtype=np.float64))
    x = np.random.default_rng(1).standard_normal((2, 9, 8))
    q, k, v = (split(x @ state[f"{n}.weight"].T, h) for n, h in (("query", 4), ("key", 2), ("value", 2)))
    q = q * np.array([1 + 0.5 * np.log(1 + np.floor((p + 1) / 4)) for p in range(9)])[:, None]
    o = attend(q, k, v, 6**-0.5, lambda i, j: j > i - 3, state["sinks"])
    np.testing.assert_allclose(layer(Tensor(x)).data, o @ state["output.weight"].T, rtol=1e-10)


@pytest.mark.parametrize("query_rank", [None, 5])
@pytest.mark.parametrize("pairing", ["neighbours", "halves"])
def test_latent_attention(query_rank, pairing):
    parts = LatentParts(query_rank, 7, 6, 4, 5, Rotary(50.0, pairing=pairing), scale=0.4, bias=True)
    layer, s = filled(LatentAttention(8, 3, parts, rng=np.random.default_rng(0), dtype=np.float64))
    x = np.random.default_rng(1).standard_normal((2, 5, 8))
    if query_rank is None:
        q = x @ s["query.weight"].T
    else:
        q = rms(x @ s["query_down.weight"].T + s["query_down.bias"], s["query_norm.weight"]) @ s["query_up.weight"].T
    q = split(q, 3)
    down = x @ s["kv_down.weight"].T + s["kv_down.bias"]
    kv = split(rms(down[..., :7], s["kv_norm.weight"]) @ s["kv_up.weight"].T, 3)
    k_rope = rotate(down[:, None, :, 7:], 50.0, pairing).repeat(3, axis=1)
    q = np.concatenate([q[..., :6], rotate(q[..., 6:], 50.0, pairing)], -1)
    o = attend(q, np.concatenate([kv[..., :6], k_rope], -1), kv[..., 6:], 0.4)
    np.testing.assert_allclose(layer(Tensor(x)).data, o @ s["output.weight"].T + s["output.bias"], rtol=1e-10)


def test_yarn_multiplies_queries_and_keys():
    """So that scores grow by the square of the factor."""
    x = np.random.default_rng(1).standard_normal((1, 4, 8))
    layers = [
        Attention(8, 2, 2, 4, AttentionParts(rotary, scale=scale), rng=np.random.default_rng(0), dtype=np.float64)
        for rotary, scale in ((Rotary(50.0, scaling=YaRN(1.0, 64, attention_factor=1.5)), 1.0), (Rotary(50.0), 2.25))
    ]
    with_factor, scaled = (layer(Tensor(x)).data for layer in layers)
    np.testing.assert_allclose(with_factor, scaled)


def test_unfilled_parts_take_no_memory():
    """A layer of a checkpoint that is yet to be read, here of 8 PB."""
    parts = AttentionParts(bias=True, output_bias=True, sinks=True, norm=QueryKeyNorm("width"))
    layer = Attention(2**24, 2**12, 2**12, 2**13, parts, rng=Unfilled())
    assert layer.num_parameters() > 10**15
    assert all(parameter.data.strides == (0,) * parameter.ndim for parameter in layer.parameters())
