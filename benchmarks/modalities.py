"""Pools of experts by modality at equal active parameters: python -m benchmarks.modalities [--seeds 3]

Models of the recipe ``multimodal`` with isolated, mixed and shared pools, and the model for text alone, from the same
seeds on the same windows of text. Each is a row of the file as soon as it is trained, and is not trained again.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from moe_numpy.commands.output import (
    JsonOption,
    console_for,
    given_path,
    plain_table,
    print_json,
    refusals,
    with_default,
)
from moe_numpy.commands.progress import training_progress
from moe_numpy.commands.usage import Command
from moe_numpy.files import read_json, write_json_atomically
from moe_numpy.training import Corpus, Trainer, default_corpus, presets
from moe_numpy.training.evaluation import WINDOWS_PER_DOMAIN, evaluate
from moe_numpy.training.picture_evaluation import evaluate_pictures
from moe_numpy.training.pictures import digits

RESULTS = Path(__file__).parent / "results" / "modalities.json"
TARGET = 0.96  # of the held-out pictures
_TEXT_EXPERTS = 8

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@dataclass(frozen=True)
class Variant:
    """A way of giving experts to modalities."""

    name: str
    settings: dict[str, Any]
    pictures: bool = True


VARIANTS = (
    Variant("text only", {"image_experts": 0}, pictures=False),
    Variant("separate", {"pools": "separate"}),
    Variant("mixed", {"pools": "mixed"}),
    Variant("shared", {"pools": "shared"}),
)


@app.command(cls=Command)
def main(
    seeds: Annotated[int, typer.Option(min=1, help="Train each variant from this many seeds.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 300,
    out: Annotated[
        Path | None, typer.Option(parser=given_path, metavar="FILE", help=with_default("Where the rows are.", RESULTS))
    ] = None,
    json: JsonOption = False,
) -> None:
    """Train what is not in the file yet, then print the table."""
    console, out = console_for(json), out or RESULTS
    with refusals():
        corpus = Corpus(default_corpus().domains, digits())
        rows = read_json(out, list[dict[str, Any]]) if out.exists() else []
        done = {(row["variant"], row["seed"], row["steps"]) for row in rows}
        coming = [(v, seed) for seed in range(seeds) for v in VARIANTS if (v.name, seed, steps) not in done]
        for number, (variant, seed) in enumerate(coming, start=1):
            console.print(f"{variant.name}, seed {seed}: {number} of {len(coming)}")
            rows.append(trained(variant, seed, steps, corpus, console))
            write_json_atomically(out, rows)
    rows = [row for row in rows if row["steps"] == steps and row["seed"] < seeds]
    if json:
        print_json(rows)
    else:
        _print(rows, console)


def trained(variant: Variant, seed: int, steps: int, corpus: Corpus, console: Console) -> dict[str, Any]:
    """One model, trained and measured."""
    sizes = {} if variant.pictures else {"num_experts": _TEXT_EXPERTS, "image_size": 0}
    model = presets.model(dict(variant.settings), recipe=presets.MULTIMODAL, **sizes)
    of_training = presets.with_pictures if variant.pictures else presets.training
    trainer = Trainer(model, of_training(steps=steps, seed=seed), corpus)
    began = time.perf_counter()
    with training_progress(console, variant.name[:8], trainer) as show:
        if not trainer.train(show):
            assert trainer.stopped_by is not None
            raise typer.Exit(128 + trainer.stopped_by)
    seconds = time.perf_counter() - began
    text = corpus.validation_windows(model.context, WINDOWS_PER_DOMAIN)
    found = evaluate(trainer.model, text, len(corpus.domains))
    row = {
        "variant": variant.name,
        "seed": seed,
        "steps": steps,
        "parameters": trainer.num_parameters,
        "active_parameters": trainer.active_parameters,
        "seconds": seconds,
        "text_loss": found.loss,
        "domain_loss": found.domain_loss.tolist(),
    }
    if variant.pictures and corpus.pictures is not None:
        row["pictures"] = evaluate_pictures(trainer.model, corpus.pictures, text.tokens).to_json()
    return row


def _print(rows: list[dict[str, Any]], console: Console) -> None:
    """Means over the seeds, ± half the range."""
    table = plain_table()
    for name in ("pools", "seeds", "parameters", "active", "text loss", "right %", "captions"):
        table.add_column(name, justify="left" if name == "pools" else "right")
    for variant in VARIANTS:
        of = [row for row in rows if row["variant"] == variant.name]
        if not of:
            continue
        shown = [row["pictures"] for row in of if "pictures" in row]
        table.add_row(
            variant.name,
            str(len(of)),
            f"{of[0]['parameters']:,}",
            f"{of[0]['active_parameters']:,}",
            _range([row["text_loss"] for row in of], "{:.3f}"),
            _range([100 * each["accuracy"] for each in shown], "{:.1f}"),
            _range([each["caption_loss"] for each in shown], "{:.3f}"),
        )
    console.print(table)
    alone = {row["seed"]: row["text_loss"] for row in rows if row["variant"] == VARIANTS[0].name}
    for variant in VARIANTS[1:]:
        of = [row for row in rows if row["variant"] == variant.name]
        apart = [row["text_loss"] - alone[row["seed"]] for row in of if row["seed"] in alone]
        if apart:
            least = min(row["pictures"]["accuracy"] for row in of)
            console.print(
                f"{variant.name}: text loss {np.mean(apart):+.3f} against text only (seeds {_signed(apart)}); at least "
                f"{100 * TARGET:.0f} % of the pictures {'in all seeds' if least >= TARGET else 'MISSED'}",
                soft_wrap=True,
            )


def _range(values: list[float], form: str) -> str:
    if not values:
        return ""
    mean = form.format(np.mean(values))
    return mean if len(values) == 1 else f"{mean} ±{form.format((max(values) - min(values)) / 2)}"


def _signed(values: list[float]) -> str:
    return ", ".join(f"{value:+.3f}" for value in values)


if __name__ == "__main__":
    app()
