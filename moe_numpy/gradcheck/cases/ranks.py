"""Functions that move rows between ranks, on one rank."""

import numpy as np

from ...autodiff import Tensor
from ...moe.dispatch_copies import CombineReturned
from ...parallel import Alone, Exchange, Gather, Holding, Placement
from ...parallel.copies import copies_of
from ...parallel.exchange import Route
from ...parallel.overlap import Arrive, Depart, travel
from . import Built, case

TOKEN = np.array([0, 2, 1, 2, 0, 2])
EXPERT = np.array([0, 0, 1, 1, 2, 3])


@case(Depart, Arrive)
def rows_beside_other_work(rng: np.random.Generator) -> Built:
    """Six rows travel while their sum is computed."""
    route = Route(Alone(), [6], [6], np.array([3, 1, 0, 2, 5, 4]), np.array([1, 0, 2, 4, 3, 5]))

    def both(rows: Tensor, x: Tensor) -> Tensor:
        come, squares = travel(rows, route, "rows", x, lambda x: x * x)
        assert squares is not None
        return come * squares

    return both, [rng.standard_normal((6, 3)), rng.standard_normal((6, 3))]


@case(Exchange)
def exchanged_rows(rng: np.random.Generator) -> Built:
    """Six rows, which leave in one order and are wanted in another."""
    route = Route(Alone(), [6], [6], np.array([3, 1, 0, 2, 5, 4]), np.array([1, 0, 2, 4, 3, 5]))
    return lambda rows: Exchange.apply(rows, way=route, kind="rows"), [rng.standard_normal((6, 3))]


@case(Gather)
def gathered_rows(rng: np.random.Generator) -> Built:
    """The rows of all ranks, of which there is one."""
    return lambda x: Gather.apply(x, communicator=Alone(), counts=[5], kind="logits"), [rng.standard_normal((5, 3))]


@case(CombineReturned)
def combine_returned(rng: np.random.Generator) -> Built:
    """Three answers summed into one token, none into another."""
    holding = Holding(Alone(), Placement.even(4, 1), deduplicate="exact")
    copies, _, _ = copies_of(holding, EXPERT, TOKEN, 0, 4)
    return (
        lambda answers, gate: CombineReturned.apply(answers, gate, TOKEN, copies=copies),
        [rng.standard_normal((6, 3)), rng.standard_normal(6)],
    )
