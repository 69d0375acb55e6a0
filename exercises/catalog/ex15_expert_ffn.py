"""Exercise 15: the SwiGLU networks of all experts, forward and backward."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=15,
    name="expert_ffn",
    title="The expert networks, forward and backward",
    teaches="What an expert is, and the chain rule through three matrices and a gate, each expert on its own rows.",
    difficulty=3,
    minutes=30,
    needs=(7,),
    target="moe_numpy.moe.experts:GroupedSwiGLU",
    hints=(
        "Loop over the experts. With rows = slice(offsets[e], offsets[e + 1]) each is an ordinary network on x[rows], "
        "whose result goes into y[rows]. f is down.shape[2].",
        "Backward goes through the same steps in reverse: y = a Dᵀ gives da = dy D and dD = dyᵀ a; a = silu(g) u gives "
        "du = da silu(g) and dg = da u silu'(g). x is used twice, so dx is a sum.",
        "silu'(g) = σ + g σ (1 - σ). With dh = [dg, du] side by side: dx[rows] = dh @ gate_up[e] and "
        "d_gate_up[e] = dh.T @ x[rows]; d_gate_up and d_down start as zeros. Return (dx, d_gate_up, d_down, None).",
    ),
)


def specification(x: Any, gate_up: Any, down: Any, offsets: Any) -> Any:
    """Row by row and hidden unit by hidden unit."""
    f = down.shape[2]
    y = np.zeros(x.shape, x.dtype)
    for e in range(len(offsets) - 1):
        for n in range(offsets[e], offsets[e + 1]):
            for j in range(f):
                g = gate_up[e, j] @ x[n]
                u = gate_up[e, f + j] @ x[n]
                y[n] += down[e, :, j] * (g / (1 + np.exp(-g)) * u)
    return y


def _experts(rng: np.random.Generator, rows: tuple[int, ...], d: int, f: int) -> Case:
    """Experts with this many rows each."""
    return case(
        rng.standard_normal((sum(rows), d)),
        rng.standard_normal((len(rows), 2 * f, d)),
        rng.standard_normal((len(rows), d, f)),
        np.cumsum([0, *rows]),
    )


def typical(rng: np.random.Generator) -> list[Case]:
    sizes = [((3, 2), 3, 2), ((1, 4, 2), 2, 3), ((2, 3), 4, 1), ((1,), 1, 1), ((2, 1), 3, 3), ((1, 3), 4, 2)]
    return [_experts(rng, *c) for c in sizes]


def unused(rng: np.random.Generator) -> list[Case]:
    """An expert without rows: the first, one in the middle, the last two."""
    return [_experts(rng, rows, 3, 2) for rows in [(0, 3, 2), (2, 0, 3), (3, 0, 0)]]


def larger(rng: np.random.Generator) -> list[Case]:
    """Wide experts, and many of them, some without rows."""
    return [_experts(rng, (70, 0, 33), 9, 34), _experts(rng, tuple(rng.integers(0, 5, 70).tolist()), 3, 2)]


def huge(rng: np.random.Generator) -> list[Case]:
    """Gates whose exponential overflows, on either side."""
    c = _experts(rng, (2, 3), 3, 2)
    x, gate_up, down, offsets = c.args
    gate_up[0, 0], gate_up[1, 1] = 0.0, 0.0
    gate_up[0, 0, 0], gate_up[1, 1, 0] = 1.0, -1.0
    x[:, 0] = [1000.0, -1000.0, 2000.0, -2000.0, 900.0]
    return [case(x, gate_up, down, offsets)]


def zeros(rng: np.random.Generator) -> list[Case]:
    """Rows of zeros, as padding is: gate and up are 0."""
    c = _experts(rng, (2, 3), 3, 2)
    c.args[0][[0, 3]] = 0.0
    return [c]


def large_and_small(rng: np.random.Generator) -> list[Case]:
    """Experts whose gradients have very different sizes."""
    c = _experts(rng, (2, 3, 2), 3, 2)
    sizes = np.repeat([1e9, 1.0, 1e-6], (2, 3, 2))[:, None]
    return [c.upstream(sizes * rng.standard_normal((7, 3)))]


def many_rows(rng: np.random.Generator) -> list[Case]:
    """More rows than integers of few bits can count, and offsets of few bits."""
    c = _experts(rng, (100, 0, 140), 2, 1)
    of_few_bits = [case(*c.args[:3], c.args[3].astype(t)) for t in (np.uint8, np.int16, np.int32)]
    return [*of_few_bits, _experts(rng, (300, 33_000), 1, 1)]


EMPTY = one_by_one(case(np.zeros((0, 3)), np.ones((2, 4, 3)), np.ones((2, 3, 2)), np.array([0, 0, 0])))
KNOWN = one_by_one(case(np.ones((1, 1)), np.array([[[np.log(3)], [4.0]]]), np.array([[[2.0]]]), np.array([0, 1])))
NEXT = "backwards: da = D_eᵀ dy, then dg and du from a = silu(g) u, then dx = G_eᵀ dg + U_eᵀ du"
ZEROS = "start with zeros in the shape of the weights, for all experts"
CHECKS = (
    Check("forward", 3, typical, "for rows offsets[e]:offsets[e+1]: g = x G_eᵀ, u = x U_eᵀ, a = silu(g) u, y = a D_eᵀ"),
    Check("gradient", 4, typical, NEXT, gradient=True),
    Check("huge gates", 1, huge, "which form of σ divides infinity by infinity?"),
    Check("gradient of huge gates", 1, huge, "σ (1 - σ) is 0 there, not NaN", gradient=True, finite_differences=False),
    Check("gradient of rows of zeros", 1, zeros, "compute silu'(g) from g; a division by g or u is 0/0", gradient=True),
    Check(
        "gradients of very different size",
        1,
        large_and_small,
        "add each expert's own rows only",
        gradient=True,
        finite_differences=False,
    ),
    Check("many rows", 1, many_rows, "use the offsets as they are, as the ends of slices"),
    Check("forward with an unused expert", 1, unused, "an expert without rows has nothing to do; go on with the next"),
    Check("an unused expert gets a gradient of zero", 2, unused, ZEROS, gradient=True),
    *standard_checks(typical, gradient=NEXT),
    Check("no rows at all", 1, EMPTY, "(0, d) in, (0, d) out, and gradients of zeros", gradient=True),
    Check("known values", 1, KNOWN, "g = ln 3 has σ(g) = 3/4: y = 2 · (3/4 ln 3) · 4 = 6 ln 3"),
    Check("larger arrays", 1, larger, "the size changes nothing", gradient=True, finite_differences=False),
)

MISTAKES = edits("""
swaps gate and up: Applies silu to the second half of `gate_up`. The gate G is the first half, U the second.
- a = swiglu(h[:, :f], h[:, f:])
+ a = swiglu(h[:, f:], h[:, :f])
- swiglu_gradient(d_a, h[:, :f], h[:, f:])
+ np.roll(swiglu_gradient(d_a, h[:, f:], h[:, :f]), f, axis=1)
interleaves gate and up: Takes every second row of `gate_up` for the gate, as gpt-oss stores it. Here G stands above U.
- a = swiglu(h[:, :f], h[:, f:])
+ a = swiglu(h[:, ::2], h[:, 1::2])
- swiglu_gradient(d_a, h[:, :f], h[:, f:])
+ swiglu_gradient(d_a, h[:, ::2], h[:, 1::2]).reshape(-1, 2, f).swapaxes(1, 2).reshape(h.shape)
down transposed where it fits: D_e is [d, f]: where d = f its transpose fits as well, and is another matrix.
- return grouped_product(a, down, offsets)
+ return grouped_product(a, down.swapaxes(1, 2) if down.shape[1] == f else down, offsets)
gradient transposed where it fits: dD_e = Σ dy aᵀ is [d, f]; Σ a dyᵀ fits only where d = f.
- d_down = grouped_product_weight_gradient(grad, a, offsets)
+ d_down = grouped_product_weight_gradient(*((a, grad) if down.shape[1] == f else (grad, a)), offsets)
sigmoid instead of silu: Gates with σ(g): that is a GLU. silu(g) is g σ(g).
- gate * sigmoid(gate) * up
+ sigmoid(gate) * up
first expert for all: Every row goes through the weights of expert 0. Index the weights with e.
- x[rows] @ weight[e].T
+ x[rows] @ weight[0].T
- grad[rows] @ weight[e]
+ grad[rows] @ weight[0]
assumes equal groups: Gives each expert N / E rows. The router decides how many an expert has: read `offsets`.
- h = grouped_product(x, gate_up, offsets)
+ offsets = np.linspace(0, len(x), len(offsets)).astype(int); h = grouped_product(x, gate_up, offsets)
stops at an empty expert: Leaves the loop at the first expert without rows: `break` where `continue` belongs.
- h = grouped_product(x, gate_up, offsets)
+ n = np.diff(offsets); h = grouped_product(x, gate_up, offsets) * np.repeat(np.cumprod(n > 0, dtype=bool), n)[:, None]
forgets part of silu: Takes σ(g) for the derivative of g σ(g). The product rule adds g σ(g) (1 - σ(g)).
- grad * up * s * (1 + gate * (1 - s))
+ grad * up * s
gate gets no gradient: Only U gets a gradient, as if the gate were a constant. a = silu(g) u has two factors.
- grad * up * s * (1 + gate * (1 - s))
+ np.zeros_like(grad)
input gradient through up only: dx is only Uᵀ du. x enters through G as well: add Gᵀ dg.
- grouped_product_input_gradient(d_h, gate_up, offsets)
+ grouped_product_input_gradient(d_h[:, f:], gate_up[:, f:], offsets)
keeps the last row: Overwrites the gradient of a weight with each row. Every row of an expert adds to it.
- grad[rows].T @ x[rows]
+ grad[rows][-1:].T @ x[rows][-1:]
averages over rows: Divides the gradient of a weight by the expert's number of rows. The chain rule adds them up.
- grad[rows].T @ x[rows]
+ grad[rows].T @ x[rows] / max(len(x[rows]), 1)
overflows to NaN: eˣ / (1 + eˣ) is inf / inf for a large gate. 1 / (1 + e⁻ˣ) stays finite.
- gate * sigmoid(gate) * up
+ gate * (np.exp(gate) / (1 + np.exp(gate))) * up
weight gradient of down from the gate: dD = dyᵀ silu(g): D was multiplied with a = silu(g) u.
- grouped_product_weight_gradient(grad, a, offsets)
+ grouped_product_weight_gradient(grad, h[:, :f] * sigmoid(h[:, :f]), offsets)
divides to get sigma: a / (g u) is σ only where neither g nor u is 0: a row of zeros gives 0/0.
- d_h = swiglu_gradient(d_a, h[:, :f], h[:, f:])
+ g, u = h[:, :f], h[:, f:]; s = a / (g * u)
+         d_h = np.concatenate([d_a * u * s * (1 + g * (1 - s)), d_a * g * s], axis=1)
offsets in eight bits: There may be more than 255 rows: uint8 wraps around.
- h = grouped_product(x, gate_up, offsets)
+ offsets = offsets.astype(np.uint8); h = grouped_product(x, gate_up, offsets)
offsets in sixteen bits: There may be more than 32,767 rows: int16 wraps around.
- h = grouped_product(x, gate_up, offsets)
+ offsets = offsets.astype(np.int16); h = grouped_product(x, gate_up, offsets)
differences of a running sum: Beside an expert with a large gradient a small one has no digits left. Add per expert.
- return np.stack([grad[rows].T @ x[rows] for rows in rows_of_experts(offsets)])
+ sums = np.zeros((len(x) + 1, grad.shape[1], x.shape[1]), x.dtype)
+     sums[1:] = np.cumsum(grad[:, :, None] * x[:, None], axis=0)
+     return np.diff(sums[offsets], axis=0)
relu for silu: max(g, 0) is the gate of ReGLU. silu(g) = g σ(g).
- gate * sigmoid(gate) * up
+ np.maximum(gate, 0) * up
keeps the weights on the class: The next layer overwrites them before this one runs backward. Use self.save.
- self.save(x, gate_up, down, offsets, h, a)
+ type(self).kept = x, gate_up, down, offsets, h, a
- = self.saved
+ = self.kept
""")
