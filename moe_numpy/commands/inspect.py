"""``python -m moe_numpy inspect``: what the experts of a model have learned."""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console

from ..autodiff import check_finite
from ..instruments.coactivation import Pair, chosen_together, closest_pairs, expected_together
from ..instruments.dependence import Explained, explained_beyond_chance
from ..instruments.positions import position_groups
from ..instruments.routed_text import RoutedText, route_text, shares
from ..instruments.routing_report import SentenceRouting, by_byte_class, most_separating, route_sentence, separation
from ..instruments.typical_tokens import Typical, typical_labels
from ..typing import Array, Float, Int
from .figures import save_figures
from .inspected import TOKENS, Inspected, open_inspected
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
from .routing_tables import (
    print_layers,
    print_pairs,
    print_sentence,
    print_takers,
    print_tokens,
    print_typical,
)
from .shares import fair_share_note, print_shares
from .text_progress import text_progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DRAWN_LAYERS = 4  # of a published model
_DRAWN_TOKENS = 24
_SEED = 0  # of the shuffles


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
        typer.Option(
            parser=given_path, help=with_default("Folder for PNGs.", "a run's own; none for a published model")
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show which experts take which domains, tokens and positions: tables, and PNGs."""
    console = console_for(json)
    with refusals():
        if out is not None and out.exists() and not out.is_dir():
            raise ValueError(f"--out: {out} is not a folder")
        with console.status("Reading ..."):
            opened = open_inspected(model, text or [], tokens, sentence, layer, step)
        with check_finite(), np.errstate(all="ignore"):
            routed_sentence = route_sentence(opened.model, opened.sentence)
            found = _look(console, opened, routed_sentence)
    figures = _save_figures(opened, found, layer, out)
    if json:
        print_json(_document(opened, found, layer, figures))
        return
    _print(console, opened, found, layer)
    print_files(console, "Figures", figures)
    if out is None and not opened.is_run:
        console.print("No PNGs were written; --out FOLDER says where they go.")


@dataclass(frozen=True, eq=False)
class _Found:
    """All that is shown. L layers, D domains, P groups of positions, E experts."""

    seconds: float
    routed: RoutedText
    sentence: SentenceRouting
    domain_expert: Int[Array, "L D E"]
    position_names: list[str]
    position_expert: Int[Array, "L P E"]
    together: Int[Array, "L E E"]
    explained: dict[str, list[Explained]]
    typical: list[list[list[Typical]]]

    @property
    def domain_shares(self) -> Float[Array, "L D E"]:
        """Each expert's share of the domain's assignments."""
        return shares(self.domain_expert)

    @property
    def pairs(self) -> list[list[Pair]]:
        """The experts chosen together, layer by layer."""
        return [closest_pairs(of_layer) for of_layer in self.together]

    def telling(self, layer: int | None) -> int:
        """The layer to show in detail: the one asked for, or the one that separates the domains best."""
        return self.routed.layers[most_separating(self.domain_shares)] if layer is None else layer


def _look(console: Console, opened: Inspected, sentence: SentenceRouting) -> _Found:
    """Route the text and count."""
    began = time.monotonic()
    total = sum(len(w.ids) - w.lead for w in opened.windows)
    with text_progress(console, total) as done:
        routed = route_text(opened.model, opened.windows, opened.batch_size, done)
    with console.status("Counting ..."):
        group, names = position_groups(routed.position)
        by_position = routed.counts(group, len(names))
        occurs = np.unique(group)
        return _Found(
            seconds=time.monotonic() - began,
            routed=routed,
            sentence=sentence,
            domain_expert=routed.counts(routed.domain, len(opened.domains)),
            position_names=[names[i] for i in occurs],
            position_expert=by_position[:, occurs],
            together=np.stack([chosen_together(c.token, c.expert, routed.num_experts) for c in routed.choices]),
            explained=_explained(routed, len(opened.domains)),
            typical=[typical_labels(routed.ids[c.token], c.expert, routed.num_experts) for c in routed.choices],
        )


def _explained(routed: RoutedText, num_domains: int) -> dict[str, list[Explained]]:
    """By label, layer by layer."""
    labels = {"token": routed.ids, "token before": routed.before, "position": routed.position}
    if num_domains > 1:
        labels["domain"] = routed.domain
    rng = np.random.default_rng(_SEED)
    return {
        name: [
            explained_beyond_chance(c.first, label, routed.window, rng, within=name == "position")
            for c in routed.choices
        ]
        for name, label in labels.items()
    }


def _print(console: Console, opened: Inspected, found: _Found, layer: int | None) -> None:
    routed = found.routed
    layers, domains = list(routed.layers), opened.domains
    shown = layers if layer is None and opened.is_run else [found.telling(layer)]
    telling = found.telling(layer)
    i = layers.index(telling)
    kind = "byte" if opened.is_run else "token"
    after = f" after step {opened.step}" if opened.is_run else ""
    per_token = len(routed.choices[i].token) / len(routed)
    console.print(
        f"{one_line(opened.folder)}{after}: {routed.num_experts} experts, {per_token:g} per {kind}. "
        f"{fair_share_note(routed.num_experts)}.\n"
        f"Routed {len(routed):,} {kind}s of {len(domains)} domain{'s' * (len(domains) > 1)} in "
        f"{len(opened.windows):,} windows: {found.seconds:.1f} s.\n",
        markup=False,
    )
    apart = separation(found.domain_shares) if len(domains) > 1 else None
    print_layers(console, layers, shares(routed.load), apart, found.explained)
    console.print()
    for number in shown:
        at = layers.index(number)
        note = "" if apart is None else f" ({100 * apart[at]:.0f} % between the closest two)"
        print_takers(
            console, f"Layer {number}: which experts take which domain{note}", domains, found.domain_expert[at]
        )
        console.print()
    title = f"Layer {telling}: which experts take which position in the window"
    print_takers(console, title, found.position_names, found.position_expert[i])
    console.print()
    if opened.is_run:
        names, classes = by_byte_class(_byte_expert(opened, routed))
        print_shares(console, f"Layer {telling}: which experts take which kind of byte", names, classes[i])
        console.print()
    print_typical(console, telling, found.typical[i], opened.tokenizer.name, f"{kind}s")
    console.print()
    if per_token > 1:
        print_pairs(console, telling, found.pairs[i])
        console.print()
    if opened.is_run:
        _print_load(console, layers, shown, *opened.history)
        print_sentence(console, found.sentence, shown)
    else:
        print_tokens(console, found.sentence, telling, [opened.tokenizer.name(id) for id in found.sentence.ids])
        console.print()
    if layer is None and len(layers) > 1:
        console.print(f"{kind.capitalize()}s of another layer: --layer N, one of {layers}.")


def _save_figures(opened: Inspected, found: _Found, layer: int | None, out: Path | None) -> list[Path]:
    folder = opened.folder if out is None and opened.is_run else out
    if folder is None:
        return []
    routed, domains = found.routed, opened.domains
    layers = list(routed.layers)
    at = list(range(len(layers)))
    if not opened.is_run:
        some = np.linspace(0, len(layers) - 1, min(len(layers), _DRAWN_LAYERS)).round().astype(int)
        at = some.tolist() if layer is None else [layers.index(layer)]
    numbers = [layers[i] for i in at]

    def draw(plots: Any) -> "dict[str, Figure]":
        figures = {"expert_by_domain": plots.expert_by_domain(found.domain_shares[at], domains, numbers)}
        if opened.is_run:
            names, classes = by_byte_class(_byte_expert(opened, routed)[at])
            figures["expert_by_byte"] = plots.expert_by_byte(classes, names, numbers)
        else:
            names, token_expert = _frequent(opened, routed)
            figures["expert_by_token"] = plots.expert_by_token(token_expert[at], names, numbers)
        figures["expert_by_position"] = plots.expert_by_position(
            shares(found.position_expert[at]), found.position_names, numbers
        )
        dropped = routed.dropped.sum(axis=1) / np.maximum(routed.load.sum(axis=1), 1)
        figures["expert_load"] = plots.expert_load(shares(routed.load)[at], dropped[at], numbers)
        if found.together.any():
            expected = np.stack([expected_together(found.together[i]) for i in at])
            figures["co_activation"] = plots.co_activation(found.together[at], expected, numbers)
        beyond = np.array([[e.adjusted for e in of_label] for of_label in found.explained.values()])
        figures["explained_by_layer"] = plots.explained_by_layer(beyond, list(found.explained), layers)
        if len(opened.history[0]):
            figures["load_over_training"] = plots.load_over_training(*opened.history, layers)
        tokens = None if opened.is_run else [opened.tokenizer.name(id) for id in found.sentence.ids]
        figures["sentence_routing"] = plots.sentence_routing(found.sentence.of_layers(numbers), tokens)
        return figures

    return save_figures(folder, draw)


def _frequent(opened: Inspected, routed: RoutedText) -> tuple[list[str], Float[Array, "L R E"]]:
    """The most frequent tokens and the shares of their experts."""
    ids, code, count = np.unique(routed.ids, return_inverse=True, return_counts=True)
    top = np.sort(np.argsort(-count, kind="stable")[:_DRAWN_TOKENS])
    counts = np.zeros((len(routed.layers), len(top), routed.num_experts), np.int64)
    row = np.full(len(ids), -1)
    row[top] = np.arange(len(top))
    for of_layer, c in zip(counts, routed.choices, strict=True):
        rows = row[code[c.token]]
        np.add.at(of_layer, (rows[rows >= 0], c.expert[rows >= 0]), 1)
    return [opened.tokenizer.name(int(id)) for id in ids[top]], shares(counts)


def _byte_expert(opened: Inspected, routed: RoutedText) -> Int[Array, "L V E"]:
    return routed.counts(routed.ids, opened.model.vocab_size)


def _document(opened: Inspected, found: _Found, layer: int | None, figures: list[Path]) -> dict[str, Any]:
    routed, name = found.routed, opened.tokenizer.name
    model: dict[str, Any] = {"model": str(opened.folder)}
    if opened.is_run:
        names, classes = by_byte_class(_byte_expert(opened, routed))
        model = {
            "run": str(opened.folder),
            "step": opened.step,
            "byte_classes": names,
            "byte_class_expert_by_layer": classes.tolist(),
            "typical_bytes_by_layer": _typical_document(found, name, "byte"),
        }
    return model | {
        "layers": list(routed.layers),
        "num_experts": routed.num_experts,
        "tokens": len(routed),
        "seconds": round(found.seconds, 3),
        "domains": opened.domains,
        "separation": separation(found.domain_shares).tolist(),
        "domain_expert_by_layer": found.domain_shares.tolist(),
        "positions": found.position_names,
        "position_expert_by_layer": shares(found.position_expert).tolist(),
        "typical_tokens_by_layer": _typical_document(found, name, "token"),
        "chosen_together_by_layer": [[asdict(pair) | {"lift": pair.lift} for pair in of] for of in found.pairs],
        "explained_by_layer": {
            label: [_explained_document(each) for each in of] for label, of in found.explained.items()
        },
        "expert_load": shares(routed.load).tolist(),
        "dropped_fraction": float(routed.dropped.sum() / max(routed.load.sum(), 1)),
        "sentence": _sentence_document(opened, found, layer),
        "figures": [str(figure) for figure in figures],
    }


def _typical_document(found: _Found, name: Any, label: str) -> list[list[list[dict[str, Any]]]]:
    return [
        [[{label: t.label, "name": name(t.label), "lift": t.lift, "count": t.count} for t in of] for of in experts]
        for experts in found.typical
    ]


def _explained_document(each: Explained) -> dict[str, float | None]:
    adjusted = None if math.isnan(each.adjusted) else each.adjusted
    return {"share": each.share, "chance": each.chance, "adjusted": adjusted}


def _sentence_document(opened: Inspected, found: _Found, layer: int | None) -> dict[str, Any]:
    routed = found.sentence
    telling = found.telling(layer)
    i = routed.layers.index(telling)
    experts = [
        [{"expert": int(e), "gate": float(routed.gate[i, s, e])} for e in np.flatnonzero(routed.asked[i, s])]
        for s in range(len(routed.ids))
    ]
    return {
        "bytes" if opened.is_run else "tokens": list(routed.ids),
        "names": [opened.tokenizer.name(id) for id in routed.ids],
        "first_choice_by_layer": routed.first_choice.tolist(),
        "dropped_by_layer": routed.dropped.tolist(),
        "layer": telling,
        "experts": experts,
    }


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
