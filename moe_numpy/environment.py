"""What has to be set before NumPy is imported. Does not import it."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

KEEP = "MOE_NUMPY_KEEP_ENVIRONMENT"
CORE = "OPENBLAS_CORETYPE"
_AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
set_here: dict[str, str] = {}  # by prepare()


def prepare() -> None:
    """Choose OpenBLAS's AVX-512 kernels where its own choice may miss them. Call before NumPy is imported.

    OpenBLAS recognises processors by their model numbers and gives an AMD model newer than itself the AVX2
    kernels, at half the speed. Does nothing on another processor, if ``OPENBLAS_CORETYPE`` is set already, if
    NumPy has been imported already, or if the variable MOE_NUMPY_KEEP_ENVIRONMENT is set.
    """
    if os.environ.get(KEEP) or os.environ.get(CORE) or "numpy" in sys.modules:
        return
    cpu = processor()
    if cpu["vendor"] == "AuthenticAMD" and cpu["avx512"]:
        os.environ[CORE] = set_here[CORE] = "SKYLAKEX"


def processor() -> dict[str, Any]:
    """The processor's vendor and model, and whether it has all of AVX-512 that OpenBLAS uses (known on Linux only)."""
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
