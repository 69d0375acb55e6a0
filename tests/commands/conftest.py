import pytest
from typer.testing import CliRunner

from moe_numpy.__main__ import app
from moe_numpy.files import write_atomically

TINY = [
    "--d-model",
    "16",
    "--num-layers",
    "2",
    "--num-experts",
    "4",
    "--d-ff",
    "8",
    "--context",
    "16",
    "--batch-size",
    "2",
    "--steps",
    "6",
    "--checkpoint-every",
    "2",
    "--learning-rate",
    "0.01",
]


def _write_texts(folder):
    (folder / "words.txt").write_text("the cat sat on the mat, and the dog did not. " * 60)
    (folder / "sums.txt").write_text("".join(f"{a} + {b} = {a + b}\n" for a in range(20) for b in range(20)))
    return ["--text", str(folder / "words.txt"), "--text", str(folder / "sums.txt")]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def drawn():
    """For tests whose figures are drawn."""


@pytest.fixture(autouse=True)
def _not_drawn(request, monkeypatch):
    """Other figures are made and their files written, empty: drawing takes longer than all the rest."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("moe_numpy.plots.save", lambda figure, path: write_atomically({path: b""}))


@pytest.fixture
def cli():
    """Run the command line; the result has exit_code, stdout and stderr."""

    def run(*arguments):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def refused(cli):
    """Run what must be refused: plain words on stderr, nothing on stdout, exit code 2."""

    def run(*arguments):
        result = cli(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert "Traceback" not in result.stderr
        return result.stderr.removeprefix("error: ")

    return run


@pytest.fixture
def tiny(tmp_path):
    """Arguments of ``train`` for a model of two domains that trains in a moment."""
    return ["train", *TINY, *_write_texts(tmp_path)]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished tiny run. Tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = ["train", *TINY, *_write_texts(folder), "--out", str(folder / "run")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return folder / "run"
