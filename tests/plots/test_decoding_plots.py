import io

import numpy as np

from moe_numpy.plots.decoding import CacheStep, cache_steps, experts_of_batches, experts_over_batch, rounded_group


def drawn(figure):
    figure.savefig(io.BytesIO(), format="png")
    return figure


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_a_square_for_each_expert_with_the_tokens_that_chose_it():
    one, three = drawn(experts_of_batches([np.array([[0, 9]]), np.array([[0, 1], [0, 2], [9, 0]])], 10)).axes
    assert one.get_title() == "1 token: 2 of 10"
    assert three.get_title() == "3 tokens: 4 of 10"
    assert texts(three) == ["3", "1", "1", "1"]
    assert len(three.patches) == 10
    read = [patch.get_facecolor()[:3] == one.patches[0].get_facecolor()[:3] for patch in one.patches]
    assert np.flatnonzero(read).tolist() == [0, 9]


def test_experts_and_bytes_against_the_batch():
    batch = np.array([1, 2, 4])
    left, right = drawn(
        experts_over_batch(batch, {"formula": np.array([2.0, 3.5, 5])}, {"dense": 1 / batch}, num_experts=8)
    ).axes
    assert left.get_lines()[0].get_ydata().tolist() == [2, 3.5, 5]
    assert left.get_ylim()[1] > 8
    assert [label.get_text() for label in right.get_yticklabels()] == ["1", "1/2", "1/4"]


def test_a_group_and_its_levels():
    weights, levels = np.array([-1.0, 0.3, 0.8]), np.array([-1.0, 0.0, 1.0])
    figure = drawn(rounded_group(weights, levels, np.array([-1.0, 0, 1]), {"int8": 8.5}, {"int8": 0.005}))
    left, right = figure.axes
    assert [line.get_ydata()[0] for line in left.get_lines()[:3]] == levels.tolist()
    assert right.get_lines()[0].get_xydata().tolist() == [[8.5, 0.5]]
    assert texts(right) == ["int8"]


def test_a_cache_step_by_step():
    steps = [CacheStep("A", False, ("A",)), CacheStep("B", False, ("A", "B")), CacheStep("A", True, ("A", "B"))]
    (axes,) = drawn(cache_steps({"LRU": steps})).axes
    assert axes.get_title(loc="left") == "LRU: 1 of 3 found"
    assert [t for t in texts(axes) if t in ("hit", "miss")] == ["miss", "miss", "hit"]
    assert len(axes.patches) == 5
