"""Graded exercises: rebuild the library's functions, one by one, and train a real model with them."""

_NOTEBOOK_WIDTH = 96  # columns that a notebook shows without scrolling


class Verdict:
    """Whether everything passed: true or false. The report has said it, so a notebook does not repeat it."""

    def __init__(self, passed: bool):
        self.passed = passed

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return "passed" if self.passed else "not yet"

    def _ipython_display_(self) -> None:
        """Nothing."""


def check(which: str = "all", *, seed: int = 0) -> Verdict:
    """Grade your files and show the report, as ``python -m exercises check`` does; for notebooks.

    A file in which nothing was changed is not run: the report says which file to edit.

    Args:
        which: a number ``"07"``, a range ``"05-09"``, a name, or ``"all"``.
        seed: of the inputs.

    Returns:
        Whether everything passed.
    """
    from rich.console import Console

    from .cli import chosen, grade_and_record
    from .report import print_result, print_untouched
    from .workspace import Workspace

    workspace, passed = Workspace(), True
    console = Console(width=_NOTEBOOK_WIDTH, force_jupyter=False, force_terminal=False, highlight=False)
    for exercise in chosen(which):
        name = workspace.name(exercise)
        if workspace.untouched(exercise):
            print_untouched(console, exercise, name)
            passed = False
        else:
            result = grade_and_record(workspace, exercise, seed, name)
            print_result(console, result)
            passed &= result.passed
    if workspace.notice:
        console.print(f"note: {workspace.notice}", markup=False)
    return Verdict(passed)
