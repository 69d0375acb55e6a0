"""Work over all cores: in order, and nothing runs on after an error or Ctrl-C."""

import operator
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moe_numpy.commands.processes import over_all_cores


def test_results_come_in_order_and_from_other_processes():
    assert list(over_all_cores(operator.neg, range(20))) == [-i for i in range(20)]
    assert os.getpid() not in over_all_cores(operator.call, [os.getpid] * 3)


def test_an_error_comes_through_and_ends_the_rest():
    began = time.monotonic()
    with pytest.raises(TypeError, match="str"):
        list(over_all_cores(time.sleep, ["0", 60, 60]))
    assert time.monotonic() - began < 30


def test_ctrl_c_is_told_once_and_ends_all():
    """As a shell sends it: to every process of the command."""
    program = (
        "import signal, time; from moe_numpy.commands.processes import over_all_cores as run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # where a shell in the background ignores it
        "results = run(time.sleep, [0, 60, 60])\n"
        "try:\n    next(results); print('started', flush=True); next(results)\n"
        "finally:\n    results.close()"  # Ctrl-C may come between two results
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
    ) as command:
        assert command.stdout.readline() == "started\n"
        os.killpg(command.pid, signal.SIGINT)
        _, told = command.communicate(timeout=30)  # until the last process that holds its streams has ended
    assert command.returncode == -signal.SIGINT
    assert told.count("Traceback") == 1
