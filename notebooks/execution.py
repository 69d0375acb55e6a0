"""Run a notebook from a clean kernel, as in a fresh clone."""

import os
import sys
import tempfile
import time
from ast import literal_eval
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)
_USAGE = """import resource
_usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
_usage[0].ru_maxrss, sum(u.ru_utime + u.ru_stime for u in _usage)"""
_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, bytes
_WIDGET = "application/vnd.jupyter.widget-view+json"
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


@dataclass(frozen=True)
class Execution:
    """What came of it.

    Attributes:
        notebook: with its outputs.
        seconds: from the start of the kernel to its end.
        processor_seconds: of the kernel and the processes it started; the same on a busy machine.
        peak_bytes: the most memory the kernel held.
    """

    notebook: NotebookNode
    seconds: float
    processor_seconds: float
    peak_bytes: int


def execute(path: Path, *, threads: int = 2, limit: float = 300) -> Execution:
    """Run every cell in order, in the notebooks' folder, on the stubs of the exercises.

    Nothing that changes from run to run is kept, except what the cells themselves print. Of
    sliders, which need a kernel, only the text remains.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
        nbclient.exceptions.CellTimeoutError: a cell took longer than ``limit`` seconds.
    """
    notebook = nbformat.read(path, as_version=4)
    measured = nbformat.from_dict(
        {**notebook, "cells": [*notebook.cells, nbformat.v4.new_code_cell(_USAGE)]}
    )
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            measured,
            timeout=limit,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--IPKernelApp.log_level=40"],  # not its warnings about transport
            resources={"metadata": {"path": str(HERE)}},
        )
        began = time.perf_counter()
        client.execute(
            env={**os.environ, "EXERCISES_WORK": folder} | dict.fromkeys(_THREADS, str(threads))
        )
        seconds = time.perf_counter() - began
        text = nbformat.writes(measured).replace(folder, "exercises/work")
    done = nbformat.reads(text, as_version=4)
    peak, processor = literal_eval(done.cells.pop().outputs[0].data["text/plain"])
    for output in (output for cell in done.cells for output in cell.get("outputs", ())):
        output.get("data", {}).pop(_WIDGET, None)
    done.metadata = nbformat.from_dict({"kernelspec": _KERNEL, "language_info": {"name": "python"}})
    return Execution(done, seconds, processor, peak * _UNIT)
