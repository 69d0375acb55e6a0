"""One MoE block of a peer and one of ours, side by side: same weights, same tokens, same upstream gradient."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from moe_numpy.autodiff import Tensor, decisions
from moe_numpy.moe import Batch, MoE, Router, RouterConfig, Routing
from moe_numpy.moe.dispatch import dispatch_sorted

Arrays = dict[str, np.ndarray]
torch.set_num_threads(1)  # blocks this small only lose time with more
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def randomize(peer: torch.nn.Module, rng: np.random.Generator, dtype: str, std: float = 0.3) -> torch.nn.Module:
    """The peer in evaluation mode, with every parameter and balancing bias drawn from N(0, std²)."""
    peer = peer.to(DTYPES[dtype]).eval()
    with torch.no_grad():
        for tensor in (*peer.parameters(), *peer.buffers()):
            tensor.copy_(torch.from_numpy(std * rng.standard_normal(tuple(tensor.shape))))
    return peer


def load(ours: MoE, mapped: Arrays) -> None:
    """Copy a peer's weights into ours. What the peer does not have must be a bias, and zero."""
    state = ours.state_dict()
    for name in state.keys() - mapped.keys():
        assert name.endswith("bias"), f"{name} has no counterpart"
        assert not state[name].any(), name
    ours.load_state_dict({**state, **mapped})
    ours.eval()


def draw_tokens(ours: MoE, shape: tuple[int, ...], rng: np.random.Generator, dtype: str) -> np.ndarray:
    """Tokens on which no choice of the layer is a close one.

    A tie may be broken either way, and one that rounding decides is no better. So no top-k set, drop set or sign that
    ReLU looks at may change when the tokens move by 1e-5.
    """
    for _ in range(100):
        x = rng.standard_normal(shape).astype(dtype)
        nudges = [(1e-5 * rng.standard_normal(shape)).astype(dtype) for _ in range(3)]
        if all(_same_choices(ours, x, x + nudge) for nudge in nudges):
            return x
    raise AssertionError("no tokens without close choices in 100 draws")


def compare(
    ours: MoE,
    peer: torch.nn.Module,
    to_ours: Callable[[Arrays], Arrays],
    shape: tuple[int, ...],
    rng: np.random.Generator,
) -> dict[str, float]:
    """The largest difference of outputs (``y``), input gradients (``dx``) and weight gradients (``dW ...``).

    ``to_ours`` is the family's function in :mod:`weights`. Differences are absolute where values are below 1, and
    relative to the largest entry of the array where it is above.
    """
    load(ours, to_ours(_arrays(peer.state_dict())))
    dtype = str(next(peer.parameters()).dtype).removeprefix("torch.")
    x = draw_tokens(ours, shape, rng, dtype)
    dy = rng.standard_normal(shape).astype(dtype)

    mine = Tensor(x, requires_grad=True)
    y, _ = ours(mine)
    assert y.dtype == dtype
    y.backward(dy)

    theirs = torch.tensor(x, requires_grad=True)
    answer = peer(theirs)
    answer = (answer[0] if isinstance(answer, tuple) else answer).reshape(shape)
    answer.backward(torch.from_numpy(dy))

    return {
        "y": difference(y.data, answer),
        "dx": difference(mine.grad, theirs.grad),
        **_weight_differences(ours, to_ours(_gradients(peer)), "router", "experts", "shared"),
    }


def compare_experts(
    ours: MoE,
    peer: torch.nn.Module,
    to_ours: Callable[[Arrays], Arrays],
    num_tokens: int,
    rng: np.random.Generator,
) -> dict[str, float]:
    """The same for the routed experts alone: the peer gets the experts and gate weights that our router chose.

    For peers whose router works in float32 whatever it is given, this is what can be compared in float64. ``dw`` is
    the gradient of the gate weights.
    """
    load(ours, to_ours(_arrays(peer.state_dict())))
    k = int(ours.router.per_token)
    x = draw_tokens(ours, (num_tokens, ours.d_model), rng, "float64")
    dy = rng.standard_normal(x.shape)

    mine = Tensor(x, requires_grad=True)
    _, routing = ours(mine)
    by_token = np.argsort(routing.token, kind="stable")
    index, weight = routing.expert[by_token].reshape(-1, k), routing.gate.data[by_token].reshape(-1, k)
    gate = Tensor(routing.gate.data, requires_grad=True)
    y = dispatch_sorted(mine, replace(routing, gate=gate), ours.experts)
    y.backward(dy)

    theirs, their_gate = torch.tensor(x, requires_grad=True), torch.tensor(weight, requires_grad=True)
    answer = peer.experts(theirs, torch.tensor(index), their_gate).reshape(x.shape)
    answer.backward(torch.from_numpy(dy))
    return {
        "y": difference(y.data, answer),
        "dx": difference(mine.grad, theirs.grad),
        "dw": difference(gate.grad[by_token].reshape(-1, k), their_gate.grad),
        **_weight_differences(ours, to_ours(_gradients(peer)), "experts"),
    }


def route(config: RouterConfig, h: np.ndarray, length: int | None = None) -> tuple[Tensor, Routing]:
    """Our router, not training, on given logits [T, E], which come back as a leaf."""
    leaf = Tensor(h, requires_grad=True)
    return leaf, router_on_logits(config, h)(leaf, Batch(length or len(h)))


def router_on_logits(config: RouterConfig, h: np.ndarray) -> Router:
    """A router with the identity for W_g: the tokens that it gets are the logits."""
    num_experts = h.shape[1]
    router = Router(config, num_experts, num_experts, rng=np.random.default_rng(0), dtype=h.dtype)
    router.weight.data[...] = np.eye(num_experts)
    return router


def difference(ours: Any, theirs: torch.Tensor | np.ndarray, floor: float = 1.0) -> float:
    """max |a - b| / max(floor, max |b|). NaN counts as infinitely far."""
    a = np.asarray(ours, dtype=np.float64)
    b = theirs.detach().double().numpy() if isinstance(theirs, torch.Tensor) else theirs.astype(np.float64)
    assert a.shape == b.shape
    far = float(np.abs(a - b).max() / max(floor, np.abs(b).max()))
    return far if np.isfinite(far) else np.inf


def _weight_differences(ours: MoE, gradients: Arrays, *parts: str) -> dict[str, float]:
    return {
        f"dW {name}": difference(parameter.grad, gradients[name])
        for name, parameter in ours.named_parameters()
        if name.startswith(parts) and name in gradients
    }


def _gradients(peer: torch.nn.Module) -> Arrays:
    """The peer's gradients, zeros for what took no part and for buffers."""
    grads = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in peer.named_parameters()}
    return _arrays({**{name: torch.zeros_like(b) for name, b in peer.named_buffers()}, **grads})


def _arrays(tensors: dict[str, torch.Tensor]) -> Arrays:
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


def _same_choices(ours: MoE, *inputs: np.ndarray) -> bool:
    choices = []
    for x in inputs:
        with decisions.recording() as made:
            ours(Tensor(x))
        choices.append(made)
    return all(np.array_equal(a.chosen, b.chosen) for a, b in zip(*choices, strict=True))
