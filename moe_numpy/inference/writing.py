"""Continuing one text: draws, and guesses of several tokens that one call confirms."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..models.generation import sampling_probabilities
from ..typing import Array, Int
from .decoder import Decoder

_LONGEST = 3  # tokens that a guess must have in common with what came before it


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
        guess: with temperature 0, guess up to so many tokens from what followed the same words before, and read them in
            one call: those that the model would have chosen are kept, so that the text is the same
            (Saxena 2023, "Prompt Lookup Decoding").
        guesses: counts them.

    Raises:
        ValueError: the prompt is empty, or a setting out of range.
        NonFiniteError: the model gives a logit that is NaN or infinite.
    """
    if len(prompt) == 0:
        raise ValueError("the prompt is empty; give at least one token to continue")
    if guess and temperature:
        raise ValueError(f"guesses are for temperature 0, got {temperature}")
    text, context = prompt.tolist(), decoder.parts.context
    left, counted = num_tokens, guesses or Guesses()
    sequence: Any = None
    unread = text
    while left > 0:
        if sequence is None or sequence.length + len(unread) > context:
            sequence = decoder.new_sequence()
            unread = text[-max(context // 2, 1) :] if len(text) > context else text
        room = context - sequence.length - len(unread)
        draft = _draft(text, min(guess, left - 1, room))
        read = np.array([*unread, *draft])
        logits = decoder.read((sequence, read), every=bool(draft))[-len(draft) - 1 :]
        counted.calls, counted.guessed = counted.calls + 1, counted.guessed + len(draft)
        for i in range(len(draft) + 1):
            p = sampling_probabilities(logits[i], temperature, top_p)
            token = int(rng.choice(len(p), p=p))
            if token in end_ids:
                return
            text.append(token)
            left -= 1
            yield token
            if i < len(draft):
                if token != draft[i]:
                    sequence.cut(sequence.length - len(draft) + i)
                    break
                counted.right += 1
        unread = [token]


def _draft(text: list[int], longest: int) -> list[int]:
    """What followed the last words of the text when they came before, at most ``longest`` tokens."""
    for words in range(_LONGEST, 0, -1) if longest > 0 else ():
        tail = text[-words:]
        for start in range(len(text) - words - 1, -1, -1):
            if text[start] == tail[0] and text[start : start + words] == tail:
                return text[start + words : start + words + longest]
    return []
