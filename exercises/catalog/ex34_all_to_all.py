"""Exercise 34: the all-to-all plan."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=34,
    name="all_to_all",
    title="The all-to-all plan",
    teaches="Expert parallelism is a sort by device before the exchange, and another one after it.",
    difficulty=2,
    minutes=20,
    needs=(16,),
    target="exercises.reference.all_to_all:all_to_all_plan",
    hints=(
        "source = device_of_token[token] and destination = device_of_expert[expert]: all else follows from these two.",
        "Make one integer of a pair: source * D + destination. Counting it gives rows, a stable sort by it gives send.",
        "rows = np.bincount(source * D + destination, minlength=D * D).reshape(D, D); send is the stable argsort of "
        "the same numbers, receive that of destination * D + source.",
    ),
)


def specification(token: Any, expert: Any, device_of_token: Any, device_of_expert: Any, num_devices: int) -> Any:
    """List the assignments between each pair of devices."""
    devices = range(num_devices)
    between: dict[tuple[int, int], list[int]] = {(i, j): [] for i in devices for j in devices}
    for n, pair in enumerate(zip(device_of_token[token], device_of_expert[expert], strict=True)):
        between[pair].append(n)
    rows = np.array([[len(between[i, j]) for j in devices] for i in devices])
    send = [n for i in devices for j in devices for n in between[i, j]]
    receive = [n for j in devices for i in devices for n in between[i, j]]
    return rows, np.array(send, np.int64), np.array(receive, np.int64)


def _assignments(rng: np.random.Generator, tokens: int, experts: int, k: int) -> tuple[Any, Any]:
    """The k experts of each token, token by token."""
    expert = np.concatenate([rng.permutation(experts)[:k] for _ in range(tokens)])
    return np.repeat(np.arange(tokens), k), expert


def even(rng: np.random.Generator) -> list[Case]:
    """Neighbours lie together, and every device holds the same number."""
    cases = []
    for t, e, k, d in [(12, 8, 2, 4), (6, 4, 1, 2), (9, 6, 3, 3)]:
        cases.append(case(*_assignments(rng, t, e, k), np.arange(t) * d // t, np.arange(e) * d // e, d))
    return cases


def scattered(rng: np.random.Generator) -> list[Case]:
    """Experts and tokens lie anywhere, and the list is in any order."""
    cases = []
    for t, e, k, d in [(12, 8, 2, 4), (15, 5, 2, 3), (10, 6, 4, 5)]:
        token, expert = _assignments(rng, t, e, k)
        order = rng.permutation(t * k)[: t * k - 2]
        cases.append(case(token[order], expert[order], rng.integers(0, d, t), rng.integers(0, d, e), d))
    return cases


def lonely(rng: np.random.Generator) -> list[Case]:
    """Devices without tokens, without experts, with neither; one device; no assignments."""
    token, expert = _assignments(rng, 6, 4, 2)
    none, four, six = (np.zeros(n, np.int64) for n in (0, 4, 6))
    return [
        case(token, expert, np.array([0, 0, 0, 2, 2, 2]), np.array([1, 1, 3, 3]), 5),
        case(token, expert, six, four + 2, 3),
        case(token, expert, six, four, 1),
        case(none, none, six, four, 2),
    ]


def many_rows(rng: np.random.Generator) -> list[Case]:
    """More than 255 between a pair of devices, and more than 65,535, as many tokens."""
    token, expert = _assignments(rng, 900, 4, 2)
    few = rng.random(80_000) < 0.01
    device = np.repeat([1, 0], [79_000, 1_000])
    return [
        case(token, expert, rng.integers(0, 2, 900) * 2, np.array([0, 1, 1, 0]), 3),
        case(np.arange(80_000), few.astype(np.int64), device, np.array([0, 1]), 2),
    ]


def many_devices(rng: np.random.Generator) -> list[Case]:
    """More than 10, 100 and 256, and more pairs than 16 bits can number."""
    cases = []
    for d in (12, 120, 300, 12):
        token, expert = rng.integers(0, 400, (2, 600))
        cases.append(case(token, expert, rng.integers(0, d, 400), rng.integers(0, d, 400), d))
    return cases


BY_HAND = one_by_one(
    case(np.array([0, 0, 1, 1]), np.array([1, 0, 0, 1]), np.array([0, 1]), np.array([1, 0]), 2),
    case(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([1, 0]), np.array([0, 1]), 2),
)
CHECKS = (
    Check("neighbours lie together", 4, even, "two devices per assignment: source and destination"),
    Check("experts and tokens lie anywhere", 4, scattered, "look devices up; do not compute them from the index"),
    Check("idle devices, one device, no rows", 2, lonely, "rows is [D, D] even where devices are idle"),
    Check("many rows", 1, many_rows, "stable sorts; a pair may exchange more than 65,535 rows"),
    Check("many devices", 1, many_devices, "a pair of devices is source · D + destination, in int64"),
    *standard_checks(scattered, floats=False),
    Check("a plan by hand", 1, BY_HAND, "write down source and destination of each assignment, then sort by hand"),
)

MISTAKES = edits("""
rows transposed: Counts what i receives from j. rows[i, j] is what i sends to j.
- .reshape(num_devices, num_devices)
+ .reshape(num_devices, num_devices).T
leaves out what stays: Sets the diagonal to 0. Rows that stay are in the buffers too: the sizes must add up to N.
- return rows, send
+ np.fill_diagonal(rows, 0); return rows, send
one row for each token: Counts a token once per device. That saves traffic, but here each assignment is a row.
- np.bincount(source * num_devices + destination,
+ np.bincount((source * num_devices + destination)[once],
- device_of_expert[expert]
+ device_of_expert[expert]; once = np.unique(token * num_devices + destination, return_index=True)[1]
experts in blocks: Takes expert // (E / D). Experts lie where device_of_expert says: popular ones may have moved.
- device_of_expert[expert]
+ expert * num_devices // len(device_of_expert)
tokens in blocks: Takes token // (T / D) for the device. Tokens lie where device_of_token says.
- device_of_token[token]
+ token * num_devices // len(device_of_token)
assignments for tokens: Reads device_of_token[n] for assignment n. A token has k assignments: use token[n].
- device_of_token[token]
+ device_of_token[np.arange(len(token)) % len(device_of_token)]
sends by expert: Sorts the send buffer by expert. That is the order of devices only where neighbours lie together.
- np.argsort(source * num_devices + destination, kind="stable")
+ np.lexsort((expert, source))
arrives as it was sent: The order of arrival is another: the exchange turns (source, destination) round.
- np.argsort(destination * num_devices + source, kind="stable")
+ send
arrives without sources: Sorts arrivals by destination alone. They come as one block per source, in that order.
- np.argsort(destination * num_devices + source, kind="stable")
+ np.argsort(destination, kind="stable")
arrives by position in send: Gives positions in the send buffer. What arrives are assignments: take send[...] of them.
- np.argsort(destination * num_devices + source, kind="stable")
+ np.argsort(destination[send], kind="stable")
sends in reverse within a pair: Between two devices the last comes first: a sort that is unstable, or reversed.
- np.argsort(source * num_devices + destination, kind="stable")
+ len(token) - 1 - np.argsort((source * num_devices + destination)[::-1], kind="stable")
- np.argsort(destination * num_devices + source, kind="stable")
+ len(token) - 1 - np.argsort((destination * num_devices + source)[::-1], kind="stable")
unstable sort: The default of argsort may exchange rows of one pair of devices.
- send = np.argsort(source * num_devices + destination, kind="stable")
+ send = np.argsort(source * num_devices + destination)
only devices in use: Counts rows between devices that occur: idle ones need a row and a column of zeros.
- return rows, send, receive
+ busy = rows.any(axis=1) | rows.any(axis=0); return rows[busy][:, busy], send, receive
counts in eight bits: A pair of devices may exchange more than 255 rows.
- return rows, send, receive
+ return rows.astype(np.uint8).astype(np.int64), send, receive
inverse of send: Says where each assignment stands in the send buffers. Asked for is what stands there.
- return rows, send, receive
+ return rows, np.argsort(send, kind="stable"), receive
counts in sixteen bits: A pair of devices may exchange more than 65,535 rows.
- return rows, send, receive
+ return rows.astype(np.uint16).astype(np.int64), send, receive
tokens in sixteen bits: There may be more than 65,535 tokens.
- device_of_token[token]
+ device_of_token[token.astype(np.uint16)]
pairs in sixteen bits: 300 devices are 90,000 pairs.
- send = np.argsort(source * num_devices + destination, kind="stable")
+ send = np.argsort((source * num_devices + destination).astype(np.int16), kind="stable")
pairs by hundreds: source · 100 + destination is one pair's number only while there are at most 100 devices.
- send = np.argsort(source * num_devices + destination, kind="stable")
+ send = np.argsort(source * 100 + destination, kind="stable")
pairs by the last destination: With fewer devices in use than there are, the largest + 1 is D only by chance.
- send = np.argsort(source * num_devices + destination, kind="stable")
+ send = np.argsort(source * destination.max(initial=0) + destination, kind="stable")
""")
