"""One forward pass of training: the loss on text, and on captions where the batch has pictures."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..autodiff import Tensor
from ..autodiff.arrays import to_host
from ..models import Transformer
from ..models.transformer import Output
from ..moe.pools import MODALITIES
from ..ops import CrossEntropy
from ..typing import Random
from .pictures import IGNORED


@dataclass(frozen=True, eq=False)
class ByModality:
    """What a pass with pictures did, by modality.

    Attributes:
        text_loss, caption_loss: cross-entropy in nats per predicted byte.
        auxiliary: the sum over the layers of each auxiliary loss, by name, without coefficients.
        load: [layers, modalities, experts], assignments before dropping.
    """

    text_loss: float
    caption_loss: float
    auxiliary: dict[str, float]
    load: Any


def next_token_loss(
    model: Transformer, rng: Random, tokens: Any, targets: Any, *pictures: Any
) -> tuple[Tensor, Output, ByModality | None]:
    """The mean loss over all predicted tokens, and the model's output; with pictures, also what each modality did.

    Args:
        model: the model.
        rng: for the routers' noise.
        tokens, targets: of windows of text.
        pictures: nothing, or tokens, targets and images of :class:`moe_numpy.training.pictures.CaptionedWindows`.
    """
    if not pictures:
        output = model(tokens, rng=rng)
        return CrossEntropy.apply(output.logits, targets), output, None
    their_tokens, their_targets, images = pictures
    whole = np.concatenate([tokens, their_tokens])
    output = model(whole, rng=rng, images=images.reshape(-1, *images.shape[2:]))
    text = CrossEntropy.apply(output.logits[: len(tokens)], targets)
    captions = CrossEntropy.apply(output.logits[len(tokens) :], their_targets, ignore_index=IGNORED)
    num_captions = int((their_targets != IGNORED).sum())
    total = targets.size + num_captions
    loss = text * (targets.size / total) + captions * (num_captions / total)
    return loss, output, _by_modality(model, output, text, captions)


def _by_modality(model: Transformer, output: Output, text: Tensor, captions: Tensor) -> ByModality:
    routings = [routing for routing in output.routings if routing is not None]
    auxiliary: dict[str, float] = {}
    for routing in routings:
        for name, loss in routing.losses.items():
            auxiliary[name] = auxiliary.get(name, 0.0) + loss.item()
    load = [to_host(r.statistics.load_by_modality(len(MODALITIES))) for r in routings]
    shape = len(routings), len(MODALITIES), model.num_routes
    return ByModality(text.item(), captions.item(), auxiliary, np.array(load, np.int64).reshape(shape))
