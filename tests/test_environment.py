import os
import sys

import pytest

from moe_numpy import environment

AMD = {"vendor": "AuthenticAMD", "model": "some AMD", "avx512": True}


@pytest.fixture
def before_numpy(monkeypatch):
    """A process that has not imported NumPy, on an AMD processor with AVX-512."""
    monkeypatch.delitem(sys.modules, "numpy")
    for name in (environment.OFF, "OPENBLAS_CORETYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment, "_cpu", lambda: AMD)
    monkeypatch.setattr(environment, "_set_here", {})
    monkeypatch.setattr(os, "environ", dict(os.environ))


def test_the_wide_kernels_are_chosen(before_numpy):
    environment.prepare()
    assert os.environ["OPENBLAS_CORETYPE"] == "SKYLAKEX"
    assert environment._set_here == {"OPENBLAS_CORETYPE": "SKYLAKEX"}


@pytest.mark.parametrize("cpu", [AMD | {"avx512": False}, AMD | {"vendor": "GenuineIntel"}, AMD | {"vendor": None}])
def test_nothing_is_set_on_another_processor(before_numpy, monkeypatch, cpu):
    monkeypatch.setattr(environment, "_cpu", lambda: cpu)
    environment.prepare()
    assert "OPENBLAS_CORETYPE" not in os.environ


def test_it_can_be_switched_off_and_leaves_the_users_choice(before_numpy):
    os.environ[environment.OFF] = "1"
    environment.prepare()
    assert "OPENBLAS_CORETYPE" not in os.environ
    del os.environ[environment.OFF]
    os.environ["OPENBLAS_CORETYPE"] = "Haswell"
    environment.prepare()
    assert os.environ["OPENBLAS_CORETYPE"] == "Haswell"


def test_nothing_is_set_after_numpy(before_numpy, monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", object())
    environment.prepare()
    assert "OPENBLAS_CORETYPE" not in os.environ


def test_advice_names_the_gain(monkeypatch):
    monkeypatch.setattr(environment, "_cpu", lambda: AMD)
    monkeypatch.setattr(environment, "_speed_with", lambda variables: 400.0)
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    report = {
        "blas": [{"library": "openblas", "kernels": "Haswell"}],
        "avx512": True,
        "gflops_per_thread": 200.0,
        "numba": None,
        "compiled_loops": None,
        "cupy": "13",
    }
    openblas, numba = environment._advice(report)
    assert "OPENBLAS_CORETYPE=SKYLAKEX" in openblas
    assert "2.0 times as fast (200 to 400 GFLOP/s with one thread)" in openblas
    assert "pip install numba" in numba
    monkeypatch.setattr(environment, "_speed_with", lambda variables: 205.0)
    assert len(environment._advice(report)) == 1


def test_advice_where_compiled_loops_cannot_be_kept(monkeypatch):
    report = {"blas": [], "avx512": False, "numba": "0.68", "compiled_loops": False}
    monkeypatch.setattr("moe_numpy.kernels.compiled_loops_in", lambda: None)
    (advice,) = environment._advice(report)
    assert "set NUMBA_CACHE_DIR to a folder that can be written" in advice
    monkeypatch.setattr("moe_numpy.kernels.compiled_loops_in", lambda: "a folder")
    assert environment._advice(report) == []


def test_the_speed_of_a_process_with_other_variables():
    assert environment._speed_with({"OPENBLAS_NUM_THREADS": "1"}) > 0
    assert environment._speed_with({"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"}) is None


def test_a_machine_without_proc_cpuinfo(monkeypatch):
    monkeypatch.setattr(environment, "Path", lambda path: environment.__builtins__["__import__"]("pathlib").Path("/no"))
    assert environment._cpu()["avx512"] is False
