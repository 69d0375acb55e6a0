"""``python -m benchmarks`` or ``python -m moe_numpy bench``: how fast a layer, a step, kernels and formats are."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer
from threadpoolctl import threadpool_limits

from moe_numpy import devices
from moe_numpy.commands.output import JsonOption, console_for, print_json, refusals, refuse, with_default
from moe_numpy.commands.usage import Command
from moe_numpy.kernels import threads as kernel_threads

from . import formats, kernels, layer, step
from .place import Place
from .table import geometric_means, print_coming, print_row


class What(StrEnum):
    """What can be measured."""

    LAYER, STEP, KERNELS, FORMATS = "layer", "step", "kernels", "formats"


class Peer(StrEnum):
    """What it can be compared with."""

    TORCH = "torch"


app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)


@app.command(cls=Command)
def bench(
    what: Annotated[
        What, typer.Argument(help="A layer, a whole training step, each hot loop, or each weight format.")
    ] = What.LAYER,
    against: Annotated[Peer | None, typer.Option(help="Measure this too, in turn with ours.")] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="T,d,f,E,k",
            help=with_default(
                "Of the layer: tokens, their width, expert width, experts, experts per token. Repeatable.",
                "five on a CPU, fifteen on a GPU",
            ),
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help=with_default("Threads, for ours and the peer.", "all cores"))
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each; the median counts.")] = 15,
    seconds: Annotated[
        float, typer.Option(min=0, help="Begin no further round of a row after this time; three are always run.")
    ] = 10.0,
    device: Annotated[str, typer.Option(help="cpu, or cuda for a GPU.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 on cuda.")] = "float32",
    json: JsonOption = False,
) -> None:
    """Measure forward and backward together; results are compared with the peer's before timing."""
    if against is Peer.TORCH and what in (What.KERNELS, What.FORMATS):
        refuse(f"the {what} are compared with NumPy; leave --against out")
    if shape and what is not What.LAYER:
        refuse(f"--shape is for a layer, and {what} was asked for")
    with refusals():
        devices.namespace(device)
        devices.float_type(dtype)
        if device != "cpu" and what is What.FORMATS:
            raise ValueError("formats are measured on the CPU; leave --device out")
        if dtype == "bfloat16" and (device == "cpu" or what is What.KERNELS):
            raise ValueError("bfloat16 is for a layer or a step on a GPU: --device cuda")
    if against is Peer.TORCH:
        _require_torch()
    with refusals():
        shapes = tuple(layer.Shape.parse(text) for text in shape or []) or layer.SHAPES[device]
    place, console = Place(device, dtype), console_for(json)
    measurements: Iterator[tuple[Any, Callable[[], dict[str, Any]]]]
    if what is What.LAYER:
        measurements = layer.measure(shapes, against, rounds, seconds, place)
    elif what is What.STEP:
        measurements = step.measure(against, rounds, seconds, place)
    elif what is What.FORMATS:
        measurements = formats.measure(rounds, seconds)
    else:
        measurements = kernels.measure(rounds, seconds, place)
    rows: list[dict[str, Any]] = []
    interrupted = False
    with _threads(threads, against):
        try:
            for coming, row in measurements:
                print_coming(coming, console)
                rows.append(row())
                print_row(rows[-1], console, first=len(rows) == 1)
        except KeyboardInterrupt:  # keep what was measured
            interrupted = True
            console.print()
    if json:
        print_json({"rows": rows, "summary": geometric_means(rows)})
    else:
        for name, value in geometric_means(rows).items():
            console.print(f"{name.replace('_', ' ')} in the geometric mean: {value:.2f}", highlight=False)
    if interrupted:
        raise typer.Exit(130)


def _require_torch() -> None:
    for package in ("torch", "transformers"):
        try:
            importlib.import_module(package)
        except ImportError:
            refuse(f"--against torch needs {package}; install both with: python -m pip install torch transformers")


@contextmanager
def _threads(count: int | None, against: Peer | None) -> Iterator[None]:
    """The same number of threads for all candidates."""
    count = count or kernel_threads.count()
    if against is Peer.TORCH:
        importlib.import_module("torch").set_num_threads(count)
    with threadpool_limits(count, user_api="blas"):
        yield


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
