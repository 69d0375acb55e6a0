"""Exercise 36: decoding with a cache."""

import math
from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=36,
    name="cached_attention",
    title="Decode with a cache",
    teaches="The new tokens' queries look back at keys and values that were kept: the past is read, never recomputed.",
    difficulty=2,
    minutes=25,
    needs=(5,),
    target="moe_numpy.inference.attention:attend",
    hints=(
        "Take one query and one head at a time. Which positions does query i see if the n are the last of all?",
        "keys[first[i] : num_keys - n + i + 1, h // (H // Hkv)] @ q[i, h] * scale are its scores; subtract the largest "
        "before exp. A sink takes part in the largest and in the sum, but has no value.",
        "e = np.exp(scores - top); o[i, h] = e @ values[seen, head] / (e.sum() + np.exp(sinks[h] - top)), the last "
        "term only with sinks; top = max(scores.max(), sinks[h]). o is np.empty((n, H, Dv), q.dtype).",
    ),
)


def specification(q: Any, keys: Any, values: Any, first: Any, scale: float, sinks: Any) -> Any:
    """Key by key, number by number, in floats of Python."""
    (n, heads, width), (length, kv_heads, _) = q.shape, keys.shape
    o = np.zeros((n, heads, values.shape[2]), q.dtype)
    for i in range(n):
        for h in range(heads):
            head = h * kv_heads // heads
            seen = [j for j in range(length) if first[i] <= j <= length - n + i]
            s = [scale * sum(float(keys[j, head, c]) * float(q[i, h, c]) for c in range(width)) for j in seen]
            every = s if sinks is None else [*s, float(sinks[h])]
            top = max(every)
            total = sum(math.exp(other - top) for other in every)
            for j, score in zip(seen, s, strict=True):
                share = math.exp(score - top) / total
                o[i, h] += share * values[j, head]
    return o


def _step(
    rng: np.random.Generator,
    n: int,
    length: int,
    heads: tuple[int, int],
    widths: tuple[int, int] = (4, 4),
    window: int | None = None,
    sinks: bool = False,
) -> Case:
    """The last n of ``length`` positions, with as many heads of queries and of keys, and such widths."""
    positions = length - n + np.arange(n)
    first = np.zeros(n, np.int64) if window is None else np.maximum(positions - window + 1, 0)
    return case(
        rng.standard_normal((n, heads[0], widths[0])),
        rng.standard_normal((length, heads[1], widths[0])),
        rng.standard_normal((length, heads[1], widths[1])),
        first,
        float(rng.uniform(0.3, 0.7)),
        rng.standard_normal(heads[0]) if sinks else None,
    )


def one_token(rng: np.random.Generator) -> list[Case]:
    return [_step(rng, 1, length, (2, 2)) for length in (5, 9, 1)] + [_step(rng, 1, 6, (3, 3), (4, 2))]


def grouped(rng: np.random.Generator) -> list[Case]:
    return [
        _step(rng, 1, 6, (4, 2)),
        _step(rng, 1, 5, (6, 2), (3, 5)),
        _step(rng, 2, 7, (4, 1)),
        _step(rng, 1, 4, (9, 3)),
    ]


def several(rng: np.random.Generator) -> list[Case]:
    """More than one new token: a prompt from the beginning, or a piece of one after others."""
    return [
        _step(rng, 3, 8, (2, 2)),
        _step(rng, 5, 5, (2, 1)),
        _step(rng, 2, 9, (4, 2), (4, 3)),
        _step(rng, 4, 6, (1, 1)),
    ]


def windows(rng: np.random.Generator) -> list[Case]:
    """Each query has a first key of its own; of 1, it sees itself alone; chunks begin together."""
    chunk = _step(rng, 3, 9, (2, 1))
    uneven = _step(rng, 4, 8, (2, 2))
    return [
        *(_step(rng, n, 9, (4, 2), window=w) for n, w in ((1, 4), (4, 3), (3, 1), (6, 20))),
        case(*chunk.args[:3], np.array([6, 6, 8]), *chunk.args[4:]),
        case(*uneven.args[:3], np.array([4, 0, 5, 2]), *uneven.args[4:]),
    ]


def with_sinks(rng: np.random.Generator) -> list[Case]:
    return [
        *(
            _step(rng, n, length, heads, sinks=True)
            for n, length, heads in ((1, 5, (2, 2)), (3, 7, (4, 2)), (1, 1, (3, 1)))
        ),
        _step(rng, 3, 8, (4, 2), (3, 5), window=2, sinks=True),
        case(*_step(rng, 2, 5, (3, 1)).args[:5], np.array([0.4, -np.inf, -0.3])),
    ]


def large(rng: np.random.Generator) -> list[Case]:
    """Scores whose exponential overflows or underflows, and sinks above and below all scores."""
    cases = []
    for n, size in ((1, 400.0), (3, 3000.0)):
        q, keys, values, first, scale, _ = _step(rng, n, 6, (4, 2)).args
        cases += [case(size * q, keys, values, first, scale, None)]
        cases += [case(q, keys, values, first, scale, np.array([-2000.0, 1e4, 0.0, -1e300]))]
        cases += [case(-abs(size * q), 3 + abs(keys), values, first, scale, np.full(4, -1e6))]
        cases += [case(-1e11 * abs(q), 3 + abs(keys), values, first + n - 1, scale, None)]
    return cases


def unseen(rng: np.random.Generator) -> list[Case]:
    """Places outside the window hold what was there before: NaN, infinities, large numbers."""
    cases = []
    for n, junk in ((1, np.nan), (2, np.inf), (1, 1e300)):
        q, keys, values, first, scale, sinks = _step(rng, n, 7, (4, 2), sinks=n > 1).args
        keys[:3], values[:3] = junk, junk
        cases.append(case(q, keys, values, first + 3 + np.arange(n), scale, sinks))
    return cases


def long_cache(rng: np.random.Generator) -> list[Case]:
    return [_step(rng, 1, 600, (1, 1)), _step(rng, 1, 400, (2, 1), window=140, sinks=True)]


NO_ROWS = one_by_one(
    case(np.zeros((0, 4, 3)), np.ones((5, 2, 3)), np.ones((5, 2, 2)), np.zeros(0, np.int64), 0.5, None)
)
BY_HAND = one_by_one(
    case(
        np.array([[[1.0]]]),
        np.log([[[1.0]], [[2.0]], [[5.0]]]),
        np.array([[[8.0, 0.0]], [[0.0, 8.0]], [[16.0, 16.0]]]),
        np.array([1]),
        1.0,
        np.log([1.0]),
    )
)
CHECKS = (
    Check("one new token", 3, one_token, "softmax of its scores with all keys, then the values with these weights"),
    Check("several query heads per key head", 2, grouped, "neighbours share: head h reads key head h // (H / Hkv)"),
    Check(
        "several new tokens", 3, several, "query i is position num_keys - n + i: it sees itself, and nothing after it"
    ),
    Check("a window for each query", 2, windows, "begin at first[i], whatever the other rows begin at"),
    Check("sinks", 2, with_sinks, "a sink adds e^sink to the sum, and nothing to the values"),
    Check("scores of any size", 1, large, "take off the largest of all scores, the sink among them"),
    Check("what is not seen does not count", 1, unseen, "cut it off; 0 · NaN is NaN"),
    Check("a long cache", 1, long_cache, "nothing depends on the length"),
    Check("sinks in float32", 1, float32(with_sinks), "float32 in, float32 out"),
    *standard_checks(several),
    Check("no rows", 1, NO_ROWS, "(0, H, Dv), whatever the cache holds"),
    Check("known values", 1, BY_HAND, "weights 2, 5 and 1 for the sink: 2/8 and 5/8 of the second and third value"),
)

MISTAKES = edits("""
sees the future: Lets every query see all keys. Query i must not see the tokens after it.
- num_keys - n + i + 1
+ num_keys
does not see itself: Leaves out the query's own key, which is the last that it sees.
- num_keys - n + i + 1
+ max(num_keys - n + i, int(first[i]) + 1)
counts from the first query: Query i is position num_keys - n + i, not i: the cache holds num_keys - n tokens before it.
- num_keys - n + i + 1
+ max(i, int(first[i])) + 1
ignores the window: Begins at 0. A query sees keys from first[i] on.
- int(first[i])
+ 0
one window for all: Takes the first query's window for every row.
- int(first[i])
+ int(first[0])
window without its first: Begins after first[i], which is seen too.
- int(first[i])
+ min(int(first[i]) + 1, num_keys - n + i)
heads alternate: Reads key head h mod Hkv. Neighbours share a key head: h // (H / Hkv).
- h // (num_heads // num_kv_heads)
+ h % num_kv_heads
the first key head for all: Reads key head 0, as if there were one.
- h // (num_heads // num_kv_heads)
+ 0
no scale: Scores are multiplied by `scale`, which need not be 1 / √D.
- * scale
scale from the width: Takes 1 / √D for the scale. It is an argument: some models have another.
- * scale
+ * q.shape[2] ** -0.5
ignores sinks: Leaves the sinks out: the weights then add up to 1, with a sink to less.
- total = e.sum() if sinks is None else e.sum() + xp.exp(sinks[h] - top)
+ total = e.sum()
sink of the key head: There is one sink for each of H heads, not for each of Hkv.
- xp.exp(sinks[h] - top)
+ xp.exp(sinks[head] - top)
scales the sink: The scale is part of q · k; a sink is a score already.
- xp.exp(sinks[h] - top)
+ xp.exp(sinks[h] * scale - top)
sink without exp: Adds the sink itself to the sum of exponentials. It is a score: e^sink.
- xp.exp(sinks[h] - top)
+ sinks[h]
sink not shifted: What is taken off all scores must be taken off the sink too.
- xp.exp(sinks[h] - top)
+ xp.exp(sinks[h])
overflows without shift: e¹⁰⁰⁰ overflows. Take off the largest score; it cancels.
- top = scores.max() if sinks is None else max(scores.max(), sinks[h])
+ top = 0.0
masks with zero: A masked score of 0 still has weight e⁰. Cut off what is not seen.
- scores = keys[seen, head] @ q[i, h] * scale
+ scores = keys[:, head] @ q[i, h] * scale; scores[: seen.start] = 0; scores[seen.stop :] = 0
- values[seen, head]
+ values[:, head]
multiplies what is not seen by zero: 0 · NaN is NaN, and the cache may hold anything there. Cut it off.
- scores = keys[seen, head] @ q[i, h] * scale
+ scores = keys[:, head] @ q[i, h] * scale; scores[: seen.start] = -np.inf; scores[seen.stop :] = -np.inf
- values[seen, head]
+ values[:, head]
masks with a very negative number: -1e9 is more than a score of -1e11. Cut off what is not seen.
- scores = keys[seen, head] @ q[i, h] * scale
+ scores = np.nan_to_num(keys[:, head]) @ q[i, h] * scale; scores[: seen.start] = scores[seen.stop :] = -1e9
- values[seen, head]
+ np.nan_to_num(values[:, head], posinf=0)
means instead of weights: Averages the values that are seen. Their weights are the softmax of the scores.
- e = xp.exp(scores - top)
+ e = xp.ones_like(scores)
""")
