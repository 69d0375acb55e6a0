"""``python -m moe_numpy inspect``: what the experts of a run have learned."""

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from ..autodiff import check_finite
from ..instruments.routing_report import (
    SentenceRouting,
    TypicalByte,
    by_byte_class,
    most_separating,
    route_sentence,
    separation,
    typical_bytes,
)
from ..models import ModelConfig
from ..models.text import ByteTokenizer
from ..training import Run, encode
from ..training.evaluation import WINDOWS_PER_DOMAIN, Evaluation, evaluate
from .figures import load_history, save_figures
from .output import (
    JsonOption,
    console_for,
    given_path,
    one_line,
    plain_table,
    print_files,
    print_json,
    print_title,
    refusals,
    sparkline,
    with_default,
)
from .shares import fair_share_note, print_shares

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SENTENCE = "The list has 12 items.\ndef add(a, b):\n    return a + b\n17 + 25 = 42\n"
_EXPERT_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def inspect(
    run: Annotated[Path, typer.Argument(parser=given_path, metavar="RUN", help="Run folder.")],
    sentence: Annotated[str | None, typer.Option(help="Text to route byte by byte.")] = None,
    layer: Annotated[
        int | None,
        typer.Option(help=with_default("Show this layer.", "all for domains, the clearest for bytes")),
    ] = None,
    step: Annotated[int | None, typer.Option(help=with_default("Checkpoint.", "the newest"))] = None,
    json: JsonOption = False,
) -> None:
    """Show which experts take which domains and bytes: tables, and PNGs in the run folder."""
    console = console_for(json)
    with refusals():
        opened = Run.open(run)
        checkpoint = opened.verified(step)
        config, step = opened.model_config, checkpoint.step
        if not isinstance(config, ModelConfig):
            raise ValueError(f"{run} reads tokens, not bytes; write it as a published model first: convert {run} OUT")
        layers = config.routed_layers
        if not layers:
            kind = "has Soft MoE layers: every expert takes a part of every byte, and none is chosen"
            raise ValueError(f"{run} {kind if config.num_experts else 'is dense: it has no experts to inspect'}")
        if layer is not None and layer not in layers:
            raise ValueError(f"--layer must be one of the layers with experts, {layers}, got {layer}")
        text = _SENTENCE.encode()[: config.context] if sentence is None else bytes(encode(sentence).tolist())
        corpus = opened.corpus()
        opened.require_text(corpus, checkpoint)
        history = load_history(opened)
        model = opened.model_of(checkpoint)
        windows = corpus.validation_windows(config.context, limit=WINDOWS_PER_DOMAIN)
        with console.status("Routing validation text ..."), check_finite(), np.errstate(all="ignore"):
            routed = route_sentence(model, text)
            evaluation = evaluate(model, windows, len(corpus.domains))
    domains = [domain.name for domain in corpus.domains]
    figures = _save_figures(opened, layers, domains, evaluation, routed, history)
    if json:
        print_json(_document(opened, step, layers, domains, evaluation, routed, figures))
        return

    shown = layers if layer is None else [layer]
    telling = layers[most_separating(evaluation.domain_expert)] if layer is None else layer
    console.print(
        f"{one_line(run)} after step {step}: {config.num_experts} experts, {config.experts_per_token:g} per byte. "
        f"{fair_share_note(config.num_routes)}.\n",
        markup=False,
    )
    for i in (layers.index(number) for number in shown):
        apart = f"{100 * separation(evaluation.domain_expert)[i]:.0f} % between the closest two"
        title = f"Layer {layers[i]}: which experts take which domain ({apart})"
        print_shares(console, title, domains, evaluation.domain_expert[i])
        console.print()
    byte_expert = _by_byte(evaluation)
    names, classes = by_byte_class(byte_expert)
    i = layers.index(telling)
    print_shares(console, f"Layer {telling}: which experts take which kind of byte", names, classes[i])
    console.print()
    _print_typical(console, telling, typical_bytes(byte_expert[i]))
    _print_load(console, layers, shown, *history)
    _print_sentence(console, routed, shown)
    if layer is None and len(layers) > 1:
        console.print(f"Bytes of another layer: --layer N, one of {layers}.")
    print_files(console, "Figures", figures)


def _by_byte(evaluation: Evaluation) -> Any:
    """How often each byte chose each expert, [L, 256, E]."""
    assert evaluation.assignments is not None  # of 256 bytes
    return evaluation.assignments.sum(axis=1)


def _save_figures(
    run: Run,
    layers: list[int],
    domains: list[str],
    evaluation: Evaluation,
    routed: SentenceRouting,
    history: tuple[Any, Any],
) -> list[Path]:
    def draw(plots: Any) -> "dict[str, Figure]":
        names, classes = by_byte_class(_by_byte(evaluation))
        figures = {
            "expert_by_domain": plots.expert_by_domain(evaluation.domain_expert, domains, layers),
            "expert_by_byte": plots.expert_by_byte(classes, names, layers),
            "expert_load": plots.expert_load(evaluation.expert_load, evaluation.dropped_by_layer, layers),
        }
        if len(history[0]):
            figures["load_over_training"] = plots.load_over_training(*history, layers)
        figures["sentence_routing"] = plots.sentence_routing(routed)
        return figures

    return save_figures(run, draw)


def _document(
    run: Run,
    step: int,
    layers: list[int],
    domains: list[str],
    evaluation: Evaluation,
    routed: SentenceRouting,
    figures: list[Path],
) -> dict[str, Any]:
    byte_expert = _by_byte(evaluation)
    names, classes = by_byte_class(byte_expert)
    name = ByteTokenizer().name
    return {
        "run": str(run.folder),
        "step": step,
        "layers": layers,
        "domains": domains,
        "separation": separation(evaluation.domain_expert).tolist(),
        "domain_expert_by_layer": evaluation.domain_expert.tolist(),
        "byte_classes": names,
        "byte_class_expert_by_layer": classes.tolist(),
        "typical_bytes_by_layer": [
            [[asdict(found) | {"name": name(found.byte)} for found in expert] for expert in typical_bytes(counts)]
            for counts in byte_expert
        ],
        "expert_load": evaluation.expert_load.tolist(),
        "dropped_fraction": evaluation.dropped_fraction,
        "sentence": {
            "bytes": list(routed.text),
            "first_choice_by_layer": routed.first_choice.tolist(),
            "dropped_by_layer": routed.dropped.tolist(),
        },
        "figures": [str(figure) for figure in figures],
    }


def _print_typical(console: Console, layer: int, experts: list[list[TypicalByte]]) -> None:
    name = ByteTokenizer().name
    print_title(console, f"Layer {layer}: the most typical bytes of each expert (times its usual share, count)")
    table = plain_table()
    table.add_column("expert", justify="right")
    table.add_column("bytes", no_wrap=True)
    for e, found in enumerate(experts):
        # textwrap, unlike rich, does not break at a no-break space
        cells = [f"{name(t.byte)} {t.lift:.1f}x ({t.count:,})".replace(" ", "\u00a0") for t in found]
        lines = textwrap.wrap("   ".join(cells), max(console.width - 8, 10))
        table.add_row(str(e), Text("\n".join(lines).replace("\u00a0", " ") or "none stands out"))
    console.print(table)
    console.print()


def _print_load(console: Console, layers: list[int], shown: list[int], steps: Any, load: Any) -> None:
    """The largest and the smallest share of an expert over training, one line per layer; nothing without a history."""
    if len(steps) == 0:
        return
    num_experts = load.shape[2]
    parts = np.array_split(np.arange(len(steps)), min(16, len(steps)))
    fair = 100 / num_experts
    print_title(console, f"Load while training, steps {steps[0]} to {steps[-1]} (fair share {fair:.1f} %)")
    table = plain_table()
    for column in ("layer", "busiest expert", "idlest expert"):
        table.add_column(column, no_wrap=True)
    for number in shown:
        of_layer = load[:, layers.index(number)]
        cells = []
        for extreme in (of_layer.max(axis=1), of_layer.min(axis=1)):
            means = [extreme[part].mean() for part in parts]
            line = sparkline(means, console, top=max(of_layer.max(), 2 / num_experts))
            cells.append(f"{line} {100 * means[0]:.0f} to {100 * means[-1]:.0f} %")
        table.add_row(str(number), *cells)
    console.print(table)
    console.print()


def _print_sentence(console: Console, routed: SentenceRouting, shown: list[int]) -> None:
    """Each byte above the digit of its first-choice expert, one row per layer."""
    digits = _EXPERT_DIGITS
    visible = {0x20: " ", 0x0A: "\\", 0x09: "\\"}
    characters = [visible.get(b) or (chr(b) if 0x20 < b < 0x7F else ".") for b in routed.text]
    notes = ["\\ is newline"]
    if routed.gate.shape[2] > 10:
        notes.append("a is 10, A 36")
    if routed.dropped.any():
        notes.append(". was full")
    print_title(console, f"First-choice expert of each byte ({'; '.join(notes)})")
    room = max(console.width - 12, 10)
    for start in range(0, len(characters), room):
        here = slice(start, start + room)
        console.print(Text(f"{'':10}" + "".join(characters[here])), soft_wrap=True)
        for i, number in enumerate(routed.layers):
            if number in shown:
                experts = zip(routed.first_choice[i, here], routed.dropped[i, here], strict=True)
                row = "".join("." if lost else digits[e % len(digits)] for e, lost in experts)
                console.print(Text(f"layer {number:<3} {row}", style="cyan"), soft_wrap=True)
        console.print()
