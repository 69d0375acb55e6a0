"""How fast this machine multiplies matrices."""

import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from .. import devices
from ..ops.matmul import product


def matmul_speed() -> float:
    """GFLOP/s of one thread multiplying 512 × 512 by 512 × 2048 in float32, the best of 30.

    Of one thread: threads that share a multiplication wait for each other, so other work on one core slows all.
    """
    a, b = np.ones((512, 512), np.float32), np.ones((512, 2048), np.float32)
    out = np.empty((512, 2048), np.float32)
    best = float("inf")
    with threadpool_limits(1, user_api="blas"):
        for _ in range(30):
            start = time.perf_counter()
            np.matmul(a, b, out=out)
            best = min(best, time.perf_counter() - start)
    return 2 * 512 * 512 * 2048 / best / 1e9


def matmul_speed_with(variables: dict[str, str]) -> float | None:
    """:func:`matmul_speed` in a new process with these environment variables; None if that fails."""
    code = "from moe_numpy.commands.matmul_speed import matmul_speed; print(matmul_speed())"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def gpu_matmul_speed(dtype: Any) -> float:
    """TFLOP/s of multiplying two 8192 × 8192 matrices on the GPU, the best of 6."""
    n = 8192
    rng, device = devices.generator("cuda", 0), devices.namespace("cuda").cuda.Device()
    a, b = (rng.standard_normal((n, n)).astype(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        device.synchronize()
        start = time.perf_counter()
        product(a, b)
        device.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best / 1e12
