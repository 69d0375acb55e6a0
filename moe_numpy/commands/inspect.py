"""``python -m moe_numpy inspect``: what the experts of a model have learned."""

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from ..autodiff import check_finite
from ..instruments.findings import Findings, findings_of
from ..instruments.routed_text import route_text, shares
from ..instruments.routing_report import SentenceRouting, by_byte_class, route_sentence
from ..instruments.typical_tokens import MIN_COUNT
from ..training.picture_evaluation import evaluate_pictures
from .inspect_cache import compare_caches, given_trace
from .inspect_document import document_of
from .inspect_figures import save_inspect_figures
from .inspect_page import InspectPage
from .inspected import TOKENS, Inspected, open_inspected
from .output import (
    JsonOption,
    console_for,
    given_path,
    one_line,
    print_files,
    print_json,
    refusals,
    with_default,
)
from .picture_tables import print_modalities, print_pictures
from .routing_tables import (
    print_layers,
    print_load,
    print_pairs,
    print_takers,
    print_typical,
)
from .sentence_tables import print_sentence, print_tokens
from .shares import fair_share_note, print_shares
from .text_progress import text_progress

_MIN_COUNT = 10  # of a token; the default of bytes, which are more frequent, is higher


def inspect(
    model: Annotated[
        Path, typer.Argument(parser=given_path, metavar="MODEL", help="Run folder, or a published model's folder.")
    ],
    text: Annotated[
        list[Path] | None,
        typer.Option(
            parser=given_path,
            help=with_default("File or folder to route; each is a domain.", "the run's own, or the built-in text"),
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, help=with_default("Route at most this many.", f"{TOKENS:,}, or as in training")),
    ] = None,
    sentence: Annotated[str | None, typer.Option(help="Text to route token by token.")] = None,
    layer: Annotated[
        int | None, typer.Option(help=with_default("Show this layer.", "all for domains, the clearest for tokens"))
    ] = None,
    step: Annotated[int | None, typer.Option(help=with_default("Checkpoint of a run.", "the newest"))] = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=given_path, help=with_default("Folder for PNGs.", "the run's; none for a published model")),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            parser=given_path,
            metavar="FILE",
            help="Compare cache policies on these requests for experts; without such a file, record the text's there.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(parser=given_path, metavar="FILE", help="Write a page that shows the routing token by token."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show which experts take which domains, tokens and positions: tables, and PNGs."""
    console = console_for(json)
    with refusals():
        if out is not None and out.exists() and not out.is_dir():
            raise ValueError(f"--out: {out} is not a folder")
        with console.status("Reading model and text ..."):
            opened = open_inspected(model, text or [], tokens, sentence, layer, step)
            given = None if trace is None else given_trace(trace, opened)
            page = None if html is None else InspectPage(html, opened)
        with check_finite(), np.errstate(all="ignore"):
            began = time.monotonic()
            routed_sentence = route_sentence(opened.model, opened.sentence)
            with text_progress(console, sum(len(w.ids) - w.lead for w in opened.windows)) as done:
                routed = route_text(opened.model, opened.windows, opened.batch_size, done)
            seconds = time.monotonic() - began
            pictures = _pictures(opened, console)
    caches = None
    if trace is not None:
        with refusals(), console.status("Replaying the requests for experts ..."):
            caches = compare_caches(trace, given, opened, routed)
    if page is not None:
        with refusals(), text_progress(console, page.num_tokens) as done:
            page.write(done)
    with console.status("Counting ..."):
        min_count = MIN_COUNT if opened.is_bytes else _MIN_COUNT
        found = findings_of(routed, len(opened.domains), min_count=min_count)
    with console.status("Drawing ..."):
        figures = save_inspect_figures(opened, found, routed_sentence, layer, out, caches, pictures)
    detailed = found.clearest_layer if layer is None else layer
    if json:
        document = document_of(opened, found, routed_sentence, detailed, figures)
        document |= {} if caches is None else {"expert_cache": caches.document()}
        document |= {} if pictures is None else {"pictures": pictures}
        print_json(document if html is None else document | {"html": str(html)})
        return
    shown = list(routed.layers) if layer is None and opened.is_bytes else [detailed]
    _print_head(console, opened, found, seconds)
    _print_layer(console, opened, found, shown, detailed)
    _print_text(console, opened, routed_sentence, shown, detailed)
    if pictures is not None:
        print_pictures(console, pictures)
        print_modalities(console, pictures, routed.layers, shown)
        console.print()
    if caches is not None:
        caches.print(console)
        console.print()
    if layer is None and len(routed.layers) > 1:
        console.print(f"{opened.unit.capitalize()}s of another layer: --layer N, one of {list(routed.layers)}.")
    print_files(console, "Figures", figures)
    print_files(console, "Page", [] if html is None else [html])
    if out is None and not opened.is_run:
        console.print("No PNGs were written; --out FOLDER says where they go.")


def _pictures(opened: Inspected, console: Console) -> dict[str, Any] | None:
    """What the model says of held-out pictures; None if it was trained without."""
    if opened.pictures is None:
        return None
    longest = max(len(window.ids) for window in opened.windows)
    text = np.stack([window.ids for window in opened.windows if len(window.ids) == longest])
    num_pictures = len(opened.pictures.held_out_labels)
    with text_progress(console, num_pictures, "Scoring captions", "scored", "pictures") as done:
        return evaluate_pictures(opened.model, opened.pictures, text, done).to_json()


def _print_head(console: Console, opened: Inspected, found: Findings, seconds: float) -> None:
    routed, unit = found.routed, opened.unit
    after = f" after step {opened.step}" if opened.is_run else ""
    per_token = routed.load.sum() / len(routed) / len(routed.layers)
    domains = f"{len(opened.domains)} domain{'s' * (len(opened.domains) > 1)}"
    console.print(
        f"{one_line(opened.folder)}{after}: {routed.num_experts} experts, {per_token:.3g} per {unit}.\n"
        f"Routed {len(routed):,} {unit}s of {domains} in {len(opened.windows):,} windows: {seconds:.1f} s.\n"
        f"{fair_share_note(routed.num_experts)}.\n",
        markup=False,
        soft_wrap=True,
    )
    apart = found.separation if len(opened.domains) > 1 else None
    print_layers(console, routed.layers, shares(routed.load), apart, found.explained)
    console.print()


def _print_layer(console: Console, opened: Inspected, found: Findings, shown: list[int], detailed: int) -> None:
    """Domains of the layers shown, and one layer in detail."""
    routed, domains = found.routed, opened.domains
    for number in shown:
        at = routed.layers.index(number)
        apart = f" ({100 * found.separation[at]:.0f} % between the closest two)" if len(domains) > 1 else ""
        title = f"Layer {number}: which experts take which domain{apart}"
        print_takers(console, title, domains, found.domain_expert[at])
        console.print()
    i = routed.layers.index(detailed)
    title = f"Layer {detailed}: which experts take which position in the window"
    print_takers(console, title, found.position_names, found.position_expert[i])
    console.print()
    if opened.is_bytes:
        names, classes = by_byte_class(routed.counts(routed.ids, opened.model.vocab_size))
        print_shares(console, f"Layer {detailed}: which experts take which kind of byte", names, classes[i])
        console.print()
    print_typical(console, detailed, found.typical[i], opened.tokenizer.name, f"{opened.unit}s")
    console.print()
    if found.together[i].any():
        print_pairs(console, detailed, found.pairs[i])
        console.print()
    print_load(console, list(routed.layers), shown, *opened.history[:2])


def _print_text(
    console: Console, opened: Inspected, sentence: SentenceRouting, shown: list[int], detailed: int
) -> None:
    if opened.is_bytes:
        print_sentence(console, sentence, shown)
        return
    print_tokens(console, sentence, detailed, [opened.tokenizer.name(id) for id in sentence.ids])
    console.print()
