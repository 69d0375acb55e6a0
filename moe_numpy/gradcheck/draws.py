"""Random numbers of a check: the generator, the cotangents and the points elsewhere."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

_OWN = list(b"moe_numpy.gradcheck")  # a seed that no input is drawn from
_DISPLACEMENT = 1e-2  # relative to the typical size of an input
_WIDEST = 1e-60  # the range of sizes that is evened out
_UNEVEN = 1e3  # outputs whose sizes differ by more than this factor get a cotangent that evens them out


def own_generator(rng: np.random.Generator | None) -> np.random.Generator:
    """A generator whose numbers are independent of all that ``rng`` has drawn and will draw.

    The input often comes from the same seed: with a cotangent equal to x, backward 2 x x of y = x² would pass.
    """
    words = [] if rng is None else rng.integers(0, 2**32, 4).tolist()
    return np.random.default_rng([*_OWN, *words])


def cotangents(outputs: Sequence[Any], rng: np.random.Generator) -> list[list[Any]]:
    """Weights for the outputs, each a list of one array per output.

    0. Standard normal.
    1. The same with rows of zeros, about every second one (a row is everything along the last axis).
    2. Where outputs are of very different size: inversely proportional to that, so that the small ones are seen.
    """
    dense = [rng.standard_normal(y.shape) for y in outputs]
    drawn = [dense, _with_zero_rows(dense, rng)]
    size = np.concatenate([np.abs(y).ravel() for y in outputs]) if outputs else np.zeros(0)
    positive = size[size > 0]
    if positive.size and positive.max() > _UNEVEN * positive.min():
        least = max(positive.min(), _WIDEST * positive.max())
        drawn.append([rng.standard_normal(y.shape) * (least / np.maximum(np.abs(y), least)) for y in outputs])
    return drawn


def _with_zero_rows(dense: list[Any], rng: np.random.Generator) -> list[Any]:
    """About every second row zeroed, the first always; an output of one row alternates with the next such one."""
    result, kept = [], len(dense) == 1
    for c in dense:
        rows = c.shape[:-1] if c.ndim > 1 else c.shape
        keep = rng.permutation(np.arange(int(np.prod(rows))) % 2 == 0)
        if keep.size > 1:
            keep[0] = False
            keep[-1] |= not keep.any()
        else:
            keep[:] = kept
            kept = not kept or len(dense) == 1
        result.append(np.where(keep.reshape((*rows, 1) if c.ndim > 1 else rows), c, 0.0))
    return result


def typical_size(x: Any) -> float:
    """The median of |x|, or 1 if that is 0 or x is empty: the scale on which x varies."""
    return float(np.median(np.abs(x))) or 1.0 if x.size else 1.0


def displaced(inputs: Sequence[Any], rng: np.random.Generator, by: float = _DISPLACEMENT) -> list[Any]:
    """Each input plus a little noise. Positive inputs stay positive: a logarithm may follow."""
    moved = [x + by * typical_size(x) * rng.standard_normal(x.shape) for x in inputs]
    return [np.abs(m) if (x > 0).all() else m for m, x in zip(moved, inputs, strict=True)]


def of_other_sizes(inputs: Sequence[Any], rng: np.random.Generator) -> Iterator[list[Any]]:
    """The inputs with their sizes evened out: what saturates or drowns at the given point may be seen there."""
    for size in (1.0, 1 / 8, 4.0):
        yield displaced([np.sign(x) * np.minimum(np.abs(x) / typical_size(x), 1) * size for x in inputs], rng)
