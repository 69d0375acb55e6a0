"""Layers on a GPU against the CPU, every recipe; and against float64 at the size of a real layer."""

from dataclasses import replace

import numpy as np
import pytest

from moe_numpy import devices
from moe_numpy.autodiff import Tensor
from moe_numpy.autodiff.arrays import to_host
from moe_numpy.moe import MoE, Recipe, RouterConfig, make_layer, recipes
from moe_numpy.moe.capacity import Capacity
from moe_numpy.moe.selection import TopK

pytestmark = pytest.mark.gpu


def relative(a, b):
    """The norm of a - b over that of b, in float64."""
    a, b = to_host(a).astype(np.float64), to_host(b).astype(np.float64)
    return np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-2)


def run(layer, x, g, device, **inputs):
    """Output, gradients by name, and routing."""
    layer.to(device)
    tokens = Tensor(devices.put(x, device), requires_grad=True)
    y, routing = layer(tokens, **inputs)
    y.backward(devices.put(g, device), retain_graph=True)
    if routing is not None and routing.auxiliary_loss is not None:
        routing.auxiliary_loss.backward()
    layer.after_step()
    gradients = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {"y": y.data, "dx": tokens.grad, **gradients, **{n: b.data for n, b in layer.named_buffers()}}, routing


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("recipe", sorted(recipes.RECIPES))
def test_every_recipe_is_that_of_the_cpu(recipe, training):
    published = recipes.find(recipe)
    rng = np.random.default_rng(2)
    x, g = (rng.standard_normal((2, 24, 16)).astype(np.float32) for _ in range(2))
    ids = rng.integers(0, 256, (2, 24))
    results, routings = [], []
    for device in ("cpu", "cuda"):
        layer = make_layer(published(**published.small), 16, 24, 8, rng=np.random.default_rng(3)).train(training)
        noise = np.random.default_rng(5)  # drawn on the host for both, so that both see the same
        result, routing = run(layer, x, g, device, rng=noise, token_ids=devices.put(ids, device))
        results.append(result)
        routings.append(routing and routing.only_kept())
    if routings[0] is not None:
        for name in ("token", "expert", "offsets"):
            host, other = (to_host(getattr(r, name)) for r in routings)
            np.testing.assert_array_equal(other, host, err_msg=name)
    assert results[0].keys() == results[1].keys()
    for name, expected in results[0].items():
        assert relative(results[1][name], expected) < 1e-5, name


@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("recipe", ["mixtral", "deepseek_v3", "expert_choice", "hierarchical", "soft_moe", "sequence"])
def test_padding_is_that_of_the_cpu(recipe, where):
    """The mask may be on the host or on the GPU."""
    rng = np.random.default_rng(2)
    x, g = (rng.standard_normal((3, 24, 16)).astype(np.float32) for _ in range(2))
    mask = np.arange(24) < np.array([[24], [7], [0]])
    per_sequence = RouterConfig(TopK(2), capacity=Capacity(1.0, scope="sequence"))
    results = []
    for device in ("cpu", "cuda"):
        published = recipes.RECIPES.get(recipe)
        built = Recipe(per_sequence) if published is None else published(**published.small)
        layer = make_layer(built, 16, 24, 8, rng=np.random.default_rng(3)).train()
        given = devices.put(mask, "cuda") if device == where == "cuda" else mask
        results.append(run(layer, x, g, device, rng=np.random.default_rng(5), mask=given)[0])
    for name, expected in results[0].items():
        assert relative(results[1][name], expected) < 1e-5, name


@pytest.mark.parametrize("dispatch", ["sorted", "padded", "onehot", "loop"])
def test_every_dispatch_strategy_is_that_of_the_cpu(dispatch):
    rng = np.random.default_rng(2)
    x, g = (rng.standard_normal((96, 16)).astype(np.float32) for _ in range(2))
    recipe = recipes.mixtral(capacity_factor=1.0)
    host, other = (
        run(MoE(16, 24, 8, recipe, dispatch=dispatch, rng=np.random.default_rng(3)), x, g, device)[0]
        for device in ("cpu", "cuda")
    )
    for name, expected in host.items():
        assert relative(other[name], expected) < 1e-5, name


def test_input_wider_than_the_weights_is_that_of_the_cpu():
    """CuPy draws float64 unless told otherwise."""
    rng = np.random.default_rng(2)
    x, g = (rng.standard_normal((96, 16)) for _ in range(2))
    host, other = (
        run(MoE(16, 24, 8, recipes.mixtral(), rng=np.random.default_rng(3)), x, g, device)[0]
        for device in ("cpu", "cuda")
    )
    for name, expected in host.items():
        assert other[name].dtype == expected.dtype, name
        assert relative(other[name], expected) < 1e-5, name


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-2)])
@pytest.mark.parametrize(("num_experts", "top_k", "d_ff"), [(8, 2, 1024), (64, 8, 128)])
def test_output_and_all_gradients_are_close_to_float64(dtype, tolerance, num_experts, top_k, d_ff):
    float_type = devices.float_type(dtype)
    rng = np.random.default_rng(0)
    x, g = (rng.standard_normal((2048, 512)).astype(float_type) for _ in range(2))
    recipe = recipes.mixtral(top_k=top_k, balance=0.0)
    layer = MoE(512, d_ff, num_experts, recipe, rng=np.random.default_rng(1)).to(dtype=float_type)
    reference = MoE(512, d_ff, num_experts, recipe, rng=np.random.default_rng(1), dtype=np.float64)
    reference.load_state_dict({name: a.astype(np.float64) for name, a in layer.state_dict().items()})
    expected, by_reference = run(reference, x.astype(np.float64), g.astype(np.float64), "cpu")
    found, routing = run(layer, x, g, "cuda")
    np.testing.assert_array_equal(to_host(routing.expert), by_reference.expert)
    for name, value in expected.items():
        assert found[name].dtype == float_type
        assert relative(found[name], value) < tolerance, name


def test_a_device_generator_repeats_itself_and_has_the_right_moments():
    first, again = (devices.generator("cuda", [1, 2, 3]) for _ in range(2))
    for name, arguments, mean, std in [
        ("random", (), 0.5, 12**-0.5),
        ("uniform", (-1, 3), 1.0, 4 * 12**-0.5),
        ("standard_normal", (), 0.0, 1.0),
        ("gumbel", (), 0.5772, np.pi / 6**0.5),
    ]:
        a, b = (to_host(getattr(g, name)(*arguments, size=(300, 1000))) for g in (first, again))
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()
        assert a.mean() == pytest.approx(mean, abs=0.02), name
        assert a.std() == pytest.approx(std, abs=0.02), name
    assert sorted(to_host(first.permutation(1000)).tolist()) == list(range(1000))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("recipe", sorted(recipes.RECIPES))
def test_every_recipe_trains(recipe, dtype):
    """Noise drawn on the GPU, and balancing after the step."""
    published = recipes.find(recipe)
    layer = make_layer(published(**published.small), 16, 24, 8, rng=np.random.default_rng(3))
    layer.to(dtype=devices.float_type(dtype))
    x = np.random.default_rng(2).standard_normal((2, 24, 16)).astype(devices.float_type(dtype))
    ids = devices.put(np.arange(48).reshape(2, 24), "cuda")
    result, _ = run(layer, x, x, "cuda", rng=devices.generator("cuda", 0), token_ids=ids)
    for name, value in result.items():
        assert np.isfinite(to_host(value).astype(np.float64)).all(), name


class Further(TopK):
    """A mistake in a selection of one's own: experts that do not exist."""

    def __init__(self, by):
        super().__init__(2)
        object.__setattr__(self, "by", by)

    def __call__(self, scores, batch):
        """Experts further up or down than meant."""
        candidates = super().__call__(scores, batch)
        return replace(candidates, expert=candidates.expert + self.by)


@pytest.mark.parametrize("num_experts", [8, 1500])  # counted, or sorted by their digits
@pytest.mark.parametrize("by", [1000, -1000, 10**6])
def test_an_expert_that_does_not_exist_answers_nothing(by, num_experts):
    """Nothing waits to find that out, and nothing else is touched."""
    layer = MoE(16, 8, num_experts, RouterConfig(Further(by)), rng=np.random.default_rng(0)).to("cuda")
    x = np.random.default_rng(1).standard_normal((3000, 16)).astype(np.float32)
    x = Tensor(devices.put(x, "cuda"), requires_grad=True)
    y, routing = layer(x)
    y.backward(x.data)
    expert = to_host(routing.trace.candidates.expert).reshape(3000, 2)
    exists = (expert >= 0) & (expert < num_experts)
    nobody = ~exists.any(axis=1)
    assert nobody.any()
    assert not to_host(y.data)[nobody].any()
    assert np.isfinite(to_host(y.data)).all()
    assert np.isfinite(to_host(x.grad)).all()
    np.testing.assert_array_equal(to_host(routing.statistics.load), np.bincount(expert[exists], minlength=num_experts))
    assert to_host(routing.offsets)[-1] == exists.sum()
