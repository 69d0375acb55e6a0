"""What a row that travels once saves, and what computing beside the exchange does: python -m benchmarks.exchange.

Without options: one layer of published sizes on ranks that are parts of this process, with random weights and tokens.
Bytes are those of the ledger. Expected are k (R - 1)/R rows per token, and with copies
:func:`moe_numpy.accounting.expected_remote_devices`. The width of experts changes nothing that travels, so it is 1.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer
from threadpoolctl import threadpool_limits

from moe_numpy.accounting import expected_remote_devices
from moe_numpy.autodiff import Tensor
from moe_numpy.commands.output import JsonOption, console_for, plain_table, print_json, refusals
from moe_numpy.commands.starting_ranks import mpiexec
from moe_numpy.commands.usage import Command, exit_on_signals
from moe_numpy.moe import MoE, Recipe, recipes
from moe_numpy.moe.sharding import DEDUPLICATIONS, share_experts
from moe_numpy.parallel import Alone, Communicator, Holding
from moe_numpy.parallel.mpi import Mpi, processes_of_job
from moe_numpy.parallel.parts import run_parts

_TOKENS = 128  # of a rank
_ROWS = ("rows", "answers", "gradients of answers", "gradients of rows")
_BESIDE = ("counts", "masks", "gates", "gradients of gates")  # travels for the rows' sake


@dataclass(frozen=True)
class Layer:
    """A layer on ranks; ``limit`` is how many of them a token may reach."""

    name: str
    d_model: int
    num_experts: int
    top_k: int
    recipe: Recipe
    ranks: int
    limit: int | None = None


LAYERS = [
    Layer("Mixtral 8x7B", 4096, 8, 2, recipes.mixtral(), 4),
    Layer("Mixtral 8x7B", 4096, 8, 2, recipes.mixtral(), 8),
    Layer("OLMoE", 2048, 64, 8, recipes.olmoe(), 4),
    Layer("OLMoE", 2048, 64, 8, recipes.olmoe(), 8),
    Layer("DeepSeek-V3", 7168, 256, 8, recipes.deepseek_v3(shared_experts=0), 8, limit=4),
    Layer("the same, any group", 7168, 256, 8, recipes.deepseek_v3(top_groups=8, shared_experts=0), 8),
]

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)


@app.command(cls=Command)
def main(
    overlap: Annotated[
        bool, typer.Option("--overlap", help="Time a layer with shared experts on 2 processes, beside the exchange.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="With --overlap: passes of each; the median counts.")] = 31,
    json: JsonOption = False,
) -> None:
    """Measure what deduplication saves, or what overlap does."""
    if overlap and processes_of_job() is None:
        with refusals():
            command = [mpiexec(), "-n", "2", sys.executable, "-m", "benchmarks.exchange", *sys.argv[1:]]
        raise typer.Exit(subprocess.run(command).returncode)
    if overlap:
        row = _overlapped(Mpi(), rounds)
        if row is not None:
            print_json(row) if json else print(", ".join(f"{k.replace('_', ' ')} {v}" for k, v in row.items()))
        return
    rows = []
    console = console_for(json)
    for layer in LAYERS:
        with console.status(f"{layer.name} on {layer.ranks} ranks ..."), threadpool_limits(1, user_api="blas"):
            rows.append(saving(layer))
    if json:
        print_json({"rows": rows})
        return
    table = plain_table()
    for i, column in enumerate(("layer", "ranks", "each", "expected", "once", "expected", "exact", "sums", "error")):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        numbers = [f"{row[name]:.3f}" for name in ("each", "each_expected", "once", "once_expected")]
        shares = [f"{row[name]:.0%}" for name in ("exact_bytes", "sums_bytes")]
        table.add_row(row["layer"], str(row["ranks"]), *numbers, *shares, f"{row['sums_error']:.0e}")
    console.print(table)
    console.print(
        "each, once: rows per token to other ranks. exact, sums: bytes of forward and backward pass, against those of "
        "rows that travel each. error: largest difference of the sums' result and input gradient, against the largest."
    )


def saving(layer: Layer) -> dict[str, Any]:
    """The row of a layer. RuntimeError if ``exact`` changes a bit, or no row is saved."""
    done = {how: _passed(layer, how) for how in DEDUPLICATIONS}
    plain, exact, sums = (done[how] for how in DEDUPLICATIONS)
    if any(not np.array_equal(a, b) for a, b in zip(plain["values"], exact["values"], strict=True)):
        raise RuntimeError(f"{layer.name}: rows that travel once have changed the result")
    differences = [float(abs(a - b).max() / abs(a).max()) for a, b in zip(plain["values"], sums["values"], strict=True)]
    tokens, row = _TOKENS * layer.ranks, 4 * layer.d_model
    others = (layer.ranks - 1) / layer.ranks
    return {
        "layer": layer.name,
        "ranks": layer.ranks,
        "each": plain["sent"]["rows"] / (tokens * row),
        "each_expected": layer.top_k * others,
        "once": exact["sent"]["rows"] / (tokens * row),
        "once_expected": expected_remote_devices(layer.num_experts, layer.top_k, layer.ranks, layer.limit),
        "exact_bytes": exact["bytes"] / plain["bytes"],
        "sums_bytes": sums["bytes"] / plain["bytes"],
        "sums_error": max(differences),
    }


def _passed(layer: Layer, deduplicate: str) -> dict[str, Any]:
    """Results and input gradients by rank, and the bytes of all ranks."""
    values: list[Any] = [None] * layer.ranks
    sent: dict[str, int] = {}

    def work(communicator: Communicator) -> None:
        moe = _layer(layer.recipe, layer.d_model, 1, layer.num_experts)
        share_experts(moe, communicator, deduplicate=deduplicate)
        rng = np.random.default_rng([1, communicator.rank])
        x, dy = (rng.standard_normal((_TOKENS, layer.d_model), np.float32) for _ in range(2))
        own = Tensor(x, requires_grad=True)
        y, _ = moe(own)
        y.backward(dy)
        values[communicator.rank] = np.stack([y.data, own.grad])
        for kind, to in communicator.ledger.sent.items():
            sent[kind] = sent.get(kind, 0) + int(to.sum())

    run_parts(Alone(), layer.ranks, work)
    return {"values": values, "sent": sent, "bytes": sum(sent.get(kind, 0) for kind in (*_ROWS, *_BESIDE))}


def _layer(recipe: Recipe, d_model: int, d_ff: int, num_experts: int) -> MoE:
    return MoE(d_model, d_ff, num_experts, recipe, rng=np.random.default_rng(0))


def _overlapped(communicator: Mpi, rounds: int) -> dict[str, Any] | None:
    """Median milliseconds of forward and backward together, with and without; on the first rank."""
    tokens, d_model, d_ff, num_experts = 2048, 512, 1024, 16
    recipe = recipes.qwen2_moe(top_k=2, shared_experts=2)
    moe = _layer(recipe, d_model, d_ff, num_experts)
    share_experts(moe, communicator)
    placement = moe.holding.placement if moe.holding is not None else None
    assert placement is not None
    holdings = {how: Holding(communicator, placement, overlap=how == "overlapped") for how in ("in_turn", "overlapped")}
    rng = np.random.default_rng([1, communicator.rank])
    x, dy = (rng.standard_normal((tokens, d_model), np.float32) for _ in range(2))
    taken: dict[str, list[float]] = {how: [] for how in holdings}

    def run(how: str) -> tuple[Any, Any]:
        moe.holding = holdings[how]
        own = Tensor(x, requires_grad=True)
        y, _ = moe(own)
        y.backward(dy)
        return y.data, own.grad

    with threadpool_limits(1, user_api="blas"):
        results = [run(how) for how in holdings]
        if not all(np.array_equal(a, b) for a, b in zip(*results, strict=True)):
            raise RuntimeError("overlap has changed the result")
        for _ in range(rounds):
            for how in holdings:
                taken[how].append(_seconds(lambda how=how: run(how), communicator))
    if communicator.rank > 0:
        return None
    shape = {"ranks": communicator.size, "tokens_of_a_rank": tokens, "d_model": d_model, "d_ff": d_ff}
    times = {f"{how}_ms": round(1e3 * statistics.median(of), 2) for how, of in taken.items()}
    return shape | {"num_experts": num_experts, "top_k": 2, "shared_experts": 2, "rounds": rounds} | times


def _seconds(run: Callable[[], Any], communicator: Communicator) -> float:
    """From when all ranks are ready until this one is done."""
    everyone = [1] * communicator.size
    communicator.exchange(np.zeros(communicator.size), everyone, everyone, "ready")
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    exit_on_signals()
    app(prog_name="python -m benchmarks.exchange")
