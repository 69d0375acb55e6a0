"""Each hot loop at the sizes of a layer: the definition in NumPy, the compiled loops and, on request, the GPU's."""

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import numpy as np

from moe_numpy import kernels
from moe_numpy.devices import put
from moe_numpy.inference.attention import attend
from moe_numpy.inference.experts import swiglu_of_halves
from moe_numpy.kernels import (
    add_rows,
    max_by_key,
    position_by_key,
    sort_by_key,
    stable_order,
    sum_by_key,
    take_rows,
    top_k,
)
from moe_numpy.moe.dispatch import combine, combine_gradient, row_products
from moe_numpy.moe.experts import (
    add_expert_bias,
    grouped_product,
    grouped_product_input_gradient,
    grouped_product_weight_gradient,
    sum_of_expert_rows,
)
from moe_numpy.ops.activations import (
    gelu,
    gelu_gradient,
    log_softmax,
    log_softmax_gradient,
    silu,
    silu_gradient,
    softmax,
    softmax_gradient,
    swiglu,
    swiglu_gradient,
)
from moe_numpy.ops.attention import causal_attention, causal_attention_gradient, rotate
from moe_numpy.ops.losses import cross_entropy, cross_entropy_gradient
from moe_numpy.ops.matmul import matmul, product
from moe_numpy.ops.normalization import rms_norm, rms_norm_gradient
from moe_numpy.training.optimizers import adamw, sum_of_squares

from .place import Place
from .timing import in_turn

T, D, F, E, K, V = 4096, 512, 1024, 16, 2, 4096
B, S = 16, 256  # of attention


def measure(rounds: int, budget_s: float, place: Place) -> Generator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield the name of each kernel and the function that measures its row; times in milliseconds."""
    for kernel, arguments in _cases(np.random.default_rng(0)):
        yield kernel.__name__, partial(_row, kernel, arguments, rounds, budget_s, place)


def _row(
    kernel: Callable[..., Any], arguments: list[Any], rounds: int, budget_s: float, place: Place
) -> dict[str, Any]:
    """``speedup`` is that of the last implementation over NumPy."""
    implementations = {"numpy": "cpu", "numba": "cpu"} | ({"cupy": "cuda"} if place.device == "cuda" else {})
    candidates = {}
    for implementation, device in implementations.items():
        candidates[implementation] = _call(implementation, kernel, _moved(arguments, device))
    ms = in_turn(candidates, rounds, budget_s, place.synchronize)
    times = {f"{implementation}_ms": ms[implementation] for implementation in implementations}
    return {"kernel": kernel.__name__, **times, "speedup": ms["numpy"] / ms[list(implementations)[-1]]}


def _call(implementation: str, kernel: Callable[..., Any], arguments: list[Any]) -> Callable[[], Any]:
    settings = arguments.pop() if isinstance(arguments[-1], dict) else {}
    if implementation == "cupy":
        # A new view of each index array: results about an array are cached, so the second call would not sort.
        return lambda: kernel(*[x[:] if _is_index(x) else x for x in arguments], **settings)

    def run() -> Any:
        with kernels.use(implementation):
            return kernel(*arguments, **settings)

    return run


def _is_index(x: Any) -> bool:
    return getattr(x, "ndim", 0) == 1 and x.dtype.kind == "i"


def _moved(arguments: list[Any], device: str) -> list[Any]:
    """The same arguments on a device; arrays may be in lists."""
    return [
        _moved(a, device) if isinstance(a, list) else put(a, device) if isinstance(a, np.ndarray) else a
        for a in arguments
    ]


def _cases(rng: np.random.Generator) -> Generator[tuple[Callable[..., Any], list[Any]]]:
    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape, dtype=np.float32)

    scores = normal(T, E)
    expert = np.sort(rng.integers(0, E, T * K))
    token = rng.permutation(np.repeat(np.arange(T), K))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(expert, minlength=E))])
    x, rows, w = normal(T, D), normal(T * K, D), normal(T * K)
    h, wide = normal(T * K, 2 * F), normal(T * K, F)
    gate_up, target = normal(E, 2 * F, D), rng.integers(0, V, T)
    heads = [normal(B, 4, 2 * S, 64), normal(B, 4, S, 64), normal(B, 4, S, 64)]
    angle, logits = normal(S, 32), normal(T, V)
    yield top_k, [scores, K]
    yield stable_order, [expert[rng.permutation(T * K)], E]
    yield sort_by_key, [expert[rng.permutation(T * K)], E]
    yield position_by_key, [expert[rng.permutation(T * K)], E]
    yield sum_by_key, [w, token, T]
    yield max_by_key, [w, token, T]
    yield take_rows, [x, token]
    yield add_rows, [rows, token, T]
    yield combine, [rows, w, token, T]
    yield combine_gradient, [x, rows, w, token]
    yield row_products, [rows, rows]
    yield product, [x, normal(D, F)]
    yield matmul, [normal(B, S, D), normal(B, D, S)]
    yield grouped_product, [rows, gate_up, offsets]
    yield grouped_product_input_gradient, [h, gate_up, offsets]
    yield grouped_product_weight_gradient, [h, rows, offsets]
    yield sum_of_expert_rows, [h, offsets]
    yield add_expert_bias, [h, gate_up[:, :, 0], offsets]
    yield swiglu, [h[:, :F], h[:, F:]]
    yield swiglu_of_halves, [h]
    yield swiglu_gradient, [wide, h[:, :F], h[:, F:]]
    yield silu, [wide]
    yield silu_gradient, [wide, wide]
    yield gelu, [wide, False]
    yield gelu_gradient, [wide, wide, False]
    yield softmax, [logits]
    yield softmax_gradient, [logits, logits]
    yield log_softmax, [logits]
    yield log_softmax_gradient, [logits, logits]
    yield cross_entropy, [logits, target]
    yield cross_entropy_gradient, [normal(T), logits, target]
    yield rms_norm, [x, x[0], 1e-6]
    yield rms_norm_gradient, [x, x, x[:, :1], x[0]]
    yield rotate, [normal(B, 8, S, 64), np.cos(angle), np.sin(angle)]
    yield causal_attention, [*heads, S, 0.125]
    o, e, total = causal_attention(*heads, S, 0.125)
    yield causal_attention_gradient, [o, *heads, o, e, total, S, 0.125]
    yield attend, [normal(S, 8, 64), normal(S, 4, 64), normal(S, 4, 64), np.zeros(S, np.int64), 0.125, None]
    yield sum_of_squares, [[gate_up]]
    settings = {"betas": (0.9, 0.95), "eps": 1e-8}
    moments = [np.zeros_like(gate_up)], [np.ones_like(gate_up)]
    yield (
        adamw,
        [[gate_up], [normal(*gate_up.shape)], *moments, [0.1], [None], np.array([1.0, 1e-4, 0.1, 0.05]), settings],
    )
