"""Exercise 15: the SwiGLU networks of all experts, forward and backward."""

from typing import Any

import numpy as np

from moe_numpy.moe import experts
from moe_numpy.moe.experts import GroupedSwiGLU
from moe_numpy.ops.activations import swiglu_gradient

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

EXERCISE = Exercise(
    number=15,
    name="expert_ffn",
    title="The expert networks, forward and backward",
    teaches="What an expert is, and the chain rule through three products and a gate, each expert on its own rows.",
    difficulty=3,
    minutes=30,
    needs=(7,),
    target="moe_numpy.moe.experts:GroupedSwiGLU",
    hints=(
        "Loop over the experts. With rows = slice(offsets[e], offsets[e + 1]) each is an ordinary network on x[rows], "
        "its results written into y[rows]. f is down.shape[2].",
        "Backward goes through the same steps in reverse: y = a Dᵀ gives da = dy D and dD = dyᵀ a; a = silu(g) u gives "
        "du = da silu(g) and dg = da u silu'(g). x is used twice, so dx is a sum.",
        "silu'(g) = σ + g σ (1 - σ). With dh = [dg, du] side by side: dx[rows] = dh @ gate_up[e] and "
        "d_gate_up[e] = dh.T @ x[rows]; d_gate_up and d_down begin as zeros. Return (dx, d_gate_up, d_down, None).",
    ),
)


def specification(x: Any, gate_up: Any, down: Any, offsets: Any) -> Any:
    """Row by row, one hidden unit after the other."""
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
    """Experts with so many rows each."""
    return case(
        rng.standard_normal((sum(rows), d)),
        rng.standard_normal((len(rows), 2 * f, d)),
        rng.standard_normal((len(rows), d, f)),
        np.cumsum([0, *rows]),
    )


def typical(rng: np.random.Generator) -> list[Case]:
    """Groups of different sizes, d and f different, and everything of size one."""
    return [_experts(rng, *c) for c in [((3, 2), 3, 2), ((1, 4, 2), 2, 3), ((2, 3), 4, 1), ((1,), 1, 1)]]


def unused(rng: np.random.Generator) -> list[Case]:
    """An expert without rows: the first, one in the middle, the last two."""
    return [_experts(rng, rows, 3, 2) for rows in [(0, 3, 2), (2, 0, 3), (3, 0, 0)]]


def empty(rng: np.random.Generator) -> list[Case]:
    """No rows at all."""
    return [_experts(rng, (0, 0), 3, 2)]


# Wrong solutions


def _hidden_gradient(op: GroupedSwiGLU, grad: Any) -> tuple[Any, Any]:
    """The gradients of what down sees, and of gate and up."""
    _, _, down, offsets, h, _ = op.saved
    f = down.shape[2]
    d_a = experts.grouped_product_input_gradient(grad, down, offsets)
    return d_a, swiglu_gradient(d_a, h[:, :f], h[:, f:])


def _from_hidden_gradient(op: GroupedSwiGLU, grad: Any, d_h: Any) -> tuple[Any, Any, Any, None]:
    x, gate_up, _, offsets, _, a = op.saved
    return (
        experts.grouped_product_input_gradient(d_h, gate_up, offsets),
        experts.grouped_product_weight_gradient(d_h, x, offsets),
        experts.grouped_product_weight_gradient(grad, a, offsets),
        None,
    )


class SwapsGateAndUp(GroupedSwiGLU):
    """Applies silu to the second half: the gate G is the first half of `gate_up`, U the second."""

    def forward(self, x: Any, gate_up: Any, down: Any, offsets: Any) -> Any:
        """Halves exchanged."""
        return super().forward(x, np.roll(gate_up, down.shape[2], axis=1), down, offsets)

    def backward(self, grad: Any) -> Any:
        """Of that."""
        d_x, d_gate_up, d_down, _ = super().backward(grad)
        return d_x, np.roll(d_gate_up, d_down.shape[2], axis=1), d_down, None


class InterleavesGateAndUp(GroupedSwiGLU):
    """Takes every second row of `gate_up` for the gate, as gpt-oss stores it. Here G stands above U."""

    def forward(self, x: Any, gate_up: Any, down: Any, offsets: Any) -> Any:
        """Even rows, then odd ones."""
        return super().forward(x, np.concatenate([gate_up[:, ::2], gate_up[:, 1::2]], axis=1), down, offsets)

    def backward(self, grad: Any) -> Any:
        """Of that."""
        d_x, d_halves, d_down, _ = super().backward(grad)
        f = d_down.shape[2]
        d_gate_up = np.empty_like(d_halves)
        d_gate_up[:, ::2], d_gate_up[:, 1::2] = d_halves[:, :f], d_halves[:, f:]
        return d_x, d_gate_up, d_down, None


class SigmoidInsteadOfSilu(GroupedSwiGLU):
    """Gates with σ(g): that is a GLU. silu(g) is g σ(g)."""

    def forward(self, x: Any, gate_up: Any, down: Any, offsets: Any) -> Any:
        """Without the factor g."""
        f = down.shape[2]
        h = experts.grouped_product(x, gate_up, offsets)
        a = h[:, f:] / (1 + np.exp(-h[:, :f]))
        self.save(x, gate_up, down, offsets, h, a)
        return experts.grouped_product(a, down, offsets)


class FirstExpertForAll(GroupedSwiGLU):
    """Every row goes through the weights of expert 0: the loop does not index the weights with e."""

    def forward(self, x: Any, gate_up: Any, down: Any, offsets: Any) -> Any:
        """With copies of expert 0."""
        return super().forward(x, np.repeat(gate_up[:1], len(down), 0), np.repeat(down[:1], len(down), 0), offsets)


class AssumesEqualGroups(GroupedSwiGLU):
    """Gives each expert N / E rows. How many an expert has is the router's choice: read `offsets`."""

    def forward(self, x: Any, gate_up: Any, down: Any, offsets: Any) -> Any:
        """Groups of even size."""
        return super().forward(x, gate_up, down, np.linspace(0, len(x), len(offsets)).astype(int))


class StopsAtAnEmptyExpert(GroupedSwiGLU):
    """Leaves the loop at the first expert without rows (`break` for `continue`): those after it stay zero."""

    def forward(self, x: Any, gate_up: Any, down: Any, offsets: Any) -> Any:
        """The experts before it only."""
        unused = np.diff(offsets) == 0
        end = offsets[unused.argmax()] if unused.any() else offsets[-1]
        y = np.zeros_like(x)
        y[:end] = super().forward(x[:end], gate_up, down, np.minimum(offsets, end))
        self.num_rows = len(x)
        return y

    def backward(self, grad: Any) -> Any:
        """The same."""
        done = len(self.saved[0])
        d_x, d_gate_up, d_down, _ = super().backward(grad[:done])
        return np.concatenate([d_x, np.zeros_like(grad[done:])]), d_gate_up, d_down, None


class ForgetsPartOfSilu(GroupedSwiGLU):
    """Takes σ(g) for the derivative of g σ(g). The product rule has a second term, g σ(g) (1 - σ(g))."""

    def backward(self, grad: Any) -> Any:
        """One term of two."""
        _, _, down, _, h, _ = self.saved
        f = down.shape[2]
        d_a, d_h = _hidden_gradient(self, grad)
        d_h[:, :f] = d_a * h[:, f:] / (1 + np.exp(-h[:, :f]))
        return _from_hidden_gradient(self, grad, d_h)


class GateGetsNoGradient(GroupedSwiGLU):
    """Lets the gradient pass through U alone, as if the gate were a constant. The product a = silu(g) u has two."""

    def backward(self, grad: Any) -> Any:
        """Without dg."""
        _, d_h = _hidden_gradient(self, grad)
        d_h[:, : d_h.shape[1] // 2] = 0
        return _from_hidden_gradient(self, grad, d_h)


class InputGradientThroughUpOnly(GroupedSwiGLU):
    """x enters through G and through U; this dx has only Uᵀ du. The term Gᵀ dg must be added."""

    def backward(self, grad: Any) -> Any:
        """One path of two."""
        _, d_h = _hidden_gradient(self, grad)
        _, d_gate_up, d_down, _ = _from_hidden_gradient(self, grad, d_h)
        d_h[:, : d_h.shape[1] // 2] = 0
        return _from_hidden_gradient(self, grad, d_h)[0], d_gate_up, d_down, None


class KeepsTheLastRow(GroupedSwiGLU):
    """Overwrites the gradient of a weight with each row: every row of an expert adds to it."""

    def backward(self, grad: Any) -> Any:
        """Only the last row of each expert counts."""
        x, _, _, offsets, _, a = self.saved
        _, d_h = _hidden_gradient(self, grad)
        last = np.isin(np.arange(len(x)), offsets[1:] - 1)[:, None]
        return (
            _from_hidden_gradient(self, grad, d_h)[0],
            experts.grouped_product_weight_gradient(d_h * last, x, offsets),
            experts.grouped_product_weight_gradient(grad * last, a, offsets),
            None,
        )


class AveragesOverRows(GroupedSwiGLU):
    """Divides the gradient of a weight by the expert's number of rows. The chain rule adds them up."""

    def backward(self, grad: Any) -> Any:
        """A mean."""
        rows = np.maximum(np.diff(self.saved[3]), 1)[:, None, None].astype(grad.dtype)
        d_x, d_gate_up, d_down, _ = super().backward(grad)
        return d_x, d_gate_up / rows, d_down / rows, None


NEXT = "backwards: da = D_eᵀ dy, then dg and du from a = silu(g) u, then dx = G_eᵀ dg + U_eᵀ du"


CHECKS = (
    Check("forward", 3, typical, "for rows offsets[e]:offsets[e+1]: h = x G_eᵀ and x U_eᵀ, a = silu · up, y = a D_eᵀ"),
    Check("forward keeps float32", 1, float32(typical), "a float32 input must give a float32 output"),
    Check("gradient", 4, typical, NEXT, gradient=True),
    Check("gradient in float32", 1, float32(typical), NEXT, gradient=True),
    Check("forward with an unused expert", 1, unused, "an expert without rows has nothing to do; go on with the next"),
    Check(
        "an unused expert gets a gradient of zero",
        2,
        unused,
        "begin with zeros in the shape of the weights, for all experts",
        gradient=True,
    ),
    Check("arrays with gaps", 1, strided(typical), "do not rely on the order in memory"),
    Check("gradient of arrays with gaps", 1, strided(typical), NEXT, gradient=True),
    Check("no rows at all", 1, empty, "(0, d) in, (0, d) out"),
    Check(
        "known values",
        1,
        one_by_one(case(np.ones((1, 1)), np.array([[[np.log(3.0)], [4.0]]]), np.array([[[2.0]]]), np.array([0, 1]))),
        "g = ln 3 has σ(g) = 3/4: y = 2 · (3/4 ln 3) · 4 = 6 ln 3",
    ),
)

MISTAKES = (
    SwapsGateAndUp,
    InterleavesGateAndUp,
    SigmoidInsteadOfSilu,
    FirstExpertForAll,
    AssumesEqualGroups,
    StopsAtAnEmptyExpert,
    ForgetsPartOfSilu,
    GateGetsNoGradient,
    InputGradientThroughUpOnly,
    KeepsTheLastRow,
    AveragesOverRows,
)
