import pytest

from moe_numpy.accounting import (
    PUBLISHED,
    cache_bytes,
    cache_bytes_per_token,
    in_bytes,
    weight_bytes,
)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("fp64", 256), ("fp32", 128), ("bf16", 64), ("fp8", 32), ("mxfp4", 17)]
)
def test_bytes_of_32_numbers(dtype, expected):
    assert in_bytes(32, dtype) == expected


def test_a_part_of_a_byte_is_a_byte():
    assert in_bytes(1, "mxfp4") == 1


def test_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match=r"dtype must be one of fp64, .*mxfp4, got 'fp9'"):
        in_bytes(1, "fp9")


def test_weights():
    assert weight_bytes(PUBLISHED["mixtral-8x7b"].architecture, "bf16") == 2 * 46_702_792_704


@pytest.mark.parametrize(
    ("name", "numbers_per_token"),
    [
        ("mixtral-8x7b", 32 * 2 * 8 * 128),
        ("deepseek-v3", 61 * (512 + 64)),
        ("gpt-oss-120b", 36 * 2 * 8 * 64),
        ("switch-base-128", 2 * 12 * 2 * 768),  # self-attention and attention to the encoder
    ],
)
def test_cache_of_one_token(name, numbers_per_token):
    assert cache_bytes_per_token(PUBLISHED[name].architecture, "bf16") == 2 * numbers_per_token


def test_cache_of_a_context():
    assert cache_bytes(PUBLISHED["deepseek-v3"].architecture, 1000, "fp8") == 1000 * 61 * 576
    half_local = 18 * 1000 + 18 * 128
    assert cache_bytes(PUBLISHED["gpt-oss-120b"].architecture, 1000, "fp8") == half_local * 2 * 8 * 64
