"""The plan of a training run: its figures, and the tables that show them."""

from dataclasses import asdict
from typing import Any

from rich.console import Console

from ..accounting import Architecture
from ..accounting.plan import (
    COPIES,
    Hardware,
    Layout,
    Training,
    bytes_sent,
    device_memory,
    exchange_seconds,
    reach,
    rows_sent,
    shards,
    step_time,
    training_flops,
)
from .output import one_line, plain_table, print_title
from .units import duration, flop, percent, short, size

_PARTS = {
    "compute": "computing, on average",
    "exchange": "all-to-all that nothing hides",
    "slowest_stage": "waiting for the slowest stage",
    "fullest_device": "waiting for the fullest GPU",
    "bubble": "pipeline bubble",
    "gradients": "gradients between copies",
}
_RECOMPUTED = {"none": "none computed again", "cheap": "cheap ones computed again", "layers": "layers computed again"}


def training_document(a: Architecture, training: Training, hardware: Hardware, memory: int) -> dict[str, Any]:
    """All figures, as JSON has them."""
    layout = training.layout
    each = device_memory(a, training)
    fullest = max(each, key=lambda device: device.total)
    seconds = step_time(a, training, hardware)
    flops, per_second = training_flops(a, training), training.tokens_per_step / seconds.total
    return {
        "layout": layout_document(a, training.layout),
        "training": {name: value for name, value in asdict(training).items() if name != "layout"},
        "memory": {**asdict(fullest), "total": fullest.total, "of_a_gpu": memory},
        "exchange": _exchange_document(a, training, hardware) if a.num_sparse_layers else None,
        "step": {
            **asdict(seconds),
            "total": seconds.total,
            "exchange_in_all": exchange_seconds(a, training, hardware),
            "tokens": training.tokens_per_step,
        },
        "flops_per_token": flops,
        "tokens_per_second": per_second,
        "model_flops_utilisation": flops * per_second / (layout.devices * hardware.peak),
        "gpu_hours_per_trillion_tokens": layout.devices * 1e12 / per_second / 3600,
    }


def layout_document(a: Architecture, layout: Layout) -> dict[str, Any]:
    """The devices, and how they share the model."""
    return {
        "gpus": layout.devices,
        "nodes": layout.nodes,
        "stages": layout.stages,
        "data_parallel": layout.data_parallel,
        "expert_parallel": layout.expert_parallel,
        "expert_nodes": layout.expert_nodes,
        "expert_replicas": layout.expert_replicas,
        "experts_of_the_fullest_gpu": max(shards(a.num_experts, layout.expert_parallel)),
    }


def _exchange_document(a: Architecture, training: Training, hardware: Hardware) -> dict[str, Any]:
    layout, limit = training.layout, training.node_limit
    usable = None if limit is None else min(limit, layout.expert_nodes)
    reached = reach(shards(a.num_experts, layout.expert_parallel), layout.expert_nodes, a.top_k, usable)
    each = {}
    for copies in COPIES:
        rows = rows_sent(layout, a.num_experts, a.top_k, copies, limit)
        sent = bytes_sent(rows, a.d_model, training.types.dispatch, training.types.combine)
        each[copies] = {
            "rows_within": rows.within,
            "rows_between": rows.between,
            "bytes_within": sent.within,
            "bytes_between": sent.between,
            "seconds": hardware.seconds(sent),
        }
    return {"gpus_reached": reached.devices, "nodes_reached": reached.nodes, "copies": each}


def print_layout(console: Console, document: dict[str, Any]) -> None:
    """The title, and who shares what."""
    layout = document["layout"]
    where = f"{count(layout['gpus'], 'GPU')} in {count(layout['nodes'], 'node')}"
    print_title(console, f"{one_line(document['model'])} on {where}")
    words = f"{count(layout['stages'], 'stage')} of {count(layout['data_parallel'], 'GPU')}"
    if layout["experts_of_the_fullest_gpu"]:
        words += f", {count(layout['expert_replicas'], 'copy', 'copies')} of the experts over "
        words += f"{count(layout['expert_parallel'], 'GPU')} in {count(layout['expert_nodes'], 'node')}"
    console.print(f"{words}\n")


def count(number: int, one: str, many: str | None = None) -> str:
    """3 nodes, 1 node."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def print_training(console: Console, document: dict[str, Any]) -> None:
    """All tables."""
    print_layout(console, document)
    _print_memory(console, document)
    if document["exchange"]:
        print_exchange(console, document["exchange"], document["training"]["copies"])
    _print_step(console, document)


def _print_memory(console: Console, document: dict[str, Any]) -> None:
    memory, types = document["memory"], document["training"]["types"]
    table = plain_table()
    table.add_column("memory of the fullest GPU")
    table.add_column("", justify="right")
    table.add_column("")
    how = {
        "weights": f"{short(memory['parameters'])} parameters, {types['weights']}",
        "gradients": types["gradients"],
        "optimizer": ("sharded" if document["training"]["sharded_optimizer"] else "not sharded")
        + f", moments {types['moments']}",
        "activations": f"{types['activations']}, {_RECOMPUTED[document['training']['recompute']]}",
    }
    for name, words in how.items():
        table.add_row(f"  {name}", size(memory[name]), words)
    fits = "fits" if memory["total"] <= memory["of_a_gpu"] else "does not fit"
    table.add_row("  all", size(memory["total"]), f"{fits} in {size(memory['of_a_gpu'])}")
    console.print(table, "")


def print_exchange(console: Console, exchange: dict[str, Any], used: str) -> None:
    """What a token sends in one sparse layer."""
    table = plain_table()
    table.add_column("a token's row\ngoes once")
    for name in ("rows in\nits node", "rows to\nother nodes", "bytes in\nits node", "bytes to\nother nodes", "\ntime"):
        table.add_column(name, justify="right")
    for copies, sent in exchange["copies"].items():
        table.add_row(
            f"{'*' if copies == used else ' '} to each {'GPU' if copies == 'device' else copies}",
            f"{sent['rows_within']:.2f}",
            f"{sent['rows_between']:.2f}",
            size(sent["bytes_within"]),
            size(sent["bytes_between"]),
            duration(sent["seconds"]),
        )
    console.print(table)
    console.print(
        f"* is used. Expected values, forward, in one sparse layer; backward as much.\n"
        f"A token's experts are on {exchange['gpus_reached']:.2f} GPUs in {exchange['nodes_reached']:.2f} nodes.\n"
    )


def _print_step(console: Console, document: dict[str, Any]) -> None:
    step, total = document["step"], document["step"]["total"]
    table = plain_table()
    table.add_column(f"a step of {short(step['tokens'])} tokens")
    table.add_column("", justify="right")
    table.add_column("", justify="right")
    for name, words in _PARTS.items():
        if step[name] > 0:
            table.add_row(f"  {words}", duration(step[name]), percent(step[name] / total))
    table.add_row("  all", duration(total), "")
    console.print(table)
    load = document["training"]["imbalance"]
    console.print(
        f"All-to-all takes {duration(step['exchange_in_all'])}. The fullest GPU has {load:.2f} times the mean load.\n"
    )
    table = plain_table()
    table.show_header = False
    table.add_column()
    table.add_column(justify="right")
    table.add_row("FLOPs per token", flop(document["flops_per_token"]))
    table.add_row("tokens per second", short(document["tokens_per_second"]))
    table.add_row("model FLOPs utilisation", percent(document["model_flops_utilisation"]))
    table.add_row("GPU hours per trillion tokens", f"{document['gpu_hours_per_trillion_tokens']:,.0f}")
    console.print(table)
