import json

import numpy as np
import pytest

from moe_numpy.autodiff import Tensor
from moe_numpy.instruments.capacity_table import capacity_table, dropped_tokens
from moe_numpy.moe import Batch, Router, RouterConfig
from moe_numpy.moe.capacity import DROP, Capacity
from moe_numpy.moe.selection import TopK


def test_the_public_formulas_on_the_same_numbers():
    table = capacity_table(100, 8, 2, 1.25)
    assert {row.rounding: row.capacity for row in table.rows} == {
        "ceil": 32,
        "floor": 31,
        "floor_without_k": 15,
        "round_without_k": 16,
        "multiple_of_4": 32,
    }
    rows = {row.rounding: row for row in table.rows}
    assert (rows["floor_without_k"].places, rows["floor_without_k"].spare) == (120, -80)
    assert str(table).splitlines()[0] == "T=100 E=8 k=2 factor=1.25   C  E C  spare"
    assert str(table).splitlines()[1] == "ceil                       32  256    +56"
    json.dumps(table.as_json())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8, 2, 1.0), "num_tokens must be positive, got 0"),
        ((9, 0, 2, 1.0), "num_experts must be positive, got 0"),
        ((9, 8, 9, 1.0), r"top_k must be in \(0, num_experts=8\], got 9"),
        ((9, 8, 2, -1.0), "factor must be positive, got -1.0"),
    ],
)
def test_bad_numbers_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        capacity_table(*arguments)


def route(scores, k, *, sequence_length=None, training=False, **settings):
    """A routing in which the logits are these numbers, and the scores too."""
    scores = np.asarray(scores, float)
    num_experts = scores.shape[1]
    config = RouterConfig(TopK(k), scores=None, gates=(), **settings)
    router = Router(config, num_experts, num_experts, rng=np.random.default_rng(0), dtype=np.float64)
    router.weight.data = np.eye(num_experts)
    batch = Batch(sequence_length or len(scores), training, np.random.default_rng(1))
    return router(Tensor(scores), batch)


THREE_WANT_EXPERT_0 = [[3.0, 1], [5, 1], [4, 1], [1, 2]]


def only(report):
    (one,) = report.dropped
    return one


def test_by_position_the_last_token_is_dropped():
    report = dropped_tokens(route(THREE_WANT_EXPERT_0, 1), Capacity(1.0))
    assert (report.capacity, report.asked) == (2, 4)
    one = only(report)
    assert (one.token, one.expert, one.rank, one.served) == (2, 0, 0, (0, 1))
    assert one.why == "tokens 0, 1 came before it"
    assert str(report) == (
        "C=2: 1 of 4 assignments dropped\ntoken 2, choice 1: expert 0 is full; tokens 0, 1 came before it"
    )
    json.dumps(report.as_json())


def test_by_probability_the_lowest_score_is_dropped():
    one = only(dropped_tokens(route(THREE_WANT_EXPERT_0, 1), Capacity(1.0, drop="probability")))
    assert (one.token, one.served) == (0, (1, 2))
    assert one.why == "its score is 3, the lowest served has 4"


def test_first_choices_go_first():
    report = dropped_tokens(route([[2.0, 1], [2, 1], [1, 2], [1, 2]], 2), Capacity(0.5))
    assert {(d.token, d.expert, d.rank) for d in report.dropped} == {(0, 1, 1), (1, 1, 1), (2, 0, 1), (3, 0, 1)}
    assert {d.why for d in report.dropped} == {"2 of 2 places went to earlier choices"}


def test_both_reasons_are_given():
    report = dropped_tokens(route([[2.0, 1], [2, 1], [1, 2]], 2), Capacity(2 / 3))
    one = only(report) if len(report.dropped) == 1 else report.dropped[-1]
    assert (one.token, one.expert) == (2, 0)
    assert one.why == "2 of 2 places went to earlier choices"
    last = dropped_tokens(route([[2.0, 1], [2, 1], [2, 1], [1, 2]], 2), Capacity(0.75)).dropped
    assert [d.why for d in last] == [
        "1 of 3 places went to earlier choices; tokens 0, 1 came before it",
        "3 of 3 places went to earlier choices",
    ]


def test_confident_tokens_go_first():
    report = dropped_tokens(route(THREE_WANT_EXPERT_0, 1), Capacity(1.0, drop="batch_priority"))
    assert only(report).why == "its best score is 3, the lowest served has 4"


def test_random_order_is_random_only_in_training():
    capacity = Capacity(1.0, drop="random")
    training = dropped_tokens(route(THREE_WANT_EXPERT_0, 1, training=True), capacity)
    assert only(training).why == "the order was drawn at random"
    assert only(dropped_tokens(route(THREE_WANT_EXPERT_0, 1), capacity)).why == "tokens 0, 1 came before it"


def test_without_places_no_token_is_served():
    report = dropped_tokens(route(THREE_WANT_EXPERT_0, 1), Capacity(0.1, "floor"))
    assert report.capacity == 0
    assert {d.why for d in report.dropped} == {"it has no places at all"}


def test_rivals_are_those_of_the_same_sequence():
    scores = [[2.0, 1], [2, 1], [2, 1], [2, 1]]
    report = dropped_tokens(route(scores, 1, sequence_length=2), Capacity(1.0, scope="sequence"))
    assert [(d.token, d.served, d.why) for d in report.dropped] == [
        (1, (0,), "token 0 came before it"),
        (3, (2,), "token 2 came before it"),
    ]


@pytest.mark.parametrize("drop", [drop for drop in DROP if drop != "random"])
def test_it_says_what_the_router_did(drop):
    capacity = Capacity(0.7, drop=drop)
    scores = np.random.default_rng(0).random((20, 4))
    routing = route(scores, 2, capacity=capacity)
    lost = routing.statistics.dropped
    report = dropped_tokens(routing, capacity)
    assert len(lost) > 0
    assert {(d.token, d.expert) for d in report.dropped} == set(zip(lost.token, lost.expert, strict=True))
    for d in report.dropped:
        assert set(d.served) == set(routing.token[routing.expert == d.expert])
