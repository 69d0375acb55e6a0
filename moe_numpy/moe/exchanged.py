"""Rows through experts that may be on other ranks."""

from collections.abc import Callable
from typing import Any

from ..autodiff import Tensor
from ..parallel import Exchange, Holding
from ..parallel.overlap import travel
from ..typing import Array, Float, Int


def exchanged(
    rows: Float[Tensor, "N d"],
    expert: Int[Array, " N"],
    token: Int[Array, " N"],
    first_token: int,
    experts: Any,
    holding: Holding,
    x: Tensor | None = None,
    meanwhile: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, "N d"], Tensor | None]:
    """The answers to rows, and what ``meanwhile`` makes of x while they travel.

    Args:
        rows, expert, token: by expert, then by token.
        first_token: see :meth:`Holding.route`.
        experts: those that this rank holds.
        holding: who holds the others.
        x: for ``meanwhile``.
        meanwhile: computed once the rows have left.
    """
    route, offsets, assignments = holding.route(expert, token, first_token)
    come, result = travel(rows, route, "rows", rows if x is None else x, meanwhile)
    answers = experts(come, offsets)
    back: Tensor = Exchange.apply(answers, way=route.reverse, kind="answers")
    gradients = [name for name, tensor in (("rows", rows), ("answers", answers)) if tensor.requires_grad]
    holding.note(rows, gradients, assignments=assignments)
    return back, result
