"""Auxiliary losses that keep the experts evenly loaded and the router's logits small.

Without them a router collapses: an expert that is chosen often learns more and is chosen more often.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Function, Tensor, decisions
from ..kernels import add_along_rows, count, sum_by_key, top_k
from ..ops import ReLU, Softmax
from ..ops.activations import normal_cdf
from ..typing import Array, Float, Int
from .routing import RoutingTrace
from .selection import top_k_candidates


class Loss:
    """The base of all auxiliary losses: a name, the coefficient it enters the training loss with, and its value."""

    name: str  # what reports call it; different for each loss of a router
    coefficient: float

    def __call__(self, trace: RoutingTrace) -> Tensor:
        """The loss without its coefficient."""
        raise NotImplementedError(f"{type(self).__name__} has no value")


class BalanceLoss(Function):
    """L = (1/B) Σ_b E Σ_i f_bi P_bi, where P_bi is the mean of p_ti over the tokens of part b of the batch.

    The B parts are T/B consecutive tokens each: sequences one after the other. Without tokens L = 0.
    With one part: the loss of Switch Transformer (Fedus et al. 2021, equations 4 to 6). f_i, the fraction of
    assignments that went to expert i, is a count and therefore constant: the gradient passes through P alone. At
    perfect balance f = P = 1/E and L = 1. That is not a lower bound: f = (.9, .1), P = (.451, .549) give 0.921.
    """

    def forward(self, p: Float[Array, "T E"], f: Float[Array, "B E"]) -> Any:
        """A scalar from normalised scores of all experts (never of the chosen alone) and constant fractions.

        Both are taken as they are.
        """
        self.save(f)
        self.num_tokens, num_experts = p.shape
        parts = f.shape[0]
        mean_p = p.reshape(parts, -1, num_experts).sum(axis=1) / max(self.num_tokens // parts, 1)
        return (f * mean_p).sum() * (num_experts / parts)

    def backward(self, grad: Float[Array, ""]) -> tuple[Any, None]:
        """dL/dp_ti = E f_bi / T for the tokens t of part b."""
        (f,) = self.saved
        rows = grad * (f.shape[1] / max(self.num_tokens, 1)) * f
        return array_namespace(f).repeat(rows, self.num_tokens // f.shape[0], axis=0), None


@dataclass(frozen=True)
class SwitchBalance(Loss):
    """:class:`BalanceLoss` with f counted as the settings say.

    Attributes:
        coefficient: its factor in the training loss.
        scope: what f and P are means over. ``batch``: this forward pass. ``sequence``: each sequence by itself,
            then the mean. ``global``: f over all forward passes since the last optimizer step (Qiu et al. 2025).
        count: ``all`` assignments, only the ``first`` choice of each token (GShard), or the ``unbiased`` choice:
            the k best of P, without bias and groups (DeepSeek-V3 2024, equation 18).
        at_balance: the value at perfect balance. 1 divides counts by their sum. ``"k"`` divides them by T, as
            transformers' Mixtral family does.
        scoring: the Function whose normalised scores are P; None for a softmax.
    """

    coefficient: float = 0.01
    scope: str = "batch"
    count: str = "all"
    at_balance: int | str = 1
    scoring: type[Function] | None = None
    name: str = "balance"

    def __post_init__(self) -> None:
        for setting, allowed in (
            ("scope", ("batch", "sequence", "global")),
            ("count", ("all", "first", "unbiased")),
        ):
            if getattr(self, setting) not in allowed:
                raise ValueError(f"{setting} must be one of {', '.join(allowed)}, got {getattr(self, setting)!r}")
        if self.at_balance not in (1, "k"):
            raise ValueError(f"at_balance must be 1 or 'k', got {self.at_balance!r}")
        if self.scope == "global" and self.count != "all":
            raise ValueError(f"count={self.count!r} has no global scope: only whole loads are kept between passes")

    def __call__(self, trace: RoutingTrace) -> Tensor:
        p = trace.probabilities(self.scoring)
        xp = array_namespace(p.data)
        num_tokens, num_experts = p.shape
        lengths = trace.batch.lengths if self.scope == "sequence" else None
        if lengths is None:
            parts = num_tokens // trace.batch.sequence_length if self.scope == "sequence" and num_tokens else 1
        else:
            parts = len(lengths)
            part_of_token = xp.asarray(np.repeat(np.arange(parts), lengths))
        if self.scope == "global":
            counts = trace.load_since_update[None]
        else:
            c = trace.candidates
            if self.count == "unbiased":
                c = top_k_candidates(p.data, int(trace.per_token))
            num_keys = parts * num_experts
            part = c.token // max(num_tokens // parts, 1) if lengths is None else part_of_token[c.token]
            keys = part * num_experts + c.expert
            if self.count == "first":
                keys = xp.where(c.rank == 0, keys, num_keys)  # the others into a bin of their own
            if c.sent is not None:
                keys = xp.where(c.sent, keys, num_keys)
            counts = count(keys, num_keys + 1)[:num_keys].reshape(parts, num_experts)
        f = counts / xp.maximum(counts.sum(axis=1, keepdims=True), 1)
        if self.at_balance == "k":
            f = f * trace.per_token
        if lengths is not None:  # every token a part by itself, weighted by T / (B n_b)
            f = (f * (num_tokens / (parts * xp.asarray(lengths)[:, None])))[part_of_token]
        return BalanceLoss.apply(p, xp.asarray(f, dtype=p.dtype))


def balance_of_layers(probabilities: list[Tensor], loads: list[Any]) -> Tensor:
    """E Σ f_i P_i with f and P averaged over several layers *before* they are multiplied, as transformers does.

    Two layers that collapsed onto opposite experts then cancel: E = 2 gives 1 instead of 2. Its value at balance
    is k. Leave the rows of padding tokens out of both arguments.
    """
    num_experts = probabilities[0].shape[1]
    xp = array_namespace(loads[0])
    tokens = max(sum(p.shape[0] for p in probabilities), 1)
    f = sum(loads) * (1 / tokens)
    mean_p = probabilities[0].sum(axis=0)
    for p in probabilities[1:]:
        mean_p = mean_p + p.sum(axis=0)
    return (mean_p * xp.asarray(f, dtype=mean_p.dtype)).sum() * (num_experts / tokens)


def balance_of_traces(traces: Sequence[RoutingTrace]) -> Tensor:
    """:func:`balance_of_layers` as transformers has it for Mixtral and most families since.

    Whatever a router computes and chooses by, P is a softmax of its logits, and f counts the k largest of them.
    """
    probabilities = [trace.probabilities(None) for trace in traces]
    chosen = [top_k_candidates(p.data, int(t.per_token)) for p, t in zip(probabilities, traces, strict=True)]
    loads = [count(c.expert, p.shape[1]) for c, p in zip(chosen, probabilities, strict=True)]
    return balance_of_layers(probabilities, loads)


class RouterZLoss(Function):
    """L = (1/T) Σ_t (ln Σ_i exp h_ti)² (Zoph et al. 2022, equation 5): keeps logits near where exp is exact.

    At h = 0 its value is (ln E)², not 0; without tokens it is 0. Logits may be -∞ or too large for exp.
    """

    def forward(self, h: Float[Array, "T E"]) -> Any:
        """A scalar from the logits."""
        xp = array_namespace(h)
        h = h.astype(xp.result_type(h.dtype, xp.float32), copy=False)
        top = h.max(axis=1, keepdims=True)
        top = xp.where(top == -xp.inf, 0, top)
        with np.errstate(invalid="ignore"):  # ∞ - ∞
            exp = xp.exp(xp.where(h == xp.inf, 0, h - top))
        total = exp.sum(axis=1, keepdims=True)
        lse = top + xp.log(total)
        self.save(exp / total, lse)
        return (lse * lse).sum() / max(h.shape[0], 1)

    def backward(self, grad: Float[Array, ""]) -> Any:
        """dL/dh_ti = 2 lse_t p_ti / T, where p is the softmax of h."""
        p, lse = self.saved
        with np.errstate(invalid="ignore"):  # ∞ · 0
            dh = grad * (2 / max(p.shape[0], 1)) * lse * p
        return array_namespace(p).where(p == 0, 0, dh)


@dataclass(frozen=True)
class ZLoss(Loss):
    """:class:`RouterZLoss`; the coefficient of 0.001 is the paper's."""

    coefficient: float = 0.001
    name: str = "z"

    def __call__(self, trace: RoutingTrace) -> Tensor:
        return RouterZLoss.apply(trace.logits)


class SquaredCV(Function):
    """CV² = variance / mean², the squared coefficient of variation of n numbers (Shazeer et al. 2017, equation 7).

    L = var / (m² + ε), where m is the mean and var = Σ_i (v_i - m)² / max(n - ddof, 1).
    Computed from the variance, not from the standard deviation, whose derivative at perfect balance is 0/0.
    ``ddof=0`` divides by n, ``ddof=1`` by n - 1: [1, 2, 3, 4] gives 0.2 or 0.267.
    """

    def forward(self, v: Float[Array, " n"], *, ddof: int = 1, epsilon: float = 1e-10) -> Any:
        """A scalar; ε keeps an all-zero v finite. A single number has no variation: 0."""
        n = v.shape[0]
        self.divisor = max(n - ddof, 1)
        mean = v.mean()
        centred = v - mean
        scale = mean * mean + epsilon
        variance = (centred * centred).sum() / self.divisor
        self.save(centred, mean, scale, variance)
        return variance / scale

    def backward(self, grad: Float[Array, ""]) -> Any:
        """dL/dv_i = 2 (v_i - m) / ((n - ddof) (m² + ε)) - 2 m var / (n (m² + ε)²)."""
        centred, mean, scale, variance = self.saved
        n = centred.shape[0]
        return grad * (2 * centred / (self.divisor * scale) - 2 * mean * variance / (n * scale * scale))


class SumByExpert(Function):
    """v_e = Σ of g_n over the assignments n of expert e, its importance; 0 for an expert without assignments."""

    def forward(self, gate: Float[Array, " N"], expert: Int[Array, " N"], *, num_experts: int) -> Float[Array, " E"]:
        self.save(expert)
        return sum_by_key(gate, expert, num_experts)

    def backward(self, grad: Float[Array, " E"]) -> tuple[Any, None]:
        """dg_n = dv of its expert."""
        (expert,) = self.saved
        return grad[expert], None


@dataclass(frozen=True)
class Importance(Loss):
    """CV² of the importance of each expert (Shazeer et al. 2017, equations 6 and 7).

    Attributes:
        coefficient: its factor in the training loss.
        of: what importance is the sum of. ``gates``: the gate weights of the tokens that chose the expert.
            ``softmax``: the softmax of the logits without noise, of all tokens (V-MoE, Riquelme et al. 2021,
            appendix A.2).
        ddof: see :class:`SquaredCV`; V-MoE has 0.
    """

    coefficient: float = 0.1
    of: str = "gates"
    ddof: int = 1
    name: str = "importance"

    def __post_init__(self) -> None:
        if self.of not in ("gates", "softmax"):
            raise ValueError(f"of must be gates or softmax, got {self.of!r}")

    def __call__(self, trace: RoutingTrace) -> Tensor:
        if self.of == "softmax":
            v = trace.probabilities(None).sum(axis=0)
        else:
            v = SumByExpert.apply(trace.gate, trace.candidates.expert, num_experts=trace.logits.shape[1])
        return SquaredCV.apply(v, ddof=self.ddof)


class LoadProbability(Function):
    """q_te = Φ((h_te - threshold_te) / σ_te): the chance that e is among token t's k best if its noise is drawn again.

    The threshold is what e has to beat: the k-th best noisy logit of the others. That is the (k+1)-th of all if e
    is itself chosen, the k-th otherwise (Shazeer et al. 2017, equations 8 and 9). Summed over t it estimates the
    load of e, with a derivative that a count does not have. All three arguments are logits: mixing in
    probabilities gives loads that do not sum to k.

    ``rivals="all"`` takes the k-th of all for every e, chosen or not (V-MoE, Riquelme et al. 2021, appendix A.2).
    ``top_k`` decides ties.
    """

    def forward(
        self,
        h: Float[Array, "T E"],
        sigma: Float[Array, "T E"],
        noisy: Float[Array, "T E"],
        *,
        k: int,
        rivals: str = "others",
    ) -> Float[Array, "T E"]:
        """Probabilities; 1 if an expert has fewer than k rivals. Φ is ``scipy.special.ndtr``."""
        xp = array_namespace(h)
        h, sigma, noisy = (x.astype(xp.result_type(x.dtype, xp.float32), copy=False) for x in (h, sigma, noisy))
        if rivals == "all":
            rank = top_k(noisy, k)
            rival = xp.broadcast_to(rank[:, k - 1 : k], h.shape)  # whose noisy logit is the threshold
        elif k == h.shape[1]:
            self.save()
            return xp.ones_like(h)
        else:
            rank = top_k(noisy, k + 1)
            chosen = xp.zeros(h.shape, dtype=bool)
            chosen[xp.arange(h.shape[0])[:, None], rank[:, :k]] = True
            rival = xp.where(chosen, rank[:, k : k + 1], rank[:, k - 1 : k])
        decisions.record("thresholds of the load", rival, lambda t: f"token {t}: noisy logits near rank {k} are close")
        z = (h - xp.take_along_axis(noisy, rival, axis=1)) / sigma
        self.save(z, sigma, rival)
        return normal_cdf(z)

    def backward(self, grad: Float[Array, "T E"]) -> Any:
        """dh = dq φ(z) / σ; dσ = -dq φ(z) z / σ; and -dh to the noisy logit that was the threshold."""
        if not self.saved:
            return None, None, None
        z, sigma, rival = self.saved
        xp = array_namespace(z)
        dh = grad * xp.exp(-z * z / 2) * (2 * xp.pi) ** -0.5 / sigma
        return dh, -dh * z, add_along_rows(-dh, rival, z.shape[1])


@dataclass(frozen=True)
class Load(Loss):
    """CV² of the expected load, Σ_t of :class:`LoadProbability` (Shazeer et al. 2017, equation 11).

    Without noise there is no expected load: the loss is then that of the counts, a constant.

    Attributes:
        coefficient: its factor in the training loss.
        rivals: ``others`` or ``all``, see :class:`LoadProbability`.
        ddof: see :class:`SquaredCV`; V-MoE has 0.
    """

    coefficient: float = 0.1
    rivals: str = "others"
    ddof: int = 1
    name: str = "load"

    def __post_init__(self) -> None:
        if self.rivals not in ("others", "all"):
            raise ValueError(f"rivals must be others or all, got {self.rivals!r}")

    def __call__(self, trace: RoutingTrace) -> Tensor:
        return SquaredCV.apply(expected_load(trace, self.rivals), ddof=self.ddof)


def expected_load(trace: RoutingTrace, rivals: str = "others") -> Float[Tensor, " E"]:
    """Σ_t of :class:`LoadProbability`; without noise the counts, which are constant."""
    h = trace.logits
    if trace.sigma is None:
        return Tensor(array_namespace(h.data).asarray(trace.load, dtype=h.dtype))
    sigma = trace.sigma + 1e-18  # a learned σ may underflow to 0
    p = LoadProbability.apply(h, sigma, trace.noisy, k=max(1, int(trace.per_token)), rivals=rivals)
    return p.sum(axis=0)


def logits_of(trace: RoutingTrace, modality: int | None) -> Float[Tensor, "n E"]:
    """The logits of the tokens of one modality, of all tokens where that is None. Without modalities, all are text."""
    if modality is None:
        return trace.logits
    known = trace.batch.modality_of_tokens
    if known is None:
        return trace.logits if modality == 0 else trace.logits[:0]
    return trace.logits[array_namespace(trace.logits.data).asarray(np.flatnonzero(known == modality))]


class Entropy(Function):
    """entropy(p) = -Σ_i p_i ln p_i over all entries, in nats. An entry of 0, underflowed or not, adds nothing."""

    def forward(self, p: Float[Array, "..."]) -> Any:
        """A scalar from probabilities."""
        xp = array_namespace(p)
        log_p = xp.log(xp.where(p > 0, p, 1))
        self.save(log_p)
        return -(p * log_p).sum()

    def backward(self, grad: Float[Array, ""]) -> Any:
        """dH/dp_i = -(ln p_i + 1); -1 at 0, where it is infinite but what p comes from has no gradient."""
        (log_p,) = self.saved
        return -grad * (log_p + 1)


@dataclass(frozen=True)
class LocalEntropy(Loss):
    """(1/T) Σ_t entropy(p_t): small when each token is sure of its expert (LIMoE, Mustafa et al. 2022, equation 2).

    Over the tokens of one ``modality``, as LIMoE has it; over all where that is None.
    """

    coefficient: float = 0.01
    modality: int | None = None
    name: str = "local_entropy"

    def __call__(self, trace: RoutingTrace) -> Tensor:
        h = logits_of(trace, self.modality)
        return Entropy.apply(Softmax.apply(h, axis=-1)) * (1 / max(h.shape[0], 1))


@dataclass(frozen=True)
class GlobalEntropy(Loss):
    """max(0, τ - entropy(mean_t p_t)): zero once the experts are used evenly enough (LIMoE, equation 4).

    ``tau`` is a number of nats; exp(τ) is the number of experts that must be in use. Without tokens it is 0. The mean
    is over the tokens of one ``modality``, as LIMoE has it; over all where that is None.
    """

    tau: float
    coefficient: float = 0.01
    modality: int | None = None
    name: str = "global_entropy"

    def __call__(self, trace: RoutingTrace) -> Tensor:
        """max(0, τ - H(m)), m = (1/n) Σ_t softmax(h_t), H(m) = -Σ_i m_i ln m_i in nats, 0 ln 0 being 0.

        The n tokens t are those of ``self.modality``, all where that is None; ``logits_of(trace, self.modality)`` is
        the Tensor of their logits h, [n, E]. Without tokens it is 0. τ is ``self.tau``. The coefficient is not in it.
        """
        h = logits_of(trace, self.modality)
        num_tokens = h.shape[0]
        mean_p = Softmax.apply(h, axis=-1).sum(axis=0) * (1 / max(num_tokens, 1))
        return ReLU.apply((self.tau if num_tokens else 0.0) - Entropy.apply(mean_p))
