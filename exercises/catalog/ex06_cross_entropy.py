"""Exercise 06: cross-entropy with the log-softmax fused in."""

from typing import Any

import numpy as np

from moe_numpy.ops.losses import CrossEntropy

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

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
        "Subtract m = max(x) from a row: ln Σ eˣ - x[t] does not change. Written this way nothing is ever ln 0.",
        "d ln Σ eˣ / dx_v = p_v, the softmax. And d(-x[t])/dx_v is -1 at v = t, else 0. Do not forget the mean.",
        "x -= rowmax (in a copy); losses = log(exp(x).sum(-1)) - x[arange(n), t]; save p and t. backward: "
        "dx = p g/n, dx[arange(n), t] -= g/n, ignored rows 0; return it in the logits' shape, and None for targets.",
    ),
)


def specification(logits: Any, targets: Any, *, ignore_index: int | None = None) -> Any:
    """Each target that counts: ln Σ e^x minus its own x."""
    num_classes = logits.shape[-1]
    if targets.dtype.kind not in "iu":
        raise TypeError("targets")
    if targets.shape != logits.shape[:-1]:
        raise ValueError("shapes")
    total, n = np.zeros((), np.result_type(logits.dtype, np.float32)), 0
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
    """Not square, leading axes, a single row and a single class."""
    return [_case(rng, s, v) for s, v in [((5,), 3), ((2, 4), 6), ((3,), 7), ((1,), 4), ((3,), 1), ((), 5)]]


def large(rng: np.random.Generator) -> list[Case]:
    """Logits far from 0, far apart, and classes that are masked out."""
    shift = np.array([[1000.0], [-1000.0], [0.0], [500.0]])
    x = rng.standard_normal((4, 5))
    t = np.array([0, 3, 1, 4])
    masked = np.where(np.arange(5) == 2, -np.inf, x)
    return [case(x + shift, t), case(500 * x, t), case(masked, t)]


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
    """What has no loss."""
    x = rng.standard_normal((3, 4))
    return [
        case(x, np.array([0, 1, 4])),
        case(x, np.array([0, -1, 2])),
        case(x, np.array([0, -100, 2]), ignore_index=-1),
        case(x, np.array([0.0, 1.0, 2.0])),
        case(x, np.array([0, 1])),
        case(x, np.array([7, 7, 7]), ignore_index=7),
        case(np.zeros((0, 4)), np.zeros(0, np.int64)),
    ]


def _case(rng: np.random.Generator, batch: tuple[int, ...], num_classes: int) -> Case:
    return case(rng.standard_normal((*batch, num_classes)), np.asarray(rng.integers(0, num_classes, batch)))


# Wrong solutions


def _counted(targets: Any, ignore_index: int | None) -> Any:
    return np.ones(targets.shape, bool) if ignore_index is None else targets != ignore_index


class OverflowsWithoutShift(CrossEntropy):
    """Exponentiates the logits as they are: e¹⁰⁰⁰ overflows. Take each row's maximum off first; it cancels."""

    def forward(self, logits: Any, targets: Any, *, ignore_index: int | None = None) -> Any:
        """Without the shift."""
        super().forward(logits, targets, ignore_index=ignore_index)
        _, t = self.saved
        x = logits.reshape(-1, logits.shape[-1])
        losses = np.log(np.exp(x).sum(axis=-1)) - x[np.arange(len(t)), t]
        return losses[_counted(targets.reshape(-1), ignore_index)].mean()


class LogOfTheSoftmax(CrossEntropy):
    """-ln softmax(x)[t] in two steps. Where the probability rounds to 0 the loss is infinite: use ln Σ eˣ - x[t]."""

    def forward(self, logits: Any, targets: Any, *, ignore_index: int | None = None) -> Any:
        """Not fused."""
        super().forward(logits, targets, ignore_index=ignore_index)
        p, t = self.saved
        losses = -np.log(p[np.arange(len(t)), t])
        return losses[_counted(targets.reshape(-1), ignore_index)].mean()


class OneShiftForAll(CrossEntropy):
    """Takes the maximum of the whole array off: rows far below it underflow to 0. Each row needs its own."""

    def forward(self, logits: Any, targets: Any, *, ignore_index: int | None = None) -> Any:
        """The shift of another row."""
        super().forward(logits, targets, ignore_index=ignore_index)
        _, t = self.saved
        x = logits.reshape(-1, logits.shape[-1])
        x = x - x.max()
        losses = np.log(np.exp(x).sum(axis=-1)) - x[np.arange(len(t)), t]
        return losses[_counted(targets.reshape(-1), ignore_index)].mean()


class ForgetsToAverage(CrossEntropy):
    """Sums over the targets. The loss is their mean: it must not grow with the batch."""

    def forward(self, logits: Any, targets: Any, *, ignore_index: int | None = None) -> Any:
        """A sum."""
        loss = super().forward(logits, targets, ignore_index=ignore_index) * self.n
        self.n = 1
        return loss


class AveragesOverIgnored(CrossEntropy):
    """Divides by the number of all targets. Those that are ignored do not count in n either."""

    def forward(self, logits: Any, targets: Any, *, ignore_index: int | None = None) -> Any:
        """Too large an n."""
        loss = super().forward(logits, targets, ignore_index=ignore_index)
        loss = loss * (self.n / targets.size)
        self.n = targets.size
        return loss


class GradientIntoIgnored(CrossEntropy):
    """Rows whose target is ignored still get a gradient. They had no part in the loss."""

    def backward(self, grad: Any) -> Any:
        """For all rows."""
        p, t = self.saved
        scale = grad / self.n
        dx = p * scale
        dx[np.arange(len(t)), t] -= scale
        return dx.reshape(self.shape), None


class GradientNotAveraged(CrossEntropy):
    """dx = g (p - onehot): the 1/n of the mean is missing in backward."""

    def backward(self, grad: Any) -> Any:
        """n times too large."""
        dx, _ = super().backward(grad)
        return dx * self.n, None


class ForgetsTheTarget(CrossEntropy):
    """dx = g p / n: the derivative of ln Σ eˣ alone. The term -x[t] takes 1 off at the target."""

    def backward(self, grad: Any) -> Any:
        """Without the one-hot."""
        p, _ = self.saved
        dx = p * (grad / self.n)
        if self.ignored is not None:
            dx[self.ignored] = 0
        return dx.reshape(self.shape), None


class TheTargetAlone(CrossEntropy):
    """Only the target's logit gets a gradient. The other logits are in Σ eˣ too and must be pushed down."""

    def backward(self, grad: Any) -> Any:
        """Zero elsewhere."""
        _, t = self.saved
        dx, _ = super().backward(grad)
        only = np.zeros((len(t), self.shape[-1]), dx.dtype)
        rows = np.arange(len(t))
        only[rows, t] = dx.reshape(only.shape)[rows, t]
        return only.reshape(self.shape), None


class SignFlipped(CrossEntropy):
    """dx = g (onehot - p) / n: this pushes the target's logit down."""

    def backward(self, grad: Any) -> Any:
        """Uphill."""
        dx, _ = super().backward(grad)
        return -dx, None


class IgnoresUpstream(CrossEntropy):
    """Backward leaves out the gradient from above. Even a loss may be scaled before it is summed with others."""

    def backward(self, grad: Any) -> Any:
        """As if g were 1."""
        return super().backward(np.ones_like(grad))


class LossInBits(CrossEntropy):
    """Takes logarithms to base 2. The contract says nats: the natural logarithm."""

    def forward(self, logits: Any, targets: Any, *, ignore_index: int | None = None) -> Any:
        """Another unit."""
        loss = super().forward(logits, targets, ignore_index=ignore_index)
        return loss / np.log(np.asarray(2, loss.dtype))


class LetsNegativeTargetsWrap(CrossEntropy):
    """Does not look at the targets: x[-1] is the last class to NumPy, so a wrong target goes unseen."""

    def forward(self, logits: Any, targets: Any, *, ignore_index: int | None = None) -> Any:
        """Python indexing."""
        if targets.dtype.kind in "iu":
            counts = _counted(targets, ignore_index)
            targets = np.where(counts & (targets < 0), targets + logits.shape[-1], targets)
        return super().forward(logits, targets, ignore_index=ignore_index)


class NothingIsNothing(CrossEntropy):
    """Returns 0 if no target counts. The mean of nothing has no value; ValueError shows the mistake at once."""

    def forward(self, logits: Any, targets: Any, *, ignore_index: int | None = None) -> Any:
        """Zero instead of an error."""
        if targets.dtype.kind in "iu" and not _counted(targets, ignore_index).any():
            return np.zeros((), logits.dtype)
        return super().forward(logits, targets, ignore_index=ignore_index)


CHECKS = (
    Check("the mean loss", 2, typical, "flatten to [n, V]; one loss for each row, then the mean"),
    Check("large logits", 3, large, "take each row's maximum off, and never take the logarithm of softmax"),
    Check("ignored targets do not count", 2, ignored, "neither in the sum nor in n"),
    Check("refuses what has no loss", 1, refused, "see Raises; NumPy takes x[-1] without a word"),
    Check("gradient", 4, typical, "g (p - onehot) / n, in the shape of the logits", gradient=True),
    Check("gradient with ignored targets", 2, ignored, "a row without a loss has the gradient 0", gradient=True),
    Check(
        "gradient of large logits",
        1,
        large,
        "p comes from the shifted logits",
        gradient=True,
        finite_differences=False,
    ),
    Check("loss in float32", 1, float32(typical), "float32 in, float32 out"),
    Check("gradient in float32", 1, float32(ignored), "float32 in, float32 out", gradient=True),
    Check("arrays with gaps", 1, strided(ignored), "do not write into the logits", gradient=True),
    Check(
        "knows the smallest example",
        1,
        one_by_one(case(np.zeros((1, 2)), np.array([1])), case(np.zeros((2, 4)), np.array([0, 3]))),
        "by hand: ln 2 and ln 4, the loss of not knowing",
    ),
)

MISTAKES = (
    OverflowsWithoutShift,
    LogOfTheSoftmax,
    OneShiftForAll,
    ForgetsToAverage,
    AveragesOverIgnored,
    GradientIntoIgnored,
    GradientNotAveraged,
    ForgetsTheTarget,
    TheTargetAlone,
    SignFlipped,
    IgnoresUpstream,
    LossInBits,
    LetsNegativeTargetsWrap,
    NothingIsNothing,
)
