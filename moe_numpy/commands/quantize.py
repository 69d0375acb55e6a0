"""``python -m moe_numpy quantize``: write a model with its matrices in number formats."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ..formats import FORMATS
from ..pretrained import PretrainedError, PublishedConfig, is_published, save_pretrained
from ..pretrained.byte_tokenizer import byte_tokenizer
from ..pretrained.converting import converted, targets
from ..pretrained.quantisation import Quantisation
from ..pretrained.quantising import KEPT, Plan, Share, plan, write_quantised
from ..pretrained.text_files import text_files
from ..pretrained.tokenizer import FILE
from ..training import Run
from .output import (
    JsonOption,
    console_for,
    given_path,
    note,
    one_line,
    plain_table,
    print_command,
    print_json,
    refusals,
    with_default,
)
from .text_progress import text_progress

_SUMS = ("parameters", "matrices", "bytes_before", "bytes_after")


def quantize(
    model: Annotated[
        Path, typer.Argument(parser=given_path, metavar="MODEL", help="A published model's folder, or a run folder.")
    ],
    out: Annotated[Path, typer.Argument(parser=given_path, metavar="OUT", help="Folder to write; new, or empty.")],
    experts: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT", help=with_default(f"Of the experts' matrices: {', '.join(FORMATS)}.", "as published")
        ),
    ] = None,
    rest: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help=with_default("Of all other matrices, likewise.", "as published")),
    ] = None,
    step: Annotated[int | None, typer.Option(help=with_default("With a run: the checkpoint.", "the newest"))] = None,
    json: JsonOption = False,
) -> None:
    """Write a model in fewer bits, for generate, inspect and from_pretrained of this package.

    Embedding, routers, norms and biases stay as they are. One matrix is in memory at a time, so the model may be larger
    than that. A run is first written as a published family that computes the same.
    """
    console = console_for(json)
    with refusals(), _published(model, step) as folder:
        planned = plan(folder, Quantisation(experts, rest))
        narrow = planned.narrow()
        with text_progress(console, planned.num_weights, "Storing weights", "stored", "weights") as done:
            shares = write_quantised(folder, planned, out, progress=done)
    if narrow:
        note(f"the width of {len(narrow)} matrices, such as {narrow[0]}, is no multiple of 32: they are in bfloat16")
    if json:
        print_json(_document(model, out, planned, shares))
        return
    _print_shares(console, shares)
    print_command(console, "generate", out, "The ")


@contextmanager
def _published(model: Path, step: int | None) -> Iterator[Path]:
    """A folder with the published model, or with that of a run: of its own family, or one that computes the same."""
    if is_published(model):
        if step is not None:
            raise ValueError(f"--step {step}: {model} is a published model, which has no checkpoints")
        yield model
        return
    run = Run.open(model)
    trained = run.model(step)[0]
    with TemporaryDirectory() as folder:
        if isinstance(run.model_config, PublishedConfig):
            save_pretrained(trained, folder, beside=text_files(run.tokenizer_folder))
        else:
            save_pretrained(_of_some_family(trained, model), folder, beside={FILE: byte_tokenizer()})
        yield Path(folder)


def _of_some_family(trained: Any, folder: Path) -> Any:
    for family in targets():
        try:
            return converted(trained, family)
        except PretrainedError:
            continue
    raise ValueError(
        f"{folder}: none of {', '.join(targets())} computes the same as this run; generate --format quantises it in "
        "memory"
    )


def _document(model: Path, out: Path, planned: Plan, shares: list[Share]) -> dict[str, Any]:
    return {
        "model": str(model),
        "out": str(out),
        "experts": planned.formats.experts,
        "rest": planned.formats.rest,
        "bytes_before": sum(share.bytes_before for share in shares),
        "bytes_after": sum(share.bytes_after for share in shares),
        "files": sorted(path.name for path in out.iterdir()),
        "shares": [
            {
                "weights": share.kind,
                "format": share.format,
                "parameters": share.parameters,
                "matrices": share.matrices,
                "bytes_before": share.bytes_before,
                "bytes_after": share.bytes_after,
                "bits_per_weight": share.bits_per_weight,
                "largest_relative_error": share.error if share.matrices else None,
                "largest_in": share.worst,
            }
            for share in shares
        ],
    }


def _print_shares(console: Console, shares: list[Share]) -> None:
    table = plain_table()
    for title in ("weights", "format"):
        table.add_column(title)
    for title in ("parameters", "bytes before", "after", "bits/weight", "largest error"):
        table.add_column(title, justify="right")
    for share in shares:
        format = share.format or ("float32" if share.kind != KEPT else "")
        error = f"{100 * share.error:.2f} %" if share.matrices else ""
        sizes = f"{share.parameters:,}", f"{share.bytes_before:,}", f"{share.bytes_after:,}"
        table.add_row(share.kind, format, *sizes, f"{share.bits_per_weight:.2f}", error)
    total = Share("all", None, *(sum(getattr(s, name) for s in shares) for name in _SUMS))
    sizes = f"{total.parameters:,}", f"{total.bytes_before:,}", f"{total.bytes_after:,}"
    table.add_row("all", "", *sizes, f"{total.bits_per_weight:.2f}", "")
    console.print(table)
    worst = max((share for share in shares if share.error), key=lambda share: share.error, default=None)
    if worst is not None:
        line = f"Error: ‖W - Ŵ‖ / ‖W‖ of a matrix, the largest in {one_line(worst.worst)}"
        console.print(Text(line), soft_wrap=True)
