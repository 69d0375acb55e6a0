"""What a notebook's first cell installs, against the packages that its kernel is released with.

What is not among those comes from PyPI, where the kernel can take a wheel of pure Python only, or one made for it.
"""

import json
from importlib.metadata import distribution
from pathlib import Path
from zipfile import Path as InArchive
from zipfile import ZipFile

import pytest
from jupyterlite_pyodide_kernel.constants import PYODIDE_VERSION
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lite.edition import packages
from moe_numpy.training.built_in_text import python_code

ROOT = Path(__file__).parents[2]
PYODIDE = ROOT / "site" / "node_modules" / "pyodide"
LOCKED = {
    name: each["version"]
    for name, each in json.loads((PYODIDE / "pyodide-lock.json").read_text("utf-8"))["packages"].items()
}
NOTEBOOKS = [json.loads(path.read_text("utf-8")) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
LISTED = [*packages(ROOT), *(each for one in NOTEBOOKS for each in one["metadata"].get("browser_packages", []))]
FOR_PYODIDE = {"msgspec"}  # has wheels of PyPI's tag for this Pyodide, pyemscripten_2026_0_wasm32, from 0.22 on
NOT_HERE = {"ipywidgets"}  # pure Python, but not installed where this runs


def lacking(requirement: str) -> list[str]:
    """Of a requirement and all that it requires: what the kernel can get nowhere."""
    wanted = Requirement(requirement)
    name = canonicalize_name(wanted.name)
    if wanted.marker is not None and not wanted.marker.evaluate({"sys_platform": "emscripten", "extra": ""}):
        return []
    if name in LOCKED and wanted.specifier.contains(LOCKED[name], prereleases=True):
        return []
    if name in FOR_PYODIDE | NOT_HERE:
        return []
    installed = distribution(name)
    if "Tag: py3-none-any" not in (installed.read_text("WHEEL") or ""):
        return [f"{requirement}: Pyodide has {LOCKED.get(name, 'none')}"]
    return [each for more in installed.requires or () for each in lacking(more)]


def test_the_release_is_the_kernels():
    assert json.loads((PYODIDE / "package.json").read_text("utf-8"))["version"] == PYODIDE_VERSION


@pytest.mark.parametrize("requirement", LISTED)
def test_the_kernel_can_get_what_the_cell_asks_for(requirement):
    assert lacking(requirement) == []


def test_a_package_of_processor_code_is_told_of():
    assert lacking("numpy>=99") == [f"numpy>=99: Pyodide has {LOCKED['numpy']}"]


def test_its_library_has_the_code_that_is_trained_on_and_lacks_the_prose():
    archive = PYODIDE / "python_stdlib.zip"
    assert len(python_code(InArchive(archive))) > 10**6
    assert not [name for name in ZipFile(archive).namelist() if name.startswith("pydoc_data/")]
