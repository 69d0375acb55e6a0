"""Products with weights in every format: in any company, from any memory, with any value."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from moe_numpy import kernels
from moe_numpy.formats import FORMATS, Matrix, Stack, bfloat16, float32, fp8, int4, int8, mxfp4, quantise

GROUPED = ("int8", "int4", "mxfp4")
compiled = pytest.mark.skipif(
    find_spec("numba") is None or os.environ.get("NUMBA_DISABLE_JIT", "0") != "0", reason="nothing is compiled"
)
IMPLEMENTATIONS = ["numpy", pytest.param("numba", marks=compiled)]


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", FORMATS)
@settings(deadline=None, max_examples=25)
@given(st.data())
def test_a_row_has_the_same_bits_in_any_company(name, implementation, data):
    out = data.draw(st.integers(1, 45), "out")
    width = 32 * data.draw(st.integers(1, 4), "groups")
    if name not in GROUPED:
        width -= data.draw(st.integers(0, 31), "odd")
    seed, num = data.draw(st.integers(0, 99), "seed"), data.draw(st.integers(1, 30), "N")
    matrix, row = quantise(normal(seed, out, width), name), normal(seed + 1, width)
    company = data.draw(st.sampled_from([0.0, 1.0, 1e30, np.inf, np.nan])) * normal(seed + 2, num, width)
    at = data.draw(st.integers(0, num - 1), "at")
    company[at] = row
    with kernels.use(implementation), np.errstate(all="ignore"):
        alone = matrix.product(row[None])[0]
        assert np.array_equal(matrix.product(company)[at], alone)
        part = data.draw(st.integers(0, at), "start"), data.draw(st.integers(at + 1, num), "stop")
        assert np.array_equal(matrix.product(company[slice(*part)])[at - part[0]], alone)
        stack = Stack(type(matrix), {key: np.stack([a, a]) for key, a in matrix.arrays.items()}, matrix.settings)
        experts = np.arange(num) % 2
        assert np.array_equal(stack.rows_by_experts(company, experts)[at], alone)
        assert np.array_equal(stack.rows_in_groups(company, np.array([0, num // 2, num]))[at], alone)


@compiled
@pytest.mark.parametrize("name", FORMATS)
def test_a_row_has_the_same_bits_with_any_number_of_threads(name):
    """Large enough that the work is shared."""
    matrix, stack, x = quantise(normal(0, 2000, 512), name), quantise(normal(0, 3, 900, 512), name), normal(1, 18, 512)
    experts = np.repeat([2, 0, 1, 1, 0, 2], 3)
    found = set()
    for threads in (1, 2, 3):
        with threadpool_limits(threads, user_api="blas"):
            y = np.concatenate([matrix.product(x[:1]), matrix.product(x[1:3]), matrix.product(x[3:])])
            assert np.array_equal(y, matrix.product(x))
            grouped = stack.rows_in_groups(x, np.array([0, 0, 7, 18]))
            assert np.array_equal(grouped[:7], stack[1].product(x[:7]))
            found.add(y.tobytes() + grouped.tobytes() + stack.rows_by_experts(x, experts).tobytes())
    assert len(found) == 1


@compiled
@pytest.mark.parametrize("num", [1, 2, 3, 8, 17])
@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"mxfp4"}))  # which adds even columns before odd ones
def test_the_product_is_that_of_float32_weights_bit_for_bit(name, num):
    matrix, x = quantise(normal(0, 37, 160), name), normal(1, num, 160)
    assert np.array_equal(matrix.product(x), float32.Float32Matrix(matrix.dequantise()).product(x))


@compiled
@pytest.mark.parametrize("num", [1, 17])
def test_mxfp4_adds_even_columns_of_32_before_odd_ones(num):
    matrix, x = quantise(normal(0, 37, 160), "mxfp4"), normal(1, num, 160)

    def even_first(rows):
        return np.ascontiguousarray(rows.reshape(len(rows), -1, 16, 2).swapaxes(2, 3).reshape(rows.shape))

    same_values = float32.Float32Matrix(even_first(matrix.dequantise()))
    assert np.array_equal(matrix.product(x), same_values.product(even_first(x)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("num", [1, 17])
@pytest.mark.parametrize("name", FORMATS)
def test_nan_and_infinity_come_through(name, num, implementation):
    matrix, x = quantise(np.abs(normal(0, 19, 64)) + 0.5, name), normal(1, num, 64)
    for value in (np.nan, np.inf, -np.inf):
        x[0, 33] = value
        with kernels.use(implementation), np.errstate(invalid="ignore"):
            y = matrix.product(x)
        assert np.array_equal(y[0], np.full(19, value), equal_nan=True)
        assert np.isfinite(y[1:]).all()


@compiled
@pytest.mark.parametrize("num", [1, 3, 17])
def test_every_code_with_many_scales(num):
    """Against the definition, by unit vectors, which show single weights."""
    scales = np.array([0.0, -0.0, 1e-40, -1e-40, 1e-30, 0.3, -7.0, 1e30, np.inf, np.nan], "f4")
    bits = np.repeat(bfloat16.encode(scales)[:, None], 8, axis=1)
    every_byte = np.tile(np.arange(256, dtype=np.uint8), (len(scales), 1))
    nibbles = np.ascontiguousarray(np.tile(every_byte.reshape(-1, 16, 16), (1, 1, 1)))
    check = [
        int8.Int8Matrix(every_byte.view(np.int8), bits),
        int4.Int4Matrix(nibbles[:, :8], bits),
        int4.Int4Matrix(nibbles[:, 8:], bits),
        fp8.FP8Matrix(every_byte, np.repeat(scales[:, None], 8, axis=1), (1, 32)),
        *(
            mxfp4.MXFP4Matrix(nibbles[:4, half], np.tile(np.array([[0], [1], [200], [254]], "u1"), (1, 8)))
            for half in (slice(8), slice(8, 16))
        ),
    ]
    for matrix in check:
        weights = matrix.dequantise()
        for column in range(0, 256, num):
            x = np.zeros((num, 256), np.float32)
            x[np.arange(num), np.minimum(column + np.arange(num), 255)] = 1
            with np.errstate(all="ignore"):
                expected = np.array([sum_of_products(weights, row) for row in x])
                got = matrix.product(x)
            assert np.array_equal(got, expected, equal_nan=True)


def sum_of_products(weights, row):
    """Infinity and NaN times zero are NaN wherever they stand in the row."""
    return (weights * row).sum(axis=1, dtype=np.float32)


def test_scales_of_nan_in_mxfp4():
    matrix = mxfp4.MXFP4Matrix(np.full((2, 1, 16), 0x22, "u1"), np.array([[255], [127]], "u1"))
    for num in (1, 17):
        y = matrix.product(np.ones((num, 32), "f4"))
        assert np.isnan(y[:, 0]).all()
        assert (y[:, 1] == 32).all()


@pytest.mark.parametrize("name", FORMATS)
def test_a_read_only_memory_map_at_an_odd_address_is_used_as_it_lies(name, tmp_path):
    stack = quantise(normal(0, 3, 21, 64), name)
    x, experts = normal(1, 5, 64), np.array([0, 2, 2, 1, 0])
    (tmp_path / "file").write_bytes(b"?" + b"".join(a.tobytes() for a in stack.arrays.values()))
    whole, start, arrays = np.memmap(tmp_path / "file", np.uint8, "r"), 1, {}
    for key, a in stack.arrays.items():
        arrays[key] = whole[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
        start += a.nbytes
    mapped = Stack(stack.kind, arrays, stack.settings)
    assert (mapped.nbytes, mapped.shape, mapped.format) == (stack.nbytes, (3, 21, 64), name)
    assert all(np.shares_memory(a, whole) for a in mapped[1].arrays.values())
    groups = np.array([0, 2, 2, 5])
    assert np.array_equal(mapped.rows_in_groups(x, groups)[2:], stack[2].product(x[2:]))
    for e in range(3):
        assert np.array_equal(mapped[e].product(x), stack[e].product(x))
    assert np.array_equal(mapped.rows_by_experts(x, experts), stack.rows_by_experts(x, experts))
    assert np.array_equal(mapped.dequantise(), stack.dequantise())


@compiled
@pytest.mark.parametrize("name", FORMATS)
def test_rows_are_views(name):
    block = {"block": (16, 64)} if name == "fp8" else {}
    matrix, x = quantise(normal(0, 75, 128), name, **block), normal(1, 3, 128)
    part = matrix.rows(16, 41)
    assert isinstance(part, Matrix)
    assert part.shape == (25, 128)
    assert all(np.shares_memory(a, b) for a, b in zip(part.arrays.values(), matrix.arrays.values(), strict=True))
    assert np.array_equal(part.product(x), matrix.product(x)[:, 16:41])
    assert np.array_equal(part.dequantise(), matrix.dequantise()[16:41])
    if name == "fp8":
        with pytest.raises(ValueError, match="multiple of 16"):
            matrix.rows(3, 20)


@pytest.mark.parametrize(
    ("name", "bits"), [("float32", 32), ("bfloat16", 16), ("int8", 8.5), ("int4", 4.5), ("mxfp4", 4.25), ("fp8", 8)]
)
def test_bits_of_a_weight(name, bits):
    assert 8 * quantise(normal(0, 256, 256), name).nbytes / 256**2 == pytest.approx(bits, rel=1e-3)


@pytest.mark.parametrize("columns", [32, 128, 40, 7, 200])
@pytest.mark.parametrize("scales", ["float32", "bytes"])
def test_fp8_in_blocks_of_any_size(columns, scales):
    matrix = quantise(normal(0, 50, 120), "fp8", block=(12, columns))
    if scales == "bytes":
        matrix = fp8.FP8Matrix(matrix.codes, np.full(matrix.scales.shape, 120, "u1"), matrix.block)
    for num in (1, 17):
        x = normal(1, num, 120)
        np.testing.assert_allclose(matrix.product(x), x @ matrix.dequantise().T, rtol=1e-4, atol=1e-4)


def test_what_is_refused():
    x = normal(0, 3, 64)
    with pytest.raises(ValueError, match=r"format must be one of float32, .*, got 'int5'"):
        quantise(x, "int5")
    for name in FORMATS:
        for value in (np.nan, np.inf, -np.inf):
            wrong = x.copy()
            wrong[1, 2] = value
            with pytest.raises(ValueError, match=rf"^{name}: weights must be finite in float32, got .*\[1, 2\]"):
                quantise(wrong, name)
        matrix, stack = quantise(x, name), quantise(np.stack([x, x]), name)
        with pytest.raises((ValueError, TypeError), match=r"need rows \[N, 64\], got \(3, 32\)"):
            matrix.product(x[:, :32])
        with pytest.raises((ValueError, TypeError), match=r"one expert for each of 3 rows|parameter .experts."):
            stack.rows_by_experts(x, np.array([0, 1]))
        with pytest.raises(ValueError, match="expected 3 offsets for 2 matrices"):
            stack.rows_in_groups(x, np.array([0, 3]))
        for offsets in ([0, 2, 4], [1, 2, 3], [0, 2, 1]) if find_spec("numba") else ():
            with pytest.raises(IndexError, match="offsets must go from 0 up"):
                stack.rows_in_groups(x, np.array(offsets))
        for expert in (2, -3):
            with pytest.raises(IndexError):
                stack.rows_by_experts(x, np.array([0, 1, expert]))
        with pytest.raises(ValueError, match="leading axis"):
            Stack(stack.kind, {})
        for key, array in matrix.arrays.items():
            with pytest.raises(ValueError, match=key):
                type(matrix)(**(matrix.arrays | {key: array.astype(">i8")}), **matrix.settings)
            if (name, key) == ("fp8", "scales"):  # of any layout: they are copied
                continue
            with pytest.raises(ValueError, match=f"{key} of a row must lie side by side"):
                type(matrix)(**(matrix.arrays | {key: np.repeat(array, 2, -1)[..., ::2]}), **matrix.settings)
    for name in GROUPED:
        with pytest.raises(ValueError, match="multiple of"):
            quantise(x[:, :33], name)
        arrays = quantise(x, name).arrays
        with pytest.raises(ValueError, match="scales"):
            FORMATS[name](**(arrays | {"scales": arrays["scales"][:, :1]}))
    with pytest.raises(ValueError, match=r"bfloat16: weights must be below 3\.396e38"):
        quantise(np.full((1, 32), 3.4e38), "bfloat16")
    with pytest.raises((ValueError, TypeError), match=r"\[out, in\]|out in"):
        quantise(x[0], "int8")


OTHER_PROCESSOR = """
import sys
import numpy as np
from moe_numpy.formats import FORMATS, quantise
from moe_numpy.kernels import vectors
assert not vectors.processor_has("avx2")
rng = np.random.default_rng(0)
w, x = (rng.standard_normal(shape, dtype=np.float32) for shape in ((21, 64), (18, 64)))
matrices = [quantise(w, name) for name in FORMATS]
np.save(sys.argv[1], [[m.product(x), np.concatenate([m.product(row) for row in x[:, None]])] for m in matrices])
"""


@compiled
def test_a_processor_without_vectors_of_eight_floats(tmp_path):
    """Equal up to rounding, since it has no multiplication and addition in one; each row alone as in company."""
    variables = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    file = tmp_path / "products.npy"
    subprocess.run([sys.executable, "-c", OTHER_PROCESSOR, file], env=os.environ | variables, check=True, timeout=100)
    rng = np.random.default_rng(0)
    w, x = (rng.standard_normal(shape, dtype=np.float32) for shape in ((21, 64), (18, 64)))
    for name, (together, alone) in zip(FORMATS, np.load(file), strict=True):
        np.testing.assert_allclose(together, quantise(w, name).product(x), rtol=1e-5, atol=1e-5)
        assert np.array_equal(together, alone)


def test_many_threads_at_once():
    """Each with memory of its own for unpacked weights; with more threads than malloc has arenas."""
    rng = np.random.default_rng(0)
    matrices = [quantise(rng.standard_normal((64, 256), dtype=np.float32), "int4") for _ in range(40)]
    x = rng.standard_normal((40, 256), dtype=np.float32)
    expected = [matrix.product(x) for matrix in matrices]
    with ThreadPoolExecutor(40) as pool:
        for _ in range(15):
            for found, alone in zip(
                pool.map(lambda matrix: matrix.product(x), matrices * 5), expected * 5, strict=True
            ):
                np.testing.assert_array_equal(found, alone)
