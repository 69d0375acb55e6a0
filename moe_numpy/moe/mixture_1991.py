"""The mixture of 1991: experts that compete to explain a target (Jacobs, Jordan, Nowlan, Hinton 1991)."""

from typing import Any

from array_api_compat import array_namespace

from ..autodiff import Function
from ..typing import Array, Float


class MixtureLikelihood(Function):
    """L = -(1/T) Σ_t ln Σ_i g_ti ℓ_ti, with g = softmax(h) and ℓ_ti = exp(-½ ‖y_t - o_ti‖²) (equation 1.3).

    The posterior r_ti = g_ti ℓ_ti / Σ_j g_tj ℓ_tj is the share of expert i in explaining token t. Both gradients are
    made of it: the gate is pulled from its guess g towards r, and each expert towards the target, by its share.
    """

    def forward(self, h: Float[Array, "T E"], o: Float[Array, "T E d"], y: Float[Array, "T d"]) -> Any:
        """Nats per token, without the constant of the Gaussian."""
        xp = array_namespace(h)
        e = h - h.max(axis=1, keepdims=True)
        log_g = e - xp.log(xp.exp(e).sum(axis=1, keepdims=True))
        error = o - y[:, None, :]
        joint = log_g - 0.5 * (error * error).sum(axis=2)
        top = joint.max(axis=1, keepdims=True)
        r = xp.exp(joint - top)
        total = r.sum(axis=1, keepdims=True)
        evidence = top + xp.log(total)
        self.save(xp.exp(log_g), r / total, error)
        return -evidence.sum() / max(h.shape[0], 1)

    def backward(self, grad: Float[Array, ""]) -> Any:
        """dh = (g - r) / T, do_i = r_i (o_i - y) / T, dy = -Σ_i do_i."""
        g, r, error = self.saved
        scale = grad / max(g.shape[0], 1)
        do = scale * r[:, :, None] * error
        return scale * (g - r), do, -do.sum(axis=1)
