"""The course in the browser: JupyterLite with the notebooks and the wheel, as the folder ``lite/`` of the site.

The kernel, Pyodide, and the packages that the wheel needs are fetched by the learner's browser when a cell runs.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from moe_numpy.commands.course import files_of_the_course

PARTS = ("moe_numpy", "exercises", "notebooks", "docs")
PARTS += ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
IGNORED = shutil.ignore_patterns("__pycache__", "work", ".ipynb_checkpoints")
KERNEL = {"display_name": "Python (Pyodide)", "language": "python", "name": "python"}
# Pyodide has no numba, which the package can do without: hence no dependencies, and a list of them.
FIRST_CELL = """\
# In the browser only: installs the library into this page, which takes a minute and a connection.
import os
import piplite

os.environ["MOE_NUMPY_KERNELS"] = "numpy"
await piplite.install(
    ["numpy", "scipy", "matplotlib", "pillow", "msgspec", "safetensors", "threadpoolctl"]
    + ["typer", "rich", "jaxtyping", "array-api-compat", "ipywidgets"]
)
await piplite.install("moe_numpy", deps=False)
%load_ext exercises"""


def write(root: Path, scratch: Path, target: Path) -> None:
    """Build it from a checkout.

    Args:
        root: the checkout.
        scratch: a folder for what the build needs and the site does not.
        target: the folder of the site.
    """
    wheel = build_wheel(root, scratch / "checkout", scratch / "wheel")
    contents = scratch / "contents"
    for name, content in files_of_the_course():
        path = contents / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(for_browser(content) if path.suffix == ".ipynb" else content)
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


def build_wheel(root: Path, copy: Path, folder: Path) -> Path:
    """The wheel, built from a copy: a build leaves files beside the sources."""
    copy.mkdir(parents=True)
    for part in PARTS:
        if (root / part).is_dir():
            shutil.copytree(root / part, copy / part, ignore=IGNORED)
        else:
            shutil.copy(root / part, copy)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "wheel"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, copy], check=True)
    return next(folder.glob("moe_numpy-*.whl"))


def for_browser(content: bytes) -> bytes:
    """A notebook whose first cell installs the library, and whose kernel is Pyodide's."""
    notebook = json.loads(content)
    cell = {"cell_type": "code", "execution_count": None, "id": "in-the-browser", "metadata": {}, "outputs": []}
    title, *others = notebook["cells"]
    notebook["cells"] = [title, cell | {"source": FIRST_CELL}, *others]
    notebook["metadata"]["kernelspec"] = KERNEL
    return json.dumps(notebook).encode()
