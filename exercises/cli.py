"""The commands: ``python -m exercises COMMAND``."""

import json as json_module
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from moe_numpy.commands.output import one_line, printable, refusals, refuse
from moe_numpy.commands.usage import Group
from moe_numpy.files import write_atomically

from . import actions
from .catalog import all_exercises
from .exercise import Exercise
from .grading.grade import GraderError, Result
from .grading.process import ROOT
from .instructors.commands import grade, pack
from .progress_file import Progress
from .report import next_up, print_hint, print_list, print_result
from .submission import SubmissionError
from .workspace import Workspace

app = typer.Typer(
    name="python -m exercises",
    cls=Group,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_BROKEN = "the exercise itself is broken, please report it: {}"
Which = Annotated[str, typer.Argument(help="A number, 07; a range, 05-09; or all.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Of the inputs.")]
DeriveOption = Annotated[bool, typer.Option("--derive", help="The stub without the formula of the derivative.")]


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    """Rebuild the library, function by function. Without a command: where you are, and what comes next."""
    if context.invoked_subcommand is None:
        list_(json=False)


@app.command("list")
def list_(json: JsonOption = False) -> None:
    """All exercises, with your progress."""
    workspace, exercises = Workspace(), all_exercises()
    if not json:
        print_list(_console(json), exercises, workspace)
        _tell(workspace)
        return
    progress = workspace.progress()
    _print_json(
        [
            {
                "exercise": e.label,
                "title": e.title,
                "points": e.points,
                "minutes": e.minutes,
                "needs": e.needs,
                "status": workspace.status(e, progress),
                **asdict(progress.get(e.label, Progress())),
            }
            for e in exercises
        ]
    )


@app.command()
def check(which: Which = "all", seed: SeedOption = 0, json: JsonOption = False) -> None:
    """Grade your files. Exit code 0 only if everything passed."""
    workspace, console = Workspace(), _console(json)
    results = []
    try:
        for exercise in _chosen(which):
            with console.status(f"checking {exercise.label} {exercise.title}; Ctrl-C stops it"):
                results.append(_graded(workspace, exercise, seed))
            if not json:
                result = results[-1]
                print_result(console, result, next_up(all_exercises(), workspace) if result.passed else None)
    except KeyboardInterrupt:
        typer.echo("stopped; your files, and what was graded before, are saved", err=True)
        raise typer.Exit(130) from None
    _tell(workspace)
    if json:
        _print_json([result.to_json() for result in results])
    elif len(results) > 1:
        earned, points = sum(r.earned for r in results), sum(r.exercise.points for r in results)
        passed = sum(r.passed for r in results)
        console.print(f"\n{passed} of {len(results)} exercises passed, {earned} of {points} points")
    raise typer.Exit(0 if all(result.passed for result in results) else 1)


@app.command("open")
def open_(which: Which, derive: DeriveOption = False) -> None:
    """Make the file if it is missing, and open it in the editor that EDITOR names."""
    from .keyboard import Keys, edit

    workspace, console = Workspace(), _console(False)
    for exercise in _chosen(which):
        with refusals():
            path = workspace.open(exercise, derive=derive)
        problem = edit(path) if Keys().available else ""
        _print_line(console, f"{problem}; the file is {path}" if problem else str(path))
    _tell(workspace)


@app.command()
def hint(which: Which) -> None:
    """What the last check asks for, and one more of the three hints."""
    workspace, console = Workspace(), _console(False)
    for exercise in _chosen(which):
        print_hint(console, actions.next_hint(workspace, exercise))
    _tell(workspace)


@app.command()
def solution(
    which: Which, give_up: Annotated[bool, typer.Option("--give-up", help="Show it before you passed.")] = False
) -> None:
    """The library's own code with notes, once your file has passed. It runs as it stands."""
    workspace = Workspace()
    for exercise in _chosen(which):
        try:
            print(actions.solution_of(workspace, exercise, give_up), end="")
        except PermissionError as error:
            _refuse(f"{error}; --give-up shows the solution all the same")
    _tell(workspace)


@app.command()
def debug(
    which: Which,
    pdb: Annotated[bool, typer.Option("--pdb", help="Step through it, from the first line of your function.")] = False,
    seed: SeedOption = 0,
) -> None:
    """The smallest failing call as Python to paste. Your code then runs as any program of yours does."""
    from .debug import failing_case, first_line_of, snippet

    workspace, console = Workspace(), Console(stderr=True, highlight=False)
    for exercise in _chosen(which):
        path = workspace.ensure(exercise)
        with console.status("looking for the smallest call that fails; Ctrl-C stops it"):
            result = _graded(workspace, exercise, seed)
            try:
                source = workspace.source(exercise)
            except SubmissionError as error:
                _refuse(str(error), 1)
            failure = failing_case(result, source)
        if failure is None:
            problem = next((c.problem.message for c in result.checks if c.problem), "")
            _refuse(f"no call of exercise {exercise.label} fails: {problem or 'it passes'}", 1)
        text = snippet(exercise, failure, seed, path)
        if not pdb:
            print(text, end="")
            continue
        stop = f"break {path.absolute()}:{first_line_of(exercise, source, failure)}"
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder, f"debug_{exercise.label}.py")
            script.write_text(text, encoding="utf-8")
            words = [sys.executable, "-m", "pdb", "-c", stop, "-c", "continue", str(script)]
            subprocess.run(words, env=os.environ | {"PYTHONPATH": paths}, check=False)
    _tell(workspace)


@app.command()
def reset(which: Which, derive: DeriveOption = False) -> None:
    """Put the stub back. What you had is kept beside it as .bak."""
    workspace, console = Workspace(), _console(False)
    for exercise in _chosen(which):
        with refusals():
            kept = workspace.reset(exercise, derive=derive)
        _print_line(console, f"{workspace.path(exercise)} is new" + (f"; yours is {kept}" if kept else ""))


@app.command()
def watch(
    first: Annotated[str, typer.Argument(help="Where to begin, 07; what comes next for you if left out.")] = "",
) -> None:
    """Check each file when you save it, and go on once it passes. Ctrl-C ends a check, then the watching."""
    from .keyboard import Keys
    from .watch import watch as run

    workspace = Workspace()
    begin = _chosen(first)[0] if first else next_up(all_exercises(), workspace)
    _tell(workspace)
    try:
        run(workspace, _console(False), Keys(), begin)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    except GraderError as error:
        _refuse(_BROKEN.format(error))


@app.command()
def train(
    seconds: Annotated[float, typer.Option(min=1, max=60, help="How long.")] = 40,
    steps: Annotated[int, typer.Option(min=1, help="At most so many optimizer steps.")] = 100,
    recipe: Annotated[str, typer.Option(help="Router: a name from `python -m moe_numpy recipes`.")] = "mixtral",
    seed: Annotated[int, typer.Option(min=0, help="Of weights, data and noise.")] = 0,
    json: JsonOption = False,
) -> None:
    """Train the demo's model with every function of yours that passed, beside the library's own."""
    from moe_numpy.moe.recipes import find as find_recipe

    from .training.report import print_comparison, save_figure, to_json
    from .training.run import TrainingError
    from .training.run import train as run

    workspace, console, exercises = Workspace(), _console(json), all_exercises()
    progress = workspace.progress()
    if not math.isfinite(seconds):
        _refuse(f"--seconds must be a number from 1 to 60, got {seconds}")
    with refusals():
        find_recipe(recipe)
    sources = {
        e.number: (workspace.source(e), actions.short(workspace.path(e)))
        for e in exercises
        if workspace.status(e, progress) == "passed"
    }
    if not sources:
        _refuse("no exercise has passed yet, so there is nothing of yours to train with")
    with console.status("starting") as status:

        def show(step: int, mine: float, library: float) -> None:
            status.update(f"step {step} of {steps}   yours {mine:.3f}   library {library:.3f}")

        try:
            result = run(exercises, sources, seconds=seconds, steps=steps, seed=seed, recipe=recipe, on_step=show)
        except TrainingError as error:
            _refuse(str(error), 1)
    with refusals():
        figure = save_figure(result, workspace.folder / "training.png")
    if json:
        _print_json(to_json(result, exercises, set(sources)) | {"figure": str(figure)})
    else:
        print_comparison(console, result, exercises, set(sources))
        _print_line(console, f"Figure: {figure}")
    raise typer.Exit(0 if result.agrees else 1)


@app.command()
def export(
    format: Annotated[str, typer.Option(help="gradescope, junit or markdown.")] = "markdown",
    which: Which = "all",
    out: Annotated[Path | None, typer.Option(help="A file; stdout if left out.")] = None,
    seed: SeedOption = 0,
) -> None:
    """Grade and write the grades in a format that other programs read. Exit code 0 whatever the grades."""
    from .export import FORMATS

    if format not in FORMATS:
        _refuse(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if out is not None and (not out.name or out.is_dir()):
        _refuse(f"--out must be a file, got {str(out)!r}")
    workspace = Workspace()
    text = FORMATS[format]([_graded(workspace, exercise, seed) for exercise in _chosen(which)])
    if out is None:
        typer.echo(text, nl=False)
    else:
        with refusals():
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically({out: text})
    _tell(workspace)


app.command()(grade)
app.command()(pack)


@app.command()
def verify(
    which: Which = "all",
    seeds: Annotated[int, typer.Option(min=1, help="With the inputs of so many seeds.")] = 3,
    json: JsonOption = False,
) -> None:
    """For maintainers: prove that the library passes and that every stub and every wrong solution fails."""
    from .verify import verify as run

    console, began = _console(json), time.perf_counter()
    verdicts = []
    for v in run([e.number for e in _chosen(which)], seeds):
        verdicts.append(v)
        mark = "✗" if v.problems else "✓"
        console.print(f"{mark} {v.label} {v.title}   {v.wrong_solutions} wrong solutions   {v.seconds:.1f} s")
        for problem in v.problems:
            console.print(f"    {problem}", markup=False)
    total = sum(v.wrong_solutions for v in verdicts)
    bad = sum(bool(v.problems) for v in verdicts)
    seconds = time.perf_counter() - began
    console.print(f"{len(verdicts)} exercises, {total} wrong solutions, {bad} with problems, {seconds:.0f} s")
    if json:
        _print_json([asdict(v) for v in verdicts])
    raise typer.Exit(1 if bad else 0)


def _chosen(which: str) -> list[Exercise]:
    with refusals():
        return actions.chosen(which)


def _graded(workspace: Workspace, exercise: Exercise, seed: int) -> Result:
    try:
        return actions.grade_and_record(workspace, exercise, seed)
    except GraderError as error:
        _refuse(_BROKEN.format(error))


def _console(json: bool) -> Console:
    return Console(stderr=json, highlight=False)


def _print_line(console: Console, text: str) -> None:
    """A line to copy a path from: never wrapped, without what a terminal would obey."""
    console.print(Text(one_line(text)), soft_wrap=True)


def _print_json(value: Any) -> None:
    typer.echo(json_module.dumps(value, indent=2, default=str))


def _refuse(message: str, exit_code: int = 2) -> NoReturn:
    refuse(printable(message), exit_code)


def _tell(workspace: Workspace) -> None:
    """What the learner should know about the folder."""
    if workspace.notice:
        typer.echo(f"note: {printable(workspace.notice)}", err=True)
