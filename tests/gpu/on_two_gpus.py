"""What each of several ranks does in test_two_gpus.py: ``python on_two_gpus.py FOLDER``, started by ``run_ranks``."""

import os
import sys
import traceback
from pathlib import Path

import ml_dtypes
import numpy as np

from moe_numpy import devices
from moe_numpy.autodiff import Tensor
from moe_numpy.autodiff.arrays import to_host
from moe_numpy.moe import make_layer, recipes
from moe_numpy.moe.sharding import share_experts
from moe_numpy.ops import Cast
from moe_numpy.parallel.collectives import add_up, gather

DTYPES = {t.__name__: t for t in (np.float32, np.float64, np.int64, np.uint8, np.bool_, ml_dtypes.bfloat16)}
COUNTS = [[3, 4], [0, 2]]  # rows from each rank to each
WIDTHS = [(), (3,), (8,)]
SEQUENCES = [slice(0, 3), slice(3, 5)]  # of each rank
EXPERTS = 8


def rows_of(rank, width, dtype):
    """What a rank sends."""
    numbers = np.random.default_rng(rank).integers(0, 100, (sum(COUNTS[rank]), *width))
    return numbers.astype(DTYPES[dtype])


def summands(rank):
    """What a rank adds to a sum; the sizes do not divide by the number of ranks."""
    rng = np.random.default_rng(10 + rank)
    return [rng.standard_normal((5, 7)).astype(np.float32), rng.standard_normal(10_001).astype(np.float32)]


def exchanges(communicator, device):
    """By name, what comes, and the type of array it is."""
    rank, send = communicator.rank, COUNTS[communicator.rank]
    receive = [of[rank] for of in COUNTS]
    found = {}
    for dtype in DTYPES:
        for width in WIDTHS:
            rows = rows_of(rank, width, dtype)
            there = devices.put(rows, device)
            come = [
                communicator.exchange(there, send, receive, "rows"),
                communicator.begin(there, send, receive, "rows").wait(),
            ]
            on_host = communicator.exchange(rows, send, receive, "rows")
            assert all(type(each) is type(there) and each.dtype == rows.dtype for each in come)
            assert type(on_host) is np.ndarray
            for way, each in zip(("exchange", "begin", "host"), (*map(to_host, come), on_host), strict=True):
                found[f"{way} {dtype} {width}"] = each.astype(np.float64)
    nothing = communicator.exchange(devices.put(np.zeros((0, 4), np.float32), device), [0, 0], [0, 0], "rows")
    found["nothing"] = to_host(nothing)
    return found


def collectives(communicator, device):
    """Sums and rows of all, of arrays on the device and of NumPy."""
    own = summands(communicator.rank)
    there = [devices.put(each, device) for each in own]
    found = {f"sum {i}": to_host(each) for i, each in enumerate(add_up(communicator, there, "test"))}
    found |= {f"sum on the host {i}": each for i, each in enumerate(add_up(communicator, own, "test"))}
    found["gather"] = to_host(gather(communicator, there[0], [5, 5], "test"))
    return found


def overlapped(communicator, device):
    """Rows that travel while the device computes, and what it computes from those that were there before."""
    xp, size = devices.namespace(device), communicator.size
    rows = xp.full((size * 4096, 1024), communicator.rank + 1.0, dtype=xp.float32)
    pending = communicator.begin(rows, [4096] * size, [4096] * size, "rows")
    product = rows[:1024] @ rows[:1024].T
    come = pending.wait()
    rows[...] = 0  # after the exchange has read it
    found = {"come": come.reshape(size, -1).mean(axis=1), "product": product[0, 0], "again": (come * 1).max()}
    return {name: to_host(each) for name, each in found.items()}


def inputs():
    """Tokens, the cotangent of the answers and token ids, of all ranks."""
    rng = np.random.default_rng(2)
    x, g = (rng.standard_normal((5, 12, 16)).astype(np.float32) for _ in range(2))
    return x, g, np.arange(60).reshape(5, 12)


def layer_of(recipe, dtype="float32"):
    """A small layer, the same on every rank."""
    published = recipes.find(recipe)
    layer = make_layer(published(**published.small), 16, 24, EXPERTS, rng=np.random.default_rng(3))
    return layer.to(dtype=devices.float_type(dtype))


def step(layer, device, own=slice(None), share=1.0):
    """Answers and gradients for some of the sequences, with this share of the auxiliary loss, which is that of all."""
    dtype = next(iter(layer.parameters())).dtype
    x, g, ids = (devices.put(each[own], device) for each in inputs())
    x = Tensor(x.astype(dtype), requires_grad=True)
    y, routing = layer(x, rng=devices.generator(device, [5, 6]), token_ids=ids)
    objective = (Cast.apply(y, dtype=np.float32) * Tensor(g)).sum()
    auxiliary = getattr(routing, "auxiliary_loss", None)
    if auxiliary is not None:
        objective = objective + auxiliary * share
    objective.backward()
    zeros = devices.namespace(device).zeros_like
    gradients = {name: zeros(p.data) if p.grad is None else p.grad for name, p in layer.named_parameters()}
    return y.data, x.grad, gradients


def layers(communicator, device, dtype="float32", names=None):
    """By recipe, answers, the gradient of the tokens, and of every parameter as one process would have it."""
    found = {}
    for recipe in names or sorted(recipes.RECIPES):
        layer = layer_of(recipe, dtype)
        holdings = share_experts(layer, communicator)
        layer.to(device)
        y, dx, gradients = step(layer, device, SEQUENCES[communicator.rank], 1 / communicator.size)
        dense = [name for name in gradients if name not in holdings]
        sums = dict(zip(dense, add_up(communicator, [gradients[name] for name in dense], "test"), strict=True))
        for name, holding in holdings.items():
            counts = [len(held) for held in holding.placement.experts]
            sums[name] = gather(communicator, gradients[name], counts, "test")
        result = {"y": y, "dx": dx} | sums
        found |= {f"{recipe}/{name}": to_host(each).astype(np.float64) for name, each in result.items()}
    return found


def main(communicator, device, folder):
    """Everything, into a file of this rank."""
    parts = {"exchanges": exchanges, "collectives": collectives, "overlapped": overlapped, "layers": layers}
    if device == "cuda":
        parts["bfloat16"] = lambda c, d: layers(c, d, "bfloat16", ["mixtral", "deepseek_v3"])
    found = {}
    for part, work in parts.items():
        found |= {f"{part}: {name}": each for name, each in work(communicator, device).items()}
    np.savez(folder / f"{communicator.rank}.npz", **found)


if __name__ == "__main__":
    try:
        from moe_numpy.parallel.launching import Place
        from moe_numpy.parallel.nccl import Nccl

        place = Place.own()
        main(Nccl.among(place), "cuda", Path(sys.argv[1]))
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # without a farewell to ranks that wait
