"""Computing while rows are on their way.

Forward, rows leave, something else is computed from x, then the rows are waited for. Backward the same in reverse: the
gradients of the rows leave, then comes the backward pass of what else was computed, then they are waited for. An op
runs backward after all that used its results, so :class:`Depart` passes x through: its gradient comes last.
"""

from collections.abc import Callable
from typing import Any

from array_api_compat import array_namespace

from ..autodiff import Function, Tensor
from ..typing import Array, Float
from .communicator import Pending
from .exchange import Exchange, Way


class Journey:
    """Rows on their way, or their gradients."""

    def __init__(self, way: Way, kind: str):
        self.way, self.kind = way, kind
        self._pending: Pending | None = None

    def leave(self, rows: Any) -> None:
        self._pending = self.way.there(rows, self.kind)

    def turn_back(self, grad: Any) -> None:
        self._pending = self.way.back(grad, f"gradients of {self.kind}")

    def wait(self) -> Any:
        assert self._pending is not None
        rows, self._pending = self._pending.wait(), None
        return rows


class Depart(Function):
    """x stays, rows leave. The second result has no entries: it ties :class:`Arrive` to this."""

    def forward(
        self, x: Float[Array, "*x"], rows: Float[Array, "N d"], *, journey: Journey
    ) -> tuple[Float[Array, "*x"], Float[Array, " 0"]]:
        """Does not wait."""
        self.journey = journey
        journey.leave(rows)
        return x, array_namespace(rows).empty(0, dtype=rows.dtype)

    def backward(self, grad: Float[Array, "*x"], _: Float[Array, " 0"]) -> tuple[Any, Any]:
        """Wait for the gradient of the rows. That of x comes first, as if nothing had been computed meanwhile."""
        return grad, self.journey.wait()


class Arrive(Function):
    """The rows of a journey."""

    def forward(self, departed: Float[Array, " 0"], *, journey: Journey) -> Float[Array, "M d"]:
        """Wait for them."""
        self.save(departed)
        self.journey = journey
        return journey.wait()

    def backward(self, grad: Float[Array, "M d"]) -> Any:
        """Send their gradient back; do not wait."""
        (departed,) = self.saved
        self.journey.turn_back(grad)
        return departed


def travel(
    rows: Float[Tensor, "N d"], way: Way, kind: str, x: Tensor, meanwhile: Callable[[Tensor], Tensor] | None
) -> tuple[Float[Tensor, "M d"], Tensor | None]:
    """What arrives of rows, and what ``meanwhile`` makes of x until then."""
    if meanwhile is None:
        come: Tensor = Exchange.apply(rows, way=way, kind=kind)
        return come, None
    journey = Journey(way, kind)
    x, departed = Depart.apply(x, rows, journey=journey)
    result = meanwhile(x)
    return Arrive.apply(departed, journey=journey), result
