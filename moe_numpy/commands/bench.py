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
from .output import JsonOption, console_for, plain_table, print_json, refusals, refuse, with_default


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
        int | None, typer.Option(min=1, help=with_default("Threads, of ours and of the peer.", "all cores"))
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each; the median counts.")] = 15,
    seconds: Annotated[float, typer.Option(help="Begin no further round of a row after this time.")] = 10.0,
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
    console = console_for(json)
    rows: list[dict[str, Any]] = []
    with _threads(threads, against), console.status("measuring") if console.is_terminal else _quiet():
        for row in _measure(what, benchmarks, shapes, against, rounds, seconds, place):
            rows.append(row)
            if not json and not console.is_terminal:
                console.print(f"measured {row.get('shape', row.get('kernel'))}", highlight=False)
    if json:
        print_json({"rows": rows, "summary": _summary(rows)})
        return
    _print(rows, console)


def _measure(
    what: What, module: ModuleType, shapes: Any, against: Peer | None, rounds: int, seconds: float, place: Any
) -> Iterator[dict[str, Any]]:
    if what is What.LAYER:
        yield from module.measure(shapes or module.SHAPES[place.device], against, rounds, seconds, place)
    elif what is What.STEP:
        yield module.measure(against, rounds, seconds, place)
    else:
        yield from module.measure(rounds, seconds, place)


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


@contextmanager
def _quiet() -> Iterator[None]:
    yield


def _summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Geometric means of what is a ratio."""
    return {
        name: math.exp(sum(math.log(row[name]) for row in rows) / len(rows))
        for name in ("ratio", "gemm_efficiency", "speedup")
        if rows and name in rows[0]
    }


def _print(rows: list[dict[str, Any]], console: Console) -> None:
    table = plain_table()
    columns = [name for name in rows[0] if name not in ("eager_ms", "grouped_mm_ms", "device", "dtype")]
    for name in columns:
        table.add_column(name.replace("_", " "), justify="left" if name in ("shape", "kernel", "peer") else "right")
    for row in rows:
        table.add_row(*(_cell(name, row[name]) for name in columns))
    console.print(table)
    for name, value in _summary(rows).items():
        console.print(f"{name.replace('_', ' ')} in the geometric mean: {value:.2f}", highlight=False)


def _cell(name: str, value: Any) -> str:
    if name in ("max_abs_error", "max_rel_error"):
        return f"{value:.0e}"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
