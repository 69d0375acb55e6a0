"""Messages between the grader and a child."""

import io
import struct

import numpy as np
import pytest

from exercises.exercise import Same, Seeded, case
from exercises.grading import answers, wire


def there_and_back(value):
    stream = io.BytesIO()
    wire.write(stream, value)
    stream.seek(0)
    return wire.read(stream)


@pytest.mark.parametrize(
    "value", [None, True, 3, 2.5, float("inf"), "ü", [1, [2]], (1, "a"), {"a": (None,)}, Seeded(3), Same(0)]
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


def test_a_scalar_of_numpy_stays_one():
    got = there_and_back([np.int64(3), np.float32(0.5)])
    assert [type(v) for v in got] == [np.int64, np.float32]
    assert got == [3, 0.5]


def test_a_case_travels():
    sent = case(np.arange(3.0), 2, axis=0).strided().constant(0)
    got = there_and_back(sent)
    assert (got.layout, got.constants, dict(got.settings)) == ("strided", (0,), {"axis": 0})
    assert np.array_equal(got.args[0], sent.args[0])


@pytest.mark.parametrize("value", [object(), {1: 2}, {3}, 1j, np.array([None]), np.array(["a"]), b"x"])
def test_what_does_not_travel_leaves_its_type(value):
    assert isinstance(there_and_back(value), wire.Foreign)


def array_message(header):
    """A message with one array of this header and 8 bytes of data."""
    text = header.encode() + b"\n"
    body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"12345678"
    return struct.pack("<4sQQ", b"MOE1", 11, len(body)) + b'{"array":0}' + body


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 20,
        struct.pack("<4sQQ", b"MOE1", 2**40, 0),
        struct.pack("<4sQQ", b"MOE1", 1, 0) + b"{",
        struct.pack("<4sQQ", b"MOE1", 11, 0) + b'{"array":0}',
        struct.pack("<4sQQ", b"MOE1", 9, 0) + b'{"x": 1} ',
        struct.pack("<4sQQ", b"MOE1", 2, 0) + b"{}",
        struct.pack("<4sQQ", b"MOE1", 10, 0) + b'{"dict":3}',
        struct.pack("<4sQQ", b"MOE1", 12, 0) + b'{"array":{}}',
        struct.pack("<4sQQ", b"MOE1", 6_000_003, 0) + b"[" + b"0," * 3_000_000 + b"0]",
        struct.pack("<4sQQ", b"MOE1", 100_000, 0) + b"[" * 100_000,
        struct.pack("<4sQQ", b"MOE1", 2, 3) + b"[]abc",
        array_message("{'descr': '<f8', 'fortran_order': False, 'shape': (4000000000000,)}"),
        array_message("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}"),
        array_message("{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}"),
        array_message("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
        array_message("{'descr': '<U2', 'fortran_order': False, 'shape': (1,)}"),
        array_message("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,)}"),
        array_message("{" * 3000),
    ],
    ids=range(18),
)
def test_a_broken_message_is_refused(data):
    with pytest.raises(wire.BrokenMessageError):
        wire.read(io.BytesIO(data))


def test_of_a_message_that_is_too_large_only_its_size_is_sent():
    stream = io.BytesIO()
    wire.write(stream, np.broadcast_to(1.0, (10**9,)))
    assert len(stream.getvalue()) < 100
    stream.seek(0)
    with pytest.raises(wire.BrokenMessageError, match=r"8,000,000,012 bytes"):
        wire.read(stream)


def test_the_name_of_a_foreign_type_is_cut():
    assert len(there_and_back(type("F" * 10**6, (), {})()).type) == 100


GOOD = {"value": object(), "error": None, "mutated": [0], "warnings": ["x"]}
ERROR = {"type": "E", "message": "m", "line": 1, "code": ""}


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {"else": 1},
        {"outcomes": {}},
        {"outcomes": [3]},
        {"outcomes": [GOOD | {"more": 1}]},
        {"outcomes": [GOOD | {"error": 3}]},
        {"outcomes": [GOOD | {"error": ERROR | {"line": "1"}}]},
        {"outcomes": [GOOD | {"error": ERROR | {"message": None}}]},
        {"outcomes": [GOOD | {"mutated": [[]]}]},
        {"outcomes": [GOOD | {"warnings": "x"}]},
        {"not_allowed": 3},
        {"tampered": [3]},
        {"losses": ["x"]},
        {"losses": [1.0] * 20_000},
        {"calls": {"a": 1.5}},
    ],
)
def test_an_answer_of_another_form_is_refused(answer):
    with pytest.raises(wire.BrokenMessageError):
        answers.checked(answer)


def test_texts_of_an_answer_are_cut_and_values_are_not():
    long = "x" * 10**6
    given = GOOD | {"value": long, "error": ERROR | {"type": long, "message": long}, "warnings": [long]}
    outcome = answers.checked({"outcomes": [given]})["outcomes"][0]
    assert outcome["value"] == long
    assert max(len(outcome["error"]["type"]), len(outcome["error"]["message"]), len(outcome["warnings"][0])) == 1000


def test_half_a_message_is_an_end():
    with pytest.raises(EOFError):
        wire.read(io.BytesIO(struct.pack("<4sQQ", b"MOE1", 5, 0) + b"{}"))
