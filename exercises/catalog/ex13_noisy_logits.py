"""Exercise 13: noisy logits with a learned size of noise."""

from typing import Any

import numpy as np

from moe_numpy.autodiff import Tensor
from moe_numpy.moe.noise import ShazeerNoise

from ..exercise import Case, Check, Exercise, Seeded, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=13,
    name="noisy_logits",
    title="Noisy logits",
    teaches="A router learns the size of its own noise: the random number is a constant, its factor σ is not.",
    difficulty=2,
    minutes=15,
    needs=(3,),
    target="moe_numpy.moe.noise:ShazeerNoise.on_logits",
    imports=("from moe_numpy.ops import Affine, Softplus",),
    hints=(
        "h, x and weight are Tensors: compute with ops, and the engine derives the gradients. You need "
        "Softplus.apply(...) and Affine.apply(x, weight, None), which is x Wᵀ.",
        "A Tensor can be multiplied with an array, which is then a constant. Mind the dtype of what rng returns.",
        "sigma = Softplus.apply(Affine.apply(x, weight, None)) + self.epsilon; "
        "n = rng.standard_normal(h.shape).astype(h.dtype); return h + sigma * n, sigma.",
    ),
)


def values(solution: Any, h: Any, x: Any, weight: Any, rng: Any, epsilon: Any) -> Any:
    """H and σ."""
    returned = solution(ShazeerNoise(epsilon), *(Tensor(a, requires_grad=True) for a in (h, x, weight)), rng)
    return tuple(y.data for y in returned) if type(returned) is tuple else returned


def next_number(solution: Any, h: Any, x: Any, weight: Any, rng: Any, epsilon: Any) -> Any:
    """H without a graph, and what the generator gives afterwards."""
    noisy, _ = solution(ShazeerNoise(epsilon), Tensor(h), Tensor(x), Tensor(weight), rng)
    return noisy.data, rng.random()


def gradients(
    solution: Any, h: Any, x: Any, weight: Any, rng: Any, epsilon: Any, d_noisy: Any, d_sigma: Any = None
) -> Any:
    """dh, dx and dW from the gradients of H and σ."""
    inputs = [Tensor(a, requires_grad=True) for a in (h, x, weight)]
    noisy, sigma = solution(ShazeerNoise(epsilon), *inputs, rng)
    loss = (noisy * d_noisy).sum()
    if d_sigma is not None:
        loss = loss + (sigma * d_sigma).sum()
    loss.backward()
    return tuple(t.grad for t in inputs)


def specification(self: Any, h: Any, x: Any, weight: Any, rng: Any) -> Any:
    """Entry by entry, one normal number after the other."""
    noisy, sigma = np.zeros_like(h.data), np.zeros_like(h.data)
    for t in range(h.shape[0]):
        for e in range(h.shape[1]):
            a = sum(float(x.data[t, j]) * float(weight.data[e, j]) for j in range(x.shape[1]))
            sigma[t, e] = np.logaddexp(0.0, a) + self.epsilon
            noisy[t, e] = h.data[t, e] + rng.standard_normal() * sigma[t, e]
    return Tensor(noisy), Tensor(sigma)


def _case(rng: np.random.Generator, tokens: int, experts: int, d: int, epsilon: float = 0.01) -> Case:
    h, x = rng.standard_normal((tokens, experts)), rng.standard_normal((tokens, d))
    return case(h, x, rng.standard_normal((experts, d)), Seeded(1 + int(rng.integers(10**6))), epsilon)


def typical(rng: np.random.Generator) -> list[Case]:
    return [_case(rng, *s) for s in [(4, 3, 2), (2, 5, 3), (1, 4, 2), (3, 1, 4), (1, 1, 1), (4, 3, 2)]]


def square(rng: np.random.Generator) -> list[Case]:
    """T = E = d, where every shape fits."""
    return [_case(rng, 3, 3, 3)]


def epsilons(rng: np.random.Generator) -> list[Case]:
    return [_case(rng, 3, 4, 2, epsilon) for epsilon in (0.0, 0.7)]


def backward_noisy(rng: np.random.Generator) -> list[Case]:
    """A gradient for H alone: the task loss."""
    return [case(*c.args, rng.standard_normal(c.args[0].shape)) for c in typical(rng)]


def backward_both(rng: np.random.Generator) -> list[Case]:
    return [case(*c.args, *rng.standard_normal((2, *c.args[0].shape))) for c in typical(rng) + square(rng)]


# x W_nᵀ far below and far above 0: σ is ε, or x W_nᵀ + ε, and never infinite
FAR = one_by_one(
    case(
        np.array([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]]),
        np.array([[-1000.0], [1000.0]]),
        np.ones((3, 1)),
        Seeded(1),
        0.01,
    )
)
EMPTY = one_by_one(case(np.zeros((0, 3)), np.zeros((0, 2)), np.ones((3, 2)), Seeded(1), 0.01))
KNOWN = one_by_one(case(np.zeros((1, 2)), np.zeros((1, 1)), np.ones((2, 1)), Seeded(1), 0.0))
BY_ENGINE = "compute with Tensors; n is the only constant"
IN_GRAPH = "return σ as a Tensor of the graph"
CHECKS = (
    Check("noisy logits and sigma", 4, typical, "H = h + n σ and σ = softplus(x W_nᵀ) + ε", values),
    Check("where every shape fits", 1, square, "W_n is [E, d]: x W_nᵀ", values),
    Check("epsilon is added to softplus", 2, epsilons, "softplus(...) + self.epsilon, also in the σ returned", values),
    Check("far from zero", 1, FAR, "the op Softplus cannot overflow", values),
    Check("gradients through H", 3, backward_noisy, BY_ENGINE, gradients, second_oracle=False),
    Check("gradients through H and sigma", 1, backward_both, IN_GRAPH, gradients, second_oracle=False),
    *standard_checks(typical, run=values),
    Check(
        "one draw from rng",
        1,
        typical,
        "call rng.standard_normal(h.shape) once, on the rng that was given",
        next_number,
    ),
    Check("no tokens", 1, EMPTY, "(0, E) in, (0, E) out", values),
    Check("known values", 1, KNOWN, "by hand: softplus(0) = ln 2, so σ = 0.6931...", values),
)

MISTAKES = edits("""
no softplus: σ = x W_nᵀ + ε can be negative; softplus keeps a standard deviation above 0.
- Softplus.apply(Affine.apply(x, weight, None))
+ Affine.apply(x, weight, None)
forgets epsilon: σ = softplus(x W_nᵀ): without ε the noise can vanish, and the load loss divides by σ.
- Softplus.apply(Affine.apply(x, weight, None)) + self.epsilon
+ Softplus.apply(Affine.apply(x, weight, None))
larger of softplus and epsilon: max(softplus, ε): the formula adds ε.
- Softplus.apply(Affine.apply(x, weight, None)) + self.epsilon
+ Softplus.apply(Affine.apply(x, weight, None))
+     sigma = sigma + np.maximum(self.epsilon - sigma.data, 0).astype(sigma.dtype)
epsilon inside softplus: softplus(x W_nᵀ + ε) can still be 0. Add ε to the result.
- Softplus.apply(Affine.apply(x, weight, None)) + self.epsilon
+ Softplus.apply(Affine.apply(x, weight, None) + self.epsilon)
sigma without epsilon: The noise is right, but σ is returned without ε: the load loss would divide by another σ.
- _like(h, rng.standard_normal(h.shape)), sigma
+ _like(h, rng.standard_normal(h.shape)), sigma - self.epsilon
sigma as variance: Takes softplus for a variance and adds n √σ. It is the standard deviation already.
- h + sigma *
+ h + sigma.sqrt() *
size from the logits: σ = softplus(h) + ε: the size of the noise has its own weight, W_n.
- Softplus.apply(Affine.apply(x, weight, None))
+ Softplus.apply(h)
one draw for each token: One n for all experts of a token mostly shifts them together. Draw one per entry.
- rng.standard_normal(h.shape)), sigma
+ rng.standard_normal((h.shape[0], 1))), sigma
uniform noise: rng.random is uniform in [0, 1): it only ever raises logits. N(0, 1) is rng.standard_normal.
- rng.standard_normal(h.shape)), sigma
+ rng.random(h.shape)), sigma
a generator of its own: Makes a new generator in each call: the noise is then always the same. Use rng.
- rng.standard_normal(h.shape)), sigma
+ np.random.default_rng(0).standard_normal(h.shape)), sigma
noise alone: Returns n σ without the logits.
- h + sigma *
+ sigma *
noise proportional to logits: h (1 + n σ): a logit of 0 gets no noise at all. Add the noise.
- h + sigma * _like(h, rng.standard_normal(h.shape))
+ h * (1 + sigma * _like(h, rng.standard_normal(h.shape)))
sigma leaves the graph: n · σ.data has the right values, but W_n gets no gradient through H. Write n · σ.
- h + sigma *
+ h + sigma.data *
logits leave the graph: Builds H from h.data: the router's own weights then get no gradient from the task.
- h + sigma *
+ h.detach() + sigma *
promotes to float64: rng.standard_normal returns float64, and turns float32 logits into float64. Cast n first.
- _like(h, rng.standard_normal(h.shape))
+ rng.standard_normal(h.shape)
one draw for each expert: One n for all tokens of an expert: whole experts go up and down. Draw one per entry.
- rng.standard_normal(h.shape)), sigma
+ rng.standard_normal((1, h.shape[1])) + np.zeros(h.shape)), sigma
an epsilon of its own: Adds 0.01 whatever `self.epsilon` says.
- + self.epsilon
+ + 0.01
noise of the clean size: n σ²: softplus is the standard deviation itself.
- h + sigma *
+ h + sigma * sigma *
draws too much: Draws twice as many numbers as it needs: whoever draws next gets others.
- _like(h, rng.standard_normal(h.shape))
+ _like(h, rng.standard_normal((2, *h.shape))[0])
noise only for training: Adds noise only if a gradient is wanted. Whether there is noise is for the caller to decide.
- sigma = Softplus
+ rng = rng if weight.requires_grad else np.random.default_rng(0); sigma = Softplus
draws from a copy: The generator stays where it was: the next call draws the same noise. Use rng itself.
- _like(h, rng.standard_normal(h.shape))
+ _like(h, __import__("copy").deepcopy(rng).standard_normal(h.shape))
returns a list: A tuple is two results; a list is one.
- return h + sigma * _like(h, rng.standard_normal(h.shape)), sigma
+ return [h + sigma * _like(h, rng.standard_normal(h.shape)), sigma]
positive noise: |n| only ever raises logits. N(0, 1) has both signs.
- rng.standard_normal(h.shape)), sigma
+ np.abs(rng.standard_normal(h.shape))), sigma
""")
