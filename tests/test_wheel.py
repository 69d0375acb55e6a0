"""The wheel, installed away from the checkout: the command, the checker, the exercises and the course are in it.

One test, since building and installing take longer than all that is tried.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PARTS = ("moe_numpy", "exercises", "notebooks", "docs")
PARTS += ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "benchmarks", "tests/moe/mistakes.py")
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
# The imports of every notebook, as they stand, in a folder of the course.
IMPORT_ALL = """
import ast, json, os, sys
sys.path.pop(0)
for name in sorted(os.listdir()):
    with open(name, encoding="utf-8") as file:
        cells = ["".join(c["source"]) for c in json.load(file)["cells"] if c["cell_type"] == "code"]
    lines = [line for cell in cells for line in ast.parse(cell).body]
    imports = ast.Import | ast.ImportFrom
    wanted = [line for line in lines if isinstance(line, imports) or "sys.path" in ast.unparse(line)]
    exec(compile(ast.Module(wanted, []), name, "exec"), {})
"""
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def run(*arguments, **settings):
    told = [str(argument) for argument in arguments]
    done = subprocess.run(told, capture_output=True, text=True, timeout=300, check=False, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(folder):
    """Build the wheel from a copy: a build leaves files beside the sources."""
    copy = folder / "checkout"
    copy.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "work", ".ipynb_checkpoints")
            shutil.copytree(ROOT / part, copy / part, ignore=ignored)
        else:
            (copy / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / part, copy / part)
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, copy)
    shutil.rmtree(copy)
    return next(folder.glob("moe_numpy-*.whl"))


def test_the_wheel_works_outside_a_checkout(tmp_path):
    wheel, target, mine = build(tmp_path), tmp_path / "installed", tmp_path / "mine"
    names = zipfile.ZipFile(wheel).namelist()
    assert [Path(name).name for name in names if name.endswith(".ipynb")] == NOTEBOOKS
    assert [name for name in names if name.startswith(("exercises/work/", "tests/", "notebooks/", "build/"))] == []

    run(*PIP, "install", "--no-deps", "--no-index", "--target", target, wheel)
    mine.mkdir()
    left_out = ("EXERCISES_WORK", "PYTHONSAFEPATH")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"PYTHONPATH": str(target), "MOE_NUMPY_KERNELS": "numpy", "MPLBACKEND": "agg"}

    def command(*arguments):
        return run(*arguments, cwd=mine, env=environment)

    def module(name, *arguments):
        return command(sys.executable, "-m", name, *arguments)

    where = command(sys.executable, "-c", "import moe_numpy; print(moe_numpy.__file__)")
    assert Path(where.strip()).is_relative_to(target)
    script = target / "bin" / "moe-numpy" if os.name == "posix" else target / "bin" / "moe-numpy.exe"
    assert command(script, "--version").startswith("moe_numpy ")

    assert json.loads(module("moe_numpy", "demo", "--steps", "1", "--no-dense", "--out", "run", "--json"))["steps"] == 1
    assert (mine / "run" / "learning_curves.png").stat().st_size > 0
    assert "all passed" in module("moe_numpy", "gradcheck", "Softmax*")

    assert json.loads(module("exercises", "list", "--json"))[0]["exercise"] == "01"
    module("exercises", "reset", "01")
    assert [path.parent.name for path in mine.rglob("ex01_*.py")] == ["exercises_work"]

    module("moe_numpy", "course", "course")
    assert sorted(path.name for path in (mine / "course" / "notebooks").iterdir()) == NOTEBOOKS
    run(sys.executable, "-c", IMPORT_ALL, cwd=mine / "course" / "notebooks", env=environment)
