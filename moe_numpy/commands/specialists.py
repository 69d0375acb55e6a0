"""``python -m moe_numpy specialists``: train the models that ``ask`` sends queries to."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..orchestration.specialists import KINDS, MODEL, STAGES, is_trained, kinds_of, text_file, trainer_of, write_texts
from ..training import Run
from .output import JsonOption, console_for, given_path, plain_table, print_command, print_json, refusals, with_default
from .progress import clock
from .run_training import existing_run, new_run, run_training

FOLDER = Path("runs/specialists")
FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        parser=given_path,
        metavar="PATH",
        help=with_default("Of the specialists, the router and the memory.", FOLDER),
    ),
]


def specialists(folder: FolderOption = None, json: JsonOption = False) -> None:
    """Train four small models for ask: prose, code, arithmetic and knowledge, branched from a common seed.

    Some minutes. Stopped early, the same command continues; once trained, it shows their losses.
    """
    console, folder = console_for(json), folder or FOLDER
    began = time.perf_counter()
    summaries = train_specialists(folder, console)
    if json:
        print_json({"folder": str(folder), "specialists": summaries})
        return
    _print(console, summaries)
    console.print(f"Total time {clock(time.perf_counter() - began)}")
    print_command(console, "ask", "what is 17 * 23?", *_folder_option(folder))


def train_specialists(folder: Path, console: Console) -> dict[str, dict[str, Any]]:
    """Train what is not trained yet; the summary of every stage."""
    with refusals():
        if not all(text_file(folder, kind).exists() for kind in KINDS):
            with console.status("Collecting text ..."):
                write_texts(folder)
    for stage in STAGES:
        if not is_trained(folder, stage):
            _train(folder, stage, console)
    with refusals():
        return {stage: Run.open(folder / stage).summary() or {} for stage in STAGES}


def _train(folder: Path, stage: str, console: Console) -> None:
    own = folder / stage
    with ExitStack() as held:
        with refusals():
            trainer = trainer_of(folder, stage)
            files = [str(text_file(folder, kind)) for kind in kinds_of(stage)]
            started = (own / "config.json").exists()
            opened = existing_run(own) if started else new_run(own, MODEL, trainer.config, files)
            run = held.enter_context(opened)
            if run.newest_step() is not None:
                trainer.resume(run)
        again = "specialists", *_folder_option(folder)
        run_training(run, trainer, console, label=stage, continue_with=again)


def _print(console: Console, summaries: dict[str, dict[str, Any]]) -> None:
    table = plain_table()
    table.add_column("model")
    for title in ("parameters", "steps", "validation, nats/byte", "before its training"):
        table.add_column(title, justify="right")
    for stage, summary in summaries.items():
        losses = f"{summary['val_loss']:.3f}", f"{summary['val_loss_initial']:.3f}"
        table.add_row(stage, f"{summary['total_parameters']:,}", f"{summary['steps']:,}", *losses)
    console.print(table)


def _folder_option(folder: Path) -> tuple[object, ...]:
    return () if folder == FOLDER else ("--folder", folder)
