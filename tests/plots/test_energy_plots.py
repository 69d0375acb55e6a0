import io

import numpy as np

from moe_numpy.plots.energy import joules_over_batch


def test_both_models_of_a_pair_and_their_ratio():
    rows = [{"batch": b, "dense": {"joules": 8 / b}, "sparse": {"joules": 2.0}, "advantage": 4 / b} for b in (1, 2, 8)]
    figure = joules_over_batch([{"dense": "a $", "sparse": "b", "rows": rows}] * 2)
    energy, ratio = figure.axes
    dense, sparse = energy.get_lines()[:2]
    np.testing.assert_allclose(dense.get_ydata(), [8, 4, 1])
    np.testing.assert_allclose(sparse.get_ydata(), [2, 2, 2])
    assert dense.get_linestyle() != sparse.get_linestyle()
    np.testing.assert_allclose(ratio.get_lines()[0].get_ydata(), [4, 2, 0.5])
    assert ratio.get_lines()[0].get_marker() != ratio.get_lines()[1].get_marker()
    figure.savefig(io.BytesIO(), format="png")
