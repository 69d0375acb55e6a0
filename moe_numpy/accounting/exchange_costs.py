"""What the ranks that train one model must send one another, to the byte, by kind and by pair.

Computed from what routers decided and from sizes, by the formulas here alone. s is the rank that sends, r the one that
receives, s ≠ r; what stays on a rank costs nothing.

    R       ranks
    T_s     tokens of rank s
    A_sr    assignments of tokens of s to the slots of r; a slot is an expert's place on a rank
    C_sr    distinct tokens of s with an assignment to r
    W_r     slots of r, with experts that every rank has (zero-computation experts)
    d, b    width of a token; bytes of a number
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from ..typing import Array, Int

_INTEGER = 8  # bytes of a count or a length
_KNOWN = 4  # numbers of a batch: tokens, sequence length, how many lengths, whether there are ids

Matrix = Int[Array, "R R"]
Entry = Mapping[str, Any]


def predicted(tally: Iterable[Entry], num_ranks: int) -> dict[str, Matrix]:
    """The bytes that each rank must send to each other, by kind; kinds of which nothing is sent are left out.

    Args:
        tally: of a run, see :class:`moe_numpy.training.run_ledger.RunLedger`.
        num_ranks: R.

    Raises:
        ValueError: an entry is of something unknown.
    """
    total: dict[str, Matrix] = {}
    for entry in tally:
        if entry["what"] not in _BYTES_OF:
            raise ValueError(f"an entry must be of {', '.join(_BYTES_OF)}, got {entry['what']!r}")
        for kind, sent in _BYTES_OF[entry["what"]](entry, num_ranks).items():
            between = sent * (1 - np.eye(num_ranks, dtype=np.int64))
            if between.any():
                total[kind] = total.get(kind, 0) + between
    return total


def layer_bytes(entry: Entry, num_ranks: int) -> dict[str, Matrix]:
    """Passes of a layer whose experts are on all ranks.

    Forward, in P passes:

        counts    P W_r · 8      how many rows come for each slot
        rows      A_sr d b
        answers   A_rs d b

    Backward, if it gets there:

        gradients of answers     A_sr d b
        gradients of rows        A_rs d b

    A row that travels once for all its assignments to a rank, ``deduplicate``, has C_sr for A_sr in rows and in
    gradients of answers, with ``"sums"`` in answers and gradients of rows as well, and

        counts    P · 8                 rows that come
        masks     C_sr ⌈W_r / 8⌉        a bit for each slot
        gates     A_sr b_g              gate weights of b_g bytes: in the backward pass, with "sums" in the forward pass
        gradients of gates   A_rs b_g   with "sums"
    """
    widths = [len(held) + entry["home"] for held in entry["placement"]]
    passes, row = int(entry["amounts"]["passes"][0]), entry["d_model"] * entry["bytes"]
    assignments = by_rank(entry["amounts"]["assignments"], widths)
    sums = entry["deduplicate"] == "sums"
    once = "copies" in entry["amounts"]  # where gate weights are on the input, rows of a token differ
    copies = np.array(entry["amounts"]["copies"], np.int64) if once else assignments
    merged = copies if sums else assignments
    sent = {
        "counts": passes * _INTEGER * told([1] * num_ranks if once else widths),
        "rows": copies * row,
        "answers": merged.T * row,
    }
    if once:
        sent["masks"] = copies * -(-np.array(widths) // 8)
    if "answers" in entry["gradients"]:
        sent["gradients of answers"] = copies * row
    if "rows" in entry["gradients"]:
        sent["gradients of rows"] = merged.T * row
    if once and (sums or "answers" in entry["gradients"]):
        sent["gates"] = assignments * entry["gate_bytes"]
    if once and sums and "gates" in entry["gradients"]:
        sent["gradients of gates"] = assignments.T * entry["gate_bytes"]
    return sent


def router_bytes(entry: Entry, num_ranks: int) -> dict[str, Matrix]:
    """Passes of a router that decides for the tokens of all ranks. In P passes, with E experts and M_s lengths told:

    sizes               P · 4 · 8 + M_s · 8     tokens, sequence length, and so on; lengths where sequences differ
    token ids           T_s b_i                 ids of b_i bytes
    logits              T_s E b                 noisy logits and the noise's deviation likewise, where there are any
    gradients of them   T_r E b                 to the rank whose tokens they are of, if they have any
    """
    amounts = entry["amounts"]
    passes, lengths, tokens = (np.array(amounts[name], np.int64) for name in ("passes", "lengths", "tokens"))
    row = entry["num_experts"] * entry["bytes"]
    sent = {
        "sizes": told_by((passes * _KNOWN + lengths) * _INTEGER),
        "token ids": told_by(tokens * entry["id_bytes"]),
    }
    sent |= {kind: told_by(tokens * row) for kind in entry["gathered"]}
    return sent | {f"gradients of {kind}": told(tokens * row) for kind in entry["gradients"]}


def sum_bytes(entry: Entry, num_ranks: int) -> dict[str, Matrix]:
    """Sums over the ranks of n numbers, of which rank r adds its share n_r, and tells it to all others: (n_r + n_s) b.

    All together each rank sends (R - 1)/R · 2 n numbers, within rounding. Dense gradients once a step; statistics.
    """
    share = shares(entry["numbers"], num_ranks) * entry["bytes"]
    return {entry["kind"]: int(entry["amounts"]["times"][0]) * (told(share) + told_by(share))}


def replica_bytes(entry: Entry, num_ranks: int) -> dict[str, Matrix]:
    """Gradients of n numbers for each expert, to the ranks that hold it too: |experts of s ∩ those of r| n b a step."""
    held = [set(experts) for experts in entry["placement"]]
    common = np.array([[len(ours & theirs) for theirs in held] for ours in held], np.int64)
    return {"expert gradients": int(entry["amounts"]["times"][0]) * common * entry["numbers"] * entry["bytes"]}


def told_bytes(entry: Entry, num_ranks: int) -> dict[str, Matrix]:
    """Numbers that ranks tell one another, such as whether a signal came, and texts: 8 bytes each, and the text's."""
    numbers, text = (np.array(entry["amounts"][name], np.int64) for name in ("numbers", "text"))
    return {entry["kind"]: told_by(numbers * _INTEGER + text)}


def move_bytes(entry: Entry, num_ranks: int) -> dict[str, Matrix]:
    """Arrays with n numbers for each expert that changes ranks, weights and moments: M_sr n b for M_sr experts."""
    experts = np.array(entry["amounts"]["experts"], np.int64)
    return {"moves": experts * entry["numbers"] * entry["bytes"]}


_BYTES_OF: Mapping[str, Callable[[Entry, int], dict[str, Matrix]]] = {
    "layer": layer_bytes,
    "router": router_bytes,
    "sum": sum_bytes,
    "replicas": replica_bytes,
    "told": told_bytes,
    "moves": move_bytes,
}


def by_rank(of_slots: Sequence[Sequence[int]], widths: Sequence[int]) -> Matrix:
    """A_sr = Σ over the slots of r of the assignments of s; ``widths`` says how many slots each rank has."""
    of = np.array(of_slots, np.int64)
    ends = accumulate(widths, initial=0)
    return np.stack([of[:, start:end].sum(axis=1) for start, end in pairwise(ends)], axis=1)


def shares(n: int, num_ranks: int) -> Int[Array, " R"]:
    """n_r = ⌊n / R⌋, and one more for each r < n mod R."""
    return n // num_ranks + (np.arange(num_ranks) < n % num_ranks)


def told_by(sent: Sequence[int] | Int[Array, " R"]) -> Matrix:
    """Each rank s sends n_s to each other."""
    return np.repeat(np.asarray(sent, np.int64)[:, None], len(sent), axis=1)


def told(received: Sequence[int] | Int[Array, " R"]) -> Matrix:
    """Each rank r gets n_r from each other."""
    return told_by(received).T
