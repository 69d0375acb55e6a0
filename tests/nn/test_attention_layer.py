import numpy as np
import pytest

from moe_numpy.autodiff import Tensor, no_grad
from moe_numpy.gradcheck import gradcheck
from moe_numpy.nn import Attention, AttentionParts, KeyValueCache, Rotary


def make(**settings):
    settings = {"d_model": 8, "num_heads": 4, "num_kv_heads": 2, "rng": np.random.default_rng(0)} | settings
    return Attention(**settings)


def test_value_by_definition():
    layer = make(dtype=np.float64, parts=AttentionParts(rotary=Rotary(base=50.0)))
    x = np.random.default_rng(1).standard_normal((2, 5, 8))
    state = layer.state_dict()

    def heads(name, rotated):
        y = x @ state[f"{name}.weight"].T
        y = y.reshape(2, 5, -1, 2).swapaxes(1, 2)
        turn = np.exp(1j * np.arange(5)) if rotated else 1  # a head of width 2 is one complex number
        return (y[..., 0] + 1j * y[..., 1]) * turn

    q = heads("query", True)
    k, v = (heads(name, name == "key").repeat(2, axis=1) for name in ("key", "value"))
    scores = (q[..., :, None] * k[..., None, :].conj()).real / np.sqrt(2)
    p = np.exp(np.where(np.tri(5, dtype=bool), scores, -np.inf))
    o = np.einsum("bhij,bhj->bhi", p / p.sum(-1, keepdims=True), v)
    o = np.stack([o.real, o.imag], -1).swapaxes(1, 2).reshape(2, 5, 8)
    np.testing.assert_allclose(layer(Tensor(x)).data, o @ state["output.weight"].T)


def test_rope_base_reaches_the_rotation():
    x = Tensor(np.random.default_rng(1).standard_normal((1, 4, 8)))
    slow, fast = (
        make(d_head=4, parts=AttentionParts(rotary=Rotary(base=base)), dtype=np.float64)(x).data for base in (1e4, 50.0)
    )
    np.testing.assert_allclose(slow[:, 0], fast[:, 0])  # the first token sees only itself
    assert abs(slow[:, 1:] - fast[:, 1:]).max() > 1e-4


def test_gradients_reach_the_input_and_every_weight():
    layer = make(dtype=np.float64, d_head=6)
    names, weights = zip(*layer.named_parameters(), strict=True)

    def f(x, *new_weights):
        for name, weight in zip(names, new_weights, strict=True):
            getattr(layer, name.removesuffix(".weight")).weight = weight
        return layer(x)

    x = np.random.default_rng(1).standard_normal((2, 3, 8))
    report = gradcheck(f, [x, *(w.data for w in weights)], samples=12)
    report.raise_if_failed()
    assert report.compared == 60


def test_parameters_have_the_shapes_of_published_checkpoints():
    layer = make(d_head=6, output_std=0.0)
    shapes = {name: p.shape for name, p in layer.named_parameters()}
    assert shapes == {
        "query.weight": (24, 8),
        "key.weight": (12, 8),
        "value.weight": (12, 8),
        "output.weight": (8, 24),
    }
    assert all(p.dtype == np.float32 for p in layer.parameters())
    assert not layer.output.weight.data.any()
    assert layer.query.weight.data.any()


@pytest.mark.parametrize("cuts", [[1, 1, 1, 1, 1, 1], [4, 2], [6], [1, 5], [3, 1, 2]])
def test_the_cache_changes_no_output(cuts):
    layer = make(dtype=np.float64)
    x = np.random.default_rng(1).standard_normal((2, 6, 8))
    cache = KeyValueCache((2, 2, 6, 2), dtype=np.float64)
    with no_grad():
        pieces = [layer(Tensor(part), cache).data for part in np.split(x, np.cumsum(cuts)[:-1], axis=1)]
        whole = layer(Tensor(x)).data
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole)
    assert cache.length == 6


def test_float32_stays_with_and_without_a_cache():
    layer, x = make(), Tensor(np.ones((1, 2, 8), np.float32))
    assert layer(x).dtype == np.float32
    with no_grad():
        assert layer(x, KeyValueCache((1, 2, 2, 2))).dtype == np.float32


def test_a_cache_has_no_gradient():
    with pytest.raises(RuntimeError, match=r"attention with a cache has no gradient; run it inside no_grad\(\)"):
        make()(Tensor(np.ones((1, 2, 8), np.float32)), KeyValueCache((1, 2, 2, 2)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads must divide num_heads=4, got 3"),
        ({"num_kv_heads": 0}, "num_kv_heads must be at least 1, got 0"),
        ({"d_model": 10}, "num_heads must divide d_model=10, got 4; or give d_head"),
        ({"d_head": 3}, "d_head must be even, because rotary embedding turns pairs, got 3"),
    ],
)
def test_heads_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_padding_changes_nothing_wherever_it_is():
    """At the right, at the left, between, and everywhere; what stands there is not read."""
    rng = np.random.default_rng(1)
    masks = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    x, cotangent = rng.standard_normal((2, 5, 5, 8))
    layer, alone = make(dtype=np.float64), make(dtype=np.float64)
    padded = Tensor(np.where(masks[..., None], x, np.nan), requires_grad=True)
    y = layer(padded, mask=masks)
    y.backward(cotangent)
    assert (y.data[~masks] == 0).all()
    assert (padded.grad[~masks] == 0).all()
    for b, mask in enumerate(masks):
        if mask.any():
            real = Tensor(x[b : b + 1, mask], requires_grad=True)
            expected = alone(real)
            expected.backward(cotangent[b : b + 1, mask])
            np.testing.assert_allclose(y.data[b, mask], expected.data[0], rtol=1e-12)
            np.testing.assert_allclose(padded.grad[b, mask], real.grad[0], rtol=1e-10)
    for name, p in layer.named_parameters():
        np.testing.assert_allclose(p.grad, dict(alone.named_parameters())[name].grad, rtol=1e-10)


def test_a_mask_of_true_is_no_mask_bit_for_bit():
    x = np.random.default_rng(1).standard_normal((2, 5, 8)).astype(np.float32)
    shown = []
    for mask in (None, np.ones((2, 5), bool)):
        layer, input = make(), Tensor(x, requires_grad=True)
        y = layer(input, mask=mask)
        y.backward(x)
        shown.append([y.data, input.grad, *(p.grad for p in layer.parameters())])
    for plain, masked in zip(*shown, strict=True):
        np.testing.assert_array_equal(plain, masked)


def test_a_cache_holds_real_tokens_only():
    layer, x = make(), Tensor(np.ones((1, 3, 8), np.float32))
    cache = KeyValueCache((1, 2, 5, 2), np.float32, np)
    with no_grad(), pytest.raises(ValueError, match="attention with a cache takes no mask"):
        layer(x, cache=cache, mask=np.array([[True, True, False]]))
    assert cache.length == 0
