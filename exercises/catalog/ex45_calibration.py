"""Exercise 45: does a router know how sure it may be?"""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=45,
    name="calibration",
    title="Calibration of a query router",
    teaches="A threshold for abstaining means something only if 70 % of the answers given with p = 0.7 are right.",
    difficulty=1,
    minutes=15,
    target="moe_numpy.orchestration.calibration:expected_calibration_error",
    hints=(
        "Which bin does a confidence fall into? Multiply by B. Bins are open on the left.",
        "bin = ceil(B · confidence) - 1, and 0 for a confidence of 0. Within a bin, n_b |mean confidence - share "
        "correct| is |Σ confidence - Σ correct|.",
        "gap = np.bincount(bin, confidence - correct, B); the error is np.abs(gap).sum() / n, as a Python float.",
    ),
)


def specification(confidence: Any, correct: Any, bins: int = 15) -> float:
    """Bin by bin, by looking at every answer."""
    n = len(correct)
    if len(confidence) != n or n == 0:
        raise ValueError("nothing to count")
    total = 0.0
    for b in range(bins):
        mine = [i for i in range(n) if b < confidence[i] * bins <= b + 1 or (b == 0 and confidence[i] == 0)]
        if mine:
            mean = sum(float(confidence[i]) for i in mine) / len(mine)
            total += len(mine) / n * abs(mean - sum(int(correct[i]) for i in mine) / len(mine))
    return total


def judged(solution: Any, confidence: Any, correct: Any, **settings: Any) -> Any:
    """Call, and look at the type: a float, of NumPy too, which reports and JSON take as it is.

    Raises:
        TypeError: it is something else.
    """
    error = solution(confidence, correct, **settings)
    if not isinstance(error, float):
        raise TypeError(f"returned a {type(error).__name__}, expected a float")
    return np.array([error])


def _answers(rng: np.random.Generator, n: int, sharpness: float = 1.0) -> tuple[Any, Any]:
    """Confidences, and answers that are right less often than these say where ``sharpness`` is above 1."""
    confidence = rng.uniform(0.2, 1, n)
    return confidence, (rng.random(n) < confidence**sharpness).astype(np.int64)


def typical(rng: np.random.Generator) -> list[Case]:
    return [case(*_answers(rng, n, s)) for n, s in ((200, 1), (150, 3), (300, 0.3), (40, 2), (1, 1))]


def numbers_of_bins(rng: np.random.Generator) -> list[Case]:
    """One bin, few, and more than 255."""
    cases = [case(*_answers(rng, n, 2), bins=b) for n, b in ((100, 10), (100, 1), (60, 4), (30, 100))]
    return [*cases, case(rng.random(900), rng.integers(0, 2, 900), bins=300)]


def edges(rng: np.random.Generator) -> list[Case]:
    """Confidences on the edges of bins, where float64 is exact; 0 and 1 among them."""
    cases = []
    for bins in (4, 8, 16):
        confidence = rng.permutation(np.repeat(np.arange(bins + 1) / bins, 3))
        cases.append(case(confidence, rng.integers(0, 2, len(confidence)), bins=bins))
    near = np.array([0.25, np.nextafter(0.25, 1), np.nextafter(0.25, 0), 0.5, 0.75])
    return [*cases, case(near, np.array([1, 0, 1, 0, 1]), bins=4), case(np.zeros(3), np.array([0, 1, 0]), bins=4)]


def canceling(rng: np.random.Generator) -> list[Case]:
    """Bins that are too sure beside bins that are not sure enough; and both within one bin, where they make up."""
    between = np.array([0.9, 0.9, 0.3, 0.3])
    within = np.array([0.80, 0.84, 0.81, 0.83])
    return [
        case(between, np.array([0, 0, 1, 1])),
        case(within, np.array([1, 0, 1, 1]), bins=5),
        case(np.tile(between, 3), np.array([1, 0, 1, 1] * 3), bins=2),
    ]


def lopsided(rng: np.random.Generator) -> list[Case]:
    """A crowded bin beside lonely ones."""
    confidence = np.concatenate([np.full(97, 0.95), [0.11, 0.35, 0.52]])
    return [case(rng.permutation(confidence), rng.integers(0, 2, 100)), case(np.full(50, 0.62), rng.integers(0, 2, 50))]


def sure(rng: np.random.Generator) -> list[Case]:
    """Everything certain: all right, all wrong, half of them; and a router that knows nothing."""
    half = np.arange(10) % 2
    return [
        *(case(np.ones(10), answers) for answers in (np.ones(10, np.int64), np.zeros(10, np.int64), half)),
        case(np.full(8, 0.5), np.array([1, 0] * 4)),
        case(rng.uniform(0.97, 1, 300), np.ones(300, np.int64)),
    ]


WRONG = one_by_one(
    case(np.zeros(0), np.zeros(0, np.int64)),
    case(np.ones(3), np.ones(2, np.int64)),
    case(np.ones(1), np.ones(4, np.int64)),
    case(np.ones(4), np.ones(1, np.int64)),
    case(np.ones(2), np.zeros(0, np.int64)),
)
BY_HAND = one_by_one(case(np.array([0.75, 1.0, 0.25, 0.5]), np.array([1, 0, 0, 1]), bins=2))
CHECKS = (
    Check(
        "a bin's confidence against its share",
        4,
        typical,
        "n_b / n times |mean confidence - share correct|",
        run=judged,
    ),
    Check("any number of bins", 2, numbers_of_bins, "B bins between 0 and 1, most of them perhaps empty", run=judged),
    Check(
        "on the edge of a bin",
        2,
        edges,
        "bins are open on the left and closed on the right; 0 is in the first",
        run=judged,
    ),
    Check(
        "mistakes of different bins do not cancel",
        2,
        canceling,
        "the absolute value of each bin, then the sum",
        run=judged,
    ),
    Check("bins weigh by what they hold", 1, lopsided, "n_b / n, not 1 / B", run=judged),
    Check("certain, and without a clue", 1, sure, "an error of 0 is possible, and one of 1", run=judged),
    *standard_checks(typical, floats=False, run=judged),
    Check("nothing to count", 1, WRONG, "ValueError for empty lists, and for lists that differ in length", run=judged),
    Check(
        "known values", 1, BY_HAND, "gaps of 0.25 - 0 and 0.5 - 1 add to -0.25; 0.75 - 1 and 1 - 0 to 0.75", run=judged
    ),
)

MISTAKES = edits("""
mean of all: Compares the mean confidence with the accuracy. Too sure here and too unsure there then cancel.
- np.abs(gap).sum()
+ np.abs(gap.sum())
squares: Adds squares of gaps. The published error adds absolute values.
- np.abs(gap).sum() / len(correct)
+ (gap**2).sum() / len(correct) ** 2
the largest gap: That is the maximum calibration error. Asked for is the mean over all answers.
- np.abs(gap).sum() / len(correct)
+ (np.abs(gap) / np.maximum(np.bincount(bin_of, minlength=bins), 1)).max()
bins weigh the same: Averages over bins. A bin with one answer then counts as much as one with a hundred.
- np.abs(gap).sum() / len(correct)
+ (np.abs(gap) / np.maximum(np.bincount(bin_of, minlength=bins), 1)).sum() / bins
averages over bins in use: Averages over bins that are not empty. Bins weigh by how many answers they hold.
- np.abs(gap).sum() / len(correct)
+ (np.abs(gap) / np.maximum(np.bincount(bin_of, minlength=bins), 1)).sum() / len(np.unique(bin_of))
answer by answer: Adds |confidence - correct| of single answers: a router with p = 0.7 could not be calibrated.
- np.bincount(bin_of, confidence - correct, bins)
+ np.abs(confidence - correct)
not divided: Forgets to divide by the number of answers.
- np.abs(gap).sum() / len(correct)
+ np.abs(gap).sum()
divides by the bins: Divides by B. It is a mean over answers.
- np.abs(gap).sum() / len(correct)
+ np.abs(gap).sum() / bins
rounds down: Puts an edge into the bin above it. Bins are open on the left.
- np.ceil(confidence * bins).astype(int) - 1
+ np.floor(confidence * bins).astype(int)
rounds: Takes the nearest edge for the bin.
- np.ceil(confidence * bins).astype(int) - 1
+ np.rint(confidence * bins).astype(int)
middle of the bin: Takes the middle of the bin for its confidence, not the mean of what it holds.
- confidence - correct
+ (bin_of + 0.5) / bins - correct
bins of equal count: Sorts the answers into bins of equally many. Asked for are bins of equal width.
- np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
+ np.argsort(np.argsort(confidence, kind="stable")) * bins // len(confidence)
always fifteen: Ignores `bins`.
- gap = np.bincount(bin_of, confidence - correct, bins)
+ gap = np.bincount(np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14), confidence - correct, 15)
between the extremes: Stretches the bins from the smallest to the largest confidence. They go from 0 to 1.
- np.ceil(confidence * bins)
+ np.ceil((confidence - confidence.min()) / max(np.ptp(confidence), 1e-300) * bins)
error rate: Compares with the share that is wrong.
- confidence - correct
+ confidence - (1 - correct)
zero is left out: A confidence of 0 belongs to the first bin, and not to the last, where index -1 leads.
- np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
+ (np.ceil(confidence * bins).astype(int) - 1) % bins
one answer for all: Lets NumPy stretch a list of one answer. Lists of different lengths are no pairs: ValueError.
- len(confidence) != len(correct) or
+ len(correct) not in (1, len(confidence)) or
nothing is perfect: Gives 0 for no answers at all. That is no measurement: ValueError.
- if len(confidence) != len(correct) or len(correct) == 0:
+ if len(correct) == len(confidence) == 0:
+         return 0.0
+     if len(confidence) != len(correct):
""")
