"""Exercise 34: the all-to-all plan."""

from typing import Any

import numpy as np

from exercises.reference.all_to_all import all_to_all_plan

from ..exercise import Case, Check, Exercise, case, one_by_one, strided

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
    """Go through all pairs of devices and look who travels between them."""
    rows = np.zeros((num_devices, num_devices), np.int64)
    between: dict[tuple[int, int], list[int]] = {}
    for i in range(num_devices):
        for j in range(num_devices):
            between[i, j] = [
                n for n in range(len(token)) if device_of_token[token[n]] == i and device_of_expert[expert[n]] == j
            ]
            rows[i, j] = len(between[i, j])
    send = [n for i in range(num_devices) for j in range(num_devices) for n in between[i, j]]
    receive = [n for j in range(num_devices) for i in range(num_devices) for n in between[i, j]]
    return rows, np.array(send, np.int64), np.array(receive, np.int64)


def _assignments(rng: np.random.Generator, tokens: int, experts: int, k: int) -> tuple[Any, Any]:
    """The k experts of each token, token by token."""
    expert = np.concatenate([rng.permutation(experts)[:k] for _ in range(tokens)])
    return np.repeat(np.arange(tokens), k), expert


def even(rng: np.random.Generator) -> list[Case]:
    """Neighbours lie together, and all devices hold as many."""
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
    none = np.zeros(0, np.int64)
    zeros = np.zeros
    return [
        case(token, expert, np.array([0, 0, 0, 2, 2, 2]), np.array([1, 1, 3, 3]), 5),
        case(token, expert, zeros(6, np.int64), np.array([2, 2, 2, 2]), 3),
        case(token, expert, zeros(6, np.int64), zeros(4, np.int64), 1),
        case(none, none, zeros(6, np.int64), zeros(4, np.int64), 2),
    ]


# Wrong solutions


def _ends(token: Any, expert: Any, device_of_token: Any, device_of_expert: Any) -> tuple[Any, Any]:
    return device_of_token[token], device_of_expert[expert]


def rows_transposed(token: Any, expert: Any, device_of_token: Any, device_of_expert: Any, num_devices: int) -> Any:
    """Counts what i receives from j. rows[i, j] is what i sends to j."""
    rows, send, receive = all_to_all_plan(token, expert, device_of_token, device_of_expert, num_devices)
    return rows.T.copy(), send, receive


def leaves_out_what_stays(
    token: Any, expert: Any, device_of_token: Any, device_of_expert: Any, num_devices: int
) -> Any:
    """Sets the diagonal to 0. Rows that stay are part of the buffers: the sizes would not add up to N."""
    rows, send, receive = all_to_all_plan(token, expert, device_of_token, device_of_expert, num_devices)
    return rows * (1 - np.eye(num_devices, dtype=rows.dtype)), send, receive


def one_row_for_each_token(
    token: Any, expert: Any, device_of_token: Any, device_of_expert: Any, num_devices: int
) -> Any:
    """Counts a token once for each device. That saves traffic, but is another plan: here each assignment is a row."""
    rows, send, receive = all_to_all_plan(token, expert, device_of_token, device_of_expert, num_devices)
    _, destination = _ends(token, expert, device_of_token, device_of_expert)
    rows = np.zeros_like(rows)
    for t, j in set(zip(token.tolist(), destination.tolist(), strict=True)):
        rows[device_of_token[t], j] += 1
    return rows, send, receive


def experts_in_blocks(token: Any, expert: Any, device_of_token: Any, device_of_expert: Any, num_devices: int) -> Any:
    """Takes expert // (E / D) for the device. Experts lie where device_of_expert says: popular ones may have moved."""
    blocks = np.arange(len(device_of_expert)) * num_devices // len(device_of_expert)
    return all_to_all_plan(token, expert, device_of_token, blocks, num_devices)


def tokens_in_blocks(token: Any, expert: Any, device_of_token: Any, device_of_expert: Any, num_devices: int) -> Any:
    """Takes token // (T / D) for the device. Tokens lie where device_of_token says."""
    blocks = np.arange(len(device_of_token)) * num_devices // len(device_of_token)
    return all_to_all_plan(token, expert, blocks, device_of_expert, num_devices)


def assignments_for_tokens(
    token: Any, expert: Any, device_of_token: Any, device_of_expert: Any, num_devices: int
) -> Any:
    """Reads device_of_token[n] for assignment n. With k experts there are k assignments of each token: use token[n]."""
    return all_to_all_plan(
        np.arange(len(token)) % len(device_of_token), expert, device_of_token, device_of_expert, num_devices
    )


def sends_by_expert(token: Any, expert: Any, device_of_token: Any, device_of_expert: Any, num_devices: int) -> Any:
    """Sorts the send buffer by expert. That is the order of devices only where neighbours lie together."""
    rows, _, receive = all_to_all_plan(token, expert, device_of_token, device_of_expert, num_devices)
    return rows, np.lexsort((expert, device_of_token[token])), receive


def arrives_as_it_was_sent(
    token: Any, expert: Any, device_of_token: Any, device_of_expert: Any, num_devices: int
) -> Any:
    """Takes the order of sending for that of arriving. The exchange turns (source, destination) round."""
    rows, send, _ = all_to_all_plan(token, expert, device_of_token, device_of_expert, num_devices)
    return rows, send, send.copy()


def arrives_without_sources(
    token: Any, expert: Any, device_of_token: Any, device_of_expert: Any, num_devices: int
) -> Any:
    """Sorts arrivals by destination alone. Each source sends one block, and the blocks lie one after the other."""
    rows, send, _ = all_to_all_plan(token, expert, device_of_token, device_of_expert, num_devices)
    return rows, send, np.argsort(device_of_expert[expert], kind="stable")


def arrives_by_position_in_send(
    token: Any, expert: Any, device_of_token: Any, device_of_expert: Any, num_devices: int
) -> Any:
    """Gives positions in the send buffer. What arrives are assignments: send[...] of them is missing."""
    rows, send, _ = all_to_all_plan(token, expert, device_of_token, device_of_expert, num_devices)
    return rows, send, np.argsort(device_of_expert[expert][send], kind="stable")


def sends_in_reverse_within_a_pair(
    token: Any, expert: Any, device_of_token: Any, device_of_expert: Any, num_devices: int
) -> Any:
    """Between two devices the last comes first: an unstable sort, or one of reversed keys."""
    n = len(token)
    rows, send, receive = all_to_all_plan(token[::-1], expert[::-1], device_of_token, device_of_expert, num_devices)
    return rows, n - 1 - send, n - 1 - receive


CHECKS = (
    Check("neighbours lie together", 4, even, "two devices for each assignment: where from, and where to"),
    Check("experts and tokens lie anywhere", 4, scattered, "look devices up; do not compute them from the index"),
    Check("idle devices, one device, no rows", 2, lonely, "rows is [D, D], whatever occurs"),
    Check("arrays with gaps", 1, strided(scattered), "do not rely on the order in memory"),
    Check(
        "a plan by hand",
        1,
        one_by_one(
            case(np.array([0, 0, 1, 1]), np.array([1, 0, 0, 1]), np.array([0, 1]), np.array([1, 0]), 2),
            case(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([1, 0]), np.array([0, 1]), 2),
        ),
        "write down source and destination of each assignment, then sort by hand",
    ),
)

MISTAKES = (
    rows_transposed,
    leaves_out_what_stays,
    one_row_for_each_token,
    experts_in_blocks,
    tokens_in_blocks,
    assignments_for_tokens,
    sends_by_expert,
    arrives_as_it_was_sent,
    arrives_without_sources,
    arrives_by_position_in_send,
    sends_in_reverse_within_a_pair,
)
