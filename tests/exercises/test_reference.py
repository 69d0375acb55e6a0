"""The solutions that live beside the library agree with it."""

import numpy as np
import pytest

from exercises.reference.all_to_all import all_to_all_plan
from exercises.reference.int8_product import int8_product
from exercises.reference.model_size import model_size
from exercises.reference.positions_in_numba import position_by_key
from moe_numpy import kernels
from moe_numpy.formats import bfloat16, int8


@pytest.mark.parametrize("function", [position_by_key, position_by_key.py_func])
def test_positions_are_those_of_the_kernel(function):
    keys = np.random.default_rng(0).integers(0, 5, 40)
    np.testing.assert_array_equal(function(keys, 7), kernels.position_by_key(keys, 7))


def test_mixtral_has_its_published_size():
    size = model_size(4096, 32000, 32, 32, 8, 128, 14336, 8, 2)
    assert size[:2] == (46_702_792_704, 12_879_925_248)


def test_shared_experts_are_met_by_every_token():
    without, with_one = (model_size(64, 100, 3, 4, 2, 16, 32, 8, 2, n) for n in (0, 1))
    expert = 3 * 3 * 64 * 32
    assert tuple(b - a for a, b in zip(without, with_one, strict=True)) == (expert, expert, 2 * expert)


def test_a_plan_sends_every_row_where_its_expert_is():
    rng = np.random.default_rng(1)
    token, expert = np.repeat(np.arange(10), 2), rng.integers(0, 6, 20)
    of_token, of_expert = rng.integers(0, 4, 10), rng.integers(0, 4, 6)
    rows, send, receive = all_to_all_plan(token, expert, of_token, of_expert, 4)
    source, destination = of_token[token], of_expert[expert]
    np.testing.assert_array_equal(rows.sum(axis=1), np.bincount(source, minlength=4))
    np.testing.assert_array_equal(rows.sum(axis=0), np.bincount(destination, minlength=4))
    # An exchange of blocks, done by hand: the send buffers cut up by rows, put together by destination.
    blocks = np.split(send, np.cumsum(rows.reshape(-1))[:-1])
    arrived = [blocks[i * 4 + j] for j in range(4) for i in range(4)]
    np.testing.assert_array_equal(np.concatenate(arrived), receive)


def test_an_int8_product_has_the_codes_of_the_format_and_the_bits_of_the_compiled_loop():
    """Integers and scales of 1: no product is rounded, so that fusing it with the sum changes nothing."""
    rng = np.random.default_rng(2)
    weights = rng.standard_normal((3, 96)).astype(np.float32)
    codes, scales, _ = int8_product(np.ones((1, 96), np.float32), weights)
    expected, bits = int8.quantise(weights)
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_array_equal(scales, bfloat16.decode(bits))
    weights = rng.integers(-20, 21, (3, 96)).astype(np.float32)
    weights[:, ::32] = 127
    x = rng.integers(-(2**17), 2**17, (4, 96)).astype(np.float32)
    matrix = int8.Int8Matrix(**int8.Int8Matrix.encode(weights))
    np.testing.assert_array_equal(int8_product(x, weights)[2], matrix.product(x))
