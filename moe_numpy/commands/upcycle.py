"""``python -m moe_numpy upcycle``: write a dense model as a Mixture of Experts that computes the same function."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from ..accounting import architecture_of_layers, flops_per_token
from ..autodiff import no_grad
from ..models import ModelConfig, Transformer
from ..models.text import Tokenizer
from ..models.upcycling import upcycled, upcycled_config
from ..moe.upcycling import Upcycling
from ..moe.upcycling import plan as plan_layer
from ..pretrained import PublishedConfig, is_published
from ..pretrained.upcycling import FAMILIES, write_upcycled
from ..pretrained.upcycling import plan as plan_published
from ..training import AdamW, Run, default_corpus
from ..training.ranks import Ranks
from .opening import StepOption, open_model
from .output import (
    JsonOption,
    console_for,
    given_path,
    note,
    plain_table,
    print_command,
    print_json,
    print_title,
    refusals,
    with_default,
)
from .run_training import new_run
from .text_progress import text_progress

_TOLERATED = 1e-5  # relative to the largest logit, in float32
_COMPARED = 128  # tokens


@dataclass(frozen=True)
class _Size:
    """What a model costs."""

    parameters: int
    active_parameters: int
    flops_per_token: int  # of a forward pass, with the longest context


def upcycle(
    source: Annotated[
        Path,
        typer.Argument(
            parser=given_path, metavar="SOURCE", help="Run folder of a dense model, or a published llama's folder."
        ),
    ],
    out: Annotated[Path, typer.Argument(parser=given_path, metavar="OUT", help="Folder to write; new, or empty.")],
    experts: Annotated[int, typer.Option(min=1, help="Copies of the dense network, E.")] = 8,
    top_k: Annotated[
        int | None,
        typer.Option(min=1, help=with_default("Copies that a token uses, k.", "2, or what the recipe fixes")),
    ] = None,
    granularity: Annotated[
        int,
        typer.Option(min=1, help="Parts that each copy is cut into, G: E G experts, of which a token uses k G."),
    ] = 1,
    weights: Annotated[
        str,
        typer.Option(
            help="Gate weights: renormalised (they add up to 1), raw, or the recipe of the new layers. Of a published "
            f"model one of {', '.join(FAMILIES)}."
        ),
    ] = "renormalised",
    noise: Annotated[
        float | None,
        typer.Option(
            min=0,
            help=with_default(
                "Standard deviation of the routers' first logits.", "1; 1e-6 where the weights' sum depends on them"
            ),
        ),
    ] = None,
    reinitialise: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of each expert's hidden units to draw anew (drop-upcycling); changes the function.",
        ),
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the routers, and of what is drawn anew.")] = 0,
    step: StepOption = None,
    json: JsonOption = False,
) -> None:
    """Turn a dense model into a Mixture of Experts that computes the same function, to train on from there.

    A run becomes a run at step 0, a published model a published one. At the end both read the same text, and the
    largest difference of their logits is printed.
    """
    console = console_for(json)
    rng = np.random.default_rng(seed)
    with refusals():
        if is_published(source):
            if step is not None:
                raise ValueError(f"--step {step}: {source} is a published model, which has no checkpoints")
            planned = plan_published(source, weights, experts, 2 if top_k is None else top_k, granularity, noise)
            how, num_layers = planned.how, len(planned.config.transformer.layers)
            with text_progress(console, num_layers, "Copying", "copied", "layers") as done:
                write_upcycled(source, planned, out, rng=rng, reinitialise=reinitialise, progress=done)
        else:
            how = _upcycle_run(source, out, step, (weights, experts, top_k, granularity), noise, rng, reinitialise)
        with console.status("Reading a text with both models ..."):
            before, after = open_model(source, step), open_model(out)
            tokens = _text(before.tokenizer, before.model)
            difference, largest = _difference(before.model, after.model, tokens)
    sizes = _size(before.model), _size(after.model)
    is_equal = difference <= _TOLERATED * max(largest, 1) or bool(reinitialise)
    if json:
        print_json(_document(source, out, how, sizes, len(tokens), difference, largest))
    else:
        _print(console, how, sizes)
        console.print(
            f"Largest difference of logits over {len(tokens)} tokens: {difference:.1e} (largest logit {largest:.1f})"
        )
        print_title(console, "Next")
        print_command(console, "train", "--from", out)
        print_command(console, "generate", out, "The ")
    if not is_equal:
        _explain(how, after.model)
        raise typer.Exit(1)


def _upcycle_run(
    source: Path,
    out: Path,
    step: int | None,
    settings: tuple[str, int, int | None, int],
    noise: float | None,
    rng: np.random.Generator,
    reinitialise: float,
) -> Upcycling:
    """Write a run at step 0, with the training and the text of the dense one."""
    run = Run.open(source)
    if not isinstance(run.model_config, ModelConfig):
        raise ValueError(f"{source} began with a published model: write it as one, with convert, and upcycle that")
    weights, copies, top_k, granularity = settings
    config = upcycled_config(run.model_config, weights, copies, top_k, granularity)
    try:
        how = plan_layer(config.layer_recipe, copies, granularity, noise)
    except ValueError as error:
        raise ValueError(f"recipe {config.recipe} cannot compute what {source} does: {error}") from error
    checkpoint = run.verified(step)
    sparse = upcycled(run.model_of(checkpoint), config, how, rng=rng, reinitialise=reinitialise)
    training = run.training_config
    with new_run(out, config, training, run.text) as made:
        optimizer = AdamW(sparse.named_parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
        made.save(0, sparse, optimizer, checkpoint.meta.get("text") or run.corpus().fingerprint, Ranks())
    return how


def _text(tokenizer: Tokenizer, model: Transformer) -> Any:
    """The first tokens of the built-in text."""
    text = bytes(default_corpus().domains[0].train[: 8 * _COMPARED].astype(np.uint8)).decode(errors="replace")
    return np.array(tokenizer.encode(text)[: min(_COMPARED, model.context)], np.int64)


def _difference(dense: Transformer, sparse: Transformer, tokens: Any) -> tuple[float, float]:
    """The largest difference of logits, and the largest logit of the dense model."""
    with no_grad():
        one, other = (np.asarray(model(tokens[None]).logits.data, np.float64) for model in (dense, sparse))
    return float(np.abs(one - other).max()), float(np.abs(one).max())


def _size(model: Transformer) -> _Size:
    parts = model.parts
    flops = flops_per_token(architecture_of_layers(parts), parts.context).forward
    return _Size(model.num_parameters(), model.active_parameters(), flops)


def _print(console: Console, how: Upcycling, sizes: tuple[_Size, _Size]) -> None:
    table = plain_table()
    for title in ("", "dense", "upcycled", "ratio"):
        table.add_column(title, justify="right" if title else "left")
    for name in ("parameters", "active_parameters", "flops_per_token"):
        before, after = (getattr(size, name) for size in sizes)
        label = name.replace("_", " ").replace("flops", "FLOPs")
        table.add_row(label, f"{before:,}", f"{after:,}", f"{after / before:.2f}")
    console.print(table)
    up, down = how.scales
    parts = "" if how.granularity == 1 else f", each in {how.granularity} parts"
    lines = [
        f"{how.copies} copies{parts}: {how.num_experts} experts, {how.per_token} per token",
        f"Scale s = {how.scale:g}: up × {up:g}, down × {down:g}"
        + (f"; gate and up × {how.input_scale:g}" if how.input_scale != 1 else ""),
        f"Router logits: σ = {how.noise:g}; sums of gate weights equal"
        + ("" if how.any_router else f" within {how.drift:.1e}"),
    ]
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _document(
    source: Path, out: Path, how: Upcycling, sizes: tuple[_Size, _Size], tokens: int, difference: float, largest: float
) -> dict[str, Any]:
    up, down = how.scales
    return {
        "source": str(source),
        "out": str(out),
        "copies": how.copies,
        "granularity": how.granularity,
        "num_experts": how.num_experts,
        "experts_per_token": how.per_token,
        "up_scale": up,
        "down_scale": down,
        "input_scale": how.input_scale,
        "noise": how.noise,
        "drift": how.drift,
        "dense": vars(sizes[0]),
        "upcycled": vars(sizes[1]),
        "tokens": tokens,
        "largest_difference": difference,
        "largest_logit": largest,
    }


def _explain(how: Upcycling, model: Transformer) -> None:
    """Why the functions differ."""
    narrow = isinstance(model.config, PublishedConfig) and model.embedding.weight.dtype != np.float32
    reasons = [
        f"--noise {how.noise:g} changes the sums of gate weights by up to {how.drift:.1e}" if how.drift > 1e-5 else "",
        "the weights are stored in fewer bits than float32, and scaled ones are rounded" if narrow else "",
    ]
    why = "; ".join(reason for reason in reasons if reason)
    note(f"the logits differ by more than {_TOLERATED:g} of the largest{': ' if why else ''}{why}")
