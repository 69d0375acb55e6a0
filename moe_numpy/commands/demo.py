"""``python -m moe_numpy demo``: train a small MoE and its dense twin, and show what the experts learned."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ..models import ModelConfig
from ..models import generate as continue_text
from ..models.text import ByteTokenizer
from ..training import Trainer, encode, load_corpus, presets
from ..training.runs import next_free
from .figures import save_run_figures
from .output import (
    JsonOption,
    console_for,
    given_path,
    plain_table,
    print_command,
    print_files,
    print_json,
    print_title,
    printable,
    refusals,
    with_default,
)
from .progress import clock
from .run_training import new_run, run_training
from .shares import fair_share_note, print_shares

_PROMPTS = {"prose": "The ", "code": "def ", "arithmetic": "12 + 7 = "}
_SAMPLE_BYTES = 120


def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            parser=given_path, metavar="PATH", help=with_default("Run folder.", "runs/demo, or the next free name")
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help=with_default("Optimizer steps.", "the preset's"))] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, data and noise.")] = 0,
    no_dense: Annotated[bool, typer.Option("--no-dense", help="Leave the dense comparison out.")] = False,
    json: JsonOption = False,
) -> None:
    """Train a small Mixture of Experts on real text and show what its experts learned."""
    began = time.perf_counter()
    console = console_for(json)
    with ExitStack() as held:
        with refusals():
            model_config, training = presets.demo(seed=seed, **({} if steps is None else {"steps": steps}))
            corpus = load_corpus((), model_config.context)
            trainer = Trainer(model_config, training, corpus)
            twin = None if no_dense else Trainer(model_config.dense_twin(), training, corpus)
            run = held.enter_context(new_run(out or next_free(Path("runs/demo")), model_config, training))
        _print_plan(console, model_config, trainer, twin)

        summary = run_training(run, trainer, console, label="MoE")
        dense = None
        if twin is not None:
            dense = run_training(run.start_dense_twin(), twin, console, label="dense")
            summary["dense_val_bits_per_byte"] = dense["val_bits_per_byte"]
            run.write_summary(summary)
        figures = save_run_figures(run, summary)
    if json:
        print_json(summary)
        return
    _print_losses(console, summary, dense)
    _print_samples(console, trainer)
    _print_experts(console, summary)
    console.print()
    print_files(console, "Figures", figures)
    print_title(console, "Next")
    print_command(console, "generate", run.folder, "def ")
    print_command(console, "inspect", run.folder)
    console.print(f"Total time {clock(time.perf_counter() - began)}")


def _print_plan(console: Console, config: ModelConfig, trainer: Trainer, twin: Trainer | None) -> None:
    model = trainer.model
    text_size = sum(domain.train.size for domain in trainer.corpus.domains)
    names = ", ".join(domain.name for domain in trainer.corpus.domains)
    console.print(f"Text   {text_size / 1e6:.1f} MB: {names}")
    console.print(
        f"MoE    {config.num_layers} layers of {config.num_experts} experts, "
        f"{config.experts_per_token:g} per byte; "
        f"{_millions(model.num_parameters())} parameters, {_millions(model.active_parameters())} active"
    )
    if twin is not None:
        size = _millions(twin.model.num_parameters())
        console.print(f"dense  {config.num_layers} layers without experts; {size} parameters")
    plan = trainer.config
    console.print(f"Train  {plan.steps} steps of {trainer.tokens_per_step:,} bytes, seed {plan.seed}\n")


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"


def _print_losses(console: Console, moe: Mapping[str, Any], dense: Mapping[str, Any] | None) -> None:
    models = [("MoE", moe)] + ([("dense", dense)] if dense is not None else [])
    console.print()
    table = plain_table()
    table.add_column("")
    for name, _ in models:
        table.add_column(name, justify="right")

    def row(name: str, cell: Any) -> None:
        table.add_row(name, *(cell(summary) for _, summary in models))

    row("parameters", lambda s: f"{s['total_parameters']:,}")
    row("active per byte", lambda s: f"{s['active_parameters']:,}")
    row("training, nats/byte", lambda s: f"{s['train_loss']:.3f}")
    row("validation, nats/byte", lambda s: f"{s['val_loss']:.3f}")
    row("  before training", lambda s: f"{s['val_loss_initial']:.3f}")
    for i, domain in enumerate(moe["domains"]):
        row(f"  {domain}", lambda s, i=i: f"{s['domain_loss'][i]:.3f}")
    row("validation, bits/byte", lambda s: f"{s['val_bits_per_byte']:.3f}")
    row("tokens/s", lambda s: f"{s['tokens_per_second']:,.0f}")
    console.print(table)
    if dense is not None:
        gain = dense["val_bits_per_byte"] - moe["val_bits_per_byte"]
        verdict = "saves" if gain > 0 else "costs"
        console.print(f"The MoE {verdict} {abs(gain):.3f} bits per byte.")


def _print_samples(console: Console, trainer: Trainer) -> None:
    shows_style = console.color_system is not None
    console.print()
    print_title(console, f"Generated text ({'prompts are underlined' if shows_style else 'prompts are in []'})")
    for domain in trainer.corpus.domains:
        prompt = _PROMPTS[domain.name]
        rng = np.random.default_rng(trainer.config.seed)
        answer = ByteTokenizer().decode(continue_text(trainer.model, encode(prompt), _SAMPLE_BYTES, rng=rng))
        start = Text(prompt, "underline") if shows_style else Text(f"[{prompt}]")
        console.print(Text(f"{domain.name}:", "dim"))
        console.print(Padding(start + Text(printable(answer).rstrip()), (0, 0, 0, 4), expand=False))


def _print_experts(console: Console, summary: Mapping[str, Any]) -> None:
    console.print()
    layer = summary["domain_expert_layer"]
    title = f"Which experts take which domain, in layer {layer}, where they differ most"
    print_shares(console, title, summary["domains"], np.array(summary["domain_expert"]))
    console.print()
    load = np.array(summary["expert_load"])
    dropped = [f"{100 * fraction:.1f} %" for fraction in summary["dropped_fraction_by_layer"]]
    layers = [f"layer {number}" for number in summary["sparse_layers"]]
    print_shares(console, "Load of each expert", layers, load, last=("dropped", dropped))
    console.print(Text(fair_share_note(load.shape[1]), "dim"))
