"""One MoE layer on one rank and on several, forward and backward: python -m benchmarks.ranks [--device cuda] [--json]

Ranks on a CPU have one thread each, and MPI connects them; on GPUs there is one rank a GPU, and NCCL connects them. The
tokens of the layer are shared out among the ranks, and so are its experts. A step ends with the sum of the dense
gradients over ranks; those of experts need none.

One rank and all of them run in turn, in one job. While the first one runs alone, the others sleep. The slowest rank
counts; times are medians.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from threadpoolctl import threadpool_limits

from moe_numpy.autodiff import Tensor
from moe_numpy.autodiff.arrays import to_host
from moe_numpy.commands.job import on_ranks
from moe_numpy.commands.output import JsonOption, console_for, print_json, refusals, refuse
from moe_numpy.commands.starting_ranks import start_ranks
from moe_numpy.moe import MoE, recipes
from moe_numpy.moe.sharding import share_experts
from moe_numpy.parallel import Alone, Communicator
from moe_numpy.parallel.collectives import add_up, gather_numbers, shares
from moe_numpy.parallel.mpi import Mpi, world

from .layer import Shape
from .place import Place
from .table import print_coming, print_row
from .timing import seconds_in_turn

# On a GPU a layer of Mixtral 8x7B. With AdamW in bfloat16, 16 bytes a weight, its 32 take 720 GB.
SHAPES = {"cpu": Shape(4096, 512, 1024, 16, 2), "cuda": Shape(16384, 4096, 14336, 8, 2)}
DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
ROUNDS = 9
TOLERANCE = 2e-2  # of the answers' norm; a token whose choice is a near tie may go elsewhere
_NAP = 1e-4  # seconds


def main(
    ranks: Annotated[int, typer.Option(min=2, help="How many, beside one.")] = 2,
    device: Annotated[str, typer.Option(help="cpu, or cuda with a GPU for each rank.")] = "cpu",
    shape: Annotated[str | None, typer.Option(metavar="T,d,f,E,k", help="T tokens in all.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="In each of them, one rank and all of them run.")] = ROUNDS,
    json: JsonOption = False,
) -> None:
    """Measure one layer on one rank and on several."""
    console = console_for(json)
    with refusals():
        if device not in SHAPES:
            raise ValueError(f"--device must be one of {', '.join(SHAPES)}, got {device!r}")
        measured_shape = Shape.parse(shape) if shape else SHAPES[device]
        if ranks > measured_shape.T:
            raise ValueError(f"T must be at least the number of ranks, {ranks}, got {measured_shape.T}")
        start_ranks(ranks, lambda: device, "benchmarks.ranks")
    place = Place(device, DTYPES[device])

    def on_rank(communicator: Communicator) -> dict[str, Any]:
        if communicator.rank == 0:
            print_coming(measured_shape, console)
        return measure(communicator, measured_shape, place, rounds)

    with threadpool_limits(1):
        row = on_ranks(on_rank, device=lambda: device)
    if not row:  # of another rank
        return
    if row["error"] > TOLERANCE:
        refuse(f"the answers of {ranks} ranks differ from those of one by {row['error']:.1e} of their norm", 1)
    if json:
        print_json(row)
    else:
        print_table(row, console)


def measure(communicator: Communicator, shape: Shape, place: Place, rounds: int) -> dict[str, Any]:
    """The row of the first rank; the others have none."""
    first = communicator.rank == 0
    own = shares(shape.T, communicator.size)[communicator.rank]
    together = Step(communicator, shape, place, own)
    alone = Step(Alone(), shape, place, slice(0, shape.T)) if first else None
    error = 0.0 if alone is None else difference(together(), alone()[own])
    if alone is None:
        together()

    def on_one() -> float:
        nap_until_all_come(communicator)
        seconds = 0.0 if alone is None else timed(alone, place)
        nap_until_all_come(communicator)
        return seconds

    def on_all() -> float:
        nap_until_all_come(communicator)
        seconds = timed(together, place, partial(meet, communicator))
        return max(ns for (ns,) in gather_numbers(communicator, [round(1e9 * seconds)], "times")) / 1e9

    taken = seconds_in_turn({"one": on_one, "all": on_all}, rounds, float("inf"))
    if not first:
        return {}
    one, all_ranks = (1e3 * statistics.median(taken[name]) for name in ("one", "all"))
    return {
        "shape": str(shape),
        "device": place.device,
        "dtype": place.dtype,
        "rounds": rounds,
        "ranks": communicator.size,
        "one_rank_ms": one,
        "all_ranks_ms": all_ranks,
        "speedup": one / all_ranks,
        "error": error,
    }


class Step:
    """Forward and backward of a layer for some of its tokens, on one of the ranks that share it."""

    def __init__(self, communicator: Communicator, shape: Shape, place: Place, own: slice):
        self.communicator = communicator
        recipe = recipes.mixtral(top_k=shape.k, balance=0.0)
        self.layer = MoE(shape.d, shape.f, shape.E, recipe, rng=place.generator(0), dtype=place.float_type)
        of_experts = share_experts(self.layer, communicator) if communicator.size > 1 else {}
        self.dense = [p for name, p in self.layer.named_parameters() if name not in of_experts]
        x, self.grad = (place.generator(seed).standard_normal((shape.T, shape.d))[own] for seed in (1, 2))
        self.x, self.grad = Tensor(x.astype(place.float_type), requires_grad=True), self.grad.astype(place.float_type)
        place.free()

    def __call__(self) -> Any:
        """Answers; gradients are where they belong."""
        self.x.grad = None
        self.layer.zero_grad()
        y, _ = self.layer(self.x)
        y.backward(self.grad)
        sums = add_up(self.communicator, [p.grad for p in self.dense], "dense gradients")
        for p, gradient in zip(self.dense, sums, strict=True):
            p.grad = gradient
        return y.data


def timed(run: Callable[[], Any], place: Place, before: Callable[[], None] = lambda: None) -> float:
    """Seconds of the second of two runs; ``before`` it, ranks meet."""
    run()
    place.synchronize()
    before()
    start = time.perf_counter()
    run()
    place.synchronize()
    return time.perf_counter() - start


def meet(communicator: Communicator) -> None:
    """Wait for all ranks."""
    gather_numbers(communicator, [0], "meeting")


def nap_until_all_come(communicator: Communicator) -> None:
    """The same without keeping a core busy: MPI looks again and again, and slows down a rank that computes."""
    if not isinstance(communicator, Mpi):
        return meet(communicator)
    request = world().Ibarrier()
    while not request.Test():
        time.sleep(_NAP)


def difference(found: Any, expected: Any) -> float:
    """Of two matrices, relative to the norm of the second."""
    a, b = (to_host(x).astype(np.float64) for x in (found, expected))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def print_table(row: dict[str, Any], console: Console) -> None:
    """One line below the names of its columns."""
    print_row({name: value for name, value in row.items() if name != "error"}, console, True)


if __name__ == "__main__":
    typer.run(main)
