"""``python -m benchmarks.figure``: draw docs/figures/speed.png from the recorded results.

To record them::

    python -m moe_numpy bench layer --against torch --json > benchmarks/results/cpu.json
    python -m moe_numpy bench layer --against torch --device cuda --dtype bfloat16 --json > benchmarks/results/cuda.json
"""

import json
from pathlib import Path

from moe_numpy.plots import save
from moe_numpy.plots.speed import layer_times

TITLES = {"cpu": "2 cores of an AMD EPYC, float32", "cuda": "one NVIDIA H200, bfloat16"}


def main() -> None:
    """Draw the figure from the files that exist."""
    root = Path(__file__).parent
    files = {title: root / "results" / f"{name}.json" for name, title in TITLES.items()}
    results = {title: json.loads(file.read_bytes())["rows"] for title, file in files.items() if file.exists()}
    save(layer_times(results), root.parent / "docs" / "figures" / "speed.png")


if __name__ == "__main__":
    main()
