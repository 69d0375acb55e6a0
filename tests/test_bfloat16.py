"""bfloat16 through the engine, the kernels and a whole model: stored in 16 bits, computed in float32."""

import ml_dtypes
import numpy as np
import pytest

from moe_numpy.autodiff import Tensor
from moe_numpy.autodiff.arrays import is_float
from moe_numpy.kernels import add_rows
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.moe import MoE, recipes
from moe_numpy.ops import Affine, Cast, CrossEntropy, Sum
from moe_numpy.ops.activations import swiglu_gradient
from moe_numpy.training import AdamW, global_norm, load_checkpoint, save_checkpoint

BF16 = np.dtype(ml_dtypes.bfloat16)


def relative(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_which_types_have_gradients():
    types = [np.float16, np.float32, np.float64, BF16, np.int64, np.uint8, bool, "V2"]
    assert [is_float(np.dtype(t)) for t in types] == [True] * 4 + [False] * 4


def test_a_bfloat16_tensor_has_a_gradient_and_casts_round_it():
    x = Tensor(np.array([1.0, 2.0, 3.0], BF16), requires_grad=True)
    y = Cast.apply(x, dtype=np.float32)
    y.backward(np.array([1.001, 2.0, 3.0], np.float32))
    assert (y.dtype, x.grad.dtype) == (np.float32, BF16)
    assert x.grad.tolist() == [1.0, 2.0, 3.0]
    narrow = Cast.apply(Tensor(np.float32([1.001]), requires_grad=True), dtype=BF16)
    assert narrow.requires_grad
    assert narrow.data.tolist() == [1.0]


def test_a_sum_of_many_rows_is_rounded_once():
    rows, index = np.ones((1000, 2), BF16), np.zeros(1000, np.int64)
    total = add_rows(rows, index, 1)
    assert total.dtype == BF16
    assert total.tolist() == [[1000.0, 1000.0]]  # one by one in bfloat16 it would stay at 256


def test_a_gradient_summed_over_rows_is_rounded_once():
    x, weight, bias, shift = (Tensor(np.ones(shape, BF16), requires_grad=True) for shape in ((1000, 2), (3, 2), 3, 3))
    y = Affine.apply(x, weight, bias) + shift
    y.backward(np.ones_like(y.data))
    assert bias.grad.tolist() == shift.grad.tolist() == [1000.0] * 3
    assert Sum.apply(x, axis=0).data.tolist() == [1000.0] * 2


def test_a_gradient_of_two_parts_has_the_type_of_the_weights():
    gate, up, grad = (np.full((2, 3), v, BF16) for v in (1.0, 2.0, 0.5))
    d = swiglu_gradient(grad, gate, up)
    expected = swiglu_gradient(*(x.astype(np.float32) for x in (grad, gate, up)))
    assert d.dtype == BF16
    np.testing.assert_array_equal(d, expected.astype(BF16))


def run_model(recipe, dtype):
    """Loss, logits and gradients of a model whose weights bfloat16 can hold."""
    config = ModelConfig(d_model=32, num_layers=2, context=16, d_ff=24, recipe=recipe)
    ids = np.random.default_rng(4).integers(0, 256, (2, 17))
    model = Transformer(config, rng=np.random.default_rng(3))
    for p in model.parameters():
        p.data = p.data.astype(BF16).astype(dtype)
    output = model(ids[:, :-1], rng=np.random.default_rng(5))
    loss = CrossEntropy.apply(output.logits, ids[:, 1:])
    (loss if output.auxiliary_loss is None else loss + output.auxiliary_loss).backward()
    return model, output, loss


def test_a_transformer_is_close_to_float32():
    narrow, narrow_output, narrow_loss = run_model("mixtral", BF16)
    wide, wide_output, wide_loss = run_model("mixtral", np.float32)
    assert narrow_output.logits.dtype == BF16
    assert {p.grad.dtype for p in narrow.parameters()} == {BF16}
    assert narrow_loss.dtype == np.float32
    assert narrow_loss.item() == pytest.approx(wide_loss.item(), rel=1e-3)
    assert relative(narrow_output.logits.data, wide_output.logits.data) < 2e-2
    gradients = [np.concatenate([p.grad.reshape(-1) for p in model.parameters()]) for model in (narrow, wide)]
    assert relative(*gradients) < 2e-2


@pytest.mark.parametrize("recipe", sorted(recipes.RECIPES))
def test_every_recipe_routes_in_float32_and_stores_in_bfloat16(recipe):
    model, output, loss = run_model(recipe, BF16)
    assert output.logits.dtype == BF16
    assert loss.dtype == np.float32
    for routing in output.routings:
        if routing is not None:
            assert {routing.trace.logits.dtype, routing.gate.dtype} == {np.dtype(np.float32)}
            assert all(part.dtype == np.float32 for part in routing.losses.values())
    for name, p in model.named_parameters():
        assert p.grad is None or (p.grad.dtype == BF16 and np.isfinite(p.grad.astype(np.float32)).all()), name


@pytest.mark.parametrize("dispatch", ["sorted", "padded", "onehot", "loop"])
def test_every_dispatch_strategy(dispatch):
    results = []
    for dtype in (BF16, np.float32):
        layer = MoE(16, 24, 8, recipes.llama4(), dispatch=dispatch, rng=np.random.default_rng(0))
        for p in layer.parameters():
            p.data = p.data.astype(BF16).astype(dtype)
        x = Tensor(np.random.default_rng(1).standard_normal((64, 16)).astype(BF16).astype(dtype), requires_grad=True)
        y, _ = layer(x)
        y.backward(np.ones_like(y.data))
        results.append([y.data, x.grad, *(p.grad for p in layer.parameters())])
    for narrow, wide in zip(*results, strict=True):
        assert narrow.dtype == BF16
        assert relative(narrow, wide) < 2e-2


def test_a_checkpoint_holds_float32_and_gives_the_same_numbers_back(tmp_path):
    weight = np.random.default_rng(0).standard_normal((3, 4)).astype(BF16)
    save_checkpoint(tmp_path, 1, {"w": weight}, {})
    stored = load_checkpoint(tmp_path).arrays["w"]
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored.astype(BF16), weight)


def test_adamw_keeps_masters_for_bfloat16():
    p = Tensor(np.ones(4, BF16), requires_grad=True)
    optimizer = AdamW([("p", p)], lr=1e-3)
    for _ in range(8):
        p.grad = np.full(4, 0.5, BF16)
        optimizer.step()
    assert optimizer.master["p"].tolist() == pytest.approx([1 - 8e-3] * 4, rel=1e-3)
    assert p.data.tolist() == optimizer.master["p"].astype(BF16).tolist() != [1.0] * 4
    assert global_norm([p.grad]) == 1.0
