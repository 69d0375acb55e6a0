"""Compiled loops do not check where they write. An index out of bounds must be an error before they run."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from moe_numpy import kernels
from moe_numpy.autodiff import Tensor
from moe_numpy.kernels import registry, take_rows, top_k
from moe_numpy.moe import MoE, RouterConfig
from moe_numpy.moe.selection import TopK

pytestmark = pytest.mark.usefixtures("implementation")
ROWS, NUM = np.ones((4, 3), np.float32), 5


@pytest.fixture(params=["numpy", "numba"])
def implementation(request):
    if request.param == "numba":
        pytest.importorskip("numba")
    with kernels.use(request.param):
        yield


# The definition would sort any key, and leaves out rows that no expert has.
compiled_only = pytest.mark.parametrize("implementation", ["numba"], indirect=True)


k = SimpleNamespace(**registry)


@pytest.mark.parametrize("index", [(0, 1, 2, 5), (0, 1, 2, 10**9)])
@pytest.mark.parametrize(
    "call",
    [
        lambda k, i: k.take_rows(ROWS, i),
        lambda k, i: k.take_rows(ROWS[:, :, None], i),
        lambda k, i: k.combine_gradient(ROWS, ROWS, ROWS[:, 0], i),
        lambda k, i: k.add_along_rows(ROWS, i[:, None] + np.zeros(3, int), 5),
        lambda k, i: k.cross_entropy(ROWS, i),
        lambda k, i: k.cross_entropy_gradient(ROWS[:, 0], ROWS, i),
    ],
)
def test_rows_that_do_not_exist(call, index):
    with pytest.raises(IndexError, match="is out of bounds"):
        call(k, np.array(index))


@compiled_only
@pytest.mark.parametrize("key", [5, 10**6, -1])
@pytest.mark.parametrize("name", ["sort_by_key", "stable_order", "position_by_key"])
def test_keys_that_do_not_exist(name, key):
    keys = np.array([0, 1, key])
    with pytest.raises(IndexError, match=rf"index {key} is out of bounds: expected 0 to 4"):
        getattr(k, name)(keys, NUM)


@compiled_only
@pytest.mark.parametrize("key", [5, 10**6, -1])
@pytest.mark.parametrize("name", ["sum_by_key", "max_by_key", "add_rows", "combine"])
def test_sums_for_keys_that_do_not_exist(name, key):
    keys = np.array([0, 1, 2, key])
    arguments = {"add_rows": (ROWS, keys), "combine": (ROWS, ROWS[:, 0], keys)}
    with pytest.raises(IndexError, match="is out of bounds"):
        getattr(k, name)(*arguments.get(name, (ROWS[:, 0], keys)), NUM)


@compiled_only
@pytest.mark.parametrize("offsets", [(0, 2, 5), (1, 2, 4), (0, 7, 4)])
@pytest.mark.parametrize(
    "call",
    [
        lambda k, o: k.grouped_product(ROWS, np.ones((2, 2, 3), np.float32), o),
        lambda k, o: k.grouped_product_input_gradient(ROWS, np.ones((2, 3, 2), np.float32), o),
        lambda k, o: k.grouped_product_weight_gradient(ROWS, ROWS, o),
        lambda k, o: k.sum_of_expert_rows(ROWS, o),
        lambda k, o: k.add_expert_bias(ROWS.copy(), ROWS[:2], o),
    ],
)
def test_offsets_that_are_not_those_of_the_rows(call, offsets):
    with pytest.raises(IndexError, match=r"offsets must go from 0 up to at most 4, the number of rows, got \["):
        call(k, np.array(offsets))


def test_top_k_returns_at_most_all_experts():
    scores = np.array([[1.0, 3.0, 2.0]], np.float32)
    assert top_k(scores, 7).tolist() == [[1, 2, 0]]


def test_rows_of_more_than_one_axis():
    x = np.arange(24.0).reshape(4, 3, 2)
    np.testing.assert_array_equal(take_rows(x, np.array([3, 0])), x[[3, 0]])


def test_rows_in_reverse():
    h = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    np.testing.assert_allclose(k.swiglu(h[::-1, :3], h[::-1, 3:]), k.swiglu(h[:, :3], h[:, 3:])[::-1])


def test_what_is_behind_the_mask_changes_nothing():
    q, key, v = np.random.default_rng(0).standard_normal((3, 1, 1, 4, 2))
    o = k.causal_attention(q, key, v, 4, 1.0)[0]
    key[..., -1, :] = np.nan
    np.testing.assert_array_equal(k.causal_attention(q, key, v, 4, 1.0)[0][..., :3, :], o[..., :3, :])


class OffByOne(TopK):
    """An off-by-one error."""

    def __call__(self, scores, batch):
        """Every token goes one expert too far."""
        candidates = super().__call__(scores, batch)
        return replace(candidates, expert=candidates.expert + 1)


def test_a_selection_of_ones_own_with_a_mistake_is_an_index_error():
    layer = MoE(8, 4, 4, RouterConfig(OffByOne(2)), rng=np.random.default_rng(0))
    with pytest.raises(IndexError, match="out of bounds"):
        layer(Tensor(np.random.default_rng(1).standard_normal((50, 8)).astype(np.float32)))
