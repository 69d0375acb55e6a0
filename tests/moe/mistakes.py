"""The mistakes that routing code invites, one or more per trap, small enough to show.

Each docstring names the mistake and its symptom. Wrong Functions go in with ``substitute(Right, Wrong)``; wrong parts
and settings replace the right ones in a ``RouterConfig``.
"""

from dataclasses import replace

import numpy as np

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import Router, RouterConfig
from moe_numpy.moe.balancers import LossFreeBias
from moe_numpy.moe.capacity import Capacity
from moe_numpy.moe.dispatch import Combine, dispatch_sorted
from moe_numpy.moe.experts import GroupedSwiGLU
from moe_numpy.moe.gates import Gate, PickScores, Renormalize, SelectedSoftmax
from moe_numpy.moe.losses import BalanceLoss, LoadProbability, SwitchBalance
from moe_numpy.moe.noise import Jitter
from moe_numpy.moe.routing import Candidates
from moe_numpy.moe.selection import ExpertChoice, GroupLimited, TopK
from moe_numpy.nn import FeedForward, Module
from moe_numpy.ops import Affine, Concatenate, Softmax

# Trap 1: one expert, and its gate weight normalised


def renormalized_top_1():
    """Mistake: divide the gate weight of the only expert by itself. Symptom: g = 1, and the router never learns."""
    return RouterConfig(TopK(1), gates=(Gate(Renormalize),))


def softmax_after_top_1():
    """Mistake: softmax over the one selected logit. Symptom: g = 1, and the router never learns."""
    return RouterConfig(TopK(1), scores=None, gates=(Gate(SelectedSoftmax),))


# Trap 2: constants that are not treated as constants


class BalanceLossOfSoftCounts(BalanceLoss):
    """Mistake: differentiate the fractions f as if they were P, by the product rule.

    Symptom: a gradient about twice as large; finite differences contradict it.
    """

    def forward(self, p, f):
        self.mean_p = p.mean(axis=0)
        return super().forward(p, f)

    def backward(self, grad):
        dp, df = super().backward(grad)
        num_tokens, num_experts = dp.shape
        return dp + grad * num_experts / num_tokens * self.mean_p, df


class BiasAddedInPlace(LossFreeBias):
    """Mistake: ``scores += b`` where ``scores + b`` is meant. Symptom: the bias leaks into the gate weights."""

    def shift(self, scores, state):
        scores += state
        return scores


class PickScoresStraightThrough(PickScores):
    """Mistake: treat the choice as differentiable and give its gradient to all scores of the token.

    Symptom: scores of experts that were not chosen get a gradient, though changing them changes nothing.
    """

    def backward(self, grad):
        (at,) = self.saved
        dp = np.zeros(self.shape, grad.dtype)
        np.add.at(dp, at // self.shape[1], grad[:, None])
        return dp, None, None


# Trap 3: the wrong neutral element


class GroupsMaskedWithZero(GroupLimited):
    """Mistake: exclude a group by setting its scores to 0 instead of -∞.

    Symptom: once the bias makes the allowed scores negative, forbidden experts win with their 0.
    """

    def __call__(self, scores, batch):
        num_tokens, num_experts = scores.shape
        grouped = scores.reshape(num_tokens, self.num_groups, -1)
        group_scores = np.sort(grouped, axis=2)[:, :, -2:].sum(axis=2)
        best = np.argsort(-group_scores, axis=1, kind="stable")[:, : self.top_groups]
        allowed = np.zeros(group_scores.shape, bool)
        np.put_along_axis(allowed, best, True, axis=1)
        allowed = np.repeat(allowed, num_experts // self.num_groups, axis=1)
        return TopK(self.k)(np.where(allowed, scores, 0), batch)


# Trap 4: f(s x) is not s f(x)


def gate_the_output(config):
    """Mistake: gate the output where the model gates the input (Llama 4). Symptom: other outputs, same parameters."""
    return replace(config, gate_on="output")


# Trap 5: a mask made of gate weights


def dispatch_by_nonzero_gates(x, routing, experts):
    """Mistake: send a token where its gate weight is not zero, ``dispatch = (combine != 0)``.

    Symptom: a token whose gate weight underflows is not sent, and the gradient that could revive it is lost.
    """
    visible = routing.gate.data != 0
    kept = np.flatnonzero(visible)
    counts = np.bincount(routing.expert[kept], minlength=routing.num_experts)
    seen = replace(
        routing,
        token=routing.token[kept],
        expert=routing.expert[kept],
        gate=routing.gate[kept],
        offsets=np.concatenate([[0], np.cumsum(counts)]),
    )
    return dispatch_sorted(x, seen, experts)


# Trap 6: noise in the wrong place, at the wrong time


class JitterInPlace(Jitter):
    """Mistake: multiply the tokens in place. Symptom: the experts see jittered tokens too."""

    def on_input(self, x, rng):
        x.data[...] *= rng.uniform(1 - self.epsilon, 1 + self.epsilon, x.shape)
        return x


class RouterNoisyInEvaluation(Router):
    """Mistake: ignore the mode. Symptom: in evaluation the same input gives other outputs from run to run."""

    def forward(self, x, batch):
        return super().forward(x, replace(batch, training=True))


# Trap 7: what becomes of dropped tokens


def dispatch_passing_dropped_tokens(x, routing, experts):
    """Mistake: return a dropped token scaled by its router probability, instead of zero.

    Symptom: with the residual connection the token counts 1 + p times.
    """
    y = dispatch_sorted(x, routing, experts)
    dropped = np.setdiff1d(np.arange(routing.num_tokens), routing.token)
    passed = np.zeros_like(x.data)
    passed[dropped] = routing.trace.scores.data.max(axis=1)[dropped, None] * x.data[dropped]
    return y + Tensor(passed)


# Trap 8: logits against probabilities


class LoadWithThresholdsInProbabilities(LoadProbability):
    """Mistake: take the thresholds from softmax(noisy) and compare them with clean logits.

    Symptom: the expected load of a token does not sum to k.
    """

    def forward(self, h, sigma, noisy, *, k):
        e = np.exp(noisy - noisy.max(axis=1, keepdims=True))
        return super().forward(h, sigma, e / e.sum(axis=1, keepdims=True), k=k)


# Trap 9: rows that do not come home


class CombineInExpertOrder(Combine):
    """Mistake: forget the inverse permutation and add rows as if they were still in token order.

    Symptom: shapes and sums are right; each token gets the answers to other tokens.
    """

    def forward(self, r, gate, token, *, num_tokens):
        super().forward(r, gate, token, num_tokens=num_tokens)
        return (r * gate[:, None]).reshape(num_tokens, -1, r.shape[1]).sum(axis=1)


class CombineLosingDuplicates(Combine):
    """Mistake: ``y[token] += rows``, which keeps one of several rows with the same index.

    Symptom: right for top-1; with k experts a token gets the answer of only one.
    """

    def forward(self, r, gate, token, *, num_tokens):
        super().forward(r, gate, token, num_tokens=num_tokens)
        y = np.zeros((num_tokens, r.shape[1]), r.dtype)
        y[token] += r * gate[:, None]
        return y


# Trap 10: ties


class TopKFromTheEnd(TopK):
    """Mistake: sort ascending and read from the end. Symptom: ties go to the highest index, unlike elsewhere."""

    def __call__(self, scores, batch):
        chosen = np.argsort(scores, axis=1, kind="stable")[:, ::-1][:, : self.k]
        token = np.repeat(np.arange(len(scores)), self.k)
        return Candidates(token, chosen.reshape(-1), np.tile(np.arange(self.k), len(scores)))


class PickScoresChoosingAgain(PickScores):
    """Mistake: save nothing and choose again in backward, with another rule for ties.

    Symptom: at a tie the gradient goes to an expert that was not chosen.
    """

    def forward(self, p, token, expert):
        self.p = p
        return super().forward(p, token, expert)

    def backward(self, grad):
        k = len(grad) // len(self.p)
        again = np.argsort(self.p, axis=1, kind="stable")[:, ::-1][:, :k]
        dp = np.zeros_like(self.p)
        np.put_along_axis(dp, again, grad.reshape(-1, k), axis=1)
        return dp, None, None


# Trap 11: experts without tokens


class GroupedSwiGLUAveraging(GroupedSwiGLU):
    """Mistake: divide the gradient of each expert by the number of its tokens. Symptom: 0/0 for an idle expert."""

    def backward(self, grad):
        *_, offsets, _, _ = self.saved
        d_x, d_gate_up, d_down, _ = super().backward(grad)
        with np.errstate(invalid="ignore"):
            d_down = (d_down / np.diff(offsets)[:, None, None]).astype(d_down.dtype)
        return d_x, d_gate_up, d_down, None


class ExpertsThatAreSkipped(Module):
    """Mistake: one network per expert, and no call without tokens.

    Symptom: the gradient is None; an optimizer that averages gradients over machines waits for it forever.
    """

    def __init__(self, num_experts, d_model, d_ff, *, rng, dtype):
        self.networks = [FeedForward(d_model, d_ff, rng=rng, dtype=dtype) for _ in range(num_experts)]

    def forward(self, x, offsets):
        parts = [
            network(x[int(start) : int(end)])
            for network, start, end in zip(self.networks, offsets[:-1], offsets[1:], strict=True)
            if end > start
        ]
        return Concatenate.apply(*parts, axis=0)

    def one(self, e, x):
        return self.networks[e](x)


# Trap 12: the future


class ExpertChoiceCalledCausal(ExpertChoice):
    """Mistake: train a language model with expert choice. Symptom: a low loss, and nonsense in generation."""

    causal = True


# Trap 13: the auxiliary loss


class BalanceOfTheSelected(SwitchBalance):
    """Mistake: average the probabilities of the selected experts only.

    Symptom: the loss falls as the router grows undecided; its gradient is not zero at perfect balance.
    """

    def __call__(self, trace):
        c = trace.candidates
        chosen = np.zeros(trace.logits.shape)
        chosen[c.token, c.expert] = 1
        p = Softmax.apply(trace.logits, axis=-1) * chosen
        f = (chosen.sum(axis=0) / chosen.sum())[None]
        return BalanceLoss.apply(p, f)


class BalanceWithoutGradient(SwitchBalance):
    """Mistake: log the number and cut the graph. Symptom: the loss is reported and never falls."""

    def __call__(self, trace):
        return super().__call__(trace).detach()


class RouterForgettingItsLoss(Router):
    """Mistake: compute the loss and discard it. Symptom: the experts collapse whatever the coefficient."""

    def forward(self, x, batch):
        return replace(super().forward(x, batch), auxiliary_loss=None)


# Trap 14: when the bias moves


class RouterUpdatingEveryForward(Router):
    """Mistake: move the bias in the forward pass. Symptom: its speed depends on the number of micro-batches."""

    def forward(self, x, batch):
        routing = super().forward(x, batch)
        self.after_step()
        return routing


# Trap 15: a token that depends on its batch


class SoftmaxOverTheBatch(Softmax):
    """Mistake: the wrong axis. Symptom: a token's experts depend on the other tokens of the batch."""

    def forward(self, x, *, axis=-1):
        return super().forward(x, axis=0)


def give_it_a_capacity(config):
    """Mistake: keep the capacity of training in evaluation. Symptom: an answer depends on the rest of the batch."""
    return replace(config, capacity=Capacity(1.0))


# Trap 16: precision


def to_bfloat16(x):
    """x with 8 bits of precision, rounded to the nearest, in float32."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


class AffineInBfloat16(Affine):
    """Mistake: compute logits in the precision of the model. Symptom: experts with close logits change places."""

    def forward(self, x, weight, bias):
        return to_bfloat16(super().forward(to_bfloat16(x), to_bfloat16(weight), bias))


# By trap, so that a page can show what they do before it shows their names
EXHIBITS = {
    1: (renormalized_top_1, softmax_after_top_1),
    2: (BalanceLossOfSoftCounts, PickScoresStraightThrough, BiasAddedInPlace),
    3: (GroupsMaskedWithZero,),
    4: (gate_the_output,),
    5: (dispatch_by_nonzero_gates,),
    6: (JitterInPlace, RouterNoisyInEvaluation),
    7: (dispatch_passing_dropped_tokens,),
    8: (LoadWithThresholdsInProbabilities,),
    9: (CombineInExpertOrder, CombineLosingDuplicates),
    10: (TopKFromTheEnd, PickScoresChoosingAgain),
    11: (GroupedSwiGLUAveraging, ExpertsThatAreSkipped),
    12: (ExpertChoiceCalledCausal,),
    13: (BalanceOfTheSelected, BalanceWithoutGradient, RouterForgettingItsLoss),
    14: (RouterUpdatingEveryForward,),
    15: (SoftmaxOverTheBatch, give_it_a_capacity),
    16: (AffineInBfloat16,),
}
