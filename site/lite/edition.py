"""The course in the browser: JupyterLite with the notebooks and the wheel, as the folder ``lite/`` of the site.

The kernel, Pyodide, and the packages that the wheel needs are fetched by the learner's browser when a cell runs.
"""

import json
import pydoc_data
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from moe_numpy.commands.course import files_of_the_course

from .for_browser import for_browser

PARTS = ("moe_numpy", "exercises", "notebooks", "docs")
PARTS += ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
IGNORED = shutil.ignore_patterns("__pycache__", "work", ".ipynb_checkpoints")
LEFT_OUT = "numba"  # Pyodide has none, and the package can do without
RAISED = {"msgspec": "msgspec>=0.22"}  # from here on there are wheels for Pyodide, whose own is older than we can use


def write(root: Path, scratch: Path, target: Path) -> None:
    """Build it from a checkout.

    Args:
        root: the checkout.
        scratch: a folder for what the build needs and the site does not.
        target: the folder of the site.
    """
    wheel = build_wheel(root, scratch / "checkout", scratch / "wheel")
    contents, needed = scratch / "contents", packages(root)
    for name, content in files_of_the_course():
        path = contents / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".ipynb":
            content = json.dumps(for_browser(json.loads(content), needed)).encode()
        path.write_bytes(content)
    lite = Path(sys.executable).with_name("jupyter-lite")
    settings = scratch / "lite"
    settings.mkdir()
    about = {"jupyter-lite-schema-version": 0, "jupyter-config-data": {"appName": "moe_numpy in the browser"}}
    (settings / "jupyter-lite.json").write_text(json.dumps(about), encoding="utf-8")
    command = [lite, "build", "--lite-dir", settings, "--contents", contents, "--piplite-wheels", wheel]
    command += ["--output-dir", target, "--apps", "lab", "--no-sourcemaps", "--no-unused-shared-packages"]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"jupyter-lite build failed:\n{done.stdout}{done.stderr}")


def packages(root: Path) -> list[str]:
    """What a notebook installs before the wheel: its requirements, and what draws sliders."""
    needed = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    named = {re.split(r"[<>=~!]", each)[0]: each for each in needed} | RAISED
    return [each for name, each in named.items() if name != LEFT_OUT] + ["ipywidgets"]


def build_wheel(root: Path, copy: Path, folder: Path) -> Path:
    """The wheel, built from a copy: a build leaves files beside the sources.

    It brings Python's ``pydoc_data`` along, on which the notebooks train: Pyodide's standard library lacks it.
    """
    copy.mkdir(parents=True)
    for part in PARTS:
        if (root / part).is_dir():
            shutil.copytree(root / part, copy / part, ignore=IGNORED)
        else:
            shutil.copy(root / part, copy)
    shutil.copytree(Path(pydoc_data.__path__[0]), copy / "pydoc_data", ignore=IGNORED)
    settings = copy / "pyproject.toml"
    found = settings.read_text(encoding="utf-8")
    settings.write_text(found.replace('include = ["moe_numpy*", ', 'include = ["pydoc_data*", "moe_numpy*", '), "utf-8")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "wheel"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, copy], check=True)
    return next(folder.glob("moe_numpy-*.whl"))
