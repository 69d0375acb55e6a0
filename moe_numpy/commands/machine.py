"""What this machine offers, as plain values, and what to change."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from .. import devices, kernels
from .matmul_speed import gpu_matmul_speed, matmul_speed, matmul_speed_with

_WIDE = ("SkylakeX", "Cooperlake", "SapphireRapids")  # OpenBLAS's names for its AVX-512 kernels
_CORE = "OPENBLAS_CORETYPE"
_AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


def examine() -> dict[str, Any]:
    """What is installed and in use; ``advice`` says what to change and how much faster that is."""
    cpu = processor()
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
        "gflops_per_thread": matmul_speed(),
        "kernels": kernel_name,
        "numba": _version("numba"),
        "compiled_loops": None if kernel_name != "on_numba" else not kernels.must_compile(),
        "cupy": next((v for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy") if (v := _version(name))), None),
        "gpu": gpu(),
        "torch": _version("torch"),
        "transformers": _version("transformers"),
    }
    report["advice"] = advice(report)
    return report


def processor() -> dict[str, Any]:
    """The processor's model, and whether it has all of AVX-512 that OpenBLAS uses (known on Linux only)."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    return {
        "model": fields.get("model name", platform.processor() or platform.machine()),
        "avx512": set(fields.get("flags", "").split()) >= _AVX512,
    }


def gpu() -> dict[str, Any]:
    """The GPU that CuPy uses: name, memory, matrix multiplication speed by dtype; or ``missing``, the reason."""
    missing = devices.why_no_gpu()
    if missing:
        return {"missing": missing}
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    name = properties["name"].decode()
    tflops: dict[str, float | None] = {}
    for dtype in devices.DTYPES:
        try:
            tflops[dtype] = gpu_matmul_speed(devices.float_type(dtype))
        except devices.DeviceError:  # bfloat16 without ml_dtypes
            tflops[dtype] = None
        except Exception as error:  # CUDA libraries that do not load, memory that is full: doctor reports it
            return {"missing": f"CuPy cannot compute on the {name}: {error}"}
    return {"missing": None, "name": name, "memory_gib": properties["totalGlobalMem"] / 2**30, "tflops": tflops}


def advice(report: dict[str, Any]) -> list[str]:
    """What would make this machine faster."""
    lines = []
    narrow = [b for b in report["blas"] if b["library"] == "openblas" and b["kernels"] not in _WIDE]
    if narrow and report["avx512"]:
        other = matmul_speed_with({_CORE: "SKYLAKEX"})
        here = report["gflops_per_thread"]
        if other is not None and other > 1.1 * here:
            asked = os.environ.get(_CORE)
            why = f"because of {_CORE}={asked}" if asked else "by its own choice"
            lines.append(
                f"OpenBLAS runs its {narrow[0]['kernels']} kernels on a processor with AVX-512, {why}; with "
                f"{_CORE}=SKYLAKEX, set before Python starts, matrix multiplication is {other / here:.1f} times as "
                f"fast ({here:.0f} to {other:.0f} GFLOP/s with one thread)"
            )
    if report["compiled_loops"] is False and kernels.compiled_loops_in() is None:
        lines.append(
            "compiled loops cannot be stored, so each process compiles them again; set NUMBA_CACHE_DIR to a writable "
            "folder"
        )
    if report["numba"] is None:
        lines.append("numba is missing, so the kernels run as plain NumPy; python -m pip install numba")
    return lines


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown" if find_spec(package) else None
