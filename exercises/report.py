"""What a learner reads: short, in words and symbols; colour only repeats what the words say."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .exercise import Exercise
from .grading.compare import Problem
from .grading.grade import CheckResult, Result
from .workspace import Progress, Workspace

_OUTPUT_LINES = 6
STATUS = {"passed": "✓ passed", "edited": "~ edited since it passed", "begun": "· begun", "new": "  new"}
LEVELS = {1: "easy", 2: "medium", 3: "hard"}


def print_result(console: Console, result: Result, next_exercise: Exercise | None = None) -> None:
    """The report on one exercise."""
    e = result.exercise
    verdict = ("✓ passed", "green") if result.passed else ("✗ not yet", "red")
    head = Text.assemble((f"{e.label} {e.title}", "bold"), "   ", verdict)
    console.print(head, Text(f"  {result.earned} of {e.points} points   {result.seconds:.1f} s", "dim"), sep="")
    shown: list[tuple[str, str, int | None]] = []
    for check in result.checks:
        mark = ("  ✓ ", "green") if check.passed else ("  ✗ ", "red")
        points = f"{check.points if check.passed else 0}/{check.points}  "
        console.print(Text.assemble(mark, (points, "dim"), check.name))
        if check.problem is not None:
            key = (check.problem.kind, check.problem.message, check.problem.line)
            if key in shown and check.problem.kind in ("exception", "load", "process"):
                console.print(Text("         the same as above", "dim"))
            else:
                _print_problem(console, check, check.problem)
            shown.append(key)
    _print_notes(console, result)
    if result.passed:
        after = f"; next: python -m exercises check {next_exercise.label}" if next_exercise else ""
        console.print(Text(f"  See the library's own: python -m exercises solution {e.label}{after}", "dim"))
    else:
        console.print(Text(f"  {result.file}   hint: python -m exercises hint {e.label}", "dim"), soft_wrap=True)


def _print_problem(console: Console, check: CheckResult, p: Problem) -> None:
    def line(text: str, style: str = "") -> None:
        console.print(Text("         " + text, style), soft_wrap=False)

    if p.case:
        line(f"{p.case}   seed {p.seed}", "dim")
    line(f"{p.where}: {p.message}" if p.where else p.message)
    if p.line is not None:
        line(f"line {p.line}:  {p.code}")
    if p.index is not None:
        other = "numeric" if p.where.startswith("gradient") or "gradient" in check.name else "expected"
        mine = "analytic" if other == "numeric" else "yours"
        line(f"worst at {_index(p.index)}:  {mine} {p.yours}   {other} {p.expected}")
    elif p.yours or p.expected:
        line(f"yours {p.yours}   expected {p.expected}")
    for name, value in p.inputs.items():
        first, *rest = value.splitlines()
        line(f"{name:9} {first}")
        for more in rest:
            line(" " * 10 + more)
    if p.recognised:
        line(f"Equal to a known mistake, “{p.recognised}”: {p.explanation}", "yellow")
    if p.next_step:
        line(f"Next: {p.next_step}")


def _print_notes(console: Console, result: Result) -> None:
    for warning in dict.fromkeys(w for check in result.checks for w in check.warnings):
        console.print(Text(f"  ! warning, costs nothing: {warning}", "dim"))
    printed = next((check.output for check in result.checks if check.output.strip()), "")
    if printed:
        console.print(Text("  printed by your code:", "dim"))
        for text in printed.splitlines()[:_OUTPUT_LINES]:
            console.print(Text("    " + "".join(c for c in text if c.isprintable())[:160], "dim"))


def print_list(console: Console, exercises: Sequence[Exercise], workspace: Workspace) -> None:
    """All exercises, where the learner is, and what comes next."""
    progress = workspace.progress()
    states = {e.number: workspace.status(e, progress) for e in exercises}
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "exercise", "level", "min", "points", "needs", "state"):
        table.add_column(name, justify="right" if name in ("min", "points") else "left")
    for e in exercises:
        known = progress.get(e.label, Progress())
        points = f"{known.best}/{e.points}" if known.attempts else str(e.points)
        needs = " ".join(f"{n:02}" for n in e.needs)
        extra = " (with the solution)" if known.gave_up else ""
        state = STATUS[states[e.number]] + extra
        table.add_row(e.label, e.title, LEVELS[e.difficulty], str(e.minutes), points, needs, state)
    console.print(table)
    done = sum(state == "passed" for state in states.values())
    console.print(f"\n{done} of {len(exercises)} passed.")
    following = next_up(exercises, workspace)
    if following is None:
        console.print("All done. Train a model with your functions:  python -m exercises train")
    else:
        console.print(f"Next: edit {workspace.ensure(following)}", soft_wrap=True)
        console.print(f"then: python -m exercises check {following.label}      or: python -m exercises watch")


def next_up(exercises: Sequence[Exercise], workspace: Workspace) -> Exercise | None:
    """The first exercise that is not passed and whose needs are; else the first that is not passed."""
    progress = workspace.progress()
    passed = {e.number for e in exercises if workspace.status(e, progress) == "passed"}
    open_ones = [e for e in exercises if e.number not in passed]
    ready = [e for e in open_ones if passed.issuperset(e.needs)]
    return next(iter(ready or open_ones), None)


def _index(index: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, index))}]" if index else "the only entry"
