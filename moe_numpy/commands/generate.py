"""``python -m moe_numpy generate``: continue a prompt, token by token."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from .. import kernels, models
from ..inference import Decoder, Interventions, NotRowByRowError, intervened, write
from ..models.generation import sampling_probabilities
from ..models.text import streamed
from ..pretrained import PublishedTokenizer
from ..pretrained.chat import ChatTemplate
from ..training.expert_patterns import chosen_experts
from ..typing import Array, Int
from .opening import FormatOption, MemoryOption, Opened, StepOption, open_model, require_tokens
from .output import JsonOption, console_for, given_path, print_json, printable, refusals


def generate(
    model: Annotated[
        Path, typer.Argument(parser=given_path, metavar="MODEL", help="Run folder, or a published model's folder.")
    ],
    prompt: Annotated[str, typer.Argument(help="Text to continue.")],
    tokens: Annotated[
        int, typer.Option(min=0, help="Tokens to write; bytes, unless a published model brought its own.")
    ] = 300,
    temperature: Annotated[float, typer.Option(help="0: always the most likely token.")] = 0.8,
    top_p: Annotated[
        float, typer.Option(help="Draw from the most likely tokens that together have this probability.")
    ] = 0.95,
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is what a user says; the model's chat template surrounds it.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    step: StepOption = None,
    memory: MemoryOption = None,
    number_format: FormatOption = None,
    guess: Annotated[
        int,
        typer.Option(
            min=0, help="With --temperature 0: guess up to so many tokens from what was said before; the same text."
        ),
    ] = 0,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYER:EXPERTS|GROUP",
            help="Switch experts off, such as 0:3, '*:4' or a group that `experts add` made; repeatable.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Continue a prompt with a model trained here or published."""
    with refusals():
        if memory is not None and number_format is not None:
            raise ValueError(
                "--memory reads experts as they are stored, --format keeps them in memory: give one of them"
            )
        opened = open_model(model, step, memory)
        start = _start(opened, model, prompt, chat)
        sampling_probabilities(np.zeros(1, np.float32), temperature, top_p)  # refuses values out of range
        if guess and temperature:
            raise ValueError(f"--guess is for --temperature 0, got {temperature}")
        with console_for(json).status("Storing weights in another format ...") if number_format else nullcontext():
            decoder = _decoder(opened, number_format, without or [])
        if decoder is not None and kernels.must_compile("program_loops.lead"):
            to_stderr = console_for(as_json=True)
            to_stderr.print("Compiling the loops for this processor, once on this machine: some ten seconds")
    settings: Any = {
        "rng": np.random.default_rng(seed),
        "temperature": temperature,
        "top_p": top_p,
        "end_ids": opened.tokenizer.end_ids,
    }
    if decoder is None:
        new = models.generate(opened.model, start, tokens, **settings)
    else:
        new = write(decoder, start, tokens, guess=guess, **settings)
    with refusals():
        if json:
            document: dict[str, Any] = {
                "run": str(model),
                "step": opened.step,
                "prompt": prompt,
                "text": opened.tokenizer.decode(new),
                "tokens": tokens,
                "temperature": temperature,
                "top_p": top_p,
                "seed": seed,
            }
            document |= {"without": without} if without else {}
            print_json(document)
            return
        typer.echo(printable(prompt), nl=False)
        if chat:
            typer.echo("\n")
        for piece in streamed(opened.tokenizer, new):
            typer.echo(printable(piece), nl=False)
        typer.echo()


def _decoder(opened: Opened, number_format: str | None, without: Sequence[str]) -> Decoder | None:
    """With some experts off; None if the modules of training have to read each text whole."""
    off = chosen_experts(opened.model, opened.groups, without)
    try:
        decoder = Decoder(opened.model, number_format, number_format)
    except NotRowByRowError as error:
        if number_format is not None or off:
            raise ValueError(f"{'--without' if off else '--format'}: {error}") from error
        return None
    return intervened(decoder, Interventions(off)) if off else decoder


def _start(opened: Opened, folder: Path, prompt: str, chat: bool) -> Int[Array, " S"]:
    """The tokens to continue. ValueError if there are none, or if the model cannot read them."""
    if not prompt:
        raise ValueError("the prompt is empty; give at least one byte to continue")
    if chat and opened.text_folder is None:
        raise ValueError(f"--chat: {folder} is a run that reads bytes, which has no chat template")
    try:
        if chat and opened.text_folder is not None:
            text = ChatTemplate.open(opened.text_folder).render([{"role": "user", "content": prompt}])
            ids = PublishedTokenizer.open(opened.text_folder).encode_plain(text)
        else:
            ids = opened.tokenizer.encode(prompt)
    except ValueError as error:
        raise ValueError(f"prompt: {error}") from error
    require_tokens(ids, opened.model, folder)
    return np.array(ids, np.int64)
