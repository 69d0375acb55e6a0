import numpy as np

from moe_numpy.autodiff import Tensor
from moe_numpy.moe.experts import SwiGLUExperts
from moe_numpy.nn import FeedForward


def test_it_is_an_expert_that_takes_every_token():
    dense = FeedForward(4, 6, rng=np.random.default_rng(0), dtype=np.float64)
    expert = SwiGLUExperts(1, 4, 6, rng=np.random.default_rng(1), dtype=np.float64)
    expert.gate_up.data[0] = np.concatenate([dense.gate.weight.data, dense.up.weight.data])
    expert.down.data[0] = dense.down.weight.data
    x = Tensor(np.random.default_rng(2).standard_normal((2, 3, 4)))
    np.testing.assert_allclose(dense(x).data.reshape(6, 4), expert(x.reshape(6, 4), np.array([0, 6])).data, rtol=1e-12)
