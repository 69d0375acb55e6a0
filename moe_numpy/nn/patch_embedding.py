"""Images as tokens: each square patch becomes one vector of the residual stream."""

from typing import Any

import numpy as np

from ..autodiff import Tensor
from ..typing import Array, Float, Random
from .linear import Linear
from .module import Module, normal
from .sizes import require_sizes

PATCH = -1
"""The token id of a place where a patch of an image stands."""


class PatchEmbedding(Module):
    """y_p = W x_p + b + e_p, where x_p are the pixels of patch p and e_p is its learned position.

    Patches are numbered row by row. The initial e has entries as large as those of W x for pixels from 0 to 1: with a
    small e, a normalised sum would hardly show where a patch is. ViT has the same formula (Dosovitskiy et al. 2021,
    equation 1), with a token for the class besides.

    Args:
        image_size: pixels per side.
        patch_size: pixels per side of a patch; divides image_size.
        d_model: length of the vectors.
        rng: draws W and e.
        dtype: type of the parameters.

    Raises:
        ValueError: patch_size does not divide image_size.
    """

    def __init__(self, image_size: int, patch_size: int, d_model: int, *, rng: Random, dtype: Any = np.float32):
        require_sizes(image_size=image_size, patch_size=patch_size)
        if image_size % patch_size:
            raise ValueError(f"patch_size must divide image_size={image_size}, got {patch_size}")
        self.image_size, self.patch_size = image_size, patch_size
        self.num_patches = (image_size // patch_size) ** 2
        self.projection = Linear(patch_size**2, d_model, bias=True, rng=rng, dtype=dtype)
        self.position = normal(rng, (self.num_patches, d_model), 0.5, dtype)

    def forward(self, images: Float[Array, "N H W"]) -> Float[Tensor, "N P d"]:
        """The patches of N images. ValueError for images of another size."""
        if images.shape[1:] != (self.image_size, self.image_size):
            size = self.image_size
            raise ValueError(f"images must be of shape [N, {size}, {size}], got {images.shape}")
        n, side, p = len(images), self.image_size // self.patch_size, self.patch_size
        patches = images.reshape(n, side, p, side, p).transpose(0, 1, 3, 2, 4).reshape(n, self.num_patches, p * p)
        y: Tensor = self.projection(Tensor(patches)) + self.position
        return y
