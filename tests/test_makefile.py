"""What make says where .venv cannot be made or filled."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")

CHECKS_VERSION = 'if [ "$1" = -c ]; then exit 0; fi\n'
NO_ENSUREPIP = (
    CHECKS_VERSION + "mkdir .venv; echo The virtual environment was not created because ensurepip is missing; exit 1"
)
NO_NETWORK = CHECKS_VERSION + "mkdir -p .venv/bin; cp /bin/false .venv/bin/python"


@pytest.mark.parametrize(
    ("python", "last"),
    [
        (None, "moe_numpy needs Python 3.11 or newer as {python}. Try: make PYTHON=python3.12 ..."),
        ("exit 1", "moe_numpy needs Python 3.11 or newer as {python}. Try: make PYTHON=python3.12 ..."),
        (NO_ENSUREPIP, "If that is ensurepip, on Debian and Ubuntu: apt install python3-venv"),
        (NO_NETWORK, "pip needs a connection to PyPI, or an index that PIP_INDEX_URL names"),
    ],
    ids=["no python", "an old python", "no ensurepip", "no network"],
)
def test_what_cannot_be_made_ends_in_a_sentence(tmp_path, python, last):
    for file in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    interpreter = tmp_path / "python"
    if python is not None:
        interpreter.write_text(f"#!/bin/sh\n{python}\n")
        interpreter.chmod(0o755)
    # As from a shell: under make test, a make inherits flags and prints which folder it leaves.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "demo", f"PYTHON={interpreter}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert last.format(python=interpreter) in done.stdout.splitlines()[-1]
    assert (tmp_path / ".venv").exists() == (python == NO_NETWORK)


def dry_run(target, folder, env=None):
    for file in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / file, folder)
    words = ["make", "-n", target]
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("user", [0, 1000])
def test_root_may_start_jupyter_as_in_a_container(tmp_path, user):
    (tmp_path / "id").write_text(f"#!/bin/sh\necho {user}\n")
    (tmp_path / "id").chmod(0o755)
    told = dry_run("lab", tmp_path, os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert ("jupyter lab --allow-root" in told) == (user == 0)
    assert "--ServerApp.root_dir=." in told


@pytest.mark.parametrize("target", ["demo", "gradcheck", "verify"])
def test_what_needs_the_library_alone_installs_no_jupyter(tmp_path, target):
    told = dry_run(target, tmp_path)
    assert "install --quiet --disable-pip-version-check -e ." in told
    assert "requirements.txt" not in told


def test_the_notebooks_come_with_what_a_learner_installs(tmp_path):
    assert "-r requirements.txt" in dry_run("lab", tmp_path)
    named = {line.partition(">=")[0] for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()}
    assert {"numpy", "numba", "pytest", "jupyter"} <= named
