"""``python -m moe_numpy bench``: how fast the layer, a training step and the kernels are."""

import importlib
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from rich.console import Console
from threadpoolctl import threadpool_limits

from .. import devices
from ..kernels import threads as kernel_threads
from .output import JsonOption, console_for, print_json, refusals, refuse, with_default

_FIRST = 32  # width of the first column


class What(StrEnum):
    """What can be measured."""

    LAYER, STEP, KERNELS = "layer", "step", "kernels"


class Peer(StrEnum):
    """What can be compared with."""

    TORCH = "torch"


def bench(
    what: Annotated[What, typer.Argument(help="A layer, a whole training step, or each hot loop.")] = What.LAYER,
    against: Annotated[Peer | None, typer.Option(help="Measure this too, in turn with ours.")] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="T,d,f,E,k",
            help=with_default(
                "Of the layer: tokens, their width, the experts', their number, how many for each token. "
                "May be given again.",
                "five on a CPU, three on a GPU",
            ),
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help=with_default("Threads, of ours and of the peer.", "all cores"))
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each; the median counts.")] = 15,
    seconds: Annotated[
        float, typer.Option(min=0, help="Begin no further round of a row after this time; three are always run.")
    ] = 10.0,
    device: Annotated[str, typer.Option(help="cpu, or cuda for a GPU.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 on cuda.")] = "float32",
    json: JsonOption = False,
) -> None:
    """Measure forward and backward together; results are compared with the peer's before any time is taken."""
    if against is Peer.TORCH and what is What.KERNELS:
        refuse("the kernels are compared with their definition in NumPy; leave --against out")
    if shape and what is not What.LAYER:
        refuse(f"--shape is for a layer, and {what} was asked for")
    with refusals():
        devices.namespace(device)
        devices.float_type(dtype)
        if dtype == "bfloat16" and (device == "cpu" or what is What.KERNELS):
            raise ValueError("bfloat16 is for a layer or a step on a GPU: --device cuda")
    if against is Peer.TORCH:
        _require_torch()
    benchmarks = _benchmarks(what)
    with refusals():
        shapes = tuple(benchmarks.Shape.parse(text) for text in shape) if shape else None
    place = importlib.import_module("benchmarks.place").Place(device, dtype)
    arguments: tuple[Any, ...] = () if what is What.KERNELS else (against,)
    if what is What.LAYER:
        arguments = (shapes or benchmarks.SHAPES[place.device], *arguments)
    console = console_for(json)
    rows: list[dict[str, Any]] = []
    interrupted = False
    with _threads(threads, against):
        try:
            for what_comes, row in benchmarks.measure(*arguments, rounds, seconds, place):
                _announce(what_comes, console)
                rows.append(row())
                _print_row(rows[-1], console, first=len(rows) == 1)
        except KeyboardInterrupt:  # what was measured is not lost
            interrupted = True
            console.print()
    if json:
        print_json({"rows": rows, "summary": _summary(rows)})
    else:
        for name, value in _summary(rows).items():
            console.print(f"{name.replace('_', ' ')} in the geometric mean: {value:.2f}", highlight=False)
    if interrupted:
        raise typer.Exit(130)


def _benchmarks(what: What) -> ModuleType:
    """The measuring code: it stands beside the package, in a checkout, and is not installed with it."""
    root = Path(__file__).parents[2]
    if not (root / "benchmarks" / f"{what}.py").is_file():
        refuse(f"bench needs the folder benchmarks/ of the source, and {root} has none; run it from a checkout")
    sys.path.insert(0, str(root))
    return importlib.import_module(f"benchmarks.{what}")


def _require_torch() -> None:
    for package in ("torch", "transformers"):
        try:
            importlib.import_module(package)
        except ImportError:
            refuse(f"--against torch needs {package}; install both with: python -m pip install torch transformers")


@contextmanager
def _threads(count: int | None, against: Peer | None) -> Iterator[None]:
    """The same number of threads for everybody."""
    count = count or kernel_threads.count()
    if against is Peer.TORCH:
        importlib.import_module("torch").set_num_threads(count)
    with threadpool_limits(count, user_api="blas"):
        yield


def _summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Geometric means of what is a ratio."""
    return {
        name: math.exp(sum(math.log(row[name]) for row in rows) / len(rows))
        for name in ("ratio", "gemm_efficiency", "speedup")
        if rows and name in rows[0]
    }


def _announce(what: object, console: Console) -> None:
    """On a terminal, until the row takes its place; no thread draws here, it would disturb what is measured."""
    if console.is_terminal:
        console.print(f"measuring {what} ...", end="\r", highlight=False, soft_wrap=True)


def _print_row(row: dict[str, Any], console: Console, first: bool) -> None:
    """A line as soon as it is known, under the names of the columns."""
    columns = [name for name in row if name not in ("eager_ms", "grouped_mm_ms", "gemm_gflops", "device", "dtype")]
    names = [name.removeprefix("max_").replace("gemm_efficiency", "share").replace("_", " ") for name in columns]
    widths = [_FIRST if i == 0 else max(len(name), 9) for i, name in enumerate(names)]
    cells = [_cell(name, row[name]) for name in columns]
    for line in (names, cells) if first else (cells,):
        aligned = [f"{x:<{w}}" if i == 0 else f"{x:>{w}}" for i, (x, w) in enumerate(zip(line, widths, strict=True))]
        console.print(" ".join(aligned), highlight=False, soft_wrap=True, markup=False)


def _cell(name: str, value: Any) -> str:
    if name in ("max_abs_error", "max_rel_error"):
        return f"{value:.0e}"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
