"""The tokens of one call: each row is one token of one sequence."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..nn.rotary import Rotary
from ..typing import Float, Int
from .sequence import Sequence


@dataclass(eq=False)
class Rows:
    """N tokens of one or more sequences, those of one sequence side by side.

    Attributes:
        tokens: ids.
        parts: each sequence and its rows.
    """

    tokens: Int[np.ndarray, " N"]
    parts: list[tuple[Sequence, slice]]
    _turns: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def positions(self) -> Int[np.ndarray, " N"]:
        """Of each token in its sequence."""
        return np.concatenate([s.length + np.arange(mine.stop - mine.start) for s, mine in self.parts])

    def turn(self, rotary: Rotary, width: int) -> tuple[Float[np.ndarray, "N half"], Float[np.ndarray, "N half"]]:
        """Cosine and sine of each row's angles; the layers of a model share them."""
        key = rotary, width
        if key not in self._turns:
            half = rotary.require(width) // 2
            self._turns[key] = (
                np.empty((len(self.tokens), half), np.float32),
                np.empty((len(self.tokens), half), np.float32),
            )
            self.turn_into(rotary, width, *self._turns[key])
        return self._turns[key]

    def turn_into(self, rotary: Rotary, width: int, cos: Any, sin: Any) -> None:
        """The same, written to arrays."""
        for sequence, mine in self.parts:
            length = sequence.length + mine.stop - mine.start
            angle = self.positions[mine, None] * rotary.frequencies(width, length)
            factor = 1.0 if rotary.scaling is None else rotary.scaling.factor_for(length)
            cos[mine], sin[mine] = factor * np.cos(angle), factor * np.sin(angle)
