"""Pictures with captions: handwritten digits, each followed by its name in words.

The 1,797 digits of 8 x 8 pixels that ship with scikit-learn, the test set of optdigits (Alpaydin, Kaynak 1998). A
window holds the patches of a picture, then its caption, then those of the next. Only captions are predicted: there is
no loss on patches.
"""

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np

from ..nn.patch_embedding import PATCH
from ..typing import Array, Float, Int

IMAGE_SIZE = 8
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
IGNORED = -1  # the target of a place that is not predicted
_HELD_OUT = 360  # a fifth
_BLANK = ord("\n")
_CAPTIONS = [np.frombuffer(f"a {name}\n".encode(), np.uint8).astype(np.int64) for name in NAMES]
CAPTION_LENGTH = max(map(len, _CAPTIONS))


class PicturesError(ValueError):
    """The pictures are not available; the message says how to get them."""


@dataclass(frozen=True, eq=False)
class CaptionedWindows:
    """B windows of S tokens, of which those with the id PATCH stand for patches of the pictures, in order.

    Attributes:
        tokens: ids.
        targets: the next ids; :data:`IGNORED` where nothing is predicted.
        images: ``n`` pictures in each window.
    """

    tokens: Int[Array, "B S"]
    targets: Int[Array, "B S"]
    images: Float[Array, "B n H W"]


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures to train on and others to test with. Pixels are from 0 to 1; a label is the index of a name."""

    images: Float[np.ndarray, "N H W"]
    labels: Int[np.ndarray, " N"]
    held_out_images: Float[np.ndarray, "M H W"]
    held_out_labels: Int[np.ndarray, " M"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all pictures and labels."""
        digest = hashlib.sha256()
        for part in (self.images, self.labels, self.held_out_images, self.held_out_labels):
            digest.update(part.tobytes())
        return digest.hexdigest()

    def batch(self, step: int, *, num_windows: int, context: int, num_patches: int, seed: int) -> CaptionedWindows:
        """The windows of one step, filled with pictures drawn at random; equal (seed, step) give equal windows.

        Raises:
            ValueError: a window of ``context`` is too short for a picture and its caption.
        """
        per_window = pictures_per_window(num_patches, context)
        chosen = np.random.default_rng([seed, step, 2]).integers(len(self.labels), size=(num_windows, per_window))
        tokens, targets = captioned(self.labels[chosen.reshape(-1)], num_patches)
        rest = ((0, 0), (0, context - per_window * (num_patches + CAPTION_LENGTH)))
        return CaptionedWindows(
            np.pad(tokens.reshape(num_windows, -1), rest, constant_values=_BLANK),
            np.pad(targets.reshape(num_windows, -1), rest, constant_values=IGNORED),
            self.images[chosen],
        )


def pictures_per_window(num_patches: int, context: int) -> int:
    """How many pictures with captions a window holds. ValueError if it is none."""
    length = num_patches + CAPTION_LENGTH
    if context < length:
        raise ValueError(f"context must be at least {length}, a picture and its caption, got {context}")
    return context // length


def captioned(labels: Int[np.ndarray, " N"], num_patches: int) -> tuple[Int[np.ndarray, "N S"], Int[np.ndarray, "N S"]]:
    """Tokens and targets of pictures with their captions: P patches, then a caption, blanks after a short one.

    The last patch predicts the first byte of the caption, and the byte before the last predicts the last.
    """
    length = num_patches + CAPTION_LENGTH
    tokens, targets = np.full((10, length), _BLANK), np.full((10, length), IGNORED)
    tokens[:, :num_patches] = PATCH
    for label, caption in enumerate(_CAPTIONS):
        tokens[label, num_patches : num_patches + len(caption)] = caption
        targets[label, num_patches - 1 : num_patches - 1 + len(caption)] = caption
    return tokens[labels], targets[labels]


@cache
def digits() -> Pictures:
    """The digits; a fifth of them, drawn once, is held out. PicturesError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise PicturesError(
            f"the pictures are those of scikit-learn, and {error.name} is missing: python -m pip install scikit-learn"
        ) from error
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images, labels = (found.images[order] / 16).astype(np.float32), found.target[order].astype(np.int64)
    return Pictures(images[_HELD_OUT:], labels[_HELD_OUT:], images[:_HELD_OUT], labels[:_HELD_OUT])
