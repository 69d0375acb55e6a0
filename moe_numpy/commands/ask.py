"""``python -m moe_numpy ask``: send a query to a tool or a specialist, and say why."""

from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ..orchestration.asking import Asker, Decision, read_log
from ..orchestration.kinds import OUTCOMES
from ..orchestration.router import NUM_READ
from ..orchestration.specialists import SpecialistError, Specialists
from .output import (
    JsonOption,
    console_for,
    note,
    one_line,
    plain_table,
    print_json,
    print_title,
    printable,
    refusals,
    refuse,
)
from .specialists import FOLDER, FolderOption, train_specialists
from .text_progress import text_progress


def ask(
    query: Annotated[
        str | None, typer.Argument(help="What to ask: arithmetic, a fact, a text or code to write.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show the whole decision.")] = False,
    log: Annotated[bool, typer.Option("--log", help="Show the decisions so far, without a query.")] = False,
    new: Annotated[
        bool, typer.Option("--new", help="Begin a conversation; the last one stays in the archive.")
    ] = False,
    train: Annotated[bool, typer.Option("--train", help="Train the specialists first, some minutes.")] = False,
    folder: FolderOption = None,
    json: JsonOption = False,
) -> None:
    """Answer a query by a tool, an archive or a small specialist, and say why it went there.

    Exits with 1 where there is no answer. Arithmetic is exact; facts are cited; what a specialist writes is marked.
    """
    console, folder = console_for(json), folder or FOLDER
    if log == (query is not None):
        refuse("--log is without a query" if log else "give a query, or --log")
    if log:
        with refusals():
            decisions = read_log(folder)
        _show_log(console, decisions, json)
        return
    assert query is not None
    if train:
        train_specialists(folder, console)
    with refusals():
        with text_progress(console, NUM_READ, "Training the router", "read", "prompts") as done:
            asker = Asker(folder, done)
        if new:
            asker.memory.new_conversation()
        decision = asker.ask(query)
    if json:
        print_json(msgspec.to_builtins(decision))
    else:
        _show(console, decision, asker if explain else None)
    if decision.chosen is None:
        raise typer.Exit(1)


def _show(console: Console, decision: Decision, asker: Asker | None) -> None:
    if decision.chosen is not None and decision.chosen.endswith("specialist"):
        line = f"The {decision.chosen} continues the text; it is small and does not understand what is asked:"
        console.print(Text(line, "dim"))
    console.print(Text(printable(decision.answer)))
    for i, reason in enumerate(decision.why):
        console.print(
            Padding(Text(f"{'why' if i == 0 else '':5}{one_line(reason)}", "dim"), (0, 0, 0, 2), expand=False)
        )
    if asker is not None:
        _show_all(console, decision, asker)


def _show_all(console: Console, decision: Decision, asker: Asker) -> None:
    console.print()
    views = _losses_of(asker, decision.query)
    table = plain_table()
    table.add_column("kind")
    for title in ("probability", *(["nats/byte of the query"] if views else [])):
        table.add_column(title, justify="right")
    for outcome in OUTCOMES:
        loss = [f"{views[outcome]:.2f}" if outcome in views else ""] if views else []
        table.add_row(outcome, f"{decision.probabilities[outcome]:.4f}", *loss)
    console.print(table)
    for title, value in (("call", decision.call), ("result", decision.result)):
        if value is not None:
            print_title(console, title)
            content = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
            console.print(Text(printable(content)), soft_wrap=True)


def _losses_of(asker: Asker, query: str) -> dict[str, float]:
    """Of each specialist on the query; empty where they are not trained."""
    try:
        specialists = asker.specialists or Specialists(asker.folder)
        return specialists.losses_of(query)
    except SpecialistError:
        return {}
    except ValueError as error:
        note(str(error))
        return {}


def _show_log(console: Console, decisions: list[Decision], as_json: bool) -> None:
    if as_json:
        print_json([msgspec.to_builtins(decision) for decision in decisions])
        return
    if not decisions:
        console.print("No decisions yet.")
    for decision in decisions:
        number = "" if decision.number is None else f"[{decision.number}] "
        console.print(Text(f"{number}{one_line(decision.query)}", "bold"))
        chosen = decision.chosen or "no answer"
        console.print(Padding(Text(f"{chosen}: {one_line(decision.answer)[:200]}"), (0, 0, 0, 2), expand=False))
        for reason in decision.why:
            console.print(Padding(Text(one_line(reason), "dim"), (0, 0, 0, 2), expand=False))
