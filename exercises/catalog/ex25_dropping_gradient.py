"""Exercise 25: dropping, forward and backward."""

from typing import Any

import numpy as np

from moe_numpy.moe.capacity import KeepAssignments

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

EXERCISE = Exercise(
    number=25,
    name="dropping_gradient",
    title="Dropping, forward and backward",
    teaches="A dropped assignment changed nothing, so its gate weight gets a gradient of exactly zero.",
    difficulty=1,
    minutes=10,
    needs=(24,),
    target="moe_numpy.moe.capacity:KeepAssignments",
    imports=("from moe_numpy import kernels",),
    hints=(
        "Forward is one indexing. For backward: which entry of w does entry n of the result depend on?",
        "Start from zeros, one for each candidate: forward must remember how many there were, and `kept`.",
        "dw = np.zeros(self.num_candidates, grad.dtype); dw[kept] = grad; return dw, None. No index occurs twice, so "
        "nothing has to be added up.",
    ),
)


def specification(w: Any, kept: Any) -> Any:
    """Copy one weight after the other."""
    out = np.zeros(len(kept), w.dtype)
    for n, m in enumerate(kept):
        out[n] = w[m]
    return out


def _keeping(rng: np.random.Generator, candidates: int, kept: int) -> Case:
    return case(rng.random(candidates) + 0.1, rng.permutation(candidates)[:kept])


def typical(rng: np.random.Generator) -> list[Case]:
    """Some are dropped, and the rest are in the order of experts, not of the list."""
    return [_keeping(rng, m, n) for m, n in [(8, 5), (7, 1), (12, 11), (9, 4)]]


def all_kept(rng: np.random.Generator) -> list[Case]:
    """Nobody is dropped; only the order changes."""
    return [_keeping(rng, 6, 6), _keeping(rng, 1, 1), case(rng.random(4), np.array([2, 0, 3, 1]))]


def none_kept(rng: np.random.Generator) -> list[Case]:
    """Everybody is dropped, or there was nobody."""
    return [_keeping(rng, 5, 0), case(np.zeros(0), np.zeros(0, np.int64))]


# Wrong solutions


class KeepsTheOrderOfTheList(KeepAssignments):
    """Sorts `kept`, as a boolean mask would. `kept` says in which order the experts take them."""

    def forward(self, w: Any, kept: Any) -> Any:
        """In the order of candidates."""
        return super().forward(w, np.sort(kept))


class ZeroesInsteadOfRemoving(KeepAssignments):
    """Returns M weights with zeros where one was dropped. A dropped assignment leaves the list: N come out."""

    def forward(self, w: Any, kept: Any) -> Any:
        """All of them, some 0."""
        out = np.zeros_like(w)
        out[kept] = super().forward(w, kept)
        return out


class RenormalizesWhatIsLeft(KeepAssignments):
    """Scales the kept weights up to the old sum. Keeping does not weigh: whether to renormalise is another step."""

    def forward(self, w: Any, kept: Any) -> Any:
        """With a factor."""
        y = super().forward(w, kept)
        return y * (w.sum() / y.sum()) if len(kept) else y


class TakesTheFirst(KeepAssignments):
    """Takes the first N weights: w[:N] instead of w[kept]."""

    def forward(self, w: Any, kept: Any) -> Any:
        """Without looking at kept."""
        return super().forward(w, np.arange(len(kept)))


class ComputesInFloat64(KeepAssignments):
    """Returns float64 for float32 weights, and everything behind it becomes float64 too."""

    def forward(self, w: Any, kept: Any) -> Any:
        """Promotes."""
        return super().forward(w.astype(np.float64), kept)


class GradientOfTheKeptOnly(KeepAssignments):
    """Returns one gradient for each kept weight. Every input needs one, of its shape: a dropped weight gets 0."""

    def backward(self, grad: Any) -> Any:
        """As it came."""
        return grad, None


class GradientInTheOrderOfTheList(KeepAssignments):
    """Writes the gradients to sorted places: entry n belongs to candidate kept[n], not to the n-th smallest."""

    def backward(self, grad: Any) -> Any:
        """Through a mask."""
        (kept,) = self.saved
        dw = np.zeros(self.num_candidates, grad.dtype)
        dw[np.sort(kept)] = grad
        return dw, None


class GradientOfTheFirst(KeepAssignments):
    """Puts the gradients into the first N places and zeros behind."""

    def backward(self, grad: Any) -> Any:
        """Padded."""
        return np.concatenate([grad, np.zeros(self.num_candidates - len(grad), grad.dtype)]), None


class DroppedWeightsLearnToo(KeepAssignments):
    """Gives a dropped weight the mean gradient of the others. It changed nothing, so its derivative is 0."""

    def backward(self, grad: Any) -> Any:
        """Means instead of zeros."""
        (kept,) = self.saved
        dw = np.full(self.num_candidates, grad.mean() if len(grad) else 1.0, grad.dtype)
        dw[kept] = grad
        return dw, None


class DroppedWeightsAreNan(KeepAssignments):
    """Leaves the gradient of a dropped weight undefined. The optimizer reads it: it must be 0."""

    def backward(self, grad: Any) -> Any:
        """NaN instead of zeros."""
        (kept,) = self.saved
        dw = np.full(self.num_candidates, np.nan, grad.dtype)
        dw[kept] = grad
        return dw, None


class ReadsInsteadOfWriting(KeepAssignments):
    """dw_n = grad[kept_n], the forward pass once more. Backward goes the other way: dw[kept_n] = grad_n."""

    def backward(self, grad: Any) -> Any:
        """The permutation instead of its inverse."""
        (kept,) = self.saved
        dw = np.zeros(self.num_candidates, grad.dtype)
        if len(grad):
            dw[: len(grad)] = grad[kept % len(grad)]
        return dw, None


NEXT = "w'_n came from w[kept_n]: give its gradient back there, and 0 to everybody else"


CHECKS = (
    Check("forward", 2, typical, "entry n of the result is the weight that kept[n] names"),
    Check("forward in float32", 1, float32(typical), "float32 in, float32 out"),
    Check("gradient", 4, typical, NEXT, gradient=True),
    Check("gradient in float32", 1, float32(typical), NEXT, gradient=True),
    Check("gradient when nobody is dropped", 2, all_kept, NEXT, gradient=True),
    Check("gradient when everybody is dropped", 1, none_kept, "all zeros, one for each candidate", gradient=True),
    Check("gradient of arrays with gaps", 1, strided(typical), NEXT, gradient=True),
    Check(
        "known values",
        1,
        one_by_one(case(np.array([0.1, 0.2, 0.3, 0.4]), np.array([3, 1]))),
        "keep candidate 3, then candidate 1: 0.4, 0.2",
    ),
)

MISTAKES = (
    KeepsTheOrderOfTheList,
    ZeroesInsteadOfRemoving,
    RenormalizesWhatIsLeft,
    TakesTheFirst,
    ComputesInFloat64,
    GradientOfTheKeptOnly,
    GradientInTheOrderOfTheList,
    GradientOfTheFirst,
    DroppedWeightsLearnToo,
    DroppedWeightsAreNan,
    ReadsInsteadOfWriting,
)
