"""Exercise 30: the slots of Soft MoE."""

from typing import Any

import numpy as np

from moe_numpy.autodiff import Tensor
from moe_numpy.ops import Affine, MatMul, Softmax, Transpose

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

EXERCISE = Exercise(
    number=30,
    name="soft_moe",
    title="Soft MoE: filling the slots",
    teaches="One matrix of logits, normalised along two axes: a mixture of experts that never has to choose.",
    difficulty=2,
    minutes=15,
    needs=(5,),
    target="moe_numpy.moe.soft:fill_slots",
    imports=("from moe_numpy.ops import Affine, MatMul, Softmax, Transpose",),
    hints=(
        "x and phi are Tensors: stay with the ops, and the gradient comes by itself. Affine.apply(x, phi, None) is "
        "X Φᵀ for the whole batch.",
        "H has the axes batch, tokens, slots. D = Softmax.apply(h, axis=1), C = Softmax.apply(h, axis=2).",
        "The slots are MatMul.apply(Transpose.apply(dispatch, axes=(0, 2, 1)), x); return them and combine.",
    ),
)


def slots(solution: Any, x: Any, phi: Any) -> Any:
    """Call with Tensors and take the arrays out."""
    mixed, combine = solution(Tensor(x), Tensor(phi))
    return mixed.data, combine.data


def gradients(solution: Any, x: Any, phi: Any, grad_mixed: Any, grad_combine: Any) -> Any:
    """The gradients of x and phi through the graph that the solution makes."""
    x, phi = Tensor(x, requires_grad=True), Tensor(phi, requires_grad=True)
    mixed, combine = solution(x, phi)
    ((mixed * Tensor(grad_mixed)).sum() + (combine * Tensor(grad_combine)).sum()).backward()
    return x.grad, phi.grad


def specification(x: Any, phi: Any) -> Any:
    """Slot by slot, token by token."""
    x, phi = x.data, phi.data
    batch, tokens, _ = x.shape
    n = len(phi)
    mixed = np.zeros((batch, n, x.shape[2]), x.dtype)
    combine = np.zeros((batch, tokens, n), x.dtype)
    for b in range(batch):
        h = np.array([[np.sum(x[b, t] * phi[j]) for j in range(n)] for t in range(tokens)])
        for j in range(n):
            for t in range(tokens):
                combine[b, t, j] = 1 / sum(np.exp(np.minimum(h[t] - h[t, j], 700)))
                mixed[b, j] += x[b, t] / sum(np.exp(np.minimum(h[:, j] - h[t, j], 700)))
    return Tensor(mixed), Tensor(combine)


SIZES = [(2, 5, 3, 4), (1, 4, 2, 6), (3, 3, 4, 3), (2, 4, 4, 4)]  # B, S, d, n


def typical(rng: np.random.Generator) -> list[Case]:
    """Several sequences, more and fewer slots than tokens."""
    return [case(rng.standard_normal((b, s, d)), rng.standard_normal((n, d))) for b, s, d, n in SIZES]


def small(rng: np.random.Generator) -> list[Case]:
    """One token, one slot, or no sequence."""
    phi = rng.standard_normal((1, 3))
    return [
        case(rng.standard_normal((1, 1, 3)), phi),
        case(rng.standard_normal((2, 1, 3)), rng.standard_normal((4, 3))),
        case(rng.standard_normal((2, 4, 3)), phi),
        case(np.zeros((0, 4, 3)), phi),
    ]


def large(rng: np.random.Generator) -> list[Case]:
    """Logits whose exponential overflows."""
    return [case(30 * rng.standard_normal((2, 5, 3)), 30 * rng.standard_normal((4, 3)))]


def with_gradients(rng: np.random.Generator) -> list[Case]:
    """The same, with upstream gradients of both results."""
    return [
        case(
            rng.standard_normal((b, s, d)),
            rng.standard_normal((n, d)),
            rng.standard_normal((b, n, d)),
            rng.standard_normal((b, s, n)),
        )
        for b, s, d, n in SIZES
    ]


# Wrong solutions


def _turned(x: Any) -> Any:
    return Transpose.apply(x, axes=(0, 2, 1))


def _parts(x: Any, phi: Any, dispatch_axis: int = 1, combine_axis: int = 2) -> Any:
    h = Affine.apply(x, phi, None)
    return Softmax.apply(h, axis=dispatch_axis), Softmax.apply(h, axis=combine_axis)


def dispatch_over_slots(x: Any, phi: Any) -> Any:
    """Normalises both over the slots. A slot is then no mean of tokens: its weights do not sum to 1."""
    dispatch, combine = _parts(x, phi, dispatch_axis=2)
    return MatMul.apply(_turned(dispatch), x), combine


def combine_over_tokens(x: Any, phi: Any) -> Any:
    """Normalises both over the tokens. What a token gets back is then no mean of answers."""
    dispatch, combine = _parts(x, phi, combine_axis=1)
    return MatMul.apply(_turned(dispatch), x), combine


def axes_swapped(x: Any, phi: Any) -> Any:
    """Normalises dispatch over slots and combine over tokens: the other way round."""
    dispatch, combine = _parts(x, phi, 2, 1)
    return MatMul.apply(_turned(dispatch), x), combine


def mixes_over_the_batch(x: Any, phi: Any) -> Any:
    """Normalises over axis 0: that is the batch. Sequences then see one another; tokens are axis 1."""
    dispatch, combine = _parts(x, phi, dispatch_axis=0)
    return MatMul.apply(_turned(dispatch), x), combine


def hard_choice(x: Any, phi: Any) -> Any:
    """Gives each slot its best token only. Soft MoE chooses nothing: a slot is a weighted mean of all tokens."""
    dispatch, combine = _parts(x, phi)
    best = dispatch.data == dispatch.data.max(axis=1, keepdims=True)
    return MatMul.apply(_turned(Tensor(best.astype(dispatch.dtype))), x), combine


def no_softmax(x: Any, phi: Any) -> Any:
    """Mixes with the logits themselves: they are no weights, and grow without bound."""
    h = Affine.apply(x, phi, None)
    return MatMul.apply(_turned(h), x), Softmax.apply(h, axis=2)


def plain_mean(x: Any, phi: Any) -> Any:
    """Gives every token the weight 1/S. Then all slots hold the same, and Φ learns nothing from them."""
    h = Affine.apply(x, phi, None)
    dispatch = Softmax.apply(h * 0.0, axis=1)
    return MatMul.apply(_turned(dispatch), x), Softmax.apply(h, axis=2)


def scaled_like_attention(x: Any, phi: Any) -> Any:
    """Divides the logits by √d, as attention does. H = X Φᵀ here; Φ is drawn with a scale that fits."""
    h = Affine.apply(x, phi, None) * x.shape[2] ** -0.5
    return MatMul.apply(_turned(Softmax.apply(h, axis=1)), x), Softmax.apply(h, axis=2)


def dispatch_is_constant(x: Any, phi: Any) -> Any:
    """Makes D from plain arrays: forward is right, but no gradient goes through the weights. Stay with Tensors."""
    dispatch, combine = _parts(x, phi)
    return MatMul.apply(_turned(Tensor(dispatch.data)), x), combine


def combine_is_constant(x: Any, phi: Any) -> Any:
    """Makes C from plain arrays: forward is right, but it then has no gradient. Stay with Tensors."""
    dispatch, combine = _parts(x, phi)
    return MatMul.apply(_turned(dispatch), x), Tensor(combine.data)


def tokens_are_constant(x: Any, phi: Any) -> Any:
    """Mixes plain arrays: x enters twice, in the weights and as what is mixed, and both ways have a gradient."""
    dispatch, combine = _parts(x, phi)
    return MatMul.apply(_turned(dispatch), Tensor(x.data)), combine


NEXT = "x is used twice, in H and in Dᵀ X; build everything from Tensors and the ops, and the engine adds both up"


CHECKS = (
    Check("slots and combine weights", 4, typical, "D sums to 1 over tokens, C over slots", run=slots),
    Check("one token, one slot, no sequence", 1, small, "keep all three axes", run=slots),
    Check("large logits", 1, large, "use the library's Softmax, which shifts", run=slots),
    Check("float32", 1, float32(typical), "float32 in, float32 out", run=slots),
    Check("gradients", 4, with_gradients, NEXT, run=gradients, second_oracle=False),
    Check("gradients in float32", 1, float32(with_gradients), NEXT, run=gradients, second_oracle=False),
    Check("arrays with gaps", 1, strided(typical), "do not rely on the order in memory", run=slots),
    Check(
        "by hand",
        1,
        one_by_one(case(np.array([[[1.0, 0.0], [0.0, 1.0]]]), np.array([[np.log(3.0), 0.0], [0.0, 0.0]]))),
        "H = [[ln 3, 0], [0, 0]]: slot 0 holds 3/4 of token 0, and token 0 reads 3/4 from slot 0",
        run=slots,
    ),
)

MISTAKES = (
    dispatch_over_slots,
    combine_over_tokens,
    axes_swapped,
    mixes_over_the_batch,
    hard_choice,
    no_softmax,
    plain_mean,
    scaled_like_attention,
    dispatch_is_constant,
    combine_is_constant,
    tokens_are_constant,
)
