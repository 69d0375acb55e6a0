"""Sampling text from a model, one byte at a time."""

import math
from collections.abc import Collection, Iterator

import numpy as np

from ..autodiff import NonFiniteError, no_grad
from ..kernels import to_host
from ..typing import Array, Float, Int
from .transformer import Transformer


def sampling_probabilities(
    logits: Float[Array, " V"], temperature: float = 1.0, top_p: float = 1.0
) -> Float[Array, " V"]:
    """p = softmax(logits / temperature), cut to the smallest set of tokens whose probability reaches ``top_p``.

    Temperature 0 puts all probability on the largest logit. The cut is nucleus sampling (Holtzman et al. 2020).

    Raises:
        ValueError: temperature is negative or not finite, or top_p is not in (0, 1].
        NonFiniteError: a logit is NaN or infinite.
    """
    _require(logits, temperature, top_p)
    logits = logits.astype(np.float64)
    if temperature == 0:
        return (np.arange(len(logits)) == logits.argmax()).astype(np.float64)
    with np.errstate(over="ignore"):  # a temperature near 0
        p = np.exp((logits - logits.max()) / temperature)
    p /= p.sum()
    if top_p == 1:
        return p
    descending = -np.sort(-p)  # ten times as fast as their order
    before = np.cumsum(descending) - descending  # the probability of all more probable tokens
    num_kept = np.count_nonzero(before < top_p)
    kept = p > descending[num_kept - 1]
    ties = np.flatnonzero(p == descending[num_kept - 1])
    kept[ties[: num_kept - np.count_nonzero(kept)]] = True
    p[~kept] = 0
    return p / p.sum()


def draw(logits: Float[Array, " V"], temperature: float, top_p: float, rng: np.random.Generator) -> int:
    """A token, drawn from :func:`sampling_probabilities`; with temperature 0 the largest logit, and ``rng`` stays.

    Raises:
        ValueError: as there.
        NonFiniteError: likewise.
    """
    if temperature == 0:
        _require(logits, temperature, top_p)
        return int(logits.argmax())
    up_to = np.cumsum(sampling_probabilities(logits, temperature, top_p))
    return int(np.searchsorted(up_to / up_to[-1], rng.random(), side="right"))


def _require(logits: Float[Array, " V"], temperature: float, top_p: float) -> None:
    if temperature < 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")
    if not math.isfinite(temperature):
        raise ValueError(f"temperature must be finite, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    if not np.isfinite(logits).all():
        raise NonFiniteError("the model", "forward", "a non-finite logit")


def generate(
    model: Transformer,
    prompt: Int[Array, " S"],
    num_tokens: int,
    *,
    rng: np.random.Generator,
    temperature: float = 0.8,
    top_p: float = 0.95,
    end_ids: Collection[int] = (),
) -> Iterator[int]:
    """Continue the prompt, yielding each new token as soon as it is drawn.

    Keys and values of earlier positions are cached. When the context is full, the cache is rebuilt from the later half
    of it, so the text can have any length.

    Args:
        model: it is in evaluation meanwhile.
        prompt: token ids.
        num_tokens: how many to draw.
        rng: draws them.
        temperature: see :func:`sampling_probabilities`.
        top_p: likewise.
        end_ids: the text ends before the first of these.

    Raises:
        ValueError: the prompt is empty, or a setting out of range.
        NonFiniteError: the model gives a logit that is NaN or infinite.
    """
    if len(prompt) == 0:
        raise ValueError("the prompt is empty; give at least one token to continue")
    was_training = model.training
    model.eval()
    context = model.context
    text = prompt.tolist()
    caches = None
    unseen: list[int] = []
    try:
        for _ in range(num_tokens):
            if caches is None or caches[0].length + len(unseen) > context:
                caches = model.new_caches(1)
                unseen = text[-max(context // 2, 1) :] if len(text) > context else text
            with no_grad(), np.errstate(all="ignore"):  # a non-finite logit is found below
                logits = model(model.namespace.asarray([unseen]), caches=caches).logits.data[0, -1]
            token = draw(to_host(logits), temperature, top_p, rng)
            if token in end_ids:
                return
            text.append(token)
            unseen = [token]
            yield token
    finally:
        model.train(was_training)
