"""Gradient checks of the Functions in ``moe_numpy.moe``."""

import math

import numpy as np

from ...moe.capacity import KeepAssignments, LeaveOut
from ...moe.dispatch import Combine, GateMask, GateRows, Permute, ThroughMask
from ...moe.experts import ClampedSwiGLU, GroupedAffine, GroupedSwiGLU
from ...moe.gates import DivideByAtLeast, PickScores, PNormalize, Renormalize, SelectedSoftmax, SqrtSoftplus
from ...moe.losses import BalanceLoss, Entropy, LoadProbability, RouterZLoss, SquaredCV, SumByExpert
from ...moe.mixture_1991 import MixtureLikelihood
from ...moe.sparse_mixer import SparseMixer
from ...ops import FillPlaces
from . import Built, case

# Six assignments of four tokens to four experts, as a dropping router leaves them: expert 1 is empty, token 3
# has no expert, token 0 has three, and the order is by expert.
TOKEN = np.array([0, 2, 0, 1, 0, 2])
EXPERT = np.array([0, 0, 2, 2, 3, 3])
PLACE = np.array([0, 1, 0, 1, 0, 1])
OFFSETS = np.array([0, 2, 2, 4, 6])


@case(SqrtSoftplus)
def sqrt_softplus(rng: np.random.Generator) -> Built:
    """Logits of both signs."""
    return SqrtSoftplus.apply, [2 * rng.standard_normal((4, 3))]


@case(PickScores)
def pick_scores(rng: np.random.Generator) -> Built:
    """Some entries of a score matrix."""
    return lambda p: PickScores.apply(p, TOKEN, EXPERT), [rng.standard_normal((4, 4))]


@case(Renormalize)
def renormalize(rng: np.random.Generator) -> Built:
    """Variable numbers of experts for a token, one of them with a single expert."""
    return lambda s: Renormalize.apply(s, TOKEN, num_tokens=4), [rng.uniform(0.1, 1, 6)]


@case(Renormalize)
def renormalize_with_epsilon(rng: np.random.Generator) -> Built:
    """An ε that matters."""
    return lambda s: Renormalize.apply(s, TOKEN, num_tokens=4, epsilon=0.3), [rng.uniform(0.1, 1, 6)]


@case(DivideByAtLeast)
def divide_by_at_least(rng: np.random.Generator) -> Built:
    """Some sums above, some below."""
    return lambda s: DivideByAtLeast.apply(s, TOKEN, num_tokens=4, least=0.8), [rng.uniform(0.1, 1, 6)]


@case(SparseMixer)
def sparse_mixer(rng: np.random.Generator) -> Built:
    """An ε that keeps a few experts."""
    return lambda h: SparseMixer.apply(h, epsilon=0.7), [rng.standard_normal((6, 5))]


@case(SelectedSoftmax)
def selected_softmax(rng: np.random.Generator) -> Built:
    """Variable numbers of experts for a token."""
    return lambda h: SelectedSoftmax.apply(h, TOKEN, num_tokens=4), [rng.standard_normal(6)]


@case(PNormalize)
def p_normalize(rng: np.random.Generator) -> Built:
    """The Euclidean norm."""
    return lambda s: PNormalize.apply(s, TOKEN, num_tokens=4, p=2.0), [rng.uniform(0.1, 1, 6)]


@case(PNormalize)
def p_normalize_by_the_sum(rng: np.random.Generator) -> Built:
    """P = 1, where it equals Renormalize."""
    return lambda s: PNormalize.apply(s, TOKEN, num_tokens=4, p=1.0), [rng.uniform(0.1, 1, 6)]


@case(PNormalize)
def p_normalize_by_the_largest(rng: np.random.Generator) -> Built:
    """P = ∞, scores of both signs."""
    return lambda s: PNormalize.apply(s, TOKEN, num_tokens=4, p=math.inf), [rng.standard_normal(6)]


@case(KeepAssignments)
def keep_assignments(rng: np.random.Generator) -> Built:
    """Two of five weights are dropped, the rest change places."""
    return lambda w: KeepAssignments.apply(w, np.array([4, 0, 2])), [rng.standard_normal(5)]


@case(LeaveOut)
def leave_out(rng: np.random.Generator) -> Built:
    """Two of five weights become zero."""
    return lambda w: LeaveOut.apply(w, np.array([True, False, True, True, False])), [rng.standard_normal(5)]


@case(BalanceLoss)
def balance_loss(rng: np.random.Generator) -> Built:
    """One part: the loss of Switch."""
    f = rng.dirichlet(np.ones(3), size=1)
    return lambda p: BalanceLoss.apply(p, f), [rng.dirichlet(np.ones(3), size=6)]


@case(BalanceLoss)
def balance_loss_by_sequence(rng: np.random.Generator) -> Built:
    """Three parts of two tokens."""
    f = rng.dirichlet(np.ones(3), size=3)
    return lambda p: BalanceLoss.apply(p, f), [rng.dirichlet(np.ones(3), size=6)]


@case(RouterZLoss)
def router_z_loss(rng: np.random.Generator) -> Built:
    """Logits of both signs."""
    return RouterZLoss.apply, [rng.standard_normal((5, 3))]


@case(SquaredCV)
def squared_cv_of_a_sample(rng: np.random.Generator) -> Built:
    """Divided by n - 1."""
    return SquaredCV.apply, [rng.uniform(0.5, 2, 5)]


@case(SquaredCV)
def squared_cv_of_a_population(rng: np.random.Generator) -> Built:
    """Divided by n."""
    return lambda v: SquaredCV.apply(v, ddof=0), [rng.uniform(0.5, 2, 5)]


@case(SquaredCV)
def squared_cv_at_balance(rng: np.random.Generator) -> Built:
    """Where a standard deviation has no derivative."""
    return SquaredCV.apply, [np.full(4, 1.5)]


@case(Entropy)
def entropy(rng: np.random.Generator) -> Built:
    """Positive numbers; their sum does not matter."""
    return Entropy.apply, [rng.uniform(0.1, 1, (3, 4))]


@case(SumByExpert)
def sum_by_expert(rng: np.random.Generator) -> Built:
    """One expert without assignments."""
    return lambda w: SumByExpert.apply(w, EXPERT, num_experts=4), [rng.standard_normal(6)]


@case(LoadProbability)
def load_probability(rng: np.random.Generator) -> Built:
    """Logits, noise sizes and noisy logits as three inputs."""
    h = rng.standard_normal((5, 4))
    return (
        lambda h, sigma, noisy: LoadProbability.apply(h, sigma, noisy, k=2),
        [h, rng.uniform(0.5, 2, (5, 4)), h + rng.standard_normal((5, 4))],
    )


@case(LoadProbability)
def load_probability_against_all(rng: np.random.Generator) -> Built:
    """The threshold of V-MoE, which an expert may itself have set."""
    h = rng.standard_normal((5, 4))
    return (
        lambda h, sigma, noisy: LoadProbability.apply(h, sigma, noisy, k=2, rivals="all"),
        [h, rng.uniform(0.5, 2, (5, 4)), h + rng.standard_normal((5, 4))],
    )


@case(MixtureLikelihood)
def mixture_likelihood(rng: np.random.Generator) -> Built:
    """Gate, experts and target."""
    return MixtureLikelihood.apply, [
        rng.standard_normal((4, 3)),
        rng.standard_normal((4, 3, 2)),
        rng.standard_normal((4, 2)),
    ]


@case(Permute)
def permute(rng: np.random.Generator) -> Built:
    """A token copied three times, one never copied."""
    return lambda x: Permute.apply(x, TOKEN), [rng.standard_normal((4, 3))]


@case(Combine)
def combine(rng: np.random.Generator) -> Built:
    """Three answers summed into one token, none into another."""
    return (
        lambda r, w: Combine.apply(r, w, TOKEN, num_tokens=4),
        [rng.standard_normal((6, 3)), rng.standard_normal(6)],
    )


@case(GateRows)
def weigh_rows(rng: np.random.Generator) -> Built:
    """One weight for each row."""
    return GateRows.apply, [rng.standard_normal((6, 3)), rng.standard_normal(6)]


@case(FillPlaces)
def fill_places(rng: np.random.Generator) -> Built:
    """Six rows into eight places."""
    return (
        lambda r: FillPlaces.apply(r, 2 * EXPERT + PLACE, num_places=8),
        [rng.standard_normal((6, 3))],
    )


@case(GateMask)
def weight_mask(rng: np.random.Generator) -> Built:
    """Four tokens, four experts, two places."""
    return lambda w: GateMask.apply(w, TOKEN, EXPERT, PLACE, shape=(4, 4, 2)), [rng.standard_normal(6)]


@case(ThroughMask)
def through_mask(rng: np.random.Generator) -> Built:
    """A mask with a weight at each taken place, and zeros."""
    places = (rng.random((4, 5)) < 0.5).astype(float)
    mask, x = places * rng.standard_normal((4, 5)), rng.standard_normal((5, 3))
    return lambda weight, x: ThroughMask.apply(weight, x, places), [mask, x]


@case(GroupedSwiGLU)
def grouped_swiglu(rng: np.random.Generator) -> Built:
    """Four experts, one without rows."""
    return (
        lambda x, gate_up, down: GroupedSwiGLU.apply(x, gate_up, down, OFFSETS),
        [rng.standard_normal((6, 3)), rng.standard_normal((4, 10, 3)), rng.standard_normal((4, 3, 5))],
    )


@case(GroupedAffine)
def grouped_affine(rng: np.random.Generator) -> Built:
    """Four experts with biases, one without rows."""
    return (
        lambda x, weight, bias: GroupedAffine.apply(x, weight, bias, OFFSETS),
        [rng.standard_normal((6, 3)), rng.standard_normal((4, 2, 3)), rng.standard_normal((4, 2))],
    )


@case(ClampedSwiGLU)
def clamped_swiglu(rng: np.random.Generator) -> Built:
    """Some values beyond the limits."""
    return ClampedSwiGLU.apply, [5 * rng.standard_normal((4, 6))]
