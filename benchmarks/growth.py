"""How time and memory of a layer grow with E, k and T: python -m benchmarks.growth."""

import argparse
import json
import subprocess
import sys
from typing import Any

from .layer import Shape, measure
from .place import Place

SERIES = {
    "more experts, the same work per token": [Shape(4096, 256, 512, E, 2) for E in (8, 16, 32, 64, 128, 256)],
    "more and smaller experts, k f and E f constant": [
        Shape(2048, 512, 8192 // E, E, E // 8) for E in (8, 16, 32, 64, 128, 256)
    ],
    "more experts per token": [Shape(4096, 256, 512, 32, k) for k in (1, 2, 4, 8)],
    "more tokens": [Shape(T, 256, 512, 8, 2) for T in (256, 1024, 4096, 16384)],
}


def main() -> None:
    """Print one line per shape, each measured in a new process, so that the peak of memory is its own."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--shape", type=Shape.parse, metavar="T,d,f,E,k", help="its row alone, as JSON")
    only = parser.parse_args().shape
    if only:
        print(json.dumps(one(only)))
        return
    for title, shapes in SERIES.items():
        print(title)
        for shape in shapes:
            command = [sys.executable, "-m", __spec__.name, "--shape", ",".join(map(str, vars(shape).values()))]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row = json.loads(done.stdout)
            print(
                f"  {shape!s:34} {1e3 * row['ours_ms'] / shape.T:7.1f} µs per token, "
                f"{row['gemm_efficiency']:4.0%} matmul, peak {row['peak_mb']:6.0f} MB"
            )


def one(shape: Shape) -> dict[str, Any]:
    """The row of :func:`benchmarks.layer.measure` and the peak of resident memory."""
    import resource

    ((_, row),) = measure((shape,), None, rounds=9, budget_s=5.0, place=Place())
    return row() | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    main()
