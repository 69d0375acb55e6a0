"""``python -m benchmarks.figure``: draw docs/figures/speed.png and speed_gpu.png from the recorded results.

To record them::

    python -m moe_numpy bench layer --against torch --json > benchmarks/results/cpu.json
    python -m moe_numpy bench layer --against torch --device cuda --dtype bfloat16 --json > benchmarks/results/cuda.json
"""

import json
from pathlib import Path
from typing import Any

from moe_numpy.plots import save
from moe_numpy.plots.grouped import product_times
from moe_numpy.plots.speed import layer_times

TITLES = {"cpu": "2 cores of an AMD EPYC, float32", "cuda": "one NVIDIA H200, bfloat16"}
_ROOT = Path(__file__).parent


def recorded(device: str) -> list[dict[str, Any]]:
    """The rows that were recorded on a "cpu" or on "cuda"."""
    rows: list[dict[str, Any]] = json.loads((_ROOT / "results" / f"{device}.json").read_bytes())["rows"]
    return rows


def main() -> None:
    """Draw both."""
    figures = _ROOT.parent / "docs" / "figures"
    save(layer_times({TITLES["cpu"]: recorded("cpu")}), figures / "speed.png")
    save(product_times(recorded("cuda")), figures / "speed_gpu.png")


if __name__ == "__main__":
    main()
