"""Patches of images as vectors: which pixels go where, and what is refused."""

import numpy as np
import pytest

from moe_numpy.nn import PatchEmbedding


def make(image_size=4, patch_size=2, d_model=4):
    return PatchEmbedding(image_size, patch_size, d_model, rng=np.random.default_rng(0), dtype=np.float64)


def test_patches_are_numbered_row_by_row_and_each_has_its_position():
    embedding = make()
    embedding.projection.weight.data[...] = np.eye(4)
    embedding.projection.bias.data[...] = 0
    image = np.arange(16.0).reshape(1, 4, 4)
    expected = np.array([[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]])
    np.testing.assert_array_equal(embedding(image).data[0], expected + embedding.position.data)


def test_every_parameter_gets_its_gradient():
    embedding, images = make(), np.random.default_rng(1).random((3, 4, 4))
    cotangent = np.random.default_rng(2).standard_normal((3, 4, 4))
    embedding(images).backward(cotangent)
    np.testing.assert_allclose(embedding.position.grad, cotangent.sum(axis=0))
    np.testing.assert_allclose(embedding.projection.bias.grad, cotangent.sum(axis=(0, 1)))
    patches = images.reshape(3, 2, 2, 2, 2).swapaxes(2, 3).reshape(3, 4, 4)
    np.testing.assert_allclose(embedding.projection.weight.grad, np.einsum("npo,npi->oi", cotangent, patches))


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="patch_size must divide image_size=4, got 3"):
        make(patch_size=3)
    with pytest.raises(ValueError, match=r"images must be of shape \[N, 4, 4\], got \(1, 8, 8\)"):
        make()(np.zeros((1, 8, 8)))
