import io

import numpy as np
import pytest

from moe_numpy.parallel import Placement
from moe_numpy.plots.ranks import domains_under_balance, loads_of_ranks, rows_to_ranks, traffic


def drawn(figure):
    figure.savefig(io.BytesIO(), format="png")
    return figure


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_rows_lie_by_expert_then_by_rank_and_token():
    expert, home = np.array([2, 0, 3, 1, 0]), np.array([0, 0, 0, 1, 1])
    (axes,) = drawn(rows_to_ranks(list("abcde"), expert, home, Placement.even(4, 2))).axes
    rows = {text.get_text(): text.get_position()[0] for text in axes.texts if len(text.get_text()) == 1}
    assert sorted(rows, key=rows.get) == ["b", "e", "d", "a", "c"]
    assert [line.get_linestyle() for line in axes.get_lines()].count(":") == 1  # b stays
    assert {"rank 0: its tokens", "rank 1: experts 2, 3", "a → 2"} <= set(texts(axes))


def test_a_rank_to_which_nothing_comes():
    (axes,) = drawn(rows_to_ranks(["a"], np.array([0]), np.array([0]), Placement.even(4, 2))).axes
    assert "rank 1: experts 2, 3" not in texts(axes)


def test_traffic_has_one_scale_and_leaves_out_what_stays():
    mixed, apart = np.array([[90, 2], [3, 90]]), np.array([[1, 5], [0, 1]])
    first, second, _ = drawn(traffic({"mixed": mixed, "apart": apart}, unit="rows")).axes
    assert first.images[0].get_clim() == second.images[0].get_clim() == (0, 5)
    assert texts(first) == ["90", "2", "3", "90"]
    assert np.isnan(first.images[0].get_array().filled(np.nan)).sum() == 2


def test_loads_are_stacks_of_experts_that_replicas_share():
    load = np.array([4.0, 1, 1])
    copies = Placement(((0, 1), (0, 2)), 3)
    even, shared = drawn(loads_of_ranks(load, {"even": Placement.even(3, 2), "copies": copies})).axes
    assert [bar.get_height() for bar in even.patches] == [4, 1, 1]
    assert [bar.get_height() for bar in shared.patches] == [2, 1, 2, 1]
    assert even.get_title() == "even:\nthe largest is 1.67 × the mean"
    assert shared.get_title() == "copies:\nthe largest is 1.00 × the mean"
    assert even.get_ylim() == shared.get_ylim()
    assert even.get_lines()[0].get_ydata()[0] == pytest.approx(3)


def test_domains_under_balance_have_one_scale():
    global_, local = np.array([[1.0, 0], [0.25, 0.75]]), np.full((2, 2), 0.5)
    first, second, _ = drawn(domains_under_balance({"global": global_, "local": local}, ["prose", "code"])).axes
    assert texts(first) == ["100", "0", "25", "75"]
    assert first.images[0].get_clim() == second.images[0].get_clim() == (0, 100)
    assert [label.get_text() for label in second.get_yticklabels()] == ["prose", "code"]
