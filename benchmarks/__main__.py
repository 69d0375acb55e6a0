"""``python -m benchmarks`` or ``python -m moe_numpy bench``: layers, steps, kernels, formats, decoding and serving.

``bench scaling`` is ``python -m benchmarks.scaling``, with that command's options.
"""

import importlib.util
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer
from threadpoolctl import threadpool_limits

from moe_numpy import devices
from moe_numpy.commands.output import JsonOption, console_for, print_json, refusals, refuse, with_default
from moe_numpy.commands.usage import Command, exit_on_signals
from moe_numpy.formats import FORMATS
from moe_numpy.kernels import threads as kernel_threads

from . import decode, decode_rows, formats, kernels, layer, random_model, scaling, serving, step
from .peer_process import PeerError
from .place import Place
from .table import geometric_means, print_coming, print_row


class What(StrEnum):
    """What can be measured."""

    LAYER, STEP, KERNELS, FORMATS, DECODE, SERVING = "layer", "step", "kernels", "formats", "decode", "serving"


_SCALING = "scaling"


class _Bench(Command):
    """``bench``, or the command of a scaling law, which has options of its own."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **settings: Any) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        if given[:1] != [_SCALING]:
            return super().main(given, *rest, **settings)
        settings["prog_name"] = f"{settings.get('prog_name') or 'bench'} {_SCALING}"
        return typer.main.get_command(scaling.app).main(given[1:], *rest, **settings)


class Peer(StrEnum):
    """What it can be compared with."""

    TORCH, LLAMA_CPP, TRANSFORMERS = "torch", "llama.cpp", "transformers"


PACKAGES = {
    Peer.TORCH: ("torch", "transformers"),
    Peer.LLAMA_CPP: ("xllamacpp", "gguf"),
    Peer.TRANSFORMERS: ("torch", "transformers"),
}

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)


@app.command(cls=_Bench, epilog=f"{_SCALING} fits scaling laws to small models: see {_SCALING} --help.")
def bench(
    what: Annotated[
        What,
        typer.Argument(help="A layer, a training step, each hot loop, each weight format, decoding, or a server."),
    ] = What.LAYER,
    against: Annotated[
        list[Peer] | None,
        typer.Option(help="Measure this too, in turn with ours: torch, or when decoding the others. Repeatable."),
    ] = None,
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
    model: Annotated[
        str | None,
        typer.Option(
            help=with_default(
                f"To decode or serve, with random weights: {', '.join(random_model.MODELS)}, or the config.json of "
                "another; or the folder of one to serve.",
                next(iter(random_model.MODELS)),
            )
        ),
    ] = None,
    format: Annotated[
        list[str] | None,
        typer.Option(
            help=with_default(
                f"Of weights, to decode or serve: {', '.join(FORMATS)}. Repeatable.", ", ".join(decode.FORMATS)
            )
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            max=1024,
            help=with_default(
                "Texts that are decoded together, or clients. Repeatable.", ", ".join(map(str, decode.BATCHES))
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
    """Measure forward and backward, decoding, or a server; results are compared with the peer's before timing."""
    peers = list(dict.fromkeys(against or []))
    training, decoding, of_models = (What.LAYER, What.STEP), (What.DECODE,), (What.DECODE, What.SERVING)
    here = tuple(each for each in What if each is not What.SERVING)
    options: list[tuple[str, object, tuple[What, ...]]] = [
        *((f"--against {peer}", True, training if peer is Peer.TORCH else decoding) for peer in peers),
        ("--shape", shape, (What.LAYER,)),
        *((name, value, of_models) for name, value in (("--model", model), ("--format", format), ("--batch", batch))),
        ("--threads", threads, here),
    ]
    for option, value, of in options:
        if value and what not in of:
            refuse(f"{option} is for {' and '.join(of)}, and {what} was asked for")
    with refusals():
        devices.namespace(device)
        devices.float_type(dtype)
        if device != "cpu" and what in (What.FORMATS, *of_models):
            raise ValueError(f"{what} is measured on the CPU; leave --device out")
        if dtype == "bfloat16" and (device == "cpu" or what is What.KERNELS):
            raise ValueError("bfloat16 is for a layer or a step on a GPU: --device cuda")
    if what is What.SERVING:
        load = serving.Load(batch or serving.CLIENTS, rounds=rounds, seconds=seconds)
        serving.report(model or serving.RANDOM, format, load, json)
        return
    for peer in peers:
        _require_packages(peer)
    with refusals():
        shapes = tuple(layer.Shape.parse(text) for text in shape or []) or layer.SHAPES[device]
        settings = random_model.settings_of(model or next(iter(random_model.MODELS)))
        chosen = [list(dict.fromkeys(of)) for of in (format or decode.FORMATS, batch or decode.BATCHES)]
        plan = decode.Plan(settings, peers, *chosen)
        if what is What.DECODE:
            plan.require_room()
    place, console, torch = Place(device, dtype), console_for(json), Peer.TORCH if peers == [Peer.TORCH] else None
    measurements: Generator[tuple[Any, Callable[[], dict[str, Any]]]]
    if what is What.LAYER:
        measurements = layer.measure(shapes, torch, rounds, seconds, place)
    elif what is What.STEP:
        measurements = step.measure(torch, rounds, seconds, place)
    elif what is What.FORMATS:
        measurements = formats.measure(rounds, seconds)
    elif what is What.KERNELS:
        measurements = kernels.measure(rounds, seconds, place)
    else:
        measurements = decode.measure(plan, rounds, seconds, console)
    rows: list[dict[str, Any]] = []
    interrupted = False
    with _threads(threads, torch), closing(measurements):
        try:
            for coming, row in measurements:
                print_coming(coming, console)
                rows.append(row())
                print_row(rows[-1], console, first=len(rows) == 1)
        except KeyboardInterrupt:  # keep what was measured
            interrupted = True
            console.print()
        except PeerError as error:
            refuse(str(error), 1)
    if json:
        print_json({"rows": rows, "summary": geometric_means(rows)})
    elif what is What.DECODE:
        console.print(decode_rows.summary(rows))
    else:
        for name, value in geometric_means(rows).items():
            console.print(f"{name.replace('_', ' ')} in the geometric mean: {value:.2f}", highlight=False)
    if interrupted:
        raise typer.Exit(130)


def _require_packages(peer: Peer) -> None:
    for package in PACKAGES[peer]:
        if importlib.util.find_spec(package) is None:
            all_of_them = " ".join(PACKAGES[peer])
            refuse(f"--against {peer} needs {package}; install both with: python -m pip install {all_of_them}")


@contextmanager
def _threads(count: int | None, against: Peer | None) -> Iterator[None]:
    """The same number of threads for all candidates."""
    count = count or kernel_threads.count()
    if against is Peer.TORCH:
        importlib.import_module("torch").set_num_threads(count)
    with threadpool_limits(count, user_api="blas"):
        yield


if __name__ == "__main__":
    exit_on_signals()
    app(prog_name="python -m benchmarks")
