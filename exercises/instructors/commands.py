"""The commands ``grade`` and ``pack``."""

import secrets
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from moe_numpy.commands.output import JsonOption, console_for, given_path, one_line, print_json, refusals
from moe_numpy.files import write_atomically

from ..actions import chosen
from .gradebook import Gradebook, Row
from .grading import NOT_GRADED, NOT_HANDED_IN, grade_class
from .hand_ins import hand_ins
from .packs import PACKS

Which = Annotated[str, typer.Option(help="Numbers and ranges: 05, 01-10, or 01-04,11; or all.")]


def grade(
    folder: Annotated[str, typer.Argument(help="With a folder or a zip for each student.")],
    out: Annotated[str, typer.Option(help="The CSV file. One that is there is continued.")],
    which: Which = "all",
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the inputs. Left out: that of the CSV file, or a new one.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """For instructors: grade a class, unattended, into one CSV file.

    Files that were graded with the same seed before are not graded again, so that a run that was ended goes on. Exit
    code 1 if something could not be graded.
    """
    console, class_folder, path = console_for(json), given_path(folder), given_path(out)
    with refusals():
        exercises = chosen(which)
        if not class_folder.is_dir():
            raise ValueError(f"{class_folder} is not a folder; it must have a folder or a zip for each student")
        book = Gradebook(path)
    if seed is None:
        seed = book.seed if book.seed is not None else secrets.randbelow(2**31)
    with tempfile.TemporaryDirectory(prefix="hand-ins-") as scratch:
        with refusals():
            class_ = hand_ins(class_folder, exercises, Path(scratch))
            book.begin()
        _say(console, f"students: {len(class_)}, exercises: {len(exercises)}; --seed {seed} gives these grades again")
        rows: list[Row] = []
        kept = 0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        try:
            with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
                task = progress.add_task("grading", total=len(class_) * len(exercises))
                for row, is_new in grade_class(class_, exercises, seed, book):
                    rows.append(row)
                    kept += not is_new
                    if is_new:
                        with refusals():
                            book.add(row)
                    progress.update(task, advance=1, description=f"{row.exercise} {one_line(row.student)[:20]}")
                    if not console.is_terminal and len(rows) % len(class_) == 0:
                        _say(
                            console, f"{row.exercise} {row.name}: {sum(r.passed for r in rows[-len(class_) :])} passed"
                        )
        except KeyboardInterrupt:
            book.begin()
            _say(console, f"stopped after {len(rows)} files; the same command goes on from here")
            raise typer.Exit(130) from None
    with refusals():
        book.begin()
    not_graded = sum(row.note.startswith(NOT_GRADED) for row in rows)
    if json:
        print_json({"seed": seed, "file": str(path), "kept": kept, "rows": [asdict(row) for row in rows]})
    else:
        console.print(_by_student(rows))
        _say(console, f"{path}: {len(rows)} grades, {kept} of them from before" + _warned(not_graded))
    raise typer.Exit(1 if not_graded else 0)


def pack(
    kind: Annotated[str, typer.Argument(help="gradescope: a zip. classroom: a workflow for GitHub Classroom.")],
    out: Annotated[str, typer.Option(help="The file to write.")],
    which: Which = "all",
    seed: Annotated[int, typer.Option(min=0, help="Of the inputs; students do not see it.")] = 0,
) -> None:
    """For instructors: write what another grader needs."""
    path = given_path(out)
    with refusals():
        if kind not in PACKS:
            raise ValueError(f"kind must be one of {', '.join(PACKS)}, got {kind!r}")
        exercises = chosen(which)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically({path: PACKS[kind](exercises, seed)})
    _say(console_for(False), f"{path}: {len(exercises)} exercises, {sum(e.points for e in exercises)} points")


def _by_student(rows: list[Row]) -> Table:
    table = Table("student", box=None, header_style="dim")
    for name in ("points", "of", "passed", "not handed in"):
        table.add_column(name, justify="right")
    of_student = defaultdict(list)
    for row in rows:
        of_student[row.student].append(row)
    for student, mine in sorted(of_student.items()):
        missing = sum(row.note.startswith(NOT_HANDED_IN) for row in mine)
        amounts = (sum(r.points for r in mine), sum(r.of for r in mine), sum(r.passed for r in mine), missing)
        table.add_row(Text(one_line(student)), *map(str, amounts))
    return table


def _warned(not_graded: int) -> str:
    return f"; {not_graded} could not be graded, see their notes" if not_graded else ""


def _say(console: Console, text: str) -> None:
    console.print(Text(one_line(text)), soft_wrap=True)
