"""What number formats cost in quality: python -m benchmarks.quality [RUN] [--figure docs/figures/quality.png]

The loss of a model on text that it was not trained on, with its experts, the rest of its matrices, or both in each
format, less that of float32. The same windows of text are read each time, so that their differences are pairs: the
standard error of the mean difference is far smaller than that of a loss. Then one expert at a time is stored in one
format. ``--one-by-one none`` leaves that out, which takes most of the time.

The router, the norms and the embedding stay float32 (``Decoder``); a matrix whose width no format's groups divide is
bfloat16. Without RUN, the model of ``python -m moe_numpy demo`` is trained first.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from scipy.stats import spearmanr

from moe_numpy import plots
from moe_numpy.commands.output import JsonOption, console_for, given_path, plain_table, print_json, refusals
from moe_numpy.commands.usage import Command
from moe_numpy.formats import FORMATS, Matrix, Stack
from moe_numpy.inference import Decoder
from moe_numpy.inference.expert_tables import ExpertTables
from moe_numpy.models import Transformer
from moe_numpy.plots.quality import cost_of_formats
from moe_numpy.training.corpus import Windows

from .held_out import Difference, open_or_train, window_losses
from .one_expert import damage, expert_weights, sparse_layers

PARTS = ("experts", "rest", "both")
MIXED = ("int4", "int8")  # experts and rest, a model that is small and good
ALLOWED = {"int8": 0.002, "int4": 0.02}  # nats per byte, for the experts
_NONE = "none"
_SHOWN = 6  # of the experts that suffer most

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command(cls=Command)
def main(
    run: Annotated[
        Path | None, typer.Argument(parser=given_path, metavar="RUN", help="Of a model with experts.")
    ] = None,
    windows: Annotated[int | None, typer.Option(min=2, help="Of each domain, at most; all without it.")] = None,
    one_by_one: Annotated[str, typer.Option(metavar="FORMAT", help=f"For one expert at a time, or {_NONE}.")] = "int4",
    figure: Annotated[Path | None, typer.Option(parser=given_path, metavar="PATH", help="PNG to draw.")] = None,
    json: JsonOption = False,
) -> None:
    """Measure what each format costs, in nats and bits per byte, and which experts suffer most."""
    console = console_for(json)
    with refusals():
        if one_by_one not in (_NONE, *FORMATS):
            raise ValueError(f"--one-by-one must be {_NONE} or one of {', '.join(FORMATS)}, got {one_by_one!r}")
        if figure is not None and one_by_one == _NONE:
            raise ValueError("--figure shows one expert at a time, which --one-by-one none leaves out")
        model, corpus = open_or_train(run, console)
        if not sparse_layers(model):
            raise ValueError(f"{run} has no experts that a router chooses")
        Decoder(model)  # NotRowByRowError before anything is measured
        text = corpus.validation_windows(model.context, windows)
    document = measured(model, text, one_by_one, console)
    if figure is not None:
        plots.save(cost_of_formats(document["formats"], document["experts"], ALLOWED, one_by_one), figure)
    if json:
        print_json(document)
    else:
        _print(document, one_by_one, console)


def measured(model: Transformer, windows: Windows, one_by_one: str, console: Console) -> dict[str, Any]:
    """All rows."""
    formats = [name for name in FORMATS if name != "float32"]
    num_experts = sum(len(expert_weights(layer)[0]) for layer in sparse_layers(model).values())
    readings = 2 + len(PARTS) * len(formats) + (0 if one_by_one == _NONE else num_experts)
    with _progress(console, readings * len(windows.tokens)) as advance:
        decoder = Decoder(model)
        reference = window_losses(decoder, windows, advance)
        rows = [_row("float32", "both", decoder, model, reference, reference)]
        for name in formats:
            for part in PARTS:
                decoder = Decoder(model, *(name if part in (which, "both") else None for which in ("rest", "experts")))
                rows.append(_row(name, part, decoder, model, window_losses(decoder, windows, advance), reference))
        decoder = Decoder(model, MIXED[1], MIXED[0])
        losses = window_losses(decoder, windows, advance)
        rows.append(_row(MIXED[0], f"experts, rest {MIXED[1]}", decoder, model, losses, reference))
        experts = [] if one_by_one == _NONE else damage(model, windows, reference, one_by_one, advance)
    cost = {row["format"]: row["difference"] for row in rows if row["part"] == "experts"}
    return {
        "windows": len(windows.tokens),
        "bytes": round(windows.tokens.size * windows.bytes_per_token),
        "formats": rows,
        "narrow": sorted({w.shape[-1] for w in _matrices(model) if w.shape[-1] % 32}),
        "allowed": {name: {"nats": most, "holds": cost[name] <= most} for name, most in ALLOWED.items()},
        "experts": experts,
        "rank_correlation": _correlations(experts),
    }


def _row(name: str, part: str, decoder: Decoder, model: Transformer, losses: Any, reference: Any) -> dict[str, Any]:
    apart = Difference.between(losses, reference)
    return {
        "format": name,
        "part": part,
        "nats": float(losses.mean()),
        "bits": float(losses.mean() / math.log(2)),
        "difference": apart.mean,
        "error": apart.error,
        "bytes": model_bytes(decoder, model),
    }


def model_bytes(decoder: Decoder, model: Transformer) -> int:
    """Bytes of all weights: matrices in their formats, the rest in float32."""
    matrices = [*_stored(decoder.layers), decoder.output.weight]
    of_matrices = sum(math.prod(m.shape) for m in matrices)
    embedding = 0 if model.output is not None else decoder.embedding.nbytes  # one matrix in two formats
    return sum(m.nbytes for m in matrices) + embedding + 4 * (model.num_parameters() - of_matrices)


def _stored(part: Any) -> Iterator[Matrix | Stack]:
    """The matrices below a part of a decoder."""
    if isinstance(part, Matrix | Stack):
        yield part
    elif isinstance(part, list | tuple):
        for each in part:
            yield from _stored(each)
    elif type(part).__module__.startswith("moe_numpy.inference") and not isinstance(part, ExpertTables):
        for each in vars(part).values():
            yield from _stored(each)


def _matrices(model: Transformer) -> list[Any]:
    return [p.data for name, p in model.named_parameters() if p.data.ndim >= 2 and "router" not in name]


def _correlations(experts: list[dict[str, Any]]) -> dict[str, float]:
    """Spearman's, of what an expert costs with its share of the tokens and with the error of its weights."""
    cost = [row["difference"] for row in experts]
    columns = {name: [row[name] for row in experts] for name in ("share", "weight_error")}
    return {
        name: float(spearmanr(cost, values).statistic)
        for name, values in columns.items()
        if len(np.unique(values)) > 1 and len(np.unique(cost)) > 1
    }


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Any]:
    """Yield a function to call after each window: a bar, or ten lines in a pipe."""
    if console.is_interactive:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("reading", total=total)
            yield lambda: progress.advance(task)
        return
    done = 0

    def line() -> None:
        nonlocal done
        done += 1
        if done * 10 // total > (done - 1) * 10 // total:
            console.print(f"read {done:,} of {total:,} windows")

    yield line


def _print(document: dict[str, Any], one_by_one: str, console: Console) -> None:
    rows = document["formats"]
    console.print(f"\n{document['windows']} windows, {document['bytes']:,} bytes of text")
    table = plain_table()
    for name in ("format", "part", "nats/byte", "bits/byte", "difference", "± error", "MB"):
        table.add_column(name, justify="left" if name in ("format", "part") else "right")
    for row in rows:
        cells = f"{row['nats']:.5f}", f"{row['bits']:.5f}", f"{row['difference']:+.6f}", f"{row['error']:.6f}"
        table.add_row(row["format"], row["part"], *cells, f"{row['bytes'] / 1e6:.2f}")
    console.print(table)
    if document["narrow"]:
        console.print(f"bfloat16 instead, as 32 does not divide their width: matrices of width {document['narrow']}")
    for name, allowed in document["allowed"].items():
        verdict = "holds" if allowed["holds"] else "MISSED"
        console.print(f"{name} experts cost at most {allowed['nats']} nats per byte: {verdict}")
    if document["experts"]:
        _print_experts(document, one_by_one, console)


def _print_experts(document: dict[str, Any], one_by_one: str, console: Console) -> None:
    experts = sorted(document["experts"], key=lambda row: -row["difference"])
    console.print(
        f"\nOne expert in {one_by_one}, the others float32; {_SHOWN} that cost most, and the one that costs least"
    )
    table = plain_table()
    for name in ("layer", "expert", "10⁻⁶ nats/byte", "standard error", "% of bytes", "per byte seen", "weight error"):
        table.add_column(name, justify="right")
    for row in [*experts[:_SHOWN], *experts[_SHOWN:][-1:]]:
        costs = (f"{1e6 * row[name]:.1f}" for name in ("difference", "error"))
        seen = f"{100 * row['share']:.1f}", f"{1e6 * row['per_use']:.0f}", f"{100 * row['weight_error']:.2f} %"
        table.add_row(str(row["layer"]), str(row["expert"]), *costs, *seen)
    console.print(table)
    total = sum(row["difference"] for row in experts)
    together = next((r for r in document["formats"] if (r["format"], r["part"]) == (one_by_one, "experts")), None)
    console.print(
        f"sum over all experts {total:+.6f}" + (f", all at once {together['difference']:+.6f}" if together else "")
    )
    for name, value in document["rank_correlation"].items():
        console.print(f"rank correlation of the cost with the {name.replace('_', ' ')}: {value:+.2f}")


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.quality")
