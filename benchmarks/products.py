"""The six grouped products of a layer's forward and backward pass alone on a GPU: the floor, ours, torch's."""

import statistics
from collections.abc import Callable
from typing import Any

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import MoE
from moe_numpy.moe.experts import grouped_product, grouped_product_input_gradient, grouped_product_weight_gradient

from .place import Place

PRODUCTS_PER_SECOND = {"bfloat16": 0.79e15, "float32": 60e12}  # of an 8192 x 8192 x 8192 product on an H100 or H200
_ROUNDS = 20


def on_device(layer: MoE, x: Any, against: str | None, place: Place) -> dict[str, Any]:
    """Milliseconds: the floor of the six products, ours (``gemm_ms``), and with ``against`` torch's ``_grouped_mm``.

    They are measured kind by kind, two products each; ``gemm_ratios`` has ours over torch's of each kind: forward,
    gradient of the input, gradient of the weights; all of torch's are None for widths that it refuses. Each side is one
    CUDA graph, so that the host plays no part; in turn, medians.
    """
    _, routing = layer(Tensor(x))
    offsets, rows = routing.offsets, x[routing.token]
    gate_up, down = layer.experts.gate_up.data, layer.experts.down.data
    hidden = grouped_product(rows, gate_up, offsets)
    active = hidden[:, : down.shape[2]].copy()
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: (grouped_product(rows, gate_up, offsets), grouped_product(active, down, offsets)),
        lambda: (
            grouped_product_input_gradient(rows, down, offsets),
            grouped_product_input_gradient(hidden, gate_up, offsets),
        ),
        lambda: (
            grouped_product_weight_gradient(rows, active, offsets),
            grouped_product_weight_gradient(hidden, rows, offsets),
        ),
    )
    floor = _floor(len(rows), gate_up, down, place)
    if against != "torch" or place.dtype != "bfloat16":
        return {"floor_ms": floor, "gemm_ms": sum(_device_times([place.recorded(kind)])[0] for kind in kinds)}
    if not torch_groups(*down.shape[1:], place):
        ours = sum(_device_times([place.recorded(kind)])[0] for kind in kinds)
        return {"floor_ms": floor, "gemm_ms": ours, "peer_gemm_ms": None, "gemm_ratio": None, "gemm_ratios": None}
    peers = _torch_products(*map(place.tensor, (rows, active, hidden, gate_up, down, offsets)))
    times = [
        _device_times([place.recorded(mine), _torch_recorded(theirs)])
        for mine, theirs in zip(kinds, peers, strict=True)
    ]
    ours, theirs = map(sum, zip(*times, strict=True))
    ratios = [round(mine / other, 2) for mine, other in times]
    return {
        "floor_ms": floor,
        "gemm_ms": ours,
        "peer_gemm_ms": theirs,
        "gemm_ratio": ours / theirs,
        "gemm_ratios": ratios,
    }


def torch_groups(d: int, f: int, place: Place) -> bool:
    """Whether torch multiplies all experts in one launch: on a GPU, rows must be multiples of 16 bytes."""
    return place.device != "cuda" or not (d * place.float_type.itemsize % 16 or f * place.float_type.itemsize % 16)


def _floor(num_rows: int, gate_up: Any, down: Any, place: Place) -> float:
    """The larger of the time for the multiplications and the time to read each operand and write each result once."""
    import cupy

    num_experts, d, f = down.shape
    flops = 18 * num_rows * d * f
    entries = num_rows * (6 * d + 9 * f) + 9 * min(num_experts, num_rows) * d * f
    attributes = cupy.cuda.Device().attributes
    bytes_per_second = 2 * attributes["MemoryClockRate"] * 1e3 * attributes["GlobalMemoryBusWidth"] / 8
    size = place.float_type.itemsize
    return 1e3 * max(flops / PRODUCTS_PER_SECOND[place.dtype], entries * size / bytes_per_second)


def _torch_products(
    rows: Any, active: Any, hidden: Any, gate_up: Any, down: Any, offsets: Any
) -> tuple[Callable[[], Any], ...]:
    """The same products, kind by kind."""
    import torch

    multiply, ends = torch._grouped_mm, offsets[1:].to(torch.int32)
    return (
        lambda: (
            multiply(rows, gate_up.transpose(1, 2), offs=ends),
            multiply(active, down.transpose(1, 2), offs=ends),
        ),
        lambda: (multiply(rows, down, offs=ends), multiply(hidden, gate_up, offs=ends)),
        lambda: (multiply(rows.t(), active, offs=ends), multiply(hidden.t(), rows, offs=ends)),
    )


def _torch_recorded(run: Callable[[], Any]) -> Callable[[], None]:
    """One CUDA graph of torch's."""
    import torch

    with torch.no_grad():
        run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()

    def replay() -> None:
        graph.replay()

    return replay


def _device_times(replays: list[Callable[[], Any]]) -> list[float]:
    """Medians by the device's own clock."""
    import cupy

    taken: list[list[float]] = [[] for _ in replays]
    for _ in range(_ROUNDS):
        for replay, times in zip(replays, taken, strict=True):
            replay()
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            cupy.cuda.Device().synchronize()
            begin.record()
            replay()
            end.record()
            end.synchronize()
            times.append(float(cupy.cuda.get_elapsed_time(begin, end)))
    return [statistics.median(times) for times in taken]
