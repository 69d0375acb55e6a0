"""Uses that nothing was made for: each is right, or ends in one sentence that names the thing. Shapes are unchecked
here, as they are outside the tests: what the compiled loops trust must be looked at by the ops themselves."""

import numpy as np
import pytest
from unchecked_shapes import unchecked_shapes

from moe_numpy import nn, ops
from moe_numpy.autodiff import Function, Tensor
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.moe import make_layer, recipes
from moe_numpy.training import AdamW


def rng():
    return np.random.default_rng(0)


def leaf(*shape):
    return Tensor(rng().standard_normal(shape), requires_grad=True)


def layer(**settings):
    return make_layer(recipes.mixtral(), 4, 8, 4, rng=rng(), **settings)


def model():
    config = ModelConfig(vocab_size=11, d_model=8, num_layers=2, num_heads=2, context=6, d_ff=6, num_experts=3)
    return Transformer(config, rng=rng())


def trained(data=None, grad=None, writeable=True, lr=0.1):
    """A parameter of shape (2,) after something was done to it, and a step."""
    p = nn.Parameter(np.ones(2))
    optimizer = AdamW([("w", p)], lr=0.1)
    p.data = p.data if data is None else data
    p.data.setflags(write=writeable)
    p.grad = np.ones(2) if grad is None else grad
    before = p.data.copy()
    try:
        optimizer.step(lr=lr)
    finally:
        assert np.array_equal(p.data, before)
        assert optimizer.steps == 0


class Returns(Function):
    def forward(self, x, *, what):
        return what

    def backward(self, grad):
        return grad


class Masked(Function):
    def forward(self, x):
        return 1 * x

    def backward(self, grad):
        return np.ma.array(grad, mask=grad > 0)


def module(**attributes):
    m = nn.Module()
    for name, value in attributes.items():
        setattr(m, name, value)
    return m


def with_integers():
    x = leaf(2)
    x.data = np.arange(2)
    return x * 1.5


def with_a_gradient_of_another_shape():
    x = Tensor(np.ones(3), requires_grad=True, name="x")
    x.grad = np.ones(1)
    x.sum().backward()


REFUSED = {
    "rms norm, long weight": (lambda: ops.RMSNorm.apply(leaf(2, 3), leaf(4)), r"weight must be a vector as long as"),
    "rms norm, short weight": (lambda: ops.RMSNorm.apply(leaf(2, 3), leaf(1)), r"got \(1,\) for \(2, 3\)"),
    "rms norm, matrix": (lambda: ops.RMSNorm.apply(leaf(2, 3), leaf(2, 3)), r"weight must be a vector as long as"),
    "rms norm, 0-d": (lambda: ops.RMSNorm.apply(leaf(), leaf(1)), r"weight must be a vector as long as"),
    "layer norm, bias": (lambda: ops.LayerNorm.apply(leaf(2, 3), leaf(3), leaf(4)), "bias must be a vector as long as"),
    "swiglu": (lambda: ops.SwiGLU.apply(leaf(2, 3), leaf(1, 3)), r"one shape, got \(2, 3\) and \(1, 3\)"),
    "swiglu, same size": (lambda: ops.SwiGLU.apply(leaf(2, 3), leaf(3, 2)), r"one shape, got \(2, 3\) and \(3, 2\)"),
    "affine": (lambda: ops.Affine.apply(leaf(2, 3), leaf(3), None), "the weight a matrix, got shapes"),
    "attention, axes": (
        lambda: ops.CausalAttention.apply(*[leaf(2, 3, 4)] * 3),
        r"queries must have shape \[B, H, S, Dh\]",
    ),
    "attention, batch": (
        lambda: ops.CausalAttention.apply(leaf(2, 2, 3, 4), leaf(1, 2, 3, 4), leaf(1, 2, 3, 4)),
        "queries must have shape",
    ),
    "attention, width": (
        lambda: ops.CausalAttention.apply(leaf(1, 2, 3, 4), leaf(1, 2, 3, 6), leaf(1, 2, 3, 6)),
        "queries and keys must have one width, got 4 and 6",
    ),
    "softmax, two axes": (lambda: ops.Softmax.apply(leaf(2, 3), axis=(0, 1)), r"one integer, got \(0, 1\)"),
    "log-softmax, no axis": (lambda: ops.LogSoftmax.apply(leaf(2, 3), axis=None), "one integer, got None"),
    "max, two axes": (lambda: leaf(2, 3).max(axis=(0, 1)), r"axis must be one integer, got \(0, 1\)"),
    "mean, float axis": (lambda: leaf(2, 3).mean(axis=1.0), "axis must be an integer, several or None, got 1.0"),
    "nothing to concatenate": (lambda: ops.Concatenate.apply(axis=0), "there is nothing to concatenate"),
    "dropout, a seed": (lambda: ops.Dropout.apply(leaf(3), rate=0.5, rng=0), "rng must be a numpy.random.Generator"),
    "a NumPy function": (lambda: np.sum(leaf(3)), "numpy.sum takes no Tensors; use their methods"),
    "forward gives a list": (
        lambda: Returns.apply(leaf(3), what=[1.0]),
        "Returns.forward must return an array or a tuple",
    ),
    "forward gives a number": (lambda: Returns.apply(leaf(3), what=1.0), "of arrays, got float"),
    "forward gives nothing": (lambda: Returns.apply(leaf(3), what=None), "of arrays, got NoneType"),
    "a masked gradient": (lambda: Masked.apply(leaf(3)).sum().backward(), "gradient of input 0 is a masked array"),
    "integers with requires_grad": (with_integers, "requires_grad holds int64: its .data was replaced"),
    "another .grad": (with_a_gradient_of_another_shape, r"the .grad of x has shape \(1,\), its gradient \(3,\)"),
    "state, complex": (lambda: module(w=nn.Parameter(np.ones(2))).load_state_dict({"w": [1j, 2]}), "w: Tensor needs"),
    "linear, 0": (lambda: nn.Linear(0, 2, rng=rng()), "d_in must be at least 1, got 0"),
    "linear, float": (lambda: nn.Linear(2, 2.0, rng=rng()), "d_out must be an integer of at least 1, got 2.0"),
    "embedding, None": (lambda: nn.Embedding(None, 2, rng=rng()), "num_embeddings must be an integer of at least 1"),
    "norm, negative": (lambda: nn.RMSNorm(-1), "d_model must be at least 1, got -1"),
    "attention layer, no heads": (lambda: nn.Attention(8, 0, 1, rng=rng()), "num_heads must be at least 1, got 0"),
    "attention layer, text": (lambda: nn.Attention(8, 2, 1, "x", rng=rng()), "d_head must be an integer of at least 1"),
    "experts, None": (lambda: make_layer(recipes.mixtral(), 4, None, 4, rng=rng()), "d_ff must be an integer of at"),
    "linear, std": (lambda: nn.Linear(2, 2, std=[1], rng=rng()), r"std must be a number of at least 0, got \[1\]"),
    "linear, no std": (lambda: nn.Linear(2, 2, std=float("nan"), rng=rng()), "std must be a number of at least 0"),
    "input, masked": (lambda: leaf(2) * np.ma.array([1.0, 2.0], mask=[0, 1]), "Multiply: input 1 needs a plain array"),
    "input, objects": (lambda: ops.Exp.apply(np.array([1, None])), "Exp: input 0 needs numbers, got .* dtype object"),
    "input, complex": (lambda: leaf(2) + np.ones(2, complex), "Add: input 1 needs numbers, got .* dtype complex128"),
    "input, text": (lambda: ops.Softmax.apply(np.array(["a", "b"])), "Softmax: input 0 needs numbers, got an array"),
    "linear, a seed": (lambda: nn.Linear(2, 2, rng=0), r"rng must be a numpy.random.Generator, such as .* got 0"),
    "attention layer, matrix": (lambda: nn.Attention(8, 2, 1, rng=rng())(leaf(2, 8)), r"\[B, S, d\], got \(2, 8\)"),
    "attention layer, list": (lambda: nn.Attention(8, 2, 1, rng=rng())([[[1.0]]]), r"\[B, S, d\], got list"),
    "experts, list": (lambda: layer()([[1.0, 2.0, 3.0, 4.0]]), "x must be a Tensor of floats, got list"),
    "experts, integers": (lambda: layer()(np.ones((2, 4), int)), "x must be a Tensor of floats, got int64"),
    "recipe by name": (lambda: make_layer("mixtral", 4, 8, 4, rng=rng()), "recipe must be a Recipe, such as"),
    "one cache": (lambda: model()([[1]], caches=model().new_caches(1)[:1]), "caches must be one per layer, 2, got 1"),
    "ids, a number": (lambda: model()(3), r"tokens must be an array of ids, of shape \[B, S\], got 3"),
    "ids, bytes": (lambda: model()(b"abc"), r"tokens must be an array of ids, of shape \[B, S\], got b'abc'"),
    "optimizer, no names": (lambda: AdamW([nn.Parameter(np.ones(2))], lr=0.1), "expected pairs of a name and a Tensor"),
    "optimizer, a module": (lambda: AdamW(nn.RMSNorm(2), lr=0.1), "expected pairs of a name and a Tensor"),
    "optimizer, a dict": (lambda: AdamW({"w": nn.Parameter(np.ones(2))}, lr=0.1), "expected pairs of a name"),
    "optimizer, text": (lambda: AdamW([("w", leaf(2))], lr="0.1"), "lr must be a number of at least 0, got '0.1'"),
    "step, NaN": (lambda: trained(lr=float("nan")), "lr must be a number of at least 0, got nan"),
    "step, shape of the gradient": (lambda: trained(grad=np.ones(3)), r"must have shape \(2,\), got \(2,\) and \(3,\)"),
    "step, shape of the data": (
        lambda: trained(data=np.ones(3), grad=np.ones(3)),
        r"w and its gradient must have shape",
    ),
    "step, a list": (lambda: trained(grad=[1.0, 1.0]), "the gradient of w must be an array where it lives, got a list"),
    "step, a Tensor": (
        lambda: trained(grad=leaf(2)),
        "the gradient of w must be an array where it lives, got a Tensor",
    ),
    "step, read-only": (lambda: trained(writeable=False), "w is read-only, so it cannot be trained"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(name):
    use, sentence = REFUSED[name]
    with unchecked_shapes(), pytest.raises((TypeError, ValueError, RuntimeError), match=sentence) as caught:
        use()
    assert "\n" not in str(caught.value)


def test_axes_in_a_list():
    x = leaf(2, 3, 4)
    with unchecked_shapes():
        for axis in ([0, -1], (np.int8(0), np.int64(2)), np.array([0, 2])):
            np.testing.assert_array_equal(x.sum(axis=axis).data, x.data.sum(axis=(0, 2)))
            np.testing.assert_array_equal(x.mean(axis=axis).data, x.data.mean(axis=(0, 2)))
            np.testing.assert_allclose(ops.LogSumExp.apply(x, axis=axis).data, np.log(np.exp(x.data).sum(axis=(0, 2))))


def test_a_matrix_is_an_array():
    x = leaf(2, 2)
    with unchecked_shapes():
        np.testing.assert_array_equal((x * x.data.view(np.matrix)).data, x.data**2)
        np.testing.assert_array_equal(ops.Multiply.apply(x.data.view(np.matrix), x).data, x.data**2)


def test_a_state_of_lists_and_tensors_keeps_float64():
    m = module(w=nn.Parameter(np.ones(2)), b=nn.Parameter(np.ones(1)))
    m.load_state_dict({"w": [0.1, 0.2], "b": Tensor(np.array([0.3]))})
    assert m.w.data.tolist() == [0.1, 0.2]
    assert m.b.data.tolist() == [0.3]


def test_a_state_that_is_refused_changes_nothing():
    m = module(w=nn.Parameter(np.ones(2)), b=nn.Parameter(np.ones(1)))
    with pytest.raises(TypeError, match="b: Tensor needs numbers"):
        m.load_state_dict({"w": [0.1, 0.2], "b": ["x"]})
    assert m.w.data.tolist() == [1, 1]
