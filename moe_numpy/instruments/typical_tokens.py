"""What is typical of an expert: the labels that choose it more often than its load explains."""

from dataclasses import dataclass

import numpy as np

from ..typing import Array, Int

MIN_COUNT = 20


@dataclass(frozen=True)
class Typical:
    """A label, such as a token, that chooses an expert more often than the expert's load explains.

    Attributes:
        label: its number.
        lift: p(expert | label) / p(expert); 1 if the label makes no difference.
        count: how often it chose this expert.
    """

    label: int
    lift: float
    count: int


def typical_labels(
    label: Int[Array, " A"],
    expert: Int[Array, " A"],
    num_experts: int,
    *,
    limit: int = 6,
    min_count: int = MIN_COUNT,
) -> list[list[Typical]]:
    """For each expert the labels of largest lift above 1, if they chose it ``min_count`` times.

    Only pairs that occur are counted: memory grows with the text, not with the vocabulary.

    Args:
        label: of the token of each of A choices.
        expert: the expert chosen.
        num_experts: E.
        limit: the most labels per expert.
        min_count: the least choices of an expert by a label.
    """
    labels, code, asked = np.unique(label, return_inverse=True, return_counts=True)
    pair, count = np.unique(code.astype(np.int64) * num_experts + expert, return_counts=True)
    of_label, of_expert = pair // num_experts, pair % num_experts
    load = np.bincount(expert, minlength=num_experts) / max(len(expert), 1)
    lift = count / asked[of_label] / load[of_expert]
    found: list[list[Typical]] = [[] for _ in range(num_experts)]
    for i in np.lexsort((of_label, -lift)):
        of = found[of_expert[i]]
        if count[i] >= min_count and lift[i] > 1 and len(of) < limit:
            of.append(Typical(int(labels[of_label[i]]), float(lift[i]), int(count[i])))
    return found
