"""Energy and price of a decoded token, dense against sparse at equal quality: python -m benchmarks.energy [PAIR ...]

Modelled from the bytes read and the FLOPs of each token (moe_numpy/accounting/decode_costs.py) with the assumptions of
benchmarks/machines.py, which are printed. A batch of B tokens uses E (1 - (1 - k / E)^B) experts of a layer, so that
the weights read per token fall as 1 / B in a dense model and more slowly in a sparse one. That a machine has room for
the weights is taken for granted.

    python -m benchmarks.energy --measure runs/demo --measure runs/demo/dense

also measures our decoder with these runs, where the processor counts joules (benchmarks/rapl.py).
"""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from moe_numpy import plots
from moe_numpy.accounting import BITS, decoding
from moe_numpy.commands.output import JsonOption, console_for, given_path, note, plain_table, print_json, refusals
from moe_numpy.commands.usage import Command
from moe_numpy.plots.energy import joules_over_batch

from .equal_quality import Pair, pairs
from .machines import MACHINES, Machine, price
from .measured_energy import measure
from .rapl import EnergyError, Meter

BATCHES = (1, 2, 4, 8, 16, 32, 64)
_KINDS = ("dense", "sparse")
_FAR = 2**12  # batches looked at for where the advantage changes sides

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command(cls=Command)
def main(
    pair: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(pairs())}; all without it.")] = None,
    machine: Annotated[str, typer.Option(help=f"Assumptions: {', '.join(MACHINES)}.")] = "gpu",
    pj_per_byte: Annotated[float | None, typer.Option(min=0, help="Instead of the machine's.")] = None,
    pj_per_flop: Annotated[float | None, typer.Option(min=0, help="Likewise.")] = None,
    watts: Annotated[float, typer.Option(min=0, help="That the machine draws whatever it does.")] = 0.0,
    context: Annotated[int, typer.Option(min=1, help="Tokens of each text, at most, whose cache is read.")] = 1024,
    dtype: Annotated[str, typer.Option(help=f"Of the weights: {', '.join(BITS)}.")] = "bf16",
    price_per_kwh: Annotated[float, typer.Option(min=0, help="In any currency; the default is an assumption.")] = 0.2,
    price_per_hour: Annotated[float, typer.Option(min=0, help="Of the machine; likewise.")] = 1.0,
    run: Annotated[
        list[Path] | None, typer.Option("--measure", parser=given_path, metavar="RUN", help="Measure; repeatable.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Of each measurement.")] = 3.0,
    figure: Annotated[Path | None, typer.Option(parser=given_path, metavar="PATH", help="PNG to draw.")] = None,
    json: JsonOption = False,
) -> None:
    """Model joules and price per token for batches of 1 to 64, and measure them where the machine can."""
    console = console_for(json)
    with refusals():
        chosen = _chosen(pair or list(pairs()))
        if machine not in MACHINES:
            raise ValueError(f"--machine must be one of {', '.join(MACHINES)}, got {machine!r}")
        if dtype not in BITS:
            raise ValueError(f"--dtype must be one of {', '.join(BITS)}, got {dtype!r}")
        given = {"pj_per_byte": pj_per_byte, "pj_per_flop": pj_per_flop}
        assumed = replace(MACHINES[machine], watts=watts, **{k: v for k, v in given.items() if v is not None})
    prices = price_per_kwh, price_per_hour
    document: dict[str, Any] = {
        "assumed": asdict(assumed) | {"price_per_kwh": price_per_kwh, "price_per_hour": price_per_hour},
        "dtype": dtype,
        "pairs": [_compared(name, each, assumed, context, dtype, prices) for name, each in chosen.items()],
        "measured": None,
    }
    if run:
        try:
            meter = Meter()
        except EnergyError as error:
            note(f"nothing is measured: {error}")
        else:
            with refusals():
                document["measured"] = [
                    row for folder in run for row in measure(folder, BATCHES, seconds, meter, console)
                ]
    if figure is not None:
        plots.save(joules_over_batch(document["pairs"]), figure)
    if json:
        print_json(document)
    else:
        _print(document, console)


def _chosen(names: list[str]) -> dict[str, Pair]:
    known = pairs()
    for name in names:
        if name not in known:
            raise ValueError(f"a pair must be one of {', '.join(known)}, got {name!r}")
    return {name: known[name] for name in names}


def _compared(
    name: str, pair: Pair, machine: Machine, context: int, dtype: str, prices: tuple[float, float]
) -> dict[str, Any]:
    """All rows of a pair."""
    rows, context = [], min(context, pair.context)
    for batch in BATCHES:
        row: dict[str, Any] = {"batch": batch}
        for kind, (_, architecture) in zip(_KINDS, (pair.dense, pair.sparse), strict=True):
            cost = decoding(architecture, batch, context, dtype)
            joules, seconds = machine.joules(cost), machine.seconds(cost)
            row[kind] = {
                "experts": cost.experts,
                "weight_bytes": cost.weight_bytes,
                "cache_bytes": cost.cache_bytes,
                "bytes": cost.bytes,
                "flops": cost.flops,
                "joules": joules,
                "price_per_million": price(joules, seconds, *prices),
            }
        row["advantage"] = row["dense"]["joules"] / row["sparse"]["joules"]
        rows.append(row)
    return {
        "pair": name,
        "dense": pair.dense[0],
        "sparse": pair.sparse[0],
        "num_experts": pair.sparse[1].num_experts,
        "source": pair.source,
        "context": context,
        "rows": rows,
        "turns": _turns(pair, machine, context, dtype),
    }


def _turns(pair: Pair, machine: Machine, context: int, dtype: str) -> list[dict[str, Any]]:
    """The batches from which on the other model needs less energy; the first is 1."""

    def better(batch: int) -> str:
        dense, sparse = (machine.joules(decoding(a, batch, context, dtype)) for _, a in (pair.dense, pair.sparse))
        return "sparse" if sparse < dense else "dense"

    found, batch = [{"batch": 1, "better": better(1)}], 1
    while batch < _FAR:
        before, batch = batch, batch + max(batch // 100, 1)
        now = better(batch)
        if now != found[-1]["better"]:
            first = next(b for b in range(before + 1, batch + 1) if better(b) == now)
            found.append({"batch": first, "better": now})
    return found


def _print(document: dict[str, Any], console: Console) -> None:
    assumed = document["assumed"]
    console.print(
        f"Modelled, not measured. Assumed: {assumed['pj_per_byte']:.4g} pJ per byte of memory, "
        f"{assumed['pj_per_flop']:.3g} pJ per FLOP, {assumed['gb_per_s']:,g} GB/s, {assumed['gflops']:,g} GFLOP/s, "
        f"{assumed['watts']:g} W besides; {assumed['price_per_kwh']:g} per kWh, {assumed['price_per_hour']:g} per "
        f"machine hour; {document['dtype']} weights. All per token; prices per million.",
        soft_wrap=True,
    )
    for pair in document["pairs"]:
        _print_pair(pair, console)
    if document["measured"]:
        _print_measured(document["measured"], console)


def _print_pair(pair: dict[str, Any], console: Console) -> None:
    console.print(f"\n{pair['dense']} | {pair['sparse']}: {pair['source']}", soft_wrap=True)
    flops = " | ".join(_short(pair["rows"][0][kind]["flops"]) for kind in _KINDS)
    console.print(f"texts of {pair['context']:,} tokens, FLOPs {flops}", soft_wrap=True)
    table = plain_table()
    columns = [("bytes", "bytes"), ("joules", "joules"), ("price_per_million", "price")]
    for name in ("batch", "experts", *(f"{head}\n{kind}" for _, head in columns for kind in _KINDS), "ratio"):
        table.add_column(name, justify="right")
    for row in pair["rows"]:
        cells = [_short(row[kind][key]) for key, _ in columns[:2] for kind in _KINDS]
        cells += [f"{row[kind]['price_per_million']:.3g}" for kind in _KINDS]
        table.add_row(str(row["batch"]), f"{row['sparse']['experts']:.1f}", *cells, f"{row['advantage']:.2f}")
    console.print(table)
    said = ", ".join(f"from batch {turn['batch']} on {turn['better']}" for turn in pair["turns"])
    console.print(f"less energy: {said}", soft_wrap=True)


def _short(number: float) -> str:
    """Three digits and a prefix: 13.6G, 4.2m."""
    power = math.floor(math.log10(number) / 3) if number else 0
    return f"{number / 1000**power:.3g}{'nµm kMGT'[power + 3].strip()}"


def _print_measured(rows: list[dict[str, Any]], console: Console) -> None:
    console.print("\nMeasured: all packages and memory, whatever else runs included")
    table = plain_table()
    for name in ("run", "batch", "mJ per token", "above idle", "tokens/s"):
        table.add_column(name, justify="left" if name == "run" else "right")
    for row in rows:
        joules = (f"{1e3 * row[name]:.3g}" for name in ("joules", "joules_above_idle"))
        table.add_row(row["run"], str(row["batch"]), *joules, f"{row['tokens_per_s']:,.0f}")
    console.print(table)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.energy")
