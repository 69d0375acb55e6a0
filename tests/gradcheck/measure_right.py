"""The rate of false alarms: ``python tests/gradcheck/measure_right.py [SEEDS]``."""

import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from right_functions import right_functions

from moe_numpy.gradcheck import gradcheck


def false_alarms(seeds):
    """The reports of failing runs, by name and seed; and the number of runs."""
    failed, runs = {}, 0
    for i, (name, build) in enumerate(right_functions()):
        for seed in seeds:
            f, inputs = build(np.random.default_rng([seed, i]))
            report = gradcheck(f, inputs, rng=np.random.default_rng(seed))
            runs += 1
            if not report.passed:
                failed[name, seed] = report
    return failed, runs


if __name__ == "__main__":
    start = time.perf_counter()
    failed, runs = false_alarms(range(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
    for (name, seed), report in failed.items():
        print(f"--- {name}, seed {seed}\n{report}"[:900])
    print(Counter(name for name, _ in failed))
    print(
        f"{len(failed)} false alarms in {runs} runs, {100 * len(failed) / runs:.2f} %, "
        f"{time.perf_counter() - start:.0f} s"
    )
