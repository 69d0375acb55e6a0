"""``python -m moe_numpy ledger``: what the ranks of a run sent one another, against what they had to send."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from ..accounting.exchange_costs import predicted
from ..training import Run
from ..training.run_ledger import RunLedger
from ..typing import Array, Int
from .output import (
    JsonOption,
    console_for,
    given_path,
    one_line,
    plain_table,
    print_json,
    print_title,
    refusals,
    refuse,
)

_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_CELL = 9  # terminal columns of an entry of the matrix


def ledger(
    run: Annotated[Path, typer.Argument(parser=given_path, metavar="RUN", help="Folder of a run on several ranks.")],
    json: JsonOption = False,
) -> None:
    """Show the bytes that ranks sent one another, by kind and from rank to rank, beside those that accounting predicts.

    The exit code is 0 only if they agree to the byte.
    """
    console = console_for(json)
    with refusals():
        opened = Run.open(run)
        counted = opened.ledger()
        if counted is None:
            raise ValueError(f"{run} has no ledger.json: one rank sends nothing; several write it with each checkpoint")
        config = opened.training_config
        tokens = config.accumulate * config.batch_size * opened.model_config.context
        try:
            document = {"deterministic": config.parts is not None, **_document(counted, tokens)}
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{run / 'ledger.json'} is damaged: {error}") from error
    if json:
        print_json(document)
    else:
        _print(console, one_line(run), document)
    if document["differences"]:
        refuse(f"sent and predicted bytes differ: {', '.join(document['differences'])}", exit_code=1)


def _document(counted: RunLedger, tokens_per_step: int) -> dict[str, Any]:
    expected = predicted(counted.tally, counted.num_ranks)
    of_steps = predicted([entry for entry in counted.tally if _of_a_step(entry)], counted.num_ranks)
    nothing = np.zeros((counted.num_ranks, counted.num_ranks), np.int64)
    kinds = {}
    total = nothing
    for kind in dict.fromkeys([*counted.sent, *expected]):
        sent, must = np.array(counted.sent.get(kind, nothing), np.int64), expected.get(kind, nothing)
        if sent.any() or must.any():
            in_steps = of_steps.get(kind)
            passes = None if in_steps is None else int(in_steps.sum())
            kinds[kind] = {"sent": sent.tolist(), "predicted": must.tolist(), "training_passes": passes}
            total = total + sent
    return {
        "ranks": counted.num_ranks,
        "since_step": counted.since,
        "step": counted.step,
        "tokens_per_step": tokens_per_step,
        "bytes": int(total.sum()),
        "sent": total.tolist(),
        "kinds": kinds,
        "differences": [kind for kind, of in kinds.items() if of["sent"] != of["predicted"]],
    }


def _of_a_step(entry: dict[str, Any]) -> bool:
    """Whether it is of the passes of training, or of their gradients."""
    of_gradients = entry["what"] == "replicas" or entry.get("kind") == "dense gradients"
    return of_gradients or bool(entry.get("training") or entry.get("gradients"))


def _print(console: Console, name: str, document: dict[str, Any]) -> None:
    since = f" after step {document['since_step']:,}" if document["since_step"] else ""
    steps = document["step"] - document["since_step"]
    of = f"{steps:,} steps{since} of {document['tokens_per_step']:,} tokens"
    ranks = "parts as ranks" if document["deterministic"] else "ranks"
    console.print(Text(f"{name}: {document['ranks']} {ranks}, {of}"), soft_wrap=True)
    console.print()
    _print_kinds(console, document, steps)
    console.print()
    _print_matrix(console, np.array(document["sent"], np.int64))


def _print_kinds(console: Console, document: dict[str, Any], steps: int) -> None:
    print_title(console, "Bytes sent to other ranks; per step and token those of training passes alone")
    table = plain_table()
    table.add_column("kind", no_wrap=True)
    for column in ("sent", "predicted", "per step", "per token"):
        table.add_column(column, justify="right", no_wrap=True)

    def add(kind: str, sent: int, must: int, passes: int | None) -> None:
        shown = Text(f"{must:,}") if kind not in document["differences"] else Text(f"{must:,} !", "bold red")
        per_step = None if passes is None or not steps else passes / steps
        per_token = "-" if per_step is None else f"{per_step / document['tokens_per_step']:,.1f}"
        table.add_row(kind, f"{sent:,}", shown, "-" if per_step is None else f"{per_step:,.0f}", per_token)

    rows = [
        (kind, int(np.sum(of["sent"])), int(np.sum(of["predicted"])), of["training_passes"])
        for kind, of in document["kinds"].items()
    ]
    for row in sorted(rows, key=lambda row: -row[1]):
        add(*row)
    add("all", document["bytes"], sum(row[2] for row in rows), sum(row[3] or 0 for row in rows))
    console.print(table)
    if not document["differences"]:
        console.print("Sent and predicted agree to the byte, from each rank to each other.")


def _print_matrix(console: Console, sent: Int[Array, "R R"]) -> None:
    """In several tables if one is wider than the terminal."""
    scale = min(max(len(str(sent.max())) - 1, 0) // 3, len(_UNITS) - 1)
    print_title(console, f"From rank (row) to rank (column), {_UNITS[scale]}")
    at_once = max((console.width - 6) // _CELL, 1)
    for start in range(0, len(sent), at_once):
        columns = range(start, min(start + at_once, len(sent)))
        table = plain_table()
        table.add_column("", no_wrap=True)
        for r in columns:
            table.add_column(str(r), justify="right", no_wrap=True, min_width=_CELL - 2)
        for s, row in enumerate(sent):
            table.add_row(str(s), *("-" if r == s else _in_unit(int(row[r]), scale) for r in columns))
        console.print(table)


def _in_unit(number: int, scale: int) -> str:
    return f"{number:,}" if scale == 0 else f"{number / 1000**scale:,.2f}"
