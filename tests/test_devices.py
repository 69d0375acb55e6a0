"""Where arrays live. There need be no GPU here: CuPy is made to be missing, or without a device."""

import importlib.abc
import math
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


def draws(seed):
    g = devices.DeviceGenerator(devices.key_of(seed))
    return [g.random((100_000,)), g.uniform(-1, 3, 100_000), g.standard_normal((100, 1000)), g.gumbel(size=(100_000,))]


def test_a_device_generator_draws_what_routers_need():
    random, uniform, normal, gumbel = draws([3, 1])
    assert 0 <= random.min() < 1e-4
    assert 1 - 1e-4 < random.max() < 1
    assert np.histogram(random, 20, (0, 1))[0] == pytest.approx(5000, abs=5 * 5000**0.5)
    assert -1 <= uniform.min() < -0.99 < 2.99 < uniform.max() < 3
    for sample, cdf in (
        (normal, np.vectorize(lambda z: math.erfc(-z / 2**0.5) / 2)),
        (gumbel, lambda x: np.exp(-np.exp(-x))),
    ):
        p = np.sort(cdf(sample.reshape(-1)))
        assert np.abs(p - np.arange(len(p)) / len(p)).max() < 1.63 / len(p) ** 0.5  # Kolmogorov and Smirnov, 1 %
    assert normal.shape == (100, 1000)
    assert np.corrcoef(normal[:, ::2].reshape(-1), normal[:, 1::2].reshape(-1))[0, 1] == pytest.approx(0, abs=0.02)
    g = devices.DeviceGenerator(devices.key_of(0))
    assert sorted(g.permutation(10).tolist()) == list(range(10))
    assert g.permutation(10).tolist() != g.permutation(10).tolist()


def test_a_device_generator_repeats_its_seed_alone():
    for a, b, other in zip(draws([3, 1]), draws([3, 1]), draws([3, 2]), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.corrcoef(a.reshape(-1), other.reshape(-1))[0, 1] == pytest.approx(0, abs=0.02)


def test_weights_may_be_drawn_on_a_gpu():
    class Zeros(devices.DeviceGenerator):
        def standard_normal(self, size):
            return np.zeros(size)

    assert not normal(Zeros(np.zeros(2, int)), (2, 3), 1.0).data.any()
