"""``python -m moe_numpy serve``: a model behind OpenAI's interface, on this machine."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import kernels
from ..inference import Decoder
from ..serve import Engine, Served
from .demo import demo
from .opening import FormatOption, MemoryOption, StepOption, open_model
from .output import console_for, given_path, refusals, refuse, with_default
from .sizes import given_size

_INSTALL = "python -m pip install starlette uvicorn prometheus-client"


def serve(
    model: Annotated[
        Path, typer.Argument(parser=given_path, metavar="MODEL", help="Run folder, or a published model's folder.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen at. 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    slots: Annotated[int, typer.Option(min=1, help="Texts that are written at the same time.")] = 8,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are told to come again.")] = 64,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="MOE_NUMPY_API_KEY", help=with_default("Key that clients must have.", "none is needed")),
    ] = None,
    name: Annotated[str | None, typer.Option(help=with_default("Of the model, for clients.", "its folder's"))] = None,
    train_demo: Annotated[
        bool, typer.Option("--demo", help="If there is no run in MODEL, train the demo there first.")
    ] = False,
    step: StepOption = None,
    memory: MemoryOption = None,
    number_format: FormatOption = None,
    cache: Annotated[
        int | None,
        typer.Option(
            parser=given_size,
            metavar="SIZE",
            help=with_default("Memory for beginnings that texts have in common.", "what full slots take, at most 1GiB"),
        ),
    ] = None,
) -> None:
    """Serve a model: OpenAI's interface under /v1, and a page that shows the experts."""
    try:
        from ..serve.server import http_server, listening, url_of
    except ImportError as error:
        refuse(f"the server needs {error.name}, which is missing; {_INSTALL}")
    console = console_for(as_json=False)
    with refusals():
        if memory is not None and number_format is not None:
            raise ValueError(
                "--memory reads experts as they are stored, --format keeps them in memory: give one of them"
            )
        if api_key is not None and not (api_key and api_key.isascii() and api_key.isprintable() and " " not in api_key):
            raise ValueError("--api-key must be printable ASCII without spaces")
        socket = listening(host, port)  # before minutes of training
    with socket:
        if train_demo and not model.exists():
            demo(out=model, no_dense=True)
        with refusals():
            with console.status("Reading the model ..."):
                opened = open_model(model, step, memory)
                decoder = Decoder(opened.model, number_format, number_format)
                served = Served(
                    name or Path(os.path.abspath(model)).name, decoder, opened.tokenizer, opened.text_folder
                )
                engine = Engine(decoder, opened.tokenizer, slots=slots, queue=queue, cache=cache)
            compiles = kernels.must_compile("program_loops.lead")
            waiting = "Compiling the loops for this processor, once on this machine: some ten seconds"
            with console.status(waiting) if compiles else nullcontext():
                engine.warm_up()
        server: Any = http_server(served, engine, api_key)
        console.print(f"Serving {served.name} at {url_of(socket)}", markup=False, soft_wrap=True)
        console.print(f"OpenAI's interface: {url_of(socket)}v1   Stop: Ctrl-C", markup=False, soft_wrap=True)
        sys.stdout.flush()
        server.run(sockets=[socket])
    console.print("Stopped.")
