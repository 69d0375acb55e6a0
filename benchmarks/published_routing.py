"""The law of Clark et al. 2022, fitted to the losses that they published: python -m benchmarks.published_routing FILE

FILE is data/curves.csv.gz of https://github.com/google-deepmind/scaling_laws_for_routing. The models are those of the
published example: one expert per token, every other layer routed, seed 42, the loss at the last step; dense models
count as one expert of each way to choose them.
"""

import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from moe_numpy.accounting.scaling_laws import PUBLISHED, Point, Routed, intervals, percentiles
from moe_numpy.commands.output import (
    JsonOption,
    console_for,
    given_path,
    plain_table,
    print_json,
    print_title,
    refusals,
)
from moe_numpy.commands.usage import Command

_ROUTERS = {"S-BASE": "S-Base", "RL-R": "RL-R", "Hash": "Hash"}
_COLUMNS = (
    "hyper_id", "step", "router_type", "num_experts", "k", "routing_frequency", "seed", "dense_parameter_count",
    "loss_validation",
)  # fmt: skip

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command(cls=Command)
def main(
    file: Annotated[Path, typer.Argument(parser=given_path, metavar="FILE", help="curves.csv.gz.")],
    resamples: Annotated[int, typer.Option(min=1, max=10_000, help="Of the models, for the intervals.")] = 200,
    json: JsonOption = False,
) -> None:
    """Fit the law to each way of choosing experts; print the coefficients beside those of the paper."""
    console = console_for(json)
    document = {}
    for name, router in _ROUTERS.items():
        with refusals(), console.status(f"Fitting {name} ..."):
            points = list(models(file, router))
            law = Routed.fit(points)
            held = percentiles(list(intervals(Routed.fit, points, np.random.default_rng(0), resamples)))
        error = float(np.sqrt(np.mean((law.loss(points) - [p.loss for p in points]) ** 2)))
        rows = {
            k: {"fitted": getattr(law, k), "interval": held[k], "published": getattr(PUBLISHED[name], k)} for k in held
        }
        document[name] = {"models": len(points), "error": error, "coefficients": rows}
    if json:
        print_json(document)
        return
    for name, each in document.items():
        print_title(console, f"{name}, {each['models']} models, error {each['error']:.4f} nats per token")
        table = plain_table()
        table.add_column("")
        for head in ("fitted", "90 % interval", "published"):
            table.add_column(head, justify="right")
        for key, row in each["coefficients"].items():
            interval = " to ".join(f"{end:.3g}" for end in row["interval"])
            table.add_row(key, f"{row['fitted']:.3g}", interval, f"{row['published']:g}")
        console.print(table)


def models(file: Path, router: str) -> Iterator[Point]:
    """The models with this way of choosing experts, and the dense ones.

    Raises:
        OSError: the file cannot be read, or is not compressed.
        ValueError: it is damaged, lacks a column, or has no number where there should be one.
    """
    last: dict[str, dict[str, str]] = {}
    for row in _rows(file):
        if row["router_type"] not in (router, "Dense"):
            continue
        if _numbers(file, row, "k", "routing_frequency", "seed") != [1, 0.5, 42]:
            continue
        if _numbers(file, row, "step") >= _numbers(file, last.get(row["hyper_id"], row), "step"):
            last[row["hyper_id"]] = row
    for row in last.values():
        n, loss, experts = _numbers(file, row, "dense_parameter_count", "loss_validation", "num_experts")
        yield Point(n, loss, experts=experts)


def _numbers(file: Path, row: dict[str, str], *names: str) -> list[float]:
    try:
        return [float(row[name]) for name in names]
    except ValueError as error:
        raise ValueError(f"{file}, {', '.join(names)} of model {row['hyper_id']}: {error}") from error


def _rows(file: Path) -> Iterator[dict[str, str]]:
    with gzip.open(file, "rt", encoding="utf-8", newline="") as text:
        reader = csv.DictReader(text, restval="")
        try:
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"{file} lacks the columns {', '.join(missing)}")
            yield from reader
        except (EOFError, zlib.error) as error:
            raise ValueError(f"{file} is truncated or damaged: {error}") from error


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.published_routing")
