from pathlib import Path

from moe_numpy.commands import machine
from moe_numpy.commands.matmul_speed import matmul_speed_with


def test_advice_names_the_gain(monkeypatch):
    monkeypatch.setattr(machine, "matmul_speed_with", lambda variables: 400.0)
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    report = {
        "blas": [{"library": "openblas", "kernels": "Haswell"}],
        "avx512": True,
        "gflops_per_thread": 200.0,
        "numba": None,
        "compiled_loops": None,
        "cupy": "13",
    }
    openblas, numba = machine.advice(report)
    assert "OPENBLAS_CORETYPE=SKYLAKEX" in openblas
    assert "2.0 times as fast (200 to 400 GFLOP/s with one thread)" in openblas
    assert "pip install numba" in numba
    monkeypatch.setattr(machine, "matmul_speed_with", lambda variables: 205.0)
    assert len(machine.advice(report)) == 1


def test_advice_where_compiled_loops_cannot_be_kept(monkeypatch):
    report = {"blas": [], "avx512": False, "numba": "0.68", "compiled_loops": False}
    monkeypatch.setattr("moe_numpy.kernels.compiled_loops_in", lambda: None)
    (advice,) = machine.advice(report)
    assert "set NUMBA_CACHE_DIR to a writable folder" in advice
    monkeypatch.setattr("moe_numpy.kernels.compiled_loops_in", lambda: "a folder")
    assert machine.advice(report) == []


def test_the_speed_of_a_process_with_other_variables():
    root = str(Path(machine.__file__).parents[2])
    assert matmul_speed_with({"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": root}) > 0
    assert matmul_speed_with({"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"}) is None


def test_a_machine_without_proc_cpuinfo(monkeypatch):
    monkeypatch.setattr(machine, "Path", lambda path: Path("/no"))
    assert machine.processor()["avx512"] is False
