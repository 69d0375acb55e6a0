"""Continuing one text: draws, and guesses of several tokens that one call confirms."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..models.generation import draw
from ..typing import Array, Int
from .decoder import Decoder
from .prefix_cache import PrefixCache
from .prompt_lookup import PromptLookup, guesses_after


@dataclass
class Guesses:
    """How speculation went.

    Attributes:
        calls: of the model.
        guessed: tokens that were guessed.
        right: those that the model confirmed.
    """

    calls: int = 0
    guessed: int = 0
    right: int = 0


def write(
    decoder: Decoder,
    prompt: Int[Array, " S"],
    num_tokens: int,
    *,
    rng: np.random.Generator,
    temperature: float = 0.8,
    top_p: float = 0.95,
    end_ids: Collection[int] = (),
    guess: int = 0,
    guesses: Guesses | None = None,
    cache: PrefixCache | None = None,
) -> Iterator[int]:
    """Continue the prompt, yielding each new token as soon as it is drawn.

    When the context is full, the later half of it is read again, so that the text can have any length.

    Args:
        decoder: the model.
        prompt: token ids.
        num_tokens: how many to draw.
        rng: draws them.
        temperature: see :func:`moe_numpy.models.generation.sampling_probabilities`.
        top_p: likewise.
        end_ids: the text ends before the first of these.
        guess: with temperature 0, guess at most so many tokens from what followed the same words before, and read them
            in one call: those that the model would have chosen are kept, so that the text is the same. Each call
            guesses as many as :func:`~moe_numpy.inference.prompt_lookup.guesses_after` says.
        guesses: counts them.
        cache: what it knows of the prompt is not read again; it learns the prompt and, in the end, the text.

    Raises:
        ValueError: the prompt is empty, a setting out of range, or the cache that of another decoder.
        NonFiniteError: the model gives a logit that is NaN or infinite.
    """
    if len(prompt) == 0:
        raise ValueError("the prompt is empty; give at least one token to continue")
    if guess < 0:
        raise ValueError(f"guess must not be negative, got {guess}")
    if guess and temperature:
        raise ValueError(f"guesses are for temperature 0, got {temperature}")
    if cache is not None and cache.decoder is not decoder:
        raise ValueError("the cache is that of another decoder: what that one has read is of no use")
    text, context = prompt.tolist(), decoder.parts.context
    lookup = PromptLookup(text if guess else ())
    left, right, counted = num_tokens, 0, guesses or Guesses()
    sequence: Any = None
    begun = 0  # where the sequence begins in the text
    try:
        while left > 0:
            if sequence is None or sequence.length == context:
                begun = len(text) - max(context // 2, 1) if len(text) > context else 0
                sequence, logits = _begun(decoder, np.array(text[begun:]), cache)
                draft: list[int] = []
            else:
                draft = lookup.guess(min(guess, guesses_after(right), left - 1, context - sequence.length - 1))
                logits = decoder.read((sequence, np.array([text[-1], *draft])), every=True)
            counted.calls, counted.guessed, right = counted.calls + 1, counted.guessed + len(draft), 0
            for i, said in enumerate(logits):
                token = draw(said, temperature, top_p, rng)
                if token in end_ids:
                    return
                text.append(token)
                if guess:
                    lookup.append(token)
                left -= 1
                yield token
                if i < len(draft):
                    if token != draft[i]:
                        sequence.cut(len(text) - 1 - begun)
                        break
                    counted.right, right = counted.right + 1, right + 1
    finally:
        if cache is not None and sequence is not None:
            sequence.cut(min(sequence.length, len(text) - begun))  # whoever takes the tokens may stop among guesses
            cache.keep(sequence, np.array(text[begun:]))


def _begun(decoder: Decoder, tokens: Int[Array, " S"], cache: PrefixCache | None) -> Any:
    """A text that has read these tokens, and the logits of what follows."""
    if cache is not None:
        return cache.read(tokens)
    sequence = decoder.new_sequence()
    return sequence, decoder.read((sequence, tokens))
