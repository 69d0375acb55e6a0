import jaxtyping
import pytest

from exercises.workspace import Workspace


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
    from exercises.solutions import runnable_solution

    def write(exercise, change=lambda source: source):
        path = workspace.ensure(exercise)
        path.write_text(change(runnable_solution(exercise)), encoding="utf-8")
        return path

    return write


@pytest.fixture(autouse=True)
def as_for_a_learner(monkeypatch):
    """Without pytest's checks of annotations: a grader also hands over what they refuse."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
