"""Exercise 40: experts on ranks."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=40,
    name="placement",
    title="Placement: experts and their copies on ranks",
    teaches="The slowest rank sets the pace; greedy packing of experts and of copies of busy ones nearly evens it out.",
    difficulty=3,
    minutes=30,
    target="moe_numpy.parallel.packing:packed",
    hints=(
        "A replica of expert e carries load_e / n_e. Go through the experts by descending share, ties by index, and "
        "put n_e replicas, one after the other, on the least loaded rank that may take one.",
        "A rank may take e if it holds fewer than `places` replicas and, with apart, none of e. "
        "np.where(allowed, loads, np.inf).argmin() is the least loaded one, the lowest in a tie.",
        "If none may: full = least loaded without e, roomy = the first with room, other = of what full holds more "
        "often than roomy, the one with the smallest share. Move other from full to roomy, then put e on full.",
    ),
)


def specification(load: Any, counts: Any, num_ranks: int, places: int, *, apart: bool = True) -> Any:
    """With a list of replicas for each rank, whose loads are added up again each time."""
    share = [float(x) / int(n) for x, n in zip(load, counts, strict=True)]
    ranks: list[list[int]] = [[] for _ in range(num_ranks)]

    def weight(r: int) -> float:
        return sum(share[e] for e in ranks[r])

    for e in sorted(range(len(share)), key=lambda e: (-share[e], e)):
        for _ in range(int(counts[e])):
            room = [r for r in range(num_ranks) if len(ranks[r]) < places]
            allowed = [r for r in room if not apart or e not in ranks[r]]
            if not allowed:
                full = min((r for r in range(num_ranks) if e not in ranks[r]), key=lambda r: (weight(r), r))
                roomy = room[0]
                more = [o for o in set(ranks[full]) if ranks[full].count(o) > ranks[roomy].count(o)]
                other = min(more, key=lambda o: (share[o], o))
                ranks[full].remove(other)
                ranks[roomy].append(other)
                allowed = [full]
            ranks[min(allowed, key=lambda r: (weight(r), r))].append(e)
    return np.array([[held.count(e) for e in range(len(share))] for held in ranks]).reshape(num_ranks, len(share))


def one_each(rng: np.random.Generator) -> list[Case]:
    """No copies, and room for everything anywhere."""
    return [case(rng.random(e) + 0.1, np.ones(e, np.int64), r, e) for e, r in ((8, 2), (8, 2), (7, 3), (5, 1), (2, 4))]


def little_room(rng: np.random.Generator) -> list[Case]:
    """A heavy expert, and ranks that are full before they are busy."""
    cases = []
    for e, r, places in ((8, 2, 4), (9, 3, 3), (7, 4, 2), (6, 6, 1)):
        load = rng.random(e) + 0.5
        load[int(rng.integers(e))] *= 20
        cases.append(case(load, np.ones(e, np.int64), r, places))
    return cases


def copied(rng: np.random.Generator) -> list[Case]:
    """Busy experts have replicas, which share their load."""
    cases = []
    for e, r, places, extra in ((6, 3, 3, 3), (6, 3, 3, 3), (5, 2, 4, 2), (4, 5, 2, 6)):
        load, counts = rng.random(e) + 0.2, np.ones(e, np.int64)
        for busy in rng.permutation(e)[:2]:
            load[busy] *= 8
            counts[busy] += min(extra // 2, r - 1)
        cases.append(case(load, counts, r, places))
    return cases


def together(rng: np.random.Generator) -> list[Case]:
    """Replicas of one expert may share a rank."""
    cases = []
    for e, r, places in ((4, 2, 4), (5, 3, 3), (3, 4, 3)):
        load, counts = rng.random(e) + 0.2, np.ones(e, np.int64)
        load[1] *= 10
        counts[1] = r * places - e + 1
        cases.append(case(load, counts, r, places, apart=False))
    return [
        *cases,
        case(np.array([9.0, 4.0, 3.0, 0.5]), np.array([2, 1, 1, 2]), 2, 3, apart=False),
        case(np.array([3.0, 1.0]), np.array([3, 1]), 1, 5, apart=False),
    ]


def no_room_apart(rng: np.random.Generator) -> list[Case]:
    """The last expert has two replicas, and all places that are left are on one rank."""
    cases = []
    for r, places in ((2, 3), (3, 3), (2, 5), (4, 2)):
        singles = r * places - 2
        load = np.concatenate([[0.2 + 0.1 * rng.random()], 1 + 0.1 * rng.random(singles)])
        load[1 + int(rng.integers(singles))] = 100.0
        order = rng.permutation(len(load))
        cases.append(case(load[order], np.where(order == 0, 2, 1), r, places))
    small = 1 + 0.1 * rng.random(6)
    return [
        *cases,
        case(np.concatenate([[1.6], small, [90.0, 80.0]]), np.array([4, 1, 1, 1, 1, 1, 1, 1, 1]), 4, 3),
        case(np.array([0.2, 2.0, 100.0, 1.5, 1.41, 1.3]), np.array([2, 2, 1, 1, 1, 1]), 2, 4),
        case(np.array([0.2, 2.0, 100.0, 1.5, 1.41, 1.3, 1.23]), np.array([2, 2, 1, 1, 1, 1, 1]), 3, 3),
        case(np.concatenate([[0.4, 0.2, 100.0], 1 + 0.1 * rng.random(10)]), np.repeat([2, 1], [2, 11]), 3, 5),
        *several_with_room(rng),
    ]


def several_with_room(rng: np.random.Generator) -> list[Case]:
    """An expert on each of several ranks with room, and on none of the full ones; then one more expert."""
    ones = np.ones(8, np.int64)
    counts, last = np.where(np.arange(8) == 7, 3, ones), np.where(np.arange(8) == 6, 3, ones)
    return [
        case(np.array([57.7, 2.1, 3.6, 3.5, 57.7, 3.8, 44.6, 1.5]), counts, 3, 4),
        case(np.array([3.5, 4.3, 54.5, 67.1, 3.0, 8.3, 7.6, 1.5]), counts, 3, 4),
        case(np.array([2.8, 70.1, 17.7, 22.2, 70.1, 2.3, 1.5, 0.25]), last, 3, 4),
        case(np.array([59.5, 4.5, 83.4, 4.9, 4.3, 1.5]), np.array([1, 1, 1, 1, 1, 3]), 3, 3),
    ]


def ties(rng: np.random.Generator) -> list[Case]:
    """Loads that are equal, exactly: by index everywhere."""
    return [
        case(np.full(8, 0.5), np.ones(8, np.int64), 3, 4),
        case(rng.integers(1, 3, 10).astype(float), np.ones(10, np.int64), 3, 4),
        case(np.array([4.0, 2.0, 1.0, 1.0]), np.array([4, 2, 1, 1]), 4, 2),
        case(np.zeros(5), np.array([1, 2, 1, 1, 1]), 2, 3),
        case(np.array([6, 6, 3, 3, 3]), np.array([2, 2, 1, 1, 1]), 2, 4, apart=False),
        case(np.array([2.0, 1.0, 1.0, 0.5]), np.ones(4, np.int64), 2, 4),
        case(np.array([2.0, 1.0, 1.0, 2.0, 2.0, 4.0, 2.0]), np.array([2, 1, 1, 1, 1, 1, 2]), 3, 3),
        case(np.array([1.0, 1.0, 1.0, 3.0, 2.0]), np.array([1, 1, 1, 1, 2]), 2, 3),
        case(np.array([4.0, 2.0, 1.0, 9.0, 2.0, 2.0, 2.0]), np.array([1, 2, 1, 3, 2, 2, 1]), 3, 4),
    ]


def nearly_equal(rng: np.random.Generator) -> list[Case]:
    """Ranks whose loads differ by less than float32 can tell."""
    tiny = 1e-12
    load = np.array([1 + 2 * tiny, 1 + tiny, 1.0, 0.5, 0.25])
    return [case(x, np.ones(5, np.int64), r, 4) for r in (2, 3) for x in (load, load[::-1].copy())]


def many(rng: np.random.Generator) -> list[Case]:
    return [case(rng.random(60), 1 + (np.arange(60) % 20 == 0), 9, 8)]


EMPTY = one_by_one(case(np.zeros(0), np.zeros(0, np.int64), 3, 2))
BY_HAND = one_by_one(
    case(np.array([8.0, 3.0, 2.0, 1.0]), np.array([2, 1, 1, 1]), 2, 3),
    case(np.array([1.0, 10.0, 2.0, 3.0, 4.0]), np.array([2, 1, 1, 1, 1]), 2, 3),
)
CHECKS = (
    Check("the heaviest first, to the least loaded", 4, one_each, "sort by descending share, then argmin of the loads"),
    Check("full ranks take nothing", 2, little_room, "a rank may take one if it holds fewer than `places`"),
    Check("replicas share the load", 3, copied, "n_e replicas of load_e / n_e, no two of them on one rank"),
    Check("replicas together", 1, together, "apart=False: any rank with room will do"),
    Check(
        "no room but beside another replica", 3, no_room_apart, "move the smallest expert of a full rank out of the way"
    ),
    Check("ties go to the lowest index", 1, ties, "a stable sort, and argmin takes the first"),
    *standard_checks(copied),
    Check("loads that are nearly equal", 1, nearly_equal, "add up in float64, and compare without rounding"),
    Check("many experts", 1, many, "the same rule"),
    Check("no experts", 1, EMPTY, "an array [R, 0]"),
    Check(
        "a placement by hand", 1, BY_HAND, "shares 4, 3, 2, 1: both ranks 4, then 3 on the first and 2 on the second"
    ),
)

MISTAKES = edits("""
in the order of the list: Takes experts as they come. A heavy one that comes last finds all ranks half full.
- np.argsort(-share, kind="stable")
+ np.arange(len(share))
the lightest first: Sorts upwards. Small experts at the end even out what the large ones left; not the reverse.
- np.argsort(-share, kind="stable")
+ np.argsort(share, kind="stable")
by load: Sorts by the load of the expert. What is put on a rank is a replica: load / count.
- np.argsort(-share, kind="stable")
+ np.argsort(-load, kind="stable")
a replica carries everything: Adds load_e for each replica. n_e of them share it.
- share = load / counts
+ share = load / np.ones_like(counts)
fewest experts first: Counts experts for the least loaded rank. Loads count.
- np.where(allowed, loads, np.inf)
+ np.where(allowed, held.sum(axis=1), np.inf)
the most loaded: Takes the fullest rank that has room, as when packing as few bins as possible.
- np.where(allowed, loads, np.inf).argmin()
+ np.where(allowed, loads, -np.inf).argmax()
one place too many: Puts one more on a full rank: `places` is the most that it holds.
- < places
+ <= places
room without limit: Ignores `places`.
- held.sum(axis=1) < places
+ np.ones(num_ranks, bool)
replicas share a rank: With `apart` no rank takes two replicas of one expert: the second would relieve nobody.
- room & (held[:, e] == 0) if apart else room
+ room
always apart: Without `apart` a rank may take two.
- room & (held[:, e] == 0) if apart else room
+ room & (held[:, e] == 0)
one replica each: Puts every expert once, whatever its count.
- range(counts[e])
+ range(1)
loads not kept: Forgets to add what was put: every expert goes to the first rank with room.
- loads[rank] += replicas * share[e]
+ pass
moves the largest: Moves the expert with the largest share out of the way. The smallest disturbs least.
- np.where(held[full] > held[roomy], share, np.inf).argmin()
+ np.where(held[full] > held[roomy], share, -np.inf).argmax()
fullest gives way: Takes the most loaded of the full ranks. The least loaded one takes the replica.
- np.where(held[:, e], np.inf, loads).argmin()
+ np.where(held[:, e], -np.inf, loads).argmax()
the last of equal ranks: Of full ranks with equal loads takes the last. Ties go to the lowest index.
- int(np.where(held[:, e], np.inf, loads).argmin())
+ len(loads) - 1 - int(np.where(held[:, e], np.inf, loads)[::-1].argmin())
the last of equal experts: Gives the last of the experts with the smallest share away. The first goes.
- int(np.where(held[full] > held[roomy], share, np.inf).argmin())
+ len(share) - 1 - int(np.where(held[full] > held[roomy], share, np.inf)[::-1].argmin())
into the emptiest: Gives to the rank with most room. The first rank with room takes it.
- int(room.argmax())
+ int(held.sum(axis=1).argmin())
into the least loaded: Gives to the least loaded rank with room. The first rank with room takes it.
- int(room.argmax())
+ int(np.where(room, loads, np.inf).argmin())
taken in and not counted: Forgets to add the share of what was given to the rank that took it.
- put(other, roomy)
+ held[roomy, other] += 1
crowded ranks first: Of equally loaded ranks takes that with more experts. Ties go to the lowest index.
- np.where(allowed, loads, np.inf).argmin()
+ np.lexsort((-held.sum(axis=1), np.where(allowed, loads, np.inf)))[0]
sorted in float32: Sorts by shares in float32, where two that differ may become equal.
- np.argsort(-share, kind="stable")
+ np.argsort(-share.astype(np.float32), kind="stable")
loads in float32: Adds loads up in float32, where two that differ may become equal.
- loads = np.zeros(num_ranks)
+ loads = np.zeros(num_ranks, np.float32)
given away and still counted: Forgets to take the share of what was given away off the rank's load.
- loads[rank] += replicas * share[e]
+ loads[rank] += max(replicas, 0) * share[e]
nothing gives way: Leaves the replica out if its own kind has taken all the room.
- put(other, full, -1)
+ continue
second beside the first: Where only ranks with the expert have room, puts it there all the same.
- full, roomy = int
+ put(e, int(room.argmax())); continue; full, roomy = int
whether, not how many: Returns booleans. The matrix counts replicas.
- return held
+ return held > 0
""")
