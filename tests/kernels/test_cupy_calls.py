"""The calls of on_cupy, checked without a GPU: a stand-in for CuPy whose arrays are NumPy's.

Loops are not run, but every launch is held against the signature in ``on_cupy.cu``: a GPU would take the memory of an
array of another type for numbers of the type that it expects. cuBLAS is played by NumPy on the same addresses.
"""

import ctypes
import importlib.util
import re
import sys
import types
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from test_agreement import CASES, strided

from moe_numpy import kernels
from moe_numpy.autodiff.arrays import is_float
from moe_numpy.kernels import registry

SOURCE = Path(kernels.__file__).with_name("on_cupy.py")


class DeviceArray(np.ndarray):
    """An array with the few attributes that CuPy's has beyond NumPy's; where all of them lie is known."""

    memory: set = set()  # noqa: RUF012

    def __array_finalize__(self, _):
        begin = self.ctypes.data
        self.memory.add((begin, begin + self.nbytes))

    data = property(lambda self: types.SimpleNamespace(ptr=self.ctypes.data))

    def get(self):
        return np.array(self)

    def sum(self, *args, **settings):
        return on_device(np.sum(np.asarray(self), *args, **settings))


def on_device(value):
    if isinstance(value, list | tuple):
        return type(value)(map(on_device, value))
    return np.asarray(value).view(DeviceArray) if isinstance(value, np.ndarray | np.generic) else value


def signatures(code):
    """The types of the parameters of every loop."""
    loops = re.findall(r"__global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(([^)]*)\)", code)
    return {name: [p.rpartition(" ")[0].removeprefix("const ") for p in given.split(",")] for name, given in loops}


MOVING = {"dense", "take", "take_rows", "scatter"}  # entries of any type, by their bytes


class RawModule:
    """Compiles nothing, and checks calls."""

    launched: set = set()  # noqa: RUF012

    def __init__(self, code, options):
        self.signatures = signatures(re.sub(r"\s+", " ", code).replace(", ", ","))
        defined = dict(option.removeprefix("-D").split("=") for option in options if option.startswith("-D"))
        c = {"index_t": "int64", "unsigned long long": "int64", "double": "float64", "float": "float32", "bool": "bool"}
        c |= {
            "__nv_bfloat16": "bfloat16",
            "bf16": "bfloat16",
            "unsigned short": "bfloat16",
            "int": "int32",
            "unsigned": "uint32",
        }
        self.types = c | {name: c[value] for name, value in defined.items() if value in c}

    def get_function(self, name):
        def launch(grid, block, arguments, shared_mem):
            assert 0 < grid[0] < 2**31
            assert all(0 < n <= 65_535 for n in grid[1:])
            assert np.prod(block) <= 1024
            parameters = self.signatures[name]
            assert len(arguments) == len(parameters), name
            for i, (value, parameter) in enumerate(zip(arguments, parameters, strict=True)):
                self.check(name, value, parameter, f"argument {i} of {name}")
            self.launched.add(name)

        return launch

    def check(self, name, value, parameter, where):
        if parameter == "Table":
            assert value.shape == (1,), where
            assert value.dtype.names == ("array", "size", "number", "first"), where
            return
        expected = self.types[parameter.removesuffix("*")]
        if not parameter.endswith("*"):
            given = {"int64": "int", "float64": "float"}.get(expected, expected)
            assert type(value).__name__ == given, where
        elif isinstance(value, np.ndarray) and name in MOVING:
            assert value.itemsize == np.dtype(expected).itemsize, where
        elif isinstance(value, np.ndarray):
            assert value.dtype.name == expected, where
            assert value.flags.c_contiguous or not parameter.startswith("bf16"), where
        else:
            assert value == 0, where  # a null pointer


def entries(address, dtype, shape, steps):
    """The memory at an address as an array; all of it must belong to one that was made."""
    size = dtype.itemsize * (1 + sum((n - 1) * step for n, step in zip(shape, steps, strict=True)))
    assert any(begin <= address and address + size <= end for begin, end in DeviceArray.memory), "out of bounds"
    flat = np.frombuffer((ctypes.c_char * size).from_address(address), dtype)
    return np.lib.stride_tricks.as_strided(flat, shape, [step * dtype.itemsize for step in steps])


def dtype_of(kind):
    return float_type({0: "float32", 1: "float64", 14: "bfloat16"}[kind])


def float_type(name):
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def number(address, compute):
    dtype = ctypes.c_double if compute == 70 else ctypes.c_float
    return dtype.from_address(address).value


def gemm(a_turned, b_turned, m, n, k, alpha, *rest):
    """c = alpha a b, matrices column by column."""
    a, a_kind, a_step, b, b_kind, b_step, beta, c, c_kind, c_step, compute, _ = rest
    assert number(beta, compute) == 0
    left = entries(a, dtype_of(a_kind), (m, k), (a_step, 1) if a_turned else (1, a_step))
    right = entries(b, dtype_of(b_kind), (k, n), (b_step, 1) if b_turned else (1, b_step))
    entries(c, dtype_of(c_kind), (m, n), (1, c_step))[...] = number(alpha, compute) * (left @ right)


FUNCTIONS = [
    "argsort",
    "arange",
    "ascontiguousarray",
    "asarray",
    "broadcast_to",
    "concatenate",
    "cumsum",
    "repeat",
    "tile",
    "zeros",
]


def batched_gemm(a_turned, b_turned, m, n, k, alpha, *rest):
    """The same for stacks of matrices with three strides."""
    a, a_kind, a_step, a_next, b, b_kind, b_step, b_next, beta, c, c_kind, c_step, c_next, heads, *compute = rest
    for h in range(heads):
        first, second, result = (
            (address + h * distance * dtype_of(kind).itemsize, kind, step)
            for address, kind, step, distance in (
                (a, a_kind, a_step, a_next), (b, b_kind, b_step, b_next), (c, c_kind, c_step, c_next)
            )
        )  # fmt: skip
        gemm(a_turned, b_turned, m, n, k, alpha, *first, *second, beta, *result, *compute)


@pytest.fixture
def on_cupy(monkeypatch):
    """The kernels for the GPU on the stand-in."""
    DeviceArray.memory.clear()
    cupy = types.ModuleType("cupy")
    for name in FUNCTIONS:
        function = getattr(np, name)
        setattr(cupy, name, lambda *args, _function=function, **settings: on_device(_function(*args, **settings)))
    cupy.empty, cupy.add, cupy.RawModule = cupy.zeros, np.add, RawModule  # so that order has indices that exist
    stream = types.SimpleNamespace(is_capturing=lambda: False)
    cupy.cuda = types.SimpleNamespace(get_allocator=lambda: None, get_current_stream=lambda: stream)
    cublas, grouped_gemm = types.ModuleType("cublas"), types.ModuleType("grouped_gemm")
    cublas.gemm, cublas.gemm_of_stacks, grouped_gemm.fits = gemm, batched_gemm, lambda *arrays: False
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    for module in (cublas, grouped_gemm):
        monkeypatch.setitem(sys.modules, f"moe_numpy.kernels.{module.__name__}", module)
        monkeypatch.setattr(kernels, module.__name__, module, raising=False)
    device = types.SimpleNamespace(attributes={"MaxSharedMemoryPerBlockOptin": 232_448})
    cupy.cuda.Device = lambda: device
    for name in ("attention", "tiled_products"):
        module = loaded(name)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(kernels, name, module, raising=False)
    return loaded("on_cupy")


def loaded(name):
    """A module of the kernels, loaded for this test alone."""
    path = SOURCE.with_name(f"{name}.py")
    specification = importlib.util.spec_from_file_location(f"moe_numpy.kernels.{name}", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def call(module, name, arguments):
    """The kernel with the arguments of its case."""
    arguments = list(arguments)
    settings = arguments.pop() if isinstance(arguments[-1], dict) else {}
    return getattr(module, name, registry[name].definition)(*arguments, **settings)


def cast(value, dtype):
    """Arrays of floats in another type."""
    if isinstance(value, list | tuple):
        return type(value)([cast(part, dtype) for part in value])
    return value.astype(dtype) if isinstance(value, np.ndarray) and is_float(value.dtype) else value


def every_case(test):
    return pytest.mark.parametrize(("name", "build"), [c for cases in CASES.values() for c in cases])(test)


@every_case
@pytest.mark.parametrize("view", [np.asarray, strided])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_every_launch_fits_its_loop(name, build, view, dtype, on_cupy):
    arguments = list(build(np.random.default_rng(0), float_type(dtype), view))
    if dtype == "bfloat16" and name.startswith("adamw"):
        p, gradients, m, v, *rest = arguments
        arguments = [cast(p, np.float32), gradients, *cast([m, v], np.float32), *rest]  # masters, and their moments
    call(on_cupy, name, on_device(arguments))


@every_case
@pytest.mark.parametrize("wide", [0, 1])
def test_arrays_of_two_types_are_brought_to_one(name, build, wide, on_cupy):
    arguments = list(build(np.random.default_rng(0), np.dtype(np.float32), np.asarray))
    if name.startswith("adamw") and wide == 0:
        arguments[2:4] = cast(arguments[2:4], np.float64)  # moments have the type of their parameters
        arguments[5] = cast(arguments[5], np.float64)
    if wide < len(arguments):
        arguments[wide] = cast(arguments[wide], np.float64)
    call(on_cupy, name, on_device(arguments))


def test_every_loop_is_launched(on_cupy):
    RawModule.launched.clear()
    for cases in CASES.values():
        for case in cases:
            name, build = case.values
            dtype = float_type("bfloat16" if name == "wide_product" else "float32")
            call(on_cupy, name, on_device(build(np.random.default_rng(0), dtype, np.asarray)))
    sources = [SOURCE.with_name(name).read_text() for name in ("on_cupy.cu", "tiled_products.cu")]
    assert RawModule.launched == set(signatures("".join(sources)))


PRODUCTS = CASES["product"]


@pytest.mark.parametrize("types", [("float32", "float32"), ("float64", "float32"), ("float32", "float64")])
@pytest.mark.parametrize("view", [np.asarray, strided])
@pytest.mark.parametrize(("name", "build"), PRODUCTS)
def test_products(name, build, view, types, on_cupy):
    """Transposed matrices, gaps, two types."""
    a, b, *rest = build(np.random.default_rng(0), np.dtype(np.float64), lambda x: x)
    arguments = [view(a.astype(types[0])), view(b.astype(types[1])), *rest]
    expected, found = registry[name].definition(*arguments), call(on_cupy, name, on_device(arguments))
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("sizes", [(4, 3, 5), (1, 3, 5), (4, 1, 5), (4, 3, 1), (1, 1, 1)])
def test_products_of_heads(sizes, turned, on_cupy):
    rng, (m, k, n) = np.random.default_rng(0), sizes
    a, b = rng.standard_normal((6, m, k)), rng.standard_normal((6, k, n))
    first, second = (
        on_device(np.ascontiguousarray(x.swapaxes(1, 2))).swapaxes(1, 2) if t else on_device(x)
        for x, t in zip((a, b), turned, strict=True)
    )
    np.testing.assert_allclose(on_cupy._multiply_heads(first, second, scale=0.5), a @ b / 2, rtol=1e-12)


def test_a_type_without_loops_is_refused(on_cupy):
    with pytest.raises(TypeError, match="the GPU kernels take float32, float64, bfloat16, got float16"):
        on_cupy.softmax(on_device(np.zeros((2, 2), np.float16)))


def test_an_array_that_could_not_change_in_place_is_refused(on_cupy):
    wide = np.zeros((2, 6))
    p, grad, m, v = (on_device(x) for x in (wide[:, ::2], np.ones((2, 3)), np.zeros((2, 3)), np.zeros((2, 3))))
    settings = {"betas": (0, 0), "eps": 1}
    now = on_device(np.ones(4))
    with pytest.raises(ValueError, match="adamw: parameters and moments must be contiguous"):
        on_cupy.adamw([p], [grad], [m], [v], [1], [None], now, **settings)
    on_cupy.adamw([m], [grad], [v], [v], [1], [None], now, **settings)  # whole numbers reach the loop as floats


@pytest.mark.parametrize(("length", "num_keys", "groups"), [(1, 9, 4), (130, 300, 1), (200, 200, 3)])
@pytest.mark.parametrize("width", [16, 80, 128])
@pytest.mark.parametrize("view", [np.asarray, strided])
def test_attention_without_scores_in_memory(view, width, length, num_keys, groups, on_cupy):
    """Its launches fit their loops, and each tile of a head has its block."""
    rng, bfloat16 = np.random.default_rng(0), float_type("bfloat16")
    q, k, v = [
        on_device(view(rng.standard_normal((2, 3, n, width)).astype(bfloat16)))
        for n in (groups * length, num_keys, num_keys)
    ]
    RawModule.launched.clear()
    o, e, total = on_cupy.causal_attention(q, k, v, length, 0.3)
    assert (o.shape, e.shape, total.shape) == (q.shape, (*q.shape[:3], 0), (*q.shape[:3], 1))
    *found, of_sinks = on_cupy.causal_attention_gradient(q, q, k, v, o, e, total, length, 0.3)
    assert of_sinks is None
    assert [(x.shape, x.dtype) for x in found] == [(x.shape, x.dtype) for x in (q, k, v)]
    assert RawModule.launched == {"forward", "query_gradient", "key_gradient"}


@pytest.mark.parametrize(("width", "scale", "dtype"), [(8, 1, "bfloat16"), (144, 1, "bfloat16"), (16, -1, "bfloat16")])
def test_attention_with_scores_in_memory(width, scale, dtype, on_cupy):
    x = on_device(np.ones((1, 2, 3, width), float_type(dtype)))
    o, e, total = on_cupy.causal_attention(x, x, x, 3, scale)
    assert e.shape == (1, 2, 3, 3)
    on_cupy.causal_attention_gradient(x, x, x, x, o, e, total, 3, scale)
