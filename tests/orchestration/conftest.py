import pytest
from typer.testing import CliRunner

from moe_numpy.__main__ import app
from moe_numpy.orchestration.asking import Asker
from moe_numpy.orchestration.router import Router


@pytest.fixture(scope="session")
def router_file(tmp_path_factory):
    """A router, trained once."""
    path = tmp_path_factory.mktemp("router") / "router.safetensors"
    Router.train().save(path)
    return path


@pytest.fixture(scope="session")
def router(router_file):
    return Router.load(router_file)


@pytest.fixture
def folder(tmp_path, router_file):
    """A folder with a router and nothing else."""
    (tmp_path / "router.safetensors").write_bytes(router_file.read_bytes())
    return tmp_path


@pytest.fixture
def asker(folder):
    return Asker(folder)


@pytest.fixture
def cli(monkeypatch, folder):
    """Run a command in 80 columns; the result has exit_code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(command, *arguments):
        result = CliRunner().invoke(app, [command, *map(str, arguments), "--folder", str(folder)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run
