"""What has to be set before NumPy is imported, and what this machine offers. Imports NumPy only to look at it."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

OFF = "MOE_NUMPY_KEEP_ENVIRONMENT"
_CORE = "OPENBLAS_CORETYPE"
_WIDE = ("SkylakeX", "Cooperlake", "SapphireRapids")  # OpenBLAS's names for its AVX-512 kernels
_AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_set_here: dict[str, str] = {}


def prepare() -> None:
    """Choose OpenBLAS's AVX-512 kernels where its own choice may miss them. Call before NumPy is imported.

    OpenBLAS recognises processors by their model numbers and gives an AMD model newer than itself the AVX2
    kernels, at half the speed. Does nothing on another processor, where ``OPENBLAS_CORETYPE`` is set already, where
    NumPy has been imported already, or where the variable MOE_NUMPY_KEEP_ENVIRONMENT is set.
    """
    if os.environ.get(OFF) or os.environ.get(_CORE) or "numpy" in sys.modules:
        return
    cpu = _cpu()
    if cpu["vendor"] == "AuthenticAMD" and cpu["avx512"]:
        os.environ[_CORE] = _set_here[_CORE] = "SKYLAKEX"


def examine() -> dict[str, Any]:
    """What is installed and in use, plain values; ``advice`` says what to change and what it brings."""
    import numpy as np
    from threadpoolctl import ThreadpoolController

    from . import kernels

    cpu = _cpu()
    kernel_name = f"on_{kernels.in_use()}"
    blas = [
        {
            "library": library.internal_api,
            "version": library.version,
            "kernels": getattr(library, "architecture", None),
            "threads": library.num_threads,
        }
        for library in ThreadpoolController().select(user_api="blas").lib_controllers
    ]
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": cpu["model"],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "avx512": cpu["avx512"],
        "numpy": np.__version__,
        "blas": blas,
        "gflops_per_thread": product_speed(),
        "set_by_this_command": dict(_set_here),
        "kernels": kernel_name,
        "numba": _version("numba"),
        "compiled_loops": None if kernel_name != "on_numba" else not kernels.must_compile(),
        "cupy": next((v for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy") if (v := _version(name))), None),
        "gpu": gpu(),
        "torch": _version("torch"),
        "transformers": _version("transformers"),
    }
    report["advice"] = _advice(report)
    return report


def product_speed() -> float:
    """GFLOP/s of one thread in a float32 product of 512 × 512 by 512 × 2048, the best of some.

    Of one, since threads that share a product wait for each other, and one that other work holds up holds up all.
    """
    import time

    import numpy as np
    from threadpoolctl import threadpool_limits

    a, b = np.ones((512, 512), np.float32), np.ones((512, 2048), np.float32)
    out = np.empty((512, 2048), np.float32)
    best = float("inf")
    with threadpool_limits(1, user_api="blas"):
        for _ in range(30):
            start = time.perf_counter()
            np.matmul(a, b, out=out)
            best = min(best, time.perf_counter() - start)
    return 2 * 512 * 512 * 2048 / best / 1e9


def gpu() -> dict[str, Any]:
    """The GPU that CuPy uses: its name, memory, and the speed of its products by type; or ``missing``, and why."""
    from . import devices

    missing = devices.why_no_gpu()
    if missing:
        return {"missing": missing}
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    name = properties["name"].decode()
    tflops: dict[str, float | None] = {}
    for dtype in devices.DTYPES:
        try:
            tflops[dtype] = gpu_product_speed(devices.float_type(dtype))
        except devices.DeviceError:  # bfloat16 without ml_dtypes
            tflops[dtype] = None
        except Exception as error:  # libraries of CUDA that do not load, no memory left: what doctor is asked about
            return {"missing": f"CuPy cannot compute on the {name}: {error}"}
    return {"missing": None, "name": name, "memory_gib": properties["totalGlobalMem"] / 2**30, "tflops": tflops}


def gpu_product_speed(dtype: Any, n: int = 8192) -> float:
    """TFLOP/s of a product of n × n by n × n on the GPU, the best of some."""
    import time

    from . import devices

    rng, device = devices.generator("cuda", 0), devices.namespace("cuda").cuda.Device()
    a, b = (rng.standard_normal((n, n)).astype(dtype) for _ in range(2))
    from .ops.matmul import product

    best = float("inf")
    for _ in range(6):
        device.synchronize()
        start = time.perf_counter()
        product(a, b)
        device.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best / 1e12


def _advice(report: dict[str, Any]) -> list[str]:
    from . import kernels

    advice = []
    narrow = [b for b in report["blas"] if b["library"] == "openblas" and b["kernels"] not in _WIDE]
    if narrow and report["avx512"]:
        other = _speed_with({_CORE: "SKYLAKEX"})
        here = report["gflops_per_thread"]
        if other is not None and other > 1.1 * here:
            asked = os.environ.get(_CORE)
            where = f"{_CORE}={asked} asks for it" if asked else "it chose them itself"
            advice.append(
                f"OpenBLAS runs its {narrow[0]['kernels']} kernels on a processor with AVX-512 ({where}); with "
                f"{_CORE}=SKYLAKEX, set before Python starts, products are {other / here:.1f} times as "
                f"fast ({here:.0f} to {other:.0f} GFLOP/s with one thread)"
            )
    if report["compiled_loops"] is False and kernels.compiled_loops_in() is None:
        advice.append(
            "compiled loops cannot be kept, so each process compiles them anew; set NUMBA_CACHE_DIR to a folder that "
            "can be written"
        )
    if report["numba"] is None:
        advice.append("numba is missing, so the kernels run as plain NumPy; python -m pip install numba")
    return advice


def _speed_with(environment: dict[str, str]) -> float | None:
    """:func:`product_speed` in a process of its own with other variables; None if that fails."""
    code = "from moe_numpy.environment import product_speed; print(product_speed())"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _cpu() -> dict[str, Any]:
    """The processor's vendor and model, and whether it has all of AVX-512 that OpenBLAS uses; Linux only."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    return {
        "vendor": fields.get("vendor_id"),
        "model": fields.get("model name", platform.processor() or platform.machine()),
        "avx512": set(fields.get("flags", "").split()) >= _AVX512,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown" if find_spec(package) else None
