"""Messages between the grader and a child."""

import io
import struct

import numpy as np
import pytest

from exercises.exercise import Seeded, case
from exercises.grading import wire


def there_and_back(value):
    stream = io.BytesIO()
    wire.write(stream, value)
    stream.seek(0)
    return wire.read(stream)


@pytest.mark.parametrize(
    "value", [None, True, 3, 2.5, float("inf"), "ü", [1, [2]], (1, "a"), {"a": (None,)}, Seeded(3)]
)
def test_plain_values_travel(value):
    assert there_and_back(value) == value


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8, np.bool_])
def test_arrays_travel_with_shape_and_dtype(dtype):
    for shape in ((2, 3), (0, 4), ()):
        x = np.ones(shape, dtype)
        y = there_and_back([x, x[..., None]])[0]
        assert y.dtype == dtype
        assert y.shape == shape


def test_a_case_travels():
    sent = case(np.arange(3.0), 2, axis=0).strided().constant(0)
    got = there_and_back(sent)
    assert (got.layout, got.constants, dict(got.settings)) == ("strided", (0,), {"axis": 0})
    assert np.array_equal(got.args[0], sent.args[0])


@pytest.mark.parametrize("value", [object(), {1: 2}, {3}, 1j, np.array([None]), np.array(["a"]), b"x"])
def test_what_does_not_travel_leaves_its_type(value):
    assert isinstance(there_and_back(value), wire.Foreign)


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 20,
        struct.pack("<4sQQ", b"MOE1", 2**40, 0),
        struct.pack("<4sQQ", b"MOE1", 1, 0) + b"{",
        struct.pack("<4sQQ", b"MOE1", 11, 0) + b'{"array":0}',
        struct.pack("<4sQQ", b"MOE1", 9, 0) + b'{"x": 1} ',
        struct.pack("<4sQQ", b"MOE1", 2, 0) + b"{}",
    ],
)
def test_a_broken_message_is_refused(data):
    with pytest.raises(wire.BrokenMessageError):
        wire.read(io.BytesIO(data))


def test_half_a_message_is_an_end():
    with pytest.raises(EOFError):
        wire.read(io.BytesIO(struct.pack("<4sQQ", b"MOE1", 5, 0) + b"{}"))
