"""Which experts are chosen together more often than their loads explain."""

from dataclasses import dataclass

import numpy as np

from ..typing import Array, Float, Int

_CHUNK = 4096  # tokens at once
_ROUNDS, _TOLERANCE = 1000, 1e-9


@dataclass(frozen=True)
class Pair:
    """Two experts that tokens chose together.

    Attributes:
        experts: their numbers, ascending.
        count: how many tokens chose both.
        expected: how many would, if only the loads mattered.
    """

    experts: tuple[int, int]
    count: int
    expected: float

    @property
    def lift(self) -> float:
        """count / expected."""
        return self.count / self.expected


def chosen_together(token: Int[Array, " A"], expert: Int[Array, " A"], num_experts: int) -> Int[Array, "E E"]:
    """C[e, f]: how many tokens chose both e and f; 0 on the diagonal. Tokens ascend."""
    together = np.zeros((num_experts, num_experts), np.int64)
    for start in range(0, int(token[-1]) + 1 if len(token) else 0, _CHUNK):
        low, high = np.searchsorted(token, [start, start + _CHUNK])
        chosen = np.zeros((_CHUNK, num_experts), np.float32)
        chosen[token[low:high] - start, expert[low:high]] = 1
        together += (chosen.T @ chosen).astype(np.int64)
    np.fill_diagonal(together, 0)
    return together


def expected_together(together: Int[Array, "E E"]) -> Float[Array, "E E"]:
    """The counts M[e, f] = w_e w_f, e ≠ f, whose rows sum to those of C: what the loads alone explain.

    No expert is chosen twice by a token, so the product of two loads is not what chance gives: this is the
    quasi-independence of a table without a diagonal (Goodman 1968). w is found by iterative scaling.
    """
    row = together.sum(axis=1).astype(np.float64)
    w = row / np.sqrt(max(row.sum(), 1))
    for _ in range(_ROUNDS):
        current = w * (w.sum() - w)
        factor = np.sqrt(np.divide(row, current, out=np.ones_like(row), where=current > 0))
        w *= factor
        if abs(factor - 1).max(initial=0) < _TOLERANCE:
            break
    expected = np.outer(w, w)
    np.fill_diagonal(expected, 0)
    return expected


def closest_pairs(together: Int[Array, "E E"], *, limit: int = 10, min_count: int = 20) -> list[Pair]:
    """The pairs of largest lift that at least ``min_count`` tokens chose; ties go to the lowest experts.

    Left out is what may be chance: counts up to four standard deviations, √expected each, above the expected ones.
    """
    expected = expected_together(together)
    first, second = np.triu_indices(len(together), k=1)
    count, chance = together[first, second], expected[first, second]
    kept = (count >= min_count) & (count > chance + 4 * np.sqrt(chance))
    pairs = [
        Pair((int(e), int(f)), int(together[e, f]), float(expected[e, f]))
        for e, f in zip(first[kept], second[kept], strict=True)
    ]
    return sorted(pairs, key=lambda pair: -pair.lift)[:limit]
