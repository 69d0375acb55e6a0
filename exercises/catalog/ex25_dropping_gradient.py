"""Exercise 25: dropping, forward and backward."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=25,
    name="dropping_gradient",
    title="Dropping, forward and backward",
    teaches="A dropped assignment changed nothing, so its gate weight gets a gradient of exactly zero.",
    difficulty=1,
    minutes=10,
    needs=(24,),
    target="moe_numpy.moe.capacity:KeepAssignments",
    hints=(
        "Forward is one indexing. For backward: which entry of gate does entry n of the result depend on?",
        "Start from zeros, one per candidate: forward must remember how many there were, and `kept`.",
        "dgate = np.zeros(self.num_candidates, grad.dtype); dgate[kept] = grad; return dgate, None. No index occurs "
        "twice, so there is nothing to add up.",
    ),
)


def specification(gate: Any, kept: Any) -> Any:
    out = np.zeros(len(kept), gate.dtype)
    for n, m in enumerate(kept):
        out[n] = gate[m]
    return out


def _keeping(rng: np.random.Generator, candidates: int, kept: int) -> Case:
    return case(rng.random(candidates) + 0.1, rng.permutation(candidates)[:kept])


def typical(rng: np.random.Generator) -> list[Case]:
    """Some are dropped, and the rest are in the order of experts, not of the list."""
    return [_keeping(rng, m, n) for m, n in [(8, 5), (7, 1), (12, 11), (9, 4), (8, 5)]]


def zeros_and_ties(rng: np.random.Generator) -> list[Case]:
    """Weights that are 0, and equal ones."""
    return [case(np.array([0.0, 0.5, 0.0, 0.5, 0.25]), np.array([3, 0, 2])), case(np.zeros(4), np.array([2, 1]))]


def narrow(rng: np.random.Generator) -> list[Case]:
    return [case(rng.random(300), rng.permutation(300)[:250].astype(t)) for t in (np.uint16, np.int32)]


def all_kept(rng: np.random.Generator) -> list[Case]:
    """Nobody is dropped; only the order changes."""
    return [_keeping(rng, 6, 6), _keeping(rng, 1, 1), case(rng.random(4), np.array([2, 0, 3, 1]))]


def none_kept(rng: np.random.Generator) -> list[Case]:
    """All are dropped, or there were no candidates."""
    return [_keeping(rng, 5, 0), _keeping(rng, 0, 0)]


def any_weights(rng: np.random.Generator) -> list[Case]:
    """Infinite and missing ones; more than 32,767; an infinite upstream gradient."""
    nan, inf = np.nan, np.inf
    return [
        case(np.array([nan, 0.5, inf, 0.25]), np.array([3, 1])),
        case(np.array([nan, 0.5, inf, 0.25]), np.array([2, 0, 1])),
        case(np.array([0.5, 0.25, 0.75]), np.array([2, 0])).upstream(np.array([inf, 1.0])),
        case(np.array([0.5, 2.5, -3.5]), np.array([2, 1])).upstream(np.array([1e-9, 2e-9])),
        case(np.array([3e-9, 2e-9, 1e-9]), np.array([2, 1])),
        case(rng.random(70_000), np.append(rng.permutation(65_536)[:300], 69_999)),
    ]


KNOWN = one_by_one(case(np.array([0.1, 0.2, 0.3, 0.4]), np.array([3, 1])))
NEXT = "g'_n came from g[kept_n]: give its gradient back there, and 0 to everybody else"
CHECKS = (
    Check("forward", 2, typical, "entry n of the result is the weight that kept[n] names"),
    Check("gradient", 4, typical, NEXT, gradient=True),
    Check("gradient when nobody is dropped", 1, all_kept, NEXT, gradient=True),
    Check("gradient when everybody is dropped", 1, none_kept, "all zeros, one per candidate", gradient=True),
    Check("gradient of zero and equal weights", 1, zeros_and_ties, "only `kept` says what was kept", gradient=True),
    Check("indices of any integer type", 1, narrow, "index with them; do not compute with them", gradient=True),
    Check(
        "weights of any kind and number",
        1,
        any_weights,
        "only select: a product with 0 is NaN where a weight is infinite",
        gradient=True,
        finite_differences=False,
    ),
    *standard_checks(typical, gradient=NEXT),
    Check("known values", 1, KNOWN, "keep candidate 3, then candidate 1: 0.4, 0.2"),
)

MISTAKES = edits("""
keeps the order of the list: Sorts `kept`, as a boolean mask would. `kept` is the order in which the experts take them.
- self.save(kept)
+ kept = np.sort(kept); self.save(kept)
zeroes instead of removing: Returns M weights, 0 where dropped. A dropped assignment leaves the list: N come out.
- take_rows(gate, kept)
+ scatter(gate[kept], kept, len(gate))
renormalizes what is left: Scales the kept weights up to the old sum. Renormalising is a step of its own.
- return take_rows(gate, kept)
+ y = take_rows(gate, kept); return y * (gate.sum() / y.sum())
takes the first: Takes the first N weights without looking at `kept`.
- take_rows(gate, kept)
+ gate[: len(kept)]
computes in float64: Returns float64 for float32 weights, and everything after it becomes float64 too.
- take_rows(gate, kept)
+ take_rows(gate.astype(np.float64), kept)
gradient of the kept only: Returns one gradient per kept weight. The gradient has the input's shape, 0 where dropped.
- return scatter(grad, kept, self.num_candidates)
+ return grad
gradient in the order of the list: Entry n belongs to candidate kept[n], not to the n-th smallest of `kept`.
- scatter(grad, kept, self.num_candidates)
+ scatter(grad, np.sort(kept), self.num_candidates)
gradient of the first: Puts the gradients into the first N places, with zeros behind. Entry n belongs to kept[n].
- scatter(grad, kept, self.num_candidates)
+ np.concatenate([grad, np.zeros(self.num_candidates - len(grad), grad.dtype)])
dropped weights learn too: Gives a dropped weight the mean of the others. It changed nothing: its derivative is 0.
- np.zeros(size, values.dtype)
+ np.full(size, values.mean(), values.dtype)
dropped weights are nan: Leaves the gradient of a dropped weight undefined. The optimizer reads it: it must be 0.
- np.zeros(size, values.dtype)
+ np.full(size, np.nan, values.dtype)
reads instead of writing: grad[kept] is the forward pass once more. Backward goes the other way: dg[kept_n] = grad_n.
- return scatter(grad, kept, self.num_candidates)
+ return take_rows(grad, kept)
finds the dropped by their value: A kept weight may be 0, and two weights may be equal. Only `kept` tells.
- return scatter(grad, kept, self.num_candidates), None
+ d = scatter(grad, kept, self.num_candidates); return np.where(self.gate != 0, d, 0).astype(d.dtype), None
- self.save(kept)
+ self.save(kept); self.gate = gate
finds places by value: Looks each weight up by its value: of two equal ones it takes the first.
- return scatter(grad, kept, self.num_candidates), None
+ first = np.array([np.argmax(self.gate == v) for v in self.gate[kept]], np.int64)
+         return scatter(grad, first, self.num_candidates), None
- self.save(kept)
+ self.save(kept); self.gate = gate
keeps the list on the class: The next call overwrites it before this one runs backward. Use self.save.
- self.save(kept)
+ type(self).kept = kept
- (kept,) = self.saved
+ kept = self.kept
multiplies with a matrix: 0 · ∞ is NaN: a weight that was dropped must not be seen in what is kept.
- return take_rows(gate, kept)
+ return (kept[:, None] == np.arange(len(gate))).astype(gate.dtype) @ gate
gradient by a matrix: 0 · ∞ is NaN: an infinite gradient of one weight must leave the others at 0.
- scatter(grad, kept, self.num_candidates)
+ grad @ (kept[:, None] == np.arange(self.num_candidates)).astype(grad.dtype)
replaces what is missing: Selecting changes no value. NaN must stay visible.
- return take_rows(gate, kept)
+ return np.nan_to_num(take_rows(gate, kept))
indices in sixteen bits: There may be more than 65,536 candidates.
- self.save(kept)
+ self.save(kept % 65_536)
a gradient for the indices: `kept` is no function of anything: its gradient is None, not zeros.
- self.num_candidates), None
+ self.num_candidates), np.zeros(kept.shape)
""")
