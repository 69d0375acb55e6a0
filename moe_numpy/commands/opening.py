"""The model that a path on the command line names: a run trained here, or a published folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from ..formats import FORMATS
from ..models import Transformer
from ..models.text import Tokenizer
from ..pretrained import PublishedTokenizer, from_pretrained, is_published
from ..training import Run
from .output import with_default
from .sizes import given_size

StepOption = Annotated[int | None, typer.Option(help=with_default("Checkpoint.", "the newest"))]
MemoryOption = Annotated[
    int | None,
    typer.Option(
        parser=given_size,
        metavar="SIZE",
        help="Read the experts of a published model from the disk; keep at most this much of them: 300MB, 4GiB.",
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help=with_default(f"Keep all matrices in memory in {', '.join(FORMATS)}.", "as they are stored"),
    ),
]


@dataclass(frozen=True, eq=False)
class Opened:
    """A model to use.

    Attributes:
        model: in evaluation.
        tokenizer: of its text.
        step: the completed steps of a run; None for a published model.
        text_folder: where a published tokenizer and its chat template are; None where tokens are bytes.
        groups: of a run, experts that were added together, by name.
    """

    model: Transformer
    tokenizer: Tokenizer
    step: int | None
    text_folder: Path | None
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def is_run(self) -> bool:
        """Whether it was trained here."""
        return self.step is not None


def open_model(folder: Path, step: int | None = None, memory: int | None = None) -> Opened:
    """The model of a run folder, of its newest checkpoint or the one of ``step``; or that of a published folder.

    Args:
        folder: of either.
        step: of a run.
        memory: bytes for the experts of a published model, see :func:`moe_numpy.pretrained.from_pretrained`.

    Raises:
        ValueError: it is neither, cannot be read, a step is asked of a published model, memory of a run, or memory is
            too little.
    """
    if not is_published(folder):
        if memory is not None and folder.is_dir():
            raise ValueError(f"--memory: {folder} is not a published model, and a run has all experts in memory")
        run = Run.open(folder)
        tokenizer = run.tokenizer()
        model, step = run.model(step)
        text_folder = run.tokenizer_folder if run.is_published else None
        return Opened(model.eval(), tokenizer, step, text_folder, run.groups)  # type: ignore[arg-type]
    if step is not None:
        raise ValueError(f"--step {step}: {folder} is a published model, which has no checkpoints")
    return Opened(from_pretrained(folder, memory=memory), PublishedTokenizer.open(folder), None, folder)


def require_tokens(ids: Sequence[int], model: Transformer, folder: Path) -> None:
    """ValueError if a text has no tokens, more than the context, or one that the model does not have."""
    if not ids:
        raise ValueError("the text has no tokens; give at least one to continue")
    if max(ids) >= model.vocab_size:
        raise ValueError(f"{folder}: the text has token {max(ids)}, the model has vocab_size={model.vocab_size}")
