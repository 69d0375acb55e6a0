"""How much of a choice a label explains: mutual information over entropy, and what chance alone gives.

I(X; Y) = H(X) + H(Y) - H(X, Y). Estimated from counts, it is above 0 even where nothing depends on anything, more
so the more values Y has; shuffled labels show by how much.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..typing import Array, Int

_SHUFFLES = 10


def entropy(*labels: Int[Array, "..."]) -> float:
    """H = -Σ p log₂ p, in bits, of one label, or of several jointly; p are shares of the counts."""
    return _bits(_codes(*labels))


def explained(x: Int[Array, "..."], *y: Int[Array, "..."]) -> float:
    """I(x; y) / H(x), y one label or several jointly: 1 if y determines x. 0 where x is constant."""
    return _share(entropy(x), entropy(*y), entropy(x, *y))


def adjusted(share: float, chance: float) -> float:
    """(share - chance) / (1 - chance): 0 for what chance gives, 1 for a label that determines the choice.

    Vinh, Epps, Bailey 2010, the adjusted mutual information, normalised by the entropy of the choice. NaN where chance
    explains everything: each value of the label then occurs about once, and nothing can be said.
    """
    return (share - chance) / (1 - chance) if chance < 1 - 1e-9 else math.nan


@dataclass(frozen=True)
class Explained:
    """How much of a choice one label explains.

    Attributes:
        share: I/H of the label.
        chance: the mean I/H of shuffled labels.
    """

    share: float
    chance: float

    @property
    def adjusted(self) -> float:
        """The share beyond chance; see :func:`adjusted`."""
        return adjusted(self.share, self.chance)


def explained_beyond_chance(
    x: Int[Array, " N"],
    y: Int[Array, " N"],
    window: Int[Array, " N"],
    rng: np.random.Generator,
    *,
    within: bool = False,
) -> Explained:
    """The share of x that y explains, and that which y explains after shuffling.

    Tokens of one window are not independent, so the labels of whole windows change places: shuffled one by one they
    would make chance look smaller than it is. Only where there is a single window are its labels shuffled.

    Args:
        x: the choices.
        y: the labels.
        window: ascending, which independent piece of text each belongs to.
        rng: shuffles.
        within: shuffle inside each window instead, for labels that every window has, such as positions.
    """
    x, y = _codes(x), _codes(y)
    of_x, of_y, width = _bits(x), _bits(y), int(x.max(initial=0)) + 1
    count = int(window[-1]) + 1 if len(window) else 0
    inside = within or count == 1
    chance = []
    for _ in range(_SHUFFLES):
        order = np.lexsort((rng.random(len(y)), window)) if inside else _windows_shuffled(window, count, rng)
        chance.append(_share(of_x, of_y, _bits(x + width * y[order])))
    return Explained(_share(of_x, of_y, _bits(x + width * y)), float(np.mean(chance)))


def _windows_shuffled(window: Int[Array, " N"], count: int, rng: np.random.Generator) -> Int[Array, " N"]:
    """The order of tokens in which no window follows where it was: it gets the labels of another."""
    place = np.empty(count, np.int64)
    cycle = rng.permutation(count)
    place[cycle] = np.roll(cycle, 1)
    return np.argsort(place[window], kind="stable")


def _share(of_x: float, of_y: float, of_both: float) -> float:
    return float((of_x + of_y - of_both) / of_x) if of_x > 0 else 0.0


def _codes(*labels: Int[Array, "..."]) -> Int[Array, " N"]:
    """One number per combination of labels, from 0 on without gaps, in the order of the last label first."""
    joint = np.zeros(labels[0].size, np.int64)
    for label in labels:
        code = np.unique(label.reshape(-1), return_inverse=True)[1]
        joint = np.unique(joint + code * (joint.max(initial=0) + 1), return_inverse=True)[1]
    return joint


def _bits(codes: Int[Array, " N"]) -> float:
    p = np.unique(codes, return_counts=True)[1] / codes.size
    return float(-(p * np.log2(p)).sum())
