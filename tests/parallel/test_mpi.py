"""Processes that MPI connects. The same bits on one process, on two and on four."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from moe_numpy.commands.starting_ranks import mpiexec
from moe_numpy.parallel import Alone

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="needs mpi4py"),
    pytest.mark.no_cover,
]
JOB = Path(__file__).with_name("job_of_tiny_runs.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the job found on 1, 2 and 4 processes."""
    found = {}
    paths = os.pathsep.join([str(JOB.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    for num in (1, 2, 4):
        to = tmp_path_factory.mktemp("job") / f"{num}.json"
        environment = os.environ | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"}
        command = [mpiexec(), "-n", str(num), sys.executable, str(JOB), str(to)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        found[num] = json.loads(to.read_text())
    return found


def test_training_has_the_same_bits_on_any_number_of_processes(results):
    for name, of_one in results[1].items():
        if name != "exchanges":
            assert results[2][name] == of_one, name
            assert results[4][name] == of_one, name


def test_parts_compute_what_one_process_computes(results):
    from job_of_tiny_runs import RECIPES, train

    for name in RECIPES:
        for ours, theirs in zip(results[4][name], train(name, Alone()), strict=True):
            np.testing.assert_allclose(ours[:3], theirs[:3], rtol=2e-5, err_msg=name)


def test_the_ledger_counts_what_leaves(results):
    sent = results[4]["exchanges"]
    of_rank_0 = np.array([0, 1, 2, 0]) * 2  # numbers to each rank; what stays is not counted
    expected = np.cumsum([of_rank_0 * size for size in (4, 8, 8, 1)], axis=0)
    assert [sent[name] for name in ("float32", "float64", "int64", "uint8")] == expected.tolist()
