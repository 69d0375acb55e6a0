"""A sum has the same bits wherever the arrays lie in memory."""

import numpy as np
import pytest

loops = pytest.importorskip("moe_numpy.kernels.loops")


@pytest.mark.parametrize("width", [5, 16, 23, 31, 40])
def test_the_gradient_of_a_gate_weight_does_not_depend_on_addresses(width):
    rng = np.random.default_rng(width)
    rows, token = 6, np.arange(6)
    values = rng.standard_normal((2, rows, width)).astype(np.float32)
    gate, found = np.ones(rows, np.float32), set()
    for gap in range(0, 80, 4):  # entries between what is read and what is written
        memory = np.zeros(2 * values.size + 200, np.float32)
        grad, r = values[0], memory[: rows * width].reshape(rows, width)
        r[...] = values[1]
        start = rows * width + gap
        d_r = memory[start : start + rows * width].reshape(rows, width)
        d_gate = np.zeros(rows, np.float32)
        for n in range(rows):  # as in a block of one row, so that reads and writes come close
            loops.combine_gradient(grad, r, gate, token, d_r, d_gate, np.float32(0), n, n + 1)
        found.add(d_gate.tobytes())
    assert len(found) == 1
