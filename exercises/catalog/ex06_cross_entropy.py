"""Exercise 06: cross-entropy with the log-softmax fused in."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=6,
    name="cross_entropy",
    title="Cross-entropy on logits",
    teaches="Why softmax and logarithm belong together, and the simplest gradient in the field: p minus one-hot.",
    difficulty=2,
    minutes=25,
    needs=(5,),
    target="moe_numpy.ops.losses:CrossEntropy",
    hints=(
        "Subtract max(x) from a row: ln Σ eˣ - x[t] does not change. Written this way, nothing is ever ln 0.",
        "d ln Σ eˣ / dx_v = p_v, the softmax. And d(-x[t])/dx_v is -1 at v = t, else 0. Do not forget the mean.",
        "x = x - rowmax; losses = log(exp(x).sum(-1)) - x[arange(n), t]; save p and t. backward: "
        "dx = p g/n, dx[arange(n), t] -= g/n, ignored rows 0; return it in the logits' shape, and None for targets.",
    ),
)


def specification(logits: Any, targets: Any, *, ignore_index: int | None = None) -> Any:
    """Per target that counts: ln Σ e^x minus its own x."""
    num_classes = logits.shape[-1]
    if targets.dtype.kind not in "iu":
        raise TypeError("targets")
    if targets.shape != logits.shape[:-1]:
        raise ValueError("shapes")
    logits = logits.astype(np.result_type(logits.dtype, np.float32))
    total, n = np.zeros((), logits.dtype), 0
    for index in np.ndindex(targets.shape):
        t = int(targets[index])
        if ignore_index is not None and t == ignore_index:
            continue
        if not 0 <= t < num_classes:
            raise ValueError("range")
        top = max(logits[index])
        sum_exp = sum(np.exp(v - top) for v in logits[index])
        total += top + np.log(sum_exp) - logits[(*index, t)]
        n += 1
    if n == 0:
        raise ValueError("nothing counts")
    return total / n


def typical(rng: np.random.Generator) -> list[Case]:
    return [_case(rng, s, v) for s, v in [((5,), 3), ((2, 4), 6), ((3,), 7), ((1,), 4), ((3,), 1), ((), 5)]]


def large(rng: np.random.Generator) -> list[Case]:
    """Logits far from 0, far apart, or masked."""
    shift = np.array([[1000.0], [-1000.0], [0.0], [500.0]])
    x = rng.standard_normal((4, 5))
    t = np.array([0, 3, 1, 4])
    masked = np.where(np.arange(5) == 2, -np.inf, x)
    apart = np.array([[0.0, -800.0, 3.0], [900.0, 0.0, 0.0]])
    surprised = case(np.array([[1e6, 0.0], [0.0, 3e5], [0.0, 1e5]]), np.array([1, 1, 0]))
    impossible = case(masked, np.array([0, 3, 2, 4]))
    near = [case(x + shift, t), case(500 * x, t), case(x + 100, t), case(masked, t)]
    return [*near, case(apart, np.array([1, 2])), surprised, impossible]


def narrow(rng: np.random.Generator) -> list[Case]:
    """Targets of few bits: neither n V, nor n, nor -1 fits into them."""
    x = rng.standard_normal((300, 10))
    t = rng.integers(0, 10, 300)
    last = case(rng.standard_normal((3, 256)), np.array([255, 3, 255], np.uint8), ignore_index=-1)
    many = case(rng.standard_normal((70, 700)), rng.integers(600, 700, 70))
    return [*[case(x, t.astype(dtype)) for dtype in (np.uint8, np.int8, np.int32, np.uint16, np.uint64)], last, many]


def ignored_nan(rng: np.random.Generator) -> list[Case]:
    """What is not counted may be anything."""
    x = rng.standard_normal((4, 3))
    x[1], x[3, 0] = np.nan, np.inf
    return [case(x, np.array([2, -100, 0, -100]), ignore_index=-100)]


def nan(rng: np.random.Generator) -> list[Case]:
    x = rng.standard_normal((4, 3))
    x[1, 0] = np.nan
    counts = [case(x, np.array([2, 1, 0, 1])), case(x, np.array([2, 1, -1, 1]), ignore_index=-1)]
    return [*ignored_nan(rng), *counts]


def half(rng: np.random.Generator) -> list[Case]:
    return [case(c.args[0].astype(np.float16), c.args[1]) for c in (_case(rng, (5,), 3), _case(rng, (2, 4), 6))]


def ignored(rng: np.random.Generator) -> list[Case]:
    """Targets that do not count: out of range, or a class like any other."""
    a, b = rng.standard_normal((6, 4)), rng.standard_normal((2, 3, 5))
    return [
        case(a, np.array([1, -100, 3, -100, 0, 2]), ignore_index=-100),
        case(b, np.array([[0, 2, 0], [4, 0, 1]]), ignore_index=0),
        case(a, np.array([-1, -1, -1, 2, -1, -1]), ignore_index=-1),
        case(a, np.array([0, 1, 2, 3, 0, 1]), ignore_index=-100),
    ]


def refused(rng: np.random.Generator) -> list[Case]:
    x = rng.standard_normal((3, 4))
    return [
        case(x, np.array([0, 1, 4])),
        case(x, np.array([0, -1, 2])),
        case(x, np.array([0, -100, 2]), ignore_index=-1),
        case(x, np.array([0, -100, 2])),
        case(x, np.array([0.0, 1.0, 2.0])),
        case(x, np.array([False, True, True])),
        case(x, np.array([0, 1])),
        case(x, np.array([0, 2**32, 1])),
        case(rng.standard_normal((2, 3, 4)), np.zeros((3, 2), np.int64)),
        case(x, np.array([7, 7, 7]), ignore_index=7),
        case(rng.standard_normal(5), np.asarray(3), ignore_index=3),
        case(np.zeros((0, 4)), np.zeros(0, np.int64)),
    ]


def _case(rng: np.random.Generator, batch: tuple[int, ...], num_classes: int) -> Case:
    return case(rng.standard_normal((*batch, num_classes)), np.asarray(rng.integers(0, num_classes, batch)))


BY_HAND = one_by_one(case(np.zeros((1, 2)), np.array([1])), case(np.zeros((2, 4)), np.array([0, 3])))
LARGE = "p comes from the shifted logits"
NEXT = "dy (p - onehot) / n in the shape of the logits; a row without a loss has the gradient 0"
CHECKS = (
    Check("the mean loss", 2, typical, "flatten to [n, V]; one loss per row, then the mean"),
    Check("large logits", 3, large, "take each row's maximum off, and never take the logarithm of softmax"),
    Check("ignored targets do not count", 2, ignored, "neither in the sum nor in n"),
    Check("large logits in float32", 1, float32(large), "its exponential overflows at 89, not at 710"),
    Check(
        "targets of any integer type",
        1,
        narrow,
        "index with them; do not compute with them",
        gradient=True,
        finite_differences=False,
    ),
    Check("the loss of float16 is float32", 1, half, "widen the logits first"),
    Check("NaN shows where it counts", 1, nan, "leave the ignored rows out, and no others; 0 · NaN is NaN"),
    Check(
        "gradient beside an ignored NaN",
        1,
        ignored_nan,
        "assign 0 to the ignored rows",
        gradient=True,
        finite_differences=False,
    ),
    Check("refuses what has no loss", 1, refused, "see Raises; NumPy takes x[-1] without an error"),
    Check("gradient", 4, typical, "dy (p - onehot) / n, in the shape of the logits", gradient=True),
    Check("gradient with ignored targets", 2, ignored, "a row without a loss has the gradient 0", gradient=True),
    Check("gradient of large logits", 1, large, LARGE, gradient=True, finite_differences=False),
    *standard_checks(ignored, gradient=NEXT),
    Check("the smallest example", 1, BY_HAND, "by hand: ln 2 and ln 4, the loss of a uniform guess"),
)

MISTAKES = edits("""
overflows without shift: e¹⁰⁰⁰ overflows. Take each row's maximum off first; it cancels.
- shifted = x - x.max(axis=1, keepdims=True)
+ shifted = x
log of the softmax: Where the probability rounds to 0 the loss is infinite. Write ln Σ eˣ - x[t] instead.
- np.log(total[:, 0]) - shifted[np.arange(len(target)), target]
+ -np.log((e / total)[np.arange(len(target)), target])
one shift for all: Takes off the maximum of the whole array: rows far below it underflow to 0. Each row needs its own.
- x.max(axis=1, keepdims=True)
+ x.max()
forgets to average: Sums over the targets. The loss is their mean: it must not grow with the batch.
- losses.mean() if self.ignored is None else losses[~self.ignored].mean()
+ losses.sum() if self.ignored is None else losses[~self.ignored].sum()
- grad / self.n
+ grad
averages over ignored: Divides by the number of all targets. n does not count the ignored ones.
- losses.mean() if self.ignored is None else losses[~self.ignored].mean()
+ losses.mean() if self.ignored is None else losses[~self.ignored].sum() / t.size
- self.n = logits.shape, counted.size
+ self.n = logits.shape, t.size
gradient into ignored: Rows whose target is ignored still get a gradient. They had no part in the loss.
- dx[self.ignored] = 0
+ pass
gradient not averaged: dx = g (p - onehot): the 1/n of the mean is missing in backward.
- grad / self.n
+ grad
forgets the target: dx = g p / n is the derivative of ln Σ eˣ alone. The term -x[t] takes 1 off at the target.
- grad[:, None] * difference
+ grad[:, None] * p
the target alone: Only the target's logit gets a gradient. The others are in Σ eˣ too and must be pushed down.
- grad[:, None] * difference
+ np.where(np.arange(p.shape[1]) == target[:, None], grad[:, None] * difference, 0)
sign flipped: dx = g (onehot - p) / n: this pushes the target's logit down.
- grad[:, None] * difference
+ -grad[:, None] * difference
ignores upstream: Leaves out the gradient from above. Even a loss may be scaled before it is summed with others.
- grad / self.n
+ 1 / self.n
loss in bits: Takes logarithms to base 2. The contract says nats: the natural logarithm.
- losses, p = cross_entropy(x, t)
+ losses, p = cross_entropy(x, t); losses /= np.log(2)
lets negative targets wrap: x[-1] is the last class to NumPy: a negative target goes unnoticed.
- counted.min() < 0 or counted.max() >= num_classes
+ counted.max() >= num_classes
nothing is nothing: Returns 0 if no target counts. The mean of nothing has no value; ValueError shows the error at once.
- raise ValueError(f"none of the {targets.size} targets counts (ignore_index={ignore_index})")
+ return np.zeros((), logits.dtype)
clips the probability: log(p + 1e-12) cannot exceed 27.6, however wrong the guess. Write ln Σ eˣ - x[t].
- np.log(total[:, 0]) - shifted[np.arange(len(target)), target]
+ -np.log((e / total)[np.arange(len(target)), target] + e.dtype.type(1e-12))
masks by multiplying: 0 · NaN is NaN: an ignored row that is NaN spoils the mean. Leave it out by indexing.
- losses[~self.ignored].mean()
+ (losses * ~self.ignored).sum() / self.n
masks the gradient by multiplying: 0 · NaN is NaN: an ignored row may be NaN, and its gradient is 0. Assign 0.
- dx[self.ignored] = 0
+ dx *= ~self.ignored[:, None]
indices in the type of the targets: n V does not fit into the uint8 of the targets and wraps around. Index with pairs.
- shifted[np.arange(len(target)), target], e
+ shifted.ravel()[(np.arange(len(target)) * shifted.shape[1] + target).astype(target.dtype)], e
changes what it saved: `p[...] -= 1` writes into the saved probabilities: a second walk subtracts once more. Copy p.
- difference = p.copy()
+ difference = p
compares sizes: Targets of another shape can have as many entries: they would belong to other rows.
- targets.shape != logits.shape[:-1]
+ targets.size != logits[..., 0].size
takes booleans for classes: False and True are no integers. TypeError: they are the answer to another question.
- targets.dtype.kind not in "iu"
+ targets.dtype.kind not in "iub"
loss in half precision: float16 has three digits. The loss is computed in float32, or wider.
- .astype(xp.result_type(logits.dtype, xp.float32), copy=False)
rows in the type of the targets: The row number 300 does not fit into a uint8 and wraps around. Count in int64.
- shifted[np.arange(len(target)), target], e
+ shifted[np.arange(len(target)).astype(target.dtype), target], e
index in the type of the targets: -1 becomes 255 as a uint8, and a class is ignored. Compare the numbers as they are.
- t == ignore_index
+ t == np.asarray(ignore_index).astype(t.dtype)
leaves NaN out: A row that counts and is NaN has no loss, and the mean has none. nanmean hides the error.
- losses.mean() if self.ignored is None else losses[~self.ignored].mean()
+ np.nanmean(losses if self.ignored is None else losses[~self.ignored])
shifts only beyond 700: float32 overflows at 89 already. The shift costs nothing: take it always.
- shifted = x - x.max(axis=1, keepdims=True)
+ shifted = x - x.max(axis=1, keepdims=True) * (abs(x).max(axis=1, keepdims=True) > 700)
ignores -100 unasked: That is a habit of another library. Without ignore_index every target counts.
- self.ignored = None if ignore_index is None else t == ignore_index
+ self.ignored = t == (-100 if ignore_index is None else ignore_index)
a loss has a limit: Cuts a single loss at 10,000. It is as large as the guess was wrong.
- np.log(total[:, 0]) - shifted[np.arange(len(target)), target]
+ np.minimum(np.log(total[:, 0]) - shifted[np.arange(len(target)), target], 10_000)
classes in eight bits: There can be more than 128 classes: int8 wraps around.
- losses, p = cross_entropy(x, t)
+ t = t.astype(np.int8)
+         losses, p = cross_entropy(x, t)
targets as int32: 2³² becomes 0, and a target that is no class goes unnoticed.
- t = targets.reshape(-1)
+ t = targets.reshape(-1).astype(np.int32)
count in the type of the targets: 300 targets do not fit into a uint8, and the mean divides by 44.
- self.n = logits.shape, counted.size
+ self.n = logits.shape, int(np.asarray(counted.size).astype(targets.dtype))
""")
