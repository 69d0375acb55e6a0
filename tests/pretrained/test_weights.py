"""Weights by name, in each number format; scales that are missing, left over or of another shape."""

import ml_dtypes
import numpy as np
import pytest

from moe_numpy.formats import fp8, mxfp4
from moe_numpy.pretrained import PretrainedError, TensorFiles, write_tensor_files
from moe_numpy.pretrained.weights import Weights

RNG = np.random.default_rng(0)
MATRIX = RNG.standard_normal((3, 4)).astype(np.float32)
BLOCKS, SCALES = RNG.integers(0, 256, (2, 6, 3, 16), np.uint8), RNG.integers(120, 130, (2, 6, 3), np.uint8)
CODES, FACTORS = fp8.quantise(RNG.standard_normal((5, 7)), (2, 3))
FP8 = CODES.view(ml_dtypes.float8_e4m3fn)


def weights(folder, tensors, block=None):
    write_tensor_files(folder, tensors.items())
    return Weights(TensorFiles.open(folder), block)


def test_values(tmp_path):
    tensors = {
        "single": MATRIX,
        "half": MATRIX.astype(np.float16),
        "double": MATRIX.astype(np.float64) + 1e-12,
        "e_blocks": BLOCKS,
        "e_scales": SCALES,
        "f": FP8,
        "f_scale_inv": FACTORS,
    }
    stored = weights(tmp_path, tensors, (2, 3))
    assert sorted(stored) == ["double", "e", "f", "half", "single"]
    assert stored.shape("e") == (2, 96, 6)
    assert stored.shape("f") == (5, 7)
    experts = mxfp4.dequantise(BLOCKS, SCALES).swapaxes(-1, -2)
    for name, expected in {
        "single": MATRIX,
        "half": tensors["half"].astype(np.float32),
        "double": tensors["double"],
        "e": experts,
        "f": fp8.dequantise(CODES, FACTORS, (2, 3)),
    }.items():
        np.testing.assert_array_equal(stored.values(name), expected)
        np.testing.assert_array_equal(stored.values(name, slice(1, 2)), expected[1:2])
        assert stored.file_of(name) == tmp_path / "model.safetensors"
    assert stored.values("double").dtype == np.float64
    assert stored.is_mapped("single")
    assert not any(map(stored.is_mapped, ("half", "double", "e", "f")))


def test_mapped_values_are_views_of_the_file(tmp_path):
    stored = weights(tmp_path, {"single": MATRIX, "short": MATRIX.astype(ml_dtypes.bfloat16)})
    for name in stored:
        array = stored.mapped(name)
        np.testing.assert_array_equal(array.astype(np.float32), stored.values(name))
        assert not array.flags.writeable
        assert not array.flags.owndata


def test_scales_may_be_powers_of_two(tmp_path):
    powers = RNG.integers(120, 130, FACTORS.shape, np.uint8)
    stored = weights(tmp_path, {"f": FP8, "f_scale_inv": powers.view(ml_dtypes.float8_e8m0fnu)}, (2, 3))
    np.testing.assert_array_equal(stored.values("f"), fp8.dequantise(CODES, powers, (2, 3)))


@pytest.mark.parametrize(
    ("tensors", "block", "message"),
    [
        ({"a": MATRIX.astype(np.int32)}, None, "tensor 'a' is I32 and belongs to no weight"),
        ({"a": MATRIX, "a_scale_inv": MATRIX}, (2, 3), "tensor 'a_scale_inv' is F32 and belongs to no weight"),
        ({"a": BLOCKS}, None, "tensor 'a' is U8 and belongs to no weight"),
        ({"a_scales": SCALES}, None, "tensor 'a_scales' is U8 and belongs to no weight"),
        ({"e_blocks": BLOCKS}, None, "tensor 'e_blocks' is MXFP4 without its scales 'e_scales'"),
        (
            {"e_blocks": BLOCKS, "e_scales": SCALES[:1]},
            None,
            r"U8 \[2, 6, 3, 16\] with scales U8 \[1, 6, 3\]: expected",
        ),
        ({"e_blocks": BLOCKS, "e_scales": SCALES.astype("f4")}, None, "with scales F32"),
        ({"e_blocks": BLOCKS[..., :8], "e_scales": SCALES}, None, r"is U8 \[2, 6, 3, 8\]"),
        ({"e_blocks": BLOCKS, "e_scales": SCALES, "e": MATRIX}, None, "tensor 'e_blocks' is there without _blocks too"),
        ({"f": FP8, "f_scale_inv": FACTORS}, None, "tensor 'f' is FP8, but config.json has no quantization_config"),
        ({"f": FP8}, (2, 3), "tensor 'f' is FP8 without its scales 'f_scale_inv'"),
        ({"f": FP8, "f_scale_inv": FACTORS}, (3, 3), r"in blocks of 3 x 3 needs scales \[2, 3\], has \[3, 3\]"),
        ({"f": FP8[0], "f_scale_inv": FACTORS}, (2, 3), r"tensor 'f' of shape \[7\]"),
        ({"f": FP8, "f_scale_inv": FACTORS.astype(np.int64)}, (2, 3), "tensor 'f_scale_inv' is I64: expected scales"),
        ({"a": MATRIX.astype("f2"), "b": MATRIX.astype(ml_dtypes.bfloat16)}, None, "'a' is F16, but 'b' is BF16"),
    ],
)
def test_what_is_refused(tensors, block, message, tmp_path):
    with pytest.raises(PretrainedError, match=message) as error:
        weights(tmp_path, tensors, block)
    assert str(tmp_path / "model.safetensors") in str(error.value)


def test_a_block_larger_than_the_matrix_takes_no_memory(tmp_path):
    codes, factors = fp8.quantise(RNG.standard_normal((5, 7)), (10**12, 10**12))
    stored = weights(tmp_path, {"f": codes.view(ml_dtypes.float8_e4m3fn), "f_scale_inv": factors}, (10**12, 10**12))
    np.testing.assert_array_equal(stored.values("f"), fp8.decode(codes) * factors)
