"""``python -m moe_numpy convert``: write a model in the layout of a published family, for other programs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..models import Transformer
from ..pretrained import PublishedConfig, from_pretrained, is_published, save_pretrained
from ..pretrained.byte_tokenizer import byte_tokenizer
from ..pretrained.converting import converted, targets
from ..pretrained.text_files import text_files
from ..pretrained.tokenizer import FILE
from ..training import Run
from .output import JsonOption, console_for, given_path, print_command, print_json, refusals, with_default

_DTYPES = {"float32": "F32", "bfloat16": "BF16"}


def convert(
    model: Annotated[
        Path, typer.Argument(parser=given_path, metavar="MODEL", help="Run folder, or a published model's folder.")
    ],
    out: Annotated[Path, typer.Argument(parser=given_path, metavar="OUT", help="Folder to write; must not hold one.")],
    to: Annotated[
        str | None,
        typer.Option(
            help=f"With a run: the family, one of {', '.join(targets())}; the model must fit its parts. One that began "
            "with a published model keeps its family."
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help=with_default(f"Type of the weights: {', '.join(_DTYPES)}.", "as they are"))
    ] = None,
    step: Annotated[int | None, typer.Option(help=with_default("With a run: the checkpoint.", "the newest"))] = None,
    json: JsonOption = False,
) -> None:
    """Write a model as others read it: config.json, safetensors and tokenizer.json, for transformers and the rest.

    A run becomes a model of a published family, if one computes the same. A published model is written again, its
    weights decoded and in another type if you like.
    """
    console = console_for(json)
    with refusals():
        if dtype is not None and dtype not in _DTYPES:
            raise ValueError(f"--dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
        beside: Mapping[str, str | bytes]
        if is_published(model):
            if to is not None or step is not None:
                raise ValueError(f"{'--to' if to else '--step'} is for runs; {model} is published already")
            opened, beside = from_pretrained(model), text_files(model)
        else:
            opened, beside = _from_run(Run.open(model), to, step)
        with console.status(f"Writing {out} ..."):
            stored: Any = None if dtype is None else _DTYPES[dtype]
            save_pretrained(opened, out, dtype=stored, beside=beside)
    size = sum(path.stat().st_size for path in out.iterdir())
    if json:
        print_json(
            {"model": str(model), "out": str(out), "bytes": size, "files": sorted(p.name for p in out.iterdir())}
        )
        return
    console.print(f"{out}: {size:,} bytes in {len(list(out.iterdir()))} files", markup=False, soft_wrap=True)
    print_command(console, "generate", out, "The ")


def _from_run(run: Run, to: str | None, step: int | None) -> tuple[Transformer, Mapping[str, str | bytes]]:
    """The model of a run in a published family, and the files about its text."""
    if isinstance(run.model_config, PublishedConfig):
        family = run.model_config.model_type
        if to not in (None, family):
            raise ValueError(f"--to {to}: {run.folder} began with a {family} model and stays one; leave that out")
        return run.model(step)[0], text_files(run.tokenizer_folder)
    if to is None:
        raise ValueError(f"--to is needed: the family to become, one of {', '.join(targets())}")
    return converted(run.model(step)[0], to), {FILE: byte_tokenizer()}
