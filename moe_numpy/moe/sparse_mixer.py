"""The scores of PhiMoE: for each of two choices, a softmax over the experts that come close to the best."""

from typing import Any

from array_api_compat import array_namespace

from ..autodiff import Function, decisions
from ..kernels import top_k
from ..typing import Array, Bool, Float


class SparseMixer(Function):
    """Scores of the two best experts a and b of a token, 0 for the others.

        s_a = exp(h_a) / Σ exp(h_j)   over the experts j that are close to a: (h_a - h_j) / max(|h_j|, h_a) <= 2 ε
        s_b = exp(h_b) / Σ exp(h_j)   over those close to b, without a

    As in (h_a - h_j) <= 2 ε max(|h_j|, h_a), nothing is divided. Choosing by the logits h gives a and b, ties going to
    the lowest index. h_a, or h_b, is taken off before exp. (Liu et al. 2024, "GRIN", section 2.2; the masks are those
    of transformers phimoe, in evaluation; its training samples.)

    The choice and the masks are constants for the derivative.

    Args:
        epsilon: ε, ``router_jitter_noise`` in published configurations.

    Raises:
        ValueError: fewer than two experts.
    """

    def forward(self, h: Float[Array, "T E"], *, epsilon: float = 0.01) -> Float[Array, "T E"]:
        """The scores of both choices, from the logits."""
        if h.shape[1] < 2:
            raise ValueError(f"SparseMixer needs at least 2 experts, got {h.shape[1]}")
        xp = array_namespace(h)
        rows = xp.arange(len(h))
        best = top_k(h, 2)
        scores, rest = xp.zeros_like(h), xp.ones(h.shape, dtype=bool)
        softmaxes = []
        for choice in (best[:, 0], best[:, 1]):
            p = _softmax_of_close(h, h[rows, choice][:, None], rest, epsilon)
            scores[rows, choice] = p[rows, choice]
            rest[rows, choice] = False
            softmaxes.append(p)
        self.save(best, *softmaxes)
        return scores

    def backward(self, grad: Float[Array, "T E"]) -> Any:
        """dh_j = Σ over both choices c of ds_c p_c (1[j = c] - p_j), with p the masked softmax of the choice."""
        best, *softmaxes = self.saved
        rows, dh = array_namespace(best).arange(len(best)), 0
        for c, p in enumerate(softmaxes):
            of_chosen = (grad[rows, best[:, c]] * p[rows, best[:, c]])[:, None]
            term = -of_chosen * p
            term[rows, best[:, c]] += of_chosen[:, 0]
            dh = dh + term
        return dh


def _softmax_of_close(
    h: Float[Array, "T E"], top: Float[Array, "T 1"], rest: Bool[Array, "T E"], epsilon: float
) -> Float[Array, "T E"]:
    """Over the experts of ``rest`` that come close to the score ``top``."""
    xp = array_namespace(h)
    close = (top - h) <= 2 * epsilon * xp.maximum(xp.abs(h), top)
    decisions.record("experts close to the best", close, lambda t: f"token {t}: {int(close[t].sum())} are close")
    e = xp.where(close & rest, xp.exp(xp.minimum(h - top, 0)), 0).astype(h.dtype, copy=False)
    return e / e.sum(axis=1, keepdims=True)
