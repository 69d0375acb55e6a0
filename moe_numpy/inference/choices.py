"""Which experts tokens chose while a decoder read them, and their gate weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..typing import Float, Int
from .rows import Rows
from .sequence import Sequence

# Of one token, by layer: its experts, in the order in which the router lists them, and their gate weights.
Choices = dict[int, tuple[Int[np.ndarray, " _"], Float[np.ndarray, " _"]]]


def add_choices(choices: Mapping[Sequence, list[Choices]], rows: Rows, chosen: Mapping[int, Any]) -> None:
    """Add those of the rows of a call to the lists of their texts.

    Args:
        choices: the lists, of the texts that want them.
        rows: of the call.
        chosen: by layer, token, expert and gate weight of each assignment, in the order of tokens.
    """
    ends = {layer: np.searchsorted(token, np.arange(len(rows.tokens) + 1)) for layer, (token, _, _) in chosen.items()}
    for sequence, mine in rows.parts:
        if sequence in choices:
            for n in range(mine.start, mine.stop):
                own = {layer: slice(end[n], end[n + 1]) for layer, end in ends.items()}
                choices[sequence].append(
                    {layer: (chosen[layer][1][at].copy(), chosen[layer][2][at].copy()) for layer, at in own.items()}
                )
