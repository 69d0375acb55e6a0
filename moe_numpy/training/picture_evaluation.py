"""A model on held-out pictures: which caption it gives them, and which experts take patches and text."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..autodiff import no_grad
from ..autodiff.arrays import to_host
from ..models import Transformer
from ..moe.pools import MODALITIES
from ..ops import LogSoftmax
from ..ops.arithmetic import at_least_float32
from ..typing import Array, Float, Int
from .pictures import IGNORED, NAMES, Pictures, captioned

_AT_ONCE = 40  # pictures, each with all captions


@dataclass(frozen=True, eq=False)
class PictureEvaluation:
    """What a model says of held-out pictures. Layers are the routed ones; E experts.

    Attributes:
        loss: of the right captions, in nats per byte.
        confusion: ``[i, j]`` counts the pictures of class i whose likeliest caption is that of class j.
        load: assignments of the tokens of each modality to each expert, before dropping; text is the captions and
            windows of held-out text.
    """

    loss: float
    confusion: Int[Array, "10 10"]
    load: Int[Array, "layers modalities E"]

    @property
    def accuracy(self) -> float:
        """The share of pictures whose likeliest caption is the right one."""
        return float(np.trace(self.confusion) / max(self.confusion.sum(), 1))

    @property
    def accuracy_by_class(self) -> Float[Array, " 10"]:
        """The same for the pictures of each class."""
        return np.diag(self.confusion) / np.maximum(self.confusion.sum(axis=1), 1)

    @property
    def shares(self) -> Float[Array, "layers modalities E"]:
        """Each expert's share of the assignments of a modality."""
        return self.load / np.maximum(self.load.sum(axis=2, keepdims=True), 1)

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values."""
        return {
            "pictures": int(self.confusion.sum()),
            "accuracy": self.accuracy,
            "accuracy_by_class": dict(zip(NAMES, self.accuracy_by_class.tolist(), strict=True)),
            "caption_loss": self.loss,
            "confusion": self.confusion.tolist(),
            "load_by_modality": dict(zip(MODALITIES, self.shares.swapaxes(0, 1).tolist(), strict=True)),
        }


def evaluate_pictures(
    model: Transformer, pictures: Pictures, text: Int[Array, "B S"], done: Callable[[int], None] = lambda pictures: None
) -> PictureEvaluation:
    """Score every caption for every held-out picture: argmax over c of log p(caption c | picture).

    Args:
        model: made with images.
        pictures: of which those held out are used.
        text: windows of token ids that count as text in the loads.
        done: called with the number of pictures scored so far.
    """
    if model.patch_embedding is None:
        raise ValueError("this model was made without images")
    was_training = model.training
    model.eval()
    num_classes, num_patches = len(NAMES), model.patch_embedding.num_patches
    likelihood = np.zeros((len(pictures.held_out_labels), num_classes))
    load = np.zeros((len(model.routed_layers), len(MODALITIES), model.num_routes), np.int64)
    tokens, targets = captioned(np.arange(num_classes), num_patches)
    predicted = targets != IGNORED
    for start in range(0, len(likelihood), _AT_ONCE):
        images = pictures.held_out_images[start : start + _AT_ONCE]
        n = len(images)
        with no_grad():
            output = model(np.tile(tokens, (n, 1)), images=np.repeat(images, num_classes, axis=0))
            log_p = LogSoftmax.apply(at_least_float32(output.logits), axis=-1).data
        of_targets = np.take_along_axis(log_p, np.tile(np.where(predicted, targets, 0), (n, 1))[..., None], axis=-1)
        found = np.where(np.tile(predicted, (n, 1)), of_targets[..., 0], 0).sum(axis=1, dtype=np.float64)
        likelihood[start : start + n] = found.reshape(n, num_classes)
        load += _loads(output.routings)
        done(start + n)
    with no_grad():
        load += _loads(model.hidden(text)[1])
    model.train(was_training)
    labels = pictures.held_out_labels
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (labels, likelihood.argmax(axis=1)), 1)
    num_bytes = predicted.sum(axis=1)[labels].sum()
    loss = -likelihood[np.arange(len(labels)), labels].sum() / num_bytes
    return PictureEvaluation(float(loss), confusion, load)


def _loads(routings: Any) -> Int[Array, "layers modalities E"]:
    of_layers = [r.statistics.load_by_modality(len(MODALITIES)) for r in routings if r is not None]
    return np.array([to_host(load) for load in of_layers], np.int64)
