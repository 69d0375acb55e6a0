"""The six grouped products of a layer's forward and backward pass alone on a GPU: the floor, ours, torch's."""

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import MoE
from moe_numpy.moe.experts import grouped_product, grouped_product_input_gradient, grouped_product_weight_gradient

from .place import Place

PRODUCTS_PER_SECOND = {"bfloat16": 0.79e15, "float32": 60e12}  # of an 8192 x 8192 x 8192 product on an H100 or H200
_ROUNDS = 20


def on_device(layer: MoE, x: Any, against: str | None, place: Place) -> dict[str, float]:
    """Milliseconds: the floor of the six products, ours (``gemm_ms``), and with ``against`` torch's ``_grouped_mm``.

    Each side is one CUDA graph, so that the host plays no part; in turn, medians.
    """
    _, routing = layer(Tensor(x))
    offsets, rows = routing.offsets, x[routing.token]
    gate_up, down = layer.experts.gate_up.data, layer.experts.down.data
    hidden = grouped_product(rows, gate_up, offsets)
    active = hidden[:, : down.shape[2]].copy()

    def ours() -> list[Any]:
        return [
            grouped_product(rows, gate_up, offsets),
            grouped_product(active, down, offsets),
            grouped_product_input_gradient(rows, down, offsets),
            grouped_product_weight_gradient(rows, active, offsets),
            grouped_product_input_gradient(hidden, gate_up, offsets),
            grouped_product_weight_gradient(hidden, rows, offsets),
        ]

    replays = {"gemm_ms": place.recorded(ours)}
    if against == "torch" and place.dtype == "bfloat16":
        replays["peer_gemm_ms"] = _torch_products(*map(place.tensor, (rows, active, hidden, gate_up, down, offsets)))
    ms = _device_times(replays)
    if "peer_gemm_ms" in ms:
        ms["gemm_ratio"] = ms["gemm_ms"] / ms["peer_gemm_ms"]
    return {"floor_ms": _floor(len(rows), gate_up, down, place), **ms}


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


def _torch_products(rows: Any, active: Any, hidden: Any, gate_up: Any, down: Any, offsets: Any) -> Callable[[], None]:
    import torch

    ends = offsets[1:].to(torch.int32)

    def run() -> list[Any]:
        return [
            torch._grouped_mm(rows, gate_up.transpose(1, 2), offs=ends),
            torch._grouped_mm(active, down.transpose(1, 2), offs=ends),
            torch._grouped_mm(rows, down, offs=ends),
            torch._grouped_mm(rows.t(), active, offs=ends),
            torch._grouped_mm(hidden, gate_up, offs=ends),
            torch._grouped_mm(hidden.t(), rows, offs=ends),
        ]

    with torch.no_grad():
        run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()

    def replay() -> None:
        graph.replay()

    return replay


def _device_times(replays: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Medians by the device's own clock."""
    import cupy

    taken: dict[str, list[float]] = {name: [] for name in replays}
    for _ in range(_ROUNDS):
        for name, replay in replays.items():
            replay()
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            cupy.cuda.Device().synchronize()
            begin.record()
            replay()
            end.record()
            end.synchronize()
            taken[name].append(cupy.cuda.get_elapsed_time(begin, end))
    return {name: float(np.float64(statistics.median(times))) for name, times in taken.items()}
