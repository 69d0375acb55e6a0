import numpy as np
import pytest

from moe_numpy.autodiff import Tensor, decisions
from moe_numpy.moe.capacity import Capacity, KeepAssignments
from moe_numpy.moe.selection import Candidates, TopK


@pytest.mark.parametrize(
    ("num_tokens", "num_experts", "top_k", "factor", "expected"),
    [
        (100, 8, 2, 1.25, 32),
        (100, 8, 1, 1.25, 16),
        (8, 8, 1, 1.0, 1),
        (10, 1, 1, 1.1, 11),  # 1.1 · 10 is a little more than 11 in binary
        (3, 8, 1, 1.0, 1),
        (0, 8, 1, 1.0, 0),
    ],
)
def test_capacity_is_the_ceiling_of_the_fair_share_times_the_factor(
    num_tokens, num_experts, top_k, factor, expected
):
    assert Capacity(factor).size(num_tokens, num_experts, top_k) == expected


def test_all_first_choices_come_before_any_second_choice():
    # Token 0 wants experts 0 then 1; token 1 wants 1 then 0; token 2 wants 1 then 0.
    candidates = Candidates(
        token=np.array([0, 0, 1, 1, 2, 2]),
        expert=np.array([0, 1, 1, 0, 1, 0]),
        choice=np.array([0, 1, 0, 1, 0, 1]),
    )
    # Expert 1 is full with the first choices of tokens 1 and 2; expert 0 takes token 0, then token 1's second.
    assert Capacity().fits(candidates, 2, 2).tolist() == [True, False, True, True, True, False]


def test_no_place_at_all_drops_everything():
    candidates = TopK(1)(np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert Capacity().fits(candidates, 0, 2).tolist() == [False, False]


def test_an_empty_batch_drops_nothing():
    assert Capacity().fits(TopK(1)(np.zeros((0, 2))), 0, 2).tolist() == []


def test_the_drop_set_is_recorded_as_a_decision():
    with decisions.recording() as recorded:
        Capacity().fits(TopK(1)(np.array([[1.0, 0.0], [1.0, 0.0]])), 1, 2)
    assert recorded[-1].what == "dropped tokens"
    assert recorded[-1].chosen.tolist() == [True, False]
    assert recorded[-1].explain(1) == "assignment 1 found or lost its place"


def test_a_dropped_weight_gets_a_zero_gradient():
    w = Tensor(np.array([0.1, 0.2, 0.3]), requires_grad=True)
    kept = KeepAssignments.apply(w, np.array([2, 0]))
    assert kept.data.tolist() == [0.3, 0.1]
    kept.backward(np.array([5.0, 7.0]))
    assert w.grad.tolist() == [7, 0, 5]


@pytest.mark.parametrize("factor", [0, -1.0, float("nan")])
def test_the_factor_must_be_positive(factor):
    with pytest.raises(ValueError, match=f"capacity factor must be positive, got {factor}"):
        Capacity(factor)
