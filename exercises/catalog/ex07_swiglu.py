"""Exercise 07: SwiGLU, the activation inside most experts."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, Same, case, float32, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=7,
    name="swiglu",
    title="SwiGLU",
    teaches="The product rule twice over, in the activation that nearly every expert uses.",
    difficulty=1,
    minutes=15,
    needs=(2,),
    target="moe_numpy.ops.activations:SwiGLU",
    hints=(
        "y is a product of three: gate, σ(gate) and up. gate occurs twice, so its derivative has two terms.",
        "σ' = σ (1 - σ), so silu' = σ + gate σ (1 - σ). For up the other two factors are constants.",
        "Save gate, up and σ = 1 / (1 + e^-gate). dgate = g up σ (1 + gate (1 - σ)); dup = g gate σ.",
    ),
)


def specification(gate: Any, up: Any) -> Any:
    """Entry by entry, with the form of the sigmoid that cannot overflow."""
    if gate.shape != up.shape:
        raise ValueError("shapes")
    y = np.zeros(gate.shape, gate.dtype)
    for i in np.ndindex(gate.shape):
        g = gate[i]
        sigma = 1 / (1 + np.exp(-g)) if g >= 0 else np.exp(g) / (1 + np.exp(g))
        y[i] = g * sigma * up[i]
    return y


def typical(rng: np.random.Generator) -> list[Case]:
    shapes: list[tuple[int, ...]] = [(3, 4), (5,), (2, 3, 2, 2), (1, 1), (), (3, 3), (2, 3, 2)]
    return [case(*(np.asarray(rng.standard_normal(shape)) for _ in range(2))) for shape in shapes]


def wide(rng: np.random.Generator) -> list[Case]:
    """Gates at 0, and far from it, where silu turns into 0 or x."""
    gate = np.array([-30.0, -8.0, -1.3, 0.0, 1.3, 8.0, 30.0])
    nearly = np.array([-18.0, -14.0, -11.0, 11.0, 14.0, 18.0])  # nearly 0 or x, but not quite
    draw = rng.standard_normal
    pairs = [(gate, draw(7)), (gate, np.zeros(7)), (np.zeros(4), draw(4)), (nearly, draw(6))]
    return [case(*pair) for pair in pairs]


def huge(rng: np.random.Generator) -> list[Case]:
    return [case(np.array([-2000.0, -800.0, -100.0, 100.0, 800.0, 2000.0]), 1 + rng.random(6))]


def larger(rng: np.random.Generator) -> list[Case]:
    return [case(*rng.standard_normal((2, *shape))) for shape in [(70, 33), (3, 300), (1000,)]]


def itself(rng: np.random.Generator) -> list[Case]:
    return [case(rng.standard_normal((3, 4)), Same(0))]


def not_a_number(rng: np.random.Generator) -> list[Case]:
    gate, up = rng.standard_normal((2, 3, 4))
    gate[0, 1] = up[2, 3] = np.nan
    return [case(gate, up)]


def refused(rng: np.random.Generator) -> list[Case]:
    """Shapes that broadcast, that have as many entries, or that share an axis."""
    pairs: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((3, 4), (4,)),
        ((3, 1), (3, 4)),
        ((1, 4), (4,)),
        ((), (1,)),
    ]
    pairs += [((3, 4), (4, 3)), ((2, 4), (3, 4)), ((3, 4), (3, 2)), ((2, 3), (6,)), ((0, 4), (1, 4))]
    return [case(*(np.asarray(rng.standard_normal(s)) for s in pair)) for pair in pairs]


EMPTY = one_by_one(case(np.zeros((0, 4)), np.zeros((0, 4))))
BY_HAND = one_by_one(case(np.array([0.0, np.log(3.0)]), np.array([7.0, 4.0])))
NEXT = "silu'(x) has two terms; dup needs silu(gate)"
CHECKS = (
    Check("forward", 2, typical, "gate σ(gate) up, entry by entry"),
    Check("forward far from zero", 1, wide, "silu(-30) is nearly 0, silu(30) nearly 30"),
    Check("nothing overflows to NaN", 2, huge, "which form of σ divides infinity by infinity?"),
    Check("nothing overflows in float32", 1, float32(huge), "its exponential overflows at 89, not at 710"),
    Check("NaN shows", 1, not_a_number, "NaN in, NaN out: hide nothing"),
    Check("refuses two shapes", 1, refused, "ValueError: shapes that broadcast are two shapes as well"),
    Check("gradients", 4, typical, NEXT, gradient=True),
    Check("gradients where up is gate", 1, itself, "no special case: the engine adds up", gradient=True),
    Check("gradients far from zero", 2, wide, "silu' goes from 0 to 1 and is ½ at 0", gradient=True),
    Check("gradients of huge gates", 1, huge, "save σ and use it again", gradient=True, finite_differences=False),
    *standard_checks(typical, gradient=NEXT),
    Check("no tokens", 1, EMPTY, "empty in, empty out", gradient=True),
    Check("the smallest example", 1, BY_HAND, "by hand: silu(0) = 0, and σ(ln 3) = ¾"),
    Check("larger arrays", 1, larger, "the size changes nothing", gradient=True, finite_differences=False),
)

MISTAKES = edits("""
gates the other half: Activates up and multiplies with gate. The first argument goes through silu.
- self.save(gate, up)
+ gate, up = up, gate; self.save(gate, up)
- d[..., :f], d[..., f:]
+ d[..., f:], d[..., :f]
sigmoid instead of silu: σ(gate) up is the older GLU. silu multiplies with gate once more: gate σ(gate) up.
- gate * sigmoid(gate) * up
+ sigmoid(gate) * up
- s * (1 + gate * (1 - s))
-     d_up = grad * gate * s
+ s * (1 - s)
+     d_up = grad * s
gelu instead of silu: x σ(1.702 x) is an approximation of GELU. silu has the factor 1.
- gate * sigmoid(gate) * up
+ gate * sigmoid(1.702 * gate) * up
forgets up: Returns silu(gate) alone.
- gate * sigmoid(gate) * up
+ gate * sigmoid(gate)
overflows to NaN: σ = eˣ / (1 + eˣ) is inf / inf for large x. 1 / (1 + e⁻ˣ), or that form for x < 0 only, stays finite.
- gate * sigmoid(gate) * up
+ gate * (np.exp(gate) / (1 + np.exp(gate))) * up
sigmoid is a constant: dgate = g up σ: the product rule has a second term, since σ depends on gate too.
- grad * up * s * (1 + gate * (1 - s))
+ grad * up * s
only the slope of sigmoid: dgate = g up gate σ (1 - σ): the first term of the product rule, σ itself, is missing.
- grad * up * s * (1 + gate * (1 - s))
+ grad * up * gate * s * (1 - s)
slope of sigmoid alone: dgate = g up σ (1 - σ): the derivative of σ, not of x σ.
- grad * up * s * (1 + gate * (1 - s))
+ grad * up * s * (1 - s)
gate gradient forgets up: dgate = g silu'(gate). y = silu(gate) up, so up is a factor of it.
- grad * up * s * (1 + gate * (1 - s))
+ grad * s * (1 + gate * (1 - s))
up gradient with sigmoid: dup = g σ(gate). up is multiplied with silu(gate) = gate σ(gate).
- grad * gate * s
+ grad * s
ignores upstream: Backward works with ones instead of the gradient from above.
- swiglu_gradient(grad, gate, up)
+ swiglu_gradient(np.ones_like(grad), gate, up)
computes in float64: Returns float64 for float32 input. Everything after it is then twice as large and half as fast.
- self.save(gate, up)
+ gate = gate.astype(np.float64); self.save(gate, up)
divides by the gate: σ = silu / gate is 0/0 at 0. Save σ, or compute it again.
- s = sigmoid(gate)
+ s = gate * sigmoid(gate) / gate
asks for another argument: dup only where gate needs a gradient. Each argument has its own needs_grad.
- return d[..., :f], d[..., f:]
+ return d[..., :f], d[..., f:] if self.needs_grad(0) else 0 * d[..., f:]
swaps the gradients: Returns dup first. Gradients come in the order of the inputs: gate, up.
- d[..., :f], d[..., f:]
+ d[..., f:], d[..., :f]
a hard gate: x · clip((x + 3)/6, 0, 1) is hard swish: it is near silu, and not silu.
- gate * sigmoid(gate) * up
+ gate * np.clip((gate + 3) / 6, 0, 1) * up
gates in place: `gate *= σ` writes into the caller's array.
- return swiglu(gate, up)
+ gate *= 1 / (1 + np.exp(-gate)); return gate * up
keeps the gate on the class: The next layer overwrites it before this one runs backward. Use self.save.
- self.save(gate, up)
+ type(self).kept = gate, up
- gate, up = self.saved
+ gate, up = self.kept
a step far from zero: Takes 0 or 1 for the slope beyond ±10. There it still differs from them by up to 0.0004.
- s * (1 + gate * (1 - s))
+ np.where(abs(gate) > 10, gate > 0, s * (1 + gate * (1 - s)))
needs an axis: An array without axes is an array too: work entry by entry, whatever the shape.
- if gate.ndim == 0:
-             return tuple(swiglu_gradient(*[x.reshape(1) for x in (grad, gate, up)]))
cut for float64: Cuts x at 700 before exp. float32 overflows at 89 already, and inf / inf is NaN.
- gate * sigmoid(gate) * up
+ gate * (np.exp(np.minimum(gate, 700)) / (1 + np.exp(np.minimum(gate, 700)))) * up
lets up broadcast: One number of `up` for many of `gate`: ValueError for two shapes, whether or not they broadcast.
- gate.shape != up.shape
+ gate.ndim != up.ndim
hides what is not finite: nan_to_num turns NaN into 0: the error then shows somewhere else, or never.
- return swiglu(gate, up)
+ return np.nan_to_num(swiglu(gate, up))
compares sizes: Arrays of two shapes can have as many entries, and these do not belong together.
- gate.shape != up.shape
+ gate.size != up.size
averages over the batch: Every entry has a gradient of its own; nothing is averaged.
- d_up = grad * gate * s
+ d_up = grad * gate * s / (len(gate) if gate.ndim == 3 else 1)
a rule for equal inputs: Where up is gate, each gets the sum of both gradients, and the engine adds it up once more.
- d[..., :f], d[..., f:]
+ (d[..., :f], d[..., f:]) if up is not gate else (d[..., :f] + d[..., f:],) * 2
""")
