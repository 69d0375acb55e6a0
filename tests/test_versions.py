"""The versions that pyproject.toml promises are those that the other files install."""

import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
# CuPy's is proved on a GPU: make test-gpu.
REQUIRED = [*PYPROJECT["build-system"]["requires"], *PROJECT["dependencies"], *EXTRAS["notebooks"], *EXTRAS["dev"]]
PROMISED = list(dict.fromkeys(REQUIRED))  # setuptools builds the package, and the wheel of a test


def lines(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if not line.startswith(("#", "-"))]


def test_the_lowest_versions_are_those_promised():
    assert lines("requirements-lowest.txt") == [promise.replace(">=", "==") for promise in PROMISED]


@pytest.mark.parametrize("file", ["requirements.txt", "parity/requirements.txt"])
def test_a_package_is_required_as_promised_everywhere(file):
    names = {promise.partition(">=")[0] for promise in PROMISED}
    assert [line for line in lines(file) if line.partition(">=")[0] in names and line not in PROMISED] == []


def test_the_python_of_the_tests_is_one_that_is_classified():
    assert f"Programming Language :: Python :: 3.{sys.version_info.minor}" in PROJECT["classifiers"]
