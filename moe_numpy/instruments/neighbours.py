"""How many different experts neighbouring tokens choose: what a layer loads when several tokens share a call."""

import numpy as np

from ..typing import Array, Float, Int
from .routed_text import RoutedText


def experts_met(routed: RoutedText, num_tokens: int) -> Float[Array, " layers"]:
    """The mean number of different experts that n neighbouring tokens of a window choose, by layer.

    Raises:
        ValueError: n is below 1, or no window has so many tokens.
    """
    last = np.arange(num_tokens - 1, len(routed))
    whole = last[routed.window[last] == routed.window[last - num_tokens + 1]] if num_tokens > 0 else last[:0]
    if not len(whole):
        raise ValueError(f"num_tokens must be at least 1 and fit a window of the text, got {num_tokens}")
    met = []
    for choices in routed.choices:
        chosen = np.zeros((len(routed) + 1, routed.num_experts), np.int32)
        chosen[choices.token + 1, choices.expert] = 1
        until = np.cumsum(chosen, axis=0, dtype=np.int32)
        met.append(np.count_nonzero(until[whole + 1] > until[whole + 1 - num_tokens]) / len(whole))
    return np.array(met)


def met_if_independent(load: Int[Array, "layers E"], text_tokens: int, num_tokens: int) -> Float[Array, " layers"]:
    """Σ_e 1 - (1 - p_e)^n: the same for n tokens of which none knows the other, where p_e is how many choose e.

    With equal loads, p_e = k / E, it is E (1 - (1 - k/E)^n).

    Args:
        load: how many of the text's tokens chose each expert.
        text_tokens: how many those are.
        num_tokens: n.
    """
    return (1 - (1 - load / text_tokens) ** num_tokens).sum(axis=-1)
