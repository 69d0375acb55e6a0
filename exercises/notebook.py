"""The exercises inside Jupyter: ``exercises.open("07")``, the cell magic ``%%exercise 07``, reports to look at."""

import io
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

from . import actions, html
from .catalog import all_exercises
from .debug import snippet
from .exercise import Exercise
from .grading.grade import Result
from .report import print_hint, print_list, print_result, print_untouched
from .stubs import stubs_of
from .workspace import Workspace

_WIDTH = 96  # columns of text that a notebook shows without scrolling
_seen: dict[int, set[str]] = {}  # what this notebook has read of a learner's files, or written there


class Shown:
    """Something to look at: HTML in a notebook, plain text elsewhere.

    Args:
        html: for ``_repr_html_``.
        write: prints the text on a console.
        passed: whether everything passed; the truth of the whole.
    """

    def __init__(self, html: str, write: Callable[[Console], object], passed: bool = True):
        self.passed = passed
        self._html = html
        file = io.StringIO()
        write(Console(file=file, width=_WIDTH, force_jupyter=False, force_terminal=False, highlight=False))
        self._text = file.getvalue().rstrip("\n")
        self._shown_in: Any = None  # the cell that has shown it

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return self._html

    def _ipython_display_(self) -> None:
        """Once in the cell that made it."""
        shell = _shell()
        if self._shown_in is None or shell is None or shell.execution_count != self._shown_in:
            self.show()

    def show(self) -> None:
        """Display it now; as text where there is no notebook."""
        shell = _shell()
        if shell is not None:
            from IPython.display import publish_display_data

            self._shown_in = shell.execution_count
            publish_display_data({"text/plain": self._text, "text/html": self._html})
        elif not hasattr(sys, "ps1"):  # a prompt of Python echoes it anyway
            print(self._text)


def check(which: str = "all", *, seed: int = 0) -> Shown:
    """Grade your files and show the report, as ``python -m exercises check`` does.

    A file in which nothing was changed is not run: the report says which file to edit.

    Args:
        which: a number ``"07"``, a range ``"05-09"``, a name, or ``"all"``.
        seed: of the inputs.

    Returns:
        The report, true if everything passed.
    """
    return _reported(Workspace(), actions.chosen(which), seed)


def open(which: str, *, derive: bool = False) -> Shown | None:
    """Put your file into a new cell below, headed by ``%%exercise``: run that cell to save and check it.

    Args:
        which: a number ``"07"`` or a name.
        derive: the stub without the formula of the derivative, if you have not begun.

    Raises:
        ValueError: there is no such exercise, or nothing to derive.
    """
    workspace = Workspace()
    exercise = _one(which)
    if (lacking := _lacking(exercise)) is not None:
        return lacking
    path = workspace.open(exercise, derive=derive)
    source = workspace.source(exercise)
    _seen.setdefault(exercise.number, set()).add(source)
    shell = _shell()
    if shell is None:
        return _note(f"edit {path}")
    shell.set_next_input(f"%%exercise {exercise.label}\n{source.rstrip()}")
    return None


def hint(which: str) -> Shown:
    """What the last check asks for, and one more of the three hints."""
    told = actions.next_hint(Workspace(), _one(which))
    return Shown(html.of_hint(told), lambda console: print_hint(console, told))


def solution(which: str, *, give_up: bool = False) -> Shown:
    """The library's own code with notes, once your file has passed, or if you give up. It runs as it stands."""
    exercise = _one(which)
    try:
        code = actions.solution_of(Workspace(), exercise, give_up)
    except PermissionError as error:
        return _note(f"{error}; exercises.solution({exercise.label!r}, give_up=True) shows the solution all the same")
    title = f"{exercise.label} {exercise.title}"
    return Shown(html.of_code(title, code), lambda console: _print(console, code))


def progress() -> Shown:
    """All exercises, and how far you are."""
    workspace, exercises = Workspace(), all_exercises()
    page = html.of_progress(exercises, workspace)
    return Shown(page, lambda console: print_list(console, exercises, workspace))


def exercise(line: str, cell: str) -> Shown:
    """``%%exercise 07``: save what the cell holds into your file, and check it."""
    chosen, workspace = _one(line.strip()), Workspace()
    source = cell.rstrip() + "\n"
    seen = _seen.setdefault(chosen.number, set())
    kept = workspace.save(chosen, source, seen)
    seen.add(source)
    if kept is not None:
        _note(f"your file held something else; it is kept as {kept.name}", passed=True).show()
    return _reported(workspace, [chosen], 0, source)


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext exercises``: make the cell magic ``%%exercise`` known."""
    shell.register_magic_function(exercise, "cell", "exercise")


def _one(which: str) -> Exercise:
    found = actions.chosen(which)
    if len(found) != 1:
        raise ValueError(f"one exercise, such as '07', got {which!r}")
    return found[0]


def _reported(workspace: Workspace, exercises: list[Exercise], seed: int, source: str | None = None) -> Shown:
    """The reports on these exercises, each shown when it is done; on this source, or on the learner's files."""
    reports: list[Shown] = []

    def tell(report: Shown) -> None:
        report.show()
        reports.append(report)

    try:
        for each in exercises:
            tell(_checked(workspace, each, seed, source))
    except KeyboardInterrupt:
        tell(_note("stopped; your files, and what was graded before, are saved"))
    if workspace.notice:
        tell(_note(f"note: {workspace.notice}", passed=True))
    text = "\n".join(map(repr, reports))
    whole = Shown("".join(map(Shown._repr_html_, reports)), lambda console: _print(console, text), all(reports))
    whole._shown_in = reports[-1]._shown_in
    return whole


def _checked(workspace: Workspace, exercise: Exercise, seed: int, source: str | None) -> Shown:
    name = workspace.name(exercise)
    if (lacking := _lacking(exercise)) is not None:
        return lacking
    if workspace.untouched(exercise) if source is None else source in stubs_of(exercise):
        untouched = html.of_untouched(exercise, name)
        return Shown(untouched, lambda console: print_untouched(console, exercise, name), passed=False)
    result = actions.grade_and_record(workspace, exercise, seed, name, source)
    call = _failing_call(workspace, result)
    return Shown(html.of_result(result, call), lambda console: print_result(console, result), result.passed)


def _lacking(exercise: Exercise) -> Shown | None:
    """What to say of an exercise whose reference needs a package that is not here, as numba is not in a browser."""
    try:
        exercise.solution  # noqa: B018
    except ModuleNotFoundError as error:
        return _note(f"exercise {exercise.label} needs {error.name}, which this Python lacks")
    return None


def _failing_call(workspace: Workspace, result: Result) -> str:
    failure = result.smallest_failure
    path = workspace.path(result.exercise)
    return "" if failure is None else snippet(result.exercise, failure, result.seed, path)


def _note(text: str, *, passed: bool = False) -> Shown:
    return Shown(html.of_note(text), lambda console: _print(console, text), passed)


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _shell() -> Any:
    """The running IPython; None elsewhere."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    return get_ipython()
