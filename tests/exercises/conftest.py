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
    from exercises.stubs import make_stub, solution_source

    def write(exercise, change=lambda source: source):
        head = make_stub(exercise).split("\n\n\n")[0]
        imports = "from array_api_compat import array_namespace\n\nfrom moe_numpy import kernels"
        source = f"{head}\n{imports}\n\n\n{solution_source(exercise)}"
        path = workspace.ensure(exercise)
        path.write_text(change(source), encoding="utf-8")
        return path

    return write
