"""The wheel, installed away from the checkout: the command, the checker, the exercises and the course are in it."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("moe_numpy", "exercises", "notebooks", "docs")
PARTS += ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


def run(*arguments, **settings):
    done = subprocess.run(
        [str(a) for a in arguments], capture_output=True, text=True, timeout=300, check=False, **settings
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """Built from a copy: a build leaves files beside the sources."""
    copy, wheels = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheels")
    ignored = shutil.ignore_patterns("__pycache__", "work", ".ipynb_checkpoints")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, copy / part, ignore=ignored)
        else:
            shutil.copy(ROOT / part, copy)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, copy)
    return next(wheels.glob("moe_numpy-*.whl"))


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """Run a command of the installed wheel in a folder outside the checkout."""
    target = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--no-index", "--target", target, wheel)
    left_out = ("EXERCISES_WORK", "PYTHONSAFEPATH")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"PYTHONPATH": str(target), "MOE_NUMPY_KERNELS": "numpy", "MPLBACKEND": "agg"}

    def command(*arguments, folder):
        return run(*arguments, cwd=folder, env=environment)

    command.script = target / "bin" / "moe-numpy" if os.name == "posix" else target / "Scripts" / "moe-numpy.exe"
    command.target = target
    return command


@pytest.fixture
def module(installed, tmp_path):
    def run_module(name, *arguments):
        return installed(sys.executable, "-m", name, *arguments, folder=tmp_path)

    return run_module


def test_it_holds_the_course_once_and_nothing_of_a_learner(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert [Path(name).name for name in names if name.endswith(".ipynb")] == NOTEBOOKS
    assert [name for name in names if name.startswith(("exercises/work/", "tests/", "notebooks/", "build/"))] == []


def test_the_command_runs_what_is_installed(installed, tmp_path):
    assert installed(installed.script, "--version", folder=tmp_path).startswith("moe_numpy ")
    where = installed(sys.executable, "-c", "import moe_numpy; print(moe_numpy.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.target)


def test_the_demo_trains(module, tmp_path):
    told = json.loads(module("moe_numpy", "demo", "--steps", "1", "--no-dense", "--out", "run", "--json"))
    assert told
    assert (tmp_path / "run" / "learning_curves.png").stat().st_size > 0


def test_gradcheck_checks(module):
    assert "passed" in module("moe_numpy", "gradcheck", "Softmax*")


def test_the_exercises_make_their_files_in_this_folder(module, tmp_path):
    assert json.loads(module("exercises", "list", "--json"))[0]["exercise"] == "01"
    module("exercises", "reset", "01")
    assert [path.parent.name for path in tmp_path.rglob("ex01_*.py")] == ["exercises_work"]


def test_the_course_is_copied(module, tmp_path):
    module("moe_numpy", "course", "mine")
    assert sorted(path.name for path in (tmp_path / "mine" / "notebooks").iterdir()) == NOTEBOOKS
