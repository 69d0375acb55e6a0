"""Exercise 37: a product with weights in int8."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, one_by_one, strided
from ..mistakes import edits

EXERCISE = Exercise(
    number=37,
    name="int8_product",
    title="A product with weights in int8",
    teaches="Eight bits a weight, a scale for 32 of them, and sums in one order: an answer always has the same bits.",
    difficulty=2,
    minutes=30,
    target="exercises.reference.int8_product:int8_product",
    imports=("from moe_numpy.formats import bfloat16",),
    hints=(
        "weights.reshape(out, in // 32, 32) has a group on its last axis. One scale for each group: its largest "
        "absolute value over 127, rounded to bfloat16 before anything is divided by it.",
        "np.rint rounds ties to even. Where the scale is 0 take codes 0, without dividing. The weights are then codes "
        "times scales, in float32.",
        "lanes = np.zeros((N, out, 16), np.float32); for each start in range(0, in, 16) add x[:, None, start : start + "
        "16] * values[:, start : start + 16]; lanes = lanes[..., :half] + lanes[..., half:] for half = 8, 4, 2, 1.",
    ),
)


def product(solution: Any, x: Any, weights: Any) -> Any:
    """Call, and look at the type of the codes.

    Raises:
        TypeError: they are not int8.
    """
    returned = solution(x, weights)
    if type(returned) is not tuple or len(returned) != 3:
        raise TypeError("expected three results: codes, scales, y")
    codes, scales, y = returned
    if codes.dtype != np.int8:
        raise TypeError(f"codes are {codes.dtype}, expected int8")
    return codes.astype(np.int64), scales, y


def specification(x: Any, weights: Any) -> Any:
    """Weight by weight; a bfloat16 is found among its neighbours; the lanes are lists."""
    out, width = weights.shape
    if width % 32:
        raise ValueError("no multiple of 32")
    codes, scales = np.zeros((out, width), np.int8), np.zeros((out, width // 32), np.float32)
    for o in range(out):
        for g in range(width // 32):
            group = weights[o, 32 * g : 32 * g + 32]
            s = scales[o, g] = _bfloat16(np.float32(max(abs(w) for w in group)) / np.float32(127))
            for j, w in enumerate(group):
                codes[o, 32 * g + j] = 0 if s == 0 else max(-127, min(127, round(float(np.float32(w / s)))))
    y = np.zeros((len(x), out), np.float32)
    for n in range(len(x)):
        for o in range(out):
            lanes = [np.float32(0)] * 16
            for j in range(width):
                lanes[j % 16] += np.float32(codes[o, j] * scales[o, j // 32]) * x[n, j]
            while len(lanes) > 1:
                half = len(lanes) // 2
                lanes = [lanes[i] + lanes[i + half] for i in range(half)]
            y[n, o] = lanes[0]
    return codes, scales, y


def _bfloat16(value: Any) -> Any:
    """The nearest number whose lower 16 bits are zero; of two that are equally near, the one with an even last bit."""
    bits = int(np.float32(value).view(np.uint32))
    below, above = (np.uint32(b << 16).view(np.float32) for b in (bits >> 16, (bits >> 16) + 1))
    down, up = float(value) - float(below), float(above) - float(value)
    return below if down < up or (down == up and (bits >> 16) % 2 == 0) else above


def _normal(rng: np.random.Generator, *shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


def typical(rng: np.random.Generator) -> list[Case]:
    sizes = ((3, 32, 2), (1, 64, 3), (4, 96, 2), (2, 32, 1))
    return [case(_normal(rng, n, width), _normal(rng, out, width)) for n, width, out in sizes]


def uneven_groups(rng: np.random.Generator) -> list[Case]:
    """Groups of very different size in one row; one with an outlier, one of zeros, one of a single weight."""
    w = _normal(rng, 3, 128) * np.repeat(np.array([1e-3, 1.0, 300.0, 1e6], np.float32), 32)
    w[1, 32:64] = 0
    w[2, 64:96] = 0
    w[2, 70] = -0.3
    w[0, 5] = 40
    zero = np.zeros((2, 64), np.float32)
    return [
        case(_normal(rng, 2, 128), w),
        case(_normal(rng, 2, 64), zero),
        case(_normal(rng, 1, 64), -np.abs(_normal(rng, 2, 64))),
    ]


def halves(rng: np.random.Generator) -> list[Case]:
    """Weights that lie in the middle between two codes, and scales between two bfloat16."""
    w = np.zeros((2, 64), np.float32)
    w[:, 0] = w[:, 32] = 127
    w[:, 1:32] = rng.integers(-126, 127, (2, 31)) + np.float32(0.5)
    w[:, 33:] = -w[:, 1:32]
    s = np.array([127 * (1 + 2.0**-8), 127 * (1 + 3 * 2.0**-8), 127 * (1 + 2.0**-8 + 2.0**-16)], np.float32)
    middle = np.repeat(s[:, None], 32, axis=1) * np.linspace(-1, 1, 32, dtype=np.float32)
    return [case(_normal(rng, 2, 64), w), case(_normal(rng, 2, 32), middle)]


def extremes(rng: np.random.Generator) -> list[Case]:
    """Weights so small that their scale is no normal number, or 0, and the largest there are."""
    base = _normal(rng, 2, 32)
    base /= np.abs(base).max()
    return [case(_normal(rng, 2, 32), np.float32(size) * base) for size in (1e-38, 1.65e-38, 3e-40, 1e38)]


def order(rng: np.random.Generator) -> list[Case]:
    """Large terms that cancel beside small ones: every order of sums gives another result. Scales are 1."""
    cases = []
    sizes = ((3, 64, 2), (2, 160, 2), (4, 96, 2), (3, 32, 2), (1, 64, 2), (2, 96, 1), (1, 128, 1), (17, 64, 2))
    for n, width, out in sizes:
        w = rng.integers(-20, 21, (out, width)).astype(np.float32)
        w[:, ::32] = 127
        x = rng.integers(-30, 31, (n, width)).astype(np.float32)
        for row in x:
            places = rng.permutation(np.flatnonzero(np.arange(width) % 32))[: width // 2]
            row[places] = np.float32(2.0**25) * rng.integers(1, 9, len(places))
            row[places[1::2]] = -row[places[::2]]
        w[:, np.abs(x).max(axis=0) > 100] = 1
        cases.append(case(x, w))
    return cases


def rounded_terms(rng: np.random.Generator) -> list[Case]:
    """Terms l and l + 16 of a lane cancel exactly once they are rounded to float32; y is 0."""
    cases = []
    for n, width, out in ((3, 32, 2), (2, 64, 1)):
        scale = np.float32(2.0 ** int(rng.integers(-3, 4)))  # so that it may be multiplied by q or by x
        codes = rng.integers(3, 127, width) * rng.choice([-1, 1], width)
        codes[::32] = 127
        w = codes.astype(np.float32) * scale
        x = np.zeros((n, width), np.float32)
        for row in x:
            for j in (j for j in range(width) if j % 32 < 16):
                while row[j] == 0 or w[j] * row[j] + w[j + 16] * row[j + 16] != 0:
                    row[j] = rng.standard_normal() * 2**20
                    row[j + 16] = -(w[j] * row[j]) / w[j + 16]
        cases.append(case(x, np.tile(w, (out, 1))))
    return cases


TOO_WIDE = one_by_one(*(case(np.ones((2, w), np.float32), np.ones((2, w), np.float32)) for w in (31, 33, 48)))
EMPTY = one_by_one(
    case(np.ones((0, 32), np.float32), np.ones((2, 32), np.float32)),
    case(np.ones((2, 64), np.float32), np.ones((0, 64), np.float32)),
    case(np.ones((2, 0), np.float32), np.ones((3, 0), np.float32)),
)
BY_HAND = one_by_one(
    case(np.ones((1, 32), np.float32), np.concatenate([[254.0, -3.0, 5.0, 1.4], np.zeros(28)]).astype(np.float32)[None])
)
CHECKS = (
    Check(
        "codes, scales, sums", 4, typical, "s from the largest |w| of 32; q = w / s rounded; y from q s", run=product
    ),
    Check("groups of very different size", 3, uneven_groups, "each group of each row has its own scale", run=product),
    Check("in the middle between two codes", 2, halves, "to the nearest, ties to even; the scale first", run=product),
    Check("the order of sums", 4, order, "16 lanes, then halves; all in float32", run=product),
    Check("each term is rounded", 1, rounded_terms, "first the term in float32, then the sum in float32", run=product),
    Check("weights of any size", 1, extremes, "a scale can round to 0, and up or down by much", run=product),
    Check("arrays with gaps", 1, strided(typical), "do not rely on the order in memory", run=product),
    Check("no groups of 32", 1, TOO_WIDE, "a row that is no multiple of 32 is a ValueError", run=product),
    Check("no rows, no columns", 1, EMPTY, "(N, out), whatever they are; 0 is a multiple of 32", run=product),
    Check("codes by hand", 1, BY_HAND, "s is 2: 127, -2, 2, 1: ties to even; 256 as the sum", run=product),
)

MISTAKES = edits("""
one scale for each row: One large weight takes the bits of its whole row. Groups of 32 limit the damage.
- np.abs(groups).max(axis=2)
+ np.broadcast_to(np.abs(groups).max(axis=(1, 2))[:, None], groups.shape[:2])
one scale for all: One scale for the whole matrix.
- np.abs(groups).max(axis=2)
+ np.full(groups.shape[:2], np.abs(groups).max(initial=0))
largest without sign: Takes the largest weight. A negative one can be larger in size.
- np.abs(groups).max(axis=2)
+ np.maximum(groups.max(axis=2), 0)
128 levels: Divides by 128: the largest weight then has code 128, which int8 does not hold.
- np.float32(127)
+ np.float32(128)
scale in float32: Keeps the scale as it is. It is stored as a bfloat16, and codes must be made for what is stored.
- bfloat16.decode(bfloat16.encode(np.abs(groups).max(axis=2) / np.float32(127)))
+ np.abs(groups).max(axis=2) / np.float32(127)
scale cut off: Drops the lower 16 bits of the scale. It is rounded to the nearest.
- bfloat16.encode(np.abs(groups).max(axis=2) / np.float32(127))
+ ((np.abs(groups).max(axis=2) / np.float32(127)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
scale rounded afterwards: Makes codes with the unrounded scale. What is read back is code times the rounded one.
- np.rint(groups / divisors)
+ np.rint(groups * np.float32(127) / np.maximum(np.abs(groups).max(axis=2), 1e-45)[:, :, None])
cut off towards zero: Drops the fraction. Rounding to the nearest halves the error.
- np.rint(
+ np.trunc(
rounds down: Rounds towards minus infinity: all weights become a little smaller.
- np.rint(
+ np.floor(
half away from zero: Rounds ties up in size. Ties go to the even code.
- np.rint(groups / divisors)
+ np.copysign(np.floor(np.abs(groups / divisors) + np.float32(0.5)), groups)
divides by zero: A group of zeros has scale 0; 0 / 0 is no code.
- np.where(scales == 0, 1, scales)[:, :, None]
+ scales[:, :, None]
- np.where(scales[:, :, None] == 0, 0, np.rint(groups / divisors))
+ np.nan_to_num(np.rint(groups / divisors), nan=1.0)
a small number for zero: Adds 1e-8 to every scale. The scale of small weights is smaller than that.
- np.where(scales == 0, 1, scales)[:, :, None]
+ (scales + np.float32(1e-8))[:, :, None]
never rounded: Multiplies by the weights as they were. The product must be that of codes and scales.
- values = (codes * scales[:, :, None]).reshape(out, width)
+ values = weights
no scales: Multiplies by the codes alone.
- values = (codes * scales[:, :, None]).reshape(out, width)
+ values = codes.reshape(out, width).astype(np.float32)
one after the other: Adds all terms in a row. Sixteen lanes are what a processor adds at once.
- return codes.reshape(out, width), scales, lanes[:, :, 0]
+ return codes.reshape(out, width), scales, np.cumsum(x[:, None] * values, axis=2, dtype=np.float32)[:, :, -1]
in float64: Adds in float64 and rounds once. It is closer, and other bits than those of the compiled loops.
- return codes.reshape(out, width), scales, lanes[:, :, 0]
+ return codes.reshape(out, width), scales, (x.astype(np.float64) @ values.T).astype(np.float32)
terms not rounded: Adds terms that were not rounded to float32, as a fused multiplication and addition does.
- lanes += x[:, None, start : start + 16] * values[:, start : start + 16]
+ lanes = (lanes + x[:, None, start : start + 16].astype(float) * values[:, start : start + 16]).astype(np.float32)
a row alone: Adds the terms of a single row in another order. Its bits are those that it has among others.
- return codes.reshape(out, width), scales, lanes[:, :, 0]
+ alone = np.cumsum(x[:, None] * values, axis=2, dtype=np.float32)[:, :, -1:]
+     return codes.reshape(out, width), scales, (alone if len(x) == 1 else lanes)[:, :, 0]
many rows: Adds in another order where there are many rows. Each has the bits that it has alone.
- return codes.reshape(out, width), scales, lanes[:, :, 0]
+ together = np.cumsum(x[:, None] * values, axis=2, dtype=np.float32)[:, :, -1:]
+     return codes.reshape(out, width), scales, (together if len(x) > 8 else lanes)[:, :, 0]
no columns: Refuses a matrix without columns. 0 is a multiple of 32, and each y is 0.
- if width % 32:
+ if width % 32 or width == 0:
lanes in blocks: Gives lane l neighbouring terms. It adds j = l, l + 16, l + 32, ...
- lanes += x[:, None, start : start + 16] * values[:, start : start + 16]
+ lanes += x[:, None, start // 16 :: width // 16] * values[:, start // 16 :: width // 16]
neighbouring lanes: Adds lanes 0 and 1, 2 and 3, ... The lanes are added by halves: l and l + 8.
- lanes = lanes[:, :, :half] + lanes[:, :, half:]
+ lanes = lanes[:, :, ::2] + lanes[:, :, 1::2]
lane after lane: Adds the 16 lanes one after the other, not by halves.
- lanes = lanes[:, :, :half] + lanes[:, :, half:]
+ lanes = np.cumsum(lanes, axis=2, dtype=np.float32)[:, :, -1:] if half == 8 else lanes
eight lanes: Adds j = l, l + 8, ... in eight sums. There are sixteen.
- lanes += x[:, None, start : start + 16] * values[:, start : start + 16]
+ for part in (start, start + 8): lanes[:, :, :8] += x[:, None, part : part + 8] * values[:, part : part + 8]
groups of sixteen: Groups have 32 weights.
- groups = weights.reshape(out, width // 32, 32)
+ groups = weights.reshape(out, width // 32, 32); groups = np.where(np.arange(32) < 16, groups, 0) + 0 * groups
""")
