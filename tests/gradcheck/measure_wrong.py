"""The rate of misses: ``python tests/gradcheck/measure_wrong.py [SEEDS]``."""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from wrong_gradients import wrong_gradients

from moe_numpy.gradcheck import gradcheck


def misses(seeds):
    """Names and seeds of what passed; names, seeds and reports of what was not described; the number of runs."""
    missed, misnamed, runs = [], [], 0
    for i, (name, build, words) in enumerate(wrong_gradients()):
        for seed in seeds:
            f, inputs = build(np.random.default_rng([seed, i]))
            try:
                report = gradcheck(f, inputs, rng=np.random.default_rng(seed))
            except RuntimeError as error:  # the engine itself noticed
                report = error
            runs += 1
            if not isinstance(report, RuntimeError) and report.passed:
                missed.append((name, seed))
            elif words is not None and words not in str(report):
                misnamed.append((name, seed, str(report)))
    return missed, misnamed, runs


if __name__ == "__main__":
    start = time.perf_counter()
    missed, misnamed, runs = misses(range(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
    for name, seed, report in misnamed:
        print(f"--- {name}, seed {seed}\n{report}"[:700])
    print("missed:", missed)
    print(
        f"{len(missed)} of {runs} missed, {100 * len(missed) / runs:.2f} %; {len(misnamed)} described otherwise; "
        f"{time.perf_counter() - start:.0f} s"
    )
