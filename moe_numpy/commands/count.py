"""``python -m moe_numpy count``: parameters, FLOPs and bytes of published models and your own runs."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..accounting import (
    BITS,
    PUBLISHED,
    Architecture,
    PublishedModel,
    active_parameters,
    all_to_all,
    architecture_of,
    balancing_biases,
    cache_bytes,
    cache_bytes_per_token,
    flops_per_token,
    published,
    total_parameters,
    weight_bytes,
)
from ..accounting.parameters import Parameters
from ..models import ModelConfig, Transformer
from ..nn import FeedForward, MatrixLinear
from ..nn.module import Unfilled
from ..pretrained import from_pretrained, is_published
from ..pretrained.stored_experts import StoredExperts
from ..training import Run, TrainingConfig
from ..training.memory import require_memory
from .output import JsonOption, command_line, console_for, one_line, print_json, print_title, refusals
from .units import flop, percent, short, size

_CONTEXT = 4096


def count(
    model: Annotated[
        str | None,
        typer.Argument(
            help="The name of a published model, its folder, or a run folder.", show_default="all published models"
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens in the sequence.", show_default=f"{_CONTEXT}, or the run's context"),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help=f"Type of weights, cache and traffic: {', '.join(BITS)}.", show_default="bf16"),
    ] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Devices over which each layer's experts are spread.")
    ] = None,
    device_limit: Annotated[
        int | None, typer.Option(min=1, help="With --devices: at most this many per token.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Count parameters (total, active), FLOPs and bytes, and compare with what the publishers state."""
    console = console_for(json)
    with refusals():
        if model is None:
            options = {"context": context, "dtype": dtype, "devices": devices, "device-limit": device_limit}
            given = [f"--{name}" for name, value in options.items() if value is not None]
            if given:
                raise ValueError(f"{', '.join(given)} needs a MODEL; the table of all models shows parameters only")
            documents = [
                {"model": name, **_sizes(entry.architecture), "stated": _stated(entry)}
                for name, entry in PUBLISHED.items()
            ]
        else:
            architecture, entry, default_context = _find(model)
            if isinstance(architecture, Transformer):
                options = {"context": context, "dtype": dtype, "devices": devices, "device-limit": device_limit}
                given = [name for name, value in options.items() if value]
                if given:
                    raise ValueError(f"--{given[0]} needs layers whose costs are counted; those of {model} are not")
                document = {"model": model, **_measured_sizes(architecture), "stated": None}
            else:
                document = {
                    "model": model,
                    **_sizes(architecture),
                    **_costs(architecture, context or default_context, dtype or "bf16", devices, device_limit),
                    "stated": _stated(entry) if entry else None,
                }
    if json:
        print_json({"models": documents} if model is None else document)
    elif model is None:
        _print_overview(console, documents)
    else:
        _print_document(console, document, architecture)


def _find(model: str) -> tuple[Architecture | Transformer, PublishedModel | None, int]:
    """The architecture, its published entry if any, and the default context.

    The model itself instead, for a published folder and for a run that no architecture can express.
    """
    is_path = Path(model).name != model or Path(model).is_dir()
    if is_path and model.lower() not in PUBLISHED:
        if is_published(Path(model)):
            return from_pretrained(model), None, _CONTEXT
        config = Run.open(Path(model)).model_config
        if not isinstance(config, ModelConfig):
            return Transformer(config, rng=Unfilled()), None, config.context
        try:
            return architecture_of(config), None, config.context
        except ValueError:
            require_memory(config, TrainingConfig())
            return Transformer(config, rng=np.random.default_rng(0)), None, config.context
    entry = published(model)
    return entry.architecture, entry, _CONTEXT


def _sizes(architecture: Architecture) -> dict[str, Any]:
    total, active = total_parameters(architecture), active_parameters(architecture)
    return {
        "total": total.with_embedding,
        "active_with_embedding": active.with_embedding,
        "active_without_embedding": active.without_embedding,
        "active_share": active.with_embedding / total.with_embedding,
        "balancing_biases": balancing_biases(architecture),
        "parts": total.parts(),
        "active_parts": active.parts(),
    }


def _measured_sizes(model: Transformer) -> dict[str, Any]:
    """What :func:`_sizes` counts, from the parameters of the model itself: its layers are no Architecture."""
    parts = {field.name: 0 for field in fields(Parameters)}
    for name, parameter in model.named_parameters():
        parts[_part(name, model)] += parameter.data.size
    stored = sum(m.num_parameters() for _, m in model.named_modules() if isinstance(m, StoredExperts))
    parts["experts"] += stored
    for path, module in model.named_modules():
        if isinstance(module, MatrixLinear):
            parts[_part(f"{path}weight", model)] += module.num_stored
    total, active = sum(parts.values()), model.active_parameters()
    return {
        "total": total,
        "active_with_embedding": active,
        "active_without_embedding": active - parts["embedding"],
        "active_share": active / total,
        "balancing_biases": 0,
        "parts": parts,
        "active_parts": parts | {"experts": parts["experts"] - (total - active)},
        "flops_per_token": None,
        "bytes": None,
    }


def _part(name: str, model: Transformer) -> str:
    """The field of Parameters that a parameter of this name belongs to."""
    if not name.startswith("layers."):
        return {"embedding": "embedding", "output": "output"}.get(name.partition(".")[0], "norms")
    _, layer, module, rest = name.split(".", 3)
    if module != "feed_forward":
        return "norms" if module.endswith("norm") else "attention"
    if isinstance(model.layers[int(layer)].feed_forward, FeedForward):
        return "dense"
    if "experts" in rest.split("."):
        return "experts"
    return "shared_experts" if rest.startswith("shared") else "router"


def _costs(
    architecture: Architecture, context: int, dtype: str, devices: int | None, device_limit: int | None
) -> dict[str, Any]:
    flops = flops_per_token(architecture, context)
    traffic = all_to_all(architecture, dtype, devices, device_limit)
    return {
        "context": context,
        "dtype": dtype,
        "devices": devices,
        "device_limit": device_limit,
        "flops_per_token": {
            "weights_forward": flops.weights,
            "scores_forward": flops.scores,
            "forward": flops.forward,
            "backward": flops.backward,
        },
        "bytes": {
            "weights": weight_bytes(architecture, dtype),
            "cache_per_token": cache_bytes_per_token(architecture, dtype),
            "cache_at_context": cache_bytes(architecture, context, dtype),
            "all_to_all_per_assignment": traffic.per_assignment,
            "all_to_all_per_device_expected": traffic.per_device,
        },
    }


def _stated(entry: PublishedModel) -> dict[str, Any]:
    """The publisher's figures, and by how many percent the counts exceed them."""
    sizes = _sizes(entry.architecture)

    def percent_above(key: str, stated: float | None) -> float | None:
        return None if stated is None else round(100 * (sizes[key] / stated - 1), 4)

    return {
        "total": entry.stated_total,
        "total_difference_percent": percent_above("total", entry.stated_total),
        "active": entry.stated_active,
        "active_with_embedding_difference_percent": percent_above("active_with_embedding", entry.stated_active),
        "active_without_embedding_difference_percent": percent_above("active_without_embedding", entry.stated_active),
        "source": entry.source,
        "note": entry.note,
    }


def _table(*columns: str) -> Table:
    """A table with these headings; all columns but the first hold numbers."""
    table = Table(columns[0], box=SIMPLE_HEAD, pad_edge=False)
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _print_overview(console: Console, documents: list[dict[str, Any]]) -> None:
    table = _table("model", "total", "stated", "active", "without\nembedding", "stated", "active\nshare")
    for row in documents:
        stated = row["stated"]
        table.add_row(
            row["model"],
            short(row["total"]),
            short(stated["total"]),
            short(row["active_with_embedding"]),
            short(row["active_without_embedding"]),
            "-" if stated["active"] is None else short(stated["active"]),
            percent(row["active_share"]),
        )
    console.print(table)
    console.print(
        "Parameters. active: those that one token uses, with and without the input embedding; stated: by the publisher."
    )
    console.print(f"One in detail: {command_line('count', documents[0]['model'])}", markup=False, soft_wrap=True)


def _print_document(console: Console, document: dict[str, Any], architecture: Architecture | Transformer) -> None:
    print_title(console, one_line(document["model"]))
    _print_parts(console, document)
    if isinstance(architecture, Transformer):
        console.print("FLOPs and bytes of these layers are not counted.")
        return
    if architecture.num_encoder_layers:
        console.print("Encoder and decoder: a token is one source token and one target token together.\n")
    _print_costs(console, document, architecture)
    if document["stated"]:
        _print_stated(console, document)


def _print_parts(console: Console, document: dict[str, Any]) -> None:
    table = _table("parameters", "total", "share", "active")
    all_stored = document["total"]

    def add(name: str, total: int, active: int) -> None:
        table.add_row(name, f"{total:,}", percent(total / all_stored), f"{active:,}")

    for part, number in document["parts"].items():
        if number:
            add(part.replace("_", " "), number, document["active_parts"][part])
    table.add_section()
    add("all", all_stored, document["active_with_embedding"])
    without_embedding = all_stored - document["parts"]["embedding"]
    add("without input embedding", without_embedding, document["active_without_embedding"])
    if document["balancing_biases"]:
        table.add_row("balancing biases, separate", f"{document['balancing_biases']:,}", "", "")
    console.print(table)


def _print_costs(console: Console, document: dict[str, Any], architecture: Architecture) -> None:
    context, flops, sizes = document["context"], document["flops_per_token"], document["bytes"]
    table = _table(f"per token, in {document['dtype']}", "")
    table.add_row("forward, multiplications with weights", flop(flops["weights_forward"]))
    table.add_row(f"forward, attention scores over {context:,} tokens", flop(flops["scores_forward"]))
    table.add_row("forward, both", flop(flops["forward"]))
    table.add_row("backward", flop(flops["backward"]))
    table.add_row("weights, the whole model", size(sizes["weights"]))
    table.add_row("key/value cache", size(sizes["cache_per_token"]))
    table.add_row(f"key/value cache of {context:,} tokens", size(sizes["cache_at_context"]))
    if architecture.num_sparse_layers:
        table.add_row("all-to-all, to each chosen expert", size(sizes["all_to_all_per_assignment"]))
    if sizes["all_to_all_per_device_expected"] is not None:
        limit = f", at most {document['device_limit']}" if document["device_limit"] else ""
        table.add_row(
            f"all-to-all, to each other device of {document['devices']}{limit}; expected",
            size(sizes["all_to_all_per_device_expected"]),
        )
    console.print(table)


def _print_stated(console: Console, document: dict[str, Any]) -> None:
    stated = document["stated"]
    table = _table("", "counted", "stated", "difference")
    for key in ("total", "active_with_embedding", "active_without_embedding"):
        said = stated[key.split("_")[0]]
        if said is not None:
            difference = f"{stated[f'{key}_difference_percent']:+.2f} %"
            name = key.replace("_", " ").replace("embedding", "input embedding")
            table.add_row(name, short(document[key]), short(said), difference)
    console.print(table)
    console.print(f"Source: {stated['source']}", markup=False)
    if stated["note"]:
        console.print(f"Note: {stated['note']}", markup=False)
