"""The plan of decoding: its figures, and the tables that show them."""

from dataclasses import asdict
from typing import Any

from rich.console import Console

from ..accounting import Architecture
from ..accounting.plan import Layout, Serving
from .output import plain_table
from .plan_training import count, layout_document, print_layout
from .units import duration, short, size


def serving_document(
    a: Architecture, layout: Layout, step: Serving, texts: int, context: int, imbalance: float, memory: int
) -> dict[str, Any]:
    """All figures, as JSON has them."""
    return {
        "layout": layout_document(a, layout),
        "texts_per_gpu": texts,
        "context": context,
        "imbalance": imbalance,
        "memory": {
            "weights": step.weights,
            "cache": step.cache,
            "total": step.weights + step.cache,
            "of_a_gpu": memory,
        },
        "step": {name: value for name, value in asdict(step).items() if name not in ("weights", "cache")},
        "tokens_per_second": layout.devices * texts / step.seconds,
        "tokens_per_second_of_a_text": 1 / step.seconds,
    }


def print_serving(console: Console, document: dict[str, Any]) -> None:
    """All tables."""
    print_layout(console, document)
    memory, step = document["memory"], document["step"]
    table = plain_table()
    table.add_column("memory of the fullest GPU")
    table.add_column("", justify="right")
    table.add_column("")
    table.add_row("  weights", size(memory["weights"]), "")
    texts = f"{count(document['texts_per_gpu'], 'text')} of {count(document['context'], 'token')}"
    table.add_row("  cache", size(memory["cache"]), texts)
    fits = "fits" if memory["total"] <= memory["of_a_gpu"] else "does not fit"
    table.add_row("  all", size(memory["total"]), f"{fits} in {size(memory['of_a_gpu'])}")
    console.print(table, "")
    table = plain_table()
    table.add_column("a step: one token of each text")
    table.add_column("", justify="right")
    table.add_column("")
    table.add_row("  reading memory", duration(step["memory_seconds"]), size(step["read"]))
    table.add_row("  multiplications, meanwhile", duration(step["compute_seconds"]), "")
    load = f"fullest GPU {document['imbalance']:.2f} times the mean load"
    table.add_row("  all-to-all", duration(step["exchange_seconds"]), load)
    table.add_row("  all", duration(step["seconds"]), "")
    console.print(table, "")
    console.print(
        f"{document['tokens_per_second_of_a_text']:.4g} tokens per second of each text, "
        f"{short(document['tokens_per_second'])} of all."
    )
