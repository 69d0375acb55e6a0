"""What a learner reads: short, in words and symbols; colour only repeats what the words say."""

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from moe_numpy.commands.output import one_line, printable

from .actions import Hint
from .containment import available
from .exercise import Exercise
from .grading.compare import Problem
from .grading.grade import Result
from .grading.in_process import NO_PROCESSES, SAID
from .progress_file import Progress
from .workspace import Workspace

OUTPUT_LINES = 6
ALIKE = ("exception", "load", "process")  # kinds of problems that are told once, whichever checks they fail
_WIDE = 100  # columns of a terminal that has room for the needs of an exercise
STATUS = {"passed": "✓ passed", "edited": "~ edited", "begun": "· begun", "new": "  new"}
LEVELS = {1: "easy", 2: "medium", 3: "hard"}


def print_result(console: Console, result: Result, next_exercise: Exercise | None = None) -> None:
    """The report on one exercise."""
    e = result.exercise
    verdict = ("✓ passed", "green") if result.passed else ("✗ not yet", "red")
    head = Text.assemble((f"{e.label} {e.title}", "bold"), "   ", verdict)
    console.print(head, Text(f"  {result.earned} of {e.points} points   {result.seconds:.1f} s", "dim"), sep="")
    first, seen = True, set()
    for check in result.checks:
        p = check.problem
        mark = ("  ✓ ", "green") if check.passed else ("  ✗ ", "red")
        points = f"{check.points if check.passed else 0}/{check.points}  "
        again = p is not None and (p.message, p.line) in seen and p.kind in ALIKE
        same = "   (the same)" if again else ""
        console.print(Text.assemble(mark, (points, "dim"), check.name, (same, "dim")))
        if p is not None and not again:
            _print_problem(console, p, whole=first, explained=p.recognised in seen)
            first = False
            seen |= {p.recognised, (p.message, p.line)}
    _print_notes(console, result)
    if result.passed:
        after = f"; next: python -m exercises check {next_exercise.label}" if next_exercise else ""
        console.print(Text(f"  the library's own: python -m exercises solution {e.label}{after}", "dim"))
    else:
        console.print(
            Text(f"  {one_line(result.file)}   hint: python -m exercises hint {e.label}", "dim"), soft_wrap=True
        )
        if result.smallest_failure is not None:
            console.print(Text(f"  a failing call to step through: python -m exercises debug {e.label}", "dim"))


def print_hint(console: Console, hint: Hint) -> None:
    """What the last check asks for, and the hints so far."""
    number = len(hint.exercise.hints)
    console.print(Text(f"{hint.exercise.label} {hint.exercise.title}", "bold"))
    if hint.next_step:
        console.print(Text(f"failed: {hint.failing}  → {hint.next_step}"))
    for i, text in enumerate(hint.shown, 1):
        console.print(Text(f"{i} of {number}  {text}", "" if i == len(hint.shown) else "dim"))


def print_untouched(console: Console, exercise: Exercise, file: str) -> None:
    """The report on an exercise that nobody has begun."""
    head = Text.assemble((f"{exercise.label} {exercise.title}", "bold"), "   ", ("✗ not yet", "red"))
    console.print(head, Text(f"  0 of {exercise.points} points, about {exercise.minutes} minutes", "dim"), sep="")
    console.print(Text(f"  next: edit {file}, then run this again"), soft_wrap=True)
    console.print(Text(f"  hint: python -m exercises hint {exercise.label}", "dim"))


def _print_problem(console: Console, p: Problem, *, whole: bool, explained: bool) -> None:
    """One failed check: the first whole, further ones without arrays, a known mistake explained once."""

    def line(text: str, style: str = "") -> None:
        console.print(Padding(Text(printable(text), style), (0, 0, 0, 9), expand=False))

    if explained and p.recognised:
        line(f"{p.case}: “{p.recognised}” again", "yellow")
        return
    if p.case:
        line(f"{p.case}   seed {p.seed}", "dim")
    line(f"{p.where}: {p.message}" if p.where else p.message)
    if p.line is not None:
        line(f"line {p.line}:  {p.code}")
    mine, other = ("analytic", "numeric") if p.numeric else ("yours", "expected")
    if p.index is not None:
        line(f"worst at {index_text(p.index)}:  {mine} {p.yours}   {other} {p.expected}")
    elif p.yours or p.expected:
        line(f"{mine} {p.yours}   {other} {p.expected}")
    for name, value in p.arrays.items() if whole else ():
        head, *rest = value.splitlines()
        line("\n".join([f"{name:9} {head}", *(" " * 10 + more for more in rest)]))
    if p.recognised:
        line(f"→ equal to a known mistake, “{p.recognised}”: {p.explanation}", "yellow")
        if p.mistake:
            line(f"  as with this code: {p.mistake}", "yellow")
    if p.next_step:
        line(f"→ next: {p.next_step}")


def _print_notes(console: Console, result: Result) -> None:
    for warning in dict.fromkeys(w for check in result.checks for w in check.warnings):
        told = Text(f"! warning, costs nothing: {printable(warning)}", "dim")
        console.print(Padding(told, (0, 0, 0, 2), expand=False))
    if NO_PROCESSES:
        console.print(Text(f"  {SAID}", "dim"))
    if result.note:
        console.print(Text(f"  ! {result.note}: graded like any other, but nothing was rebuilt", "yellow"))
    printed = next((check.output for check in result.checks if check.output.strip()), "")
    if printed:
        console.print(Text("  printed by your code:", "dim"))
        for text in printed.splitlines()[:OUTPUT_LINES]:
            console.print(Text("    " + printable(text)[:160], "dim"))


def print_list(console: Console, exercises: Sequence[Exercise], workspace: Workspace) -> None:
    """All exercises, where the learner is, and what comes next."""
    progress = workspace.progress()
    states = {e.number: workspace.status(e, progress) for e in exercises}
    table = Table(box=None, pad_edge=False, header_style="dim")
    columns = ["", "exercise", "level", "min", "points", *(["needs"] if console.width >= _WIDE else []), "state"]
    for name in columns:  # on a narrow terminal titles go on in a second line; nothing else is shortened
        table.add_column(name, justify="right" if name in ("min", "points") else "left", no_wrap=name != "exercise")
    for e in exercises:
        known = progress.get(e.label, Progress())
        cells = {
            "": e.label,
            "exercise": e.title,
            "level": LEVELS[e.difficulty],
            "min": str(e.minutes),
            "points": f"{known.best}/{e.points}" if known.attempts else str(e.points),
            "needs": " ".join(f"{n:02}" for n in e.needs),
            "state": STATUS[states[e.number]] + ("*" if known.gave_up else ""),
        }
        table.add_row(*(cells[name] for name in columns))
    console.print(table)
    if "edited" in states.values():
        console.print("\n~ edited: changed since it passed; check it again")
    if any(known.gave_up for known in progress.values()):
        console.print("\n* the solution was shown before it passed")
    done = sum(state == "passed" for state in states.values())
    console.print(f"\n{done} of {len(exercises)} passed.")
    following = next_up(exercises, workspace)
    if following is None:
        console.print("All done. Train a model with your functions:  python -m exercises train")
    else:
        console.print(Text(f"Next: edit {one_line(workspace.ensure(following))}"), soft_wrap=True)
        console.print(f"then: python -m exercises check {following.label}      or: python -m exercises watch")
    console.print(Text(f"Your code runs in its own process, behind: {', '.join(available())}.", "dim"), soft_wrap=True)


def next_up(exercises: Sequence[Exercise], workspace: Workspace) -> Exercise | None:
    """The first exercise that is not passed and whose needs are; else the first that is not passed."""
    progress = workspace.progress()
    passed = {e.number for e in exercises if workspace.status(e, progress) == "passed"}
    open_ones = [e for e in exercises if e.number not in passed]
    ready = [e for e in open_ones if passed.issuperset(e.needs)]
    return next(iter(ready or open_ones), None)


def index_text(index: tuple[int, ...]) -> str:
    """The place of an entry: ``[1, 3]``."""
    return f"[{', '.join(map(str, index))}]" if index else "the only entry"
