import json
import sys
import types

import numpy as np
from typer.testing import CliRunner

from moe_numpy.__main__ import app
from moe_numpy.commands import machine


def test_doctor_names_the_library_and_the_loops():
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    for word in ("processor", "NumPy", np.__version__, "GFLOP/s", "numba", "CuPy", "loops"):
        assert word in result.output


def test_doctor_as_json():
    report = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert report["numpy"] == np.__version__
    assert report["gflops_per_thread"] > 0
    assert report["kernels"] in ("on_numba", "on_numpy")
    assert isinstance(report["advice"], list)


def shown(monkeypatch, gpu):
    monkeypatch.setattr("moe_numpy.commands.machine.gpu", lambda: gpu)
    result = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    return result.output


def test_doctor_says_what_is_missing_for_a_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert machine.gpu() == {"missing": "CuPy is missing; python -m pip install 'cupy-cuda13x[ctk]' ml_dtypes"}
    assert "none: CuPy finds no GPU" in shown(monkeypatch, {"missing": "CuPy finds no GPU"})


def test_doctor_survives_a_gpu_that_does_not_compute(monkeypatch):
    def fails(dtype):
        raise RuntimeError("libcublas.so.13 does not load")

    runtime = types.SimpleNamespace(getDeviceProperties=lambda i: {"name": b"Some GPU", "totalGlobalMem": 0})
    cuda = types.SimpleNamespace(runtime=runtime, Device=lambda: types.SimpleNamespace(id=0))
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda))
    monkeypatch.setattr("moe_numpy.devices.why_no_gpu", lambda: None)
    monkeypatch.setattr(machine, "gpu_matmul_speed", fails)
    assert machine.gpu() == {"missing": "CuPy cannot compute on the Some GPU: libcublas.so.13 does not load"}


def test_doctor_shows_a_gpu(monkeypatch):
    gpu = {"missing": None, "name": "Some GPU", "memory_gib": 79.6, "tflops": {"float32": 50.2, "bfloat16": None}}
    output = shown(monkeypatch, gpu)
    assert "Some GPU, 80 GiB" in output
    assert "50 TFLOP/s in float32, no bfloat16: ml_dtypes is missing" in output
