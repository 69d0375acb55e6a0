import copy
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_numpy import kernels
from moe_numpy.autodiff import Tensor
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.moe import make_layer, recipes
from moe_numpy.nn import LayerNorm, Linear, Module, Parameter, RMSNorm
from moe_numpy.training import AdamW, clip_factor, global_norm

SHAPES = {"weight": (3, 4), "bias": (5,), "scale": (), "empty": (0, 2), "cube": (2, 3, 2)}


def parameters(dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: Tensor(np.asarray(rng.standard_normal(shape), dtype), requires_grad=True, name=name)
        for name, shape in SHAPES.items()
    }


def give_gradients(params, step):
    rng = np.random.default_rng([7, step])
    for p in params.values():
        p.grad = np.asarray(rng.standard_normal(p.shape), p.dtype)


def textbook_adamw(theta, gradients, lrs, scale, beta1, beta2, eps, weight_decay):
    """One number at a time, as on paper."""
    m = v = 0.0
    for t, (g, lr) in enumerate(zip(gradients, lrs, strict=True), start=1):
        g = g * scale
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        theta = theta - lr * (m_hat / (math.sqrt(v_hat) + eps) + weight_decay * theta)
    return theta


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 3e-6)])
def test_equals_the_textbook(dtype, tolerance):
    params = parameters(dtype)
    before = {name: p.data.copy() for name, p in params.items()}
    optimizer = AdamW(params.items(), lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.2)
    lrs = [0.1, 0.05, 0.1, 0.02]
    history = {name: [] for name in params}
    for step, lr in enumerate(lrs):
        give_gradients(params, step)
        for name, p in params.items():
            history[name].append(p.grad.copy())
        optimizer.step(lr=None if lr == 0.1 else lr, gradient_scale=0.5)
    for name, p in params.items():
        decay = 0.2 if p.ndim >= 2 else 0.0
        for i in np.ndindex(p.shape):
            expected = textbook_adamw(
                float(before[name][i]), [float(g[i]) for g in history[name]], lrs, 0.5, 0.8, 0.9, 1e-3, decay
            )
            assert p.data[i] == pytest.approx(expected, abs=tolerance), (name, i)


def test_the_first_step_moves_by_the_learning_rate_whatever_the_gradient():
    p = Tensor(np.array([1.0, 1.0, 1.0]), requires_grad=True)
    p.grad = np.array([1e-3, -5.0, 1e4])
    AdamW([("p", p)], lr=0.1).step()
    np.testing.assert_allclose(p.data, [0.9, 1.1, 0.9], rtol=1e-4)


def test_decay_can_be_chosen_by_name_and_is_decoupled_from_the_gradient():
    params = parameters()
    before = {name: p.data.copy() for name, p in params.items()}
    optimizer = AdamW(params.items(), lr=0.1, weight_decay=0.5, decay=lambda name, p: name == "bias")
    for p in params.values():
        p.grad = np.zeros_like(p.data)
    optimizer.step()
    for name, p in params.items():
        np.testing.assert_allclose(p.data, before[name] * (0.95 if name == "bias" else 1.0), rtol=1e-15)


def test_parameters_change_in_place_and_gradients_do_not():
    params = parameters(np.float32)
    arrays = {name: p.data for name, p in params.items()}
    optimizer = AdamW(params.items(), lr=0.1)
    give_gradients(params, 0)
    gradients = {name: p.grad.copy() for name, p in params.items()}
    for p in params.values():
        p.grad.flags.writeable = False
    optimizer.step(lr=np.float64(0.1), gradient_scale=np.float64(0.5))
    for name, p in params.items():
        assert p.data is arrays[name]
        assert p.dtype == np.float32
        np.testing.assert_array_equal(p.grad, gradients[name])


def test_a_strided_parameter_and_a_shared_gradient():
    whole = np.ones((4, 6), np.float32)
    view = Tensor(whole[:, ::2], requires_grad=True)
    plain = Tensor(np.ones((4, 3), np.float32), requires_grad=True)
    view.grad = plain.grad = np.arange(12, dtype=np.float32).reshape(3, 4).T
    AdamW([("view", view), ("plain", plain)], lr=0.1).step()
    np.testing.assert_array_equal(whole[:, ::2], plain.data)
    np.testing.assert_array_equal(whole[:, 1::2], 1.0)


def test_a_parameter_that_could_not_change_in_place_is_refused():
    pytest.importorskip("numba")
    p = Tensor(np.ones((4, 6), np.float32)[:, :3], requires_grad=True)
    p.grad = np.ones((4, 3), np.float32)
    with kernels.use("numba"), pytest.raises(ValueError, match="entries must be evenly spaced"):
        AdamW([("p", p)], lr=0.1).step()


def test_moments_of_half_precision_are_float32():
    p = Tensor(np.ones((2, 2), np.float16), requires_grad=True)
    p.grad = np.full((2, 2), 1e-4, np.float16)  # its square is no float16
    optimizer = AdamW([("p", p)], lr=0.125)
    optimizer.step()
    assert optimizer.first["p"].dtype == optimizer.second["p"].dtype == np.float32
    assert p.dtype == np.float16
    np.testing.assert_allclose(p.data, 0.8625, rtol=1e-3)


def test_no_large_temporaries():
    p = Tensor(np.ones((512, 512), np.float32), requires_grad=True)
    p.grad = np.ones((512, 512), np.float32)
    optimizer = AdamW([("p", p)], lr=0.1)
    optimizer.step()
    global_norm([p.grad])  # compiled, where it was not yet
    tracemalloc.start()
    try:
        optimizer.step()
        global_norm([p.grad])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < p.data.nbytes / 4


def test_saved_and_loaded_it_continues_bit_by_bit():
    straight, resumed = parameters(np.float32), parameters(np.float32)
    first, interrupted = AdamW(straight.items(), lr=0.1), AdamW(resumed.items(), lr=0.1)
    for step in range(3):
        for params, optimizer in ((straight, first), (resumed, interrupted)):
            give_gradients(params, step)
            optimizer.step()
    state = {name: array.copy() for name, array in interrupted.state_dict().items()}
    again = AdamW(resumed.items(), lr=0.1)
    again.load_state_dict(state)
    for step in range(3, 6):
        for params, optimizer in ((straight, first), (resumed, again)):
            give_gradients(params, step)
            optimizer.step()
    for name in straight:
        assert straight[name].data.tobytes() == resumed[name].data.tobytes()
    for name, array in first.state_dict().items():
        assert array.tobytes() == again.state_dict()[name].tobytes(), name
    assert again.state_dict()["step"] == 6


def test_state_names_and_refusal_of_a_foreign_state():
    p = Tensor(np.ones((2, 2), np.float32), requires_grad=True)
    optimizer = AdamW([("a", p)], lr=0.1)
    state = optimizer.state_dict()
    assert list(state) == ["step", "first.a", "second.a"]
    with pytest.raises(ValueError, match=r"missing \['second\.a'\], unknown \['second\.b'\]"):
        optimizer.load_state_dict({"step": state["step"], "first.a": state["first.a"], "second.b": p.data})
    with pytest.raises(ValueError, match=r"second\.a has shape \(2, 2\), the state has \(3,\)"):
        optimizer.load_state_dict({"step": np.array(9), "first.a": p.data, "second.a": np.ones(3)})
    assert optimizer.steps == 0
    assert not optimizer.first["a"].any()


def test_a_missing_gradient_is_named_and_nothing_changes():
    params = parameters()
    optimizer = AdamW(params.items(), lr=0.1)
    give_gradients(params, 0)
    params["bias"].grad = params["cube"].grad = None
    before = {name: p.data.copy() for name, p in params.items()}
    with pytest.raises(RuntimeError, match=r"no gradient for bias, cube: .*requires_grad=False"):
        optimizer.step()
    for name, p in params.items():
        np.testing.assert_array_equal(p.data, before[name])
    assert optimizer.steps == 0


def test_a_frozen_parameter_stays():
    params = parameters()
    optimizer = AdamW(params.items(), lr=0.1)
    give_gradients(params, 0)
    frozen = params["weight"]
    frozen.requires_grad, frozen.grad = False, None
    before = frozen.data.copy(), params["bias"].data.copy()
    optimizer.step()
    np.testing.assert_array_equal(frozen.data, before[0])
    assert (params["bias"].data != before[1]).all()


def test_a_tied_parameter_is_updated_once():
    p = Tensor(np.zeros(2), requires_grad=True)
    p.grad = np.ones(2)
    optimizer = AdamW([("embedding", p), ("unembedding", p)], lr=0.1)
    optimizer.step()
    np.testing.assert_allclose(p.data, -0.1)
    assert "first.unembedding" not in optimizer.state_dict()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -0.1}, "lr must be a number of at least 0, got -0.1"),
        ({"lr": math.nan}, "lr must be a number of at least 0, got nan"),
        ({"eps": -1e-8}, "eps must be"),
        ({"weight_decay": math.inf}, "weight_decay must be"),
        ({"betas": (0.9, 1.0)}, r"betas must be at least 0 and below 1, got \(0.9, 1.0\)"),
        ({"named_parameters": []}, "no parameters"),
        (
            {"named_parameters": [(n, Tensor(np.ones(1), requires_grad=True)) for n in "aa"]},
            "two parameters are named 'a'",
        ),
    ],
)
def test_refused_settings(settings, message):
    defaults = {"named_parameters": parameters().items(), "lr": 0.1}
    with pytest.raises(ValueError, match=message):
        AdamW(**(defaults | settings))


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), max_size=20), max_size=4))
def test_global_norm_is_the_norm_of_all_entries(entries):
    arrays = [np.array(e, np.float32) for e in entries]
    expected = math.sqrt(math.fsum(float(x) ** 2 for a in arrays for x in a))
    assert global_norm(arrays) == pytest.approx(expected, rel=1e-12)


def test_global_norm_in_float64_and_of_any_layout():
    assert global_norm([np.full((2, 2), 1e30, np.float32)]) == pytest.approx(2e30)  # the squares are no float32
    many = np.full(2**20, 0.1, np.float32)
    assert global_norm([many]) == pytest.approx(float(np.float32(0.1)) * 1024, rel=1e-12)
    assert global_norm([np.arange(6.0).reshape(2, 3).T, np.array(3.0)]) == pytest.approx(8.0)
    assert math.isnan(global_norm([np.array([1.0, np.nan])]))
    assert global_norm([np.array([1.0, -np.inf])]) == math.inf


def test_clip_factor():
    assert clip_factor(0.0, 1.0) == clip_factor(1.0, 1.0) == 1.0
    assert clip_factor(4.0, 1.0) == 0.25
    for norm, max_norm, message in (
        (math.nan, 1.0, "norm must be finite and at least 0, got nan"),
        (math.inf, 1.0, "norm must be finite"),
        (-1.0, 1.0, "norm must be finite"),
        (1.0, 0.0, r"max_norm must be positive, got 0\.0"),
        (1.0, math.nan, "max_norm must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            clip_factor(norm, max_norm)


def narrow(values):
    p = Tensor(np.array(values, np.float16), requires_grad=True)
    return p, AdamW([("p", p)], lr=1e-4, weight_decay=0.0)


def test_a_narrow_parameter_follows_its_float32_master():
    p, optimizer = narrow([1.0, -2.0])
    exact = Tensor(p.data.astype(np.float32), requires_grad=True)
    reference = AdamW([("p", exact)], lr=1e-4, weight_decay=0.0)
    for step in range(20):
        p.grad = np.array([0.5, -1.0], np.float16) * (step + 1)
        exact.grad = p.grad.astype(np.float32)
        optimizer.step()
        reference.step()
    assert optimizer.master["p"].dtype == np.float32
    np.testing.assert_allclose(optimizer.master["p"], exact.data, rtol=1e-6)
    np.testing.assert_array_equal(p.data, optimizer.master["p"].astype(np.float16))
    assert (p.data != [1.0, -2.0]).all()  # one step of 1e-4 is a tenth of what float16 can tell from 1


def test_masters_are_saved_and_restored_exactly():
    p, optimizer = narrow([1.0])
    p.grad = np.array([1.0], np.float16)
    optimizer.step()
    state = {name: array.copy() for name, array in optimizer.state_dict().items()}
    assert sorted(state) == ["first.p", "master.p", "second.p", "step"]
    other, restored = narrow(p.data)
    assert restored.master["p"].tolist() != optimizer.master["p"].tolist()
    restored.load_state_dict(state)
    for _ in range(3):
        p.grad = other.grad = np.array([0.3], np.float16)
        optimizer.step()
        restored.step()
    assert restored.master["p"].tolist() == optimizer.master["p"].tolist()


def test_a_frozen_narrow_parameter_stays():
    p, optimizer = narrow([1.0])
    q = Tensor(np.ones(1), requires_grad=True)
    optimizer = AdamW([("p", p), ("q", q)], lr=0.1)
    p.data[:] = 3
    p.requires_grad, q.grad = False, np.ones(1)
    optimizer.step()
    assert p.data.tolist() == [3.0]


def test_the_norm_of_narrow_gradients_is_not_summed_in_their_type():
    assert global_norm([np.full(100_000, 0.01, np.float16)]) == pytest.approx(math.sqrt(10), rel=1e-3)


def decayed(module, **settings):
    """The names of the parameters that weight decay changes: those that are 0.95 instead of 1 after a step."""
    for p in module.parameters():
        p.data[...] = 1
        p.grad = np.zeros_like(p.data)
    AdamW(module.named_parameters(), lr=0.1, weight_decay=0.5, **settings).step()
    values = {name: np.unique(p.data).tolist() for name, p in module.named_parameters()}
    assert all(v in ([1.0], [np.float32(0.95)]) for v in values.values())
    return {name for name, v in values.items() if v != [1.0]}


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_weight_decay_is_for_weights_and_not_for_biases_whatever_their_axes(recipe):
    published = recipes.find(recipe)
    layer = make_layer(published(**published.small), 4, 6, 8, rng=np.random.default_rng(0))
    names = {name for name, _ in layer.named_parameters()}
    assert decayed(layer) == {name for name in names if not name.endswith("bias")}


def test_weight_decay_spares_norms_and_can_be_chosen():
    model = Transformer(ModelConfig(num_layers=1, d_model=8, context=8), rng=np.random.default_rng(0))
    names = {name for name, _ in model.named_parameters()}
    assert decayed(model) == {name for name in names if "norm" not in name}
    assert decayed(LayerNorm(3)) == set()
    linear = Linear(2, 3, bias=True, rng=np.random.default_rng(0))
    assert decayed(linear) == {"weight"}
    assert decayed(linear, decay=lambda name, p: name == "bias") == {"bias"}
    linear.bias = Parameter(np.zeros(3, np.float32), decay=True)
    linear.weight = Parameter(np.zeros((3, 2), np.float32), decay=False)
    assert decayed(linear) == {"bias"}


def test_what_was_said_of_a_parameter_wins_over_its_axes_and_its_name():
    module = Module()
    module.matrix, module.scale = Parameter(np.zeros((2, 2))), Parameter(np.zeros(2))
    module.stacked_bias = Parameter(np.zeros((2, 2)))
    assert decayed(module) == {"matrix"}
    module.matrix.decay, module.scale.decay, module.stacked_bias.decay = False, True, True
    assert decayed(module) == {"scale", "stacked_bias"}


def test_the_norm_leaves_out_frozen_parameters():
    assert global_norm([None, np.array([3.0]), None, np.array([4.0])]) == 5
    assert global_norm([None]) == global_norm([]) == 0


def test_with_everything_frozen_a_step_changes_nothing():
    params = parameters()
    before = {name: p.data.copy() for name, p in params.items()}
    optimizer = AdamW(params.items(), lr=0.1)
    for p in params.values():
        p.requires_grad = False
    optimizer.step(gradient_scale=clip_factor(global_norm(p.grad for p in params.values()), 1.0))
    for name, p in params.items():
        np.testing.assert_array_equal(p.data, before[name])


def test_a_replaced_parameter_is_noticed_and_a_list_of_pairs_is_taken_as_it_is():
    module = RMSNorm(3)
    whole, some = (AdamW(pairs, lr=0.1) for pairs in (module.named_parameters(), list(module.named_parameters())))
    module.weight.grad = np.ones(3, np.float32)
    old, module.weight = module.weight, Parameter(np.ones(3, np.float32))
    module.weight.grad = np.ones(3, np.float32)
    with pytest.raises(RuntimeError, match="weight came into the RMSNorm after this optimizer was made"):
        whole.step()
    assert whole.steps == 0
    some.step()
    assert (old.data != 1).all()


def test_an_optimizer_can_be_copied_with_its_model():
    module = RMSNorm(3)
    optimizer = AdamW(module.named_parameters(), lr=0.1)
    copied, other = copy.deepcopy((module, optimizer))
    copied.weight.grad = np.ones(3, np.float32)
    other.step()
    assert (copied.weight.data != 1).all()
    assert (module.weight.data == 1).all()
