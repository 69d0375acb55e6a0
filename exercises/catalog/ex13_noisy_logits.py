"""Exercise 13: noisy logits with a learned size of noise."""

from typing import Any

import numpy as np

from moe_numpy.autodiff import Tensor
from moe_numpy.moe.noise import ShazeerNoise
from moe_numpy.ops import Affine, Softplus

from ..exercise import Case, Check, Exercise, Seeded, case, float32, one_by_one, strided

EXERCISE = Exercise(
    number=13,
    name="noisy_logits",
    title="Noisy logits",
    teaches="Noise that a router learns to size itself: the random number is a constant, its factor is not.",
    difficulty=2,
    minutes=15,
    needs=(3,),
    target="moe_numpy.moe.noise:ShazeerNoise.on_logits",
    imports=("from moe_numpy.ops import Affine, Softplus",),
    hints=(
        "h, x and weight are Tensors: compute with ops, and the gradients come by themselves. "
        "Softplus.apply(...) and Affine.apply(x, weight, None), which is x Wᵀ, are at hand.",
        "An array can stand beside a Tensor in a product: it is a constant. Mind the dtype of what rng returns.",
        "sigma = Softplus.apply(Affine.apply(x, weight, None)) + self.epsilon; "
        "n = rng.standard_normal(h.shape).astype(h.dtype); return h + sigma * n, sigma.",
    ),
)


def _arrays(returned: Any) -> Any:
    """What Tensors hold; anything else as it is."""
    return tuple(y.data if isinstance(y, Tensor) else y for y in returned)


def values(solution: Any, h: Any, x: Any, weight: Any, rng: Any, epsilon: Any) -> Any:
    """H and σ."""
    noise = ShazeerNoise(epsilon)
    return _arrays(solution(noise, *(Tensor(a, requires_grad=True) for a in (h, x, weight)), rng))


def gradients(solution: Any, h: Any, x: Any, weight: Any, rng: Any, epsilon: Any, upstream: Any) -> Any:
    """dh, dx and dW from upstream gradients for H and σ."""
    inputs = [Tensor(a, requires_grad=True) for a in (h, x, weight)]
    noisy, sigma = solution(ShazeerNoise(epsilon), *inputs, rng)
    loss = (noisy * upstream[0]).sum()
    if upstream[1] is not None:
        loss = loss + (sigma * upstream[1]).sum()
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


def typical(rng: np.random.Generator) -> list[Case]:
    """T, E and d all different."""
    return [_case(rng, *s) for s in [(4, 3, 2), (2, 5, 3), (1, 4, 2), (3, 1, 4), (1, 1, 1)]]


def square(rng: np.random.Generator) -> list[Case]:
    """T = E = d, where every shape fits."""
    return [_case(rng, 3, 3, 3)]


def epsilons(rng: np.random.Generator) -> list[Case]:
    """None at all, and one that cannot be overlooked."""
    return [_case(rng, 3, 4, 2, epsilon) for epsilon in (0.0, 0.7)]


def quiet(rng: np.random.Generator) -> list[Case]:
    """x W_nᵀ far below and far above 0: σ is ε, or x W_nᵀ + ε, and never infinite."""
    h, x = rng.standard_normal((2, 3)), np.array([[-1000.0], [1000.0]])
    return [case(h, x, 1 + rng.random((3, 1)), _seed(rng), 0.01)]


def empty(rng: np.random.Generator) -> list[Case]:
    """No tokens."""
    return [_case(rng, 0, 3, 2)]


def backward_both(rng: np.random.Generator) -> list[Case]:
    """Upstream gradients for H and σ."""
    return [_with_upstream(rng, c, True) for c in typical(rng) + square(rng)]


def backward_noisy(rng: np.random.Generator) -> list[Case]:
    """An upstream gradient for H alone: the task loss."""
    return [_with_upstream(rng, c, False) for c in typical(rng)]


def _case(rng: np.random.Generator, tokens: int, experts: int, d: int, epsilon: float = 0.01) -> Case:
    h, x = rng.standard_normal((tokens, experts)), rng.standard_normal((tokens, d))
    return case(h, x, rng.standard_normal((experts, d)), _seed(rng), epsilon)


def _seed(rng: np.random.Generator) -> Seeded:
    return Seeded(1 + int(rng.integers(10**6)))


def _with_upstream(rng: np.random.Generator, c: Case, both: bool) -> Case:
    for_noisy, for_sigma = rng.standard_normal((2, *c.args[0].shape))
    return case(*c.args, [for_noisy, for_sigma if both else None])


# Wrong solutions


def _sigma(self: Any, x: Any, weight: Any) -> Any:
    return Softplus.apply(Affine.apply(x, weight, None)) + self.epsilon


def _normal(h: Any, rng: Any) -> Any:
    return rng.standard_normal(h.shape).astype(h.dtype)


def no_softplus(self: Any, h: Any, x: Any, weight: Any, rng: Any) -> Any:
    """σ = x W_nᵀ + ε can be negative; softplus keeps a standard deviation above 0."""
    sigma = Affine.apply(x, weight, None) + self.epsilon
    return h + sigma * _normal(h, rng), sigma


def forgets_epsilon(self: Any, h: Any, x: Any, weight: Any, rng: Any) -> Any:
    """σ = softplus(x W_nᵀ): without ε the noise can vanish, and the load loss divides by σ."""
    sigma = Softplus.apply(Affine.apply(x, weight, None))
    return h + sigma * _normal(h, rng), sigma


def epsilon_inside_softplus(self: Any, h: Any, x: Any, weight: Any, rng: Any) -> Any:
    """softplus(x W_nᵀ + ε) can still be 0. ε is added to the result."""
    sigma = Softplus.apply(Affine.apply(x, weight, None) + self.epsilon)
    return h + sigma * _normal(h, rng), sigma


def sigma_without_epsilon(self: Any, h: Any, x: Any, weight: Any, rng: Any) -> Any:
    """Adds the right noise, but returns σ without ε: the load loss would divide by another σ."""
    sigma = _sigma(self, x, weight)
    return h + sigma * _normal(h, rng), sigma - self.epsilon


def sigma_as_variance(self: Any, h: Any, x: Any, weight: Any, rng: Any) -> Any:
    """Takes softplus for a variance and adds n √σ. It is the standard deviation already."""
    sigma = _sigma(self, x, weight)
    return h + sigma.sqrt() * _normal(h, rng), sigma


def size_from_the_logits(self: Any, h: Any, x: Any, weight: Any, rng: Any) -> Any:
    """σ = softplus(h) + ε: the size of the noise has a weight of its own, W_n."""
    sigma = Softplus.apply(h) + self.epsilon
    return h + sigma * _normal(h, rng), sigma


def one_draw_for_each_token(self: Any, h: Any, x: Any, weight: Any, rng: Any) -> Any:
    """Shares one n among all experts of a token. The noise should reorder them: each entry has its own."""
    sigma = _sigma(self, x, weight)
    return h + sigma * rng.standard_normal((h.shape[0], 1)).astype(h.dtype), sigma


def uniform_noise(self: Any, h: Any, x: Any, weight: Any, rng: Any) -> Any:
    """rng.random is uniform in [0, 1): it only ever raises logits. N(0, 1) is rng.standard_normal."""
    sigma = _sigma(self, x, weight)
    return h + sigma * rng.random(h.shape).astype(h.dtype), sigma


def a_generator_of_its_own(self: Any, h: Any, x: Any, weight: Any, rng: Any) -> Any:
    """Makes a new generator in each call: the noise is then always the same. Use rng."""
    sigma = _sigma(self, x, weight)
    return h + sigma * _normal(h, np.random.default_rng(0)), sigma


def noise_alone(self: Any, h: Any, x: Any, weight: Any, rng: Any) -> Any:
    """Returns n σ without the logits."""
    sigma = _sigma(self, x, weight)
    return sigma * _normal(h, rng), sigma


def noise_proportional_to_logits(self: Any, h: Any, x: Any, weight: Any, rng: Any) -> Any:
    """h (1 + n σ): a logit of 0 gets no noise at all. It is added."""
    sigma = _sigma(self, x, weight)
    return h * (1 + sigma * _normal(h, rng)), sigma


def sigma_leaves_the_graph(self: Any, h: Any, x: Any, weight: Any, rng: Any) -> Any:
    """Draws from rng.normal(0, σ.data): the right values, but W_n gets no gradient through H. Write n · σ."""
    sigma = _sigma(self, x, weight)
    return h + (sigma.data * _normal(h, rng)), sigma


def logits_leave_the_graph(self: Any, h: Any, x: Any, weight: Any, rng: Any) -> Any:
    """Builds H from h.data: the router's own weights then get no gradient from the task."""
    sigma = _sigma(self, x, weight)
    return h.detach() + sigma * _normal(h, rng), sigma


def promotes_to_float64(self: Any, h: Any, x: Any, weight: Any, rng: Any) -> Any:
    """rng.standard_normal gives float64, and float32 logits become float64 with it. Cast n first."""
    sigma = _sigma(self, x, weight)
    return h + sigma * rng.standard_normal(h.shape), sigma


CHECKS = (
    Check("noisy logits and sigma", 4, typical, "H = h + n σ and σ = softplus(x W_nᵀ) + ε", values),
    Check("where every shape fits", 1, square, "W_n is [E, d]: x W_nᵀ", values),
    Check("epsilon is added to softplus", 2, epsilons, "softplus(...) + self.epsilon, also in the σ returned", values),
    Check("far from zero", 1, quiet, "the op Softplus cannot overflow", values),
    Check(
        "gradients through H",
        3,
        backward_noisy,
        "compute with Tensors; n is the only constant",
        gradients,
        second_oracle=False,
    ),
    Check(
        "gradients through H and sigma",
        1,
        backward_both,
        "return σ as a Tensor of the graph",
        gradients,
        second_oracle=False,
    ),
    Check("float32", 1, float32(typical), "random numbers come as float64; cast them", values),
    Check("arrays with gaps", 1, strided(typical), "do not rely on strides", values),
    Check("no tokens", 1, empty, "(0, E) in, (0, E) out", values),
    Check(
        "knows the smallest example",
        1,
        one_by_one(case(np.zeros((1, 2)), np.zeros((1, 1)), np.ones((2, 1)), Seeded(1), 0.0)),
        "by hand: softplus(0) = ln 2, so σ = 0.6931...",
        values,
    ),
)

MISTAKES = (
    no_softplus,
    forgets_epsilon,
    epsilon_inside_softplus,
    sigma_without_epsilon,
    sigma_as_variance,
    size_from_the_logits,
    one_draw_for_each_token,
    uniform_noise,
    a_generator_of_its_own,
    noise_alone,
    noise_proportional_to_logits,
    sigma_leaves_the_graph,
    logits_leave_the_graph,
    promotes_to_float64,
)
