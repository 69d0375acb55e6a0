import numpy as np
import pytest

from moe_numpy.autodiff import decisions
from moe_numpy.moe.selection import TopK


def test_candidates_are_listed_token_by_token_best_first_with_ties_to_the_lowest_index():
    candidates = TopK(2)(np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.5]]))
    assert candidates.token.tolist() == [0, 0, 1, 1]
    assert candidates.expert.tolist() == [1, 2, 0, 1]
    assert candidates.choice.tolist() == [0, 1, 0, 1]


def test_the_recorded_decision_names_the_closest_ranks():
    with decisions.recording() as recorded:
        TopK(2)(np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.3 - 3e-7]]))
    (decision,) = recorded
    assert decision.what == "top-k set"
    assert decision.explain(0) == "token 0: experts ranked 2 and 3 differ by 1e-01"
    assert decision.explain(1) == "token 1: experts ranked 2 and 3 differ by 3e-07"


def test_choosing_every_expert_leaves_only_the_order_to_decide():
    with decisions.recording() as recorded:
        TopK(2)(np.array([[0.7, 0.3]]))
    assert recorded[0].explain(0) == "token 0: experts ranked 1 and 2 differ by 4e-01"


@pytest.mark.parametrize("k", [0, -1, 9])
def test_k_must_fit_the_number_of_experts(k):
    with pytest.raises(ValueError, match=f"top_k must be between 1 and num_experts=8, got {k}"):
        TopK(k).validate(8)
