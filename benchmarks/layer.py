"""One Mixtral layer, forward and backward: ours, its matrix multiplications alone, and transformers' block."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from array_api_compat import array_namespace

from moe_numpy.autodiff import Tensor
from moe_numpy.kernels import to_host
from moe_numpy.moe import MoE, recipes
from moe_numpy.moe.experts import grouped_product, grouped_product_input_gradient, grouped_product_weight_gradient
from moe_numpy.ops.matmul import product

from .place import Place, largest_difference
from .products import on_device, torch_groups
from .timing import in_turn

NEAR = 1e-4  # logits, whose standard deviation is 1
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}  # of the largest entry


@dataclass(frozen=True)
class Shape:
    """T tokens of width d, E experts of width f, k per token."""

    T: int
    d: int
    f: int
    E: int
    k: int

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 1 or self.k > self.E:
            raise ValueError(f"a shape needs positive numbers and k <= E, got {self}")

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """``"T,d,f,E,k"``; ValueError for anything else."""
        try:
            return cls(*(int(number) for number in text.split(",")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"shape must be T,d,f,E,k with positive whole numbers and k <= E, got {text!r}") from error

    def __str__(self) -> str:
        return f"T={self.T} d={self.d} f={self.f} E={self.E} k={self.k}"


SHAPES = {
    "cpu": (
        Shape(512, 512, 1024, 8, 2),
        Shape(2048, 512, 1024, 8, 2),
        Shape(4096, 768, 2048, 8, 2),
        Shape(2048, 512, 256, 64, 8),
        Shape(8192, 256, 512, 16, 1),
    ),
    "cuda": (
        Shape(16384, 4096, 14336, 8, 2),  # Mixtral 8x7B
        Shape(16384, 2048, 1024, 64, 8),  # OLMoE
        Shape(4096, 2048, 1024, 64, 8),
        Shape(1024, 2048, 1024, 64, 8),
        Shape(16384, 2048, 1408, 64, 6),  # DeepSeek-V2-Lite
        Shape(16384, 2048, 768, 128, 8),  # Qwen3-30B-A3B
        Shape(4096, 2048, 768, 128, 8),
        Shape(1024, 2048, 768, 128, 8),
        Shape(16384, 7168, 2048, 32, 1),  # DeepSeek-V3: 32 of its 256 experts, as one of 8 GPUs would have them
        Shape(4096, 7168, 2048, 32, 1),
        Shape(16384, 2880, 2880, 32, 4),  # gpt-oss-20b
        Shape(4096, 2880, 2880, 32, 4),
        Shape(8192, 1024, 2048, 8, 2),
        Shape(1024, 1024, 512, 128, 4),
        Shape(16384, 256, 256, 256, 2),
    ),
}


def measure(
    shapes: tuple[Shape, ...], against: str | None, rounds: int, budget_s: float, place: Place
) -> Generator[tuple[Shape, Callable[[], dict[str, Any]]]]:
    """Yield each shape and the function that measures its row; times in milliseconds."""
    for shape in shapes:
        yield shape, partial(_row, shape, against, rounds, budget_s, place)
        place.free()


def _row(shape: Shape, against: str | None, rounds: int, budget_s: float, place: Place) -> dict[str, Any]:
    rng = place.generator(0)
    recipe = recipes.mixtral(top_k=shape.k, balance=0.0)
    layer = MoE(shape.d, shape.f, shape.E, recipe, rng=rng, dtype=place.float_type)
    x, g = (rng.standard_normal((shape.T, shape.d)).astype(place.float_type) for _ in range(2))
    x = _without_near_ties(x, layer.router.weight.data, shape.k)
    on_gpu = place.device == "cuda"
    ours = _ours(layer, x, g)
    candidates: dict[str, Callable[[], Any]] = {"ours": place.recorded(ours)}
    if on_gpu:
        candidates["launched"] = ours
    else:
        candidates["products"], flops = _products_alone(layer, x)
    differences: dict[str, float] = {}
    implementations = ("eager", "grouped_mm") if torch_groups(shape.d, shape.f, place) else ("eager",)  # transformers'
    if against == "torch":
        blocks = {name: _peer(layer, shape, name, place) for name in implementations}
        peers = {name: _run_peer(block, x, g, place) for name, block in blocks.items()}
        for name, block in blocks.items():
            with _router_in_float32(block):
                theirs = {part: place.array(tensor) for part, tensor in peers[name]().items()}
                for run in {candidates["ours"], ours}:  # one on a CPU
                    found = _differences(run(), theirs, TOLERANCE[place.dtype])
                    differences = {kind: max(value, differences.get(kind, 0.0)) for kind, value in found.items()}
        candidates |= peers
        if not on_gpu:
            candidates["peer_products"] = _peer_products_alone(layer, x, place)
    ms = in_turn(candidates, rounds, budget_s, place.synchronize)
    row: dict[str, Any] = {
        "shape": [shape.T, shape.d, shape.f, shape.E, shape.k],
        "device": place.device,
        "dtype": place.dtype,
        "ours_ms": ms["ours"],
    }
    if on_gpu:
        row |= {"launched_ms": ms["launched"], **on_device(layer, x, against, place)}
    else:
        row |= {"gemm_ms": ms["products"], "gemm_gflops": flops / ms["products"] / 1e6}
    row["gemm_efficiency"] = row["gemm_ms"] / row["ours_ms"]
    if against == "torch":
        peer = min(implementations, key=ms.__getitem__)
        row |= {"peer_ms": ms[peer], "ratio": ms["ours"] / ms[peer], **differences, "peer": peer}
        row |= {f"{name}_ms": ms[name] for name in implementations}
        if not on_gpu:
            row["peer_gemm_ms"] = ms["peer_products"]
    return row


def _without_near_ties(x: Any, router: Any, k: int) -> Any:
    """Copies of the first clear token in place of those whose choice of experts would hang on rounding."""
    xp, num_experts = array_namespace(x), len(router)
    if k == num_experts:
        return x
    logits = xp.sort(x.astype(xp.float32) @ router.astype(xp.float32).T, axis=1)
    clear = logits[:, num_experts - k] - logits[:, num_experts - k - 1] > NEAR
    first = xp.argmax(clear)  # True is more than False
    return x[xp.where(clear, xp.arange(len(x)), first)]


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
    """The nine matrix multiplications of :func:`_ours` with the same rows per expert, and their FLOPs."""
    _, routing = layer(Tensor(x))
    offsets = routing.offsets
    gate_up, down, router = layer.experts.gate_up.data, layer.experts.down.data, layer.router.weight.data
    rows = x[routing.token]
    hidden = grouped_product(rows, gate_up, offsets)
    active = array_namespace(x).ascontiguousarray(hidden[:, : down.shape[2]])
    logits = product(x, router.T)

    def run() -> None:
        product(x, router.T)
        grouped_product(rows, gate_up, offsets)
        grouped_product(active, down, offsets)
        grouped_product_input_gradient(rows, down, offsets)
        grouped_product_weight_gradient(rows, active, offsets)
        grouped_product_input_gradient(hidden, gate_up, offsets)
        grouped_product_weight_gradient(hidden, rows, offsets)
        product(logits, router)
        product(logits.T, x)

    flops = 6 * (len(rows) * (gate_up[0].size + down[0].size) + len(x) * router.size)
    return run, flops


def _peer_products_alone(layer: MoE, x: Any, place: Place) -> Callable[[], None]:
    """The same nine multiplications by torch, expert by expert: the time that its library needs for them."""
    import torch

    _, routing = layer(Tensor(x))
    offsets = to_host(routing.offsets).tolist()
    gate_up, down, router, tokens = map(
        place.tensor, (layer.experts.gate_up.data, layer.experts.down.data, layer.router.weight.data, x)
    )
    rows, logits = place.tensor(x[routing.token]), tokens @ router.T
    experts = [(e, slice(*ends)) for e, ends in enumerate(pairwise(offsets)) if ends[0] < ends[1]]
    hidden = rows.new_empty(len(rows), gate_up.shape[1])
    for e, part in experts:
        hidden[part] = rows[part] @ gate_up[e].T
    active = hidden[:, : down.shape[2]].contiguous()
    results = [torch.empty_like(x) for x in (logits, hidden, rows, active, down, rows, gate_up, tokens, router)]
    h_router, h, y, d_active, d_down, d_rows, d_gate_up, d_tokens, d_router = results

    @torch.no_grad()
    def run() -> None:
        torch.mm(tokens, router.T, out=h_router)
        for e, part in experts:
            torch.mm(rows[part], gate_up[e].T, out=h[part])
            torch.mm(active[part], down[e].T, out=y[part])
            torch.mm(rows[part], down[e], out=d_active[part])
            torch.mm(rows[part].T, active[part], out=d_down[e])
            torch.mm(hidden[part], gate_up[e], out=d_rows[part])
            torch.mm(hidden[part].T, rows[part], out=d_gate_up[e])
        torch.mm(logits, router, out=d_tokens)
        torch.mm(logits.T, tokens, out=d_router)

    return run


def _peer(layer: MoE, shape: Shape, implementation: str, place: Place) -> Any:
    """Transformers' block with our weights."""
    import torch
    from transformers.models.mixtral.configuration_mixtral import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=shape.d,
        intermediate_size=shape.f,
        num_local_experts=shape.E,
        num_experts_per_tok=shape.k,
        experts_implementation=implementation,
    )
    with torch.device("meta"):
        block = MixtralSparseMoeBlock(config)
    for module, name, parameter in (
        (block.gate, "weight", layer.router.weight),
        (block.experts, "gate_up_proj", layer.experts.gate_up),
        (block.experts, "down_proj", layer.experts.down),
    ):
        setattr(module, name, torch.nn.Parameter(place.tensor(parameter.data)))
    return block


def _run_peer(block: Any, x: Any, g: Any, place: Place) -> Callable[[], dict[str, Any]]:
    tokens, gradient = place.tensor(x)[None], place.tensor(g)[None]

    def run() -> dict[str, Any]:
        block.zero_grad(set_to_none=True)
        leaf = tokens.detach().requires_grad_()
        y = block(leaf)
        y.backward(gradient)
        return {
            "y": y[0],
            "dx": leaf.grad[0],
            "d_router": block.gate.weight.grad,
            "d_gate_up": block.experts.gate_up_proj.grad,
            "d_down": block.experts.down_proj.grad,
        }

    return run


@contextmanager
def _router_in_float32(block: Any) -> Iterator[None]:
    """While results are compared: with bfloat16 logits up to 2 % of the tokens would choose other experts."""
    narrow = block.gate.weight.dtype
    block.gate.float()
    hook = block.gate.register_forward_pre_hook(lambda gate, inputs: (inputs[0].float(),))
    try:
        yield
    finally:
        hook.remove()
        block.gate.to(narrow)


def _differences(ours: dict[str, Any], peer: dict[str, Any], tolerance: float) -> dict[str, float]:
    """The largest difference over the output and all gradients, absolute and relative to the largest entry.

    Raises:
        ArithmeticError: a difference exceeds what the dtype explains.
    """
    absolute = relative = 0.0
    for name, a in ours.items():
        difference, scale = largest_difference(a, peer[name])
        if not difference <= tolerance * max(scale, 1.0):
            raise ArithmeticError(f"{name} differs by {difference:.1e}, its entries go up to {scale:.1e}")
        absolute, relative = max(absolute, difference), max(relative, difference / scale if scale else 0.0)
    return {"max_abs_error": absolute, "max_rel_error": relative}
