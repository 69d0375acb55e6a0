import jaxtyping
import pytest

from exercises.workspace import Workspace

# What the library's source of a solution needs around it: the names of its module, and kernels that are not registered.
_NAMES = """
from moe_numpy.kernels import *
from moe_numpy.ops.activations import *
from {0} import *


def kernel(function=None, **settings):
    return (lambda f: kernel(f)) if function is None else (setattr(function, "definition", function), function)[1]
"""


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty folder of a learner, which the commands use too."""
    monkeypatch.setenv("EXERCISES_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return Workspace()


@pytest.fixture
def solve(workspace):
    """Write a learner's file that passes, or whatever ``change`` makes of it."""
    from exercises.source import solution_source
    from exercises.stubs import make_stub

    def write(exercise, change=lambda source: source):
        head = make_stub(exercise).split("\n\n\n")[0]
        module = exercise.target.partition(":")[0]
        source = f"{head}\n{_NAMES.format(module)}\n\n\n{solution_source(exercise.target)}"
        path = workspace.ensure(exercise)
        path.write_text(change(source), encoding="utf-8")
        return path

    return write


@pytest.fixture(autouse=True)
def as_for_a_learner(monkeypatch):
    """Without pytest's checks of annotations: a grader also hands over what they refuse."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
