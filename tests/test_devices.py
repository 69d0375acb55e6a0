"""Where arrays live. There need be no GPU here: CuPy is made to be missing, or without a device."""

import importlib.abc
import sys
import types

import numpy as np
import pytest

from moe_numpy import devices
from moe_numpy.nn.module import normal


def stand_in_for_cupy(monkeypatch, count):
    class CUDARuntimeError(RuntimeError):
        pass

    def get_device_count():
        if count is None:
            raise CUDARuntimeError("no driver")
        return count

    runtime = types.SimpleNamespace(getDeviceCount=get_device_count, CUDARuntimeError=CUDARuntimeError)
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime)))


def test_the_cpu_is_numpy():
    x = np.arange(3)
    assert devices.namespace("cpu").asarray(x) is x
    assert devices.put(x, "cpu") is x
    assert devices.on_host(x)


def test_an_unknown_device_is_refused():
    with pytest.raises(devices.DeviceError, match="device must be one of cpu, cuda, got 'gpu'"):
        devices.namespace("gpu")


def test_without_cupy_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(devices.DeviceError, match=r"device cuda: CuPy is missing; python -m pip install 'cupy-cuda13x"):
        devices.put(np.ones(2), "cuda")


@pytest.mark.parametrize(
    "raised",
    [
        ModuleNotFoundError("no cuda", name="cuda"),
        ImportError("libcuda.so is missing"),
        RuntimeError("compiled for another NumPy"),
    ],
)
def test_a_cupy_that_does_not_load_is_not_called_missing(monkeypatch, raised):
    class Broken(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == "cupy":
                raise raised

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert devices.why_no_gpu() == f"CuPy cannot be imported: {raised}"


@pytest.mark.parametrize(("count", "message"), [(0, "CuPy finds no GPU$"), (None, "CuPy finds no GPU: no driver")])
def test_without_a_gpu_the_error_says_so(monkeypatch, count, message):
    stand_in_for_cupy(monkeypatch, count)
    with pytest.raises(devices.DeviceError, match=message):
        devices.namespace("cuda")


def test_types_of_numbers():
    assert devices.float_type("float32") == np.float32
    with pytest.raises(devices.DeviceError, match="dtype must be one of float32, bfloat16, got 'float16'"):
        devices.float_type("float16")


def test_bfloat16_comes_from_ml_dtypes(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", types.SimpleNamespace(bfloat16=np.float16))
    assert devices.float_type("bfloat16") == np.float16
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(devices.DeviceError, match="bfloat16 needs the package ml_dtypes"):
        devices.float_type("bfloat16")


def test_generators_on_the_cpu_are_those_of_numpy():
    assert devices.generator("cpu", [1, 2]).random() == np.random.default_rng([1, 2]).random()


def test_a_device_generator_draws_what_routers_need(monkeypatch):
    """The library of the device is NumPy here, and draws on first use."""
    random = types.SimpleNamespace(
        Generator=np.random.Generator, Philox4x3210=lambda seed: np.random.Philox(np.random.SeedSequence(seed))
    )
    monkeypatch.setattr(
        devices, "namespace", lambda device: types.SimpleNamespace(random=random, log=np.log, maximum=np.maximum)
    )
    first, again = devices.generator("cuda", [3, 1]), devices.generator("cuda", [3, 1])
    draws = [
        [g.random((1000,)), g.uniform(-1, 3, (1000,)), g.standard_normal((1000,)), g.gumbel(size=(1000,))]
        for g in (first, again)
    ]
    for a, b in zip(*draws, strict=True):
        np.testing.assert_array_equal(a, b)
    random_, uniform, normal, gumbel = draws[0]
    assert 0 <= random_.min() < random_.max() < 1
    assert -1 <= uniform.min() < -0.9 < 2.9 < uniform.max() < 3
    assert normal.mean() == pytest.approx(0, abs=0.1)
    assert gumbel.mean() == pytest.approx(0.5772, abs=0.15)
    assert sorted(first.permutation(10).tolist()) == list(range(10))


def test_weights_may_be_drawn_on_a_gpu():
    class Zeros(devices.DeviceGenerator):
        def standard_normal(self, size):
            return np.zeros(size)

    assert not normal(Zeros(0), (2, 3), 1.0).data.any()
