"""AdamW, and clipping gradients by their global norm."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Tensor
from ..autodiff.arrays import library_of
from ..kernels import kernel, to_host
from ..typing import Array, Float, Shaped
from .freezing import trained_runs


@kernel
def adamw(
    parameters: list[Shaped[Array, "..."]],
    gradients: list[Shaped[Array, "..."]],
    first: list[Shaped[Array, "..."]],
    second: list[Shaped[Array, "..."]],
    decay: list[float],
    rounded: list[Shaped[Array, "..."] | None],
    now: Float[Array, "4"],
    *,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """One step for every parameter θ with weight decay λ, in place; scale, η, c₁, c₂ = ``now``, in float64::

    dθ = scale · gradient
    m = β₁ m + (1 - β₁) dθ
    v = β₂ v + (1 - β₂) dθ²
    θ = (1 - η λ) θ - η (m / c₁) / (√(v / c₂) + ε)

    ``rounded`` has the narrow parameter of which θ is the master, which becomes the rounded θ, or None. Nothing changes
    if the scale is not finite.
    """
    scale, lr, c1, c2 = now.tolist()
    if not math.isfinite(scale):
        return
    beta1, beta2 = betas
    for p, gradient, m, v, rate, narrow in zip(parameters, gradients, first, second, decay, rounded, strict=True):
        d_p = scale * gradient.astype(m.dtype, copy=False)  # which may be narrower
        m[...] = beta1 * m + (1 - beta1) * d_p
        v[...] = beta2 * v + (1 - beta2) * d_p * d_p
        p[...] = (1 - lr * rate) * p - lr * (m / c1) / (np.sqrt(v / c2) + eps)
        if narrow is not None:
            narrow[...] = p


class AdamW:
    """Adam with decoupled weight decay. For each parameter θ with gradient dθ, at step t = 1, 2, ...::

        dθ = gradient_scale · θ.grad
        m = β₁ m + (1 - β₁) dθ                    first moment
        v = β₂ v + (1 - β₂) dθ²                   second moment
        θ = θ - lr λ θ - lr · m / (1 - β₁ᵗ) / (√(v / (1 - β₂ᵗ)) + ε)

    λ is ``weight_decay`` for the parameters that decay and 0 for the others. Parameters change in place, in
    ``.data``; gradients are only read. The moments are float32, or float64 for a float64 parameter. Entries that are
    ``frozen``, see :class:`moe_numpy.nn.Parameter`, keep their bits, their moments too.

    A parameter narrower than float32 has a float32 master copy: θ above is the master, and the parameter is its rounded
    value; otherwise small steps would be lost in rounding. Masters are copied from the parameters once, here.

    Args:
        named_parameters: as from ``Module.named_parameters()``. One Parameter under two names counts once. From a
            list of pairs, :meth:`step` cannot see what is added to the model later.
        lr: the learning rate of steps without their own.
        betas: β₁ and β₂.
        eps: ε.
        weight_decay: λ.
        decay: whether a parameter decays, from its name and itself. By default what was said where it was made, as
            ``Parameter(data, decay=...)``: weight matrices and embeddings decay, biases and norm scales do not. A
            tensor of which nothing was said decays if it has two or more axes and is not called a bias.

    Raises:
        ValueError: no parameter, one name for two of them, or a setting out of range.
        TypeError: anything but pairs of a name and a Tensor.

    Source: Loshchilov, Hutter 2019, Decoupled Weight Decay Regularization, algorithm 2. There λ is not
    multiplied by the base learning rate; here it is, as in common practice.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        decay: Callable[[str, Tensor], bool] | None = None,
    ):
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            _require_number(name, value)
        for beta in betas:
            if not 0 <= beta < 1:
                raise ValueError(f"betas must be at least 0 and below 1, got {betas}")
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.module = getattr(named_parameters, "module", None)
        self.parameters = _by_name(named_parameters)
        self.decaying = {name for name, p in self.parameters.items() if (decay or _decays)(name, p)}
        self.steps = 0
        self.first = {name: _moment(p) for name, p in self.parameters.items()}
        self.second = {name: _moment(p) for name, p in self.parameters.items()}
        self.master = {name: p.data.astype(np.float32) for name, p in self.parameters.items() if p.dtype.itemsize < 4}

    def step(self, lr: float | None = None, gradient_scale: float = 1.0) -> None:
        """Update every parameter.

        Args:
            lr: the learning rate of this step, for instance from a schedule; the constructor's by default.
            gradient_scale: multiplies every gradient, for instance ``clip_factor(...)``.

        Raises:
            RuntimeError: a parameter has no gradient and is not frozen (``requires_grad=False``), came into the
                Module after the optimizer was made, has changed its shape, or cannot be written to.
            ValueError: the learning rate is negative, or it or the scale is not finite. In no case is anything changed.
        """
        lr, scale = float(self.lr if lr is None else lr), float(gradient_scale)
        _require_number("lr", lr)
        if not math.isfinite(scale):
            raise ValueError(f"gradient_scale must be finite, got {scale}")
        xp = array_namespace(next(iter(self.parameters.values())).data)
        self.update(xp.asarray([scale, *self.rates(lr)]))
        self.steps += 1

    def rates(self, lr: float) -> tuple[float, float, float]:
        """η, 1 - β₁ᵗ and 1 - β₂ᵗ of the next step."""
        beta1, beta2 = self.betas
        return lr, 1 - beta1 ** (self.steps + 1), 1 - beta2 ** (self.steps + 1)

    def update(self, now: Float[Array, "4"]) -> None:
        """What :meth:`step` does with the parameters, without counting it as a step.

        Args:
            now: the factor of the gradients and :meth:`rates`, in float64, where the parameters live. Nothing changes
                if the factor is not finite.

        Raises:
            RuntimeError: as :meth:`step`.
        """
        self._require_all_known()
        active = {name: p for name, p in self.parameters.items() if p.requires_grad}
        missing = [name for name, p in active.items() if p.grad is None]
        if missing:
            raise RuntimeError(
                f"no gradient for {', '.join(missing)}: the loss does not depend on it, or backward() "
                "has not run; set requires_grad=False on parameters that should not be trained"
            )
        for name, p in active.items():
            self._require_fits(name, p)
        runs = [(name, p, run) for name, p in active.items() for run in trained_runs(p)]
        adamw(
            [self.master.get(name, p.data)[run] for name, p, run in runs],
            [p.grad[run] for _, p, run in runs],
            [self.first[name][run] for name, _, run in runs],
            [self.second[name][run] for name, _, run in runs],
            [self.weight_decay if name in self.decaying else 0.0 for name, _, _ in runs],
            [p.data[run] if name in self.master else None for name, p, run in runs],
            now,
            betas=self.betas,
            eps=self.eps,
        )

    def _require_all_known(self) -> None:
        known = set(self.parameters.values())
        named = () if self.module is None else self.module.named_parameters()
        added = [name for name, p in named if p.requires_grad and p not in known]
        if added:
            raise RuntimeError(
                f"{', '.join(added)} came into the {type(self.module).__name__} after this optimizer was made, and "
                "would not be trained: make the optimizer anew, or set requires_grad=False on what is not to be trained"
            )

    def _require_fits(self, name: str, p: Tensor) -> None:
        """What the loops, which do not look, take for granted."""
        shape, grad = self.first[name].shape, p.grad
        if library_of(grad) != library_of(p.data):
            raise RuntimeError(f"the gradient of {name} must be an array where it lives, got a {type(grad).__name__}")
        if not p.shape == grad.shape == shape:
            raise RuntimeError(f"{name} and its gradient must have shape {shape}, got {p.shape} and {grad.shape}")
        if isinstance(p.data, np.ndarray) and not p.data.flags.writeable:
            raise RuntimeError(
                f"{name} is read-only, so it cannot be trained: give it a copy, or set requires_grad=False"
            )

    def state_dict(self) -> dict[str, Any]:
        """``step``, ``first.<name>``, ``second.<name>`` and, where there is one, ``master.<name>``; not copies."""
        return (
            {"step": np.array(self.steps)}
            | {f"first.{name}": m for name, m in self.first.items()}
            | {f"second.{name}": v for name, v in self.second.items()}
            | {f"master.{name}": w for name, w in self.master.items()}
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy what :meth:`state_dict` gave, so that the next step continues bit for bit.

        Raises:
            ValueError: names or shapes differ; nothing is changed then.
        """
        mine = self.state_dict()
        missing, unknown = sorted(mine.keys() - state.keys()), sorted(state.keys() - mine.keys())
        if missing or unknown:
            raise ValueError(f"state does not fit this optimizer: missing {missing}, unknown {unknown}")
        for name, array in mine.items():
            if state[name].shape != array.shape:
                raise ValueError(f"{name} has shape {array.shape}, the state has {state[name].shape}")
        self.steps = int(state["step"])
        for name, array in mine.items():
            array[...] = array_namespace(array).asarray(state[name])


@kernel
def sum_of_squares(arrays: list[Shaped[Array, "..."]]) -> Shaped[Array, ""]:
    """Σ x² over all entries of all arrays, in float64."""
    return np.asarray(sum(float((x.astype(np.float64) ** 2).sum()) for x in arrays), np.float64)


def global_norm(gradients: Iterable[Shaped[Array, "..."] | None]) -> float:
    """√(Σ dθ²) over all entries of all gradients, summed in float64. None, of a frozen parameter, counts 0.

    It is finite if and only if every entry is (up to 1e150), so it also detects NaN and infinity.
    """
    arrays = [d for d in gradients if d is not None]
    return math.sqrt(to_host(sum_of_squares(arrays)))


def clip_factor(norm: float, max_norm: float) -> float:
    """The factor that brings a global norm down to at most ``max_norm``: min(1, max_norm / norm).

    Raises:
        ValueError: ``max_norm`` is not positive, or ``norm`` is negative or not finite.

    Source: Pascanu, Mikolov, Bengio 2013, On the difficulty of training recurrent neural networks,
    algorithm 1.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    if not 0 <= norm < math.inf:
        raise ValueError(f"norm must be finite and at least 0, got {norm}")
    return max_norm / norm if norm > max_norm else 1.0


def clip_factor_of(squares: Float[Array, ""], max_norm: float) -> Float[Array, "1"]:
    """:func:`clip_factor` of the norm √squares, an array on its device: nobody waits. NaN if that is not finite."""
    xp = array_namespace(squares)
    norm = xp.sqrt(squares).reshape(1)
    return xp.where(norm > max_norm, max_norm / norm, 1.0 + 0 * norm)


def _decays(name: str, p: Tensor) -> bool:
    said: bool | None = getattr(p, "decay", None)
    return p.ndim >= 2 and not name.endswith("bias") if said is None else said


def _require_number(name: str, value: Any) -> None:
    if not (isinstance(value, int | float | np.number) and 0 <= value < math.inf):
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")


def _by_name(named_parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    parameters: dict[str, Tensor] = {}
    seen = set()
    pairs = named_parameters if isinstance(named_parameters, Iterable) else [named_parameters]
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Tensor)):
            raise TypeError(f"expected pairs of a name and a Tensor, as from named_parameters(), got {pair!r:.60}")
        name, p = pair
        if p in seen:
            continue
        if name in parameters:
            raise ValueError(f"two parameters are named {name!r}")
        seen.add(p)
        parameters[name] = p
    if not parameters:
        raise ValueError("there are no parameters to optimize")
    return parameters


def _moment(p: Tensor) -> Any:
    xp = array_namespace(p.data)
    return xp.zeros(p.shape, dtype=xp.result_type(p.dtype, xp.float32))
