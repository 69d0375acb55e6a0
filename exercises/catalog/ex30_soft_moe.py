"""Exercise 30: the slots of Soft MoE."""

from typing import Any

import numpy as np

from moe_numpy.autodiff import Tensor

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, standard_checks
from ..mistakes import edits

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
        "x and phi are Tensors: stay with the ops, and the engine finds the gradient. Affine.apply(x, phi, None) is "
        "X Φᵀ for the whole batch.",
        "h has the axes batch, tokens, slots. dispatch = Softmax.apply(h, axis=1), combine = Softmax.apply(h, axis=2).",
        "The slots are MatMul.apply(Transpose.apply(dispatch, axes=(0, 2, 1)), x); return them and combine.",
    ),
)


def slots(solution: Any, x: Any, phi: Any) -> Any:
    """Call with Tensors and take the arrays out."""
    found = solution(Tensor(x), Tensor(phi))
    return [t.data for t in found] if isinstance(found, list) else tuple(t.data for t in found)


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


SIZES = [(2, 5, 3, 4), (1, 4, 2, 6), (3, 3, 4, 3), (2, 4, 4, 4), (4, 20, 1, 18), (2, 5, 3, 4)]  # B, S, d, n


def typical(rng: np.random.Generator) -> list[Case]:
    return [case(rng.standard_normal((b, s, d)), rng.standard_normal((n, d))) for b, s, d, n in SIZES]


def small(rng: np.random.Generator) -> list[Case]:
    shapes = [((1, 1, 3), 1), ((2, 1, 3), 4), ((2, 4, 3), 1), ((0, 4, 3), 1)]
    return [case(rng.standard_normal(shape), rng.standard_normal((n, 3))) for shape, n in shapes]


def large(rng: np.random.Generator) -> list[Case]:
    """Logits whose exponential overflows, and weights of very different size."""
    return [case(a * rng.standard_normal((2, 5, 3)), a * rng.standard_normal((4, 3))) for a in (30, 2, 3, 3)]


def with_gradients(rng: np.random.Generator) -> list[Case]:
    """The typical ones, with upstream gradients of both results."""
    shapes = [((b, s, d), (n, d), (b, n, d), (b, s, n)) for b, s, d, n in SIZES]
    return [case(*(rng.standard_normal(shape) for shape in four)) for four in shapes]


BY_HAND = one_by_one(case(np.array([[[1.0, 0.0], [0.0, 1.0]]]), np.array([[np.log(3.0), 0.0], [0.0, np.log(4.0)]])))
NEXT = "x is used twice, in h and in dispatchᵀ X; build all of it from Tensors and the ops, and the engine adds both up"
CHECKS = (
    Check("slots and combine weights", 4, typical, "dispatch sums to 1 over tokens, combine over slots", run=slots),
    Check("one token, one slot, no sequence", 1, small, "keep all three axes", run=slots),
    Check("large logits", 1, large, "use the library's Softmax, which takes the maximum off", run=slots),
    Check("gradients", 4, with_gradients, NEXT, run=gradients, second_oracle=False),
    Check("gradients in float32", 1, float32(with_gradients), NEXT, run=gradients, second_oracle=False),
    *standard_checks(typical, run=slots),
    Check(
        "by hand",
        1,
        BY_HAND,
        "h = [[ln 3, 0], [0, ln 4]]: slot 0 holds 3/4 of token 0, and token 1 reads 4/5 from slot 1",
        run=slots,
    ),
)

MISTAKES = edits("""
dispatch over slots: Normalises both over the slots. A slot is then no mean of tokens: its weights do not sum to 1.
- axis=1
+ axis=2
combine over tokens: Normalises both over the tokens. What a token gets back is then no mean of answers.
- axis=2
+ axis=1
axes swapped: Normalises dispatch over slots and combine over tokens: the other way round.
- Softmax.apply(h, axis=1), Softmax.apply(h, axis=2)
+ Softmax.apply(h, axis=2), Softmax.apply(h, axis=1)
mixes over the batch: Normalises over axis 0, the batch: sequences then see one another. Tokens are axis 1.
- axis=1
+ axis=0
hard choice: Gives each slot its best token only. Soft MoE does not choose: a slot is a weighted mean of all tokens.
- apply(dispatch
+ apply(Tensor((dispatch.data == dispatch.data.max(axis=1, keepdims=True)).astype(x.dtype))
no softmax: Mixes with the logits themselves: they are not weights, and grow without bound.
- Softmax.apply(h, axis=1)
+ h
plain mean: Gives every token the weight 1/S. Then all slots hold the same, and Φ learns nothing from them.
- Softmax.apply(h, axis=1)
+ Softmax.apply(h * 0.0, axis=1)
scaled like attention: Divides the logits by √d, as attention does. h = X Φᵀ here; Φ is drawn at the right scale.
- Affine.apply(x, phi, None)
+ Affine.apply(x, phi, None) * x.shape[2] ** -0.5
dispatch is constant: Makes dispatch from plain arrays: no gradient goes through the weights. Stay with Tensors.
- apply(dispatch
+ apply(Tensor(dispatch.data)
combine is constant: Makes combine from plain arrays: it then has no gradient. Stay with Tensors.
- x), combine
+ x), Tensor(combine.data)
tokens are constant: Mixes plain arrays: x enters twice, in the weights and as what is mixed, each with a gradient.
- x), combine
+ Tensor(x.data)), combine
divides by the tokens: The dispatch weights of a slot sum to 1 already: their sum is a mean.
- x), combine
+ x) * (1 / max(x.shape[1], 1)), combine
gates twice: Fills the slots with dispatch · combine, which sums to less than 1.
- Softmax.apply(h, axis=1), Softmax.apply(h, axis=2)
+ Softmax.apply(h, axis=1) * Softmax.apply(h, axis=2), Softmax.apply(h, axis=2)
x is constant in the logits: h from plain arrays: x enters twice, in the weights and as what is mixed.
- Affine.apply(x, phi, None)
+ Affine.apply(Tensor(x.data), phi, None)
phi is constant: Makes the logits from plain slots: Φ then learns nothing.
- Affine.apply(x, phi, None)
+ Affine.apply(x, Tensor(phi.data), None)
combine transposed: A row of combine belongs to a token: [B, S, n].
- x), combine
+ x), Transpose.apply(combine, axes=(0, 2, 1))
a list of two: Returns a list. Several results are a tuple.
- return MatMul.apply(Transpose.apply(dispatch, axes=(0, 2, 1)), x), combine
+ return [MatMul.apply(Transpose.apply(dispatch, axes=(0, 2, 1)), x), combine]
""")
