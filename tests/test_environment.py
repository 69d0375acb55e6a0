import os
import sys
from pathlib import Path

import pytest

from moe_numpy import environment

AMD = {"vendor": "AuthenticAMD", "model": "some AMD", "avx512": True}


@pytest.fixture
def before_numpy(monkeypatch):
    """A process that has not imported NumPy, on an AMD processor with AVX-512."""
    monkeypatch.delitem(sys.modules, "numpy")
    for name in (environment.KEEP, "OPENBLAS_CORETYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment, "processor", lambda: AMD)
    monkeypatch.setattr(environment, "set_here", {})
    monkeypatch.setattr(os, "environ", dict(os.environ))


def test_the_wide_kernels_are_chosen(before_numpy):
    environment.prepare()
    assert os.environ["OPENBLAS_CORETYPE"] == "SKYLAKEX"
    assert environment.set_here == {"OPENBLAS_CORETYPE": "SKYLAKEX"}


@pytest.mark.parametrize("cpu", [AMD | {"avx512": False}, AMD | {"vendor": "GenuineIntel"}, AMD | {"vendor": None}])
def test_nothing_is_set_on_another_processor(before_numpy, monkeypatch, cpu):
    monkeypatch.setattr(environment, "processor", lambda: cpu)
    environment.prepare()
    assert "OPENBLAS_CORETYPE" not in os.environ


def test_it_can_be_switched_off_and_leaves_the_users_choice(before_numpy):
    os.environ[environment.KEEP] = "1"
    environment.prepare()
    assert "OPENBLAS_CORETYPE" not in os.environ
    del os.environ[environment.KEEP]
    os.environ["OPENBLAS_CORETYPE"] = "Haswell"
    environment.prepare()
    assert os.environ["OPENBLAS_CORETYPE"] == "Haswell"


def test_nothing_is_set_after_numpy(before_numpy, monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", object())
    environment.prepare()
    assert "OPENBLAS_CORETYPE" not in os.environ


def test_a_machine_without_proc_cpuinfo(monkeypatch):
    monkeypatch.setattr(environment, "Path", lambda path: Path("/no"))
    assert environment.processor()["avx512"] is False
