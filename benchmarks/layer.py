"""One Mixtral layer, forward and backward: ours, its matrix products alone, and transformers' block."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from moe_numpy import kernels
from moe_numpy.autodiff import Tensor
from moe_numpy.moe import MoE, recipes

from .timing import in_turn

IMPLEMENTATIONS = ("eager", "grouped_mm")  # of transformers' experts; the faster one counts


@dataclass(frozen=True)
class Shape:
    """T tokens of width d, E experts of width f, k for each token."""

    T: int
    d: int
    f: int
    E: int
    k: int

    def __str__(self) -> str:
        return f"T={self.T} d={self.d} f={self.f} E={self.E} k={self.k}"


SHAPES = (
    Shape(512, 512, 1024, 8, 2),
    Shape(2048, 512, 1024, 8, 2),
    Shape(4096, 768, 2048, 8, 2),
    Shape(2048, 512, 256, 64, 8),
    Shape(8192, 256, 512, 16, 1),
)


def measure(shapes: tuple[Shape, ...], against: str | None, rounds: int, budget_s: float) -> Iterator[dict[str, Any]]:
    """One row for each shape; times in milliseconds."""
    for shape in shapes:
        rng = np.random.default_rng(0)
        layer = MoE(shape.d, shape.f, shape.E, recipes.mixtral(top_k=shape.k, balance=0.0), rng=rng)
        x = rng.standard_normal((shape.T, shape.d), dtype=np.float32)
        g = rng.standard_normal((shape.T, shape.d), dtype=np.float32)
        ours = _ours(layer, x, g)
        products, flops = _products_alone(layer, x)
        candidates = {"ours": ours, "products": products}
        error = None
        if against == "torch":
            peers = _peers(layer, x, g, shape)
            error = max(_difference(ours(), run()) for run in peers.values())
            candidates |= peers
        ms = in_turn(candidates, rounds, budget_s)
        row: dict[str, Any] = {
            "shape": [shape.T, shape.d, shape.f, shape.E, shape.k],
            "ours_ms": ms["ours"],
            "gemm_ms": ms["products"],
            "gemm_efficiency": ms["products"] / ms["ours"],
            "gemm_gflops": flops / ms["products"] / 1e6,
        }
        if against == "torch":
            peer = min(IMPLEMENTATIONS, key=ms.__getitem__)
            row |= {"peer_ms": ms[peer], "ratio": ms["ours"] / ms[peer], "max_abs_error": error, "peer": peer}
            row |= {f"{name}_ms": ms[name] for name in IMPLEMENTATIONS}
        yield row


def _ours(layer: MoE, x: Any, g: Any) -> Callable[[], dict[str, Any]]:
    def run() -> dict[str, Any]:
        layer.zero_grad()
        tokens = Tensor(x, requires_grad=True)
        y, _ = layer(tokens)
        y.backward(g)
        return {
            "y": y.data,
            "dx": tokens.grad,
            "d_router": layer.router.weight.grad,
            "d_gate_up": layer.experts.gate_up.grad,
            "d_down": layer.experts.down.grad,
        }

    return run


def _products_alone(layer: MoE, x: Any) -> tuple[Callable[[], None], float]:
    """The nine matrix products of :func:`_ours` with the same rows for each expert, and their operations."""
    _, routing = layer(Tensor(x))
    k, offsets = kernels.of(x), routing.offsets
    gate_up, down, router = layer.experts.gate_up.data, layer.experts.down.data, layer.router.weight.data
    rows = x[routing.token]
    hidden = k.grouped_product(rows, gate_up, offsets)
    active = np.ascontiguousarray(hidden[:, : down.shape[2]])
    logits = k.product(x, router.T)

    def run() -> None:
        k.product(x, router.T)
        k.grouped_product(rows, gate_up, offsets)
        k.grouped_product(active, down, offsets)
        k.grouped_product_input_gradient(rows, down, offsets)
        k.grouped_product_weight_gradient(rows, active, offsets)
        k.grouped_product_input_gradient(hidden, gate_up, offsets)
        k.grouped_product_weight_gradient(hidden, rows, offsets)
        k.product(logits, router)
        k.product(logits.T, x)

    flops = 6 * (len(rows) * (gate_up[0].size + down[0].size) + len(x) * router.size)
    return run, flops


def _peers(layer: MoE, x: Any, g: Any, shape: Shape) -> dict[str, Callable[[], dict[str, Any]]]:
    import torch
    from transformers.models.mixtral.configuration_mixtral import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    tokens, gradient = torch.from_numpy(x)[None], torch.from_numpy(g)[None]

    def peer(implementation: str) -> Callable[[], dict[str, Any]]:
        config = MixtralConfig(
            hidden_size=shape.d,
            intermediate_size=shape.f,
            num_local_experts=shape.E,
            num_experts_per_tok=shape.k,
            experts_implementation=implementation,
        )
        block = MixtralSparseMoeBlock(config)
        with torch.no_grad():
            block.gate.weight.copy_(torch.from_numpy(layer.router.weight.data))
            block.experts.gate_up_proj.copy_(torch.from_numpy(layer.experts.gate_up.data))
            block.experts.down_proj.copy_(torch.from_numpy(layer.experts.down.data))

        def run() -> dict[str, Any]:
            block.zero_grad(set_to_none=True)
            leaf = tokens.clone().requires_grad_()
            y = block(leaf)
            y.backward(gradient)
            return {
                "y": y[0].detach().numpy(),
                "dx": leaf.grad[0].numpy(),
                "d_router": block.gate.weight.grad.numpy(),
                "d_gate_up": block.experts.gate_up_proj.grad.numpy(),
                "d_down": block.experts.down_proj.grad.numpy(),
            }

        return run

    return {name: peer(name) for name in IMPLEMENTATIONS}


def _difference(ours: dict[str, Any], peer: dict[str, Any]) -> float:
    """The largest absolute difference in the output and all gradients.

    Raises:
        ArithmeticError: it is more than float32 explains.
    """
    worst = 0.0
    for name, a in ours.items():
        difference, scale = float(np.abs(a - peer[name]).max()), float(np.abs(a).max())
        if not difference <= 1e-4 * max(scale, 1.0):
            raise ArithmeticError(f"{name} differs by {difference:.1e}, its entries go up to {scale:.1e}")
        worst = max(worst, difference)
    return worst
