"""Exercise 35: an exchange grouped by experts."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from moe_numpy.parallel.exchange import Holding, Route
from moe_numpy.parallel.placement import Placement

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=35,
    name="grouped_exchange",
    title="Grouped exchange: rows to experts on other ranks",
    teaches="Rows arrive by source and are wanted by expert; the same plan read backwards carries the gradients home.",
    difficulty=3,
    minutes=30,
    needs=(16, 34),
    target="moe_numpy.parallel.exchange:Holding.route_of",
    hints=(
        "send: sum of_slots over the slots of each rank, 0 for a rank without slots. receive: sum come over slots. "
        'leaving: np.argsort(slot, kind="stable"). offsets: a cumulative sum over slots of what comes for them.',
        "arriving: number the rows as they come, block (s, w) after block, come[s, w] rows each. List the blocks by w, "
        "within w by s. Label every row with its slot, np.repeat(np.tile(range(W), R), come.reshape(-1)), and sort.",
        "starts = self.slots.offsets; send[r] = of_slots[starts[r] : starts[r + 1]].sum(). arriving is the stable "
        "argsort of the rows' slots; return Route(self.communicator, send, receive, leaving, arriving), offsets.",
    ),
)


def _holding(ranks: Any, num_experts: int, rank: int, home: int = 0) -> Holding:
    communicator: Any = SimpleNamespace(rank=rank, size=len(ranks))
    return Holding(communicator, Placement(tuple(map(tuple, ranks)), num_experts), home)


def route(
    solution: Any, ranks: Any, num_experts: int, rank: int, expert: Any, token: Any, come: Any, home: int = 0
) -> Any:
    """Build what a rank knows, call, and take the route apart; ``home`` experts have a slot on every rank.

    Raises:
        TypeError: no Route of this communicator, or counts that are no lists of integers.
    """
    holding = _holding(ranks, num_experts, rank, home)
    slot = np.asarray(holding.slot_of(expert, token))
    found, offsets = solution(holding, slot, np.bincount(slot, minlength=holding.slots.offsets[-1]), come)
    if not isinstance(found, Route):
        raise TypeError(f"returned a {type(found).__name__}, expected a Route")
    if found.communicator is not holding.communicator:
        raise TypeError("the Route has another communicator than self")
    for name, counts in (("send", found.send), ("receive", found.receive)):
        if type(counts) is not list or any(not isinstance(n, int | np.integer) for n in counts):
            raise TypeError(f"{name} must be a list of integers, got {counts!r}")
    leaving = np.arange(len(slot)) if found.leaving is None else found.leaving
    arriving = np.arange(int(come.sum())) if found.arriving is None else found.arriving
    return np.array(found.send), np.array(found.receive), leaving, arriving, offsets


def there_and_back(solution: Any, ranks: Any, num_experts: int, assignments: Any, rows: Any) -> Any:
    """All ranks together: what the experts of each get; and what comes back, doubled, by the reverse routes."""
    size, holdings = len(ranks), [_holding(ranks, num_experts, r) for r in range(len(ranks))]
    num_slots = int(holdings[0].slots.offsets[-1])
    slots = [np.asarray(h.slot_of(e, t)) for h, (e, t) in zip(holdings, assignments, strict=True)]
    counts = np.array([np.bincount(slot, minlength=num_slots) for slot in slots]).reshape(size, num_slots)
    starts = holdings[0].slots.offsets
    routes = [solution(h, slots[r], counts[r], counts[:, starts[r] : starts[r + 1]])[0] for r, h in enumerate(holdings)]
    come = _carried(routes, rows)
    return *come, *_carried([one.reverse for one in routes], [2 * x for x in come])


def _carried(routes: Any, rows: Any) -> list[Any]:
    """The exchange itself: blocks from each rank to each."""
    size, boxes = len(routes), []
    for one, mine in zip(routes, rows, strict=True):
        ordered = mine if one.leaving is None else mine[one.leaving]
        boxes.append(np.split(ordered, np.cumsum(one.send)[:-1]))
    come = [np.concatenate([boxes[s][r] for s in range(size)]) for r in range(size)]
    return [c if one.arriving is None else c[one.arriving] for one, c in zip(routes, come, strict=True)]


def specification(self: Any, slot: Any, of_slots: Any, come: Any) -> Any:
    """With lists of what each slot sends and gets."""
    starts, size = self.slots.offsets, self.communicator.size
    send = [sum(int(n) for n in of_slots[starts[r] : starts[r + 1]]) for r in range(size)]
    receive = [sum(int(n) for n in row) for row in come]
    leaving = [n for s in range(len(of_slots)) for n in range(len(slot)) if slot[n] == s]
    wanted: list[list[int]] = [[] for _ in range(come.shape[1])]
    number = 0
    for row in come:
        for w, n in enumerate(row):
            wanted[w] += range(number, number + int(n))
            number += int(n)
    offsets = [sum(len(rows) for rows in wanted[:w]) for w in range(len(wanted) + 1)]
    arriving = np.array([n for rows in wanted for n in rows], np.int64)
    return Route(self.communicator, send, receive, np.array(leaving, np.int64), arriving), np.array(offsets)


EVEN = [[0, 1], [2, 3], [4, 5]]
SCATTERED = [[1, 4], [0, 3, 5], [2]]
COPIES = [[0, 2], [0, 1, 3], [2, 3]]


def _case(rng: np.random.Generator, ranks: Any, experts: int, rank: int, n: int, most: int = 4) -> Case:
    expert = np.sort(rng.integers(0, experts, n))
    return case(
        ranks, experts, rank, expert, rng.integers(0, 40, n), rng.integers(0, most, (len(ranks), len(ranks[rank])))
    )


def even(rng: np.random.Generator) -> list[Case]:
    """Experts in equal shares, in order."""
    sizes = ((EVEN, 6, 1), (EVEN, 6, 2), ([[0, 1, 2, 3], [4, 5, 6, 7]], 8, 0), ([[0], [1], [2], [3]], 4, 3))
    return [_case(rng, ranks, experts, rank, 14) for ranks, experts, rank in sizes]


def scattered(rng: np.random.Generator) -> list[Case]:
    """Experts anywhere, unequal shares, experts on several ranks, and on every rank."""
    cases = [_case(rng, ranks, e, rank, 25) for ranks, e in ((SCATTERED, 6), (COPIES, 4)) for rank in range(3)]
    for ranks, home, rank in ((SCATTERED, 2, 1), (EVEN, 1, 0)):
        expert, width = np.sort(rng.integers(0, 6 + home, 15)), len(ranks[rank]) + home
        come = rng.integers(0, 4, (3, width))
        cases.append(case(ranks, 6, rank, expert, rng.integers(0, 40, 15), come, home=home))
    return cases


def without_experts(rng: np.random.Generator) -> list[Case]:
    """Ranks that hold nothing, at the beginning, in the middle and at the end."""
    cases = []
    for ranks in ([[], [0, 1, 2]], [[0, 2], [], [1]], [[0], [1, 2], []], [[], [0, 1, 2], [], []]):
        cases += [_case(rng, ranks, 3, rank, 9) for rank in range(len(ranks))][:3]
    return cases


def silence(rng: np.random.Generator) -> list[Case]:
    """No assignments, or nothing comes, or both; one rank alone."""
    none = np.zeros(0, np.int64)
    expert, token = np.sort(rng.integers(0, 6, 8)), rng.integers(0, 9, 8)
    return [
        case(EVEN, 6, 0, none, none, np.zeros((3, 2), np.int64)),
        case(EVEN, 6, 0, none, none, np.array([[0, 2], [3, 0], [0, 0]])),
        case(SCATTERED, 6, 1, expert, token, np.zeros((3, 3), np.int64)),
        case([[0, 1, 2, 3, 4, 5]], 6, 0, expert, token, np.array([[1, 0, 3, 1, 0, 3]])),
    ]


def journeys(rng: np.random.Generator) -> list[Case]:
    """Every rank sends rows to every other, and gets them back."""
    cases = []
    for ranks, experts in ((EVEN, 6), (SCATTERED, 6), (COPIES, 4), ([[0], [], [1, 2]], 3)):
        assignments, rows = [], []
        for _ in ranks:
            n = int(rng.integers(3, 9))
            assignments.append((np.sort(rng.integers(0, experts, n)), rng.integers(0, 20, n)))
            rows.append(rng.standard_normal((n, 2)))
        cases.append(case(ranks, experts, assignments, rows))
    return cases


def many(rng: np.random.Generator) -> list[Case]:
    """More rows than 8 bits can number, and than 16."""
    return [_case(rng, SCATTERED, 6, 1, 500, 300), _case(rng, EVEN, 6, 1, 9, 30_000)]


BY_HAND = one_by_one(
    case([[0, 1], [2]], 3, 0, np.array([0, 1, 2]), np.array([5, 5, 5]), np.array([[1, 1], [2, 1]])),
    case([[1], [0]], 2, 0, np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([[1], [2]])),
)
CHECKS = (
    Check("experts in order", 3, even, "rows to a rank: the sum over its slots", run=route),
    Check(
        "experts anywhere", 4, scattered, "rows leave by slot; they come by source and are wanted by slot", run=route
    ),
    Check("ranks without experts", 2, without_experts, "nothing is sent to a rank that has no slots", run=route),
    Check("nothing to send, nothing to get", 1, silence, "empty arrays of integers, and offsets of zeros", run=route),
    Check("there and back", 3, journeys, "run it on paper for two ranks: each row must come home", run=there_and_back),
    Check("many rows", 1, many, "count in int64", run=route),
    *standard_checks(scattered, floats=False, run=route),
    Check(
        "a route by hand",
        1,
        BY_HAND,
        "blocks of 1, 1, 2, 1 rows come; wanted are the first and third together",
        run=route,
    ),
)

MISTAKES = edits("""
as they come: Leaves rows in the order of arrival. They come by source; an expert needs its rows side by side.
- _by_column(come)
+ np.arange(come.sum())
the inverse: Says where each row goes. Asked for is which row stands at each place.
- _by_column(come)
+ np.argsort(_by_column(come), kind="stable")
leaves unsorted: Sends assignments in the order of the list. Rows of one rank must lie together, by slot.
- stable_order(slot, len(of_slots))
+ np.arange(len(slot))
leaves by place: Says where each assignment goes in the buffer. Asked for are the assignments in their order.
- stable_order(slot, len(of_slots))
+ np.argsort(np.argsort(slot, kind="stable"), kind="stable")
last first within a slot: A sort that is not stable, or reversed: rows of one slot keep the order of the list.
- stable_order(slot, len(of_slots))
+ len(slot) - 1 - np.argsort(slot[::-1], kind="stable")
counts slots for ranks: Sends of_slots[r] to rank r. A rank may have several slots, or none.
- send.tolist()
+ np.resize(of_slots, len(starts) - 1).tolist()
sends by expert: Deals slots out evenly. Ranks have the slots of self.slots.offsets.
- np.diff(starts) > 0)
+ np.diff(starts) > 0); send = np.array([part.sum() for part in np.array_split(of_slots, len(starts) - 1)])
sends to ranks without slots: `reduceat` gives the next entry where a part is empty.
- * (np.diff(starts) > 0)
+ * 1
receives for slots: Sums over sources. `receive` is what comes from each rank.
- come.sum(axis=1).tolist()
+ np.resize(come.sum(axis=0), len(come)).tolist()
receives what it sends: What comes from a rank is not what goes there.
- send.tolist(), come.sum(axis=1).tolist()
+ send.tolist(), send.tolist()
send and receive exchanged: The route is that of rows; on the way back they change places by themselves.
- send.tolist(), come.sum(axis=1).tolist()
+ come.sum(axis=1).tolist(), send.tolist()
offsets of sources: Offsets by rank. Experts need those of their slots.
- come.sum(axis=0)))
+ come.sum(axis=1)))
offsets of what leaves: Counts this rank's own assignments. Rows come from all ranks.
- np.cumsum(come.sum(axis=0))
+ np.cumsum(of_slots[starts[self.communicator.rank] : starts[self.communicator.rank + 1]])
offsets without a zero: Begins with the end of the first slot. W + 1 numbers, the first of them 0.
- np.append(0, np.cumsum(come.sum(axis=0)))
+ np.cumsum(come.sum(axis=0))
last source first: Within a slot rows are wanted by source, the first rank first.
- _by_column(come)
+ (lambda s, w: np.lexsort((-s, w)))(*(np.repeat(i.reshape(-1), come.reshape(-1)) for i in np.indices(come.shape)))
leaves out its own: Sends nothing to itself. A row that stays takes the same way.
- return Route
+ send = send.copy(); send[self.communicator.rank] = 0; return Route
without a communicator: Leaves the ranks out of the Route, which then leads nowhere: self.communicator.
- Route(self.communicator,
+ Route(None,
placed experts only: Counts the experts of the placement. Experts at home have slots, too: self.slots.
- array_namespace(slot), self.slots.offsets
+ array_namespace(slot), self.placement.offsets
counts in sixteen bits: More than 32,767 rows may come.
- np.cumsum(come.sum(axis=0))
+ np.cumsum(come.sum(axis=0)).astype(np.int16).astype(np.int64)
counts in eight bits: More than 255 rows may come.
- np.cumsum(come.sum(axis=0))
+ np.cumsum(come.sum(axis=0)).astype(np.uint8).astype(np.int64)
""")
