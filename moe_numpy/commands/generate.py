"""``python -m moe_numpy generate``: continue a prompt, byte by byte."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from .. import models
from ..models.generation import sampling_probabilities
from ..models.text import ByteTokenizer, streamed
from ..training import Run, encode
from ..typing import Array, Int
from .output import JsonOption, given_path, print_json, printable, refusals, with_default


def generate(
    run: Annotated[Path, typer.Argument(parser=given_path, metavar="RUN", help="Run folder.")],
    prompt: Annotated[str, typer.Argument(help="Text to continue.")],
    tokens: Annotated[int, typer.Option(min=0, help="Bytes to write.")] = 300,
    temperature: Annotated[float, typer.Option(help="0: always the most likely byte.")] = 0.8,
    top_p: Annotated[
        float, typer.Option(help="Draw from the most likely bytes that together have this probability.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    step: Annotated[int | None, typer.Option(help=with_default("Checkpoint.", "the newest"))] = None,
    json: JsonOption = False,
) -> None:
    """Continue a prompt with a trained model."""
    with refusals():
        model, step = Run.open(run).model(step)
        start = _start(prompt)
        sampling_probabilities(np.zeros(1, np.float32), temperature, top_p)  # refuses values out of range
    new = models.generate(model, start, tokens, rng=np.random.default_rng(seed), temperature=temperature, top_p=top_p)
    with refusals():
        if json:
            document = {
                "run": str(run),
                "step": step,
                "prompt": prompt,
                "text": ByteTokenizer().decode(new),
                "tokens": tokens,
                "temperature": temperature,
                "top_p": top_p,
                "seed": seed,
            }
            print_json(document)
            return
        typer.echo(printable(prompt), nl=False)
        for piece in streamed(ByteTokenizer(), new):
            typer.echo(printable(piece), nl=False)
        typer.echo()


def _start(prompt: str) -> Int[Array, " S"]:
    if not prompt:
        raise ValueError("the prompt is empty; give at least one byte to continue")
    try:
        return encode(prompt)
    except ValueError as error:
        raise ValueError(f"prompt: {error}") from error
