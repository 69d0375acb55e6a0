"""How much of a choice a label explains: mutual information over entropy, and what chance alone gives.

I(X; Y) = entropy(X) + entropy(Y) - entropy(X, Y). Estimated from counts, it is above 0 even where nothing depends on
anything, more so the more values Y has; shuffled labels show by how much.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..typing import Array, Int

_SHUFFLES = 10


def entropy(*labels: Int[Array, "..."]) -> float:
    """entropy = -Σ p log₂ p, in bits, of one label, or of several jointly; p are the shares of their values."""
    _, count = np.unique(_joint(*labels), return_counts=True)
    p = count / count.sum()
    return float(-(p * np.log2(p)).sum())


def explained(x: Int[Array, "..."], *y: Int[Array, "..."]) -> float:
    """I(x; y) / entropy(x), y one label or several jointly: 1 if y determines x. 0 where x is constant."""
    of_x = entropy(x)
    return (of_x + entropy(*y) - entropy(x, *y)) / of_x if of_x > 0 else 0.0


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
        share: I(x; y) / entropy(x), y the label.
        chance: its mean for shuffled labels.
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
    x, y = _numbered(x), _numbered(y)
    of_x, of_y, width = entropy(x), entropy(y), x.max(initial=0) + 1

    def share(y: Int[Array, " N"]) -> float:
        return (of_x + of_y - entropy(x + width * y)) / of_x if of_x > 0 else 0.0

    count = int(window[-1]) + 1 if len(window) else 0
    chance = []
    for _ in range(_SHUFFLES):
        one_by_one = within or count == 1
        order = np.lexsort((rng.random(len(y)), window)) if one_by_one else _other_windows(window, count, rng)
        chance.append(share(y[order]))
    return Explained(share(y), float(np.mean(chance)))


def _other_windows(window: Int[Array, " N"], count: int, rng: np.random.Generator) -> Int[Array, " N"]:
    """An order of the tokens that puts each window in the place of another."""
    place = np.empty(count, np.int64)
    cycle = rng.permutation(count)
    place[cycle] = np.roll(cycle, 1)
    return np.argsort(place[window], kind="stable")


def _joint(*labels: Int[Array, "..."]) -> Int[Array, " N"]:
    """One number per combination of labels; the last label counts most."""
    joint = labels[0].reshape(-1)
    for label in labels[1:]:
        joint = _numbered(joint)
        joint = joint + _numbered(label.reshape(-1)) * (joint.max(initial=0) + 1)
    return joint


def _numbered(label: Int[Array, " N"]) -> Int[Array, " N"]:
    """The values of a label in order: 0, 1, 2, ... without gaps."""
    return np.unique(label, return_inverse=True)[1]
